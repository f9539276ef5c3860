//! The only process of a function that may speak to the network. `serve` makes it before it jails itself, and only if the policy
//! has a rule; instances ask it (`request`).
//!
//! ```text
//! instance ──address──▶ broker: checks its own copy ─▶ socket, connect ──descriptor──▶ instance
//! guest ──datagram──▶ u443.<address> in the private directory ──▶ broker ──▶ UDP
//! guest ──question──▶ u53.127.0.0.53 in the private directory ──▶ broker ──▶ the node's name servers
//! ```
//!
//! It waits for nobody: connections are passed on while they are being made, names are looked up by threads of their own, whose number
//! is limited. What an instance made here goes with the instance.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::keys::{self, Protocol};
use super::place::Place;
use super::policy::Policy;
use super::request::{MESSAGE_MAX, Refused, Reply, Request};
use super::resolver::{self, Pins};
use super::{address, dns, host};
use crate::errno::Errno;
use crate::sys;
use crate::sys::passing::{self, Received};

/// Names that are looked up at a time for one instance.
const LOOKUPS_MAX: usize = 16;
/// Destinations of datagrams for one instance, and sockets for them.
const RELAYS_MAX: usize = 64;
const FLOWS_MAX: usize = 256;
/// How long a connection to the resolver may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the machine's addresses are taken for known.
const OWN_FOR: Duration = Duration::from_secs(2);
/// Buffers of a connection, bytes: memory of the node that no limit counts.
const BUFFER: i32 = 256 << 10;
const DATAGRAM_MAX: usize = 64 << 10;
/// Refused names that the log of one instance tells.
const TOLD_MAX: usize = 16;

/// Which descriptor has an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Serve,
    Instance(u64),
    Resolver(u64),
    ResolverStream(u64),
    Relay(u64, SocketAddr),
    /// A flow of datagrams, by its number.
    Flow(u64, u64),
}

/// Datagrams between one socket of the guest and one address.
struct Flow {
    socket: OwnedFd,
    /// The key of the guest's socket.
    guest: String,
    to: SocketAddr,
}

/// Tells `serve` of the names that an instance has asked for in vain, each once.
struct Told {
    instance: String,
    serve: Arc<OwnedFd>,
    names: Mutex<HashSet<String>>,
}

impl Told {
    fn refused(&self, name: &str, why: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() < TOLD_MAX && names.insert(name.to_owned()) {
            let line = format!("{why} {name}");
            // A `serve` that does not read for so long has other worries.
            let _ = Refused::send(&self.serve, &self.instance, &line);
        }
    }
}

struct Instance {
    channel: OwnedFd,
    /// Its private directory, which is there when it asks for the first time.
    directory: PathBuf,
    place: Option<Place>,
    pins: Arc<Pins>,
    told: Arc<Told>,
    lookups: Arc<AtomicUsize>,
    resolver: Option<Arc<OwnedFd>>,
    stream: Option<OwnedFd>,
    relays: HashMap<SocketAddr, OwnedFd>,
    flows: HashMap<u64, Flow>,
}

impl Instance {
    fn place(&mut self) -> Result<&Place, Errno> {
        let place = match self.place.take() {
            Some(place) => place,
            None => Place::open(&self.directory)?,
        };
        Ok(self.place.insert(place))
    }
}

pub struct Broker {
    policy: Arc<Policy>,
    /// Where the private directories are.
    scratch: OwnedFd,
    serve: Arc<OwnedFd>,
    epoll: Epoll,
    sources: HashMap<u64, Source>,
    instances: HashMap<u64, Instance>,
    next: u64,
    own: (Option<Instant>, Vec<IpAddr>),
}

impl Broker {
    pub fn new(policy: Policy, scratch: OwnedFd, serve: OwnedFd) -> Result<Self, Errno> {
        let mut broker = Self {
            policy: Arc::new(policy),
            scratch,
            serve: Arc::new(serve),
            epoll: Epoll::new()?,
            sources: HashMap::new(),
            instances: HashMap::new(),
            next: 0,
            own: (None, Vec::new()),
        };
        broker.watch(broker.serve.as_raw_fd(), Source::Serve)?;
        Ok(broker)
    }

    /// Works until `serve` is gone.
    pub fn run(&mut self) -> Result<(), Errno> {
        loop {
            let mut events = [EpollEvent::default(); 32];
            let count = match self.epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                // What went in the meantime has no source any more.
                let Some(source) = self.sources.get(&event.data()).copied() else {
                    continue;
                };
                match source {
                    Source::Serve => {
                        if !self.newcomers() {
                            return Ok(());
                        }
                    }
                    Source::Instance(number) => self.requests(number),
                    Source::Resolver(number) => self.questions(number),
                    Source::ResolverStream(number) => self.streams(number),
                    Source::Relay(number, to) => self.outwards(number, to),
                    Source::Flow(number, flow) => self.inwards(number, flow),
                }
            }
        }
    }

    fn watch(&mut self, fd: RawFd, source: Source) -> Result<(), Errno> {
        let token = self.next;
        self.next += 1;
        self.epoll
            .ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token))?;
        self.sources.insert(token, source);
        Ok(())
    }

    /// Instances that `serve` has made: a name, and the way to it. False when `serve` is gone.
    fn newcomers(&mut self) -> bool {
        loop {
            match passing::receive(self.serve.as_fd(), MESSAGE_MAX) {
                Received::Nothing => return true,
                Received::Closed => return false,
                Received::Message(name, Some(channel)) => {
                    let Some(name) = String::from_utf8(name).ok().filter(|name| is_name(name)) else {
                        continue;
                    };
                    if let Err(errno) = self.add(&name, channel) {
                        eprintln!("mayfly-monitor: network of instance {name}: {errno}");
                    }
                }
                Received::Message(_, None) => {}
            }
        }
    }

    fn add(&mut self, name: &str, channel: OwnedFd) -> Result<(), Errno> {
        let directory = PathBuf::from(format!("/proc/self/fd/{}/{name}", self.scratch.as_raw_fd()));
        let number = self.next;
        self.watch(channel.as_raw_fd(), Source::Instance(number))?;
        self.instances.insert(
            number,
            Instance {
                channel,
                directory,
                place: None,
                pins: Arc::default(),
                told: Arc::new(Told {
                    instance: name.to_owned(),
                    serve: self.serve.clone(),
                    names: Mutex::default(),
                }),
                lookups: Arc::default(),
                resolver: None,
                stream: None,
                relays: HashMap::new(),
                flows: HashMap::new(),
            },
        );
        Ok(())
    }

    /// Forgets an instance and all that was made for it.
    fn remove(&mut self, number: u64) {
        self.instances.remove(&number);
        self.sources.retain(|_, source| match source {
            Source::Serve => true,
            Source::Instance(other)
            | Source::Resolver(other)
            | Source::ResolverStream(other)
            | Source::Relay(other, _)
            | Source::Flow(other, _) => *other != number,
        });
    }

    /// The addresses of this machine.
    fn own(&mut self) -> Vec<IpAddr> {
        if self.own.0.is_none_or(|at| at.elapsed() > OWN_FOR) {
            self.own = (Some(Instant::now()), host::own_addresses());
        }
        self.own.1.clone()
    }

    fn requests(&mut self, number: u64) {
        loop {
            let Some(instance) = self.instances.get(&number) else {
                return;
            };
            match passing::receive(instance.channel.as_fd(), MESSAGE_MAX) {
                Received::Nothing => return,
                Received::Closed => return self.remove(number),
                Received::Message(bytes, Some(answer)) => {
                    let Ok(request) = postcard::from_bytes::<Request>(&bytes) else {
                        continue;
                    };
                    let (reply, attached) = self.decide(number, request);
                    let Ok(bytes) = postcard::to_stdvec(&reply) else {
                        continue;
                    };
                    let attached = attached.as_ref().map(AsFd::as_fd);
                    // Whoever has asked may be gone.
                    let _ = passing::send(answer.as_fd(), &bytes, attached, libc::MSG_DONTWAIT);
                }
                Received::Message(_, None) => {}
            }
        }
    }

    fn decide(&mut self, number: u64, request: Request) -> (Reply, Option<OwnedFd>) {
        let failed = |errno: Errno| (Reply::Failed(errno.0), None);
        let (protocol, to) = match request {
            Request::Resolver => {
                return match self.resolve_for(number) {
                    Ok(()) => (Reply::Done, None),
                    Err(errno) => failed(errno),
                };
            }
            Request::Connect(to) => (Protocol::Tcp, to),
            Request::Datagrams(to) => (Protocol::Udp, to),
        };
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let own = self.own();
        let Some(instance) = self.instances.get(&number) else {
            return failed(Errno::NETUNREACH);
        };
        let names = instance.pins.names(to.ip());
        if !self.policy.allows(protocol, to, &names, &own) {
            let other = match protocol {
                Protocol::Tcp => Protocol::Udp,
                Protocol::Udp => Protocol::Tcp,
            };
            let half = self.policy.allows(other, to, &names, &own);
            return (Reply::Refused { half }, None);
        }
        match protocol {
            Protocol::Tcp => match connect(to) {
                Ok(socket) => (Reply::Done, Some(socket)),
                Err(errno) => failed(errno),
            },
            Protocol::Udp => match self.relay(number, to) {
                Ok(()) => (Reply::Done, None),
                Err(errno) => failed(errno),
            },
        }
    }

    // ------------------------------------------------------------------ names

    fn resolve_for(&mut self, number: u64) -> Result<(), Errno> {
        let at = SocketAddr::new(resolver::ADDRESS.into(), resolver::PORT);
        let instance = self.instances.get_mut(&number).ok_or(Errno::NETUNREACH)?;
        if instance.resolver.is_some() {
            return Ok(());
        }
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let datagrams = host::socket(libc::AF_UNIX, libc::SOCK_DGRAM | flags)?;
        let stream = host::socket(libc::AF_UNIX, libc::SOCK_STREAM | flags)?;
        let place = instance.place()?;
        place.bind(datagrams.as_raw_fd(), &keys::port(Protocol::Udp, at))?;
        place.bind(stream.as_raw_fd(), &keys::port(Protocol::Tcp, at))?;
        sys::listen(&stream, 16)?;
        let fds = [datagrams.as_raw_fd(), stream.as_raw_fd()];
        instance.resolver = Some(Arc::new(datagrams));
        instance.stream = Some(stream);
        self.watch(fds[0], Source::Resolver(number))?;
        self.watch(fds[1], Source::ResolverStream(number))
    }

    fn questions(&mut self, number: u64) {
        let Some(instance) = self.instances.get(&number) else {
            return;
        };
        let (Some(socket), Some(place)) = (&instance.resolver, &instance.place) else {
            return;
        };
        let mut buffer = vec![0; dns::UDP_MAX * 4];
        while let Ok((length, from)) = host::receive_from(socket.as_raw_fd(), &mut buffer) {
            let Some(key) = Place::key(&from) else { continue };
            let (message, to) = (buffer[..length].to_vec(), place.address(key));
            let (policy, pins, socket) = (self.policy.clone(), instance.pins.clone(), socket.clone());
            let told = instance.told.clone();
            let work = move || {
                let refused = |name: &str, why: &str| told.refused(name, why);
                if let Some(answer) = resolver::respond(&policy, &pins, &message, dns::UDP_MAX, refused) {
                    // A guest that does not read has no answer.
                    let _ = host::send_to(socket.as_raw_fd(), &answer, &to);
                }
            };
            if !start(&instance.lookups, work) {
                return;
            }
        }
    }

    fn streams(&mut self, number: u64) {
        let Some(instance) = self.instances.get(&number) else {
            return;
        };
        let Some(listener) = &instance.stream else { return };
        while let Ok(stream) = host::accept(listener.as_raw_fd()) {
            let (policy, pins, told) = (self.policy.clone(), instance.pins.clone(), instance.told.clone());
            start(&instance.lookups, move || {
                let mut stream = UnixStream::from(stream);
                if stream.set_read_timeout(Some(SILENCE)).is_err()
                    || stream.set_write_timeout(Some(SILENCE)).is_err()
                {
                    return;
                }
                while let Some(message) = resolver::read_message(&mut stream) {
                    let refused = |name: &str, why: &str| told.refused(name, why);
                    let answer = resolver::respond(&policy, &pins, &message, usize::from(u16::MAX), refused);
                    if answer
                        .and_then(|answer| resolver::write_message(&mut stream, &answer))
                        .is_none()
                    {
                        return;
                    }
                }
            });
        }
    }

    // ------------------------------------------------------------------ datagrams

    /// Makes a socket in the private directory that stands for an address outside.
    fn relay(&mut self, number: u64, to: SocketAddr) -> Result<(), Errno> {
        let instance = self.instances.get_mut(&number).ok_or(Errno::NETUNREACH)?;
        if instance.relays.contains_key(&to) {
            return Ok(());
        }
        if instance.relays.len() >= RELAYS_MAX {
            return Err(Errno(libc::ENOBUFS));
        }
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let socket = host::socket(libc::AF_UNIX, kind)?;
        let place = instance.place()?;
        place.bind(socket.as_raw_fd(), &keys::port(Protocol::Udp, to))?;
        let fd = socket.as_raw_fd();
        instance.relays.insert(to, socket);
        self.watch(fd, Source::Relay(number, to))
    }

    /// From the guest to the network.
    fn outwards(&mut self, number: u64, to: SocketAddr) {
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            let Some(instance) = self.instances.get_mut(&number) else {
                return;
            };
            let Some(relay) = instance.relays.get(&to) else {
                return;
            };
            let Ok((length, from)) = host::receive_from(relay.as_raw_fd(), &mut buffer) else {
                return;
            };
            let Some(guest) = Place::key(&from) else { continue };
            let known = instance
                .flows
                .values()
                .find(|flow| flow.to == to && flow.guest == guest);
            let socket = match known {
                Some(flow) => flow.socket.as_raw_fd(),
                None => match self.flow(number, guest.to_owned(), to) {
                    Ok(socket) => socket,
                    // Lost, as datagrams are.
                    Err(_) => continue,
                },
            };
            let _ = sys::send(
                &socket,
                &buffer[..length],
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            );
        }
    }

    fn flow(&mut self, number: u64, guest: String, to: SocketAddr) -> Result<RawFd, Errno> {
        let id = self.next;
        let instance = self.instances.get_mut(&number).ok_or(Errno::NETUNREACH)?;
        if instance.flows.len() >= FLOWS_MAX {
            return Err(Errno(libc::ENOBUFS));
        }
        let family = family_of(to);
        let socket = host::socket(
            family,
            libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )?;
        host::connect(socket.as_raw_fd(), &address::inet_bytes(family, to))?;
        let fd = socket.as_raw_fd();
        instance.flows.insert(id, Flow { socket, guest, to });
        self.watch(fd, Source::Flow(number, id))?;
        Ok(fd)
    }

    /// From the network to the guest.
    fn inwards(&mut self, number: u64, id: u64) {
        let Some(instance) = self.instances.get(&number) else {
            return;
        };
        let Some(flow) = instance.flows.get(&id) else {
            return;
        };
        let (Some(relay), Some(place)) = (instance.relays.get(&flow.to), &instance.place) else {
            return;
        };
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            match sys::receive(&flow.socket, &mut buffer, libc::MSG_DONTWAIT) {
                Ok(length) => {
                    let to = place.address(&flow.guest);
                    // A guest that does not read loses it.
                    let _ = host::send_to(relay.as_raw_fd(), &buffer[..length], &to);
                }
                // The other side has nobody there; the next datagram may find somebody.
                Err(Errno::CONNREFUSED) => {}
                Err(_) => return,
            }
        }
    }
}

/// Names of instances are 16 hex digits: no path.
fn is_name(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn family_of(address: SocketAddr) -> i32 {
    if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

/// A socket that is connected to an address, or on its way.
fn connect(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = family_of(to);
    let socket = host::socket(
        family,
        libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
    )?;
    let fd = socket.as_raw_fd();
    host::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, BUFFER)?;
    host::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER)?;
    match host::connect(fd, &address::inet_bytes(family, to)) {
        Ok(()) | Err(Errno(libc::EINPROGRESS)) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Does something on a thread of its own, if not too many are at work.
fn start(busy: &Arc<AtomicUsize>, work: impl FnOnce() + Send + 'static) -> bool {
    if busy.fetch_add(1, Ordering::AcqRel) >= LOOKUPS_MAX {
        busy.fetch_sub(1, Ordering::AcqRel);
        return false;
    }
    let counted = busy.clone();
    let spawned = std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
        work();
        counted.fetch_sub(1, Ordering::AcqRel);
    });
    if spawned.is_err() {
        busy.fetch_sub(1, Ordering::AcqRel);
    }
    spawned.is_ok()
}
