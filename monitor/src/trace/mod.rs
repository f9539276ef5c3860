//! `run --trace`: what the guest asks for and what comes of it, one line a call, as strace(1) prints it.
//!
//! The beginning of a line is there before its call is made, so one that hangs or never returns is seen. All processes that come
//! of one `run` share a small file beside the descriptor that they print to: it says whose line has no end yet. Who prints meanwhile ends it by
//! `<unfinished ...>`, and its call comes back as `<... NAME resumed>`. A record lock on the file, which the kernel takes back from
//! who ends, keeps lines whole between processes; the lock of the standard error output, which a fork takes along, between threads.

mod kinds;
mod sets;
mod values;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use crate::errno::{Errno, SysResult};
use crate::fs::descriptors;
use crate::signals::host::Info;
use crate::sys::calls::{self, input, value};
use crate::syscalls::{self, Args, exec};
use crate::{signals, sys};

/// Its descriptors by their numbers, which stay open over an exec of the monitor.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Passed {
    state: RawFd,
    output: RawFd,
}

pub struct Tracer {
    state: OwnedFd,
    output: OwnedFd,
}

/// What the processes share.
struct State {
    /// Whose line has no end yet, 0 if nobody's.
    open: i32,
    /// There is, or was, more than one thread: lines name theirs.
    several: bool,
}

/// `struct flock` for the whole file.
fn whole(kind: i16) -> [u8; 32] {
    let mut lock = [0; 32];
    lock[..2].copy_from_slice(&kind.to_ne_bytes());
    lock
}

const WRITE_LOCK: i16 = 1;
const NO_LOCK: i16 = 2;

impl Tracer {
    /// Prints to what is the standard error output now, whatever the guest makes of it.
    pub fn begin() -> Result<Passed, Errno> {
        let state = exec::passed_on(&sys::memory_file(c"mayfly-trace")?)?;
        let output = sys::duplicate(&std::io::stderr(), descriptors::MONITOR_FD_FLOOR)?;
        sys::set_close_on_exec(&output, false)?;
        let passed = Passed {
            state: state.as_raw_fd(),
            output: output.as_raw_fd(),
        };
        // They are taken up by number, here and in each program that the guest executes.
        std::mem::forget((state, output));
        Ok(passed)
    }

    pub fn take_up(passed: Passed) -> Self {
        Self {
            state: descriptors::take_up(passed.state),
            output: descriptors::take_up(passed.output),
        }
    }

    /// A call is about to be made.
    pub fn enter(&self, thread: i32, number: u64, args: Args) {
        let (call, letters) = (signed(number), letters(number, args));
        let mut text = format!("{}({}", name(number), values::before(call, letters, args));
        let ends = matches!(call, libc::SYS_exit | libc::SYS_exit_group);
        if ends {
            let status = args[0] & 0xff;
            text.push_str(") = ?\n");
            self.print(|state| {
                let prefix = state.prefix(thread);
                state.interrupt(&format!("{prefix}{text}{prefix}+++ exited with {status} +++\n"))
            });
            return;
        }
        let forks = matches!(
            call,
            libc::SYS_clone | libc::SYS_clone3 | libc::SYS_fork | libc::SYS_vfork
        );
        self.print(|state| {
            let line = state.interrupt(&format!("{}{text}", state.prefix(thread)));
            state.open = thread;
            state.several |= forks;
            line
        });
    }

    /// A call has come back.
    pub fn leave(&self, thread: i32, number: u64, args: Args, result: &SysResult) {
        let (call, letters) = (signed(number), letters(number, args));
        let after = values::after(call, letters, args, result);
        let end = format!("{after}) = {}\n", values::outcome(call, args, result));
        self.print(|state| {
            if state.open == thread {
                state.open = 0;
                return end;
            }
            let prefix = state.prefix(thread);
            state.interrupt(&format!("{prefix}<... {} resumed>{end}", name(number)))
        });
    }

    /// The first program runs: the line that strace begins with.
    pub fn first(&self, path: &[u8], args: &[std::ffi::CString], variables: usize) {
        let args: Vec<_> = args
            .iter()
            .map(|arg| values::quoted(arg.as_bytes(), true))
            .collect();
        let (path, args) = (values::quoted(path, true), args.join(", "));
        self.print(|_| format!("execve({path}, [{args}], /* {variables} vars */) = 0\n"));
    }

    /// The program that the guest executed runs.
    pub fn executed(&self) {
        self.leave(
            sys::process_id(),
            libc::SYS_execve.cast_unsigned(),
            Args::default(),
            &Ok(0),
        );
    }

    /// A signal is about to reach the guest: its handler, or its end.
    pub fn signal(&self, thread: i32, signal: i32, info: &Info) {
        let told = siginfo(signal, info);
        let name = sets::signal(i64::from(signal));
        self.line(thread, &format!("--- {name} {{si_signo={name}, {told}}} ---"));
    }

    /// The process ends by a signal.
    pub fn killed(&self, thread: i32, signal: i32) {
        let name = sets::signal(i64::from(signal));
        self.line(thread, &format!("+++ killed by {name} +++"));
    }

    fn line(&self, thread: i32, text: &str) {
        self.print(|state| state.interrupt(&format!("{}{text}\n", state.prefix(thread))));
    }

    /// Prints what `compose` makes of the shared state, and nobody else meanwhile.
    fn print(&self, compose: impl FnOnce(&mut State) -> String) {
        let _threads = std::io::stderr().lock();
        self.lock(WRITE_LOCK);
        let mut words = [0; 8];
        // An empty file is the beginning.
        let _ = sys::read_at(&self.state, &mut words, 0);
        let [a, b, c, d, several, ..] = words;
        let mut state = State {
            open: i32::from_ne_bytes([a, b, c, d]),
            several: several != 0,
        };
        let text = compose(&mut state);
        words[..4].copy_from_slice(&state.open.to_ne_bytes());
        words[4] = u8::from(state.several);
        let _ = sys::write_at(&self.state, &words, 0);
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match sys::write(&self.output, rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // Who reads has seen enough.
                Err(_) => break,
            }
        }
        self.lock(NO_LOCK);
    }

    fn lock(&self, kind: i16) {
        let fd = u64::from(self.state.as_raw_fd().unsigned_abs());
        let command = u64::from(libc::F_SETLKW.unsigned_abs());
        let lock = whole(kind);
        while calls::direct(libc::SYS_fcntl, &mut [value(fd), value(command), input(&lock)])
            == Err(Errno::INTR)
        {}
    }
}

impl State {
    fn prefix(&self, thread: i32) -> String {
        if self.several {
            format!("[pid {thread}] ")
        } else {
            String::new()
        }
    }

    /// `text` on a line of its own.
    fn interrupt(&mut self, text: &str) -> String {
        match std::mem::take(&mut self.open) {
            0 => text.to_owned(),
            _ => format!(" <unfinished ...>\n{text}"),
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(-1)
}

fn name(number: u64) -> String {
    syscalls::name(number).map_or_else(|| format!("syscall_{number:#x}"), str::to_owned)
}

/// The letters of a call's arguments; six numbers for one that nobody knows.
fn letters(number: u64, args: Args) -> &'static str {
    let kinds = syscalls::place(number)
        .and_then(|at| kinds::KINDS.get(at))
        .map_or("XXXXXX", |(_, letters)| *letters);
    values::letters(signed(number), kinds, args)
}

/// What of a `siginfo_t` belongs to the signal and its code.
fn siginfo(signal: i32, info: &Info) -> String {
    let word = |at: usize| i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let code = word(8);
    let fault = matches!(
        signal,
        libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP
    );
    let named = sets::CODE
        .iter()
        .find(|(of, known, _)| (*of, *known) == (signal, code))
        .map(|(_, _, name)| *name)
        .or_else(|| sets::name(sets::ANY_CODE, i64::from(code)));
    let code_name = named.map_or_else(|| code.to_string(), str::to_owned);
    let mut address = [0; 8];
    address.copy_from_slice(&info[16..24]);
    let rest = if fault && code > 0 {
        format!("si_addr={}", values::pointer(u64::from_ne_bytes(address)))
    } else if signal == libc::SIGCHLD && code > 0 {
        let status = match code {
            libc::CLD_EXITED => word(24).to_string(),
            _ => sets::signal(i64::from(word(24))),
        };
        format!("si_pid={}, si_uid={}, si_status={status}", word(16), word(20))
    } else if code == -2 {
        format!("si_timerid={:#x}, si_overrun={}", word(16), word(20))
    } else if code <= 0 {
        format!("si_pid={}, si_uid={}", word(16), word(20))
    } else {
        return format!("si_code={code_name}");
    };
    format!("si_code={code_name}, {rest}")
}

/// The signals that end a process which has no handler for them, as far as the monitor's own handler can take their place: only so is
/// the end seen.
pub fn is_fatal(signal: usize) -> bool {
    let Ok(signal) = i32::try_from(signal) else {
        return false;
    };
    !matches!(
        signal,
        libc::SIGKILL
            | libc::SIGSTOP
            | libc::SIGCHLD
            | libc::SIGCONT
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
            | libc::SIGURG
            | libc::SIGWINCH
    ) && (1..32).contains(&signal)
}

/// Makes the ends by signals seen that the guest has not said anything of.
pub fn watch_signals(actions: &signals::Actions) {
    for (signal, action) in actions.iter().enumerate() {
        if action.handler == signals::SIG_DFL && is_fatal(signal) {
            // A signal that cannot have a handler is not among them.
            let _ = signals::host::install(signal, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::signatures;

    #[test]
    fn every_call_has_the_kinds_of_its_arguments() {
        let names: Vec<_> = syscalls::names::NAMES.iter().map(|(_, name)| *name).collect();
        let known: Vec<_> = kinds::KINDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(known, names);
        for (name, letters) in kinds::KINDS {
            assert!(letters.len() <= 6, "{name}");
            assert!(letters.chars().all(values::is_known), "{name}: {letters}");
        }
        // The fuzzer's list was made for itself: where it knows a call, it has as many arguments.
        for (name, letters) in kinds::KINDS {
            if let Some(other) = signatures::known(name) {
                assert_eq!(letters.len(), other.len(), "{name}: {letters} {other}");
            }
        }
    }

    #[test]
    fn what_cannot_be_told_by_bits_is_told_by_names() {
        let open = u64::from((libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC).unsigned_abs());
        let at = u64::from(libc::AT_FDCWD.cast_unsigned());
        let number = libc::SYS_openat.cast_unsigned();
        let args = [at, 0, open, 0o644, 0, 0];
        let shown = values::before(libc::SYS_openat, letters(number, args), args);
        assert_eq!(shown, "AT_FDCWD, NULL, O_RDWR|O_CREAT|O_CLOEXEC, 0644");
        let args = [at, 0, 0, 0o644, 0, 0];
        let shown = values::before(libc::SYS_openat, letters(number, args), args);
        assert_eq!(shown, "AT_FDCWD, NULL, O_RDONLY");
        let failed = values::outcome(libc::SYS_openat, args, &Err(Errno::NOENT));
        assert_eq!(failed, "-1 ENOENT (No such file or directory)");
        assert_eq!(
            values::outcome(libc::SYS_mmap, args, &Ok(0x7f00_0000)),
            "0x7f000000"
        );
        assert_eq!(
            values::quoted(b"a\n\"\x001\x00z\xff", false),
            r#""a\n\"\0001\0z\377"..."#
        );
    }
}
