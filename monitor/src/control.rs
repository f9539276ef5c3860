//! The control stream between the server and `serve` (`docs/protocol.md`, sections 3 and 4).
//!
//! Invariants: an event is one line of JSON of at most 64 KiB; what a guest wrote is in it only as a `Text`; writing never
//! blocks, because the same thread enforces deadlines. When the reader is slow, log lines are dropped first (and counted),
//! never the events of an instance's life.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

mod commands;
mod log_lines;
mod text;

pub use commands::{Command, Commands, Input};
pub use log_lines::{LogLine, LogLines};
pub use text::Text;

use crate::errno::Errno;
use crate::jail::Missing;
use crate::ledger::Moments;
use crate::sys;

/// The longest line, with its newline.
const LINE: usize = 64 << 10;
/// Log lines are dropped while this much waits for the reader.
const BACKLOG: usize = 1 << 20;
/// A pipe that polls as writable takes this much without blocking (`PIPE_BUF`).
const PIECE: usize = 4 << 10;

/// An instance's name: 16 hex digits everywhere outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InstanceId(pub u64);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for InstanceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a log line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
    Monitor,
}

/// Why a function cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FailedReason {
    Config,
    Program,
    Exited,
    Timeout,
    Kvm,
    Layers,
    Internal,
}

/// Why an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    Closed,
    Exited,
    Signal,
    Deadline,
    Abandoned,
    Drained,
    Output,
    Internal,
}

/// The snapshot that calls are cloned from.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub digest: String,
    pub bytes: u64,
    pub threads: u32,
    pub source: Source,
    /// Pages that a clone has ready because an example call touched them; 0 without a rehearsal.
    pub warm_pages: u64,
}

/// What is the same in all calls, with some of it.
#[derive(Debug, Serialize)]
pub struct Repeated {
    pub what: &'static str,
    pub examples: Vec<Text>,
}

/// How `serve` came by its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Boot,
    File,
}

/// What a call, or an instance that never had one, has used.
#[derive(Clone, Debug, Serialize)]
pub struct Receipt {
    pub cause: Cause,
    pub code: Option<i32>,
    pub message: Option<Text>,
    pub parked_us: u64,
    pub run_us: u64,
    pub cpu_us: u64,
    pub guest_us: u64,
    pub moments: Moments,
    pub exits: u64,
    pub syscalls: u64,
    pub pages: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub tail: Text,
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event<'a> {
    Booting {
        pid: i32,
    },
    Ready {
        boot_ms: u64,
        snapshot: Option<&'a Snapshot>,
        reason: Option<Text>,
        layers: &'a [&'a str],
        missing: &'a [Missing<'a>],
    },
    /// What the check after the boot has found; the reason if it could not look at all.
    Checked {
        repeats: Vec<Repeated>,
        reason: Option<Text>,
    },
    /// The snapshot is on disk.
    Kept {
        bytes: u64,
        milliseconds: u64,
    },
    Failed {
        reason: FailedReason,
        message: Text,
        output: Text,
    },
    Parked {
        instance: InstanceId,
        pid: i32,
    },
    Accepted {
        instance: InstanceId,
        call: &'a str,
    },
    Log {
        instance: InstanceId,
        call: Option<&'a str>,
        stream: Stream,
        line: &'a Text,
        truncated: bool,
    },
    Ended {
        instance: InstanceId,
        call: Option<&'a str>,
        #[serde(flatten)]
        receipt: &'a Receipt,
        layers: &'a [&'a str],
        missing: &'a [&'a str],
    },
    /// The system calls of a child that has ended: number, how often, how often answered by ENOSYS or EPERM.
    Used {
        instance: InstanceId,
        calls: Vec<[u32; 3]>,
    },
    Warning {
        message: Text,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the control stream cannot be written: {0}")]
    Write(Errno),
    #[error("the server has closed the control stream")]
    Closed,
    #[error("{0} bytes of the control stream were not read in time")]
    Stalled(usize),
}

/// The writing end. Invariant: `waiting` holds whole lines but for the first, whose beginning may have been written.
pub struct ControlStream<'fd> {
    fd: BorrowedFd<'fd>,
    waiting: Vec<u8>,
    /// How much of `waiting` has been written.
    written: usize,
    dropped: u64,
}

impl<'fd> ControlStream<'fd> {
    pub fn new(fd: BorrowedFd<'fd>) -> Self {
        Self {
            fd,
            waiting: Vec::new(),
            written: 0,
            dropped: 0,
        }
    }

    /// Queues an event and writes what the reader has room for.
    pub fn send(&mut self, event: &Event) -> Result<(), ControlError> {
        if matches!(event, Event::Log { .. }) && self.backlog() > BACKLOG {
            self.dropped += 1;
        } else {
            self.queue(event);
        }
        self.flush()
    }

    /// Whether `flush` must be called once the descriptor is writable.
    pub fn wants_write(&self) -> bool {
        self.backlog() > 0
    }

    /// Writes what the reader has room for.
    pub fn flush(&mut self) -> Result<(), ControlError> {
        while self.backlog() > 0 && self.wait(Duration::ZERO)? {
            let piece = &self.waiting[self.written..];
            let piece = &piece[..piece.len().min(PIECE)];
            match sys::write(&self.fd, piece) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno(libc::EPIPE)) => return Err(ControlError::Closed),
                Err(error) => return Err(ControlError::Write(error)),
            }
        }
        if self.backlog() == 0 {
            self.waiting.clear();
            self.written = 0;
            if self.dropped > 0 {
                let message = format!(
                    "{} log lines were dropped: the server did not read them",
                    self.dropped
                );
                self.dropped = 0;
                self.queue(&Event::Warning {
                    message: Text::message(message),
                });
                return self.flush();
            }
        } else if self.written > BACKLOG {
            self.waiting.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Writes everything, waiting for the reader at most `patience`: before exit.
    pub fn finish(&mut self, patience: Duration) -> Result<(), ControlError> {
        let end = Instant::now() + patience;
        loop {
            self.flush()?;
            let left = end.saturating_duration_since(Instant::now());
            if self.backlog() == 0 {
                return Ok(());
            }
            if left.is_zero() {
                return Err(ControlError::Stalled(self.backlog()));
            }
            self.wait(left)?;
        }
    }

    fn backlog(&self) -> usize {
        self.waiting.len() - self.written
    }

    fn queue(&mut self, event: &Event) {
        let line = encode(event).unwrap_or_else(|error| {
            // Unreachable by the bounds of `Text`, and harmless: the reader ignores what it does not know.
            let message = Text::message(format!("an event could not be written: {error}"));
            encode(&Event::Warning { message }).unwrap_or_default()
        });
        self.waiting.extend_from_slice(&line);
    }

    /// Whether the reader has room, waiting at most `patience` for it.
    fn wait(&self, patience: Duration) -> Result<bool, ControlError> {
        let mut polls = [libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLOUT,
            revents: 0,
        }];
        let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        let ready = match sys::poll(&mut polls, patience) {
            Err(error) if error != Errno::INTR => return Err(ControlError::Write(error)),
            ready => ready.unwrap_or(0),
        };
        if polls[0].revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 {
            return Err(ControlError::Closed);
        }
        Ok(ready > 0)
    }
}

#[derive(Debug, thiserror::Error)]
enum EncodeError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("{0} bytes")]
    TooLong(usize),
}

/// One line: the event with its time.
fn encode(event: &Event) -> Result<Vec<u8>, EncodeError> {
    #[derive(Serialize)]
    struct Line<'a> {
        #[serde(flatten)]
        event: &'a Event<'a>,
        time: f64,
    }
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let mut line = serde_json::to_vec(&Line { event, time })?;
    line.push(b'\n');
    if line.len() > LINE {
        Err(EncodeError::TooLong(line.len()))
    } else {
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, pipe};
    use std::os::fd::AsFd;

    use serde_json::Value;

    use super::*;

    fn json(event: &Event) -> Value {
        let line = encode(event).unwrap();
        assert!(line.ends_with(b"\n") && !line[..line.len() - 1].contains(&b'\n'));
        serde_json::from_slice(&line).unwrap()
    }

    fn receipt() -> Receipt {
        Receipt {
            cause: Cause::Signal,
            code: Some(11),
            message: Some(Text::message("at 0x0")),
            parked_us: 1,
            run_us: 2,
            cpu_us: 3,
            guest_us: 1,
            moments: Moments::default(),
            exits: 4,
            syscalls: 5,
            pages: 6,
            bytes_in: 7,
            bytes_out: 8,
            tail: Text::tail(b"bye\n"),
        }
    }

    const ID: InstanceId = InstanceId(0xab);

    #[test]
    fn events_are_as_the_protocol_says() {
        let ended = json(&Event::Ended {
            instance: ID,
            call: None,
            receipt: &receipt(),
            layers: &["seccomp"],
            missing: &["mounts"],
        });
        assert_eq!(
            (&ended["layers"][0], &ended["missing"][0]),
            (&"seccomp".into(), &"mounts".into())
        );
        assert_eq!(ended["event"], "ended");
        assert_eq!(ended["instance"], "00000000000000ab");
        assert_eq!(ended["call"], Value::Null);
        assert_eq!(ended["cause"], "signal");
        assert_eq!(
            (&ended["code"], &ended["bytes_out"]),
            (&Value::from(11), &Value::from(8))
        );
        assert_eq!(ended["tail"], "bye\n");
        assert!(ended["time"].as_f64().unwrap() > 1.7e9);

        let snapshot = Snapshot {
            digest: "sha256:00".to_owned(),
            bytes: 1,
            threads: 2,
            source: Source::File,
            warm_pages: 3,
        };
        let ready = json(&Event::Ready {
            boot_ms: 9,
            snapshot: Some(&snapshot),
            reason: None,
            layers: &["seccomp"],
            missing: &[Missing {
                name: "mounts",
                reason: "why",
            }],
        });
        assert_eq!(ready["snapshot"]["threads"], 2);
        assert_eq!(ready["snapshot"]["source"], "file");
        assert_eq!(
            (&ready["reason"], &ready["layers"][0]),
            (&Value::Null, &Value::from("seccomp"))
        );
        assert_eq!(
            (&ready["missing"][0]["name"], &ready["missing"][0]["reason"]),
            (&"mounts".into(), &"why".into())
        );

        let failed = Event::Failed {
            reason: FailedReason::Timeout,
            message: Text::message("m"),
            output: Text::tail(b"o"),
        };
        assert_eq!(json(&failed)["reason"], "timeout");
        let log = json(&Event::Log {
            instance: ID,
            call: Some("c-1"),
            stream: Stream::Stderr,
            line: &Text::message("l"),
            truncated: true,
        });
        assert_eq!(
            (&log["stream"], &log["call"], &log["truncated"]),
            (&"stderr".into(), &"c-1".into(), &true.into())
        );
    }

    #[test]
    fn no_event_is_longer_than_a_line_whatever_a_guest_wrote() {
        for byte in [0, b'"', b'x', 0xff] {
            let bytes = vec![byte; 1 << 20];
            let (line, _) = Text::head(&bytes, text::LINE);
            let (message, tail) = (Text::head(&bytes, text::MESSAGE).0, Text::tail(&bytes));
            let call = "c".repeat(64);
            let receipt = Receipt {
                message: Some(message.clone()),
                tail: tail.clone(),
                ..receipt()
            };
            for event in [
                Event::Log {
                    instance: ID,
                    call: Some(&call),
                    stream: Stream::Stdout,
                    line: &line,
                    truncated: true,
                },
                Event::Ended {
                    instance: ID,
                    call: Some(&call),
                    receipt: &receipt,
                    layers: &["seccomp"; 16],
                    missing: &[],
                },
                Event::Failed {
                    reason: FailedReason::Exited,
                    message: message.clone(),
                    output: tail,
                },
                Event::Warning { message },
            ] {
                assert!(encode(&event).unwrap().len() <= LINE);
            }
        }
    }

    #[test]
    fn a_reader_that_stalls_blocks_nobody_and_loses_only_log_lines() {
        let (reader, writer) = pipe().unwrap();
        let mut stream = ControlStream::new(writer.as_fd());
        let line = Text::head(&[b'x'; 1000], text::LINE).0;
        for number in 0..4000 {
            stream
                .send(&Event::Log {
                    instance: ID,
                    call: None,
                    stream: Stream::Stdout,
                    line: &line,
                    truncated: false,
                })
                .unwrap();
            if number % 1000 == 0 {
                stream
                    .send(&Event::Parked {
                        instance: InstanceId(number),
                        pid: 1,
                    })
                    .unwrap();
            }
        }
        assert!(stream.wants_write() && stream.backlog() < BACKLOG + 8 * LINE);
        let reader = std::thread::spawn(move || {
            BufReader::new(reader)
                .lines()
                .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
                .collect::<Vec<_>>()
        });
        stream.finish(Duration::from_secs(20)).unwrap();
        drop(writer);
        let events = reader.join().unwrap();
        let of = |name: &str| events.iter().filter(|event| event["event"] == name).count();
        assert_eq!(of("parked"), 4);
        let dropped = 4000 - of("log");
        assert!(dropped > 1000);
        let warning = events.iter().find(|event| event["event"] == "warning").unwrap();
        assert!(
            warning["message"]
                .as_str()
                .unwrap()
                .starts_with(&format!("{dropped} log lines"))
        );
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut stream = ControlStream::new(writer.as_fd());
        let event = Event::Booting { pid: 1 };
        assert!(matches!(stream.send(&event), Err(ControlError::Closed)));
    }
}
