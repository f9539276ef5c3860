//! The monitor as a library: what the program `mayfly-monitor` runs, and what the fuzzers in `fuzz/` reach (`docs/architecture.md`).

/// Tells whoever reads the standard error, and goes on if nobody can: a guest may have put anything in its place, and the standard
/// library's macro of this name ends the process then.
macro_rules! eprintln {
    ($($told:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($told)*);
    }};
}

mod bundle;
mod cli;
mod clock;
mod contracts;
mod control;
mod descent;
mod doctor;
mod dormant;
mod errno;
mod fs;
mod guest;
mod host;
mod jail;
mod kin;
mod ledger;
mod lifecycle;
mod loader;
mod memory;
mod network;
mod pids;
mod process;
mod ready;
mod rlimits;
mod run;
mod serve;
mod signals;
mod snapshot;
mod storage;
mod sys;
mod syscalls;
mod task;
mod trace;
mod used_by;
mod vm;
mod working_set;

#[cfg(any(fuzzing, test))]
pub mod fuzzing;

/// The program, from its command line to its exit status.
pub fn main() -> std::process::ExitCode {
    cli::main()
}
