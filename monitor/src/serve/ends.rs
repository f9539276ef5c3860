//! What follows when a child has ended: its receipt, its last word to the caller, and after the boot the snapshot.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Instant;

use super::Launch;
use super::channel::Message;
use super::offspring::{Child, describe_status, receipt, send_lines, timeout_message};
use super::parent::{LAUNCH_PAUSE, Parent, Stop, fail, stop};
use super::watching::{has_input, unwatch};
use crate::bundle::Contract;
use crate::control::{Cause, ControlStream, Event, FailedReason, Receipt, Source, Stream, Text};
use crate::errno::Errno;

impl Parent {
    pub(super) fn ended(
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
        let Some(mut child) = self.children.remove(&number) else {
            return Ok(());
        };
        child.ledger.kin.close();
        // A sibling that was forked just now may still hold copies.
        let connection = child.call.as_ref().and_then(|call| call.connection.as_ref());
        for fd in [
            Some(&child.channel),
            child.stdout.as_ref(),
            child.stderr.as_ref(),
            connection,
        ] {
            unwatch(&self.epoll, fd);
        }
        let mut lines = Vec::new();
        child.lines.finish(&mut lines);
        send_lines(control, &child, &lines)?;
        let checked = self.checked(number, &child, control)?;
        crate::fs::remove_instance(&self.scratch(), &child.id.to_string());
        if self.counts() && !child.rehearses {
            control.send(&Event::Used {
                instance: child.id,
                calls: child.ledger.counts(),
            })?;
        }
        if checked {
            // Said there.
        } else if child.boots {
            self.booted(&mut child, status, control)?;
        } else if child.rehearses {
            self.rehearsed(&child, control)?;
        } else {
            let receipt = receipt(&child, status, usage, self.cpu_limit);
            self.last_word(&mut child, &receipt);
            if child.parked.is_none() && !self.draining {
                let why = receipt.message.as_ref().map_or("it died", Text::as_str);
                let message = Text::message(format!("an instance could not be made: {why}"));
                control.send(&Event::Warning { message })?;
                self.pause = Some(Instant::now() + LAUNCH_PAUSE);
                let from_file = self
                    .snapshot
                    .as_ref()
                    .is_some_and(|snapshot| snapshot.source == Source::File);
                if from_file && !self.proven {
                    self.forsake(why, control)?;
                }
            }
            let call = child.call.as_ref().map(|call| call.name.as_str());
            control.send(&Event::Ended {
                instance: child.id,
                call,
                receipt: &receipt,
                layers: &self.jail.names(),
                missing: &self
                    .jail
                    .missing()
                    .iter()
                    .map(|layer| layer.name)
                    .collect::<Vec<_>>(),
            })?;
        }
        // SAFETY: the child is dead and removed: nobody uses this ledger any more.
        unsafe { child.ledger.free() };
        Ok(())
    }

    /// Whether system calls are counted one by one.
    pub(super) fn counts(&self) -> bool {
        self.world.as_ref().is_some_and(|world| world.options.probe)
    }

    fn rehearses(&self) -> bool {
        let clones = self.world.as_ref().map(|world| world.options.clones);
        clones.is_some_and(|clones| {
            clones.warmth > crate::working_set::Warmth::Cold || clones.waiting == super::Waiting::Hybrid
        })
    }

    pub(super) fn scratch(&self) -> std::path::PathBuf {
        self.world
            .as_ref()
            .map(|world| world.options.scratch.clone())
            .unwrap_or_default()
    }

    /// Reads what a dead child left in its pipe, as far as its log takes any.
    pub(super) fn drain_log(
        &mut self,
        number: u32,
        stream: Stream,
        control: &mut ControlStream<'_>,
    ) -> Result<(), Stop> {
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
    pub(super) fn last_word(&self, child: &mut Child, receipt: &Receipt) {
        let Some(connection) = child.call.as_mut().and_then(|call| call.connection.take()) else {
            return;
        };
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
    pub(super) fn booted(
        &mut self,
        child: &mut Child,
        status: i32,
        control: &mut ControlStream<'_>,
    ) -> Result<(), Stop> {
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
            Some(Message::Snapshot) => match self.taken() {
                Ok(launch) => (launch, None),
                Err(why) => (Launch::Boot, Some(format!("the snapshot cannot be read: {why}"))),
            },
            Some(Message::Refused(why)) => (Launch::Boot, Some(why)),
            Some(Message::Unloadable(is_program, why)) => {
                let reason = if is_program {
                    FailedReason::Program
                } else {
                    FailedReason::Internal
                };
                return give_up(self, reason, why);
            }
            _ if child.killed.is_some() => {
                let port = self.world.as_ref().map_or(0, |world| world.bundle.function.port);
                return give_up(
                    self,
                    FailedReason::Timeout,
                    timeout_message(self.contract, port, child),
                );
            }
            _ if libc::WIFEXITED(status)
                && libc::WEXITSTATUS(status) == 0
                && matches!(self.contract, Contract::Stdin | Contract::Kontain) =>
            {
                (
                    Launch::Start,
                    Some(
                        "the program ends without reading its input: it is started anew for each call"
                            .to_owned(),
                    ),
                )
            }
            _ => {
                let why = match child.ledger.cause() {
                    Some((Cause::Exited, Some(code))) => {
                        format!("the program exited with status {code} before it was ready")
                    }
                    Some((_, _)) => format!(
                        "the program ended before it was ready: {}",
                        child.ledger.message()
                    ),
                    None => format!(
                        "the program ended before it was ready: {}",
                        describe_status(status)
                    ),
                };
                return give_up(self, FailedReason::Exited, why);
            }
        };
        self.ready(launch, boot_ms, reason, control)
    }

    /// The function can take calls, once it is known what a call touches.
    pub(super) fn ready(
        &mut self,
        launch: Launch,
        boot_ms: u64,
        reason: Option<String>,
        control: &mut ControlStream<'_>,
    ) -> Result<(), Stop> {
        self.boot_ms = boot_ms;
        match &launch {
            Launch::Clone(snapshot, _) if self.rehearses() => {
                self.rehearse(Launch::Rehearsal(snapshot.clone(), 0))
            }
            _ => self.open_for_calls(launch, reason, control),
        }
    }

    /// From now on instances are made: says so.
    pub(super) fn open_for_calls(
        &mut self,
        launch: Launch,
        reason: Option<String>,
        control: &mut ControlStream<'_>,
    ) -> Result<(), Stop> {
        // Not before: a boot has rules of its own, and could not be killed from behind these.
        if let (Launch::Clone(snapshot, set), Some(world)) = (&launch, &mut self.world) {
            world.prepare(snapshot, set).map_err(stop("memory"))?;
        }
        let jail = Rc::get_mut(&mut self.jail).ok_or_else(|| stop("jail")(Errno::INVAL))?;
        jail.lock_files().map_err(Stop::Jail)?;
        control.send(&Event::Ready {
            boot_ms: self.boot_ms,
            snapshot: self.snapshot.as_ref(),
            reason: reason.map(Text::message),
            layers: &self.jail.names(),
            missing: &self.jail.missing(),
        })?;
        self.launch = Some(launch);
        self.check();
        match &self.snapshot {
            Some(snapshot) if snapshot.source == Source::Boot => self.keep(control),
            _ => Ok(()),
        }
    }
}
