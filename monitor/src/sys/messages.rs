//! Messages of the guest: sendmsg(2) and recvmsg(2) with its own buffers, and names and control data of the monitor's.
#![allow(unsafe_code)]

use std::os::fd::RawFd;

use crate::errno::SysResult;
use crate::memory::access::Pieces;
use crate::signals::host;

fn empty(pieces: &Pieces) -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = pieces.as_ptr().cast_mut();
    header.msg_iovlen = pieces.count();
    header
}

/// Sends the guest's buffers to `name`, or to the peer if that is empty. A signal ends it.
pub fn send(fd: RawFd, name: &[u8], pieces: &Pieces, control: &[u8], flags: u64) -> SysResult {
    let mut header = empty(pieces);
    if !name.is_empty() {
        header.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_namelen = libc::socklen_t::try_from(name.len()).unwrap_or(0);
    }
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len();
    }
    let at = (&raw const header) as u64;
    // SAFETY: a live header over checked guest ranges and live bytes, which are only read.
    unsafe {
        host::call(
            libc::SYS_sendmsg,
            [u64::from(fd.unsigned_abs()), at, flags, 0, 0, 0],
        )
    }
}

/// What came beside the bytes: how many bytes the sender's name and the control data have, and flags.
pub struct Received {
    pub result: SysResult,
    pub named: usize,
    pub control: usize,
    pub flags: i32,
}

/// Receives into the guest's buffers. A signal ends it.
pub fn receive(fd: RawFd, name: &mut [u8], pieces: &Pieces, control: &mut [u8], flags: u64) -> Received {
    let mut header = empty(pieces);
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = libc::socklen_t::try_from(name.len()).unwrap_or(0);
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len();
    }
    let at = (&raw mut header) as u64;
    // SAFETY: a live header over checked guest ranges and live buffers with their lengths.
    let result = unsafe {
        host::call(
            libc::SYS_recvmsg,
            [u64::from(fd.unsigned_abs()), at, flags, 0, 0, 0],
        )
    };
    Received {
        result,
        named: usize::try_from(header.msg_namelen).unwrap_or(0).min(name.len()),
        control: header.msg_controllen.min(control.len()),
        flags: header.msg_flags,
    }
}
