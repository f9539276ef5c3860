//! The process of `serve` itself: boots, keeps the pool, watches each instance to its end, reports.
//!
//! One thread and one epoll. It survives whatever a child does: a child's messages are bounded, its log is bounded, its
//! numbers are read from its ledger after its death. It alone enforces the deadline: by SIGKILL.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{Epoll, EpollEvent, EventSet};

use super::channel::{self, Message, Received};
use super::checking::Check;
use super::keeping::Keeper;
use super::offspring::{Call, Child, send_lines};
use super::orphans::Orphans;
use super::watching::{Source, signal_descriptor, take_streams, unwatch, watch};
use super::yielding::Look;
use super::{Launch, Options, ServeError, World, host_error};
use crate::bundle::Contract;
use crate::control::{
    Cause, Command, Commands, ControlError, ControlStream, Event, FailedReason, Input, Stream, Text,
};
use crate::errno::Errno;
use crate::fs::descriptors::{self, raise};
use crate::jail::{Jail, JailError, Mode, Space};
use crate::sys;
use crate::working_set::WorkingSet;

/// How long an instance may go on after its caller has gone or has all it asked for.
const GRACE: Duration = Duration::from_millis(50);
/// How long launching pauses when an instance could not be made.
pub(super) const LAUNCH_PAUSE: Duration = Duration::from_millis(200);
/// How long orphans are given to end before their list is looked at again.
const SWEEP: Duration = Duration::from_millis(2);
/// How long the last events may take to be read.
const PARTING: Duration = Duration::from_secs(2);

pub(super) struct Parent {
    pub(super) world: Option<World>,
    /// Copies of what the parent itself needs of the world.
    pub(super) listener: OwnedFd,
    pub(super) contract: Contract,
    pub(super) pool: u32,
    pub(super) instances: u32,
    pub(super) log_limit: u64,
    pub(super) cpu_limit: Option<u64>,
    pub(super) epoll: Epoll,
    pub(super) children: HashMap<u32, Child>,
    pub(super) next: u32,
    pub(super) launch: Option<Launch>,
    /// What the rehearsal was launched by, what those before it have found (of a call that was welcome, and of any), and how long the boot
    /// took, milliseconds.
    pub(super) rehearsing: Option<Launch>,
    pub(super) learnt: [Option<WorkingSet>; 2],
    pub(super) boot_ms: u64,
    pub(super) draining: bool,
    pub(super) listening: bool,
    pub(super) pause: Option<Instant>,
    pub(super) snapshot: Option<crate::control::Snapshot>,
    /// An instance has been parked: instances can be made.
    pub(super) proven: bool,
    pub(super) keeper: Option<Keeper>,
    pub(super) check: Option<Check>,
    pub(super) outcome: Option<i32>,
    pub(super) jail: Rc<Jail>,
    /// The first process of the children's namespace, if they have one.
    pub(super) init: Option<i32>,
    /// Not in a child.
    pub(super) orphans: Option<Orphans>,
    /// There may be orphans still.
    pub(super) sweeping: bool,
    pub(super) broker: Option<super::network::Link>,
    /// Numbers of the descriptors that are no child's business: the control stream, the signals, what is waited for.
    pub(super) own: Vec<RawFd>,
}

/// What ends the loop early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the server has closed the commands")]
    Orphaned,
    #[error(transparent)]
    Jail(JailError),
    #[error("{what}: {source}")]
    Host { what: &'static str, source: Errno },
}

pub(super) fn stop(what: &'static str) -> impl Fn(Errno) -> Stop {
    move |source| Stop::Host { what, source }
}

/// Serves until drained; gives the exit status.
pub fn serve(options: Options) -> i32 {
    let enough = crate::jail::enough_descriptors();
    crate::guest::prepare_process();
    if let Err(errno) = descriptors::open_executable() {
        eprintln!("mayfly-monitor: /proc/self/exe: {errno}");
        return 1;
    }
    crate::syscalls::prepare();
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
    if let Err(error) = enough {
        return fail(
            &mut control,
            FailedReason::Internal,
            error.to_string(),
            Text::default(),
        );
    }
    let world = match World::open(options) {
        Ok(world) => world,
        Err(error) => {
            let reason = match &error {
                ServeError::Bundle(_) => FailedReason::Config,
                ServeError::Kvm(_) => FailedReason::Kvm,
                ServeError::Layers(_) => FailedReason::Layers,
                ServeError::Host { .. } | ServeError::Jail(_) => FailedReason::Internal,
            };
            return fail(&mut control, reason, error.to_string(), Text::default());
        }
    };
    let mut parent = match Parent::new(world, commands.as_raw_fd(), events.as_raw_fd()) {
        Ok(parent) => parent,
        Err(error) => {
            let reason = match error {
                ServeError::Layers(_) => FailedReason::Layers,
                _ => FailedReason::Internal,
            };
            return fail(&mut control, reason, error.to_string(), Text::default());
        }
    };
    let result = parent.run(&mut control, &commands, ready_timeout);
    parent.kill_all();
    parent.bury();
    let status = match result {
        Ok(status) => status,
        Err(Stop::Orphaned | Stop::Control(_)) => 0,
        Err(error) => fail(
            &mut control,
            FailedReason::Internal,
            error.to_string(),
            Text::default(),
        ),
    };
    if let Err(error) = control.finish(PARTING) {
        eprintln!("mayfly-monitor: {error}");
    }
    status
}

pub(super) fn fail(
    control: &mut ControlStream<'_>,
    reason: FailedReason,
    message: String,
    output: Text,
) -> i32 {
    eprintln!("mayfly-monitor: {message}");
    let event = Event::Failed {
        reason,
        message: Text::message(message),
        output,
    };
    if control
        .send(&event)
        .and_then(|()| control.finish(PARTING))
        .is_err()
    {
        eprintln!("mayfly-monitor: the server does not read");
    }
    1
}

/// What `serve` and its children may reach: the image, the private directories, the names of open files.
pub(super) fn enter_jail(world: &World) -> Result<Jail, ServeError> {
    let kept = world.options.kept_in();
    let space = Space {
        read: &[&world.bundle.root],
        write: &[&world.options.scratch],
        keep: &kept.iter().map(PathBuf::as_path).collect::<Vec<_>>(),
        list: &[Path::new("/proc")],
        execute: Some(descriptors::executable()),
    };
    let jail = Jail::enter(&space, Mode::Enforce, &world.enclosed)?;
    match jail.lacking(&world.options.require) {
        missing if missing.is_empty() => Ok(jail),
        missing => Err(ServeError::Layers(missing)),
    }
}

impl Parent {
    fn new(mut world: World, commands: RawFd, events: RawFd) -> Result<Self, ServeError> {
        let orphans = world.orphans.take();
        let broker = world.link.take();
        let jail = enter_jail(&world)?;
        let epoll = Epoll::new().map_err(|error| host_error("epoll")(error.into()))?;
        let raised = |fd: &OwnedFd| -> Result<OwnedFd, Errno> { raise(fd.try_clone()?) };
        let listener = raised(&world.listener).map_err(host_error("listener"))?;
        let options = &world.options;
        let own = vec![commands, events, epoll.as_raw_fd(), listener.as_raw_fd()];
        let parent = Self {
            own,
            listener,
            contract: world.bundle.function.contract,
            pool: options.pool,
            instances: options.instances.max(1),
            log_limit: options.log_limit,
            cpu_limit: options.cpu_limit,
            init: world.enclosed.init.as_ref().map(|init| init.pid),
            world: Some(world),
            epoll,
            children: HashMap::new(),
            next: 0,
            launch: None,
            rehearsing: None,
            learnt: [None, None],
            boot_ms: 0,
            draining: false,
            listening: false,
            pause: None,
            snapshot: None,
            proven: false,
            keeper: None,
            check: None,
            outcome: None,
            jail: Rc::new(jail),
            orphans,
            sweeping: false,
            broker,
        };
        watch(&parent.epoll, commands, Source::Commands, EventSet::IN)
            .map_err(|error| host_error(error.to_string())(Errno::IO))?;
        if let Some(link) = &parent.broker {
            watch(
                &parent.epoll,
                link.channel.as_raw_fd(),
                Source::Broker,
                EventSet::IN,
            )
            .map_err(|error| host_error(error.to_string())(Errno::IO))?;
        }
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
        self.own.push(signals.as_raw_fd());
        let mut input = Commands::default();
        if !self.restore(control)? {
            self.boot(control, ready_timeout)?;
        }
        loop {
            self.refill(control)?;
            if let Some(status) = self.outcome {
                return Ok(status);
            }
            if self.draining && self.children.is_empty() && self.keeper.is_none() {
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
                    Some(Source::Broker) => self.refusals(control)?,
                    None => {}
                }
            }
            self.enforce();
            self.make_way();
            if self.sweeping {
                self.sweeping = self.kill_orphans();
            }
            control.flush()?;
        }
    }

    /// Milliseconds until the next thing to do.
    fn patience(&self, control: &ControlStream<'_>) -> i32 {
        let now = Instant::now();
        let due = self
            .children
            .values()
            .flat_map(|child| child.due().map(|(at, _)| at).into_iter().chain(child.look_at()))
            .chain(self.pause)
            .chain(self.held())
            .min();
        let wait = due.map(|at| at.saturating_duration_since(now));
        let wait = if self.sweeping { Some(SWEEP) } else { wait };
        let wait = if control.wants_write() {
            Some(wait.unwrap_or(PARTING).min(Duration::from_millis(20)))
        } else {
            wait
        };
        // Rounded up, so that nothing is looked at before it is due.
        wait.map_or(-1, |wait| {
            i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        })
    }

    pub(super) fn channel(&mut self, number: u32, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let Some(child) = self.children.get_mut(&number) else {
            return Ok(());
        };
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
                    self.proven = true;
                    control.send(&Event::Parked {
                        instance: child.id,
                        pid: child.pid,
                    })?;
                }
                Received::Message(Message::Accepted { call, budget_ms }, Some(connection))
                    if !child.boots && child.call.is_none() =>
                {
                    let connection = raise(connection).map_err(stop("connection"))?;
                    let accepted = Instant::now();
                    let budget = Duration::from_millis(budget_ms);
                    let deadline = accepted
                        .checked_add(budget)
                        .unwrap_or(accepted + Duration::from_secs(86400));
                    watch(
                        &self.epoll,
                        connection.as_raw_fd(),
                        Source::Connection(number),
                        EventSet::empty(),
                    )?;
                    control.send(&Event::Accepted {
                        instance: child.id,
                        call: &call,
                    })?;
                    child.call = Some(Call {
                        name: call,
                        accepted,
                        deadline,
                        connection: Some(connection),
                        look: Look::begin(child.pid, accepted),
                    });
                }
                Received::Message(message @ Message::Rehearsed { .. }, _) if child.rehearses => {
                    child.told = Some(message)
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
    pub(super) fn caller_gone(&mut self, number: u32) {
        let Some(child) = self.children.get_mut(&number) else {
            return;
        };
        // The instance holds the connection too, so closing our copy would not end the reports.
        let gone = child.call.as_mut().and_then(|call| call.connection.take());
        unwatch(&self.epoll, gone.as_ref());
        child.doom = Some((Instant::now() + GRACE, Cause::Abandoned));
    }

    pub(super) fn log(
        &mut self,
        number: u32,
        stream: Stream,
        control: &mut ControlStream<'_>,
    ) -> Result<(), Stop> {
        let Some(child) = self.children.get_mut(&number) else {
            return Ok(());
        };
        let mut buffer = vec![0u8; 64 << 10];
        let end = match stream {
            Stream::Stdout => &mut child.stdout,
            _ => &mut child.stderr,
        };
        let Some(fd) = end.as_ref().map(AsRawFd::as_raw_fd) else {
            return Ok(());
        };
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
    pub(super) fn enforce(&mut self) {
        let now = Instant::now();
        for child in self.children.values_mut() {
            if let Some((at, cause)) = child.due()
                && at <= now
            {
                child.kill(cause);
            }
        }
    }

    pub(super) fn kill_all(&mut self) {
        for child in self.children.values_mut() {
            child.kill(Cause::Drained);
        }
    }

    // ------------------------------------------------------------------ the outside

    pub(super) fn signals(&mut self, signals: &OwnedFd, control: &mut ControlStream<'_>) -> Result<(), Stop> {
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
        // What the broker has said of those that have ended.
        self.refusals(control)?;
        // What an instance left is ours now: before its directories are removed.
        self.sweeping = self.kill_orphans() || self.init.is_some();
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
            if self.keeper.as_ref().is_some_and(|keeper| keeper.pid == pid) {
                self.kept(status, control)?;
                continue;
            }
            if self.init == Some(pid) {
                // Everybody in it is dead, and nobody can be made there any more.
                return Err(stop("the init of the process namespace ended")(Errno::CHILD));
            }
            if self.broker.as_ref().is_some_and(|broker| broker.pid == pid) {
                self.broker = None;
                let message = Text::message("the network broker has ended: there is no network any more");
                control.send(&Event::Warning { message })?;
            }
            let number = self
                .children
                .iter()
                .find(|(_, child)| child.pid == pid)
                .map(|(number, _)| *number);
            if let Some(number) = number {
                self.ended(number, status, &usage, control)?;
            }
        }
    }

    /// Kills what is nobody's any more. Says whether there was something.
    fn kill_orphans(&self) -> bool {
        let keeper = self.keeper.iter().map(|keeper| keeper.pid);
        let known = self.children.values().map(|child| child.pid);
        let broker = self.broker.iter().map(|broker| broker.pid);
        let known = known.chain(keeper).chain(broker).chain(self.init).collect();
        self.orphans.as_ref().is_some_and(|orphans| orphans.kill(&known))
    }

    /// Before the end: waits for those that were killed, and for what they leave.
    fn bury(&mut self) {
        let begun = Instant::now();
        // An orphan from now on.
        self.broker = None;
        // The init of the process namespace, whose end ends all others in it, waits for this.
        if let Some(world) = &mut self.world {
            world.enclosed.init = None;
        }
        loop {
            // SAFETY: no status is asked for.
            let pid = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
            if pid < 0 || begun.elapsed() > PARTING {
                return;
            }
            self.children.retain(|_, child| child.pid != pid);
            if pid == 0 && !self.kill_orphans() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    pub(super) fn commands(
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
    pub(super) fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        // Instances that wait get EINVAL and end; connections that were made before are still accepted.
        sys::shutdown(&self.listener);
        let now = Instant::now();
        for child in self.children.values_mut().filter(|child| child.parked.is_none()) {
            // Not parked yet, or the boot: nobody waits for it.
            child.doom = Some((now + GRACE, Cause::Drained));
        }
    }
}
