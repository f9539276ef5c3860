//! Whole reads and writes at an offset of a file.

use std::os::fd::BorrowedFd;

use crate::errno::Errno;
use crate::sys;

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
        match sys::write_at(&to, &from[done..], offset + done as u64) {
            Ok(step) => done += step,
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
    sys::set_length(&fd, 0)?;
    sys::set_length(&fd, length)
}
