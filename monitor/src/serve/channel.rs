//! What a child tells `serve`: short messages on a socket pair of its own, one with the call's connection attached.
//!
//! The child holds a guest, so the parent takes nothing for granted: a message is bounded, and one that makes no sense ends
//! the child.

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::fs::descriptors::raise;
use crate::sys;
use crate::sys::passing;

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
    /// The example call has ended, and what it touched is written down; whether the program took it for a good one.
    Rehearsed { welcome: bool },
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

/// Sends a message, with a copy of `attached`.
pub fn send(
    channel: BorrowedFd<'_>,
    message: &Message,
    attached: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let bytes = postcard::to_stdvec(message).map_err(|_| Errno::INVAL)?;
    passing::send(channel, &bytes, attached, 0)
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
    match passing::receive(channel, MESSAGE_MAX) {
        passing::Received::Nothing => Received::Nothing,
        passing::Received::Closed => Received::Closed,
        passing::Received::Message(bytes, attached) => match postcard::from_bytes(&bytes) {
            Ok(message) => Received::Message(message, attached),
            Err(_) => Received::Nonsense,
        },
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
        sys::send(&child, &[0xff; 9], 0).unwrap();
        assert!(matches!(receive(parent.as_fd()), Received::Nonsense));
        drop(child);
        assert!(matches!(receive(parent.as_fd()), Received::Closed));
    }
}
