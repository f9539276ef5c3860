//! The connection of one call, read and written without ever blocking on one direction while the other has work.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::http::{BadRequest, Decoder, LONGEST_HEAD, Request, parse_head, response_head};
use super::{Answer, Failure};
use crate::errno::Errno;
use crate::sys;

/// How much is read from a descriptor at once.
pub const PIECE: usize = 64 << 10;
/// How long the rest of a body that nobody wants is read away after the response, so that the server, which may still be
/// writing it, sees the response and not a reset.
const LINGER: Duration = Duration::from_secs(1);

/// Why a connection gives nothing more.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// The server has closed it: the caller is gone.
    Abandoned,
    /// What arrived is no request.
    Refused(BadRequest),
    Broken(Errno),
}

impl From<Errno> for Lost {
    fn from(error: Errno) -> Self {
        match error {
            Errno(libc::EPIPE | libc::ECONNRESET) => Self::Abandoned,
            error => Self::Broken(error),
        }
    }
}

impl From<Lost> for Answer {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Abandoned => Self::Abandoned,
            Lost::Refused(why) => Self::Refused(why.to_string()),
            Lost::Broken(error) => Self::Broken(format!("connection: {error}")),
        }
    }
}

pub struct Connection {
    fd: OwnedFd,
    /// What has arrived and was not yet used. At most a head and a piece.
    input: Vec<u8>,
    body: Option<Decoder>,
    headless: bool,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Connection {
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            input: Vec::new(),
            body: None,
            headless: false,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Waits for the request's head. A body of more than `limit` bytes is refused, here if its length is declared.
    pub fn request(&mut self, limit: u64) -> Result<Request, Lost> {
        loop {
            if let Some((request, length)) = parse_head(&self.input).map_err(Lost::Refused)? {
                self.input.drain(..length);
                self.body = Some(Decoder::new(request.framing, limit).map_err(Lost::Refused)?);
                self.headless = request.method == "HEAD";
                return Ok(request);
            }
            self.wait(libc::POLLIN)?;
            self.receive(LONGEST_HEAD + PIECE)?;
        }
    }

    /// Whether the whole body has been taken.
    pub fn body_done(&self) -> bool {
        self.body.as_ref().is_none_or(Decoder::done)
    }

    /// Adds the body bytes that have arrived to `to`.
    pub fn take_body(&mut self, to: &mut Vec<u8>) -> Result<(), Lost> {
        let Some(decoder) = &mut self.body else {
            return Ok(());
        };
        let mut used = 0;
        loop {
            let (step, data) = decoder.step(&self.input[used..]).map_err(Lost::Refused)?;
            to.extend_from_slice(data);
            used += step;
            if step == 0 {
                break;
            }
        }
        self.input.drain(..used);
        Ok(())
    }

    /// Waits for more of the body and adds it to `to`.
    pub fn wait_body(&mut self, to: &mut Vec<u8>) -> Result<(), Lost> {
        self.wait(libc::POLLIN)?;
        self.receive(PIECE)?;
        self.take_body(to)
    }

    /// Reads what has arrived, if anything, until `most` bytes are held.
    pub fn receive(&mut self, most: usize) -> Result<(), Lost> {
        let held = self.input.len();
        let room = most.saturating_sub(held).min(PIECE);
        if room == 0 {
            return Ok(());
        }
        self.input.resize(held + room, 0);
        let received = sys::receive(&self.fd, &mut self.input[held..], libc::MSG_DONTWAIT);
        self.input.truncate(held + received.unwrap_or(0));
        match received {
            Ok(0) => Err(Lost::Abandoned),
            Ok(count) => {
                self.bytes_in += count as u64;
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a response; what is left of the body is read away. The connection can give or take nothing after it.
    pub fn respond(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> Result<(), Lost> {
        let head = response_head(status, headers, body.len());
        let body = if self.headless || matches!(status, 204 | 304) {
            &[]
        } else {
            body
        };
        let whole = head.len() + body.len();
        let mut sent = 0;
        while sent < whole {
            let (head, body) = (
                &head[sent.min(head.len())..],
                &body[sent.saturating_sub(head.len())..],
            );
            match send(self.as_fd(), [head, body]) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // The server may be blocked on us in the same way.
                    let reading = if self.body_done() { 0 } else { libc::POLLIN };
                    if self.wait(libc::POLLOUT | reading)? & libc::POLLIN != 0 {
                        self.discard()?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.bytes_out += u64::try_from(sent).unwrap_or(0);
        self.linger();
        Ok(())
    }

    /// Tells the server that the function failed.
    pub fn fail(&mut self, failure: Failure, message: Option<String>) -> Answer {
        match self.respond(500, &[("X-Mayfly-Failure", &failure.to_string())], &[]) {
            Ok(()) => Answer::Failed(failure, message),
            Err(lost) => lost.into(),
        }
    }

    /// Answers what was no request, if there still is somebody to answer.
    pub fn refuse(&mut self, lost: Lost) -> Answer {
        if let Lost::Refused(why) = lost {
            // Where the request ends is not known: there is nothing to wait for after the response.
            self.body = None;
            // A server that has gone meanwhile changes nothing about the refusal.
            let _ = self.respond(why.status(), &[], &[]);
        }
        lost.into()
    }

    /// Reads and drops body bytes.
    fn discard(&mut self) -> Result<(), Lost> {
        self.receive(PIECE)?;
        self.take_body(&mut Vec::new())
    }

    fn linger(&mut self) {
        let end = Instant::now() + LINGER;
        while !self.body_done() {
            let left = end.saturating_duration_since(Instant::now());
            let mut poll = [libc::pollfd {
                fd: self.fd.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            }];
            if left.is_zero() || poll_all(&mut poll, Some(left)).is_err() || self.discard().is_err() {
                return;
            }
        }
    }

    /// Waits until one of `events` is possible, and says which are.
    fn wait(&self, events: i16) -> Result<i16, Lost> {
        let mut poll = [libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events,
            revents: 0,
        }];
        poll_all(&mut poll, None)?;
        Ok(poll[0].revents)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn send(connection: BorrowedFd, parts: [&[u8]; 2]) -> Result<usize, Errno> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    sys::send_pieces(&connection, &parts.map(IoSlice::new), flags)
}

/// Waits until one of the descriptors has an event, at most `patience`. Negative descriptors are left out.
pub fn poll_all(polls: &mut [libc::pollfd], patience: Option<Duration>) -> Result<(), Errno> {
    let patience = patience.map_or(-1, |time| {
        i32::try_from(time.as_millis()).unwrap_or(i32::MAX - 1) + 1
    });
    loop {
        match sys::poll(polls, patience) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
