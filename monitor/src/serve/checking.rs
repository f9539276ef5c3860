//! The check after a boot: what repeats in the copies of this program.
//!
//! The same example call as the rehearsal's is made in two clones and in the program booted anew, one after the other, while calls are
//! taken already. What both clones show and the fresh boot does not (values in the answer, names in private directories, ports) was drawn
//! before the snapshot, and will be the same in every call. Nobody hears what is answered, and nothing that is done outlives it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::offspring::Child;
use super::parent::{Parent, Stop, stop};
use super::rehearsal::example;
use super::{Launch, instance};
use crate::control::{Cause, ControlStream, Event, Repeated, Source, Text};
use crate::errno::Errno;
use crate::fs::descriptors::raise;
use crate::snapshot::Snapshot;
use crate::sys;

/// How long an example call may take in a clone; for the boot, what it took comes on top, twice.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer that are looked at.
const ANSWER: usize = 64 << 10;
/// A value is this long and has a digit in it; shorter ones are equal by chance.
const SHORTEST: usize = 8;
const EXAMPLES: usize = 3;
const EXAMPLE: usize = 64;

/// The check as far as it has come.
pub(super) struct Check {
    snapshot: Arc<Snapshot>,
    seen: Vec<Seen>,
    /// The child that makes a call now, and the caller's end of its connection.
    running: Option<(u32, OwnedFd)>,
}

/// What one example call has shown.
#[derive(Debug, Default)]
struct Seen {
    values: BTreeSet<String>,
    names: BTreeSet<String>,
    ports: BTreeSet<String>,
    answered: bool,
}

impl Parent {
    /// Begins, if it is wanted: after a boot, not after a restart from the file.
    pub(super) fn check(&mut self) {
        let wanted = self
            .world
            .as_ref()
            .is_some_and(|world| world.bundle.function.check);
        let booted = self
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.source == Source::Boot);
        if let Some(Launch::Clone(snapshot, _)) = self.launch.as_ref().filter(|_| wanted && booted) {
            self.check = Some(Check {
                snapshot: snapshot.clone(),
                seen: Vec::new(),
                running: None,
            });
            self.check_on();
        }
    }

    /// The next call of the check. That it cannot be made ends the check and nothing else.
    fn check_on(&mut self) {
        if self.draining || self.begin_example().is_err() {
            self.check = None;
        }
    }

    fn begin_example(&mut self) -> Result<(), Stop> {
        let Some(check) = &self.check else { return Ok(()) };
        let boots = check.seen.len() == 2;
        let launch = if boots {
            Launch::Boot
        } else {
            Launch::Clone(check.snapshot.clone(), Arc::default())
        };
        let pair = sys::socket_pair(libc::SOCK_STREAM).map_err(stop("socketpair"))?;
        let (caller, connection) = (raise(pair.0), raise(pair.1));
        let (caller, connection) = (caller.map_err(stop("fcntl"))?, connection.map_err(stop("fcntl"))?);
        sys::set_nonblocking(&caller).map_err(stop("fcntl"))?;
        sys::write(&caller, example(self.contract)).map_err(stop("socketpair"))?;
        let number = self.spawn(false, move |world, setup, jail, id| {
            instance::run(world, setup, jail, &launch, id, Some(connection))
        })?;
        let booting = Duration::from_millis(if boots { self.boot_ms.saturating_mul(2) } else { 0 });
        if let Some(child) = self.children.get_mut(&number) {
            child.rehearses = true;
            child.doom = Some((Instant::now() + PATIENCE + booting, Cause::Deadline));
        }
        if let Some(check) = &mut self.check {
            check.running = Some((number, caller));
        }
        Ok(())
    }

    /// A child of the check has ended; its private directories are still there. Whether it was one.
    pub(super) fn checked(
        &mut self,
        number: u32,
        child: &Child,
        control: &mut ControlStream<'_>,
    ) -> Result<bool, Stop> {
        let scratch = self.scratch().join(child.id.to_string());
        let Some(check) = &mut self.check else {
            return Ok(false);
        };
        let Some((_, caller)) = check.running.take_if(|(running, _)| *running == number) else {
            return Ok(false);
        };
        let answer = read(&caller);
        let mut names = BTreeSet::new();
        list(&scratch, &mut names, 0);
        check.seen.push(Seen {
            values: values(&answer),
            names,
            ports: child.ledger.listening_port().iter().map(u16::to_string).collect(),
            answered: !answer.is_empty(),
        });
        if let [first, second, fresh] = check.seen.as_slice() {
            let repeats = compare(first, second, fresh);
            let silent = [first, second, fresh].iter().any(|seen| !seen.answered);
            let reason = silent.then(|| Text::message("an example call was not answered in time"));
            self.check = None;
            control.send(&Event::Checked { repeats, reason })?;
        } else {
            self.check_on();
        }
        Ok(true)
    }
}

/// What has come of an answer.
fn read(caller: &OwnedFd) -> Vec<u8> {
    let mut answer = vec![0; ANSWER];
    let mut length = 0;
    while length < answer.len() {
        match sys::read(caller, &mut answer[length..]) {
            Ok(0) => break,
            Ok(step) => length += step,
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    answer.truncate(length);
    answer
}

/// The words of an answer that may have been drawn at random.
fn values(answer: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(answer);
    text.split(|letter: char| !(letter.is_ascii_alphanumeric() || "-_.".contains(letter)))
        .map(|word| word.trim_matches(['.', '-', '_']))
        .filter(|word| word.len() >= SHORTEST && word.contains(|letter: char| letter.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

/// The names in private directories, two levels deep.
fn list(directory: &Path, names: &mut BTreeSet<String>, depth: usize) {
    for entry in std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .take(1000)
    {
        if depth > 0 {
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
        if depth < 2 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), names, depth + 1);
        }
    }
}

/// What both clones have and the fresh boot has not.
fn compare(first: &Seen, second: &Seen, fresh: &Seen) -> Vec<Repeated> {
    let kinds = [
        (
            "values in the answer",
            [first, second, fresh].map(|seen| &seen.values),
        ),
        ("temporary names", [first, second, fresh].map(|seen| &seen.names)),
        ("ports", [first, second, fresh].map(|seen| &seen.ports)),
    ];
    let repeated = kinds.map(|(what, [first, second, fresh])| {
        let examples: Vec<Text> = first
            .intersection(second)
            .filter(|value| !fresh.contains(*value))
            .take(EXAMPLES)
            .map(|value| Text::message(value.chars().take(EXAMPLE).collect::<String>()))
            .collect();
        Repeated { what, examples }
    });
    repeated
        .into_iter()
        .filter(|repeated| !repeated.examples.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(answer: &str, names: &[&str]) -> Seen {
        Seen {
            values: values(answer.as_bytes()),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ports: BTreeSet::new(),
            answered: true,
        }
    }

    #[test]
    fn what_both_clones_show_and_a_fresh_boot_does_not_repeats() {
        let first = seen("id=0.7254686171 call 111111111", &["tmpabc123", "cache"]);
        let second = seen("id=0.7254686171 call 222222222", &["tmpabc123", "cache"]);
        let fresh = seen("id=0.1844040123 call 333333333", &["tmpxyz999", "cache"]);
        let found = compare(&first, &second, &fresh);
        let shown: Vec<_> = found
            .iter()
            .map(|one| (one.what, one.examples[0].as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("values in the answer", "0.7254686171"),
                ("temporary names", "tmpabc123")
            ]
        );
        assert!(compare(&first, &first, &first).is_empty());
    }

    #[test]
    fn short_words_and_prose_are_no_values() {
        let found = values(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello everybody 1234567 abcdefg1");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["abcdefg1"]);
    }
}
