//! The host's side of the window: the calls that map, protect and move guest memory in the monitor; and of the pages that are apart from it,
//! which follow what happens where their addresses are.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use super::apart;
use super::mapping::{Backing, Mapping};
use crate::errno::Errno;
use crate::vm::layout::{APART_HOST, HOST_BASE, LARGE_PAGE, NOTHING, PAGE, WINDOW};

fn host_pointer(address: u64) -> *mut libc::c_void {
    (HOST_BASE + address) as *mut libc::c_void
}

fn size(length: u64) -> Result<usize, Errno> {
    usize::try_from(length).map_err(|_| Errno::NOMEM)
}

/// Maps over guest addresses `start..start + length` in the monitor.
pub fn host_map(
    start: u64,
    length: u64,
    protection: i32,
    flags: i32,
    fd: i32,
    offset: u64,
) -> Result<(), Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))?;
    // SAFETY: the callers pass ranges inside the window, which the monitor has reserved for the guest alone.
    let at = unsafe {
        libc::mmap(
            host_pointer(start),
            size(length)?,
            protection,
            flags | libc::MAP_FIXED,
            fd,
            offset,
        )
    };
    if at == libc::MAP_FAILED {
        Err(Errno::last())
    } else {
        apart::forget(start, start + length);
        Ok(())
    }
}

/// Makes a range of the window inaccessible, its memory given back.
pub fn reserve(start: u64, length: u64, fixed: i32) -> Result<(), Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    // SAFETY: inside the window; the first call takes it with NOREPLACE, so it was free.
    let at = unsafe { libc::mmap(host_pointer(start), size(length)?, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        Err(Errno::last())
    } else {
        apart::forget(start, start + length);
        Ok(())
    }
}

/// Takes the window away, and what keeps the range behind it empty.
pub fn clear_window() -> Result<(), Errno> {
    // SAFETY: what `Space::detached` has reserved; nothing runs there.
    if unsafe { libc::munmap(host_pointer(0), size(WINDOW + NOTHING)?) } < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

pub fn host_protect(start: u64, length: u64, protection: i32) -> Result<(), Errno> {
    protect_home(start, length, protection)?;
    apart::protect(start, start + length, protection)
}

fn protect_home(start: u64, length: u64, protection: i32) -> Result<(), Errno> {
    // SAFETY: inside the window, see `host_map`.
    if unsafe { libc::mprotect(host_pointer(start), size(length)?, protection) } < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

pub fn host_advise(start: u64, length: u64, advice: i32) -> Result<(), Errno> {
    // SAFETY: inside the window, see `host_map`.
    if unsafe { libc::madvise(host_pointer(start), size(length)?, advice) } < 0 {
        return Err(Errno::last());
    }
    if advice == libc::MADV_DONTNEED {
        apart::forget(start, start + length);
    }
    Ok(())
}

/// Moves host pages; copies where the old range is several host mappings, which older kernels do not move.
pub fn relocate(
    old: u64,
    old_length: u64,
    new: u64,
    new_length: u64,
    mapping: &Mapping,
) -> Result<(), Errno> {
    apart::go_home(old, old + old_length, mapping.protection.host())?;
    // SAFETY: both ranges lie in the window; the new one is reserved and free.
    let at = unsafe {
        libc::mremap(
            host_pointer(old),
            size(old_length)?,
            size(new_length)?,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            host_pointer(new),
        )
    };
    // The image behind a restored mapping ends where the mapping did: growth past it needs memory of its own.
    let grows_image = matches!(mapping.backing, Backing::Image { .. }) && new_length > old_length;
    if at != libc::MAP_FAILED && !grows_image {
        return Ok(());
    }
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    if at != libc::MAP_FAILED {
        return host_map(
            new + old_length,
            new_length - old_length,
            mapping.protection.host(),
            anonymous,
            -1,
            0,
        );
    }
    let error = Errno::last();
    if mapping.shared || mapping.backing == Backing::File || error != Errno::FAULT {
        return Err(error);
    }
    host_map(
        new,
        new_length,
        libc::PROT_READ | libc::PROT_WRITE,
        anonymous,
        -1,
        0,
    )?;
    // SAFETY: both ranges are mapped in the window; the old one is readable by the guest's own protection or faults.
    let left = unsafe {
        crate::host::copy(
            host_pointer(new).cast(),
            host_pointer(old).cast(),
            size(old_length.min(new_length))?,
        )
    };
    if left != 0 {
        return Err(Errno::FAULT);
    }
    host_protect(new, new_length, mapping.protection.host())
}

/// Maps what the host shows at `from` once more at `to`: for shared memory and files.
pub fn double(from: u64, to: u64, length: u64) -> Result<(), Errno> {
    // SAFETY: both places lie in the window; an old length of zero only reads the mapping at `from`.
    let at = unsafe {
        libc::mremap(
            host_pointer(from),
            0,
            size(length)?,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            host_pointer(to),
        )
    };
    if at == libc::MAP_FAILED {
        Err(Errno::last())
    } else {
        Ok(())
    }
}

/// Makes the host mapping at `old..old_end` reach to `new_end`, over the reservation behind it.
pub fn grow_host(old: u64, old_end: u64, new_end: u64, mapping: &Mapping) -> Result<(), Errno> {
    if mapping.is_private_anonymous() || matches!(mapping.backing, Backing::Image { .. }) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        return host_map(
            old_end,
            new_end - old_end,
            mapping.protection.host(),
            flags,
            -1,
            0,
        );
    }
    let (old_size, new_size) = (size(old_end - old)?, size(new_end - old)?);
    // Away and back, longer: in place the reservation is in the way. The first step leaves the range mapped, so nothing of
    // the monitor's can come to lie in it.
    // The C library's function would not pass the address, of which the kernel wants none.
    // SAFETY: the range lies in the window; the temporary place is the kernel's choice among free addresses.
    let away = unsafe {
        libc::syscall(
            libc::SYS_mremap,
            host_pointer(old),
            old_size,
            old_size,
            libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP,
            0,
        )
    };
    let away = crate::errno::from_libc(away)? as *mut libc::c_void;
    // SAFETY: from the place just made, over the range in the window that it came from and the reservation behind it.
    let back = unsafe {
        libc::mremap(
            away,
            old_size,
            new_size,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            host_pointer(old),
        )
    };
    if back != libc::MAP_FAILED {
        return Ok(());
    }
    let error = Errno::last();
    // SAFETY: as above, with the old length, which always fits.
    unsafe {
        libc::mremap(
            away,
            old_size,
            old_size,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            host_pointer(old),
        )
    };
    Err(error)
}

fn area_pointer(offset: u64) -> *mut libc::c_void {
    (APART_HOST + offset) as *mut libc::c_void
}

/// Makes the area of pages apart from `content`, its first `huge` bytes in huge pages if the host has them.
pub fn fill_area(length: u64, huge: u64, content: &OwnedFd) -> Result<(), Errno> {
    let whole = length.next_multiple_of(LARGE_PAGE);
    // SAFETY: a fresh mapping at an address that nothing else uses (NOREPLACE checks).
    let at = unsafe {
        libc::mmap(
            area_pointer(0),
            size(whole)?,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    for (from, to, advice) in [
        (0, huge, libc::MADV_HUGEPAGE),
        (huge, whole, libc::MADV_NOHUGEPAGE),
    ] {
        if from < to {
            // SAFETY: a part of the mapping made just now. A kernel without huge pages refuses, and has small ones.
            unsafe { libc::madvise(area_pointer(from), size(to - from)?, advice) };
        }
    }
    let mut done = 0;
    while done < length {
        let offset = i64::try_from(done).map_err(|_| Errno::INVAL)?;
        // SAFETY: a part of the mapping made above, to which nothing refers yet.
        let read = unsafe {
            libc::pread(
                content.as_raw_fd(),
                area_pointer(done),
                size(length - done)?,
                offset,
            )
        };
        match u64::try_from(read).map_err(|_| Errno::last())? {
            0 => return Err(Errno::IO),
            bytes => done += bytes,
        }
    }
    Ok(())
}

/// Gives memory of the area back.
pub fn empty_area(offset: u64, length: u64) {
    if let Ok(length) = size(length) {
        // SAFETY: whole pages of the area made by `fill_area`; the guest's tables do not lead there any more.
        unsafe { libc::madvise(area_pointer(offset), length, libc::MADV_DONTNEED) };
    }
}

pub fn protect_area(offset: u64, length: u64, protection: i32) -> Result<(), Errno> {
    // SAFETY: whole pages of the area made by `fill_area`.
    if unsafe { libc::mprotect(area_pointer(offset), size(length)?, protection) } < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

/// Copies a page of the area, at `from` in the monitor, to the address that it is for. Both have this protection.
pub fn bring_home(page: u64, from: u64, protection: i32) -> Result<(), Errno> {
    let closed = protection & libc::PROT_WRITE == 0;
    if closed {
        protect_home(page, PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
        protect_area(from - APART_HOST, PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
    }
    // SAFETY: a page of the window and one of the area; both are mapped, and what cannot be copied is told.
    let left = unsafe { crate::host::copy(host_pointer(page).cast(), from as *const u8, size(PAGE)?) };
    if closed {
        protect_home(page, PAGE, protection)?;
    }
    if left == 0 { Ok(()) } else { Err(Errno::FAULT) }
}
