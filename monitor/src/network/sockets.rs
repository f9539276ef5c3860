//! The sockets of a guest process: what of them the kernel does not keep.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::address::UnixName;
use super::host::{self, Mark};
use super::keys::{self, Protocol};
use super::place::Place;
use super::request::Broker;
use crate::errno::Errno;
use crate::fs::descriptors::{private, raise};
use crate::serve::channel;
use crate::sys;

mod carrying;

pub use carrying::{PassedSockets, SocketsState};

/// Socket pairs that a snapshot can know; more of them refuse it.
const PAIRS_MAX: usize = 4096;
/// Names of unix sockets that are remembered as the guest gave them.
const NAMES_MAX: usize = 4096;
/// Ports that bind to 0 and connect choose from (ip_local_port_range).
const EPHEMERAL: std::ops::Range<u16> = 32768..60999;
/// Connections that may wait for accept: as many as an instance has descriptors, so nothing waits in connect(2).
pub const BACKLOG: i32 = 4096;
/// The port that the caller of a function seems to have.
pub const CALLER_PORT: u16 = 39999;

/// What a descriptor is, for the calls on sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The call's connection: a unix socket that answers as TCP.
    Call {
        family: i32,
    },
    /// TCP or UDP inside the instance: a unix socket.
    Inside {
        family: i32,
        kind: i32,
    },
    /// A TCP connection to the outside.
    Outside {
        family: i32,
    },
    Unix {
        kind: i32,
    },
    /// A datagram socket that the monitor answers on as a kernel would.
    Netlink,
}

/// Remembered like an option; no option has these numbers.
const NOBODY: (i32, i32) = (-1, -1);

/// `struct epoll_event`: events, and 8 bytes of the guest's.
pub type Event = [u32; 3];
/// Refusals that are told.
const REFUSALS_MAX: usize = 64;

/// An option that is only remembered: level, name, value.
pub type Remembered = (i32, i32, i32);

pub struct Sockets {
    pub place: Place,
    /// Port of the function; `None` in `run`.
    pub port: Option<u16>,
    /// The call's connection until it is accepted.
    connection: Option<OwnedFd>,
    /// Whether the call has come.
    came: bool,
    /// It has been announced already.
    expected: bool,
    /// Where the connection goes instead when several processes may accept it: (its beginning, its end).
    handover: Option<(OwnedFd, OwnedFd)>,
    /// What is known by the numbers of descriptors.
    own: Numbers,
    /// The same for children of vfork, by their host pids: they share this memory, but have a table of descriptors each.
    apart: HashMap<i32, Numbers>,
    /// Keys of the sockets that listen on the function's port.
    called: Vec<String>,
    /// Where the search for a free port goes on; 0 before the first.
    next_port: u16,
    /// Socket pairs by the inodes of their ends, and their type.
    pairs: Vec<([u64; 2], i32)>,
    /// Names of unix sockets as the guest gave them, by key.
    names: HashMap<String, UnixName>,
    /// The way to the outside, if the function has any.
    pub broker: Option<Arc<Broker>>,
    pub has_resolver: bool,
    /// Addresses for which there is a socket in the private directory.
    pub reached: HashSet<SocketAddr>,
    /// Destinations whose refusal was told.
    refused: HashSet<(bool, SocketAddr)>,
}

/// What is known of the sockets in one table of descriptors.
#[derive(Clone, Default)]
struct Numbers {
    /// Descriptors of the call's connection, with the family that it pretends to be of.
    calls: HashMap<RawFd, i32>,
    options: HashMap<RawFd, Vec<Remembered>>,
    /// Sets that watch a TCP socket without a connection, with the events: a connection to the outside takes its place in them.
    watched: HashMap<RawFd, Vec<(RawFd, Event)>>,
}

impl Sockets {
    pub fn new(place: Place, port: Option<u16>) -> Self {
        Self {
            place,
            port,
            connection: None,
            came: false,
            expected: false,
            handover: None,
            own: Numbers::default(),
            apart: HashMap::new(),
            called: Vec::new(),
            next_port: 0,
            pairs: Vec::new(),
            names: HashMap::new(),
            broker: None,
            has_resolver: false,
            reached: HashSet::new(),
            refused: HashSet::new(),
        }
    }

    /// What `fd` is: ENOTSOCK, EBADF.
    pub fn kind(&self, fd: RawFd) -> Result<Kind, Errno> {
        if let Some(family) = self.numbers().calls.get(&fd) {
            return Ok(Kind::Call { family: *family });
        }
        let kind = host::kind(fd)?;
        match host::option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)? {
            libc::AF_UNIX => Ok(match host::mark(fd)? {
                Mark::Unix => Kind::Unix { kind },
                Mark::Netlink => Kind::Netlink,
                mark => Kind::Inside {
                    family: mark.family(),
                    kind,
                },
            }),
            family => Ok(Kind::Outside {
                // An IPv6 socket may have an IPv4 connection.
                family: match host::mark(fd)? {
                    Mark::Unix => family,
                    mark => mark.family(),
                },
            }),
        }
    }

    // ------------------------------------------------------------------ the call

    pub fn is_connection(&self, fd: RawFd) -> bool {
        self.numbers().calls.contains_key(&fd)
    }

    /// Forgets `fd`; true when it was the last one of the call's connection.
    pub fn closing(&mut self, fd: RawFd) -> bool {
        let numbers = self.numbers_mut();
        numbers.options.remove(&fd);
        numbers.watched.remove(&fd);
        numbers.calls.remove(&fd).is_some() && numbers.calls.is_empty()
    }

    pub fn duplicated(&mut self, old: RawFd, new: RawFd) {
        let numbers = self.numbers_mut();
        if let Some(family) = numbers.calls.get(&old).copied() {
            numbers.calls.insert(new, family);
        }
        if let Some(options) = numbers.options.get(&old).cloned() {
            numbers.options.insert(new, options);
        }
    }

    // ------------------------------------------------------------------ children of vfork

    fn numbers(&self) -> &Numbers {
        if self.apart.is_empty() {
            return &self.own;
        }
        self.apart.get(&sys::process_id()).unwrap_or(&self.own)
    }

    fn numbers_mut(&mut self) -> &mut Numbers {
        if self.apart.is_empty() {
            return &mut self.own;
        }
        self.apart.get_mut(&sys::process_id()).unwrap_or(&mut self.own)
    }

    /// In the child of a vfork, which `parent` made: it begins with a copy of that one's table.
    pub fn part(&mut self, parent: i32) {
        let numbers = self.apart.get(&parent).unwrap_or(&self.own).clone();
        self.apart.insert(sys::process_id(), numbers);
    }

    /// Whether the caller is the child of a vfork.
    pub fn is_apart(&self) -> bool {
        !self.apart.is_empty() && self.apart.contains_key(&sys::process_id())
    }

    /// The child of a vfork has ended or executed a program.
    pub fn parted(&mut self, child: i32) {
        self.apart.remove(&child);
    }

    /// In the child of a fork, which `parent` made: the table is a copy of that one's.
    pub fn forked(&mut self, parent: i32) {
        if let Some(numbers) = self.apart.remove(&parent) {
            self.own = numbers;
        }
        self.apart.clear();
    }

    // ------------------------------------------------------------------ the call's coming

    /// A socket that listens on the function's port has this name.
    pub fn listens(&mut self, key: String) -> Result<(), Errno> {
        if !self.called.contains(&key) {
            self.called.push(key.clone());
        }
        if self.connection.is_some() {
            self.announce(&key)?;
        }
        Ok(())
    }

    /// Announces the call before it comes: what is left to do then is to give out its connection.
    ///
    /// Preconditions: no thread of the guest runs before `connect_call`.
    pub fn expect_call(&mut self) -> Result<(), Errno> {
        if self.handover.is_none() && !self.expected {
            self.expected = true;
            for key in self.called.clone() {
                self.announce(&key)?;
            }
        }
        Ok(())
    }

    /// Gives the instance its connection: the listening sockets on the function's port become readable.
    pub fn connect_call(&mut self, connection: OwnedFd) -> Result<(), Errno> {
        self.came = true;
        let called = match &self.handover {
            // Before the listeners become readable: who accepts there finds it. Some of them may be other processes'.
            Some((beginning, _)) => {
                channel::send(
                    beginning.as_fd(),
                    &channel::Message::Parked,
                    Some(connection.as_fd()),
                )?;
                let mut keys = self.place.keys()?;
                keys.retain(|key| {
                    key.starts_with('t')
                        && keys::address(key).is_some_and(|address| Some(address.port()) == self.port)
                });
                keys
            }
            None => {
                self.connection = Some(raise(connection)?);
                if self.expected {
                    return Ok(());
                }
                self.called.clone()
            }
        };
        for key in called {
            self.announce(&key)?;
        }
        Ok(())
    }

    /// A process is about to be made that may accept the call's connection, too.
    pub fn share(&mut self) -> Result<(), Errno> {
        if self.port.is_some() && !self.came && self.handover.is_none() {
            let (beginning, end) = sys::socket_pair(libc::SOCK_SEQPACKET)?;
            self.handover = Some((raise(beginning)?, raise(end)?));
        }
        Ok(())
    }

    /// Whether the process has the call's connection open.
    pub fn has_connection(&self) -> bool {
        !self.numbers().calls.is_empty()
    }

    /// The monitor's descriptors among them.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut known = vec![self.place.descriptor()];
        known.extend(self.connection.as_ref().map(AsRawFd::as_raw_fd));
        if let Some((beginning, end)) = &self.handover {
            known.extend([beginning.as_raw_fd(), end.as_raw_fd()]);
        }
        known
    }

    /// Those of the guest's descriptors that listen on the function's port.
    pub fn listeners(&self, open: &[RawFd]) -> Vec<RawFd> {
        let listens = |fd: RawFd| {
            let key = Self::key_of(&host::local(fd)).filter(|key| key.starts_with('t'));
            let port = key
                .and_then(|key| keys::address(&key))
                .map(|address| address.port());
            port.is_some() && port == self.port && host::is_listening(fd)
        };
        open.iter().copied().filter(|fd| listens(*fd)).collect()
    }

    /// A connection without a name stands for the call's: those of the guest have one.
    fn announce(&self, key: &str) -> Result<(), Errno> {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let caller = private(|| host::socket(libc::AF_UNIX, kind))?;
        match self.place.connect(caller.as_raw_fd(), key) {
            // It does not listen any more.
            Err(Errno::CONNREFUSED) => Ok(()),
            result => result,
        }
    }

    /// The call's connection, for the first who accepts it.
    pub fn take_connection(&mut self) -> Option<OwnedFd> {
        match (&self.handover, self.connection.take()) {
            (Some((_, end)), None) => match channel::receive(end.as_fd()) {
                channel::Received::Message(_, Some(connection)) => raise(connection).ok(),
                _ => None,
            },
            (_, connection) => connection,
        }
    }

    pub fn accepted_call(&mut self, fd: RawFd, family: i32) {
        self.numbers_mut().calls.insert(fd, family);
    }

    // ------------------------------------------------------------------ names

    /// The key that a socket of the instance has, or its peer.
    pub fn key_of(address: &Result<Vec<u8>, Errno>) -> Option<String> {
        Place::key(address.as_ref().ok()?).map(str::to_owned)
    }

    /// Binds a TCP or UDP socket to an address inside the instance; port 0 is any free one.
    pub fn bind(&mut self, fd: RawFd, kind: i32, address: SocketAddr) -> Result<SocketAddr, Errno> {
        let protocol = Protocol::of_type(kind);
        if address.port() != 0 {
            self.bind_to(fd, protocol, address)?;
            return Ok(address);
        }
        for _ in 0..EPHEMERAL.len() {
            let chosen = SocketAddr::new(address.ip(), self.ephemeral()?);
            match self.bind_to(fd, protocol, chosen) {
                Err(Errno::ADDRINUSE) => {}
                Err(errno) => return Err(errno),
                Ok(()) => return Ok(chosen),
            }
        }
        Err(Errno::ADDRINUSE)
    }

    fn bind_to(&self, fd: RawFd, protocol: Protocol, address: SocketAddr) -> Result<(), Errno> {
        let v6_only = self.remembered(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) == Some(1);
        let shared = self.remembered(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT) == Some(1);
        let keys = keys::conflicting(protocol, address, v6_only);
        if !shared {
            for key in &keys[1..] {
                if self.place.is_alive(key)? {
                    return Err(Errno::ADDRINUSE);
                }
            }
            return self.place.bind(fd, &keys[0]);
        }
        for number in 0..64 {
            let key = match number {
                0 => keys[0].clone(),
                _ => format!("{}+{number}", keys[0]),
            };
            match self.place.bind(fd, &key) {
                Err(Errno::ADDRINUSE) => {}
                result => return result,
            }
        }
        Err(Errno::ADDRINUSE)
    }

    /// A port for a socket that has none: from a random beginning, so that clones differ.
    fn ephemeral(&mut self) -> Result<u16, Errno> {
        if self.next_port == 0 {
            let mut bytes = [0; 2];
            sys::random(&mut bytes)?;
            let count = EPHEMERAL.end - EPHEMERAL.start;
            self.next_port = EPHEMERAL.start + u16::from_ne_bytes(bytes) % count;
        }
        let port = self.next_port;
        self.next_port = if port + 1 < EPHEMERAL.end {
            port + 1
        } else {
            EPHEMERAL.start
        };
        Ok(port)
    }

    /// The address that a socket inside the instance has, as the guest is told.
    pub fn local(&self, fd: RawFd, family: i32) -> SocketAddr {
        let found = Self::key_of(&host::local(fd)).and_then(|key| keys::address(&key));
        let any = super::address::unspecified(family);
        let Some(address) = found else { return any };
        let peer = Self::key_of(&host::peer(fd)).and_then(|key| keys::address(&key));
        let to = peer.map(|peer| super::address::unspecified_like(peer.ip()));
        match to.or_else(|| self.nobody(fd).map(super::address::unspecified)) {
            // Connected: "any" has become the address of the side where the peer is.
            Some(side) if address.ip().is_unspecified() => {
                SocketAddr::new(keys::destination(side).ip(), address.port())
            }
            _ => address,
        }
    }

    /// The address of its peer.
    pub fn peer(fd: RawFd) -> Result<SocketAddr, Errno> {
        let raw = host::peer(fd)?;
        let key = Place::key(&raw).and_then(keys::address);
        key.map(keys::destination).ok_or(Errno::NOTCONN)
    }

    /// Notes the name that the guest gave to a unix socket.
    pub fn name(&mut self, key: &str, name: UnixName) {
        if self.names.len() < NAMES_MAX || self.names.contains_key(key) {
            self.names.insert(key.to_owned(), name);
        }
    }

    /// The name of a unix socket from its raw address.
    pub fn unix_name(&self, raw: &[u8]) -> UnixName {
        match Place::key(raw) {
            None => UnixName::Unnamed,
            Some(key) => self
                .names
                .get(key)
                .cloned()
                .unwrap_or_else(|| keys::unix_name(key)),
        }
    }

    // ------------------------------------------------------------------ options

    /// Remembers an option without effect.
    pub fn remember(&mut self, fd: RawFd, level: i32, name: i32, value: i32) {
        let options = self.numbers_mut().options.entry(fd).or_default();
        options.retain(|(other_level, other, _)| (*other_level, *other) != (level, name));
        options.push((level, name, value));
    }

    pub fn remembered(&self, fd: RawFd, level: i32, name: i32) -> Option<i32> {
        let found = self.numbers().options.get(&fd)?.iter();
        found
            .filter(|(other_level, other, _)| (*other_level, *other) == (level, name))
            .map(|(.., value)| *value)
            .next()
    }

    /// A UDP socket was connected to a port that nobody has, of an address of this family.
    pub fn connected_to_nobody(&mut self, fd: RawFd, family: i32) {
        let (level, name) = NOBODY;
        self.remember(fd, level, name, family);
    }

    /// A UDP socket has another peer, or none.
    pub fn connected_anew(&mut self, fd: RawFd) {
        if let Some(options) = self.own.options.get_mut(&fd) {
            options.retain(|(level, name, _)| (*level, *name) != NOBODY);
        }
    }

    /// The family of the address with nobody behind it that a UDP socket was connected to.
    pub fn nobody(&self, fd: RawFd) -> Option<i32> {
        let (level, name) = NOBODY;
        self.remembered(fd, level, name)
    }

    // ------------------------------------------------------------------ the outside

    /// Whether the refusal of a destination has not been told yet. What nobody wants to read any more is not told.
    pub fn is_first_refusal(&mut self, protocol: Protocol, to: SocketAddr) -> bool {
        self.refused.len() < REFUSALS_MAX && self.refused.insert((protocol == Protocol::Tcp, to))
    }

    /// `set` watches `fd` for `event`, or does not any more.
    pub fn watch(&mut self, set: RawFd, fd: RawFd, event: Option<Event>) {
        if self.broker.is_none() {
            return;
        }
        if let Some(sets) = self.numbers_mut().watched.get_mut(&fd) {
            sets.retain(|(other, _)| *other != set);
        }
        if let Some(event) = event
            && let Ok(Kind::Inside {
                kind: libc::SOCK_STREAM,
                ..
            }) = self.kind(fd)
        {
            self.numbers_mut()
                .watched
                .entry(fd)
                .or_default()
                .push((set, event));
        }
    }

    pub fn take_watched(&mut self, fd: RawFd) -> Vec<(RawFd, Event)> {
        self.numbers_mut().watched.remove(&fd).unwrap_or_default()
    }

    /// What is remembered of `fd`.
    pub fn all_remembered(&self, fd: RawFd) -> Vec<Remembered> {
        self.numbers().options.get(&fd).cloned().unwrap_or_default()
    }

    /// Notes the two ends of a socket pair.
    pub fn paired(&mut self, inodes: [u64; 2], kind: i32) {
        if self.pairs.len() < PAIRS_MAX {
            self.pairs.push((inodes, kind));
        }
    }

    /// Which socket pair an inode is an end of: (inode of the first end, number of the end, type).
    pub fn pair_of(&self, inode: u64) -> Option<(u64, u8, i32)> {
        self.pairs.iter().find_map(|(ends, kind)| {
            let end = ends.iter().position(|known| *known == inode)?;
            Some((ends[0], u8::try_from(end).unwrap_or(0), *kind))
        })
    }
}
