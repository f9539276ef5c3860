//! Moving bytes: reading and writing descriptors, positions, space, and the contents of directories.
//!
//! A buffer of the guest goes to the host as checked ranges (`memory::access`), never as the guest's address.

use super::descriptors::register;
use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::{guest_fd, is_open};
use crate::memory::access::{self, Pieces};
use crate::ready::Wait;
use crate::task::Task;

const AREA: &str = "files";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_read, AREA, Level::Forwarded, read, ""),
    entry(libc::SYS_write, AREA, Level::Forwarded, write, ""),
    entry(libc::SYS_readv, AREA, Level::Forwarded, readv, ""),
    entry(libc::SYS_writev, AREA, Level::Forwarded, writev, ""),
    entry(libc::SYS_pread64, AREA, Level::Forwarded, pread, ""),
    entry(libc::SYS_pwrite64, AREA, Level::Forwarded, pwrite, ""),
    entry(libc::SYS_preadv, AREA, Level::Forwarded, preadv, ""),
    entry(libc::SYS_pwritev, AREA, Level::Forwarded, pwritev, ""),
    entry(libc::SYS_preadv2, AREA, Level::Forwarded, preadv2, ""),
    entry(libc::SYS_pwritev2, AREA, Level::Forwarded, pwritev2, ""),
    entry(libc::SYS_lseek, AREA, Level::Forwarded, lseek, ""),
    entry(libc::SYS_ftruncate, AREA, Level::Forwarded, forward, ""),
    entry(libc::SYS_fallocate, AREA, Level::Forwarded, fallocate, ""),
    entry(libc::SYS_fadvise64, AREA, Level::Forwarded, fadvise, ""),
    entry(
        libc::SYS_readahead,
        AREA,
        Level::Emulated,
        accept,
        "accepted without effect",
    ),
    entry(libc::SYS_fsync, AREA, Level::Forwarded, fsync, ""),
    entry(libc::SYS_fdatasync, AREA, Level::Forwarded, fdatasync, ""),
    entry(
        libc::SYS_sync_file_range,
        AREA,
        Level::Emulated,
        accept,
        "accepted without effect",
    ),
    entry(
        libc::SYS_syncfs,
        AREA,
        Level::Emulated,
        accept,
        "accepted without effect",
    ),
    entry(
        libc::SYS_sync,
        AREA,
        Level::Emulated,
        sync,
        "accepted without effect",
    ),
    entry(libc::SYS_sendfile, AREA, Level::Forwarded, sendfile, ""),
    entry(
        libc::SYS_copy_file_range,
        AREA,
        Level::Forwarded,
        copy_file_range,
        "",
    ),
    entry(libc::SYS_splice, AREA, Level::Forwarded, splice, ""),
    entry(libc::SYS_tee, AREA, Level::Forwarded, tee, ""),
    entry(libc::SYS_vmsplice, AREA, Level::Emulated, vmsplice, "copies"),
    entry(libc::SYS_getdents64, AREA, Level::Emulated, getdents64, ""),
    entry(libc::SYS_getdents, AREA, Level::Emulated, getdents, ""),
];

/// A call for one buffer, and the one for several, with what follows the buffer.
#[derive(Clone, Copy)]
struct Transfer {
    single: libc::c_long,
    gathered: libc::c_long,
    /// What follows the buffer, and the buffers.
    rest: [u64; 3],
    out: bool,
}

const READ: Transfer = Transfer {
    single: libc::SYS_read,
    gathered: libc::SYS_readv,
    rest: [0; 3],
    out: false,
};
const WRITE: Transfer = Transfer {
    single: libc::SYS_write,
    gathered: libc::SYS_writev,
    rest: [0; 3],
    out: true,
};

fn transfer(task: &Task, fd: u64, pieces: &Pieces, how: Transfer) -> SysResult {
    let number = guest_fd(int(fd))?;
    let fd = register(number);
    let [a, b, c] = how.rest;
    // SAFETY: checked ranges of guest memory.
    let result = unsafe {
        match pieces.single() {
            Some((host, length)) => task.host(how.single, [fd, host, length, a, b, c]),
            None => task.host(
                how.gathered,
                [fd, pieces.as_ptr() as u64, pieces.count() as u64, a, b, c],
            ),
        }
    };
    if let Ok(bytes) = result {
        task.process.transferred(number, bytes, how.out);
    }
    result
}

/// Implements read(2).
fn read(task: &mut Task, [fd, buffer, length, ..]: Args) -> SysResult {
    task.process.ready.before(&Wait::Read(int(fd)))?;
    transfer(task, fd, &access::pieces(buffer, length)?, READ)
}

/// Implements write(2).
fn write(task: &mut Task, [fd, buffer, length, ..]: Args) -> SysResult {
    transfer(task, fd, &access::pieces(buffer, length)?, WRITE)
}

/// Implements readv(2).
fn readv(task: &mut Task, [fd, vector, count, ..]: Args) -> SysResult {
    task.process.ready.before(&Wait::Read(int(fd)))?;
    transfer(task, fd, &access::vector(vector, count)?, READ)
}

/// Implements writev(2).
fn writev(task: &mut Task, [fd, vector, count, ..]: Args) -> SysResult {
    transfer(task, fd, &access::vector(vector, count)?, WRITE)
}

/// Implements pread(2).
fn pread(task: &mut Task, [fd, buffer, length, offset, ..]: Args) -> SysResult {
    let how = Transfer {
        single: libc::SYS_pread64,
        gathered: libc::SYS_preadv,
        rest: [offset, 0, 0],
        out: false,
    };
    transfer(task, fd, &access::pieces(buffer, length)?, how)
}

/// Implements pwrite(2).
fn pwrite(task: &mut Task, [fd, buffer, length, offset, ..]: Args) -> SysResult {
    let how = Transfer {
        single: libc::SYS_pwrite64,
        gathered: libc::SYS_pwritev,
        rest: [offset, 0, 0],
        out: true,
    };
    transfer(task, fd, &access::pieces(buffer, length)?, how)
}

/// Calls on several buffers that exist in no form for one.
fn gathered(
    task: &Task,
    fd: u64,
    vector: (u64, u64),
    number: libc::c_long,
    rest: [u64; 3],
    out: bool,
) -> SysResult {
    let pieces = access::vector(vector.0, vector.1)?;
    let fd = guest_fd(int(fd))?;
    let [a, b, c] = rest;
    // SAFETY: checked ranges of guest memory, in a list of the monitor's.
    let result = unsafe {
        task.host(
            number,
            [
                register(fd),
                pieces.as_ptr() as u64,
                pieces.count() as u64,
                a,
                b,
                c,
            ],
        )
    };
    if let Ok(bytes) = result {
        task.process.transferred(fd, bytes, out);
    }
    result
}

/// Implements preadv(2).
fn preadv(task: &mut Task, [fd, vector, count, low, high, _]: Args) -> SysResult {
    gathered(task, fd, (vector, count), libc::SYS_preadv, [low, high, 0], false)
}

/// Implements pwritev(2).
fn pwritev(task: &mut Task, [fd, vector, count, low, high, _]: Args) -> SysResult {
    gathered(task, fd, (vector, count), libc::SYS_pwritev, [low, high, 0], true)
}

/// Implements preadv2(2).
fn preadv2(task: &mut Task, [fd, vector, count, low, high, flags]: Args) -> SysResult {
    task.process.ready.before(&Wait::Read(int(fd)))?;
    gathered(
        task,
        fd,
        (vector, count),
        libc::SYS_preadv2,
        [low, high, flags],
        false,
    )
}

/// Implements pwritev2(2).
fn pwritev2(task: &mut Task, [fd, vector, count, low, high, flags]: Args) -> SysResult {
    gathered(
        task,
        fd,
        (vector, count),
        libc::SYS_pwritev2,
        [low, high, flags],
        true,
    )
}

/// Implements lseek(2).
fn lseek(task: &mut Task, [fd, offset, whence, ..]: Args) -> SysResult {
    // SAFETY: no pointers.
    unsafe {
        task.host(
            libc::SYS_lseek,
            [register(guest_fd(int(fd))?), offset, whence, 0, 0, 0],
        )
    }
}

/// Implements ftruncate(2).
fn forward(task: &mut Task, [fd, length, ..]: Args) -> SysResult {
    // SAFETY: no pointers.
    unsafe {
        task.host(
            libc::SYS_ftruncate,
            [register(guest_fd(int(fd))?), length, 0, 0, 0, 0],
        )
    }
}

/// Implements fallocate(2).
fn fallocate(task: &mut Task, [fd, mode, offset, length, ..]: Args) -> SysResult {
    // SAFETY: no pointers.
    unsafe {
        task.host(
            libc::SYS_fallocate,
            [register(guest_fd(int(fd))?), mode, offset, length, 0, 0],
        )
    }
}

/// Implements posix_fadvise(2).
fn fadvise(task: &mut Task, [fd, offset, length, advice, ..]: Args) -> SysResult {
    // SAFETY: no pointers.
    unsafe {
        task.host(
            libc::SYS_fadvise64,
            [register(guest_fd(int(fd))?), offset, length, advice, 0, 0],
        )
    }
}

/// Implements fsync(2).
fn fsync(task: &mut Task, [fd, ..]: Args) -> SysResult {
    // SAFETY: no pointers.
    unsafe { task.host(libc::SYS_fsync, [register(guest_fd(int(fd))?), 0, 0, 0, 0, 0]) }
}

/// Implements fdatasync(2).
fn fdatasync(task: &mut Task, [fd, ..]: Args) -> SysResult {
    // SAFETY: no pointers.
    unsafe { task.host(libc::SYS_fdatasync, [register(guest_fd(int(fd))?), 0, 0, 0, 0, 0]) }
}

/// Implements readahead(2), sync_file_range(2), syncfs(2): advice about a descriptor that is not taken.
fn accept(_: &mut Task, [fd, ..]: Args) -> SysResult {
    if is_open(int(fd)) { Ok(0) } else { Err(Errno::BADF) }
}

/// Implements sync(2), which would be about the whole host.
fn sync(_: &mut Task, _: Args) -> SysResult {
    Ok(0)
}

/// A position that the kernel reads and moves on, if the guest gives one.
struct Position {
    address: u64,
    value: i64,
}

impl Position {
    fn read(address: u64) -> Result<Self, Errno> {
        Ok(Self {
            address,
            value: if address == 0 { 0 } else { access::read(address)? },
        })
    }

    fn argument(&mut self) -> u64 {
        if self.address == 0 {
            0
        } else {
            &raw mut self.value as u64
        }
    }

    fn write(&self) -> Result<(), Errno> {
        if self.address == 0 {
            Ok(())
        } else {
            access::write(self.address, &self.value)
        }
    }
}

/// Implements sendfile(2).
fn sendfile(task: &mut Task, [out, input, offset, count, ..]: Args) -> SysResult {
    let (out, input) = (guest_fd(int(out))?, guest_fd(int(input))?);
    task.process.ready.before(&Wait::Read(input))?;
    let mut offset = Position::read(offset)?;
    // SAFETY: the only pointer is to a local.
    let result = unsafe {
        task.host(
            libc::SYS_sendfile,
            [register(out), register(input), offset.argument(), count, 0, 0],
        )
    };
    if let Ok(bytes) = result {
        task.process.transferred(out, bytes, true);
        offset.write()?;
    }
    result
}

/// copy_file_range and splice: between two descriptors, each with a position.
fn between(task: &Task, number: libc::c_long, [input, from, out, to, length, flags]: Args) -> SysResult {
    let (input, out) = (guest_fd(int(input))?, guest_fd(int(out))?);
    task.process.ready.before(&Wait::Read(input))?;
    let (mut from, mut to) = (Position::read(from)?, Position::read(to)?);
    let args = [
        register(input),
        from.argument(),
        register(out),
        to.argument(),
        length,
        flags,
    ];
    // SAFETY: the only pointers are to locals.
    let result = unsafe { task.host(number, args) };
    if let Ok(bytes) = result {
        task.process.transferred(input, bytes, false);
        task.process.transferred(out, bytes, true);
        from.write()?;
        to.write()?;
    }
    result
}

/// Implements copy_file_range(2).
fn copy_file_range(task: &mut Task, args: Args) -> SysResult {
    between(task, libc::SYS_copy_file_range, args)
}

/// Implements splice(2).
fn splice(task: &mut Task, args: Args) -> SysResult {
    between(task, libc::SYS_splice, args)
}

/// Implements tee(2).
fn tee(task: &mut Task, [input, out, length, flags, ..]: Args) -> SysResult {
    let (input, out) = (guest_fd(int(input))?, guest_fd(int(out))?);
    task.process.ready.before(&Wait::Read(input))?;
    // SAFETY: no pointers.
    unsafe {
        task.host(
            libc::SYS_tee,
            [register(input), register(out), length, flags, 0, 0],
        )
    }
}

/// Implements vmsplice(2) by copying: pages of the guest must not stay in a pipe.
fn vmsplice(task: &mut Task, [fd, vector, count, flags, ..]: Args) -> SysResult {
    let known = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;
    if int(flags).cast_unsigned() & !known != 0 {
        return Err(Errno::INVAL);
    }
    let number = guest_fd(int(fd))?;
    // SAFETY: no pointers.
    let mode = unsafe {
        task.host(
            libc::SYS_fcntl,
            [register(number), register(libc::F_GETFL), 0, 0, 0, 0],
        )?
    };
    // SAFETY: no pointers; only pipes have a size.
    unsafe {
        task.host(
            libc::SYS_fcntl,
            [register(number), register(libc::F_GETPIPE_SZ), 0, 0, 0, 0],
        )?
    };
    let reads = int(mode) & libc::O_ACCMODE == libc::O_RDONLY;
    if reads {
        task.process.ready.before(&Wait::Read(number))?;
    }
    transfer(
        task,
        fd,
        &access::vector(vector, count)?,
        if reads { READ } else { WRITE },
    )
}

/// More than this at a time is not read of a directory; the guest asks again for the rest.
const RECORDS_MAX: u64 = 64 << 10;

fn records(task: &Task, fd: u64, size: u64) -> Result<Vec<u8>, Errno> {
    let size = size.min(RECORDS_MAX).min(u64::from(u32::MAX));
    let mut records = vec![0; usize::try_from(size).map_err(|_| Errno::INVAL)?];
    let length = super::paths::files(task).read_directory(int(fd), &mut records)?;
    records.truncate(length);
    Ok(records)
}

/// Implements getdents64(2).
fn getdents64(task: &mut Task, [fd, buffer, size, ..]: Args) -> SysResult {
    let records = records(task, fd, size)?;
    access::write_bytes(buffer, &records)?;
    Ok(records.len() as u64)
}

/// Implements getdents(2): the same records, with the type behind the name.
fn getdents(task: &mut Task, [fd, buffer, size, ..]: Args) -> SysResult {
    const LENGTH: usize = 16;
    const TYPE: usize = 18;
    let mut records = records(task, fd, size)?;
    let mut at = 0;
    while at + TYPE < records.len() {
        let length = usize::from(u16::from_ne_bytes([
            records[at + LENGTH],
            records[at + LENGTH + 1],
        ]));
        let record = records
            .get_mut(at..at + length)
            .filter(|record| record.len() > TYPE + 1)
            .ok_or(Errno::IO)?;
        let kind = record[TYPE];
        record.copy_within(TYPE + 1.., TYPE);
        record[length - 1] = kind;
        at += length;
    }
    access::write_bytes(buffer, &records)?;
    Ok(records.len() as u64)
}
