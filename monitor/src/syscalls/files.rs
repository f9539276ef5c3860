//! Moving bytes: reading and writing descriptors, positions, space, and the contents of directories.
//!
//! A buffer of the guest goes to the host as checked ranges (`memory::access`), never as the guest's address.

use std::cell::Cell;
use std::os::fd::RawFd;

use super::descriptors::register;
use super::memory::int;
use super::{Args, Entry, Level, entry, limits};
use crate::errno::{Errno, SysResult};
use crate::fs::check_readable;
use crate::fs::descriptors::{guest_fd, is_open};
use crate::memory::access::{self, Pieces};
use crate::ready::Wait;
use crate::rlimits;
use crate::storage::{self, Start};
use crate::sys::calls::{Arg, value};
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
    entry(libc::SYS_ftruncate, AREA, Level::Forwarded, ftruncate, ""),
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
    entry(libc::SYS_getdents64, AREA, Level::Emulated, getdents64, ""),
    entry(libc::SYS_getdents, AREA, Level::Emulated, getdents, ""),
];

/// A call for one buffer, and the one for several, with what follows the buffer.
#[derive(Clone, Copy)]
pub(super) struct Transfer {
    single: libc::c_long,
    gathered: libc::c_long,
    /// What follows the buffer, and the buffers.
    rest: [u64; 3],
    out: bool,
}

pub(super) const READ: Transfer = Transfer {
    single: libc::SYS_read,
    gathered: libc::SYS_readv,
    rest: [0; 3],
    out: false,
};
pub(super) const WRITE: Transfer = Transfer {
    single: libc::SYS_write,
    gathered: libc::SYS_writev,
    rest: [0; 3],
    out: true,
};

/// Whether the guest limits how large its files become.
fn is_limited() -> bool {
    rlimits::soft(libc::RLIMIT_FSIZE) != libc::RLIM_INFINITY
}

/// What of a write stays within that limit.
fn within_limit(task: &Task, number: RawFd, start: Start, pieces: &Pieces) -> Result<Pieces, Errno> {
    let length = pieces.length();
    match storage::start_of(number, start)? {
        Some(from) => Ok(pieces.first(limits::room_in_file(task, from, length)?)),
        None => Ok(pieces.first(u64::MAX)),
    }
}

pub(super) fn transfer(task: &Task, fd: u64, pieces: &Pieces, how: Transfer) -> SysResult {
    let number = guest_fd(int(fd))?;
    let [a, b, c] = how.rest;
    let limited;
    let pieces = match how.out {
        true if is_limited() => {
            let start = if how.single == libc::SYS_write {
                Start::Position
            } else {
                Start::At(a.cast_signed())
            };
            limited = within_limit(task, number, start, pieces)?;
            &limited
        }
        _ => pieces,
    };
    let call = |fd: RawFd| {
        let fd = register(fd);
        let [fd, a, b, c] = [fd, a, b, c].map(value);
        match pieces.single() {
            Some((host, length)) => task.call(how.single, [fd, Arg::Guest(host), value(length), a, b, c]),
            None => {
                let count = value(pieces.count() as u64);
                task.call(how.gathered, [fd, Arg::List(pieces), count, a, b, c])
            }
        }
    };
    let result = if how.single == libc::SYS_write {
        match write_out(task, number, pieces, call) {
            // What has no peer may be a socket that the monitor answers on.
            Err(Errno::NOTCONN) => super::messages::write(task, number, pieces),
            result => result,
        }
    } else if how.out {
        stored(task, number, Start::At(a.cast_signed()), pieces, call)
    } else {
        check_readable(number)?;
        call(number)
    };
    if let Ok(bytes) = result {
        task.process.transferred(number, bytes, how.out);
    }
    result
}

/// Makes a call that writes to a descriptor, within what an instance may store.
fn stored(
    task: &Task,
    number: RawFd,
    start: Start,
    pieces: &Pieces,
    call: impl Fn(RawFd) -> SysResult,
) -> SysResult {
    match &task.process.storage {
        Some(storage) => storage.write(number, start, pieces.length(), task.process.is_alone(), call),
        None => call(number),
    }
}

/// write(2) and writev(2). What was a socket is taken for one: sending does the same there, and nothing anywhere else.
fn write_out(task: &Task, number: RawFd, pieces: &Pieces, call: impl Fn(RawFd) -> SysResult) -> SysResult {
    if let Some(storage) = &task.process.storage
        && storage.is_likely_socket(number)
        && !pieces.is_empty_list()
    {
        match super::messages::send(number, pieces, &[], 0) {
            Err(Errno(libc::ENOTSOCK)) => {}
            result => return result,
        }
    }
    stored(task, number, Start::Position, pieces, call)
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

/// Nobody has this number open: the kernel answers EBADF where it looks at it.
pub(super) const NOBODY: RawFd = -1;

/// A position that is given comes before the descriptor.
fn check_position(offset: u64) -> Result<(), Errno> {
    if offset.cast_signed() < 0 {
        Err(Errno::INVAL)
    } else {
        Ok(())
    }
}

/// Implements pread(2).
fn pread(task: &mut Task, [fd, buffer, length, offset, ..]: Args) -> SysResult {
    check_position(offset)?;
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
    check_position(offset)?;
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
    let mut pieces = access::vector(vector.0, vector.1)?;
    let fd = guest_fd(int(fd))?;
    let [a, b, c] = rest;
    let start = match a.cast_signed() {
        _ if int(c) & libc::RWF_APPEND != 0 => Start::End,
        -1 if number == libc::SYS_pwritev2 => Start::Position,
        offset => Start::At(offset),
    };
    if out && is_limited() {
        pieces = within_limit(task, fd, start, &pieces)?;
    }
    let call = |fd: RawFd| {
        let [fd, count, a, b, c] = [register(fd), pieces.count() as u64, a, b, c].map(value);
        task.call(number, [fd, Arg::List(&pieces), count, a, b, c])
    };
    let result = if out {
        stored(task, fd, start, &pieces, call)
    } else {
        check_readable(fd)?;
        call(fd)
    };
    if let Ok(bytes) = result {
        task.process.transferred(fd, bytes, out);
    }
    result
}

/// Implements preadv(2).
fn preadv(task: &mut Task, [fd, vector, count, low, high, _]: Args) -> SysResult {
    check_position(low)?;
    gathered(task, fd, (vector, count), libc::SYS_preadv, [low, high, 0], false)
}

/// Implements pwritev(2).
fn pwritev(task: &mut Task, [fd, vector, count, low, high, _]: Args) -> SysResult {
    check_position(low)?;
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
    task.plain(
        libc::SYS_lseek,
        [register(guest_fd(int(fd))?), offset, whence, 0, 0, 0],
    )
}

/// Makes a call that changes where a file ends, within what an instance may store.
fn resized(
    task: &Task,
    fd: u64,
    end: impl FnOnce(u64) -> Result<u64, Errno>,
    call: impl Fn(RawFd) -> SysResult,
) -> SysResult {
    let number = guest_fd(int(fd))?;
    let Some(storage) = &task.process.storage else {
        return call(number);
    };
    storage.resize(storage::descriptor(number)?, end, || call(number))
}

/// Implements ftruncate(2).
fn ftruncate(task: &mut Task, [fd, length, ..]: Args) -> SysResult {
    check_position(length)?;
    if is_limited() && storage::size(int(fd))?.is_some_and(|size| length > size) {
        limits::check_size_of_file(task, length)?;
    }
    resized(
        task,
        fd,
        // The kernel refuses what is negative.
        |size| Ok(u64::try_from(length.cast_signed()).unwrap_or(size)),
        |fd| task.plain(libc::SYS_ftruncate, [register(fd), length, 0, 0, 0, 0]),
    )
}

/// Implements fallocate(2). Space behind the end of a file would not be seen in its size: an instance is told that it has
/// it if there is room now, and nothing is done there.
fn fallocate(task: &mut Task, [fd, mode, offset, length, ..]: Args) -> SysResult {
    let flags = int(mode);
    let inside = Cell::new((flags, length));
    let end = |size: u64| {
        let end = offset.saturating_add(length);
        match flags {
            _ if offset.cast_signed() < 0 || length.cast_signed() <= 0 => Ok(size),
            _ if flags & libc::FALLOC_FL_INSERT_RANGE != 0 => Ok(size.saturating_add(length)),
            _ if flags & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_COLLAPSE_RANGE) != 0 => Ok(size),
            _ if flags & libc::FALLOC_FL_KEEP_SIZE == 0 || end <= size => Ok(end.max(size)),
            _ => {
                inside.set(if offset < size {
                    (flags, size - offset)
                } else {
                    (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, length)
                });
                Ok(end)
            }
        }
    };
    resized(task, fd, end, |fd| {
        let (flags, length) = inside.get();
        task.plain(
            libc::SYS_fallocate,
            [register(fd), register(flags), offset, length, 0, 0],
        )
    })
}

/// Implements posix_fadvise(2).
fn fadvise(task: &mut Task, [fd, offset, length, advice, ..]: Args) -> SysResult {
    task.plain(
        libc::SYS_fadvise64,
        [register(guest_fd(int(fd))?), offset, length, advice, 0, 0],
    )
}

/// Implements fsync(2).
fn fsync(task: &mut Task, [fd, ..]: Args) -> SysResult {
    task.plain(libc::SYS_fsync, [register(guest_fd(int(fd))?), 0, 0, 0, 0, 0])
}

/// Implements fdatasync(2).
fn fdatasync(task: &mut Task, [fd, ..]: Args) -> SysResult {
    task.plain(libc::SYS_fdatasync, [register(guest_fd(int(fd))?), 0, 0, 0, 0, 0])
}

/// Implements readahead(2), sync_file_range(2), syncfs(2): advice about a descriptor that is not taken.
fn accept(_: &mut Task, [fd, ..]: Args) -> SysResult {
    if is_open(int(fd)) { Ok(0) } else { Err(Errno::BADF) }
}

/// Implements sync(2), which would be about the whole host.
fn sync(_: &mut Task, _: Args) -> SysResult {
    Ok(0)
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
