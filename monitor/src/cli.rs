//! The command line.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::{Long, Value, ValueExt};

use crate::{doctor, run, serve, used_by};

const USAGE: &str = "\
mayfly-monitor runs programs in KVM virtual machines without a guest kernel.

Usage:
  mayfly-monitor run [--rootfs DIR] [--memory SIZE] [--trace] [--] PROGRAM [ARGS…]
  mayfly-monitor serve --bundle DIR --socket PATH [--pool N] [--instances M] [--ready-timeout MS] [--log-limit BYTES]
                       [--output-limit BYTES] [--scratch DIR] [--snapshot FILE] [--snapshot-age SECONDS] [--cpu-limit SECONDS]
                       [--require LAYER,…] [--device PATH]
  mayfly-monitor syscalls [--json] [--used-by BUNDLE [--ready-timeout MS] [--device PATH]]
  mayfly-monitor doctor [--json] [--device PATH]
  mayfly-monitor --version | --help

run        runs a program of this machine (or of DIR) once, like a shell would: standard streams, working directory,
           environment and exit status are the program's. 125: the monitor failed, 126: not executable, 127: not found
serve      runs a function's bundle: one fresh virtual machine for each connection to PATH (docs/protocol.md)
syscalls   prints the table of system calls; with --used-by those that the program of a bundle makes until it is ready and in one
           call, without network, and which of them are missing; exit status 1 if the program was not ready
doctor     says whether this machine can run functions, and what to do if not; exit status 0 or 1

Options:
  --device PATH   the KVM device [/dev/kvm]
";

/// Exit status for wrong usage.
const WRONG_USAGE: u8 = 2;
/// Memory of `run` unless it is given, bytes.
const RUN_MEMORY: u64 = 8 << 30;

enum Problem {
    Usage(lexopt::Error),
    Run(run::RunError),
    Output(io::Error),
}

impl From<lexopt::Error> for Problem {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error)
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(Problem::Usage(error)) => {
            eprintln!("mayfly-monitor: {error}\ntry `mayfly-monitor --help`");
            ExitCode::from(WRONG_USAGE)
        }
        Err(Problem::Run(error)) => {
            eprintln!("mayfly-monitor: {error}");
            ExitCode::from(u8::try_from(error.exit_status()).unwrap_or(125))
        }
        // `mayfly-monitor syscalls | head`: who reads has what he wants.
        Err(Problem::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Problem::Output(error)) => {
            eprintln!("mayfly-monitor: stdout: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<ExitCode, Problem> {
    let mut parser = lexopt::Parser::from_env();
    match parser.next()? {
        Some(Value(command)) if command == "run" => run(parser),
        // For the monitor itself: a guest of `run` executes a program.
        Some(Value(command)) if command == "exec" => {
            let fd = parser.value()?.parse()?;
            match run::execute(fd) {
                Err(error) => Err(Problem::Run(error)),
                Ok(never) => match never {},
            }
        }
        Some(Value(command)) if command == "serve" => serve(parser),
        Some(Value(command)) if command == "syscalls" => syscalls(parser),
        Some(Value(command)) if command == "doctor" => doctor(parser),
        Some(Long("version")) => {
            writeln!(io::stdout(), "mayfly-monitor {}", env!("CARGO_PKG_VERSION"))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Long("help")) => help(),
        Some(other) => Err(other.unexpected().into()),
        None => Err(lexopt::Error::from("a command is missing".to_owned()).into()),
    }
}

/// `--help`, of the program and of each command.
fn help() -> Result<ExitCode, Problem> {
    io::stdout().write_all(USAGE.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A number of bytes, as an option has it.
fn bytes(option: &str, text: &str) -> Result<u64, lexopt::Error> {
    const UNITS: [(&str, u64); 7] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("K", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("", 1),
    ];
    UNITS
        .iter()
        .find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)))
        .and_then(|(number, size)| number.parse::<u64>().ok()?.checked_mul(*size))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| {
            let message = format!(
                "{option} {text}: not a size; bytes, or a number with K, M, G, Ki, Mi or Gi, as 512Mi"
            );
            lexopt::Error::from(message)
        })
}

fn run(mut parser: lexopt::Parser) -> Result<ExitCode, Problem> {
    let mut options = run::Options {
        program: OsString::new(),
        args: Vec::new(),
        rootfs: None,
        device: "/dev/kvm".to_owned(),
        memory: RUN_MEMORY,
        trace: false,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("rootfs") => options.rootfs = Some(PathBuf::from(parser.value()?)),
            Long("memory") => options.memory = bytes("--memory", &parser.value()?.string()?)?,
            Long("device") => options.device = parser.value()?.string()?,
            Long("trace") => options.trace = true,
            Value(program) => {
                options.program = program;
                options.args = parser.raw_args()?.collect();
                break;
            }
            Long("help") => return help(),
            other => return Err(other.unexpected().into()),
        }
    }
    if options.program.is_empty() {
        return Err(lexopt::Error::from("run: a program is missing".to_owned()).into());
    }
    match run::run(&options) {
        Err(error) => Err(Problem::Run(error)),
        Ok(never) => match never {},
    }
}

fn serve(mut parser: lexopt::Parser) -> Result<ExitCode, Problem> {
    let missing = |what: &str| lexopt::Error::from(format!("serve: {what} is missing"));
    let (mut bundle, mut socket) = (None, None);
    let mut options = serve::Options {
        bundle: PathBuf::new(),
        socket: PathBuf::new(),
        pool: 4,
        instances: 64,
        clones: serve::Clones::DEFAULT,
        ready_timeout: Duration::from_secs(30),
        log_limit: 1 << 20,
        output_limit: 16 << 20,
        cpu_limit: None,
        require: Vec::new(),
        device: "/dev/kvm".to_owned(),
        scratch: PathBuf::new(),
        snapshot: None,
        snapshot_age: None,
        probe: false,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("bundle") => bundle = Some(PathBuf::from(parser.value()?)),
            Long("socket") => socket = Some(PathBuf::from(parser.value()?)),
            Long("pool") => options.pool = parser.value()?.parse()?,
            Long("instances") => options.instances = parser.value()?.parse()?,
            Long("ready-timeout") => options.ready_timeout = Duration::from_millis(parser.value()?.parse()?),
            Long("log-limit") => options.log_limit = parser.value()?.parse()?,
            Long("output-limit") => options.output_limit = parser.value()?.parse()?,
            Long("clones") => {
                let name = parser.value()?.string()?;
                if !options.clones.set(&name) {
                    return Err(lexopt::Error::from(format!(
                        "serve: --clones {name} is not one of cold, populated, touched; threads, records, hybrid"
                    ))
                    .into());
                }
            }
            Long("device") => options.device = parser.value()?.string()?,
            Long("scratch") => options.scratch = PathBuf::from(parser.value()?),
            Long("snapshot") => options.snapshot = Some(PathBuf::from(parser.value()?)),
            Long("cpu-limit") => options.cpu_limit = Some(parser.value()?.parse()?),
            Long("require") => options
                .require
                .extend(parser.value()?.string()?.split(',').map(str::to_owned)),
            Long("probe") => options.probe = true,
            Long("snapshot-age") => options.snapshot_age = Some(parser.value()?.parse()?),
            Long("help") => return help(),
            other => return Err(other.unexpected().into()),
        }
    }
    options.bundle = bundle.ok_or_else(|| missing("--bundle"))?;
    options.socket = socket.ok_or_else(|| missing("--socket"))?;
    if options.scratch.as_os_str().is_empty() {
        options.scratch = options.socket.with_extension("scratch");
    }
    Ok(ExitCode::from(u8::try_from(serve::serve(options)).unwrap_or(1)))
}

fn doctor(mut parser: lexopt::Parser) -> Result<ExitCode, Problem> {
    let mut options = doctor::Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => options.json = true,
            Long("device") => options.device = PathBuf::from(parser.value()?),
            Long("help") => return help(),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(ExitCode::from(doctor::run(&options)?))
}

fn syscalls(mut parser: lexopt::Parser) -> Result<ExitCode, Problem> {
    let (mut json, mut bundle) = (false, None);
    let (mut ready_timeout, mut device) = (None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = true,
            Long("used-by") => bundle = Some(PathBuf::from(parser.value()?)),
            Long("ready-timeout") => ready_timeout = Some(Duration::from_millis(parser.value()?.parse()?)),
            Long("device") => device = Some(parser.value()?.string()?),
            Long("help") => return help(),
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(bundle) = bundle else {
        if ready_timeout.is_some() || device.is_some() {
            let message = "syscalls: --ready-timeout and --device go with --used-by BUNDLE";
            return Err(lexopt::Error::from(message.to_owned()).into());
        }
        crate::syscalls::print_table(json)?;
        return Ok(ExitCode::SUCCESS);
    };
    let options = used_by::Options {
        bundle,
        json,
        ready_timeout: ready_timeout.unwrap_or(Duration::from_secs(30)),
        device: device.unwrap_or_else(|| "/dev/kvm".to_owned()),
    };
    Ok(ExitCode::from(used_by::run(&options)))
}
