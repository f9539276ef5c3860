//! The numbers that the guest knows itself by.
//!
//! A clone keeps the process id that the program had when it was booted: CPython's event loop, Ruby's signal thread and others
//! remember it and stop working under another. Programs that hold OpenSSL's generator of random numbers are the exception: that generator
//! takes fresh randomness only when the id changes, so its calls get another number (`syscalls::threads::getpid`).

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::signals::host::Info;

/// One guest a host process. 0: the guest has the host's number.
static KNOWN: AtomicI32 = AtomicI32::new(0);

/// Whether the program is the one that was booted.
static SAME: AtomicBool = AtomicBool::new(true);

thread_local! {
    /// The number of this thread, likewise.
    static KNOWN_THREAD: Cell<i32> = const { Cell::new(0) };
}

/// The number of the host process.
pub fn host_pid() -> i32 {
    std::process::id().cast_signed()
}

/// The number that the guest knows.
pub fn pid() -> i32 {
    match KNOWN.load(Ordering::Relaxed) {
        0 => host_pid(),
        known => known,
    }
}

/// In a clone: keeps the number of the boot.
pub fn keep(pid: i32) {
    KNOWN.store(pid, Ordering::Relaxed);
}

/// In a clone: keeps the number of a thread.
pub fn keep_thread(tid: i32) {
    KNOWN_THREAD.set(tid);
}

/// Another program runs in the process, under the same number.
pub fn executed() {
    SAME.store(false, Ordering::Relaxed);
}

/// Whether the boot's program runs under the boot's number, so that its generators must learn that they are in a clone.
pub fn are_kept() -> bool {
    KNOWN.load(Ordering::Relaxed) != 0 && SAME.load(Ordering::Relaxed)
}

/// In the child of a fork: a process with numbers of its own.
pub fn forget() {
    KNOWN.store(0, Ordering::Relaxed);
    KNOWN_THREAD.set(0);
}

/// The number of the host thread.
pub fn host_tid() -> i32 {
    crate::sys::thread_id()
}

/// The number that the guest knows this thread by.
pub fn tid() -> i32 {
    match KNOWN_THREAD.get() {
        0 => host_tid(),
        known => known,
    }
}

/// A number that is not the one the guest knows.
pub fn another_pid() -> i32 {
    let (own, known) = (host_pid(), pid());
    if own == known { own ^ 1 } else { own }
}

/// Whether the guest means itself, by either number: the C library of a program that holds a generator asks for one and sends with it.
pub fn is_own(pid: i32) -> bool {
    pid == self::pid() || pid == another_pid()
}

/// In what the host says of a signal that the process sent itself, the sender as the guest knows it.
pub fn name_sender(info: &mut Info) {
    const CODE: usize = 8;
    const PID: usize = 16;
    let int = |at: usize| i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let by_a_process = matches!(int(CODE), libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL);
    if by_a_process && int(PID) == host_pid() {
        info[PID..PID + 4].copy_from_slice(&pid().to_ne_bytes());
    }
}
