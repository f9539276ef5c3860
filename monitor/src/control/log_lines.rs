//! What a program writes to its stdout and stderr, as lines of a log.
//!
//! A program may write anything, without end and without a newline: a line keeps its first 16 KiB, all lines of an
//! instance together keep `limit` bytes, and reaching that is said once. The pipes are drained all the same, so that a
//! chatty program is not blocked by its own log. The last 4 KiB are kept beside that, for the receipt.

use std::collections::VecDeque;

use super::Stream;
use super::text::{LINE, TAIL, Text};

/// Every line costs this beside its bytes: an empty line is an event, too.
const LINE_COST: u64 = 64;

/// A line to be logged.
#[derive(Debug, PartialEq, Eq)]
pub struct LogLine {
    pub stream: Stream,
    pub line: Text,
    pub truncated: bool,
}

/// The log of one instance.
pub struct LogLines {
    limit: u64,
    left: u64,
    said: bool,
    stdout: Partial,
    stderr: Partial,
    last_errors: Last,
    last_output: Last,
}

impl LogLines {
    /// A log that keeps `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            left: limit,
            said: false,
            stdout: Partial::default(),
            stderr: Partial::default(),
            last_errors: Last::default(),
            last_output: Last::default(),
        }
    }

    /// Takes what was read from `stream` and adds the lines that it completes to `lines`.
    pub fn feed(&mut self, stream: Stream, bytes: &[u8], lines: &mut Vec<LogLine>) {
        self.last_output.add(bytes);
        if stream == Stream::Stderr {
            self.last_errors.add(bytes);
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                None => self.partial(stream).add(piece),
                Some(piece) => {
                    self.partial(stream).add(piece);
                    self.complete(stream, lines);
                }
            }
        }
    }

    /// The streams have ended: what was written without a newline is a line, too.
    pub fn finish(&mut self, lines: &mut Vec<LogLine>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.partial(stream).any {
                self.complete(stream, lines);
            }
        }
    }

    /// The last lines written to stderr, for the receipt.
    pub fn tail(&self) -> Text {
        self.last_errors.text()
    }

    /// The last lines written to both, for a function that could not be started.
    pub fn output(&self) -> Text {
        self.last_output.text()
    }

    fn partial(&mut self, stream: Stream) -> &mut Partial {
        if stream == Stream::Stderr {
            &mut self.stderr
        } else {
            &mut self.stdout
        }
    }

    fn complete(&mut self, stream: Stream, lines: &mut Vec<LogLine>) {
        let mut partial = std::mem::take(self.partial(stream));
        if !self.said {
            let bytes = partial.bytes.strip_suffix(b"\r").unwrap_or(&partial.bytes);
            let room = usize::try_from(self.left).unwrap_or(usize::MAX);
            let (line, cut) = Text::head(bytes, LINE.min(room));
            let cost = u64::try_from(bytes.len())
                .unwrap_or(u64::MAX)
                .saturating_add(LINE_COST);
            lines.push(LogLine {
                stream,
                line,
                truncated: cut || partial.cut,
            });
            if cost > self.left {
                self.said = true;
                let line = format!("log limit of {} bytes reached, the rest is not kept", self.limit);
                lines.push(LogLine {
                    stream: Stream::Monitor,
                    line: Text::message(line),
                    truncated: true,
                });
            }
            self.left = self.left.saturating_sub(cost);
        }
        // The buffer goes back: a line is not an allocation.
        partial.bytes.clear();
        *self.partial(stream) = Partial {
            bytes: partial.bytes,
            ..Partial::default()
        };
    }
}

/// A line whose newline was not yet seen. Invariant: at most `LINE` bytes are held.
#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    any: bool,
    cut: bool,
}

impl Partial {
    fn add(&mut self, piece: &[u8]) {
        let kept = piece.len().min(LINE - self.bytes.len());
        self.bytes.extend_from_slice(&piece[..kept]);
        self.any |= !piece.is_empty();
        self.cut |= kept < piece.len();
    }
}

/// The last `TAIL` bytes of a stream.
#[derive(Default)]
struct Last {
    bytes: VecDeque<u8>,
    /// Something was written before what is held.
    cut: bool,
}

impl Last {
    fn add(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(TAIL)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(TAIL);
        self.cut |= excess > 0 || kept.len() < bytes.len();
        self.bytes.drain(..excess.min(self.bytes.len()));
        self.bytes.extend(kept);
    }

    /// From the first whole line on, if any begins there.
    fn text(&self) -> Text {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let start = if self.cut {
            bytes
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1)
        } else {
            0
        };
        Text::tail(if start < bytes.len() {
            &bytes[start..]
        } else {
            &bytes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(log: &mut LogLines, stream: Stream, pieces: &[&[u8]]) -> Vec<(String, bool)> {
        let mut lines = Vec::new();
        for piece in pieces {
            log.feed(stream, piece, &mut lines);
        }
        lines
            .into_iter()
            .map(|line| (line.line.as_str().to_owned(), line.truncated))
            .collect()
    }

    #[test]
    fn lines_are_the_same_however_the_bytes_arrive() {
        let text = b"first\n\nthird\r\nwith \xff bytes\nlast";
        for cut in 0..text.len() {
            let mut log = LogLines::new(1 << 20);
            let mut found = lines(&mut log, Stream::Stdout, &[&text[..cut], &text[cut..]]);
            let mut rest = Vec::new();
            log.finish(&mut rest);
            found.extend(
                rest.into_iter()
                    .map(|line| (line.line.as_str().to_owned(), line.truncated)),
            );
            let found: Vec<&str> = found.iter().map(|(line, _)| line.as_str()).collect();
            assert_eq!(
                found,
                ["first", "", "third", "with \u{fffd} bytes", "last"],
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn streams_do_not_mix() {
        let mut log = LogLines::new(1 << 20);
        let mut found = Vec::new();
        log.feed(Stream::Stdout, b"out", &mut found);
        log.feed(Stream::Stderr, b"err\n", &mut found);
        log.feed(Stream::Stdout, b"put\n", &mut found);
        let found: Vec<_> = found
            .iter()
            .map(|line| (line.stream, line.line.as_str()))
            .collect();
        assert_eq!(found, [(Stream::Stderr, "err"), (Stream::Stdout, "output")]);
    }

    #[test]
    fn a_long_line_keeps_its_beginning() {
        let mut log = LogLines::new(1 << 20);
        let long = vec![b'x'; 3 * LINE];
        let found = lines(&mut log, Stream::Stdout, &[&long, &long, b"\nnext\n"]);
        assert_eq!(found.len(), 2);
        assert!(found[0].1 && found[0].0.len() == LINE);
        assert_eq!(found[1], ("next".to_owned(), false));
    }

    #[test]
    fn the_limit_is_said_once_and_then_nothing_is_kept() {
        let mut log = LogLines::new(1000);
        let mut found = Vec::new();
        for _ in 0..1000 {
            log.feed(Stream::Stdout, b"0123456789\n", &mut found);
        }
        let said = found.iter().filter(|line| line.stream == Stream::Monitor).count();
        assert_eq!((said, found.len()), (1, 1 + 1000 / 74 + 1));
        log.finish(&mut found);
        assert_eq!(
            found.last().unwrap().line.as_str(),
            "log limit of 1000 bytes reached, the rest is not kept"
        );
    }

    #[test]
    fn empty_lines_are_not_free() {
        let mut log = LogLines::new(1 << 10);
        let mut found = Vec::new();
        log.feed(Stream::Stderr, &[b'\n'; 1 << 20], &mut found);
        assert!(found.len() < 20);
    }

    #[test]
    fn the_tail_goes_on_after_the_limit_and_begins_with_a_whole_line() {
        let mut log = LogLines::new(0);
        let mut found = Vec::new();
        for number in 0..10_000 {
            log.feed(Stream::Stderr, format!("line {number}\n").as_bytes(), &mut found);
        }
        let tail = log.tail();
        assert!(
            tail.as_str().len() <= TAIL
                && tail.as_str().starts_with("line ")
                && tail.as_str().ends_with("line 9999\n")
        );
        log.feed(Stream::Stdout, b"Traceback", &mut found);
        assert!(log.output().as_str().ends_with("line 9999\nTraceback"));
        assert!(log.tail().as_str().ends_with("line 9999\n"));
        log.feed(Stream::Stderr, &vec![b'x'; 1 << 20], &mut found);
        assert_eq!(log.tail().as_str().len(), TAIL);
    }
}
