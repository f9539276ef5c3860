//! Reading and writing descriptors.

use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::errno::SysResult;
use crate::fs::descriptors::{exclusive, guest_fd};
use crate::memory::access::{self, Pieces};
use crate::ready::Wait;
use crate::task::Task;

const AREA: &str = "files";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_read, AREA, Level::Forwarded, read, ""),
    entry(libc::SYS_write, AREA, Level::Forwarded, write, ""),
    entry(libc::SYS_readv, AREA, Level::Forwarded, readv, ""),
    entry(libc::SYS_writev, AREA, Level::Forwarded, writev, ""),
    entry(libc::SYS_close, AREA, Level::Emulated, close, ""),
];

fn transfer(task: &Task, fd: u64, pieces: &Pieces, single: libc::c_long, gathered: libc::c_long) -> SysResult {
    let fd = u64::from(guest_fd(int(fd))?.unsigned_abs());
    let out = single == libc::SYS_write;
    // SAFETY: checked ranges of guest memory.
    let result = unsafe {
        match pieces.single() {
            Some((host, length)) => task.host(single, [fd, host, length, 0, 0, 0]),
            None => task.host(gathered, [fd, pieces.as_ptr() as u64, pieces.count() as u64, 0, 0, 0]),
        }
    };
    if let Ok(bytes) = result {
        task.process.transferred(int(fd), bytes, out);
    }
    result
}

/// Implements read(2).
fn read(task: &mut Task, [fd, buffer, length, ..]: Args) -> SysResult {
    task.process.ready.before(&Wait::Read(int(fd)))?;
    transfer(task, fd, &access::pieces(buffer, length)?, libc::SYS_read, libc::SYS_readv)
}

/// Implements write(2).
fn write(task: &mut Task, [fd, buffer, length, ..]: Args) -> SysResult {
    transfer(task, fd, &access::pieces(buffer, length)?, libc::SYS_write, libc::SYS_writev)
}

/// Implements readv(2).
fn readv(task: &mut Task, [fd, vector, count, ..]: Args) -> SysResult {
    task.process.ready.before(&Wait::Read(int(fd)))?;
    transfer(task, fd, &access::vector(vector, count)?, libc::SYS_read, libc::SYS_readv)
}

/// Implements writev(2).
fn writev(task: &mut Task, [fd, vector, count, ..]: Args) -> SysResult {
    transfer(task, fd, &access::vector(vector, count)?, libc::SYS_write, libc::SYS_writev)
}

/// Implements close(2).
fn close(task: &mut Task, [fd, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    task.process.closing(fd);
    let _alone = exclusive();
    // SAFETY: a number of the guest's.
    unsafe { task.host(libc::SYS_close, [u64::from(fd.unsigned_abs()), 0, 0, 0, 0, 0]) }
}
