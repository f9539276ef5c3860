//! What follows when a child has ended: its receipt, its last word to the caller, and after the boot the snapshot.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::Launch;
use super::channel::Message;
use super::offspring::{Child, describe_status, receipt, send_lines, timeout_message};
use super::parent::{LAUNCH_PAUSE, Parent, Stop, fail, stop};
use super::watching::{has_input, unwatch};
use crate::bundle::Contract;
use crate::control::{Cause, ControlStream, Event, FailedReason, Receipt, Stream, Text};
use crate::errno::Errno;
use crate::snapshot::Snapshot;

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
            control.send(&Event::Ended {
                instance: child.id,
                call,
                receipt: &receipt,
            })?;
        }
        // SAFETY: the child is dead and removed: nobody uses this ledger any more.
        unsafe { child.ledger.free() };
        Ok(())
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
            Some(Message::Snapshot) => match self.load_snapshot() {
                Ok(snapshot) => (Launch::Clone(Arc::new(snapshot)), None),
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

    pub(super) fn load_snapshot(&self) -> Result<Snapshot, String> {
        let world = self.world.as_ref().ok_or("no world")?;
        Snapshot::load(world.state.as_fd()).map_err(|error| error.to_string())
    }

    /// SHA-256 of the snapshot's state: names the snapshot in receipts.
    pub(super) fn state_digest(&self) -> Option<String> {
        use sha2::{Digest, Sha256};
        let world = self.world.as_ref()?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0u8; 64 << 10];
        let mut at = 0i64;
        loop {
            // SAFETY: a local buffer with its length.
            let length = unsafe {
                libc::pread(
                    world.state.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    at,
                )
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
