//! Children for tests: what a jail does to a process is seen from outside.
#![allow(unsafe_code)]

use std::os::raw::c_long;

/// How a forked child ended: its wait status.
#[derive(Debug)]
pub struct Child(i32);

impl Child {
    /// Forks, does `act` in the child, and waits. The child exits with 0, or with 101 if `act` panics.
    pub fn run(act: impl FnOnce()) -> Self {
        // SAFETY: the child has one thread, the C library makes its allocator usable after fork, and it leaves by _exit.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            // As in `serve`: no descriptor that is closed has this number.
            if crate::sys::closes_on_exec(&crate::fs::descriptors::EXECUTABLE).is_err() {
                crate::fs::descriptors::open_executable().unwrap();
            }
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
            // SAFETY: does not return.
            unsafe { libc::_exit(if done.is_ok() { 0 } else { 101 }) };
        }
        let mut status = 0;
        // SAFETY: a live status word.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        Self(status)
    }

    pub fn exited_with(&self, status: i32) -> bool {
        libc::WIFEXITED(self.0) && libc::WEXITSTATUS(self.0) == status
    }

    pub fn killed_by(&self, signal: i32) -> bool {
        libc::WIFSIGNALED(self.0) && libc::WTERMSIG(self.0) == signal
    }
}

/// Makes a system call with the arguments given, whatever they are.
pub fn raw(call: c_long, args: [u64; 6]) -> c_long {
    let [a, b, c, d, e, f] = args;
    // SAFETY: tests pass arguments that are wrong or harmless for the calls they name.
    unsafe { libc::syscall(call, a, b, c, d, e, f) }
}

pub fn die_by_sigsys() {
    let own = u64::from(std::process::id());
    raw(
        libc::SYS_tgkill,
        [own, own, u64::from(libc::SIGSYS.unsigned_abs()), 0, 0, 0],
    );
}
