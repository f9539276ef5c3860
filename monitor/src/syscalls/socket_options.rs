//! Options of sockets.
//!
//! What a unix socket can hold is the host's; what only means something on a network is remembered and told again.

use std::os::fd::RawFd;

use super::Args;
use super::memory::int;
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::guest_fd;
use crate::memory::access;
use crate::network::host;
use crate::network::sockets::Kind;
use crate::sys;
use crate::sys::calls::{input, value as value_of};
use crate::task::Task;

/// Largest value of an option, bytes.
const VALUE_MAX: u64 = 4096;
/// What SO_RCVBUF and SO_SNDBUF say of TCP and UDP, bytes.
const BUFFER: i32 = 212_992;

/// Options of SOL_SOCKET that mean the same on a unix socket.
const HELD: [i32; 9] = [
    libc::SO_RCVTIMEO,
    libc::SO_SNDTIMEO,
    libc::SO_LINGER,
    libc::SO_KEEPALIVE,
    libc::SO_BROADCAST,
    libc::SO_OOBINLINE,
    libc::SO_REUSEADDR,
    libc::SO_RCVLOWAT,
    libc::SO_TIMESTAMP,
];
/// Options of IPPROTO_TCP that a connection to the outside may have.
const TCP: [i32; 7] = [
    libc::TCP_NODELAY,
    libc::TCP_CORK,
    libc::TCP_QUICKACK,
    libc::TCP_KEEPIDLE,
    libc::TCP_KEEPINTVL,
    libc::TCP_KEEPCNT,
    libc::TCP_USER_TIMEOUT,
];

fn is_held(kind: Kind, level: i32, option: i32) -> bool {
    match (kind, level) {
        (Kind::Outside { .. }, libc::IPPROTO_TCP) => TCP.contains(&option),
        (Kind::Unix { .. }, libc::SOL_SOCKET) if option == libc::SO_PASSCRED => true,
        (_, libc::SOL_SOCKET) => HELD.contains(&option),
        _ => false,
    }
}

/// Implements setsockopt(2).
pub fn setsockopt(task: &mut Task, [fd, level, option, value, length, _]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let kind = task.process.lock_sockets().kind(fd)?;
    let (level, option) = (int(level), int(option));
    if length > VALUE_MAX {
        return Err(Errno::INVAL);
    }
    let bytes: Vec<u8> = access::read_array(value, length)?;
    if is_held(kind, level, option) {
        let [fd, level, option, length] =
            [register(fd), register(level), register(option), length].map(value_of);
        return task.call(
            libc::SYS_setsockopt,
            [fd, level, option, input(bytes.as_slice()), length],
        );
    }
    match (level, option) {
        (
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER | libc::SO_ATTACH_BPF | libc::SO_MARK | libc::SO_BINDTODEVICE,
        ) => {
            return Err(Errno::PERM);
        }
        // What is in sockets is memory of the node that no limit counts: the sizes stay as they are.
        (libc::SOL_SOCKET, libc::SO_RCVBUF | libc::SO_SNDBUF) => {
            let size: i32 = access::read(value)?;
            if !task.process.contained {
                let [fd, level, option, length] =
                    [register(fd), register(level), register(option), 4].map(value_of);
                task.call(libc::SYS_setsockopt, [fd, level, option, input(&size), length])?;
            }
            return Ok(0);
        }
        (libc::SOL_SOCKET, _) => {}
        _ if matches!(kind, Kind::Unix { .. }) => return Err(Errno::OPNOTSUPP),
        _ => {}
    }
    let value = match bytes.as_slice() {
        [a, b, c, d, ..] => i32::from_ne_bytes([*a, *b, *c, *d]),
        [one, ..] => i32::from(*one),
        [] => return Err(Errno::INVAL),
    };
    task.process.lock_sockets().remember(fd, level, option, value);
    Ok(0)
}

/// Gives a connection to the outside the options that its socket had before.
pub fn carry_over(task: &Task, fd: RawFd, made: RawFd) {
    for (level, option, value) in task.process.lock_sockets().all_remembered(fd) {
        if level == libc::IPPROTO_TCP && TCP.contains(&option) {
            // A hint that is not taken costs nothing.
            let _ = host::set_option(made, level, option, value);
        }
    }
    for option in [libc::SO_KEEPALIVE, libc::SO_OOBINLINE] {
        if let Ok(value @ 1..) = host::option(fd, libc::SOL_SOCKET, option) {
            let _ = host::set_option(made, libc::SOL_SOCKET, option, value);
        }
    }
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        if let Ok(time) = host::time_option(fd, option) {
            let _ = host::set_time_option(made, option, time);
        }
    }
}

fn register(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

/// Implements getsockopt(2).
pub fn getsockopt(task: &mut Task, [fd, level, option, value, length, _]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let sockets = task.process.lock_sockets();
    let kind = sockets.kind(fd)?;
    let (level, option) = (int(level), int(option));
    let remembered = sockets.remembered(fd, level, option);
    drop(sockets);
    let room: i32 = access::read(length)?;
    let room = usize::try_from(room).map_err(|_| Errno::INVAL)?;
    let pretends = match kind {
        Kind::Call { family } | Kind::Outside { family } => Some((family, libc::SOCK_STREAM)),
        Kind::Inside { family, kind } => Some((family, kind)),
        Kind::Netlink => Some((libc::AF_NETLINK, libc::SOCK_RAW)),
        Kind::Unix { .. } => None,
    };
    let answer = match (pretends, level, option) {
        (Some((family, _)), libc::SOL_SOCKET, libc::SO_DOMAIN) => family,
        (Some((_, libc::SOCK_STREAM)), libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_TCP,
        (Some((libc::AF_NETLINK, _)), libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::NETLINK_ROUTE,
        (Some((libc::AF_NETLINK, kind)), libc::SOL_SOCKET, libc::SO_TYPE) => remembered.unwrap_or(kind),
        (Some(_), libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_UDP,
        (Some(_), libc::SOL_SOCKET, libc::SO_PEERCRED | libc::SO_PEERGROUPS | libc::SO_PASSCRED) => {
            return Err(Errno(libc::ENOPROTOOPT));
        }
        (Some(_), libc::SOL_SOCKET, libc::SO_RCVBUF | libc::SO_SNDBUF) => BUFFER,
        (_, libc::SOL_SOCKET, libc::SO_ERROR | libc::SO_TYPE | libc::SO_ACCEPTCONN) => {
            return forward(fd, level, option, (value, length), room);
        }
        _ if is_held(kind, level, option) => return forward(fd, level, option, (value, length), room),
        (None, libc::SOL_SOCKET, _) if remembered.is_none() && option != libc::SO_PRIORITY => {
            return forward(fd, level, option, (value, length), room);
        }
        (None, level, _) if level != libc::SOL_SOCKET => return Err(Errno::OPNOTSUPP),
        (Some(_), libc::IPPROTO_TCP, libc::TCP_MAXSEG) => 32768,
        _ => remembered.unwrap_or(0),
    };
    let bytes = answer.to_ne_bytes();
    let shown = bytes.len().min(room);
    access::write_bytes(value, &bytes[..shown])?;
    access::write(length, &u32::try_from(shown).unwrap_or(0))?;
    Ok(0)
}

fn forward(fd: RawFd, level: i32, option: i32, (value, length): (u64, u64), room: usize) -> SysResult {
    let mut bytes = [0u8; 256];
    let room = room.min(bytes.len());
    let size = sys::socket_option(&fd, level, option, &mut bytes[..room])?;
    access::write_bytes(value, &bytes[..size.min(room)])?;
    access::write(length, &u32::try_from(size).unwrap_or(0))?;
    Ok(0)
}
