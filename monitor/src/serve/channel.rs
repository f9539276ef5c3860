//! What a child tells `serve`: short messages on a socket pair of its own, one with the call's connection attached.
//!
//! The child holds a guest, so the parent takes nothing for granted: a message is bounded, and one that makes no sense ends
//! the child.
#![allow(unsafe_code)]

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use crate::errno::{Errno, from_libc};
use crate::fs::descriptors::raise;
use crate::sys;

/// Longest message, bytes.
const MESSAGE_MAX: usize = 4096;

/// A message of a child.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The boot has written the snapshot.
    Snapshot,
    /// The boot came to readiness, but a snapshot is refused.
    Refused(String),
    /// The program could not be loaded: (is it the program's fault, why).
    Unloadable(bool, String),
    /// The example call has ended, and what it touched is written down.
    Rehearsed,
    /// The instance waits for a connection.
    Parked,
    /// It has one, attached, and its envelope.
    Accepted { call: String, budget_ms: u64 },
}

/// Both ends: the parent's does not block.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (parent, child) = sys::socket_pair(libc::SOCK_SEQPACKET)?;
    Ok((raise(parent)?, raise(child)?))
}

#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends a message, with a copy of `attached`.
pub fn send(
    channel: BorrowedFd<'_>,
    message: &Message,
    attached: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let bytes = postcard::to_stdvec(message).map_err(|_| Errno::INVAL)?;
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
    // SAFETY: a complete header over live locals.
    from_libc(unsafe { libc::sendmsg(channel.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) } as i64)?;
    Ok(())
}

/// What the parent received.
pub enum Received {
    Message(Message, Option<OwnedFd>),
    Nothing,
    Closed,
    /// Not a message: the child is broken.
    Nonsense,
}

/// Receives one message without waiting.
pub fn receive(channel: BorrowedFd<'_>) -> Received {
    let mut bytes = [0u8; MESSAGE_MAX];
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
    match postcard::from_bytes(&bytes[..length]) {
        Ok(message) => Received::Message(message, attached),
        Err(_) => Received::Nonsense,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn messages_and_a_descriptor_arrive() {
        let (parent, child) = pair().unwrap();
        assert!(matches!(receive(parent.as_fd()), Received::Nothing));
        let accepted = Message::Accepted {
            call: "c".repeat(64),
            budget_ms: 5,
        };
        send(child.as_fd(), &accepted, Some(child.as_fd())).unwrap();
        send(child.as_fd(), &Message::Parked, None).unwrap();
        match receive(parent.as_fd()) {
            Received::Message(message, Some(_)) => assert_eq!(message, accepted),
            _ => panic!("no message"),
        }
        assert!(matches!(
            receive(parent.as_fd()),
            Received::Message(Message::Parked, None)
        ));
        // SAFETY: bytes of a local on a live socket.
        unsafe { libc::send(child.as_raw_fd(), [0xffu8; 9].as_ptr().cast(), 9, 0) };
        assert!(matches!(receive(parent.as_fd()), Received::Nonsense));
        drop(child);
        assert!(matches!(receive(parent.as_fd()), Received::Closed));
    }
}
