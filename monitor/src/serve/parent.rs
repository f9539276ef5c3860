//! The process of `serve` itself: boots, keeps the pool, watches each instance to its end, reports.
//!
//! One thread and one epoll. It survives whatever a child does: a child's messages are bounded, its log is bounded, its
//! numbers are read from its ledger after its death. It alone enforces the deadline: by SIGKILL.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::channel::{self, Message, Received};
use super::child::Setup;
use super::{Launch, Options, ServeError, World, boot, host_error, instance};
use crate::bundle::Contract;
use crate::control::{
    Cause, Command, Commands, ControlError, ControlStream, Event, FailedReason, Input, InstanceId, LogLine, LogLines,
    Receipt, Stream, Text,
};
use crate::errno::{Errno, from_libc};
use crate::fs::descriptors::raise;
use crate::jail::{Jail, JailError, Mode, Space};
use crate::ledger::Ledger;
use crate::snapshot::Snapshot;
use crate::syscalls::sockets::pipe;

/// How long an instance may go on after its caller has gone or has all it asked for.
const GRACE: Duration = Duration::from_millis(50);
/// How long the last events may take to be read.
const PARTING: Duration = Duration::from_secs(2);
/// Failed launches in a row after which launching pauses, and for how long.
const LAUNCH_PAUSE: Duration = Duration::from_millis(200);

/// What an epoll event is about: kind in the upper bits, child in the lower.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Commands,
    Listener,
    Channel(u32),
    Stdout(u32),
    Stderr(u32),
    Connection(u32),
}

impl Source {
    fn encode(self) -> u64 {
        let (kind, child) = match self {
            Self::Signals => (0, 0),
            Self::Commands => (1, 0),
            Self::Listener => (2, 0),
            Self::Channel(child) => (3, child),
            Self::Stdout(child) => (4, child),
            Self::Stderr(child) => (5, child),
            Self::Connection(child) => (6, child),
        };
        kind << 32 | u64::from(child)
    }

    fn decode(data: u64) -> Option<Self> {
        let child = u32::try_from(data & u64::from(u32::MAX)).ok()?;
        Some(match data >> 32 {
            0 => Self::Signals,
            1 => Self::Commands,
            2 => Self::Listener,
            3 => Self::Channel(child),
            4 => Self::Stdout(child),
            5 => Self::Stderr(child),
            6 => Self::Connection(child),
            _ => return None,
        })
    }
}

/// The call an instance has.
struct Call {
    name: String,
    accepted: Instant,
    deadline: Instant,
    /// Our copy of the connection: tells when the caller goes, and carries a last word if the instance died silently.
    connection: Option<OwnedFd>,
}

/// A child: an instance, or the boot.
struct Child {
    id: InstanceId,
    pid: i32,
    boots: bool,
    channel: OwnedFd,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    lines: LogLines,
    ledger: &'static Ledger,
    started: Instant,
    parked: Option<Instant>,
    call: Option<Call>,
    /// When it must be dead, if that is decided, and why.
    doom: Option<(Instant, Cause)>,
    killed: Option<Cause>,
    /// The boot has said what it had to say.
    told: Option<Message>,
}

impl Child {
    fn kill(&mut self, cause: Cause) {
        if self.killed.is_none() {
            self.killed = Some(cause);
            // SAFETY: the pid of a child that was not reaped, so it is still that child's.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
    }

    /// The next moment at which something must be done about this child.
    fn due(&self) -> Option<(Instant, Cause)> {
        if self.killed.is_some() {
            return None;
        }
        let deadline = self.call.as_ref().map(|call| (call.deadline, Cause::Deadline));
        match (deadline, self.doom) {
            (Some(one), Some(two)) => Some(if one.0 <= two.0 { one } else { two }),
            (one, two) => one.or(two),
        }
    }
}

struct Parent {
    world: Option<World>,
    /// Copies of what the parent itself needs of the world.
    listener: OwnedFd,
    contract: Contract,
    pool: u32,
    instances: u32,
    log_limit: u64,
    epoll: Epoll,
    children: HashMap<u32, Child>,
    next: u32,
    launch: Option<Launch>,
    draining: bool,
    listening: bool,
    pause: Option<Instant>,
    snapshot: Option<crate::control::Snapshot>,
    outcome: Option<i32>,
    jail: Rc<Jail>,
}

/// What ends the loop early.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the server has closed the commands")]
    Orphaned,
    #[error(transparent)]
    Jail(JailError),
    #[error("{what}: {source}")]
    Host { what: &'static str, source: Errno },
}

fn stop(what: &'static str) -> impl Fn(Errno) -> Stop {
    move |source| Stop::Host { what, source }
}

/// Serves until drained; gives the exit status.
pub fn serve(options: Options) -> i32 {
    crate::guest::prepare_process();
    // SAFETY: SIGPIPE is handled as an error of the write.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let (commands, events) = match take_streams() {
        Ok(streams) => streams,
        Err(errno) => {
            eprintln!("mayfly-monitor: standard streams: {errno}");
            return 1;
        }
    };
    let mut control = ControlStream::new(events.as_fd());
    let ready_timeout = options.ready_timeout;
    let world = match World::open(options) {
        Ok(world) => world,
        Err(error) => {
            let reason = match &error {
                ServeError::Bundle(_) => FailedReason::Config,
                ServeError::Kvm(_) => FailedReason::Kvm,
                ServeError::Host { .. } | ServeError::Jail(_) => FailedReason::Internal,
            };
            return fail(&mut control, reason, error.to_string(), Text::default());
        }
    };
    let mut parent = match Parent::new(world, commands.as_fd().as_raw_fd()) {
        Ok(parent) => parent,
        Err(error) => return fail(&mut control, FailedReason::Internal, error.to_string(), Text::default()),
    };
    let result = parent.run(&mut control, &commands, ready_timeout);
    parent.kill_all();
    let status = match result {
        Ok(status) => status,
        Err(Stop::Orphaned | Stop::Control(_)) => 0,
        Err(error) => fail(&mut control, FailedReason::Internal, error.to_string(), Text::default()),
    };
    if let Err(error) = control.finish(PARTING) {
        eprintln!("mayfly-monitor: {error}");
    }
    status
}

fn fail(control: &mut ControlStream<'_>, reason: FailedReason, message: String, output: Text) -> i32 {
    eprintln!("mayfly-monitor: {message}");
    let event = Event::Failed { reason, message: Text::message(message), output };
    if control.send(&event).and_then(|()| control.finish(PARTING)).is_err() {
        eprintln!("mayfly-monitor: the server does not read");
    }
    1
}

/// Takes stdin and stdout for the control stream and leaves /dev/null in their place: 0, 1 and 2 are the guests'.
fn take_streams() -> Result<(OwnedFd, OwnedFd), Errno> {
    let take = |number: i32| -> Result<OwnedFd, Errno> {
        // SAFETY: duplicates a standard stream above the floor; the result is checked.
        let fd = from_libc(unsafe {
            libc::fcntl(number, libc::F_DUPFD_CLOEXEC, crate::fs::descriptors::MONITOR_FD_FLOOR)
        })?;
        // SAFETY: a fresh descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(|_| Errno::MFILE)?) })
    };
    let streams = (take(0)?, take(1)?);
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    for number in 0..2 {
        // SAFETY: replaces a stream that was taken just now.
        from_libc(unsafe { libc::dup2(null.as_raw_fd(), number) })?;
    }
    Ok(streams)
}

fn watch(epoll: &Epoll, fd: i32, source: Source, events: EventSet) -> Result<(), Stop> {
    epoll
        .ctl(ControlOperation::Add, fd, EpollEvent::new(events, source.encode()))
        .map_err(|error| stop("epoll")(error.into()))
}

/// What `serve` and its children may reach: the image, the private directories, the names of open files.
fn enter_jail(world: &World) -> Result<Jail, ServeError> {
    let space = Space {
        read: &[&world.bundle.root],
        write: &[&world.options.scratch],
        list: &[Path::new("/proc")],
    };
    Ok(Jail::enter(&space, Mode::Enforce)?)
}

/// Ends the reports about a descriptor, whoever else holds it.
fn unwatch(epoll: &Epoll, fd: Option<&OwnedFd>) {
    if let Some(fd) = fd {
        // ENOENT: it was not watched any more.
        let _ = epoll.ctl(ControlOperation::Delete, fd.as_raw_fd(), EpollEvent::default());
    }
}

/// SIGCHLD and SIGTERM as a descriptor; the masks of children are set by what runs in them.
fn signal_descriptor() -> Result<OwnedFd, Errno> {
    let mask: u64 = 1 << (libc::SIGCHLD - 1) | 1 << (libc::SIGTERM - 1) | 1 << (libc::SIGINT - 1);
    crate::signals::host::set_mask(mask);
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the kernel reads an 8-byte set.
    let fd = from_libc(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, 8, flags) })?;
    // SAFETY: a fresh descriptor.
    raise(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(|_| Errno::MFILE)?) })
}

impl Parent {
    fn new(world: World, commands: i32) -> Result<Self, ServeError> {
        let jail = enter_jail(&world)?;
        let epoll = Epoll::new().map_err(|error| host_error("epoll")(error.into()))?;
        let raised = |fd: &OwnedFd| -> Result<OwnedFd, Errno> { raise(fd.try_clone()?) };
        let listener = raised(&world.listener).map_err(host_error("listener"))?;
        let options = &world.options;
        let parent = Self {
            listener,
            contract: world.bundle.function.contract,
            pool: options.pool,
            instances: options.instances.max(1),
            log_limit: options.log_limit,
            world: Some(world),
            epoll,
            children: HashMap::new(),
            next: 0,
            launch: None,
            draining: false,
            listening: false,
            pause: None,
            snapshot: None,
            outcome: None,
            jail: Rc::new(jail),
        };
        watch(&parent.epoll, commands, Source::Commands, EventSet::IN)
            .map_err(|error| host_error(error.to_string())(Errno::IO))?;
        Ok(parent)
    }

    fn run(
        &mut self,
        control: &mut ControlStream<'_>,
        commands: &OwnedFd,
        ready_timeout: Duration,
    ) -> Result<i32, Stop> {
        let signals = signal_descriptor().map_err(stop("signalfd"))?;
        watch(&self.epoll, signals.as_raw_fd(), Source::Signals, EventSet::IN)?;
        let mut input = Commands::default();
        self.boot(control, ready_timeout)?;
        loop {
            self.refill(control)?;
            if let Some(status) = self.outcome {
                return Ok(status);
            }
            if self.draining && self.children.is_empty() {
                return Ok(0);
            }
            let mut ready = [EpollEvent::default(); 64];
            let count = match self.epoll.wait(self.patience(control), &mut ready) {
                Ok(count) => count,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => 0,
                Err(error) => return Err(stop("epoll_wait")(error.into())),
            };
            for event in &ready[..count] {
                match Source::decode(event.data()) {
                    Some(Source::Signals) => self.signals(&signals, control)?,
                    Some(Source::Commands) => self.commands(commands, &mut input, control)?,
                    Some(Source::Listener) => self.pending_connection(control)?,
                    Some(Source::Channel(child)) => self.channel(child, control)?,
                    Some(Source::Stdout(child)) => self.log(child, Stream::Stdout, control)?,
                    Some(Source::Stderr(child)) => self.log(child, Stream::Stderr, control)?,
                    Some(Source::Connection(child)) => self.caller_gone(child),
                    None => {}
                }
            }
            self.enforce();
            control.flush()?;
        }
    }

    /// Milliseconds until the next thing to do.
    fn patience(&self, control: &ControlStream<'_>) -> i32 {
        let now = Instant::now();
        let due = self.children.values().filter_map(|child| child.due().map(|(at, _)| at)).chain(self.pause).min();
        let wait = due.map(|at| at.saturating_duration_since(now));
        let wait = if control.wants_write() { Some(wait.unwrap_or(PARTING).min(Duration::from_millis(20))) } else { wait };
        // Rounded up, so that nothing is looked at before it is due.
        wait.map_or(-1, |wait| i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX))
    }

    // ------------------------------------------------------------------ children

    /// Forks. In the child, everything of the parent's that is not the world's is closed and `run` does not return.
    fn spawn(
        &mut self,
        boots: bool,
        run: impl FnOnce(World, Setup, &Jail, InstanceId),
    ) -> Result<u32, Stop> {
        let id = InstanceId(random().map_err(stop("getrandom"))?);
        let (channel, child_channel) = channel::pair().map_err(stop("socketpair"))?;
        let raised_pipe = || -> Result<(OwnedFd, OwnedFd), Errno> {
            let (read, write) = pipe()?;
            Ok((raise(read)?, raise(write)?))
        };
        let (stdout, child_stdout) = raised_pipe().map_err(stop("pipe"))?;
        let (stderr, child_stderr) = raised_pipe().map_err(stop("pipe"))?;
        for end in [&stdout, &stderr] {
            // SAFETY: no pointers.
            from_libc(unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }).map_err(stop("fcntl"))?;
        }
        let ledger = Ledger::allocate().map_err(stop("ledger"))?;
        // SAFETY: this process has one thread, so the child may go on as it was.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(stop("fork")(Errno::last()));
        }
        if pid == 0 {
            self.children.clear();
            let Some(world) = self.world.take() else { crate::lifecycle::end_process(70) };
            let setup = Setup {
                name: id.to_string(),
                channel: child_channel,
                stdout: child_stdout,
                stderr: child_stderr,
                ledger,
            };
            drop((channel, stdout, stderr));
            let jail = self.jail.clone();
            run(world, setup, &jail, id);
            crate::lifecycle::end_process(70);
        }
        drop((child_channel, child_stdout, child_stderr));
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        watch(&self.epoll, channel.as_raw_fd(), Source::Channel(number), EventSet::IN)?;
        watch(&self.epoll, stdout.as_raw_fd(), Source::Stdout(number), EventSet::IN)?;
        watch(&self.epoll, stderr.as_raw_fd(), Source::Stderr(number), EventSet::IN)?;
        self.children.insert(
            number,
            Child {
                id,
                pid,
                boots,
                channel,
                stdout: Some(stdout),
                stderr: Some(stderr),
                lines: LogLines::new(self.log_limit),
                ledger,
                started: Instant::now(),
                parked: None,
                call: None,
                doom: None,
                killed: None,
                told: None,
            },
        );
        Ok(number)
    }

    fn boot(&mut self, control: &mut ControlStream<'_>, timeout: Duration) -> Result<(), Stop> {
        let number = self.spawn(true, |world, setup, jail, _| boot::run(world, setup, jail))?;
        if let Some(child) = self.children.get_mut(&number) {
            child.doom = Some((Instant::now() + timeout, Cause::Deadline));
            control.send(&Event::Booting { pid: child.pid })?;
        }
        Ok(())
    }

    /// Launches what the pool lacks.
    fn refill(&mut self, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let Some(launch) = self.launch.clone() else { return Ok(()) };
        if self.draining || self.outcome.is_some() {
            return Ok(());
        }
        if let Some(until) = self.pause {
            if Instant::now() < until {
                return Ok(());
            }
            self.pause = None;
        }
        let idle = || self.children.values().filter(|child| child.call.is_none() && child.killed.is_none()).count();
        let wanted = usize::try_from(self.pool).unwrap_or(usize::MAX);
        let most = usize::try_from(self.instances).unwrap_or(usize::MAX);
        let mut idle = idle();
        while idle < wanted && self.children.len() < most {
            self.launch_one(&launch)?;
            idle += 1;
        }
        // Without anyone to accept, a waiting connection must wake this process.
        self.listen(idle == 0 && self.children.len() < most)?;
        control.flush()?;
        Ok(())
    }

    fn launch_one(&mut self, launch: &Launch) -> Result<(), Stop> {
        let launch = launch.clone();
        self.spawn(false, move |world, setup, jail, id| instance::run(world, setup, jail, &launch, id))?;
        Ok(())
    }

    fn listen(&mut self, wanted: bool) -> Result<(), Stop> {
        if wanted == self.listening {
            return Ok(());
        }
        let operation = if wanted { ControlOperation::Add } else { ControlOperation::Delete };
        let event = EpollEvent::new(EventSet::IN, Source::Listener.encode());
        self.epoll.ctl(operation, self.listener.as_raw_fd(), event).map_err(|error| stop("epoll")(error.into()))?;
        self.listening = wanted;
        Ok(())
    }

    /// A connection waits and nobody is parked (a pool of 0, or all are busy).
    fn pending_connection(&mut self, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let Some(launch) = self.launch.clone() else { return Ok(()) };
        if !self.draining && self.pause.is_none() {
            self.launch_one(&launch)?;
        }
        self.listen(false)?;
        control.flush()?;
        Ok(())
    }

    fn channel(&mut self, number: u32, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let Some(child) = self.children.get_mut(&number) else { return Ok(()) };
        loop {
            match channel::receive(child.channel.as_fd()) {
                Received::Nothing => return Ok(()),
                Received::Closed => {
                    // SIGCHLD tells the rest.
                    unwatch(&self.epoll, Some(&child.channel));
                    return Ok(());
                }
                Received::Nonsense => child.kill(Cause::Internal),
                Received::Message(Message::Parked, _) if !child.boots => {
                    child.parked = Some(Instant::now());
                    control.send(&Event::Parked { instance: child.id, pid: child.pid })?;
                }
                Received::Message(Message::Accepted { call, budget_ms }, Some(connection))
                    if !child.boots && child.call.is_none() =>
                {
                    let connection = raise(connection).map_err(stop("connection"))?;
                    let accepted = Instant::now();
                    let budget = Duration::from_millis(budget_ms);
                    let deadline = accepted.checked_add(budget).unwrap_or(accepted + Duration::from_secs(86400));
                    watch(&self.epoll, connection.as_raw_fd(), Source::Connection(number), EventSet::empty())?;
                    control.send(&Event::Accepted { instance: child.id, call: &call })?;
                    child.call = Some(Call { name: call, accepted, deadline, connection: Some(connection) });
                }
                Received::Message(message, _) if child.boots => {
                    child.doom = None;
                    child.told = Some(message);
                }
                Received::Message(..) => child.kill(Cause::Internal),
            }
        }
    }

    /// The caller closed the connection: it has the whole response, or has given up.
    fn caller_gone(&mut self, number: u32) {
        let Some(child) = self.children.get_mut(&number) else { return };
        // The instance holds the connection too, so closing our copy would not end the reports.
        let gone = child.call.as_mut().and_then(|call| call.connection.take());
        unwatch(&self.epoll, gone.as_ref());
        child.doom = Some((Instant::now() + GRACE, Cause::Abandoned));
    }

    fn log(&mut self, number: u32, stream: Stream, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let Some(child) = self.children.get_mut(&number) else { return Ok(()) };
        let mut buffer = vec![0u8; 64 << 10];
        let end = match stream {
            Stream::Stdout => &mut child.stdout,
            _ => &mut child.stderr,
        };
        let Some(fd) = end.as_ref().map(AsRawFd::as_raw_fd) else { return Ok(()) };
        // SAFETY: a local buffer with its length.
        let length = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        let mut lines = Vec::new();
        match usize::try_from(length) {
            Ok(0) => {
                unwatch(&self.epoll, end.as_ref());
                *end = None;
            }
            Ok(length) => child.lines.feed(stream, &buffer[..length], &mut lines),
            Err(_) => {}
        }
        send_lines(control, child, &lines)
    }

    /// Kills what is overdue.
    fn enforce(&mut self) {
        let now = Instant::now();
        for child in self.children.values_mut() {
            if let Some((at, cause)) = child.due()
                && at <= now
            {
                child.kill(cause);
            }
        }
    }

    fn kill_all(&mut self) {
        for child in self.children.values_mut() {
            child.kill(Cause::Drained);
        }
    }

    // ------------------------------------------------------------------ the outside

    fn signals(&mut self, signals: &OwnedFd, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let mut info = [0u8; 128];
        loop {
            // SAFETY: a local buffer of the size of signalfd_siginfo.
            let length = unsafe { libc::read(signals.as_raw_fd(), info.as_mut_ptr().cast(), info.len()) };
            if length != 128 {
                break;
            }
            let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if signal == libc::SIGTERM || signal == libc::SIGINT {
                self.drain();
            }
        }
        // Signals merge: ask for all.
        loop {
            let mut status = 0;
            // SAFETY: all-zero is a valid rusage.
            let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
            // SAFETY: locals of the documented types.
            let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
            if pid <= 0 {
                return Ok(());
            }
            let number = self.children.iter().find(|(_, child)| child.pid == pid).map(|(number, _)| *number);
            if let Some(number) = number {
                self.ended(number, status, &usage, control)?;
            }
        }
    }

    fn commands(
        &mut self,
        commands: &OwnedFd,
        input: &mut Commands,
        control: &mut ControlStream<'_>,
    ) -> Result<(), Stop> {
        let mut inputs = Vec::new();
        input.read(commands.as_fd(), &mut inputs);
        for input in inputs {
            match input {
                Input::Command(Command::Drain) => self.drain(),
                Input::Command(Command::Pool { parked }) => self.pool = parked,
                Input::Unknown(message) => control.send(&Event::Warning { message })?,
                Input::Closed => return Err(Stop::Orphaned),
            }
        }
        Ok(())
    }

    /// No new connection: who waits in accept(2) is told by its end; calls go on.
    fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        // SAFETY: no pointers. Instances that wait get EINVAL and end; connections that were made before are still accepted.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        let now = Instant::now();
        for child in self.children.values_mut().filter(|child| child.parked.is_none()) {
            // Not parked yet, or the boot: nobody waits for it.
            child.doom = Some((now + GRACE, Cause::Drained));
        }
    }

    // ------------------------------------------------------------------ ends

    fn ended(
        &mut self,
        number: u32,
        status: i32,
        usage: &libc::rusage,
        control: &mut ControlStream<'_>,
    ) -> Result<(), Stop> {
        self.channel(number, control)?;
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.drain_log(number, stream, control)?;
        }
        let Some(mut child) = self.children.remove(&number) else { return Ok(()) };
        // A sibling that was forked just now may still hold copies.
        let connection = child.call.as_ref().and_then(|call| call.connection.as_ref());
        for fd in [Some(&child.channel), child.stdout.as_ref(), child.stderr.as_ref(), connection] {
            unwatch(&self.epoll, fd);
        }
        let mut lines = Vec::new();
        child.lines.finish(&mut lines);
        send_lines(control, &child, &lines)?;
        crate::fs::remove_instance(&self.scratch(), &child.id.to_string());
        if child.boots {
            self.booted(&mut child, status, control)?;
        } else {
            let receipt = receipt(&child, status, usage);
            self.last_word(&mut child, &receipt);
            if child.parked.is_none() && !self.draining {
                let why = receipt.message.as_ref().map_or("it died", Text::as_str);
                let message = Text::message(format!("an instance could not be made: {why}"));
                control.send(&Event::Warning { message })?;
                self.pause = Some(Instant::now() + LAUNCH_PAUSE);
            }
            let call = child.call.as_ref().map(|call| call.name.as_str());
            control.send(&Event::Ended { instance: child.id, call, receipt: &receipt })?;
        }
        // SAFETY: the child is dead and removed: nobody uses this ledger any more.
        unsafe { child.ledger.free() };
        Ok(())
    }

    fn scratch(&self) -> std::path::PathBuf {
        self.world.as_ref().map(|world| world.options.scratch.clone()).unwrap_or_default()
    }

    /// Reads what a dead child left in its pipe, as far as its log takes any.
    fn drain_log(&mut self, number: u32, stream: Stream, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        // A pipe holds at most this many reads' worth unless the node raised its size.
        for _ in 0..32 {
            let open = self.children.get(&number).is_some_and(|child| match stream {
                Stream::Stdout => has_input(child.stdout.as_ref()),
                _ => has_input(child.stderr.as_ref()),
            });
            if !open {
                break;
            }
            self.log(number, stream, control)?;
        }
        Ok(())
    }

    /// An instance that died without a byte of response: its caller learns what happened.
    fn last_word(&self, child: &mut Child, receipt: &Receipt) {
        let Some(connection) = child.call.as_mut().and_then(|call| call.connection.take()) else { return };
        if receipt.bytes_out > 0 {
            return;
        }
        let failure = match (receipt.cause, receipt.code) {
            (Cause::Exited, Some(code)) => format!("exit status {code}"),
            (Cause::Signal, Some(code)) => format!("signal {code}"),
            (Cause::Deadline, _) => "deadline".to_owned(),
            (Cause::Internal, _) => "internal".to_owned(),
            // The program closed the connection: the server says that better.
            _ => return,
        };
        let text = format!(
            "HTTP/1.1 500 Internal Server Error\r\nX-Mayfly-Failure: {failure}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: a live local with its length. A caller that does not take it has gone.
        unsafe { libc::send(connection.as_raw_fd(), text.as_ptr().cast(), text.len(), flags) };
    }

    /// The boot ended: what the function will run from, or why it will not.
    fn booted(&mut self, child: &mut Child, status: i32, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let boot_ms = u64::try_from(child.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let output = child.lines.output();
        if self.draining {
            return Ok(());
        }
        let told = child.told.take();
        let mut give_up = |parent: &mut Self, reason, message: String| {
            parent.outcome = Some(fail(control, reason, message, output.clone()));
            Ok(())
        };
        let (launch, reason) = match told {
            Some(Message::Snapshot) => match self.load_snapshot() {
                Ok(snapshot) => (Launch::Clone(Arc::new(snapshot)), None),
                Err(why) => (Launch::Boot, Some(format!("the snapshot cannot be read: {why}"))),
            },
            Some(Message::Refused(why)) => (Launch::Boot, Some(why)),
            Some(Message::Unloadable(is_program, why)) => {
                let reason = if is_program { FailedReason::Program } else { FailedReason::Internal };
                return give_up(self, reason, why);
            }
            _ if child.killed.is_some() => {
                let port = self.world.as_ref().map_or(0, |world| world.bundle.function.port);
                return give_up(self, FailedReason::Timeout, timeout_message(self.contract, port, child));
            }
            _ if libc::WIFEXITED(status)
                && libc::WEXITSTATUS(status) == 0
                && matches!(self.contract, Contract::Stdin | Contract::Kontain) =>
            {
                (Launch::Start, Some("the program ends without reading its input: it is started anew for each call".to_owned()))
            }
            _ => {
                let why = match child.ledger.cause() {
                    Some((Cause::Exited, Some(code))) => format!("the program exited with status {code} before it was ready"),
                    Some((_, _)) => format!("the program ended before it was ready: {}", child.ledger.message()),
                    None => format!("the program ended before it was ready: {}", describe_status(status)),
                };
                return give_up(self, FailedReason::Exited, why);
            }
        };
        self.snapshot = match &launch {
            Launch::Clone(snapshot) => Some(crate::control::Snapshot {
                digest: self.state_digest().unwrap_or_default(),
                bytes: snapshot.image_bytes,
                threads: u32::try_from(snapshot.threads.len()).unwrap_or(u32::MAX),
            }),
            _ => None,
        };
        // Not before: a boot has rules of its own, and could not be killed from behind these.
        let jail = Rc::get_mut(&mut self.jail).ok_or_else(|| stop("jail")(Errno::INVAL))?;
        jail.lock_files().map_err(Stop::Jail)?;
        control.send(&Event::Ready {
            boot_ms,
            snapshot: self.snapshot.as_ref(),
            reason: reason.map(Text::message),
            layers: &self.jail.names(),
        })?;
        self.launch = Some(launch);
        Ok(())
    }

    fn load_snapshot(&self) -> Result<Snapshot, String> {
        let world = self.world.as_ref().ok_or("no world")?;
        Snapshot::load(world.state.as_fd()).map_err(|error| error.to_string())
    }

    /// SHA-256 of the snapshot's state: names the snapshot in receipts.
    fn state_digest(&self) -> Option<String> {
        use sha2::{Digest, Sha256};
        let world = self.world.as_ref()?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0u8; 64 << 10];
        let mut at = 0i64;
        loop {
            // SAFETY: a local buffer with its length.
            let length = unsafe {
                libc::pread(world.state.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), at)
            };
            match usize::try_from(length) {
                Ok(0) => break,
                Ok(length) => {
                    hash.update(&buffer[..length]);
                    at += i64::try_from(length).ok()?;
                }
                Err(_) => return None,
            }
        }
        let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("sha256:{digits}"))
    }
}

fn has_input(fd: Option<&OwnedFd>) -> bool {
    let Some(fd) = fd else { return false };
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 && poll.revents & libc::POLLIN != 0 }
}

fn send_lines(control: &mut ControlStream<'_>, child: &Child, lines: &[LogLine]) -> Result<(), Stop> {
    let call = child.call.as_ref().map(|call| call.name.as_str());
    for LogLine { stream, line, truncated } in lines {
        let event = Event::Log { instance: child.id, call, stream: *stream, line, truncated: *truncated };
        control.send(&event)?;
    }
    Ok(())
}

fn timeout_message(contract: Contract, port: u16, child: &Child) -> String {
    match (contract, child.ledger.listening_port()) {
        (Contract::Http, Some(other)) => {
            format!("the program listens on port {other}, not on {port} (PORT): set spec.port or make it listen on $PORT")
        }
        (Contract::Http, None) => format!("the program did not wait for a connection on port {port} in time"),
        (Contract::Stdin, _) => "the program did not read its standard input in time".to_owned(),
        (Contract::Kontain, _) => "the program did not open /.request in time".to_owned(),
    }
}

fn describe_status(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        crate::task::signal_name(libc::WTERMSIG(status))
    } else {
        format!("status {}", libc::WEXITSTATUS(status))
    }
}

/// Eight random bytes: the name of an instance.
fn random() -> Result<u64, Errno> {
    let mut bytes = [0u8; 8];
    // SAFETY: a local buffer with its length.
    from_libc(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) } as i64)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn receipt(child: &Child, status: i32, usage: &libc::rusage) -> Receipt {
    use std::sync::atomic::Ordering::Relaxed;
    let time = |value: libc::timeval| {
        u64::try_from(value.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(value.tv_usec).unwrap_or(0)
    };
    let noted = child.ledger.cause();
    let (cause, code) = match (child.killed, noted) {
        // What the instance noted happened before it was killed.
        (_, Some((cause, code))) if cause != Cause::Abandoned || child.killed.is_none() => (cause, code),
        // The caller had an answer and closed; the program did not.
        (Some(Cause::Abandoned), _) if child.ledger.bytes_out.load(Relaxed) > 0 => (Cause::Closed, None),
        (Some(cause), _) => (cause, None),
        (None, _) if libc::WIFSIGNALED(status) => (Cause::Signal, Some(libc::WTERMSIG(status))),
        (None, _) => (Cause::Internal, Some(libc::WEXITSTATUS(status))),
    };
    let message = child.ledger.message();
    let accepted = child.call.as_ref().map(|call| call.accepted);
    Receipt {
        cause,
        code,
        message: (!message.is_empty()).then(|| Text::message(message)),
        parked_us: match (child.parked, accepted) {
            (Some(parked), accepted) => micros(accepted.unwrap_or_else(Instant::now).duration_since(parked)),
            _ => 0,
        },
        run_us: accepted.map_or(0, |accepted| micros(accepted.elapsed())),
        cpu_us: time(usage.ru_utime) + time(usage.ru_stime),
        exits: child.ledger.exits.load(Relaxed),
        syscalls: child.ledger.syscalls.load(Relaxed),
        pages: u64::try_from(usage.ru_minflt + usage.ru_majflt).unwrap_or(0),
        bytes_in: child.ledger.bytes_in.load(Relaxed),
        bytes_out: child.ledger.bytes_out.load(Relaxed),
        tail: child.lines.tail(),
    }
}
