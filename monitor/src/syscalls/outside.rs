//! Sockets and the network outside: what an instance does with the broker's answers (`crate::network::broker`).

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::socket_options;
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::exclusive;
use crate::network::address;
use crate::network::host::{self, Mark};
use crate::network::keys::Protocol;
use crate::network::request::{self, Broker, Reply, Request};
use crate::network::resolver;
use crate::sys;
use crate::sys::calls::{output, value};
use crate::task::Task;

/// How long the broker may take, seconds: it answers at once.
const PATIENCE: i64 = 10;

/// Waits until a descriptor has one of the events; false when the time is over. A signal ends it.
fn wait(task: &Task, fd: RawFd, events: i16, patience: Option<[i64; 2]>) -> Result<bool, Errno> {
    // `struct pollfd`: descriptor, events and what came of them.
    let mut polled = [fd, i32::from(events)];
    let mut left = patience.unwrap_or_default();
    let timeout = if patience.is_some() {
        output(&mut left)
    } else {
        value(0)
    };
    let args = [output(&mut polled), value(1), timeout, value(0), value(8)];
    Ok(task.call(libc::SYS_ppoll, args)? > 0)
}

fn ask(task: &Task, broker: &Broker, request: &Request) -> Result<(Reply, Option<OwnedFd>), Errno> {
    let near = broker.send(request)?;
    if !wait(task, near.as_raw_fd(), libc::POLLIN, Some([PATIENCE, 0]))? {
        return Err(Errno(libc::ETIMEDOUT));
    }
    request::receive(&near)
}

fn broker(task: &Task) -> Option<Arc<Broker>> {
    task.process.lock_sockets().broker.clone()
}

/// Says once for each destination which rule is lacking.
fn report(task: &Task, protocol: Protocol, to: SocketAddr) {
    if task.process.lock_sockets().is_first_refusal(protocol, to) {
        let spoken = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        eprintln!("mayfly-monitor: network.allow has no rule for {to} ({spoken})");
    }
}

/// Whether an address is that of the instance's resolver.
pub fn is_resolver(to: SocketAddr) -> bool {
    to == SocketAddr::new(resolver::ADDRESS.into(), resolver::PORT)
}

/// Has the broker make the resolver, the first time that it is needed.
pub fn ensure_resolver(task: &Task) -> Result<(), Errno> {
    let Some(broker) = broker(task) else { return Ok(()) };
    if task.process.lock_sockets().has_resolver {
        return Ok(());
    }
    if ask(task, &broker, &Request::Resolver)?.0 == Reply::Done {
        task.process.lock_sockets().has_resolver = true;
    }
    Ok(())
}

/// Has the broker make a socket that stands for an address, for datagrams. `tries`: it is only connected to, perhaps only to learn
/// a route, so a refusal is not told where TCP would be allowed.
pub fn ensure_datagrams(task: &Task, to: SocketAddr, tries: bool) -> Result<(), Errno> {
    let Some(broker) = broker(task) else {
        if !tries {
            report(task, Protocol::Udp, to);
        }
        return Err(Errno::NETUNREACH);
    };
    if task.process.lock_sockets().reached.contains(&to) {
        return Ok(());
    }
    match ask(task, &broker, &Request::Datagrams(to))?.0 {
        Reply::Done => {
            task.process.lock_sockets().reached.insert(to);
            Ok(())
        }
        Reply::Refused { half } => {
            if !(tries && half) {
                report(task, Protocol::Udp, to);
            }
            Err(Errno::ACCES)
        }
        Reply::Failed(errno) => Err(Errno(errno)),
    }
}

/// connect(2) of a TCP socket to the outside: the connection takes the place of the socket that the guest has made.
pub fn connect(task: &Task, fd: RawFd, family: i32, to: SocketAddr) -> SysResult {
    let Some(broker) = broker(task) else {
        report(task, Protocol::Tcp, to);
        return Err(Errno::NETUNREACH);
    };
    let (reply, made) = ask(task, &broker, &Request::Connect(to))?;
    let made = match (reply, made) {
        (Reply::Done, Some(made)) => made,
        (Reply::Refused { .. }, _) => {
            report(task, Protocol::Tcp, to);
            return Err(Errno::ACCES);
        }
        (Reply::Failed(errno), _) => return Err(Errno(errno)),
        (Reply::Done, None) => return Err(Errno::NETUNREACH),
    };
    let blocks = sys::flags(&fd)? & libc::O_NONBLOCK == 0;
    if blocks {
        wait(task, made.as_raw_fd(), libc::POLLOUT, None)?;
        match host::option(made.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR)? {
            0 => {}
            errno => return Err(Errno(errno)),
        }
        sys::set_flags(&made, 0)?;
    }
    host::set_mark(made.as_raw_fd(), Mark::of_family(family))?;
    socket_options::carry_over(task, fd, made.as_raw_fd());
    exchange(task, fd, &made)?;
    if blocks {
        Ok(0)
    } else {
        Err(Errno(libc::EINPROGRESS))
    }
}

/// Puts `made` where the guest has `fd`, in the epoll sets too.
fn exchange(task: &Task, fd: RawFd, made: &OwnedFd) -> Result<(), Errno> {
    let flags = if sys::closes_on_exec(&fd)? {
        libc::O_CLOEXEC
    } else {
        0
    };
    let watched = task.process.lock_sockets().take_watched(fd);
    {
        let _alone = exclusive();
        sys::replace_with(made, fd, flags)?;
    }
    for (set, event) in watched {
        let event = libc::epoll_event {
            events: event[0],
            u64: u64::from(event[1]) | u64::from(event[2]) << 32,
        };
        // The set may be gone.
        let _ = sys::watch(&set, fd, event);
    }
    Ok(())
}

/// connect(2) once more on a connection to the outside: how far it is.
pub fn connect_again(fd: RawFd) -> SysResult {
    match host::option(fd, libc::SOL_SOCKET, libc::SO_ERROR)? {
        0 if host::peer(fd).is_ok() => Err(Errno::ISCONN),
        0 => Err(Errno(libc::EALREADY)),
        errno => Err(Errno(errno)),
    }
}

/// The address of a connection to the outside, as a socket of its family has it.
pub fn shown(family: i32, raw: &[u8]) -> Result<Vec<u8>, Errno> {
    Ok(address::inet_bytes(family, address::inet(raw)?))
}
