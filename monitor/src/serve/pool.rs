//! Making children: the boot, and the clones that the pool lacks.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, IntoRawFd};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, EpollEvent, EventSet};

use super::child::{Setup, raised_pipe};
use super::offspring::Child;
use super::parent::{LAUNCH_PAUSE, Parent, Stop, stop};
use super::watching::{Source, watch};
use super::{Launch, World, boot, channel, instance};
use crate::control::{Cause, ControlStream, Event, InstanceId, LogLines, Text};
use crate::errno::{Errno, from_libc};
use crate::jail::Jail;
use crate::ledger::Ledger;
use crate::sys;

/// How long a call keeps its successor from being made, if it does not end before.
const HOLD: Duration = Duration::from_millis(3);

impl Parent {
    /// Forks. In the child, everything of the parent's that is not the world's is closed and `run` does not return.
    pub(super) fn spawn(
        &mut self,
        boots: bool,
        run: impl FnOnce(World, Setup, &Jail, InstanceId),
    ) -> Result<u32, Stop> {
        let id = InstanceId(random().map_err(stop("getrandom"))?);
        let (channel, child_channel) = channel::pair().map_err(stop("socketpair"))?;
        let (stdout, child_stdout) = raised_pipe().map_err(stop("pipe"))?;
        let (stderr, child_stderr) = raised_pipe().map_err(stop("pipe"))?;
        for end in [&stdout, &stderr] {
            // SAFETY: no pointers.
            from_libc(unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })
                .map_err(stop("fcntl"))?;
        }
        let broker = match &self.broker {
            Some(link) => Some(link.introduce(&id.to_string()).map_err(stop("network broker"))?),
            None => None,
        };
        let (ledger, memory) = Ledger::allocate().map_err(stop("ledger"))?;
        if self.counts() {
            ledger.count();
        }
        // SAFETY: this process has one thread, so the child may go on as it was.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(stop("fork")(Errno::last()));
        }
        if pid == 0 {
            self.children.clear();
            self.orphans = None;
            self.broker = None;
            // The caller's end of an example call.
            self.check = None;
            for own in &self.own {
                // SAFETY: their owners are never dropped here: this process ends without returning.
                unsafe { libc::close(*own) };
            }
            let Some(mut world) = self.world.take() else {
                crate::lifecycle::end_process(70)
            };
            world.broker = broker;
            // Its descriptor is closed here, not when the world goes: then the number may be the guest's.
            drop(world.enclosed.init.take().map(|init| init.life));
            let setup = Setup {
                name: id.to_string(),
                channel: child_channel,
                stdout: child_stdout,
                stderr: child_stderr,
                ledger,
                // The child's for its life.
                memory: memory.into_raw_fd(),
            };
            drop((channel, stdout, stderr));
            let jail = self.jail.clone();
            run(world, setup, &jail, id);
            crate::lifecycle::end_process(70);
        }
        drop((child_channel, child_stdout, child_stderr, memory, broker));
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        watch(
            &self.epoll,
            channel.as_raw_fd(),
            Source::Channel(number),
            EventSet::IN,
        )?;
        watch(
            &self.epoll,
            stdout.as_raw_fd(),
            Source::Stdout(number),
            EventSet::IN,
        )?;
        watch(
            &self.epoll,
            stderr.as_raw_fd(),
            Source::Stderr(number),
            EventSet::IN,
        )?;
        self.children.insert(
            number,
            Child {
                id,
                pid,
                boots,
                rehearses: false,
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

    pub(super) fn boot(&mut self, control: &mut ControlStream<'_>, timeout: Duration) -> Result<(), Stop> {
        let number = self.spawn(true, |world, setup, jail, _| boot::run(world, setup, jail))?;
        if let Some(child) = self.children.get_mut(&number) {
            child.doom = Some((Instant::now() + timeout, Cause::Deadline));
            control.send(&Event::Booting { pid: child.pid })?;
        }
        Ok(())
    }

    /// Launches what the pool lacks.
    pub(super) fn refill(&mut self, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let Some(launch) = self.launch.clone() else {
            return Ok(());
        };
        if self.draining || self.outcome.is_some() {
            return Ok(());
        }
        if let Some(until) = self.pause {
            if Instant::now() < until {
                return Ok(());
            }
            self.pause = None;
        }
        let idle = || {
            self.children
                .values()
                .filter(|child| child.call.is_none() && child.killed.is_none() && !child.rehearses)
                .count()
        };
        let fresh = self.held().count();
        let wanted = usize::try_from(self.pool).unwrap_or(usize::MAX);
        let most = usize::try_from(self.instances).unwrap_or(usize::MAX);
        let mut idle = idle();
        while idle + fresh < wanted && self.children.len() < most {
            if let Err(problem) = self.launch_one(&launch) {
                // The node is short of something (descriptors, processes, memory): what runs goes on, the rest is tried again.
                self.postpone(&problem, control)?;
                break;
            }
            idle += 1;
        }
        // Without anyone to accept, a waiting connection must wake this process.
        self.listen(idle == 0 && self.children.len() < most)?;
        control.flush()?;
        Ok(())
    }

    /// When each call that has just begun lets its successor be made: making one beside it would take the processor from it, or from its
    /// caller. A connection that waits is not held up: for that one `pending_connection` makes an instance.
    pub(super) fn held(&self) -> impl Iterator<Item = Instant> {
        let now = Instant::now();
        let calls = self.children.values().filter_map(|child| child.call.as_ref());
        calls.map(|call| call.accepted + HOLD).filter(move |at| *at > now)
    }

    /// Says why no instance could be made, and waits before the next is tried.
    fn postpone(&mut self, problem: &Stop, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        self.pause = Some(Instant::now() + LAUNCH_PAUSE);
        let message = Text::message(format!("an instance could not be made: {problem}"));
        Ok(control.send(&Event::Warning { message })?)
    }

    pub(super) fn launch_one(&mut self, launch: &Launch) -> Result<(), Stop> {
        let launch = launch.clone();
        self.spawn(false, move |world, setup, jail, id| {
            instance::run(world, setup, jail, &launch, id, None)
        })?;
        Ok(())
    }

    pub(super) fn listen(&mut self, wanted: bool) -> Result<(), Stop> {
        if wanted == self.listening {
            return Ok(());
        }
        let operation = if wanted {
            ControlOperation::Add
        } else {
            ControlOperation::Delete
        };
        let event = EpollEvent::new(EventSet::IN, Source::Listener.encode());
        self.epoll
            .ctl(operation, self.listener.as_raw_fd(), event)
            .map_err(|error| stop("epoll")(error.into()))?;
        self.listening = wanted;
        Ok(())
    }

    /// A connection waits and nobody is parked (a pool of 0, or all are busy).
    pub(super) fn pending_connection(&mut self, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let Some(launch) = self.launch.clone() else {
            return Ok(());
        };
        if !self.draining
            && self.pause.is_none()
            && let Err(problem) = self.launch_one(&launch)
        {
            self.postpone(&problem, control)?;
        }
        self.listen(false)?;
        control.flush()?;
        Ok(())
    }
}

/// Eight random bytes: the name of an instance.
fn random() -> Result<u64, Errno> {
    let mut bytes = [0u8; 8];
    sys::random(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
