//! `mayfly-monitor`: runs one call of a function in its own KVM virtual machine (`docs/architecture.md`).

mod bundle;
mod cli;
mod clock;
mod contracts;
mod control;
mod doctor;
mod dormant;
mod errno;
mod fs;
mod guest;
mod host;
mod jail;
mod ledger;
mod lifecycle;
mod loader;
mod memory;
mod network;
mod process;
mod ready;
mod run;
mod serve;
mod signals;
mod snapshot;
mod storage;
mod sys;
mod syscalls;
mod task;
mod vm;
mod working_set;

fn main() -> std::process::ExitCode {
    cli::main()
}
