//! A child as the parent knows it, and what is told of its end.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::channel::Message;
use super::parent::{Parent, Stop};
use super::yielding::Look;
use crate::bundle::Contract;
use crate::control::{Cause, ControlStream, Event, InstanceId, LogLine, LogLines, Receipt, Stream, Text};
use crate::jail;
use crate::ledger::Ledger;
use crate::network::request::Refused;
use crate::sys;

/// The call an instance has.
pub(super) struct Call {
    pub(super) name: String,
    pub(super) accepted: Instant,
    pub(super) deadline: Instant,
    /// Our copy of the connection: tells when the caller goes, and carries a last word if the instance died silently.
    pub(super) connection: Option<OwnedFd>,
    /// Until it has used enough processor time to yield.
    pub(super) look: Option<Look>,
}

/// A child: an instance, or the boot.
pub(super) struct Child {
    pub(super) id: InstanceId,
    pub(super) pid: i32,
    pub(super) boots: bool,
    /// It makes an example call: nobody hears of it.
    pub(super) rehearses: bool,
    pub(super) channel: OwnedFd,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) lines: LogLines,
    pub(super) ledger: &'static Ledger,
    pub(super) started: Instant,
    pub(super) parked: Option<Instant>,
    pub(super) call: Option<Call>,
    /// When it must be dead, if that is decided, and why.
    pub(super) doom: Option<(Instant, Cause)>,
    pub(super) killed: Option<Cause>,
    /// The boot has said what it had to say.
    pub(super) told: Option<Message>,
}

impl Child {
    pub(super) fn kill(&mut self, cause: Cause) {
        if self.killed.is_none() {
            self.killed = Some(cause);
            self.ledger.kin.close();
            // The child was not reaped, so the number is still its own, and killing it cannot fail.
            let _ = sys::kill(self.pid, libc::SIGKILL);
        }
    }

    /// The next moment at which something must be done about this child.
    pub(super) fn due(&self) -> Option<(Instant, Cause)> {
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

/// Reports lines of a child's log.
pub(super) fn send_lines(
    control: &mut ControlStream<'_>,
    child: &Child,
    lines: &[LogLine],
) -> Result<(), Stop> {
    if child.rehearses {
        return Ok(());
    }
    let call = child.call.as_ref().map(|call| call.name.as_str());
    for LogLine {
        stream,
        line,
        truncated,
    } in lines
    {
        let event = Event::Log {
            instance: child.id,
            call,
            stream: *stream,
            line,
            truncated: *truncated,
        };
        control.send(&event)?;
    }
    Ok(())
}

impl Parent {
    /// Reports what the network broker has kept from instances.
    pub(super) fn refusals(&mut self, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let Some(link) = &self.broker else { return Ok(()) };
        while let Some(Refused { instance, line }) = Refused::receive(&link.channel) {
            let found = self
                .children
                .values()
                .find(|child| child.id.to_string() == instance);
            let Some(child) = found else { continue };
            let line = LogLine {
                stream: Stream::Monitor,
                line: Text::message(line),
                truncated: false,
            };
            send_lines(control, child, &[line])?;
        }
        Ok(())
    }
}

/// Why a program that was not ready in time was not.
pub(super) fn timeout_message(contract: Contract, port: u16, child: &Child) -> String {
    match (contract, child.ledger.listening_port()) {
        (Contract::Http, Some(other)) => {
            format!(
                "the program listens on port {other}, not on {port} (PORT): set spec.port or make it listen on $PORT"
            )
        }
        (Contract::Http, None) => format!("the program did not wait for a connection on port {port} in time"),
        (Contract::Stdin, _) => "the program did not read its standard input in time".to_owned(),
        (Contract::Kontain, _) => "the program did not open /.request in time".to_owned(),
    }
}

/// A wait status, for people.
pub(super) fn describe_status(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        crate::task::signal_name(libc::WTERMSIG(status))
    } else {
        format!("status {}", libc::WEXITSTATUS(status))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// How a call ended that did not end well, where nobody has said more.
fn abnormal(cause: Cause, code: Option<i32>) -> Option<String> {
    match (cause, code) {
        (Cause::Deadline, _) => Some("it was still running at its deadline".to_owned()),
        (Cause::Exited, Some(status)) if status != 0 => Some(format!("it exited with status {status}")),
        (Cause::Signal, Some(signal)) => Some(format!("killed by {}", crate::task::signal_name(signal))),
        _ => None,
    }
}

/// What is told of an instance that has ended.
pub(super) fn receipt(child: &Child, status: i32, usage: &libc::rusage, cpu_limit: Option<u64>) -> Receipt {
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
    let mut message = child.ledger.message();
    if (cause, code) == (Cause::Signal, Some(libc::SIGSYS)) && message.is_empty() {
        jail::VIOLATION.clone_into(&mut message);
    }
    let cpu_us = time(usage.ru_utime) + time(usage.ru_stime);
    if let Some(limit) = cpu_limit
        && cause == Cause::Signal
        && [Some(libc::SIGXCPU), Some(libc::SIGKILL)].contains(&code)
        // For the limit the kernel counts ticks, in its account it does not: on a busy machine they differ much.
        && cpu_us >= limit.saturating_mul(500_000)
    {
        message = format!("it used {limit} s of processor time, the limit of this node (MAYFLY_CPU_SECONDS)");
    }
    if message.is_empty()
        && child.call.is_some()
        && let Some(what) = abnormal(cause, code)
    {
        let last = crate::syscalls::describe(&child.ledger.recent());
        message = format!("{what}; last system calls: {last}");
    }
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
        cpu_us,
        guest_us: child.ledger.guest.load(Relaxed) / 1000,
        moments: child.ledger.moments(),
        exits: child.ledger.exits.load(Relaxed),
        syscalls: child.ledger.syscalls.load(Relaxed),
        pages: u64::try_from(usage.ru_minflt + usage.ru_majflt).unwrap_or(0),
        bytes_in: child.ledger.bytes_in.load(Relaxed),
        bytes_out: child.ledger.bytes_out.load(Relaxed),
        tail: child.lines.tail(),
    }
}
