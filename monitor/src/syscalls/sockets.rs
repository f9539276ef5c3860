//! Making, naming and connecting sockets. What they are inside, `crate::network` says.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};

use super::memory::int;
use super::{Args, Entry, Level, entry, interfaces, messages, outside, paths, socket_options};
use crate::errno::{Errno, SysResult};
use crate::fs::At;
use crate::fs::descriptors::{admit, exclusive, guest_fd, hand_out, take_up};
use crate::memory::access;
use crate::network::address::{self, UnixName};
use crate::network::host::{self, Mark};
use crate::network::keys::{self, Protocol};
use crate::network::netlink;
use crate::network::sockets::{BACKLOG, CALLER_PORT, Kind, Sockets};
use crate::ready::Wait;
use crate::sys;
use crate::sys::calls::{output, value};
use crate::task::Task;

const AREA: &str = "sockets";

pub const ENTRIES: &[Entry] = &[
    entry(
        libc::SYS_socket,
        AREA,
        Level::Emulated,
        socket,
        "TCP, UDP, unix, NETLINK_ROUTE of `lo`; no raw, packet or vsock",
    ),
    entry(
        libc::SYS_socketpair,
        AREA,
        Level::Forwarded,
        socketpair,
        "unix only",
    ),
    entry(libc::SYS_bind, AREA, Level::Emulated, bind, ""),
    entry(libc::SYS_listen, AREA, Level::Emulated, listen, ""),
    entry(
        libc::SYS_accept,
        AREA,
        Level::Emulated,
        accept,
        "the call's connection, and those from inside",
    ),
    entry(
        libc::SYS_accept4,
        AREA,
        Level::Emulated,
        accept4,
        "the call's connection, and those from inside",
    ),
    entry(
        libc::SYS_connect,
        AREA,
        Level::Emulated,
        connect,
        "inside the instance, and where network.allow has a rule",
    ),
    entry(libc::SYS_getsockname, AREA, Level::Emulated, getsockname, ""),
    entry(libc::SYS_getpeername, AREA, Level::Emulated, getpeername, ""),
    entry(
        libc::SYS_getsockopt,
        AREA,
        Level::Emulated,
        socket_options::getsockopt,
        "",
    ),
    entry(
        libc::SYS_setsockopt,
        AREA,
        Level::Emulated,
        socket_options::setsockopt,
        "",
    ),
    entry(libc::SYS_shutdown, AREA, Level::Forwarded, shutdown, ""),
    entry(libc::SYS_sendto, AREA, Level::Forwarded, messages::sendto, ""),
    entry(libc::SYS_recvfrom, AREA, Level::Forwarded, messages::recvfrom, ""),
    entry(libc::SYS_sendmsg, AREA, Level::Forwarded, messages::sendmsg, ""),
    entry(libc::SYS_recvmsg, AREA, Level::Forwarded, messages::recvmsg, ""),
    entry(libc::SYS_sendmmsg, AREA, Level::Forwarded, messages::sendmmsg, ""),
    entry(
        libc::SYS_recvmmsg,
        AREA,
        Level::Forwarded,
        messages::recvmmsg,
        "no timeout",
    ),
];

const INET: i32 = libc::AF_INET;
const INET6: i32 = libc::AF_INET6;
const TYPE_MASK: i32 = 0xf;
const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// A pipe: (read end, write end), both closed on exec.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    sys::pipe()
}

/// Moves a descriptor to a number of the guest's.
pub fn place(fd: OwnedFd, number: i32) -> Result<(), Errno> {
    if fd.as_raw_fd() == number {
        let _ = fd.into_raw_fd();
        return Ok(());
    }
    // The caller has found it to be the guest's.
    sys::replace(&fd, number)
}

fn number(fd: RawFd) -> u64 {
    u64::from(fd.unsigned_abs())
}

/// Closes descriptors that the guest has not been told of.
fn forget(fds: &[RawFd]) {
    let _alone = exclusive();
    for fd in fds {
        // Just made; should the guest have guessed the number, it loses what is its own.
        sys::close(*fd);
    }
}

/// Implements socket(2).
fn socket(task: &mut Task, [family, kind, protocol, ..]: Args) -> SysResult {
    let (family, kind, protocol) = (int(family), int(kind), int(protocol));
    let base = kind & TYPE_MASK;
    if kind & !(TYPE_MASK | FLAGS) != 0 {
        return Err(Errno::INVAL);
    }
    match (family, base, protocol) {
        (INET | INET6, libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP)
        | (INET | INET6, libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP)
        | (libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET, 0 | libc::AF_UNIX) => {
        }
        (INET | INET6, libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => return Err(Errno(libc::EPROTONOSUPPORT)),
        (INET | INET6, libc::SOCK_RAW, _) => return Err(Errno::PERM),
        (libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_DGRAM, libc::NETLINK_ROUTE) => {
            return interfaces::netlink_socket(task, base, kind & FLAGS).map(number);
        }
        (libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_DGRAM, _) => return Err(Errno(libc::EPROTONOSUPPORT)),
        (libc::AF_UNIX | libc::AF_NETLINK, ..) => return Err(Errno(libc::ESOCKTNOSUPPORT)),
        _ => return Err(Errno::AFNOSUPPORT),
    }
    let made = host::socket(libc::AF_UNIX, kind)?;
    host::set_mark(made.as_raw_fd(), Mark::of_family(family))?;
    bound_buffer(task, made.as_raw_fd(), base)?;
    Ok(number(admit(made)?))
}

/// Bounds what a socket can hold: it is memory of the node that no limit counts.
fn bound_buffer(task: &Task, fd: RawFd, kind: i32) -> Result<(), Errno> {
    if !task.process.contained {
        return Ok(());
    }
    host::bound_buffer(fd, kind)
}

/// Implements socketpair(2).
fn socketpair(task: &mut Task, [family, kind, protocol, result, ..]: Args) -> SysResult {
    if int(family) != libc::AF_UNIX {
        return Err(Errno::OPNOTSUPP);
    }
    let mut ends = [0i32; 2];
    task.call(
        libc::SYS_socketpair,
        [value(family), value(kind), value(protocol), output(&mut ends)],
    )?;
    let ends = ends.map(take_up);
    if task.process.contained {
        for end in &ends {
            host::bound_buffer(end.as_raw_fd(), libc::SOCK_STREAM)?;
        }
    }
    let [one, two] = ends;
    if task.process.ready.is_awaited() {
        // Only a snapshot asks, and none is taken after the first.
        let inodes = [sys::stat(&one)?.st_ino, sys::stat(&two)?.st_ino];
        task.process.lock_sockets().paired(inodes, int(kind) & TYPE_MASK);
    }
    let numbers = [admit(one)?, admit(two)?];
    if let Err(errno) = access::write(result, &numbers) {
        forget(&numbers);
        return Err(errno);
    }
    Ok(0)
}

/// Implements bind(2).
fn bind(task: &mut Task, [fd, at, length, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let mut sockets = task.process.lock_sockets();
    let kind = sockets.kind(fd)?;
    let given = address::read(at, length)?;
    let is_named = host::local(fd)?.len() > 2;
    match kind {
        Kind::Call { .. } | Kind::Outside { .. } => Err(Errno::INVAL),
        Kind::Netlink => interfaces::bind(&sockets, fd, &given),
        Kind::Inside { family, kind } => {
            if address::family(&given)? != family {
                return Err(Errno::AFNOSUPPORT);
            }
            let wanted = address::inet(&given)?;
            if !keys::is_inside(wanted.ip()) {
                return Err(Errno::ADDRNOTAVAIL);
            }
            if is_named {
                return Err(Errno::INVAL);
            }
            sockets.bind(fd, kind, wanted)?;
            Ok(0)
        }
        Kind::Unix { kind } => {
            let name = address::unix(&given)?;
            if is_named {
                // The kernel leaves a socket alone that has a name already, when it is to choose one.
                return if name == UnixName::Unnamed {
                    Ok(0)
                } else {
                    Err(Errno::INVAL)
                };
            }
            bind_unix(task, &mut sockets, fd, kind, name)
        }
    }
}

fn bind_unix(task: &Task, sockets: &mut Sockets, fd: RawFd, kind: i32, name: UnixName) -> SysResult {
    match name {
        UnixName::Unnamed => {
            let mut random = [0; 4];
            for _ in 0..1 << 10 {
                sys::random(&mut random)?;
                let name = format!("{:05x}", u32::from_ne_bytes(random) & 0xf_ffff).into_bytes();
                match sockets.place.bind(fd, &keys::abstract_name(kind, &name)) {
                    Err(Errno::ADDRINUSE) => {}
                    result => return result.map(|()| 0),
                }
            }
            Err(Errno(libc::ENOSPC))
        }
        UnixName::Abstract(name) => {
            let key = keys::abstract_name(kind, &name);
            sockets.place.bind(fd, &key)?;
            sockets.name(&key, UnixName::Abstract(name));
            Ok(0)
        }
        UnixName::Path(path) => {
            let text = std::ffi::CString::new(path.clone()).map_err(|_| Errno::INVAL)?;
            let key = paths::make_socket_file(task, &text).map_err(|errno| match errno {
                Errno::EXIST => Errno::ADDRINUSE,
                errno => errno,
            })?;
            // A new file: whoever had its number before has no file any more.
            let bound = match sockets.place.bind(fd, &key) {
                Err(Errno::ADDRINUSE) => {
                    sockets.place.remove(&key);
                    sockets.place.bind(fd, &key)
                }
                result => result,
            };
            if let Err(errno) = bound {
                paths::remove_socket_file(task, &text);
                return Err(errno);
            }
            sockets.name(&key, UnixName::Path(path));
            Ok(0)
        }
    }
}

/// The key that a name of the guest's leads to.
pub fn unix_key(task: &Task, kind: i32, name: &UnixName) -> Result<String, Errno> {
    match name {
        UnixName::Unnamed => Err(Errno::INVAL),
        UnixName::Abstract(name) => {
            Ok(keys::leading_back(name).unwrap_or_else(|| keys::abstract_name(kind, name)))
        }
        UnixName::Path(path) => {
            let path = std::ffi::CString::new(path.clone()).map_err(|_| Errno::INVAL)?;
            let found = paths::files(task).stat(At::cwd(&path), 0)?;
            if found.st_mode & libc::S_IFMT != libc::S_IFSOCK {
                return Err(Errno::CONNREFUSED);
            }
            Ok(keys::file(found.st_dev, found.st_ino))
        }
    }
}

/// Implements listen(2).
fn listen(task: &mut Task, [fd, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let mut sockets = task.process.lock_sockets();
    let inside = match sockets.kind(fd)? {
        Kind::Inside {
            family,
            kind: libc::SOCK_STREAM,
        } => Some(family),
        Kind::Unix { kind } if kind != libc::SOCK_DGRAM => None,
        Kind::Call { .. } | Kind::Outside { .. } => return Err(Errno::INVAL),
        Kind::Inside { .. } | Kind::Unix { .. } | Kind::Netlink => return Err(Errno::OPNOTSUPP),
    };
    if let Some(family) = inside
        && host::local(fd)?.len() <= 2
    {
        sockets.bind(fd, libc::SOCK_STREAM, address::unspecified(family))?;
    }
    sys::listen(&fd, BACKLOG)?;
    let key = Sockets::key_of(&host::local(fd));
    if let (Some(_), Some(key)) = (inside, key)
        && let Some(address) = keys::address(&key)
    {
        if sockets.port == Some(address.port()) {
            sockets.listens(key)?;
            drop(sockets);
            task.process.ready.listening(fd);
        } else {
            drop(sockets);
            task.process.ledger.listens_elsewhere(address.port());
        }
    }
    Ok(0)
}

/// Implements accept(2).
fn accept(task: &mut Task, [fd, at, length, ..]: Args) -> SysResult {
    accept4(task, [fd, at, length, 0, 0, 0])
}

/// Implements accept4(2): connections from inside the instance, and the call's, which comes once.
fn accept4(task: &mut Task, [fd, at, length, flags, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let flags = int(flags);
    if flags & !FLAGS != 0 {
        return Err(Errno::INVAL);
    }
    let kind = task.process.lock_sockets().kind(fd)?;
    let stream = match kind {
        Kind::Inside { kind, .. } | Kind::Unix { kind } => kind != libc::SOCK_DGRAM,
        Kind::Call { .. } | Kind::Outside { .. } => true,
        Kind::Netlink => false,
    };
    if !stream {
        return Err(Errno::OPNOTSUPP);
    }
    if !host::is_listening(fd) {
        return Err(Errno::INVAL);
    }
    let blocks = sys::flags(&fd)? & libc::O_NONBLOCK == 0;
    if blocks && task.process.ready.is_awaited() && !host::is_readable(fd) {
        task.process.ready.before(&Wait::Accept(fd))?;
    }
    loop {
        // No addresses are asked for.
        let made = task.plain(libc::SYS_accept4, [number(fd), 0, 0, register(flags), 0, 0])?;
        let made = take_up(int(made));
        let peer = host::peer(made.as_raw_fd()).unwrap_or_default();
        if let Kind::Inside { family, .. } = kind {
            if peer.len() > 2 {
                host::set_mark(made.as_raw_fd(), Mark::of_family(family))?;
                bound_buffer(task, made.as_raw_fd(), libc::SOCK_STREAM)?;
                let made = admit(made)?;
                if at != 0
                    && let Ok(peer) = Sockets::peer(made)
                {
                    address::write(&address::inet_bytes(family, peer), at, length)?;
                }
                return Ok(number(made));
            }
            let dummy = admit(made)?;
            forget(&[dummy]);
            if let Some(accepted) = accept_call(task, family, flags)? {
                if at != 0 {
                    write_caller(family, at, length)?;
                }
                return Ok(number(accepted));
            }
            // Another listener has had it.
            continue;
        }
        bound_buffer(task, made.as_raw_fd(), libc::SOCK_STREAM)?;
        let made = admit(made)?;
        if at != 0 {
            let name = task.process.lock_sockets().unix_name(&peer);
            address::write(&address::unix_bytes(&name), at, length)?;
        }
        return Ok(number(made));
    }
}

fn register(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

/// Gives the guest the call's connection, if nobody has had it.
fn accept_call(task: &Task, family: i32, flags: i32) -> Result<Option<RawFd>, Errno> {
    let mut sockets = task.process.lock_sockets();
    let Some(connection) = sockets.take_connection() else {
        return Ok(None);
    };
    let made = hand_out(connection.as_fd(), flags & libc::SOCK_CLOEXEC != 0)?;
    let status = if flags & libc::SOCK_NONBLOCK != 0 {
        libc::O_NONBLOCK
    } else {
        0
    };
    sys::set_flags(&made, status)?;
    sockets.accepted_call(made, family);
    if let Some(member) = &task.process.member {
        task.process.ledger.kin.hold(member.row(), true);
    }
    Ok(Some(made))
}

fn write_caller(family: i32, at: u64, length: u64) -> Result<(), Errno> {
    let caller = (std::net::Ipv4Addr::LOCALHOST, CALLER_PORT).into();
    address::write(&address::inet_bytes(family, caller), at, length)
}

/// Implements connect(2).
fn connect(task: &mut Task, [fd, at, length, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let given = address::read(at, length)?;
    let wanted = address::family(&given)?;
    let kind = task.process.lock_sockets().kind(fd)?;
    match kind {
        Kind::Call { .. } => Err(Errno::ISCONN),
        Kind::Outside { .. } => outside::connect_again(fd),
        Kind::Netlink if wanted == libc::AF_UNSPEC => Ok(0),
        Kind::Netlink => interfaces::check_destination(&given).map(|()| 0),
        Kind::Inside {
            kind: libc::SOCK_DGRAM,
            ..
        } if wanted == libc::AF_UNSPEC => {
            disconnect(fd)?;
            task.process.lock_sockets().connected_anew(fd);
            Ok(0)
        }
        Kind::Inside { family, kind } => {
            if wanted != family && !(family == INET6 && wanted == INET) {
                return Err(Errno::AFNOSUPPORT);
            }
            let destination = keys::destination(address::inet(&given)?);
            if !keys::is_inside(destination.ip()) {
                if kind == libc::SOCK_STREAM {
                    if host::peer(fd).is_ok() || host::is_listening(fd) {
                        return Err(Errno::ISCONN);
                    }
                    return outside::connect(task, fd, family, destination);
                }
                outside::ensure_datagrams(task, destination, true)?;
            } else if outside::is_resolver(destination) {
                outside::ensure_resolver(task)?;
            }
            connect_inside(task, fd, (family, kind), destination)
        }
        Kind::Unix {
            kind: libc::SOCK_DGRAM,
        } if wanted == libc::AF_UNSPEC => disconnect(fd),
        Kind::Unix { kind } => {
            let key = unix_key(task, kind, &address::unix(&given)?)?;
            task.process.lock_sockets().place.connect(fd, &key)?;
            Ok(0)
        }
    }
}

/// Takes the peer of a datagram socket away.
fn disconnect(fd: RawFd) -> SysResult {
    let nobody = u16::try_from(libc::AF_UNSPEC).unwrap_or(0).to_ne_bytes();
    host::connect(fd, &[nobody, nobody].concat())?;
    Ok(0)
}

/// Connects to a name in the private directory: a port inside the instance, or what stands there for one outside. A listening socket always has room, so nothing waits.
fn connect_inside(
    task: &Task,
    fd: RawFd,
    (family, kind): (i32, i32),
    destination: std::net::SocketAddr,
) -> SysResult {
    let protocol = Protocol::of_type(kind);
    let mut sockets = task.process.lock_sockets();
    let bound_here = host::local(fd)?.len() <= 2;
    if bound_here {
        let own = if protocol == Protocol::Udp {
            // Any address: the peer decides which one it is, and there may be another peer later, of the other family.
            address::unspecified(family)
        } else if keys::is_inside(destination.ip()) {
            keys::destination(address::unspecified_like(destination.ip()))
        } else {
            address::unspecified_like(destination.ip())
        };
        sockets.bind(fd, kind, own)?;
    }
    let mut result = Err(Errno::CONNREFUSED);
    for key in keys::answering(protocol, destination) {
        result = sockets.place.connect(fd, &key);
        if result != Err(Errno::CONNREFUSED) {
            break;
        }
    }
    if bound_here
        && kind == libc::SOCK_STREAM
        && let Some(key) = Sockets::key_of(&host::local(fd))
    {
        // Nobody connects to it: it is only told to the peer.
        sockets.place.remove(&key);
    }
    drop(sockets);
    match result {
        // UDP knows only when it sends.
        Err(Errno::CONNREFUSED | Errno::PERM) if protocol == Protocol::Udp => {
            // Whoever was its peer before is not any more.
            disconnect(fd)?;
            let family = if destination.is_ipv6() { INET6 } else { INET };
            task.process.lock_sockets().connected_to_nobody(fd, family);
            Ok(0)
        }
        Ok(()) if protocol == Protocol::Udp => {
            task.process.lock_sockets().connected_anew(fd);
            Ok(0)
        }
        Err(Errno::INVAL) if host::is_listening(fd) => Err(Errno::ISCONN),
        result => result.map(|()| 0),
    }
}

/// Implements getsockname(2).
fn getsockname(task: &mut Task, [fd, at, length, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let sockets = task.process.lock_sockets();
    let bytes = match sockets.kind(fd)? {
        Kind::Call { family } => {
            let own = (std::net::Ipv4Addr::LOCALHOST, sockets.port.unwrap_or(0)).into();
            address::inet_bytes(family, own)
        }
        Kind::Inside { family, .. } => address::inet_bytes(family, sockets.local(fd, family)),
        Kind::Outside { family } => outside::shown(family, &host::local(fd)?)?,
        Kind::Unix { .. } => address::unix_bytes(&sockets.unix_name(&host::local(fd)?)),
        Kind::Netlink => netlink::address_bytes(interfaces::port(fd)?),
    };
    drop(sockets);
    address::write(&bytes, at, length)?;
    Ok(0)
}

/// Implements getpeername(2).
fn getpeername(task: &mut Task, [fd, at, length, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let sockets = task.process.lock_sockets();
    let bytes = match sockets.kind(fd)? {
        Kind::Call { family } => {
            drop(sockets);
            write_caller(family, at, length)?;
            return Ok(0);
        }
        Kind::Inside { family, .. } => address::inet_bytes(family, Sockets::peer(fd)?),
        Kind::Outside { family } => outside::shown(family, &host::peer(fd)?)?,
        Kind::Unix { .. } => address::unix_bytes(&sockets.unix_name(&host::peer(fd)?)),
        Kind::Netlink => netlink::address_bytes(0),
    };
    drop(sockets);
    address::write(&bytes, at, length)?;
    Ok(0)
}

/// Implements shutdown(2).
fn shutdown(task: &mut Task, [fd, how, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    match task.process.lock_sockets().kind(fd)? {
        Kind::Inside { .. } if !host::is_listening(fd) => {
            host::peer(fd)?;
        }
        Kind::Netlink => return Err(Errno::OPNOTSUPP),
        _ => {}
    }
    task.plain(libc::SYS_shutdown, [number(fd), how, 0, 0, 0, 0])
}
