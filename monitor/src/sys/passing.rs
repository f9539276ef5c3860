//! Messages with a descriptor attached, on unix sockets that keep the bounds of messages.
#![allow(unsafe_code)]

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::errno::{Errno, from_libc};

#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends a message, with a copy of `attached`; `flags` as send(2) has them.
pub fn send(
    channel: BorrowedFd<'_>,
    bytes: &[u8],
    attached: Option<BorrowedFd<'_>>,
    flags: i32,
) -> Result<(), Errno> {
    let mut vector = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all-zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    let mut control = Control([0; 64]);
    if let Some(fd) = attached {
        let size = u32::try_from(size_of::<RawFd>()).map_err(|_| Errno::INVAL)?;
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: the macros of cmsg(3) on a buffer that is large enough and aligned.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(size) as usize;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(size) as usize;
            libc::CMSG_DATA(first)
                .cast::<RawFd>()
                .write_unaligned(fd.as_raw_fd());
        }
    }
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: a complete header over live locals.
    from_libc(unsafe { libc::sendmsg(channel.as_raw_fd(), &raw const header, flags) } as i64)?;
    Ok(())
}

/// What was received.
pub enum Received {
    Message(Vec<u8>, Option<OwnedFd>),
    Nothing,
    Closed,
}

/// Receives one message of at most `room` bytes without waiting.
pub fn receive(channel: BorrowedFd<'_>, room: usize) -> Received {
    let mut bytes = vec![0u8; room];
    let mut vector = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control([0; 64]);
    // SAFETY: all-zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: a complete header over live locals.
    let length = unsafe { libc::recvmsg(channel.as_raw_fd(), &raw mut header, flags) };
    let Ok(length) = usize::try_from(length) else {
        return match Errno::last() {
            Errno::AGAIN | Errno::INTR => Received::Nothing,
            _ => Received::Closed,
        };
    };
    let mut attached = None;
    // SAFETY: the macros of cmsg(3) on what the kernel filled in.
    unsafe {
        let mut part = libc::CMSG_FIRSTHDR(&raw const header);
        while !part.is_null() {
            if (*part).cmsg_level == libc::SOL_SOCKET && (*part).cmsg_type == libc::SCM_RIGHTS {
                let space = (*part).cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                for place in 0..space / size_of::<RawFd>() {
                    let fd = libc::CMSG_DATA(part).cast::<RawFd>().add(place).read_unaligned();
                    // Dropped again if there are several: one is expected.
                    attached = Some(OwnedFd::from_raw_fd(fd));
                }
            }
            part = libc::CMSG_NXTHDR(&raw const header, part);
        }
    }
    if length == 0 {
        return Received::Closed;
    }
    bytes.truncate(length);
    Received::Message(bytes, attached)
}
