//! What the parent waits for: its epoll, the signals and the standard streams as descriptors.

use std::os::fd::{AsRawFd, OwnedFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::parent::{Stop, stop};
use crate::errno::Errno;
use crate::fs::descriptors::{MONITOR_FD_FLOOR, raise};
use crate::sys;

/// What an epoll event is about: kind in the upper bits, child in the lower.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Signals,
    Commands,
    Listener,
    Channel(u32),
    Stdout(u32),
    Stderr(u32),
    Connection(u32),
    /// What the network broker tells.
    Broker,
}

impl Source {
    pub(super) fn encode(self) -> u64 {
        let (kind, child) = match self {
            Self::Signals => (0, 0),
            Self::Commands => (1, 0),
            Self::Listener => (2, 0),
            Self::Channel(child) => (3, child),
            Self::Stdout(child) => (4, child),
            Self::Stderr(child) => (5, child),
            Self::Connection(child) => (6, child),
            Self::Broker => (7, 0),
        };
        kind << 32 | u64::from(child)
    }

    pub(super) fn decode(data: u64) -> Option<Self> {
        let child = u32::try_from(data & u64::from(u32::MAX)).ok()?;
        Some(match data >> 32 {
            0 => Self::Signals,
            1 => Self::Commands,
            2 => Self::Listener,
            3 => Self::Channel(child),
            4 => Self::Stdout(child),
            5 => Self::Stderr(child),
            6 => Self::Connection(child),
            7 => Self::Broker,
            _ => return None,
        })
    }
}

/// Takes stdin and stdout for the control stream and leaves /dev/null in their place: 0, 1 and 2 are the guests'.
pub(super) fn take_streams() -> Result<(OwnedFd, OwnedFd), Errno> {
    let streams = (
        sys::duplicate(&0, MONITOR_FD_FLOOR)?,
        sys::duplicate(&1, MONITOR_FD_FLOOR)?,
    );
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for number in 0..2 {
        sys::replace(&null, number)?;
    }
    Ok(streams)
}

/// Adds a descriptor to the epoll.
pub(super) fn watch(epoll: &Epoll, fd: i32, source: Source, events: EventSet) -> Result<(), Stop> {
    epoll
        .ctl(
            ControlOperation::Add,
            fd,
            EpollEvent::new(events, source.encode()),
        )
        .map_err(|error| stop("epoll")(error.into()))
}

/// Ends the reports about a descriptor, whoever else holds it.
pub(super) fn unwatch(epoll: &Epoll, fd: Option<&OwnedFd>) {
    if let Some(fd) = fd {
        // ENOENT: it was not watched any more.
        let _ = epoll.ctl(ControlOperation::Delete, fd.as_raw_fd(), EpollEvent::default());
    }
}

/// SIGCHLD and SIGTERM as a descriptor; the masks of children are set by what runs in them.
pub(super) fn signal_descriptor() -> Result<OwnedFd, Errno> {
    let mask: u64 = 1 << (libc::SIGCHLD - 1) | 1 << (libc::SIGTERM - 1) | 1 << (libc::SIGINT - 1);
    crate::signals::host::set_mask(mask);
    raise(sys::signalfd(mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)?)
}

/// Whether something can be read now.
pub(super) fn has_input(fd: Option<&OwnedFd>) -> bool {
    let Some(fd) = fd else { return false };
    let mut polls = [libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }];
    sys::poll(&mut polls, 0).is_ok_and(|ready| ready > 0) && polls[0].revents & libc::POLLIN != 0
}
