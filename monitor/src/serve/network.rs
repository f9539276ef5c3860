//! The broker as `serve` knows it: a process of its own, made before the jail, which is told of each child.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::bundle::Bundle;
use crate::errno::{Errno, from_libc};
use crate::fs::Text;
use crate::fs::descriptors::raise;
use crate::guest::HOST_NAME;
use crate::lifecycle::end_process;
use crate::network::policy::Policy;
use crate::network::{broker, request, resolver};
use crate::sys::{self, passing};

/// Where names come from, as a container's runtime gives them whatever the image has: the machine's own names, and the resolver if
/// there is a network.
pub fn files(bundle: &Bundle) -> Vec<(&'static str, Text)> {
    let mut files = vec![(
        "/etc/hosts",
        Text(format!("127.0.0.1 localhost {HOST_NAME}\n::1 localhost\n").into_bytes()),
    )];
    if !bundle.function.network.is_empty() {
        let text = format!("nameserver {}\n", resolver::ADDRESS);
        files.push(("/etc/resolv.conf", Text(text.into_bytes())));
    }
    files
}

/// The way to the broker; its end is the broker's.
pub struct Link {
    pub channel: OwnedFd,
    pub pid: i32,
}

impl Link {
    /// Tells the broker where the private directories are; it becomes the user that they belong to.
    pub fn enclose(&self, scratch: &Path) -> Result<(), Errno> {
        let mut options = File::options();
        options
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW);
        let directory = options.open(scratch)?;
        passing::send(self.channel.as_fd(), SCRATCH, Some(directory.as_fd()), 0)
    }

    /// Tells the broker of a child; gives the child's way to it.
    pub fn introduce(&self, name: &str) -> Result<Arc<request::Broker>, Errno> {
        let (near, far) = sys::socket_pair(libc::SOCK_SEQPACKET)?;
        let near = raise(near)?;
        passing::send(self.channel.as_fd(), name.as_bytes(), Some(far.as_fd()), 0)?;
        Ok(Arc::new(request::Broker(near)))
    }
}

/// The first message on the link.
const SCRATCH: &[u8] = b"scratch";

/// Makes the broker, if the function has any network.
///
/// Preconditions: one thread, in the node's namespaces still, with its privileges.
pub fn start(bundle: &Bundle) -> Result<Option<Link>, Errno> {
    let policy = &bundle.function.network;
    if policy.is_empty() {
        return Ok(None);
    }
    let (near, far) = sys::socket_pair(libc::SOCK_SEQPACKET)?;
    let (near, far) = (raise(near)?, raise(far)?);
    // SAFETY: this process has one thread, so the child may go on as it was.
    let pid = i32::try_from(from_libc(unsafe { libc::fork() })?).map_err(|_| Errno::IO)?;
    if pid != 0 {
        return Ok(Some(Link { channel: near, pid }));
    }
    drop(near);
    match live(policy.clone(), far) {
        Ok(()) => end_process(0),
        Err(why) => {
            eprintln!("mayfly-monitor: the network broker: {why}");
            end_process(1)
        }
    }
}

/// The broker's life: nothing of `serve` but its end of the link, no privilege, of the host's files only what names need.
fn live(policy: Policy, link: OwnedFd) -> Result<(), String> {
    let text = |errno: Errno| errno.to_string();
    let number = link.as_raw_fd().unsigned_abs();
    // SAFETY: no pointers; nothing that is closed here is used by this process any more, which never drops it either.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::close_range(3, number - 1, 0);
        libc::close_range(number + 1, u32::MAX, 0);
    }
    let mut polled = [libc::pollfd {
        fd: link.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }];
    sys::poll(&mut polled, -1).map_err(text)?;
    let scratch = match passing::receive(link.as_fd(), request::MESSAGE_MAX) {
        passing::Received::Message(first, Some(scratch)) if first == SCRATCH => scratch,
        // `serve` could not start.
        _ => return Ok(()),
    };
    crate::jail::confine_broker(scratch.as_fd()).map_err(|error| error.to_string())?;
    // Changing the user took this away.
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let mut broker = broker::Broker::new(policy, scratch, link).map_err(text)?;
    broker.run().map_err(text)
}
