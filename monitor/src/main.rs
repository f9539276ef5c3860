//! `mayfly-monitor`: runs one call of a function in its own KVM virtual machine (`docs/architecture.md`).

fn main() -> std::process::ExitCode {
    mayfly_monitor::main()
}
