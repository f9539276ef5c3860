//! Whole reads and writes at an offset of a file, and where a sparse file has content.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::errno::{Errno, from_libc};
use crate::sys;

fn at(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno(libc::EFBIG))
}

/// Fills `to` from `offset`; EIO if the file ends before.
pub fn read_at(from: BorrowedFd<'_>, to: &mut [u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < to.len() {
        match sys::read_at(&from, &mut to[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(step) => done += step,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Writes all of `from` at `offset`.
pub fn write_at(to: BorrowedFd<'_>, from: &[u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < from.len() {
        let rest = &from[done..];
        let at = at(offset + done as u64)?;
        // SAFETY: a live buffer with its length.
        let step = unsafe { libc::pwrite(to.as_raw_fd(), rest.as_ptr().cast(), rest.len(), at) };
        match from_libc(step as i64) {
            Ok(step) => done += usize::try_from(step).map_err(|_| Errno::IO)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The length of a file, bytes.
pub fn length(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    u64::try_from(sys::stat(&fd)?.st_size).map_err(|_| Errno::IO)
}

/// Empties a file and makes it `length` bytes of nothing.
pub fn clear(fd: BorrowedFd<'_>, length: u64) -> Result<(), Errno> {
    for length in [0, at(length)?] {
        // SAFETY: no pointers.
        from_libc(unsafe { libc::ftruncate(fd.as_raw_fd(), length) })?;
    }
    Ok(())
}

/// The next range at or after `from` that is no hole; `None` when only holes follow.
pub fn next_content(fd: BorrowedFd<'_>, from: u64) -> Result<Option<(u64, u64)>, Errno> {
    let seek = |offset: u64, whence| {
        // SAFETY: no pointers; nobody uses the position of this file.
        from_libc(unsafe { libc::lseek(fd.as_raw_fd(), at(offset)?, whence) })
    };
    match seek(from, libc::SEEK_DATA) {
        Ok(start) => Ok(Some((start, seek(start, libc::SEEK_HOLE)?))),
        Err(Errno(libc::ENXIO)) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The user that this process is.
pub fn user() -> u32 {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() }
}
