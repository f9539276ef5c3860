//! HTTP/1.1 as the server speaks it to an instance: one request, its framing unambiguous, or a refusal.
//!
//! `httparse` finds the parts; what it tolerates for the sake of old software is refused here: a line that ends without CR,
//! more than one way to tell where the body ends, a version other than 1.1. The decoder gives body bytes as slices of its
//! input and holds none.

/// The longest request head, bytes.
pub const LONGEST_HEAD: usize = 64 << 10;
/// The most header fields, in a request as in a reply.
pub const MOST_HEADERS: usize = 128;
/// The longest line with a chunk's size, and the longest trailer.
const LONGEST_CHUNK_LINE: usize = 256;
const LONGEST_TRAILER: usize = 8 << 10;

/// Why a request is refused, as the status to answer it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    #[error("the request head is longer than {LONGEST_HEAD} bytes or has more than {MOST_HEADERS} fields")]
    HeadTooLarge,
    #[error("the request body is longer than {0} bytes")]
    BodyTooLarge(u64),
    #[error("not HTTP/1.1")]
    Version,
    #[error("an expectation that cannot be met")]
    Expectation,
}

impl BadRequest {
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::BodyTooLarge(_) => 413,
            Self::Expectation => 417,
            Self::HeadTooLarge => 431,
            Self::Version => 505,
        }
    }
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

/// A request's head.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// As the client wrote it: path and query.
    pub target: String,
    /// In their order; values are the client's bytes.
    pub headers: Vec<(String, Vec<u8>)>,
    pub framing: Framing,
}

/// Parses what has arrived: the request and the length of its head, or `None` if the head is not complete.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Request, usize)>, BadRequest> {
    // An empty line before the request is tolerated by many; nothing but an attack needs it.
    if bytes.first().is_some_and(|byte| !byte.is_ascii_alphabetic()) {
        return Err(BadRequest::Malformed("method"));
    }
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() >= LONGEST_HEAD {
            Err(BadRequest::HeadTooLarge)
        } else {
            Ok(None)
        };
    };
    let length = end + 4;
    if length > LONGEST_HEAD {
        return Err(BadRequest::HeadTooLarge);
    }
    let head = &bytes[..length];
    let bare = |(at, byte): (usize, &u8)| match byte {
        b'\n' => at == 0 || head[at - 1] != b'\r',
        b'\r' => head.get(at + 1) != Some(&b'\n'),
        _ => false,
    };
    if head.iter().enumerate().any(bare) {
        return Err(BadRequest::Malformed("bare CR or LF"));
    }
    let mut fields = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(parsed)) if parsed == length => {}
        Ok(_) => return Err(BadRequest::Malformed("head")),
        Err(httparse::Error::TooManyHeaders) => return Err(BadRequest::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(BadRequest::Version),
        Err(httparse::Error::Token) => return Err(BadRequest::Malformed("request line")),
        Err(_) => return Err(BadRequest::Malformed("header field")),
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(BadRequest::Malformed("request line"));
    };
    if parsed.version != Some(1) {
        return Err(BadRequest::Version);
    }
    let framing = framing(parsed.headers)?;
    let headers = parsed
        .headers
        .iter()
        .map(|field| (field.name.to_owned(), field.value.to_vec()))
        .collect();
    Ok(Some((
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers,
            framing,
        },
        length,
    )))
}

fn framing(headers: &[httparse::Header]) -> Result<Framing, BadRequest> {
    let mut framing = None;
    for field in headers {
        let found = if field.name.eq_ignore_ascii_case("content-length") {
            Framing::Length(content_length(field.value).ok_or(BadRequest::Malformed("Content-Length"))?)
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(BadRequest::Malformed("Transfer-Encoding"));
            }
            Framing::Chunked
        } else if field.name.eq_ignore_ascii_case("expect") {
            return Err(BadRequest::Expectation);
        } else {
            continue;
        };
        // Twice the same is refused like a contradiction: who reads the first and who the last must not matter.
        if framing.replace(found).is_some() {
            return Err(BadRequest::Malformed("more than one framing field"));
        }
    }
    Ok(framing.unwrap_or(Framing::Length(0)))
}

fn content_length(value: &[u8]) -> Option<u64> {
    // Eighteen digits fit a u64; no sign, no space, no list.
    if !(1..=18).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Takes a body out of its framing.
pub struct Decoder {
    state: State,
    /// Body bytes that may still come.
    allowed: u64,
    limit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    /// In the line with a chunk's size: the size so far, its digits, the length of the line.
    Size {
        size: u64,
        digits: usize,
        line: usize,
    },
    /// In the rest of that line: an extension says nothing that matters here.
    Extension {
        size: u64,
        line: usize,
    },
    SizeEnd(u64),
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    /// In the trailer: bytes so far, bytes of this line.
    Trailer {
        total: usize,
        line: usize,
    },
    TrailerLf {
        total: usize,
        last: bool,
    },
    End,
}

impl Decoder {
    /// Preconditions: none; a body longer than `limit` is refused, at once where its length is declared.
    pub fn new(framing: Framing, limit: u64) -> Result<Self, BadRequest> {
        let state = match framing {
            Framing::Length(0) => State::End,
            Framing::Length(length) if length > limit => return Err(BadRequest::BodyTooLarge(limit)),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size {
                size: 0,
                digits: 0,
                line: 0,
            },
        };
        Ok(Self {
            state,
            allowed: limit,
            limit,
        })
    }

    /// Whether the body is complete.
    pub fn done(&self) -> bool {
        self.state == State::End
    }

    /// Takes one step: how much of `input` was used up, and the body bytes that were in it. Call again until nothing is used
    /// up: then more input is needed, or the body is complete.
    pub fn step<'input>(&mut self, input: &'input [u8]) -> Result<(usize, &'input [u8]), BadRequest> {
        match self.state {
            State::Length(left) | State::Chunk(left) => {
                let length = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - u64::try_from(length).unwrap_or(left);
                self.state = match (self.state, left) {
                    (State::Length(_), 0) => State::End,
                    (State::Length(_), left) => State::Length(left),
                    (_, 0) => State::ChunkCr,
                    (_, left) => State::Chunk(left),
                };
                Ok((length, &input[..length]))
            }
            State::End => Ok((0, &[])),
            _ => {
                let mut used = 0;
                for byte in input {
                    if matches!(self.state, State::Chunk(_) | State::End) {
                        break;
                    }
                    self.state = self.between(*byte)?;
                    used += 1;
                }
                Ok((used, &[]))
            }
        }
    }

    /// One byte of chunked framing.
    fn between(&mut self, byte: u8) -> Result<State, BadRequest> {
        let bad = Err(BadRequest::Malformed("chunk"));
        Ok(match (self.state, byte) {
            (State::Size { size, digits, line }, byte) if byte.is_ascii_hexdigit() && digits < 15 => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                State::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                    line: line + 1,
                }
            }
            (
                State::Size {
                    size, digits: 1.., ..
                },
                b'\r',
            ) => State::SizeEnd(size),
            (
                State::Size {
                    size,
                    digits: 1..,
                    line,
                },
                b';',
            ) => State::Extension { size, line: line + 1 },
            (State::Extension { size, .. }, b'\r') => State::SizeEnd(size),
            (State::Extension { size, line }, b'\t' | b' '..=b'~') if line < LONGEST_CHUNK_LINE => {
                State::Extension { size, line: line + 1 }
            }
            (State::SizeEnd(0), b'\n') => State::Trailer { total: 0, line: 0 },
            (State::SizeEnd(size), b'\n') => {
                self.allowed = self
                    .allowed
                    .checked_sub(size)
                    .ok_or(BadRequest::BodyTooLarge(self.limit))?;
                State::Chunk(size)
            }
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::Size {
                size: 0,
                digits: 0,
                line: 0,
            },
            (State::Trailer { total, line }, b'\r') => State::TrailerLf {
                total,
                last: line == 0,
            },
            (State::Trailer { total, line }, byte) if byte != b'\n' && total < LONGEST_TRAILER => {
                State::Trailer {
                    total: total + 1,
                    line: line + 1,
                }
            }
            (State::TrailerLf { last: true, .. }, b'\n') => State::End,
            (State::TrailerLf { total, .. }, b'\n') => State::Trailer {
                total: total + 1,
                line: 0,
            },
            _ => return bad,
        })
    }
}

/// A response's head, for a body of the length given, after which the connection ends.
///
/// Preconditions: `headers` hold no CR or LF and no framing.
pub fn response_head(status: u16, headers: &[(&str, &str)], length: usize) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(value);
        head.push_str("\r\n");
    }
    // A response of these kinds has no body, and says nothing about its length.
    if !matches!(status, 204 | 304) {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("Connection: close\r\n\r\n");
    head.into_bytes()
}

/// The phrase beside the status: nobody may read anything into it, but people do read it.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<(Request, usize)>, BadRequest> {
        parse_head(text.as_bytes())
    }

    #[test]
    fn a_request_is_parsed_once_its_head_is_complete() {
        let text = "POST /a/b?x=%20 HTTP/1.1\r\nHost: h\r\nX-Bytes: \u{e9}\r\nContent-Length: 5\r\n\r\nhello";
        let whole = text.len() - 5;
        for length in 0..whole {
            assert_eq!(parse_head(&text.as_bytes()[..length]), Ok(None), "{length}");
        }
        let (request, length) = head(text).unwrap().unwrap();
        assert_eq!(length, whole);
        assert_eq!(
            (request.method.as_str(), request.target.as_str()),
            ("POST", "/a/b?x=%20")
        );
        assert_eq!(request.framing, Framing::Length(5));
        assert_eq!(
            request.headers[1],
            ("X-Bytes".to_owned(), "é".as_bytes().to_vec())
        );
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for wrong in [
            "\r\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\n\n\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r c\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
            "GET / HTTP/1.1\r\nA : b\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\n: b\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET /\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: \u{0665}\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        ] {
            assert!(
                matches!(head(wrong), Err(BadRequest::Malformed(_))),
                "{wrong:?}: {:?}",
                head(wrong)
            );
        }
        for (wrong, status) in [
            ("GET / HTTP/1.0\r\n\r\n", 505),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("GET / x HTTP/1.1\r\n\r\n", 505),
            ("POST / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", 417),
        ] {
            assert_eq!(head(wrong).unwrap_err().status(), status, "{wrong:?}");
        }
    }

    #[test]
    fn a_head_has_a_size() {
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(LONGEST_HEAD));
        assert_eq!(head(&long), Err(BadRequest::HeadTooLarge));
        assert_eq!(head(&long[..LONGEST_HEAD]), Err(BadRequest::HeadTooLarge));
        let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
        assert!(head(&fields(MOST_HEADERS)).unwrap().is_some());
        assert_eq!(head(&fields(MOST_HEADERS + 1)), Err(BadRequest::HeadTooLarge));
    }

    /// Decodes `input`, given in two pieces: the body and how much of the input was its.
    fn decode(framing: Framing, input: &[u8], cut: usize) -> Result<(Vec<u8>, usize, bool), BadRequest> {
        let mut decoder = Decoder::new(framing, 1000)?;
        let (mut body, mut used) = (Vec::new(), 0);
        for end in [cut, input.len()] {
            loop {
                let (step, data) = decoder.step(&input[used..end])?;
                body.extend_from_slice(data);
                used += step;
                if step == 0 {
                    break;
                }
            }
        }
        Ok((body, used, decoder.done()))
    }

    #[test]
    fn a_body_is_the_same_however_it_arrives() {
        let cases = [
            (Framing::Length(5), &b"hello"[..], &b"hello"[..]),
            (Framing::Length(0), b"", b""),
            (Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
            (
                Framing::Chunked,
                b"0A;x=\"y\"\r\n0123456789\r\n1\r\n!\r\n0000\r\nT: v\r\nU: w\r\n\r\n",
                b"0123456789!",
            ),
        ];
        for (framing, input, expected) in cases {
            let whole = [input, b"next"].concat();
            for cut in 0..=whole.len() {
                let (body, used, done) = decode(framing, &whole, cut).unwrap();
                assert_eq!(
                    (&body[..], used, done),
                    (expected, input.len(), true),
                    "{input:?} at {cut}"
                );
            }
            for short in 0..input.len() {
                assert!(
                    !decode(framing, &input[..short], 0).unwrap().2,
                    "{input:?} of {short}"
                );
            }
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let extension = format!("1;{}\r\nx\r\n", "e".repeat(LONGEST_CHUNK_LINE));
        let trailer = format!("0\r\nT: {}\r\n\r\n", "t".repeat(LONGEST_TRAILER));
        for wrong in [
            "\r\n",
            ";\r\n",
            "x\r\n",
            "+1\r\n",
            " 1\r\n",
            "1 \r\nx\r\n",
            "0x1\r\nx\r\n",
            "1\nx\r\n",
            "1\r\nxy",
            "1\r\nx\n",
            "1\r\nx0\r\n\r\n",
            "1;a\nb\r\nx\r\n",
            "0\r\nT: v\n\r\n",
            "0\r\n\n",
            "0000000000000001\r\n",
            &extension,
            &trailer,
        ] {
            assert_eq!(
                decode(Framing::Chunked, wrong.as_bytes(), 0)
                    .unwrap_err()
                    .status(),
                400,
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn a_body_has_a_size() {
        assert_eq!(
            Decoder::new(Framing::Length(1001), 1000).err(),
            Some(BadRequest::BodyTooLarge(1000))
        );
        assert!(Decoder::new(Framing::Length(1000), 1000).is_ok());
        let chunks = b"1F4\r\n"
            .iter()
            .chain(&[b'x'; 500])
            .chain(b"\r\n1F5\r\n")
            .copied()
            .collect::<Vec<_>>();
        assert_eq!(
            decode(Framing::Chunked, &chunks, 0),
            Err(BadRequest::BodyTooLarge(1000))
        );
        assert_eq!(
            decode(Framing::Chunked, b"fffffffffffffff\r\n", 0),
            Err(BadRequest::BodyTooLarge(1000))
        );
    }

    #[test]
    fn a_response_head_says_how_it_is_framed() {
        let head = response_head(200, &[("Content-Type", "text/plain")], 5);
        assert_eq!(
            head,
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(
            response_head(204, &[], 0),
            b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
        );
        assert!(response_head(299, &[], 0).starts_with(b"HTTP/1.1 299 \r\n"));
    }
}
