//! How a call reaches a program, where the monitor itself speaks HTTP.
//!
//! With the contract `http` the program reads the request and the monitor only reads the `envelope` before it. With `stdin`
//! and `kontain` the monitor stands between the connection and the program:
//!
//! ```text
//!          envelope, request                    body                    read(0)
//! server ────────────────────▶ helper thread ──────────▶ pipe ─────────────────────▶ guest
//!        ◀────────────────────               ◀────────── pipe ◀───────────────────── exit_group ─▶ ExitNotice
//!              response                        stdout              write(1)
//! ```
//!
//! Invariants: the peer is our own server, but method, target, headers and body are a client's bytes, so they are parsed
//! strictly and bounded; one response, then the connection ends. The helper is one thread that polls, has every signal
//! blocked (the guest's signals are the host's) and never waits for one descriptor while another needs it: a program that
//! never reads its stdin, or closes it, or writes before it reads, blocks nobody.
//!
//! What is left out: the request's method and headers do not reach a `stdin` program. A CGI-like environment would have to
//! be made before the program starts, and it has started long before the request exists: its snapshot was taken at ready.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::control::Cause;
use crate::errno::Errno;
use crate::fs::descriptors::private;
use crate::sys;

mod connection;
pub mod envelope;
mod http;
mod kontain;
mod stdin;

pub use kontain::{Kontain, KontainLimits};
pub use stdin::{StdinPipes, run_stdin};

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Exited(u8),
    Signaled(u8),
}

/// Tells the helper thread that the program has ended, and how. Invariant: at most one ending is ever told.
pub struct ExitNotice {
    event: OwnedFd,
    told: AtomicBool,
}

impl ExitNotice {
    const SIGNALED: u64 = 0x1000;

    pub fn new() -> Result<Self, Errno> {
        Ok(Self {
            event: private(sys::eventfd)?,
            told: AtomicBool::new(false),
        })
    }

    /// Called where the guest ends; what it wrote before is in its pipes by then. Only the first call counts.
    pub fn tell(&self, ending: Ending) {
        if self.told.swap(true, Ordering::Relaxed) {
            return;
        }
        let value = match ending {
            Ending::Exited(status) => 1 + u64::from(status),
            Ending::Signaled(number) => Self::SIGNALED + u64::from(number),
        };
        // A counter of zero has room for one value: this neither blocks nor fails.
        let _ = sys::write(&self.event, &value.to_ne_bytes());
    }

    /// The ending, if it has been told. Gives it once.
    fn take(&self) -> Option<Ending> {
        let mut value = [0; 8];
        if sys::read(&self.event, &mut value) != Ok(8) {
            return None;
        }
        let value = u64::from_ne_bytes(value);
        Some(match value.checked_sub(Self::SIGNALED) {
            Some(number) => Ending::Signaled(u8::try_from(number).unwrap_or(u8::MAX)),
            None => Ending::Exited(u8::try_from(value.saturating_sub(1)).unwrap_or(u8::MAX)),
        })
    }
}

impl AsFd for ExitNotice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// How the function failed. The text is the value of `X-Mayfly-Failure`, which the server reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("exit status {0}")]
    Exit(u8),
    #[error("signal {0}")]
    Signal(u8),
    #[error("no reply")]
    NoReply,
    #[error("bad reply")]
    BadReply,
    #[error("output limit")]
    OutputLimit,
}

/// How the call ended on the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The function's response was written.
    Sent,
    /// A response that says that the function failed was written; the text, if any, is for the receipt.
    Failed(Failure, Option<String>),
    /// The caller went away.
    Abandoned,
    /// The request was not one that the server sends; the text says why.
    Refused(String),
    /// A fault of the monitor or of its host.
    Broken(String),
}

/// What became of a call, for its receipt.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub answer: Answer,
    /// How the program ended, if it did.
    pub ending: Option<Ending>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Outcome {
    /// `cause`, `code` and `message` of the receipt.
    pub fn receipt(&self) -> (Cause, Option<i32>, Option<&str>) {
        let (cause, code) = match self.ending {
            Some(Ending::Exited(status)) => (Cause::Exited, Some(i32::from(status))),
            Some(Ending::Signaled(number)) => (Cause::Signal, Some(i32::from(number))),
            // The program is killed after the answer, or has none of its own to tell.
            None => (Cause::Closed, None),
        };
        match &self.answer {
            Answer::Sent => (cause, code, None),
            Answer::Failed(Failure::OutputLimit, text) => (Cause::Output, code, text.as_deref()),
            Answer::Failed(_, text) => (cause, code, text.as_deref()),
            Answer::Abandoned => (Cause::Abandoned, code, None),
            Answer::Refused(text) | Answer::Broken(text) => (Cause::Internal, code, Some(text)),
        }
    }
}

/// Starts a helper thread of the monitor's, with every signal blocked: the guest's signals must not land there.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    // A thread starts with its creator's mask, but for the signal that the C library cancels threads with: it unblocks that
    // one, and it may be one of the guest's.
    let before = sys::change_mask(libc::SIG_SETMASK, u64::MAX);
    let masked = move || {
        sys::change_mask(libc::SIG_SETMASK, u64::MAX);
        work()
    };
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 << 10)
        .spawn(masked);
    sys::change_mask(libc::SIG_SETMASK, before);
    thread
}

/// A request with its body, and a reply of the contract `kontain`, for the fuzzers.
#[cfg(any(fuzzing, test))]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(Some((request, mut at))) = http::parse_head(bytes) {
        let Ok(mut decoder) = http::Decoder::new(request.framing, 1 << 20) else {
            return;
        };
        while let Ok((used, _)) = decoder.step(&bytes[at..]) {
            at += used;
            if used == 0 {
                break;
            }
        }
    }
    kontain::fuzz(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ending_is_told_once() {
        for ending in [
            Ending::Exited(0),
            Ending::Exited(255),
            Ending::Signaled(1),
            Ending::Signaled(64),
        ] {
            let notice = ExitNotice::new().unwrap();
            assert_eq!(notice.take(), None);
            notice.tell(ending);
            notice.tell(Ending::Exited(7));
            assert_eq!(notice.take(), Some(ending));
            assert_eq!(notice.take(), None);
        }
    }

    #[test]
    fn failures_read_as_the_protocol_says() {
        let failures = [
            Failure::Exit(3),
            Failure::Signal(11),
            Failure::NoReply,
            Failure::BadReply,
            Failure::OutputLimit,
        ];
        let texts = failures.map(|failure| failure.to_string());
        assert_eq!(
            texts,
            [
                "exit status 3",
                "signal 11",
                "no reply",
                "bad reply",
                "output limit"
            ]
        );
    }

    #[test]
    fn a_helper_thread_takes_no_signal_and_its_creator_keeps_its_mask() {
        let before = sys::change_mask(libc::SIG_BLOCK, 0);
        let mask = spawn("test", || sys::change_mask(libc::SIG_BLOCK, 0))
            .unwrap()
            .join()
            .unwrap();
        // SIGKILL and SIGSTOP cannot be blocked.
        assert_eq!(mask, !(1 << 8 | 1 << 18));
        assert_eq!(sys::change_mask(libc::SIG_BLOCK, 0), before);
    }
}
