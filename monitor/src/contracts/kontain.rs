//! The contract `kontain`: the request is JSON in the program's `/.request`, its answer JSON in `/.reply`.
//!
//! ```text
//! /.request   {"Method": "POST", "Url": "/path?query", "Headers": {"Content-Type": ["text/plain"]}, "Data": "<base64>"}
//! /.reply     {"Status": 200, "Data": "<base64>", "Headers": {"Content-Type": ["text/plain"]}}
//! ```
//!
//! Both are memory files. The request is complete before the program goes on; it is encoded as it arrives, so that a large
//! body is held once. `Headers` of a reply is an addition of ours and may be left out, as may `Data`; fields that are not
//! named here are ignored, as the original does. A reply that cannot be a response (a status that none has, a header with a
//! line break) is a failure of the function.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;
use serde::Deserialize;

use super::connection::{Connection, Lost, PIECE, poll_all};
use super::http::{MOST_HEADERS, Request};
use super::{Answer, Ending, ExitNotice, Failure, Outcome};
use crate::errno::Errno;
use crate::fs::descriptors::private;
use crate::sys;

/// The most that the headers of a reply may be together, bytes.
const LARGEST_HEADERS: usize = 64 << 10;

/// What a call may move.
#[derive(Clone, Copy, Debug)]
pub struct KontainLimits {
    /// The largest request body, bytes.
    pub body: u64,
    /// The largest response body, bytes.
    pub output: usize,
}

/// A call whose request is complete.
pub struct Kontain {
    connection: Connection,
    request: File,
    reply: File,
    limits: KontainLimits,
}

impl Kontain {
    /// Reads the whole request. When there is none to run, the outcome.
    ///
    /// Preconditions: the envelope has been read; the thread blocks all signals (`contracts::spawn`).
    pub fn begin(connection: OwnedFd, limits: KontainLimits) -> Result<Self, Outcome> {
        let mut connection = Connection::new(connection);
        match receive(&mut connection, limits.body) {
            Ok((request, reply)) => Ok(Self {
                connection,
                request,
                reply,
                limits,
            }),
            Err(ReceiveError::Lost(lost)) => {
                let answer = connection.refuse(lost);
                Err(outcome(&connection, answer, None))
            }
            Err(ReceiveError::Memory(error)) => Err(outcome(
                &connection,
                Answer::Broken(format!("request file: {error}")),
                None,
            )),
        }
    }

    /// The program's `/.request`, to be read from its beginning.
    pub fn request(&self) -> BorrowedFd<'_> {
        self.request.as_fd()
    }

    /// The program's `/.reply`, empty.
    pub fn reply(&self) -> BorrowedFd<'_> {
        self.reply.as_fd()
    }

    /// Waits for the end of the program and answers.
    pub fn finish(mut self, exit: &ExitNotice) -> Outcome {
        let (answer, ending) = match self.wait(exit) {
            Ok(ending) => (self.answer(ending), Some(ending)),
            Err(lost) => (lost.into(), None),
        };
        outcome(&self.connection, answer, ending)
    }

    fn wait(&self, exit: &ExitNotice) -> Result<Ending, Lost> {
        loop {
            let watch = |fd: BorrowedFd, events| libc::pollfd {
                fd: fd.as_raw_fd(),
                events,
                revents: 0,
            };
            let mut polls = [
                watch(exit.as_fd(), libc::POLLIN),
                watch(self.connection.as_fd(), 0),
            ];
            poll_all(&mut polls, None)?;
            if let Some(ending) = exit.take() {
                return Ok(ending);
            }
            if polls[1].revents != 0 {
                return Err(Lost::Abandoned);
            }
        }
    }

    fn answer(&mut self, ending: Ending) -> Answer {
        let reply = match ending {
            Ending::Exited(0) => self.read_reply(),
            Ending::Exited(status) => Err((Failure::Exit(status), None)),
            Ending::Signaled(number) => Err((Failure::Signal(number), None)),
        };
        match reply {
            Ok(reply) => {
                let headers: Vec<(&str, &str)> = reply
                    .headers
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str()))
                    .collect();
                match self.connection.respond(reply.status, &headers, &reply.body) {
                    Ok(()) => Answer::Sent,
                    Err(lost) => lost.into(),
                }
            }
            Err((failure, message)) => self.connection.fail(failure, message),
        }
    }

    fn read_reply(&self) -> Result<Reply, (Failure, Option<String>)> {
        // Base64 makes three bytes four, and line breaks in it add a little.
        let largest = self.limits.output / 2 * 3 + 2 * LARGEST_HEADERS;
        let mut bytes = Vec::new();
        let read = |error: io::Error| (Failure::BadReply, Some(error.to_string()));
        let length = usize::try_from(self.reply.metadata().map_err(read)?.len()).unwrap_or(usize::MAX);
        if length == 0 {
            return Err((Failure::NoReply, None));
        }
        let over = || {
            (
                Failure::OutputLimit,
                Some(format!("more than {} bytes of output", self.limits.output)),
            )
        };
        if length > largest {
            return Err(over());
        }
        bytes.resize(length, 0);
        // From its beginning, wherever the program has left the offset.
        self.reply.read_exact_at(&mut bytes, 0).map_err(read)?;
        let reply = parse_reply(&bytes).map_err(|error| (Failure::BadReply, Some(error.to_string())))?;
        if reply.body.len() > self.limits.output {
            Err(over())
        } else {
            Ok(reply)
        }
    }
}

fn outcome(connection: &Connection, answer: Answer, ending: Option<Ending>) -> Outcome {
    Outcome {
        answer,
        ending,
        bytes_in: connection.bytes_in,
        bytes_out: connection.bytes_out,
    }
}

enum ReceiveError {
    Lost(Lost),
    Memory(io::Error),
}

impl From<Lost> for ReceiveError {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<io::Error> for ReceiveError {
    fn from(error: io::Error) -> Self {
        Self::Memory(error)
    }
}

impl From<Errno> for ReceiveError {
    fn from(error: Errno) -> Self {
        Self::Memory(io::Error::from_raw_os_error(error.0))
    }
}

/// Reads the request into a memory file, and makes an empty one for the reply.
fn receive(connection: &mut Connection, limit: u64) -> Result<(File, File), ReceiveError> {
    let request = connection.request(limit)?;
    let (mut file, reply) = (memory_file(c"request")?, memory_file(c"reply")?);
    let mut out = BufWriter::with_capacity(PIECE, &mut file);
    write_head(&mut out, &request)?;
    let mut encoder = EncoderWriter::new(&mut out, &STANDARD);
    let mut piece = Vec::new();
    connection.take_body(&mut piece)?;
    loop {
        encoder.write_all(&piece)?;
        if connection.body_done() {
            break;
        }
        piece.clear();
        connection.wait_body(&mut piece)?;
    }
    encoder.finish()?;
    drop(encoder);
    out.write_all(b"\"}")?;
    out.flush()?;
    drop(out);
    file.rewind()?;
    Ok((file, reply))
}

fn memory_file(name: &std::ffi::CStr) -> Result<File, Errno> {
    Ok(File::from(private(|| sys::memory_file(name))?))
}

/// The request's JSON up to the opening quote of `Data`.
fn write_head(out: &mut impl Write, request: &Request) -> io::Result<()> {
    let mut headers: BTreeMap<String, Vec<Cow<str>>> = BTreeMap::new();
    for (name, value) in &request.headers {
        if !is_framing(name) {
            headers
                .entry(canonical(name))
                .or_default()
                .push(String::from_utf8_lossy(value));
        }
    }
    out.write_all(b"{\"Method\":")?;
    serde_json::to_writer(&mut *out, &request.method)?;
    out.write_all(b",\"Url\":")?;
    serde_json::to_writer(&mut *out, &request.target)?;
    out.write_all(b",\"Headers\":")?;
    serde_json::to_writer(&mut *out, &headers)?;
    out.write_all(b",\"Data\":\"")
}

/// A header's name as the original's language writes it: `Content-Type`.
fn canonical(name: &str) -> String {
    let mut upper = true;
    name.chars()
        .map(|letter| {
            let letter = if upper {
                letter.to_ascii_uppercase()
            } else {
                letter.to_ascii_lowercase()
            };
            upper = letter == '-';
            letter
        })
        .collect()
}

/// Whether a header field speaks of the connection or the framing, which are not the program's.
fn is_framing(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// A reply that can be sent.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
enum ReplyError {
    #[error("/.reply is not the JSON of a reply: {0}")]
    Json(#[from] serde_json::Error),
    #[error("/.reply: Status {0} is not a status from 200 to 599")]
    Status(u16),
    #[error("/.reply: Data is not base64: {0}")]
    Data(#[from] base64::DecodeError),
    #[error("/.reply: header {0:?} cannot be sent")]
    Header(String),
    #[error("/.reply: more than {MOST_HEADERS} headers or {LARGEST_HEADERS} bytes of them")]
    TooManyHeaders,
}

fn parse_reply(bytes: &[u8]) -> Result<Reply, ReplyError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Values {
        One(String),
        Many(Vec<String>),
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Raw<'a> {
        status: u16,
        #[serde(borrow)]
        data: Option<Cow<'a, str>>,
        headers: Option<BTreeMap<String, Values>>,
    }
    let raw: Raw = serde_json::from_slice(bytes)?;
    if !(200..=599).contains(&raw.status) {
        return Err(ReplyError::Status(raw.status));
    }
    let mut headers = Vec::new();
    for (name, values) in raw.headers.unwrap_or_default() {
        let values = match values {
            Values::One(value) => vec![value],
            Values::Many(values) => values,
        };
        for value in values {
            if !is_token(&name) || value.chars().any(|letter| letter.is_control() && letter != '\t') {
                return Err(ReplyError::Header(name));
            }
            // Framing is ours, and so is what the server reads from our own headers.
            let ours = name
                .get(..9)
                .is_some_and(|prefix| prefix.eq_ignore_ascii_case("x-mayfly-"));
            if !is_framing(&name) && !ours {
                headers.push((name.clone(), value));
            }
        }
    }
    let size: usize = headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + 4)
        .sum();
    if headers.len() > MOST_HEADERS || size > LARGEST_HEADERS {
        return Err(ReplyError::TooManyHeaders);
    }
    let data = raw.data.unwrap_or_default();
    // Some encoders break their lines.
    let body = if data.contains(['\r', '\n']) {
        STANDARD.decode(data.replace(['\r', '\n'], ""))?
    } else {
        STANDARD.decode(data.as_bytes())?
    };
    Ok(Reply {
        status: raw.status,
        headers,
        body,
    })
}

/// A program's reply, for the fuzzers.
#[cfg(any(fuzzing, test))]
pub fn fuzz(bytes: &[u8]) {
    let _ = parse_reply(bytes);
}

/// A header's name: RFC 9110's token.
fn is_token(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use serde_json::{Value, json};

    use super::*;

    const LIMITS: KontainLimits = KontainLimits {
        body: 1 << 20,
        output: 1000,
    };

    fn begin(request: &[u8]) -> (UnixStream, Result<Kontain, Outcome>) {
        let (mut server, instance) = UnixStream::pair().unwrap();
        let request = request.to_vec();
        let writer = std::thread::spawn(move || {
            server.write_all(&request).unwrap();
            server
        });
        let call = Kontain::begin(instance.into(), LIMITS);
        (writer.join().unwrap(), call)
    }

    /// The answer to a program that writes `reply` and ends.
    fn answer(reply: &[u8], ending: Ending) -> (String, Outcome) {
        let (mut server, call) = begin(b"GET / HTTP/1.1\r\n\r\n");
        let call = call.unwrap();
        (&call.reply).write_all(reply).unwrap();
        let exit = ExitNotice::new().unwrap();
        exit.tell(ending);
        let outcome = call.finish(&exit);
        let mut response = Vec::new();
        server.read_to_end(&mut response).unwrap();
        (String::from_utf8(response).unwrap(), outcome)
    }

    #[test]
    fn the_request_is_the_json_of_the_contract() {
        let text = b"PUT /ns/fn/a?b=c HTTP/1.1\r\nhost: h\r\nx-LIST: 1\r\nX-List: \xff\r\nConnection: close\r\nContent-Length: 4\r\n\r\n\0\x01\xfe\xff";
        let (_server, call) = begin(text);
        let call = call.unwrap();
        let mut request = String::new();
        (&call.request).read_to_string(&mut request).unwrap();
        let request: Value = serde_json::from_str(&request).unwrap();
        let expected = json!({
            "Method": "PUT", "Url": "/ns/fn/a?b=c", "Data": "AAH+/w==",
            "Headers": {"Host": ["h"], "X-List": ["1", "\u{fffd}"]},
        });
        assert_eq!(request, expected);
        assert!(call.request.as_raw_fd() >= 2048 && call.reply.as_raw_fd() >= 2048);
    }

    #[test]
    fn a_large_chunked_body_arrives_whole() {
        let mut text = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let mut body = Vec::new();
        for number in 0..1000_u32 {
            let piece = number
                .to_le_bytes()
                .repeat(usize::try_from(number % 250).unwrap() + 1);
            text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            text.extend_from_slice(&piece);
            text.extend_from_slice(b"\r\n");
            body.extend_from_slice(&piece);
        }
        text.extend_from_slice(b"0\r\n\r\n");
        let (_server, call) = begin(&text);
        let call = call.unwrap();
        let request: Value = serde_json::from_reader(&call.request).unwrap();
        assert_eq!(STANDARD.decode(request["Data"].as_str().unwrap()).unwrap(), body);
        assert_eq!(call.connection.bytes_in, u64::try_from(text.len()).unwrap());
    }

    #[test]
    fn the_reply_becomes_the_response() {
        let reply = br#"{"Status": 201, "Data": "aGVs\nbG8=", "Extra": 1, "Headers":
            {"Content-Type": ["text/plain"], "X-One": "1", "Content-Length": ["9"], "x-mayfly-failure": ["none"]}}"#;
        let (response, outcome) = answer(reply, Ending::Exited(0));
        assert_eq!(
            response,
            "HTTP/1.1 201 Created\r\nContent-Type: text/plain\r\nX-One: 1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
        );
        assert_eq!(
            (outcome.answer, outcome.ending),
            (Answer::Sent, Some(Ending::Exited(0)))
        );
        let (response, _) = answer(br#"{"Status":204,"Data":"aGVsbG8="}"#, Ending::Exited(0));
        assert_eq!(response, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        let (response, _) = answer(b"{\"Status\":200}\n", Ending::Exited(0));
        assert!(response.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"));
    }

    #[test]
    fn a_reply_that_is_none_is_a_failure() {
        let wrong: [&[u8]; 19] = [
            b"{",
            b"[]",
            b"null",
            b"{}",
            b"{\"Data\":\"\"}",
            b"{\"Status\":99}",
            b"{\"Status\":100}",
            b"{\"Status\":600}",
            b"{\"Status\":-1}",
            b"{\"Status\":\"200\"}",
            b"{\"Status\":200.5}",
            b"{\"Status\":200,\"Status\":200}",
            b"{\"Status\":200}{}",
            b"{\"Status\":200,\"Data\":\"a\"}",
            b"{\"Status\":200,\"Data\":\"a b=\"}",
            b"{\"Status\":200,\"Data\":\"\xff\"}",
            b"{\"Status\":200,\"Headers\":{\"A\":[\"b\\r\\nC: d\"]}}",
            b"{\"Status\":200,\"Headers\":{\"A B\":[\"c\"]}}",
            b"{\"Status\":200,\"Headers\":{\"\":[\"c\"]}}",
        ];
        for reply in wrong {
            let (response, outcome) = answer(reply, Ending::Exited(0));
            let text = String::from_utf8_lossy(reply);
            assert!(
                response.contains("X-Mayfly-Failure: bad reply\r\n"),
                "{text}: {response}"
            );
            let Answer::Failed(Failure::BadReply, Some(message)) = outcome.answer else {
                panic!("{text}")
            };
            assert!(message.starts_with("/.reply"), "{message}");
        }
        let many = json!({"Status": 200, "Headers": {"A": vec!["b"; MOST_HEADERS + 1]}}).to_string();
        assert!(answer(many.as_bytes(), Ending::Exited(0)).0.contains("bad reply"));
    }

    #[test]
    fn no_reply_too_much_of_it_and_a_failed_program_are_told_apart() {
        for (reply, ending, reason) in [
            (String::new(), Ending::Exited(0), "no reply"),
            ("{\"Status\":200}".to_owned(), Ending::Exited(3), "exit status 3"),
            ("{\"Status\":200}".to_owned(), Ending::Signaled(9), "signal 9"),
            (
                format!("{{\"Status\":200,\"Data\":\"{}\"}}", "AAAA".repeat(334)),
                Ending::Exited(0),
                "output limit",
            ),
            (" ".repeat(1 << 20), Ending::Exited(0), "output limit"),
        ] {
            let (response, _) = answer(reply.as_bytes(), ending);
            let expected = format!("HTTP/1.1 500 Internal Server Error\r\nX-Mayfly-Failure: {reason}\r\n");
            assert!(response.starts_with(&expected), "{response}");
        }
        let (response, _) = answer(
            format!("{{\"Status\":200,\"Data\":\"{}\"}}", "AAAA".repeat(333)).as_bytes(),
            Ending::Exited(0),
        );
        assert!(response.contains("Content-Length: 999\r\n"));
    }

    #[test]
    fn a_request_that_cannot_run_has_an_outcome() {
        let (mut server, call) = begin(b"POST / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n");
        let Err(outcome) = call else { panic!("accepted") };
        assert!(matches!(outcome.answer, Answer::Refused(_)));
        let mut response = String::new();
        server.read_to_string(&mut response).unwrap();
        assert!(
            response.starts_with("HTTP/1.1 413 Content Too Large\r\n"),
            "{response}"
        );

        let (server, instance) = UnixStream::pair().unwrap();
        (&server)
            .write_all(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n1")
            .unwrap();
        drop(server);
        let Err(outcome) = Kontain::begin(instance.into(), LIMITS) else {
            panic!("accepted")
        };
        assert_eq!(outcome.answer, Answer::Abandoned);
    }

    #[test]
    fn a_caller_that_goes_away_ends_the_call() {
        let (server, call) = begin(b"GET / HTTP/1.1\r\n\r\n");
        drop(server);
        let outcome = call.unwrap().finish(&ExitNotice::new().unwrap());
        assert_eq!(outcome.answer, Answer::Abandoned);
    }
}
