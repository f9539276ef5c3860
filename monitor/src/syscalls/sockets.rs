//! Sockets of a guest that has no network.
//!
//! A TCP or UDP socket of the guest is *virtual*: its descriptor is the read end of a pipe, so poll, epoll, O_NONBLOCK and
//! close behave, and it is quiet for ever. A listening one becomes readable once in the life of an instance, when the
//! monitor has the call's connection; accept(2) then hands that connection out. The connection is a unix socket that answers
//! as if it were TCP. Unix socket pairs are the host's; named unix sockets are refused.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::memory::int;
use super::messages;
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult, from_libc};
use crate::fs::descriptors::{admit, exclusive, guest_fd, hand_out, raise};
use crate::memory::access;
use crate::ready::Wait;
use crate::task::Task;

const AREA: &str = "sockets";

pub const ENTRIES: &[Entry] = &[
    entry(
        libc::SYS_socket,
        AREA,
        Level::Emulated,
        socket,
        "TCP, UDP: virtual; unix",
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
        "the call's connection",
    ),
    entry(
        libc::SYS_accept4,
        AREA,
        Level::Emulated,
        accept4,
        "the call's connection",
    ),
    entry(
        libc::SYS_connect,
        AREA,
        Level::Emulated,
        connect,
        "ENETUNREACH: no network",
    ),
    entry(libc::SYS_getsockname, AREA, Level::Emulated, getsockname, ""),
    entry(libc::SYS_getpeername, AREA, Level::Emulated, getpeername, ""),
    entry(libc::SYS_getsockopt, AREA, Level::Emulated, getsockopt, ""),
    entry(libc::SYS_setsockopt, AREA, Level::Emulated, setsockopt, ""),
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
/// Socket pairs that a snapshot can know; more of them refuse it.
const PAIRS_MAX: usize = 4096;
/// Send buffer of a socket pair in an instance, bytes; the kernel doubles it for its own needs.
const PAIR_BUFFER: i32 = 32 << 10;
/// Ports for bind to 0 count up from here.
const FIRST_PORT: u16 = 40000;
/// The port that the caller of a function seems to have.
const PEER_PORT: u16 = 39999;

/// A socket the monitor answers for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Socket {
    Virtual { id: u32 },
    Connection { family: i32 },
}

/// What a virtual socket is; shared by duplicates.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inet {
    pub family: i32,
    pub kind: i32,
    pub port: Option<u16>,
    pub listening: bool,
}

/// The sockets of a process.
pub struct Sockets {
    fds: HashMap<i32, Socket>,
    inets: Vec<Inet>,
    /// Write ends of the virtual sockets' pipes, by id: kept, so that no reader sees an end.
    gates: Vec<Option<OwnedFd>>,
    /// Port of the function; `None` in `run`.
    port: Option<u16>,
    /// The call's connection until it is accepted.
    connection: Option<OwnedFd>,
    next_port: u16,
    /// Socket pairs by the inodes of their ends, and their type.
    pairs: Vec<([u64; 2], i32)>,
}

/// What a snapshot keeps of them.
#[derive(Clone, Serialize, Deserialize)]
pub struct SocketsState {
    /// Descriptor, socket, close on exec, non-blocking.
    pub fds: Vec<(i32, Socket, bool, bool)>,
    pub inets: Vec<Inet>,
}

/// A pipe: (read end, write end), both closed on exec.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut ends = [0i32; 2];
    // SAFETY: a local array of two.
    from_libc(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: two fresh descriptors.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

fn set_flags(fd: i32, close_on_exec: bool, nonblocking: bool) -> Result<(), Errno> {
    let flags = if nonblocking { libc::O_NONBLOCK } else { 0 };
    // SAFETY: fcntl without pointers.
    from_libc(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) })?;
    let close = if close_on_exec { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: fcntl without pointers.
    from_libc(unsafe { libc::fcntl(fd, libc::F_SETFD, close) })?;
    Ok(())
}

impl Sockets {
    pub fn new(port: Option<u16>) -> Self {
        Self {
            fds: HashMap::new(),
            inets: Vec::new(),
            gates: Vec::new(),
            port,
            connection: None,
            next_port: FIRST_PORT,
            pairs: Vec::new(),
        }
    }

    pub fn get(&self, fd: i32) -> Option<Socket> {
        self.fds.get(&fd).copied()
    }

    fn inet(&mut self, fd: i32) -> Option<&mut Inet> {
        match self.fds.get(&fd) {
            Some(Socket::Virtual { id }) => self.inets.get_mut(*id as usize),
            _ => None,
        }
    }

    /// Which socket pair an inode is an end of: (inode of the first end, number of the end, type).
    pub fn pair_of(&self, inode: u64) -> Option<(u64, u8, i32)> {
        self.pairs.iter().find_map(|(ends, kind)| {
            let end = ends.iter().position(|known| *known == inode)?;
            Some((ends[0], u8::try_from(end).unwrap_or(0), *kind))
        })
    }

    pub fn is_connection(&self, fd: i32) -> bool {
        matches!(self.get(fd), Some(Socket::Connection { .. }))
    }

    /// A new virtual socket as a descriptor of the guest.
    fn create(&mut self, inet: Inet, close_on_exec: bool, nonblocking: bool) -> SysResult {
        let (read, write) = pipe()?;
        let write = raise(write)?;
        set_flags(read.as_raw_fd(), close_on_exec, nonblocking)?;
        let fd = admit(read)?;
        let id = u32::try_from(self.inets.len()).map_err(|_| Errno::MFILE)?;
        self.inets.push(inet);
        self.gates.push(Some(write));
        self.fds.insert(fd, Socket::Virtual { id });
        Ok(u64::from(fd.unsigned_abs()))
    }

    /// Forgets `fd`; true when it was the last one of the call's connection.
    pub fn closing(&mut self, fd: i32) -> bool {
        match self.fds.remove(&fd) {
            Some(Socket::Connection { .. }) => !self
                .fds
                .values()
                .any(|socket| matches!(socket, Socket::Connection { .. })),
            Some(Socket::Virtual { id }) => {
                if !self.fds.values().any(|socket| *socket == Socket::Virtual { id }) {
                    self.gates[id as usize] = None;
                }
                false
            }
            None => false,
        }
    }

    pub fn duplicated(&mut self, old: i32, new: i32) {
        if let Some(socket) = self.get(old) {
            self.fds.insert(new, socket);
        }
    }

    /// Gives the instance its connection: the listening sockets on the function's port become readable, once.
    pub fn connect_call(&mut self, connection: OwnedFd) -> Result<(), Errno> {
        self.connection = Some(raise(connection)?);
        for (inet, gate) in self.inets.iter().zip(&self.gates) {
            if let Some(gate) = gate
                && inet.listening
                && inet.port == self.port
            {
                // SAFETY: one byte from a local into the monitor's own pipe.
                from_libc(unsafe { libc::write(gate.as_raw_fd(), [1u8].as_ptr().cast(), 1) } as i64)?;
            }
        }
        Ok(())
    }

    pub fn state(&self) -> Result<SocketsState, Errno> {
        let mut fds = Vec::new();
        for (fd, socket) in &self.fds {
            // SAFETY: fcntl without pointers.
            let close = from_libc(unsafe { libc::fcntl(*fd, libc::F_GETFD) })? != 0;
            // SAFETY: fcntl without pointers.
            let flags = from_libc(unsafe { libc::fcntl(*fd, libc::F_GETFL) })?;
            fds.push((
                *fd,
                *socket,
                close,
                flags & u64::from(libc::O_NONBLOCK.unsigned_abs()) != 0,
            ));
        }
        Ok(SocketsState {
            fds,
            inets: self.inets.clone(),
        })
    }

    /// Makes the sockets of a snapshot anew, under the same numbers.
    pub fn restore(port: Option<u16>, state: &SocketsState) -> Result<Self, Errno> {
        let mut sockets = Self::new(port);
        sockets.inets.clone_from(&state.inets);
        for id in 0..u32::try_from(state.inets.len()).map_err(|_| Errno::INVAL)? {
            let mut users = state
                .fds
                .iter()
                .filter(|(_, socket, ..)| *socket == Socket::Virtual { id });
            let Some((first, _, close, nonblocking)) = users.next() else {
                sockets.gates.push(None);
                continue;
            };
            let (read, write) = pipe()?;
            place(read, guest_fd(*first)?)?;
            set_flags(*first, *close, *nonblocking)?;
            for (fd, _, close, _) in users {
                let flags = if *close { libc::O_CLOEXEC } else { 0 };
                // SAFETY: two descriptor numbers of the guest's.
                from_libc(unsafe { libc::dup3(*first, guest_fd(*fd)?, flags) })?;
            }
            sockets.gates.push(Some(raise(write)?));
        }
        sockets.fds = state.fds.iter().map(|(fd, socket, ..)| (*fd, *socket)).collect();
        Ok(sockets)
    }
}

/// Moves a descriptor to a number of the guest's.
pub fn place(fd: OwnedFd, number: i32) -> Result<(), Errno> {
    if fd.as_raw_fd() == number {
        let _ = fd.into_raw_fd();
        return Ok(());
    }
    // SAFETY: dup2 onto a number that the caller has found to be the guest's.
    from_libc(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
    Ok(())
}

/// Implements socket(2).
fn socket(task: &mut Task, [family, kind, protocol, ..]: Args) -> SysResult {
    let (family, kind, protocol) = (int(family), int(kind), int(protocol));
    let close_on_exec = kind & libc::SOCK_CLOEXEC != 0;
    let nonblocking = kind & libc::SOCK_NONBLOCK != 0;
    let base = kind & TYPE_MASK;
    if kind & !(TYPE_MASK | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::INVAL);
    }
    match (family, base) {
        (INET | INET6, libc::SOCK_STREAM | libc::SOCK_DGRAM) => {
            let inet = Inet {
                family,
                kind: base,
                port: None,
                listening: false,
            };
            task.process
                .lock_sockets()
                .create(inet, close_on_exec, nonblocking)
        }
        (INET | INET6, libc::SOCK_RAW) => Err(Errno::PERM),
        (libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET) if protocol == 0 => {
            // SAFETY: socket has no pointers.
            let fd = from_libc(unsafe { libc::socket(family, kind, 0) })?;
            // SAFETY: a fresh descriptor.
            let fd = unsafe { OwnedFd::from_raw_fd(int(fd)) };
            Ok(u64::from(admit(fd)?.unsigned_abs()))
        }
        _ => Err(Errno::AFNOSUPPORT),
    }
}

/// Implements socketpair(2).
fn socketpair(task: &mut Task, [family, kind, protocol, result, ..]: Args) -> SysResult {
    if int(family) != libc::AF_UNIX {
        return Err(Errno::OPNOTSUPP);
    }
    let mut ends = [0i32; 2];
    // SAFETY: a local array of two.
    unsafe {
        task.host(
            libc::SYS_socketpair,
            [family, kind, protocol, ends.as_mut_ptr() as u64, 0, 0],
        )?
    };
    // SAFETY: two fresh descriptors.
    let ends = unsafe { [OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])] };
    if task.process.contained {
        for end in &ends {
            set_send_buffer(end)?;
        }
    }
    let [one, two] = ends;
    if task.process.ready.is_awaited() {
        // Only a snapshot asks, and none is taken after the first.
        let inodes = [inode(&one)?, inode(&two)?];
        let mut sockets = task.process.lock_sockets();
        if sockets.pairs.len() < PAIRS_MAX {
            sockets.pairs.push((inodes, int(kind) & TYPE_MASK));
        }
    }
    let numbers = [admit(one)?, admit(two)?];
    if let Err(errno) = access::write(result, &numbers) {
        let _alone = exclusive();
        for number in numbers {
            // SAFETY: closes what was just made and the guest does not know.
            unsafe { libc::close(number) };
        }
        return Err(errno);
    }
    Ok(0)
}

/// Bounds what one end of a socket pair can hold.
fn set_send_buffer(end: &OwnedFd) -> Result<(), Errno> {
    let size: i32 = PAIR_BUFFER;
    // SAFETY: a local int.
    let done = unsafe {
        libc::setsockopt(
            end.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            (&raw const size).cast(),
            4,
        )
    };
    from_libc(done).map(|_| ())
}

fn inode(fd: &OwnedFd) -> Result<u64, Errno> {
    // SAFETY: all-zero is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a local of the documented type.
    from_libc(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) })?;
    Ok(stat.st_ino)
}

/// Port in a `sockaddr_in` or `sockaddr_in6`.
fn read_port(family: i32, address: u64, length: u64) -> Result<u16, Errno> {
    let needed: u64 = if family == INET6 { 24 } else { 16 };
    if length < needed {
        return Err(Errno::INVAL);
    }
    let [low, high, first, second]: [u8; 4] = access::read(address)?;
    if i32::from(u16::from_ne_bytes([low, high])) != family {
        return Err(Errno::AFNOSUPPORT);
    }
    Ok(u16::from_be_bytes([first, second]))
}

/// Implements bind(2).
fn bind(task: &mut Task, [fd, address, length, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let mut sockets = task.process.lock_sockets();
    let next = sockets.next_port;
    let taken: Vec<u16> = sockets
        .inets
        .iter()
        .filter(|inet| inet.listening)
        .filter_map(|inet| inet.port)
        .collect();
    let Some(inet) = sockets.inet(fd) else {
        drop(sockets);
        require_socket(fd)?;
        return Err(Errno::ACCES);
    };
    if inet.port.is_some() {
        return Err(Errno::INVAL);
    }
    let port = read_port(inet.family, address, length)?;
    if port != 0 && taken.contains(&port) {
        return Err(Errno::ADDRINUSE);
    }
    inet.port = Some(if port == 0 { next } else { port });
    if port == 0 {
        sockets.next_port = next.checked_add(1).unwrap_or(FIRST_PORT);
    }
    Ok(0)
}

/// Implements listen(2).
fn listen(task: &mut Task, [fd, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let mut sockets = task.process.lock_sockets();
    let (port, next) = (sockets.port, sockets.next_port);
    let Some(inet) = sockets.inet(fd) else {
        drop(sockets);
        require_socket(fd)?;
        return Err(Errno::OPNOTSUPP);
    };
    if inet.kind != libc::SOCK_STREAM {
        return Err(Errno::OPNOTSUPP);
    }
    inet.listening = true;
    let chosen = *inet.port.get_or_insert(next);
    drop(sockets);
    if port == Some(chosen) {
        task.process.ready.listening(fd);
    } else {
        task.process.ledger.listens_elsewhere(chosen);
    }
    Ok(0)
}

/// ENOTSOCK, EBADF, or nothing for a socket of the host.
fn require_socket(fd: i32) -> Result<(), Errno> {
    let mut kind = 0i32;
    let mut length: libc::socklen_t = 4;
    // SAFETY: locals of the documented sizes.
    let done = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut length,
        )
    };
    from_libc(done).map(|_| ())
}

/// Implements accept(2).
fn accept(task: &mut Task, [fd, address, length, ..]: Args) -> SysResult {
    accept4(task, [fd, address, length, 0, 0, 0])
}

/// Implements accept4(2): the call's connection, once; after it nobody comes.
fn accept4(task: &mut Task, [fd, address, length, flags, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let flags = int(flags);
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::INVAL);
    }
    let family = {
        let mut sockets = task.process.lock_sockets();
        match sockets.inet(fd) {
            Some(inet) if inet.listening => inet.family,
            Some(_) => return Err(Errno::INVAL),
            None => {
                drop(sockets);
                require_socket(fd)?;
                return Err(Errno::INVAL);
            }
        }
    };
    // SAFETY: fcntl without pointers.
    let status = from_libc(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    if status & u64::from(libc::O_NONBLOCK.unsigned_abs()) == 0 {
        task.process.ready.before(&Wait::Accept(fd))?;
    }
    let mut byte = [0u8];
    // SAFETY: reads one byte of the pipe behind the virtual socket into a local; blocks as accept would.
    unsafe {
        task.host(
            libc::SYS_read,
            [u64::from(fd.unsigned_abs()), byte.as_mut_ptr() as u64, 1, 0, 0, 0],
        )?
    };
    let mut sockets = task.process.lock_sockets();
    let connection = sockets.connection.take().ok_or(Errno::AGAIN)?;
    let number = hand_out(
        std::os::fd::AsFd::as_fd(&connection),
        flags & libc::SOCK_CLOEXEC != 0,
    )?;
    set_flags(
        number,
        flags & libc::SOCK_CLOEXEC != 0,
        flags & libc::SOCK_NONBLOCK != 0,
    )?;
    sockets.fds.insert(number, Socket::Connection { family });
    drop(sockets);
    if address != 0 {
        write_address(family, PEER_PORT, address, length)?;
    }
    Ok(u64::from(number.unsigned_abs()))
}

/// Implements connect(2): there is no network, and nothing listens inside.
fn connect(task: &mut Task, [fd, address, length, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    if length < 2 {
        return Err(Errno::INVAL);
    }
    let [low, high]: [u8; 2] = access::read(address)?;
    let family = i32::from(u16::from_ne_bytes([low, high]));
    if task.process.lock_sockets().inet(fd).is_some() {
        return Err(if family == libc::AF_UNIX {
            Errno::AFNOSUPPORT
        } else {
            Errno::NETUNREACH
        });
    }
    require_socket(fd)?;
    Err(Errno(libc::ECONNREFUSED))
}

/// Writes the loopback address with `port`, cut to the length the guest gave, whose true length it learns.
fn write_address(family: i32, port: u16, address: u64, length: u64) -> Result<(), Errno> {
    let room: u32 = access::read(length)?;
    let mut bytes = Vec::with_capacity(28);
    bytes.extend(u16::try_from(family).unwrap_or(0).to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    if family == INET6 {
        bytes.extend([0; 4]);
        bytes.extend(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        bytes.extend([0; 4]);
    } else {
        bytes.extend(std::net::Ipv4Addr::LOCALHOST.octets());
        bytes.extend([0; 8]);
    }
    let shown = bytes.len().min(usize::try_from(room).unwrap_or(0));
    access::write_bytes(address, &bytes[..shown])?;
    access::write(length, &u32::try_from(bytes.len()).unwrap_or(0))
}

/// Implements getsockname(2).
fn getsockname(task: &mut Task, [fd, address, length, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let mut sockets = task.process.lock_sockets();
    let port = sockets.port.unwrap_or(0);
    let (family, port) = match (sockets.get(fd), sockets.inet(fd)) {
        (Some(Socket::Connection { family }), _) => (family, port),
        (_, Some(inet)) => (inet.family, inet.port.unwrap_or(0)),
        _ => {
            drop(sockets);
            require_socket(fd)?;
            access::write(address, &u16::try_from(libc::AF_UNIX).unwrap_or(1))?;
            access::write(length, &2u32)?;
            return Ok(0);
        }
    };
    drop(sockets);
    write_address(family, port, address, length)?;
    Ok(0)
}

/// Implements getpeername(2).
fn getpeername(task: &mut Task, [fd, address, length, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let socket = task.process.lock_sockets().get(fd);
    match socket {
        Some(Socket::Connection { family }) => {
            write_address(family, PEER_PORT, address, length)?;
            Ok(0)
        }
        Some(Socket::Virtual { .. }) => Err(Errno::NOTCONN),
        None => {
            require_socket(fd)?;
            access::write(address, &u16::try_from(libc::AF_UNIX).unwrap_or(1))?;
            access::write(length, &2u32)?;
            Ok(0)
        }
    }
}

/// Implements setsockopt(2).
fn setsockopt(task: &mut Task, [fd, level, option, value, length, _]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    if length > 4096 {
        return Err(Errno::INVAL);
    }
    let bytes: Vec<u8> = access::read_array(value, length)?;
    match task.process.lock_sockets().get(fd) {
        Some(Socket::Virtual { .. }) => return Ok(0),
        Some(Socket::Connection { .. }) if int(level) != libc::SOL_SOCKET => return Ok(0),
        _ => {}
    }
    if int(level) != libc::SOL_SOCKET {
        require_socket(fd)?;
        return Err(Errno(libc::ENOPROTOOPT));
    }
    match int(option) {
        // What is in sockets is memory of the node that no limit counts: the sizes stay as they are.
        libc::SO_RCVBUF | libc::SO_SNDBUF if task.process.contained => require_socket(fd).map(|()| 0),
        libc::SO_RCVBUF | libc::SO_SNDBUF | libc::SO_RCVTIMEO | libc::SO_SNDTIMEO => {
            // SAFETY: a local copy of the guest's value.
            unsafe {
                task.host(
                    libc::SYS_setsockopt,
                    [
                        u64::from(fd.unsigned_abs()),
                        level,
                        option,
                        bytes.as_ptr() as u64,
                        length,
                        0,
                    ],
                )
            }
        }
        libc::SO_ATTACH_FILTER | libc::SO_ATTACH_BPF => Err(Errno::PERM),
        // Hints for a network.
        _ => require_socket(fd).map(|()| 0),
    }
}

/// Implements getsockopt(2).
fn getsockopt(task: &mut Task, [fd, level, option, value, length, _]: Args) -> SysResult {
    const BUFFER: i32 = 212_992;
    let fd = guest_fd(int(fd))?;
    let (level, option) = (int(level), int(option));
    let room: u32 = access::read(length)?;
    let mut sockets = task.process.lock_sockets();
    let known = match (sockets.get(fd), sockets.inet(fd)) {
        (Some(Socket::Connection { family }), _) => Some((family, libc::SOCK_STREAM, false)),
        (_, Some(inet)) => Some((inet.family, inet.kind, inet.listening)),
        _ => None,
    };
    let connection = sockets.is_connection(fd);
    drop(sockets);
    let answer = match (known, level, option) {
        (Some((family, ..)), libc::SOL_SOCKET, libc::SO_DOMAIN) => family,
        (Some((_, kind, _)), libc::SOL_SOCKET, libc::SO_TYPE) => kind,
        (Some((_, libc::SOCK_STREAM, _)), libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_TCP,
        (Some(_), libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_UDP,
        (Some((.., listening)), libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => i32::from(listening),
        (Some(_), libc::SOL_SOCKET, libc::SO_PEERCRED) => return Err(Errno(libc::ENOPROTOOPT)),
        (Some(_), libc::SOL_SOCKET, libc::SO_RCVBUF | libc::SO_SNDBUF) => BUFFER,
        (Some(_), libc::SOL_SOCKET, _) if !connection => 0,
        (Some(_), level, _) if level != libc::SOL_SOCKET => 0,
        (_, libc::SOL_SOCKET, libc::SO_ERROR | libc::SO_TYPE | libc::SO_RCVTIMEO | libc::SO_SNDTIMEO)
        | (None, libc::SOL_SOCKET, _) => return forward_getsockopt(task, fd, option, value, length, room),
        _ => {
            require_socket(fd)?;
            return Err(Errno(libc::ENOPROTOOPT));
        }
    };
    let bytes = answer.to_ne_bytes();
    let shown = bytes.len().min(usize::try_from(room).unwrap_or(0));
    access::write_bytes(value, &bytes[..shown])?;
    access::write(length, &u32::try_from(shown).unwrap_or(0))?;
    Ok(0)
}

fn forward_getsockopt(task: &Task, fd: i32, option: i32, value: u64, length: u64, room: u32) -> SysResult {
    let mut bytes = [0u8; 256];
    let mut size: u32 = room.min(256);
    // SAFETY: locals of the sizes that are passed.
    unsafe {
        task.host(
            libc::SYS_getsockopt,
            [
                u64::from(fd.unsigned_abs()),
                u64::from(libc::SOL_SOCKET.unsigned_abs()),
                u64::from(option.unsigned_abs()),
                bytes.as_mut_ptr() as u64,
                (&raw mut size) as u64,
                0,
            ],
        )?
    };
    access::write_bytes(value, &bytes[..usize::try_from(size).unwrap_or(0).min(256)])?;
    access::write(length, &size)?;
    Ok(0)
}

/// Implements shutdown(2).
fn shutdown(task: &mut Task, [fd, how, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    if let Some(Socket::Virtual { .. }) = task.process.lock_sockets().get(fd) {
        return Err(Errno::NOTCONN);
    }
    // SAFETY: no pointers.
    unsafe {
        task.host(
            libc::SYS_shutdown,
            [u64::from(fd.unsigned_abs()), how, 0, 0, 0, 0],
        )
    }
}
