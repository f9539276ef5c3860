//! Commands of the server, one JSON object a line on stdin (`docs/protocol.md`, section 4).
//!
//! The server is trusted, its bugs are not: a line has a bound, and what is not understood is reported and skipped.

use std::os::fd::BorrowedFd;

use serde::Deserialize;

use super::text::Text;
use crate::errno::Errno;
use crate::sys;

/// The longest line, bytes. What is longer is skipped up to its newline.
const LONGEST: usize = 4 << 10;

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Command {
    /// Accept no more; end parked instances; exit when the last call has ended.
    Drain,
    /// Keep this many instances parked.
    Pool { parked: u32 },
}

/// What reading stdin gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    Command(Command),
    /// A line that is no command; the text is fit for a `warning`.
    Unknown(Text),
    /// The server is gone.
    Closed,
}

/// Lines of stdin, across reads. Invariant: `line` holds at most `LONGEST` bytes and no newline.
#[derive(Default)]
pub struct Commands {
    line: Vec<u8>,
    skipping: bool,
}

impl Commands {
    /// Reads once from `stdin`, which `poll` has reported as readable, and adds what arrived to `inputs`.
    pub fn read(&mut self, stdin: BorrowedFd, inputs: &mut Vec<Input>) {
        let mut buffer = [0_u8; LONGEST];
        match sys::read(&stdin, &mut buffer) {
            Ok(0) => inputs.push(Input::Closed),
            Ok(count) => self.feed(&buffer[..count], inputs),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A stdin that cannot be read will not bring commands any more.
            Err(_) => inputs.push(Input::Closed),
        }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8], inputs: &mut Vec<Input>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, whole) = piece
                .strip_suffix(b"\n")
                .map_or((piece, false), |text| (text, true));
            if self.line.len() + text.len() > LONGEST {
                self.skipping = true;
                self.line.clear();
            } else if !self.skipping {
                self.line.extend_from_slice(text);
            }
            if whole {
                if self.skipping {
                    let message = format!("a command of more than {LONGEST} bytes was ignored");
                    inputs.push(Input::Unknown(Text::message(message)));
                } else if !self.line.trim_ascii().is_empty() {
                    inputs.push(parse(&self.line));
                }
                self.line.clear();
                self.skipping = false;
            }
        }
    }
}

fn parse(line: &[u8]) -> Input {
    match serde_json::from_slice(line) {
        Ok(command) => Input::Command(command),
        Err(error) => {
            let (line, _) = Text::head(line, 200);
            Input::Unknown(Text::message(format!(
                "a line on stdin is no command: {error}: {}",
                line.as_str()
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};
    use std::os::fd::AsFd;

    use super::*;

    fn inputs(pieces: &[&[u8]]) -> Vec<Input> {
        let (mut commands, mut inputs) = (Commands::default(), Vec::new());
        for piece in pieces {
            commands.feed(piece, &mut inputs);
        }
        inputs
    }

    #[test]
    fn commands_are_read_however_they_arrive() {
        let text = b"{\"command\":\"pool\",\"parked\":7,\"later\":1}\n\n{\"command\":\"drain\"}\n";
        for cut in 0..text.len() {
            let expected = [
                Input::Command(Command::Pool { parked: 7 }),
                Input::Command(Command::Drain),
            ];
            assert_eq!(inputs(&[&text[..cut], &text[cut..]]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_command_is_reported_and_skipped() {
        for wrong in [
            "{",
            "{}",
            "[]",
            "{\"command\":\"fly\"}",
            "{\"command\":\"pool\"}",
            "{\"command\":\"pool\",\"parked\":-1}",
            "\u{1}",
        ] {
            let found = inputs(&[wrong.as_bytes(), b"\n{\"command\":\"drain\"}\n"]);
            assert!(
                matches!(&found[..], [Input::Unknown(_), Input::Command(Command::Drain)]),
                "{wrong}: {found:?}"
            );
        }
    }

    #[test]
    fn an_endless_line_takes_no_memory_and_the_next_command_counts() {
        let (mut commands, mut found) = (Commands::default(), Vec::new());
        for _ in 0..1000 {
            commands.feed(&[b'x'; 1000], &mut found);
            assert!(commands.line.len() <= LONGEST);
        }
        commands.feed(b"\n{\"command\":\"drain\"}\n", &mut found);
        assert!(matches!(
            &found[..],
            [Input::Unknown(_), Input::Command(Command::Drain)]
        ));
    }

    #[test]
    fn the_end_of_stdin_is_told() {
        let (reader, mut writer) = pipe().unwrap();
        writer.write_all(b"{\"command\":\"drain\"}\n").unwrap();
        drop(writer);
        let (mut commands, mut found) = (Commands::default(), Vec::new());
        commands.read(reader.as_fd(), &mut found);
        commands.read(reader.as_fd(), &mut found);
        assert_eq!(found, [Input::Command(Command::Drain), Input::Closed]);
    }
}
