//! Memory: thin calls into `memory::space`, which holds the rules.

use std::ffi::CString;

use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::{guest_fd, steady};
use crate::fs::{At, Files, OpenRequest, guest_descriptor};
use crate::loader::elf;
use crate::memory::FileAt;
use crate::memory::access;
use crate::memory::moving::Remap;
use crate::sys;
use crate::sys::calls::{Arg, output, value};
use crate::task::Task;
use crate::vm::layout::{LARGE_PAGE, LOW_END, PAGE, WINDOW, page_up};

const AREA: &str = "memory";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_mmap, AREA, Level::Emulated, mmap, ""),
    entry(libc::SYS_munmap, AREA, Level::Emulated, munmap, ""),
    entry(libc::SYS_mprotect, AREA, Level::Emulated, mprotect, ""),
    entry(libc::SYS_mremap, AREA, Level::Emulated, mremap, ""),
    entry(libc::SYS_madvise, AREA, Level::Emulated, madvise, ""),
    entry(libc::SYS_brk, AREA, Level::Emulated, brk, ""),
    entry(libc::SYS_msync, AREA, Level::Forwarded, msync, ""),
    entry(libc::SYS_mincore, AREA, Level::Forwarded, mincore, ""),
    entry(
        libc::SYS_mlock,
        AREA,
        Level::Emulated,
        mlock,
        "accepted without effect",
    ),
    entry(
        libc::SYS_mlock2,
        AREA,
        Level::Emulated,
        mlock2,
        "accepted without effect",
    ),
    entry(
        libc::SYS_munlock,
        AREA,
        Level::Emulated,
        mlock,
        "accepted without effect",
    ),
    entry(
        libc::SYS_mlockall,
        AREA,
        Level::Emulated,
        mlockall,
        "accepted without effect",
    ),
    entry(
        libc::SYS_munlockall,
        AREA,
        Level::Emulated,
        accept,
        "accepted without effect",
    ),
    entry(
        libc::SYS_pkey_alloc,
        AREA,
        Level::Refused,
        refuse_key,
        "EINVAL: no protection keys",
    ),
    entry(
        libc::SYS_pkey_free,
        AREA,
        Level::Refused,
        refuse_key,
        "EINVAL: no protection keys",
    ),
    entry(
        libc::SYS_pkey_mprotect,
        AREA,
        Level::Emulated,
        pkey_mprotect,
        "key -1 only",
    ),
    entry(
        libc::SYS_mbind,
        AREA,
        Level::Refused,
        refuse_numa,
        "ENOSYS: one node",
    ),
    entry(
        libc::SYS_get_mempolicy,
        AREA,
        Level::Refused,
        refuse_numa,
        "ENOSYS: one node",
    ),
    entry(
        libc::SYS_set_mempolicy,
        AREA,
        Level::Refused,
        refuse_numa,
        "ENOSYS: one node",
    ),
];

/// The low 32 bits as an int, as the kernel takes one.
#[allow(clippy::cast_possible_truncation)]
pub const fn int(value: u64) -> i32 {
    value as i32
}

/// Implements mmap(2).
fn mmap(task: &mut Task, [address, length, protection, flags, fd, offset]: Args) -> SysResult {
    let flags = int(flags);
    let fd = if flags & libc::MAP_ANONYMOUS != 0 {
        -1
    } else {
        guest_fd(int(fd))?
    };
    let process = &task.process;
    let file = if fd < 0 {
        None
    } else {
        let file = super::paths::files(task).mapped_file(guest_descriptor(fd))?;
        // The place is the monitor's to choose, and the whole of a library comes first.
        let free = address == 0 && offset == 0 && flags & libc::MAP_TYPE == libc::MAP_PRIVATE;
        let regular = |fd: &i32| sys::stat(fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG);
        let large = Some(fd).filter(|fd| free && length >= LARGE_PAGE && regular(fd));
        Some(FileAt {
            fd,
            offset,
            large: large.and_then(|fd| elf::large_code_of(&fd)),
            file,
        })
    };
    if file.is_none() && !offset.is_multiple_of(PAGE) {
        return Err(Errno::INVAL);
    }
    let Some(storage) = process.storage.as_ref().filter(|_| fd >= 0) else {
        return process.lock_space().map(address, length, protection, flags, file);
    };
    let mut mappings = storage.mappings();
    let mut space = process.lock_space();
    let steady = steady();
    mappings.add(fd, &steady)?;
    space.map(address, length, protection, flags, file)
}

/// Implements munmap(2).
fn munmap(task: &mut Task, [address, length, ..]: Args) -> SysResult {
    task.process.lock_space().unmap(address, length)
}

/// Implements mprotect(2).
fn mprotect(task: &mut Task, [address, length, protection, ..]: Args) -> SysResult {
    task.process.lock_space().protect(address, length, protection)
}

/// Implements pkey_mprotect(2) without keys.
fn pkey_mprotect(task: &mut Task, [address, length, protection, key, ..]: Args) -> SysResult {
    if int(key) != -1 {
        return Err(Errno::INVAL);
    }
    mprotect(task, [address, length, protection, 0, 0, 0])
}

/// Implements mremap(2).
fn mremap(task: &mut Task, [old, old_length, new_length, flags, new, _]: Args) -> SysResult {
    task.process.lock_space().remap(&Remap {
        old,
        old_length,
        new_length,
        flags: int(flags),
        target: new,
    })
}

/// Implements madvise(2).
fn madvise(task: &mut Task, [address, length, advice, ..]: Args) -> SysResult {
    let process = &task.process;
    let mut opened = Vec::new();
    if int(advice) == libc::MADV_DONTNEED {
        let restored = process.lock_space().restored_files(address, length);
        for (object, file) in restored {
            // A synthetic file asks about mappings: it is opened without their lock.
            let files = Files::new(&process.files, &**process);
            let path = CString::new(file.name).map_err(|_| Errno::INVAL)?;
            let request = OpenRequest::lenient(libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC, 0)?;
            if let Ok(file) = files
                .open(At::cwd(&path), request)
                .and_then(|call| call.make_private())
            {
                opened.push((object, file));
            }
        }
    }
    process.lock_space().advise(address, length, int(advice), &opened)
}

/// Implements brk(2).
fn brk(task: &mut Task, [end, ..]: Args) -> SysResult {
    Ok(task.process.lock_space().brk(end))
}

/// The mapped range that a call names, checked.
fn mapped(task: &Task, address: u64, length: u64) -> Result<u64, Errno> {
    let length = page_up(length).ok_or(Errno::NOMEM)?;
    let end = address.checked_add(length).ok_or(Errno::NOMEM)?;
    if address < LOW_END || end > WINDOW {
        return Err(Errno::NOMEM);
    }
    let space = task.process.lock_space();
    let mut at = address;
    while at < end {
        let (_, mapping) = space.find(at).ok_or(Errno::NOMEM)?;
        at = mapping.end;
    }
    Ok(length)
}

/// Implements msync(2).
fn msync(task: &mut Task, [address, length, flags, ..]: Args) -> SysResult {
    let known = libc::MS_ASYNC | libc::MS_SYNC | libc::MS_INVALIDATE;
    let both = libc::MS_ASYNC | libc::MS_SYNC;
    if !address.is_multiple_of(PAGE) || int(flags) & !known != 0 || int(flags) & both == both {
        return Err(Errno::INVAL);
    }
    let length = mapped(task, address, length)?;
    let host = access::range(address, length)?;
    task.call(libc::SYS_msync, [Arg::Guest(host), value(length), value(flags)])
}

/// Memory that mincore asks the host about at a time, bytes.
const MINCORE_STEP: u64 = 16 << 20;

/// Implements mincore(2).
fn mincore(task: &mut Task, [address, length, vector, ..]: Args) -> SysResult {
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::INVAL);
    }
    let length = mapped(task, address, length)?;
    let (mut at, end) = (address, address + length);
    let mut resident = vec![0u8; usize::try_from(MINCORE_STEP / PAGE).map_err(|_| Errno::NOMEM)?];
    while at < end {
        let step = (end - at).min(MINCORE_STEP);
        let host = access::range(at, step)?;
        let args = [Arg::Guest(host), value(step), output(resident.as_mut_slice())];
        task.call(libc::SYS_mincore, args)?;
        let pages = usize::try_from(step / PAGE).map_err(|_| Errno::NOMEM)?;
        access::write_bytes(vector + (at - address) / PAGE, &resident[..pages])?;
        at += step;
    }
    Ok(0)
}

/// Implements mlock2(2).
fn mlock2(task: &mut Task, args @ [_, _, flags, ..]: Args) -> SysResult {
    if int(flags) & !libc::MLOCK_ONFAULT.cast_signed() != 0 {
        return Err(Errno::INVAL);
    }
    mlock(task, args)
}

/// Implements mlockall(2).
fn mlockall(_: &mut Task, [flags, ..]: Args) -> SysResult {
    let flags = int(flags);
    let known = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    if flags & known == 0 || flags & !known != 0 || flags == libc::MCL_ONFAULT {
        return Err(Errno::INVAL);
    }
    Ok(0)
}

/// Implements mlock(2), munlock(2): the range must be mapped.
fn mlock(task: &mut Task, [address, length, ..]: Args) -> SysResult {
    let start = address & !(PAGE - 1);
    mapped(
        task,
        start,
        length.checked_add(address - start).ok_or(Errno::INVAL)?,
    )?;
    Ok(0)
}

fn accept(_: &mut Task, _: Args) -> SysResult {
    Ok(0)
}

/// Implements pkey_alloc(2), pkey_free(2) as on a CPU without them.
fn refuse_key(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::INVAL)
}

/// Implements mbind(2), get_mempolicy(2), set_mempolicy(2) as a kernel without NUMA.
fn refuse_numa(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::NOSYS)
}
