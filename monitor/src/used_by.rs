//! `mayfly-monitor syscalls --used-by BUNDLE`: which system calls a function's program makes, and which of them are missing.
//!
//! The program is run by a `serve` of its own, as a node would run it but without network: to readiness, then for one call, `GET /` or
//! an empty input. `serve` counts in the ledger of each child, so what child processes do is in it; the rehearsal is not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bundle::{Bundle, BundleError};
use crate::ledger::COUNTED;
use crate::serve::example;
use crate::syscalls::{self, Level};

/// How long the call may take.
const CALL: Duration = Duration::from_secs(10);
/// How long nothing may come after the beginning of an answer: then it is taken for whole.
const SILENCE: Duration = Duration::from_secs(1);
/// What `serve` may take beside the program: the rehearsal, making an instance, the end.
const OVERHEAD: Duration = Duration::from_secs(15);
/// The longest time to readiness that can be asked for.
const LONGEST: Duration = Duration::from_secs(86_400);
/// The exit status after an interrupt, as a shell has it.
const INTERRUPTED: u8 = 130;
/// The call's name.
const NAME: &str = "used-by";

pub struct Options {
    pub bundle: PathBuf,
    pub json: bool,
    pub ready_timeout: Duration,
    pub device: String,
}

#[derive(Debug, thiserror::Error)]
enum UsedByError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(
        "{}: not a bundle: that is a directory with function.json, config.json and the unpacked image, as a node has them in \
         bundles/revisions of its data directory; for a function by its name, or an image, use `mayfly syscalls NAME|IMAGE`",
        .0.display()
    )]
    NotABundle(PathBuf),
    #[error("{what}: {source}")]
    Host { what: String, source: std::io::Error },
    #[error("serve {0}")]
    Serve(&'static str),
    #[error("interrupted")]
    Interrupted,
    #[error("the program was ready, but its call did not end in time: {0}")]
    Call(String),
}

fn host(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> UsedByError {
    let what = what.into();
    move |source| UsedByError::Host { what, source }
}

/// How often each system call was made and denied, by number.
type Counts = BTreeMap<u64, (u64, u64)>;

/// What has come of it.
#[derive(Default)]
struct Findings {
    counts: Counts,
    /// The event `failed`: the program was not ready.
    failure: Option<Value>,
    /// The event `ended` of the call.
    ended: Option<Value>,
}

/// Does it; gives the exit status.
pub fn run(options: &Options) -> u8 {
    match find(options) {
        Ok(findings) => {
            let rows = rows(&findings.counts);
            if options.json {
                print_json(&findings, &rows);
            } else {
                print_text(&findings, &rows);
            }
            u8::from(findings.failure.is_some())
        }
        Err(error) => {
            eprintln!("mayfly-monitor: syscalls --used-by: {error}");
            let interrupted = matches!(error, UsedByError::Interrupted);
            if interrupted { INTERRUPTED } else { 1 }
        }
    }
}

/// A `serve` and its directory; both end with this.
struct Serving {
    process: Child,
    directory: PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It kills its instances at the end of its commands.
        drop(self.process.stdin.take());
        let end = Instant::now() + OVERHEAD;
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() > end {
                let _ = self.process.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = crate::fs::remove_tree(&self.directory);
    }
}

fn start(options: &Options) -> Result<(Serving, ChildStdout), UsedByError> {
    let mut random = [0; 8];
    crate::sys::random(&mut random)
        .map_err(|errno| host("getrandom")(std::io::Error::from_raw_os_error(errno.0)))?;
    let name = format!("mayfly-used-by-{:016x}", u64::from_ne_bytes(random));
    let directory = std::env::temp_dir().join(name);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .map_err(host(directory.display().to_string()))?;
    let program = std::env::current_exe().map_err(host("/proc/self/exe"))?;
    let timeout = options.ready_timeout.min(LONGEST).as_millis().to_string();
    let process = Command::new(program)
        .args(["serve", "--probe", "--pool", "1", "--instances", "1"])
        .args(["--ready-timeout", &timeout, "--device", &options.device])
        .arg("--bundle")
        .arg(&options.bundle)
        .arg("--socket")
        .arg(directory.join("s"))
        // A Ctrl-C at the terminal reaches this process alone, which then ends it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut process = process.map_err(|error| {
        let _ = crate::fs::remove_tree(&directory);
        host("serve")(error)
    })?;
    let events = process.stdout.take();
    let serving = Serving { process, directory };
    let events = events.ok_or(UsedByError::Serve("has no control stream"))?;
    Ok((serving, events))
}

fn find(options: &Options) -> Result<Findings, UsedByError> {
    if !options.bundle.join("function.json").is_file() {
        return Err(UsedByError::NotABundle(options.bundle.clone()));
    }
    let bundle = Bundle::read(&options.bundle)?;
    let end = Instant::now() + options.ready_timeout.min(LONGEST) + CALL + OVERHEAD;
    let (sender, events) = channel();
    tell_interrupts(sender.clone())?;
    let (serving, stream) = start(options)?;
    let failures = sender.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let event = serde_json::from_str::<Value>(&line).unwrap_or_default();
            if sender.send(event).is_err() {
                return;
            }
        }
        let _ = sender.send(json!({"event": "end"}));
    });
    let mut findings = Findings::default();
    let mut warning = String::from("no instance took it");
    let request = example(bundle.function.contract);
    loop {
        let event = match next(&events, end) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Err(UsedByError::Call(warning)),
            Err(RecvTimeoutError::Disconnected) => return Err(UsedByError::Serve("is gone")),
        };
        match event["event"].as_str().unwrap_or_default() {
            "used" => add(&mut findings.counts, &event["calls"]),
            "ready" => {
                if event["snapshot"].is_null() {
                    // The instance begins at the first instruction, too: the boot would count twice.
                    findings.counts.clear();
                }
                let (socket, failures) = (serving.directory.join("s"), failures.clone());
                std::thread::spawn(move || {
                    if let Err(error) = call(&socket, request, end) {
                        let _ = failures.send(json!({"event": "call", "error": error.to_string()}));
                    }
                });
            }
            "call" => {
                let error = event["error"].as_str().unwrap_or_default();
                return Err(host("the call")(std::io::Error::other(error.to_owned())));
            }
            "interrupt" => return Err(UsedByError::Interrupted),
            "end" => return Err(UsedByError::Serve("ended unexpectedly")),
            "warning" => event["message"]
                .as_str()
                .unwrap_or_default()
                .clone_into(&mut warning),
            "failed" => findings.failure = Some(event),
            "ended" if event["call"] == NAME => findings.ended = Some(event),
            _ => {}
        }
        if findings.failure.is_some() || findings.ended.is_some() {
            return Ok(findings);
        }
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP are events: what was started and made goes before this does.
fn tell_interrupts(sender: Sender<Value>) -> Result<(), UsedByError> {
    let error = |errno: crate::errno::Errno| host("signalfd")(std::io::Error::from_raw_os_error(errno.0));
    let mask = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP].map(|signal| 1_u64 << (signal - 1));
    let mask = mask[0] | mask[1] | mask[2];
    crate::signals::host::set_mask(mask);
    let mut signals = File::from(crate::sys::signalfd(mask, libc::SFD_CLOEXEC).map_err(error)?);
    std::thread::spawn(move || {
        let mut info = [0; 128];
        if signals.read_exact(&mut info).is_ok() {
            let _ = sender.send(json!({"event": "interrupt"}));
        }
    });
    Ok(())
}

fn next(events: &Receiver<Value>, end: Instant) -> Result<Value, RecvTimeoutError> {
    events.recv_timeout(end.saturating_duration_since(Instant::now()))
}

/// Makes the call and reads its answer away.
fn call(socket: &Path, request: &[u8], end: Instant) -> std::io::Result<()> {
    let mut connection = UnixStream::connect(socket)?;
    let envelope = format!("MAYFLY/1 {NAME} {} -\n", CALL.as_millis());
    connection.write_all(&[envelope.as_bytes(), request].concat())?;
    let greeting = "MAYFLY/1 0123456789abcdef\n".len();
    let (mut buffer, mut received) = ([0; 4096], 0);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let patience = if received > greeting {
            SILENCE.min(left)
        } else {
            left
        };
        if patience.is_zero() {
            return Ok(());
        }
        connection.set_read_timeout(Some(patience))?;
        match connection.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => received += length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // Silent, or reset: what came of the call is in its receipt.
            Err(_) => return Ok(()),
        }
    }
}

fn add(counts: &mut Counts, calls: &Value) {
    for row in calls.as_array().into_iter().flatten() {
        if let [Some(number), Some(calls), Some(denied)] = [0, 1, 2].map(|at| row[at].as_u64()) {
            let entry = counts.entry(number).or_default();
            entry.0 += calls;
            entry.1 += denied;
        }
    }
}

/// One system call that was used.
struct Row {
    /// Unless it is one of those above the table.
    number: Option<u64>,
    name: Option<&'static str>,
    area: &'static str,
    level: Level,
    count: u64,
    denied: u64,
}

impl Row {
    fn missing(&self) -> bool {
        matches!(self.level, Level::Refused | Level::Absent)
    }

    fn shown(&self) -> String {
        match (self.name, self.number) {
            (Some(name), _) => name.to_owned(),
            (None, Some(number)) => format!("number {number}"),
            (None, None) => format!("number {COUNTED} or above"),
        }
    }
}

/// The missing ones first, then by how often they are used.
fn rows(counts: &Counts) -> Vec<Row> {
    let row = |(&number, &(count, denied)): (&u64, &(u64, u64))| {
        let entry = syscalls::find(number);
        Row {
            number: usize::try_from(number)
                .is_ok_and(|number| number < COUNTED)
                .then_some(number),
            name: syscalls::name(number),
            area: entry.map_or("", |entry| entry.area),
            level: entry.map_or(Level::Absent, |entry| entry.level),
            count,
            denied,
        }
    };
    let mut rows: Vec<_> = counts.iter().map(row).collect();
    rows.sort_by_key(|row| (!row.missing(), std::cmp::Reverse(row.count)));
    rows
}

fn print_json(findings: &Findings, rows: &[Row]) {
    let calls: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "number": row.number, "name": row.name, "area": row.area, "level": row.level.name(), "count": row.count,
                "denied": row.denied, "missing": row.missing(),
            })
        })
        .collect();
    let pick = |event: &Option<Value>, fields: &[&str]| {
        event.as_ref().map(|event| -> Value {
            fields
                .iter()
                .map(|field| ((*field).to_owned(), event[*field].clone()))
                .collect()
        })
    };
    let found = json!({
        "ready": findings.failure.is_none(),
        "failure": pick(&findings.failure, &["reason", "message", "output"]),
        "call": pick(&findings.ended, &["cause", "code", "message"]),
        "calls": calls,
    });
    println!("{found}");
}

fn print_text(findings: &Findings, rows: &[Row]) {
    println!(
        "{:<24} {:<10} {:<10} {:>8} {:>8}",
        "name", "area", "level", "count", "denied"
    );
    for row in rows {
        let (name, level) = (row.shown(), row.level.name());
        println!(
            "{name:<24} {:<10} {level:<10} {:>8} {:>8}",
            row.area, row.count, row.denied
        );
    }
    let missing: Vec<_> = rows.iter().filter(|row| row.missing()).map(Row::shown).collect();
    let missing = if missing.is_empty() {
        "nothing".to_owned()
    } else {
        missing.join(", ")
    };
    println!("\nmissing: {missing}");
    if let Some(ended) = &findings.ended {
        let code = ended["code"]
            .as_i64()
            .map_or_else(String::new, |code| format!(" {code}"));
        let cause = ended["cause"].as_str().unwrap_or_default();
        println!("the call ended: {cause}{code}");
    }
    if let Some(failure) = &findings.failure {
        // The message itself `serve` has said.
        let output = failure["output"].as_str().unwrap_or_default();
        eprintln!("the program was not ready; it wrote last:");
        for line in output.lines() {
            eprintln!("  {}", printable(line));
        }
    }
}

/// A line of the guest, harmless for a terminal.
fn printable(line: &str) -> String {
    line.chars()
        .flat_map(|letter| {
            let escaped = letter.is_control().then(|| letter.escape_default());
            let plain = escaped.is_none().then_some(letter);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_ones_come_first_and_what_is_above_the_table_is_one_row() {
        let mut counts = Counts::new();
        add(&mut counts, &json!([[0, 5, 0], [1, 9, 0], [400, 1, 1]]));
        add(&mut counts, &json!([[0, 1, 0], [COUNTED, 2, 2]]));
        let shown: Vec<_> = rows(&counts)
            .iter()
            .map(|row| (row.shown(), row.count, row.missing()))
            .collect();
        let expected = [
            ("number 512 or above", 2, true),
            ("number 400", 1, true),
            ("write", 9, false),
            ("read", 6, false),
        ];
        assert_eq!(
            shown,
            expected.map(|(name, count, missing)| (name.to_owned(), count, missing))
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[1mä"), "a\\u{1b}[1mä");
    }
}
