//! Sending and receiving on sockets: every header, address and control message is copied, every buffer becomes pieces.

use std::net::{Ipv4Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Args;
use super::memory::int;
use super::{interfaces, outside, sockets};
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::{MONITOR_FD_FLOOR, guest_fd};
use crate::memory::access::{self, Pieces};
use crate::network::address;
use crate::network::host;
use crate::network::keys::{self, Protocol};
use crate::network::netlink;
use crate::network::place::Place;
use crate::network::sockets::Kind;
use crate::sys::calls::{output, value};
use crate::sys::messages;
use crate::task::Task;

/// `struct msghdr`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    name: u64,
    name_length: u32,
    padding: u32,
    vector: u64,
    count: u64,
    control: u64,
    control_length: u64,
    flags: i32,
    tail: u32,
}

const CONTROL_MAX: u64 = 16 << 10;
const MESSAGES_MAX: u64 = 1024;

/// Counts what crosses the call's connection.
fn count(task: &Task, fd: i32, result: &SysResult, out: bool) {
    if let Ok(bytes) = result
        && task.process.contained
    {
        task.process.transferred(fd, *bytes, out);
    }
}

/// Where a message goes.
enum Route {
    /// To the peer, or nowhere: the kernel knows.
    Peer,
    /// The addresses to try, best first.
    Named(Vec<Vec<u8>>),
    /// A datagram inside the instance: lost if nobody is there.
    Datagram(Vec<Vec<u8>>),
    /// To the kernel, which is the monitor.
    Netlink,
}

/// What the address of a message means for the socket that sends it; it was copied from the guest once.
fn route(task: &Task, fd: i32, given: &[u8]) -> Result<Route, Errno> {
    let sockets = task.process.lock_sockets();
    match sockets.kind(fd)? {
        Kind::Inside {
            family,
            kind: libc::SOCK_DGRAM,
        } => {
            if given.is_empty() {
                return Ok(Route::Datagram(Vec::new()));
            }
            let wanted = address::family(given)?;
            if wanted != family && !(family == libc::AF_INET6 && wanted == libc::AF_INET) {
                return Err(Errno::AFNOSUPPORT);
            }
            let destination = keys::destination(address::inet(given)?);
            if destination.port() == 0 {
                return Err(Errno::INVAL);
            }
            drop(sockets);
            if !keys::is_inside(destination.ip()) {
                outside::ensure_datagrams(task, destination, false)?;
            } else if outside::is_resolver(destination) {
                outside::ensure_resolver(task)?;
            }
            let mut sockets = task.process.lock_sockets();
            if host::local(fd)?.len() <= 2 {
                sockets.bind(fd, libc::SOCK_DGRAM, address::unspecified(family))?;
            }
            let keys = keys::answering(Protocol::Udp, destination);
            Ok(Route::Datagram(
                keys.iter().map(|key| sockets.place.address(key)).collect(),
            ))
        }
        Kind::Unix { kind } if !given.is_empty() => {
            if kind != libc::SOCK_DGRAM {
                return Err(if host::peer(fd).is_ok() {
                    Errno::ISCONN
                } else {
                    Errno::OPNOTSUPP
                });
            }
            drop(sockets);
            let key = sockets::unix_key(task, kind, &address::unix(given)?)?;
            let sockets = task.process.lock_sockets();
            Ok(Route::Named(vec![sockets.place.address(&key)]))
        }
        Kind::Netlink => Ok(Route::Netlink),
        _ => Ok(Route::Peer),
    }
}

/// Sends a message where it is to go.
fn send_routed(task: &Task, fd: i32, given: &[u8], pieces: &Pieces, control: &[u8], flags: u64) -> SysResult {
    match route(task, fd, given)? {
        Route::Peer => send(fd, pieces, control, flags),
        Route::Named(addresses) => {
            let result = try_each(fd, &addresses, pieces, control, flags);
            if result == Err(Errno::NOENT) {
                return Err(Errno::CONNREFUSED);
            }
            result
        }
        Route::Datagram(addresses) => send_datagram(task, fd, &addresses, pieces, flags),
        Route::Netlink => interfaces::send(task, fd, given, pieces),
    }
}

/// The first address behind which somebody is. Without any: the peer.
fn try_each(fd: i32, addresses: &[Vec<u8>], pieces: &Pieces, control: &[u8], flags: u64) -> SysResult {
    let mut result = match addresses {
        [] => return send_to(fd, &[], pieces, control, flags),
        _ => Err(Errno::CONNREFUSED),
    };
    for address in addresses {
        result = send_to(fd, address, pieces, control, flags);
        if !matches!(result, Err(Errno::CONNREFUSED | Errno::NOENT)) {
            break;
        }
    }
    result
}

/// How long a sender waits for a receiver that does not read before the datagram is lost: so many steps of a millisecond.
const PATIENCE: u32 = 100;

/// A UDP datagram inside the instance. Nobody there: it is lost, as on a network. A full queue: the kernel keeps few datagrams
/// (net.unix.max_dgram_qlen), so a blocking sender waits a little before it is lost; another one is told.
fn send_datagram(task: &Task, fd: i32, addresses: &[Vec<u8>], pieces: &Pieces, flags: u64) -> SysResult {
    let dontwait = u64::from(libc::MSG_DONTWAIT.unsigned_abs());
    let blocks = flags & dontwait == 0 && crate::sys::flags(&fd)? & libc::O_NONBLOCK == 0;
    let length = pieces.length();
    for _ in 0..PATIENCE {
        match try_each(fd, addresses, pieces, &[], flags | dontwait) {
            Err(Errno::AGAIN) if blocks => {
                let mut step = [0i64, 1_000_000];
                let args = [value(0), value(0), output(&mut step), value(0), value(8)];
                task.call(libc::SYS_ppoll, args)?;
            }
            // Nobody is there, or whoever is there has another peer.
            Err(Errno::CONNREFUSED | Errno::NOENT | Errno::PERM) if !addresses.is_empty() => {
                return Ok(length);
            }
            Err(Errno::NOTCONN) => {
                let nobody = task.process.lock_sockets().nobody(fd).is_some();
                return Err(if nobody {
                    Errno::CONNREFUSED
                } else {
                    Errno(libc::EDESTADDRREQ)
                });
            }
            result => return result,
        }
    }
    Ok(length)
}

/// Implements sendto(2).
pub fn sendto(task: &mut Task, [fd, buffer, length, flags, to, to_length]: Args) -> SysResult {
    let pieces = access::socket_buffer(buffer, length)?;
    let fd = guest_fd(int(fd))?;
    let given = if to == 0 {
        Vec::new()
    } else {
        address::read(to, to_length)?
    };
    let result = send_routed(task, fd, &given, &pieces, &[], flags);
    count(task, fd, &result, true);
    result
}

/// write(2) to a socket that is not connected.
pub fn write(task: &Task, fd: i32, pieces: &Pieces) -> SysResult {
    let kind = task.process.lock_sockets().kind(fd)?;
    if kind == Kind::Netlink {
        interfaces::send(task, fd, &[], pieces)
    } else {
        Err(Errno::NOTCONN)
    }
}

/// Where a datagram from a socket of this name comes from, for a receiver of a family: a socket of all IPv6 addresses sends from the
/// IPv4 one, too.
fn seen_from(family: i32, from: SocketAddr) -> SocketAddr {
    if family == libc::AF_INET && from.is_ipv6() && from.ip().is_unspecified() {
        return (Ipv4Addr::LOCALHOST, from.port()).into();
    }
    keys::destination(from)
}

/// The address of a message that was received, as the guest knows it.
fn sender(task: &Task, fd: i32, raw: &[u8]) -> Vec<u8> {
    let sockets = task.process.lock_sockets();
    match sockets.kind(fd) {
        Ok(Kind::Inside {
            family,
            kind: libc::SOCK_DGRAM,
        }) => Place::key(raw)
            .and_then(keys::address)
            .map_or_else(Vec::new, |from| {
                address::inet_bytes(family, seen_from(family, from))
            }),
        Ok(Kind::Unix { .. }) if raw.len() > 2 => address::unix_bytes(&sockets.unix_name(raw)),
        Ok(Kind::Netlink) => netlink::address_bytes(0),
        // A stream has no address.
        _ => Vec::new(),
    }
}

/// Implements recvfrom(2).
pub fn recvfrom(task: &mut Task, [fd, buffer, length, flags, from, from_length]: Args) -> SysResult {
    let pieces = access::socket_buffer(buffer, length)?;
    let fd = guest_fd(int(fd))?;
    let received = receive(fd, &pieces, &mut [], flags);
    count(task, fd, &received.result, false);
    if received.result.is_ok() && from != 0 {
        address::write(&sender(task, fd, &received.name), from, from_length)?;
    }
    received.result
}

/// A message of the guest's buffers to the peer of a socket.
pub fn send(fd: i32, pieces: &Pieces, control: &[u8], flags: u64) -> SysResult {
    send_to(fd, &[], pieces, control, flags)
}

/// The same to an address of the host's.
fn send_to(fd: i32, name: &[u8], pieces: &Pieces, control: &[u8], flags: u64) -> SysResult {
    messages::send(fd, name, pieces, control, flags)
}

/// A message that was received: the bytes are in the guest's buffers.
struct Received {
    result: SysResult,
    /// The raw address of the sender.
    name: Vec<u8>,
    control_length: usize,
    flags: i32,
}

fn receive(fd: i32, pieces: &Pieces, control: &mut [u8], flags: u64) -> Received {
    let mut name = [0u8; 128];
    let received = messages::receive(fd, &mut name, pieces, control, flags);
    // A TCP socket without a connection says so; a unix socket says that the call is wrong.
    let result = match received.result {
        Err(Errno::INVAL) if host::peer(fd) == Err(Errno::NOTCONN) => Err(Errno::NOTCONN),
        result => result,
    };
    Received {
        result,
        name: name[..received.named].to_vec(),
        control_length: received.control,
        flags: received.flags,
    }
}

/// Descriptors that a control message carries must be the guest's; says whether there are any.
fn check_control(control: &[u8]) -> Result<bool, Errno> {
    const HEADER: usize = 16;
    let mut carries = false;
    let mut at = 0;
    while at + HEADER <= control.len() {
        let word = |from: usize, length: usize| &control[at + from..at + from + length];
        let length = word(0, 8)
            .try_into()
            .map(usize::from_ne_bytes)
            .map_err(|_| Errno::INVAL)?;
        let level = word(8, 4)
            .try_into()
            .map(i32::from_ne_bytes)
            .map_err(|_| Errno::INVAL)?;
        let kind = word(12, 4)
            .try_into()
            .map(i32::from_ne_bytes)
            .map_err(|_| Errno::INVAL)?;
        if length < HEADER || length > control.len() - at {
            return Err(Errno::INVAL);
        }
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            carries = true;
            for fd in control[at + HEADER..at + length].chunks_exact(4) {
                let fd = i32::from_ne_bytes([fd[0], fd[1], fd[2], fd[3]]);
                if !(0..MONITOR_FD_FLOOR).contains(&fd) {
                    return Err(Errno::BADF);
                }
            }
        }
        at += length.next_multiple_of(8);
    }
    Ok(carries)
}

fn read_header(address: u64) -> Result<(Header, Pieces), Errno> {
    let header: Header = access::read(address)?;
    if header.count > access::IOV_MAX {
        return Err(Errno::MSGSIZE);
    }
    if header.name != 0 && header.name_length > i32::MAX.unsigned_abs() {
        return Err(Errno::INVAL);
    }
    if header.control_length > CONTROL_MAX {
        return Err(Errno(libc::ENOBUFS));
    }
    let pieces = access::vector(header.vector, header.count)?;
    Ok((header, pieces))
}

/// Implements sendmsg(2).
pub fn sendmsg(task: &mut Task, [fd, message, flags, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let (header, pieces) = read_header(message)?;
    let given = if header.name == 0 {
        Vec::new()
    } else {
        address::read(header.name, u64::from(header.name_length))?
    };
    let mut control: Vec<u8> = if header.control == 0 {
        Vec::new()
    } else {
        access::read_array(header.control, header.control_length)?
    };
    if !matches!(task.process.lock_sockets().kind(fd)?, Kind::Unix { .. }) {
        // TCP and UDP carry no descriptors and no credentials; the rest concerns a network.
        control.clear();
    }
    if check_control(&control)?
        && let Some(storage) = &task.process.storage
    {
        storage.hides();
    }
    let result = send_routed(task, fd, &given, &pieces, &control, flags);
    count(task, fd, &result, true);
    result
}

/// Implements recvmsg(2).
pub fn recvmsg(task: &mut Task, [fd, message, flags, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let (mut header, pieces) = read_header(message)?;
    let room = if header.control == 0 {
        0
    } else {
        usize::try_from(header.control_length).unwrap_or(0)
    };
    let mut control = vec![0u8; room];
    let message_of = receive(fd, &pieces, &mut control, flags);
    count(task, fd, &message_of.result, false);
    let received = message_of.result?;
    access::write_bytes(header.control, &control[..message_of.control_length])?;
    let name = if header.name == 0 {
        Vec::new()
    } else {
        sender(task, fd, &message_of.name)
    };
    let room = usize::try_from(header.name_length).unwrap_or(0);
    access::write_bytes(header.name, &name[..name.len().min(room)])?;
    header.name_length = u32::try_from(name.len()).unwrap_or(0);
    header.control_length = message_of.control_length as u64;
    header.flags = message_of.flags;
    access::write(message, &header)?;
    Ok(received)
}

/// Makes one call for each message of an array; stops at the first error, which counts only if it is the first message.
fn each_message(
    task: &mut Task,
    fd: u64,
    vector: u64,
    length: u64,
    flags: u64,
    one: fn(&mut Task, Args) -> SysResult,
) -> SysResult {
    const STEP: u64 = 64;
    let mut done = 0;
    while done < length.min(MESSAGES_MAX) {
        let at = vector.checked_add(done * STEP).ok_or(Errno::FAULT)?;
        match one(task, [fd, at, flags, 0, 0, 0]) {
            Ok(bytes) => access::write(at + 56, &u32::try_from(bytes).unwrap_or(u32::MAX))?,
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
        done += 1;
    }
    Ok(done)
}

/// Implements sendmmsg(2).
pub fn sendmmsg(task: &mut Task, [fd, vector, length, flags, ..]: Args) -> SysResult {
    each_message(task, fd, vector, length, flags, sendmsg)
}

/// Implements recvmmsg(2) with MSG_WAITFORONE's rule: only the first message is waited for.
pub fn recvmmsg(task: &mut Task, [fd, vector, length, flags, ..]: Args) -> SysResult {
    each_message(task, fd, vector, length, flags, recvmsg)
}
