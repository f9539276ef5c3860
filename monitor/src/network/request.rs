//! What an instance asks of the broker, and what it is told: one message each way, the answer on a socket that comes with the question.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::fs::descriptors::{private, raise};
use crate::sys;
use crate::sys::passing;

/// Largest message, bytes.
pub const MESSAGE_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A TCP connection to this address.
    Connect(SocketAddr),
    /// Datagrams to this address: a socket in the private directory that stands for it.
    Datagrams(SocketAddr),
    /// The resolver, in the private directory.
    Resolver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    /// The policy has no rule for it. `half`: it has one for the other protocol.
    Refused {
        half: bool,
    },
    Failed(i32),
}

/// What the broker tells `serve`: a line for the log of an instance.
pub struct Refused {
    pub instance: String,
    pub line: String,
}

impl Refused {
    /// A name of 255 bytes with what is said of it.
    const MAX: usize = 512;
    const NAME: usize = 16;

    pub fn send(serve: &OwnedFd, instance: &str, line: &str) -> Result<(), Errno> {
        let mut bytes = [instance, line].concat().into_bytes();
        bytes.truncate(Self::MAX);
        passing::send(serve.as_fd(), &bytes, None, libc::MSG_DONTWAIT)
    }

    /// The next one, if there is one.
    pub fn receive(link: &OwnedFd) -> Option<Self> {
        let passing::Received::Message(bytes, None) = passing::receive(link.as_fd(), Self::MAX) else {
            return None;
        };
        let (name, line) = bytes.split_at_checked(Self::NAME)?;
        Some(Self {
            instance: String::from_utf8_lossy(name).into_owned(),
            line: String::from_utf8_lossy(line).into_owned(),
        })
    }
}

/// An instance's way to the broker; the processes of an instance share it.
pub struct Broker(pub OwnedFd);

impl Broker {
    /// Sends a question; the answer comes on what is given back.
    pub fn send(&self, request: &Request) -> Result<OwnedFd, Errno> {
        let mut far = None;
        let near = private(|| {
            let (near, other) = sys::socket_pair(libc::SOCK_SEQPACKET)?;
            far = Some(raise(other)?);
            Ok(near)
        })?;
        let bytes = postcard::to_stdvec(request).map_err(|_| Errno::INVAL)?;
        let far = far.as_ref().map(AsFd::as_fd);
        match passing::send(self.0.as_fd(), &bytes, far, libc::MSG_DONTWAIT) {
            Ok(()) => Ok(near),
            // It is gone, or overrun.
            Err(_) => Err(Errno::NETUNREACH),
        }
    }
}

/// Reads the answer, which is there.
pub fn receive(near: &OwnedFd) -> Result<(Reply, Option<OwnedFd>), Errno> {
    let mut reply = Err(Errno::NETUNREACH);
    let attached = private(|| match passing::receive(near.as_fd(), MESSAGE_MAX) {
        passing::Received::Message(bytes, attached) => {
            reply = postcard::from_bytes(&bytes).map_err(|_| Errno::NETUNREACH);
            attached.ok_or(Errno::NOENT)
        }
        _ => Err(Errno::NOENT),
    });
    Ok((reply?, attached.ok()))
}
