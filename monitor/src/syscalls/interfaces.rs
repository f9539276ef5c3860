//! Netlink sockets and the ioctls about interfaces: what of them is a system call. What they say, `crate::network` knows.

use std::os::fd::{AsRawFd, RawFd};

use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::admit;
use crate::memory::access::{self, Pieces};
use crate::network::host::{self, Mark};
use crate::network::interfaces;
use crate::network::netlink;
use crate::network::sockets::Sockets;
use crate::sys;
use crate::task::Task;

/// A socket of NETLINK_ROUTE; `flags` are those of socket(2).
pub fn netlink_socket(task: &Task, kind: i32, flags: i32) -> Result<RawFd, Errno> {
    let made = host::socket(libc::AF_UNIX, libc::SOCK_DGRAM | flags)?;
    host::set_mark(made.as_raw_fd(), Mark::Netlink)?;
    // Of its answers, too, only so much waits.
    host::bound_buffer(made.as_raw_fd(), libc::SOCK_STREAM)?;
    let made = admit(made)?;
    let mut sockets = task.process.lock_sockets();
    sockets.remember(made, libc::SOL_SOCKET, libc::SO_TYPE, kind);
    Ok(made)
}

/// The port of a netlink socket; 0 before it has one.
pub fn port(fd: RawFd) -> Result<u32, Errno> {
    let key = Sockets::key_of(&host::local(fd)).and_then(|key| netlink::port(&key));
    Ok(key.unwrap_or(0))
}

/// Gives it a port if it has none: the process, or whichever is free.
fn ensure_port(sockets: &Sockets, fd: RawFd) -> Result<u32, Errno> {
    let mut wanted = sys::process_id().unsigned_abs();
    for _ in 0..1 << 10 {
        match port(fd)? {
            0 => {}
            port => return Ok(port),
        }
        match sockets.place.bind(fd, &netlink::key(wanted)) {
            Err(Errno::ADDRINUSE) => {}
            result => result?,
        }
        let mut random = [0; 4];
        sys::random(&mut random)?;
        // As the kernel chooses: no process has such a number.
        wanted = u32::from_ne_bytes(random) | 1 << 31;
    }
    Err(Errno::ADDRINUSE)
}

/// bind(2) of a netlink socket. Groups may be joined; nothing ever changes of which they would be told.
pub fn bind(sockets: &Sockets, fd: RawFd, given: &[u8]) -> SysResult {
    let (wanted, _) = netlink::address(given)?;
    match (port(fd)?, wanted) {
        (_, 0) => ensure_port(sockets, fd).map(|_| 0),
        (0, wanted) => sockets.place.bind(fd, &netlink::key(wanted)).map(|()| 0),
        (port, wanted) if port == wanted => Ok(0),
        _ => Err(Errno::INVAL),
    }
}

/// Whether an address is the kernel's: a guest may ask nobody else.
pub fn check_destination(given: &[u8]) -> Result<(), Errno> {
    match netlink::address(given)? {
        (0, 0) => Ok(()),
        _ => Err(Errno::PERM),
    }
}

/// Sends requests: the answers are in the socket when this is done. `given` is the address, if there is any.
pub fn send(task: &Task, fd: RawFd, given: &[u8], pieces: &Pieces) -> SysResult {
    if !given.is_empty() {
        check_destination(given)?;
    }
    let length = pieces.length();
    if length > netlink::REQUEST_MAX {
        return Err(Errno::MSGSIZE);
    }
    let datagram = access::gather(pieces)?;
    let sockets = task.process.lock_sockets();
    let port = ensure_port(&sockets, fd)?;
    let own = sockets.place.address(&netlink::key(port));
    drop(sockets);
    for answer in netlink::answers(&datagram, port) {
        host::send_to(fd, &answer, &own).map_err(|errno| match errno {
            Errno::AGAIN => Errno(libc::ENOBUFS),
            errno => errno,
        })?;
    }
    Ok(length)
}

/// ioctl(2) about interfaces, which any socket answers; `None` where it is about something else.
pub fn ioctl(task: &Task, fd: RawFd, request: u64, argument: u64) -> Option<SysResult> {
    let lists = request == interfaces::SIOCGIFCONF;
    if !lists && !interfaces::asks(request) || task.process.lock_sockets().kind(fd).is_err() {
        return None;
    }
    Some(if lists {
        list(argument)
    } else {
        one(request, argument)
    })
}

fn one(request: u64, argument: u64) -> SysResult {
    let mut asked: [u8; interfaces::REQUEST] = access::read(argument)?;
    interfaces::answer(request, &mut asked)?;
    access::write(argument, &asked)?;
    Ok(0)
}

/// SIOCGIFCONF: as many as there is room for, or how much room it takes.
fn list(argument: u64) -> SysResult {
    let [room, buffer]: [u64; 2] = access::read(argument)?;
    let listed = interfaces::listed();
    let mut shown = listed.len();
    if buffer != 0 {
        // The upper half is padding.
        let room = super::memory::int(room);
        if usize::try_from(room).map_err(|_| Errno::INVAL)? < shown {
            shown = 0;
        }
        access::write_bytes(buffer, &listed[..shown])?;
    }
    access::write(argument, &u32::try_from(shown).unwrap_or(0))?;
    Ok(0)
}
