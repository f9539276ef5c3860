//! The two lines before a call: the instance's greeting and the server's envelope (`docs/protocol.md`, section 5).
//!
//! No byte after the envelope's newline is read: with the contract `http` the rest of the connection is the guest's. So the
//! line is looked at first (`MSG_PEEK`) and then taken exactly: two system calls when it has arrived whole, which is the
//! rule, since the server writes it at once.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::control::InstanceId;
use crate::errno::Errno;
use crate::sys;

/// The longest envelope, with its newline.
const LONGEST: usize = 512;
/// How long the server may take for it.
const PATIENCE: Duration = Duration::from_secs(1);
const VERSION: &str = "MAYFLY/1";

/// What the server says of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `[A-Za-z0-9._-]{1,64}`
    pub call: String,
    /// What is left of the call's time.
    pub budget: Duration,
    /// A W3C traceparent.
    pub trace: Option<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the server closed the connection before the envelope")]
    Closed,
    #[error("no envelope within {} ms", PATIENCE.as_millis())]
    Late,
    #[error("no newline within {LONGEST} bytes of envelope")]
    TooLong,
    #[error("not an envelope of this version: {0:?}")]
    Malformed(String),
    #[error("the connection failed: {0}")]
    Connection(Errno),
}

/// Greets the server and reads its envelope, and nothing beyond.
pub fn exchange(connection: BorrowedFd, instance: InstanceId) -> Result<Envelope, EnvelopeError> {
    greet(connection, instance)?;
    read(connection, PATIENCE)
}

fn greet(connection: BorrowedFd, instance: InstanceId) -> Result<(), EnvelopeError> {
    let greeting = format!("{VERSION} {instance}\n");
    // The first bytes on a fresh connection: there is room for them.
    match sys::send(&connection, greeting.as_bytes(), libc::MSG_NOSIGNAL) {
        Ok(sent) if sent == greeting.len() => Ok(()),
        Ok(_) => Err(EnvelopeError::Connection(Errno::IO)),
        Err(Errno(libc::EPIPE | libc::ECONNRESET)) => Err(EnvelopeError::Closed),
        Err(error) => Err(EnvelopeError::Connection(error)),
    }
}

fn read(connection: BorrowedFd, patience: Duration) -> Result<Envelope, EnvelopeError> {
    let end = Instant::now() + patience;
    let mut line = [0_u8; LONGEST];
    let mut length = 0;
    while length < LONGEST {
        let seen = match receive(connection, &mut line[length..], libc::MSG_PEEK)? {
            None => {
                wait(connection, end)?;
                continue;
            }
            Some(0) => return Err(EnvelopeError::Closed),
            Some(seen) => seen,
        };
        let newline = line[length..length + seen].iter().position(|byte| *byte == b'\n');
        let take = newline.map_or(seen, |at| at + 1);
        // What was seen is there: taking it does not block, and nobody else reads here.
        if receive(connection, &mut line[length..length + take], 0)? != Some(take) {
            return Err(EnvelopeError::Connection(Errno::IO));
        }
        length += take;
        if newline.is_some() {
            let line = &line[..length - 1];
            return parse(line)
                .ok_or_else(|| EnvelopeError::Malformed(String::from_utf8_lossy(line).into_owned()));
        }
    }
    Err(EnvelopeError::TooLong)
}

/// `None` when nothing has arrived yet, zero at the end of the stream.
fn receive(connection: BorrowedFd, to: &mut [u8], flags: i32) -> Result<Option<usize>, EnvelopeError> {
    loop {
        match sys::receive(&connection, to, flags | libc::MSG_DONTWAIT) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno(libc::ECONNRESET)) => return Err(EnvelopeError::Closed),
            Err(error) => return Err(EnvelopeError::Connection(error)),
        }
    }
}

fn wait(connection: BorrowedFd, end: Instant) -> Result<(), EnvelopeError> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(EnvelopeError::Late);
    }
    // Rounded up: a wait of 0 ms would be a busy loop.
    let left = i32::try_from(left.as_millis()).unwrap_or(i32::MAX - 1) + 1;
    let poll = libc::pollfd {
        fd: connection.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    match sys::poll(&mut [poll], left) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(EnvelopeError::Connection(error)),
    }
}

/// `MAYFLY/1 <call> <milliseconds> <trace>`, exactly.
fn parse(line: &[u8]) -> Option<Envelope> {
    let line = std::str::from_utf8(line).ok()?;
    let mut parts = line.split(' ');
    let (version, call, budget, trace) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version != VERSION || parts.next().is_some() {
        return None;
    }
    let call_bytes = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !(1..=64).contains(&call.len()) || !call.bytes().all(call_bytes) {
        return None;
    }
    // Ten digits are four months: longer than any call, and no sum with it overflows.
    if !(1..=10).contains(&budget.len()) || !budget.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let trace = match trace {
        "-" => None,
        trace if is_traceparent(trace) => Some(trace.to_owned()),
        _ => return None,
    };
    Some(Envelope {
        call: call.to_owned(),
        budget: Duration::from_millis(budget.parse().ok()?),
        trace,
    })
}

/// `version-trace-parent-flags` in lower-case hex digits.
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]) && parts.into_iter().all(hex)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn an_envelope_is_taken_and_nothing_beyond() {
        let (mut server, mut instance) = UnixStream::pair().unwrap();
        write!(server, "MAYFLY/1 call-1.a_b 1500 {TRACE}\nGET / HTTP/1.1\r\n").unwrap();
        let envelope = exchange(instance.as_fd(), InstanceId(0x12)).unwrap();
        assert_eq!(
            (envelope.call.as_str(), envelope.budget),
            ("call-1.a_b", Duration::from_millis(1500))
        );
        assert_eq!(envelope.trace.as_deref(), Some(TRACE));
        let mut rest = [0; 16];
        instance.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"GET / HTTP/1.1\r\n");
        let mut greeting = [0; 26];
        server.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"MAYFLY/1 0000000000000012\n");
    }

    #[test]
    fn an_envelope_may_arrive_in_pieces() {
        let (mut server, mut instance) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            for byte in b"MAYFLY/1 c 1 -\nrest" {
                server.write_all(&[*byte]).unwrap();
                std::thread::yield_now();
            }
            server
        });
        let envelope = read(instance.as_fd(), Duration::from_secs(20)).unwrap();
        assert_eq!(
            envelope,
            Envelope {
                call: "c".to_owned(),
                budget: Duration::from_millis(1),
                trace: None
            }
        );
        drop(writer.join().unwrap());
        let mut rest = String::new();
        instance.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "rest");
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let long = "c".repeat(65);
        for line in [
            "",
            "MAYFLY/1",
            "MAYFLY/2 c 1 -",
            "MAYFLY/1 c 1",
            "MAYFLY/1 c 1 - ",
            "MAYFLY/1  c 1 -",
            " MAYFLY/1 c 1 -",
            "MAYFLY/1 c 1 -\r",
            "MAYFLY/1 c/d 1 -",
            "MAYFLY/1 é 1 -",
            "MAYFLY/1 c +1 -",
            "MAYFLY/1 c -1 -",
            "MAYFLY/1 c 1.5 -",
            "MAYFLY/1 c  -",
            "MAYFLY/1 c ٣ -",
            "MAYFLY/1 c 12345678901 -",
            "MAYFLY/1 c 1 00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "MAYFLY/1 c 1 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "MAYFLY/1 c 1 x",
            "GET / HTTP/1.1",
            &format!("MAYFLY/1 {long} 1 -"),
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
            let (mut server, instance) = UnixStream::pair().unwrap();
            writeln!(server, "{line}").unwrap();
            let error = exchange(instance.as_fd(), InstanceId(1)).unwrap_err();
            assert_eq!(error, EnvelopeError::Malformed(line.to_owned()));
        }
        assert_eq!(parse(b"MAYFLY/1 \xff 1 -"), None);
        assert!(parse(format!("MAYFLY/1 {} 0 -", &long[..64]).as_bytes()).is_some());
    }

    #[test]
    fn a_server_that_is_silent_too_long_or_gone_is_told_apart() {
        let (server, instance) = UnixStream::pair().unwrap();
        assert_eq!(
            read(instance.as_fd(), Duration::from_millis(20)),
            Err(EnvelopeError::Late)
        );
        drop(server);
        assert_eq!(read(instance.as_fd(), PATIENCE), Err(EnvelopeError::Closed));
        assert_eq!(
            exchange(instance.as_fd(), InstanceId(1)),
            Err(EnvelopeError::Closed)
        );

        let (mut server, mut instance) = UnixStream::pair().unwrap();
        server.write_all(&[b'x'; LONGEST + 1]).unwrap();
        assert_eq!(read(instance.as_fd(), PATIENCE), Err(EnvelopeError::TooLong));
        let mut rest = [0; 1];
        instance.read_exact(&mut rest).unwrap();

        let (mut server, instance) = UnixStream::pair().unwrap();
        server.write_all(b"MAYFLY/1 half").unwrap();
        drop(server);
        assert_eq!(read(instance.as_fd(), PATIENCE), Err(EnvelopeError::Closed));
    }

    #[test]
    fn a_trickle_does_not_extend_the_time() {
        let (mut server, instance) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            // Until the reader has gone.
            while server.write_all(b"M").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let begun = Instant::now();
        assert_eq!(
            read(instance.as_fd(), Duration::from_millis(50)),
            Err(EnvelopeError::Late)
        );
        assert!(begun.elapsed() < Duration::from_secs(2));
        drop(instance);
        writer.join().unwrap();
    }
}
