//! The first process of the namespace that `serve` makes its children in.
//!
//! It mounts the namespace's /proc, gives up what `serve` gives up, and waits for the end of `serve`, with which it ends, and with it
//! all others: a pipe of which `serve` alone has the other end tells it. (The signal that a parent's end can send is of no use: landlock
//! lets a process that is confined send none to one that is not.) Orphans become its children and are reaped by the kernel.
#![allow(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use seccompiler::SeccompAction;

use super::super::program::{Rule, assemble};
use super::super::seccomp;
use super::privileges::{self, Ids};
use super::{EnclosureError, failed, tree};
use crate::errno::{Errno, from_libc};

/// The numbers of processes begin somewhere in this range, so that a program whose snapshot is older than this `serve` finds
/// another number than it had (OpenSSL and others draw new random state by that).
const NUMBERS: std::ops::Range<u16> = 300..30_000;

/// The process, and what it lives by.
#[derive(Debug)]
pub struct Init {
    pub pid: i32,
    /// To be closed in every child.
    pub life: OwnedFd,
}

/// Starts it.
///
/// Preconditions: one thread; the namespaces and the tree were entered. `of_node` is the node's /proc as a mount to be placed,
/// `proc` the same as a directory.
pub fn start(of_node: OwnedFd, proc: BorrowedFd<'_>, ids: Option<Ids>) -> Result<Init, EnclosureError> {
    let (mut told, tell) = std::io::pipe().map_err(|error| failed("pipe")(error.into()))?;
    let (hold, life) = std::io::pipe().map_err(|error| failed("pipe")(error.into()))?;
    // SAFETY: this process has one thread, so the child may go on as it was; it leaves by _exit.
    let pid = from_libc(unsafe { libc::fork() }).map_err(failed("fork"))?;
    if pid == 0 {
        drop(life);
        let Err(error) = run(of_node.as_fd(), proc, ids, &tell, hold.as_fd());
        let _ = (&tell).write_all(error.to_string().as_bytes());
        // SAFETY: does not return.
        unsafe { libc::_exit(1) };
    }
    drop(tell);
    let mut said = String::new();
    let read = told.read_to_string(&mut said);
    if read.is_err() || said != READY {
        eprintln!("mayfly-monitor: the init of the process namespace: {said}");
        return Err(failed("the init of the process namespace")(Errno::CHILD));
    }
    Ok(Init {
        pid: i32::try_from(pid).map_err(|_| failed("fork")(Errno::RANGE))?,
        life: life.into(),
    })
}

const READY: &str = "ready";

fn run(
    of_node: BorrowedFd<'_>,
    proc: BorrowedFd<'_>,
    ids: Option<Ids>,
    tell: &std::io::PipeWriter,
    hold: BorrowedFd<'_>,
) -> Result<std::convert::Infallible, EnclosureError> {
    tree::mount_proc(of_node).map_err(failed("mounting /proc"))?;
    // Where /proc/sys is read-only the numbers begin at 2.
    let _ = begin_numbers(proc);
    privileges::drop_all(ids)?;
    // SAFETY: no pointers but a C string.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"mayfly-init".as_ptr());
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        // Children are reaped by the kernel.
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        from_libc(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            .map_err(failed("PR_SET_NO_NEW_PRIVS"))?;
    }
    let allowed = |call: libc::c_long| {
        (
            u32::try_from(call).unwrap_or(u32::MAX),
            Rule::Always(SeccompAction::Allow),
        )
    };
    // Sorted by number.
    let calls = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_dup2,
        libc::SYS_exit_group,
    ]
    .map(allowed);
    let filter =
        assemble(&calls, &SeccompAction::KillProcess).map_err(|_| failed("seccomp")(Errno::INVAL))?;
    let mut byte = [0u8];
    // SAFETY: two pipes, a live string and a live byte with their lengths. Every other descriptor is given up, also those of Rust
    // owners: nothing of them runs any more.
    unsafe {
        from_libc(libc::dup2(hold.as_raw_fd(), 0)).map_err(failed("dup2"))?;
        from_libc(libc::dup2(tell.as_raw_fd(), 1)).map_err(failed("dup2"))?;
        libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0);
        seccomp::install(&filter).map_err(|_| failed("seccomp")(Errno::INVAL))?;
        libc::write(1, READY.as_ptr().cast(), READY.len());
        libc::dup2(0, 1);
        // Nothing is ever written there.
        libc::read(0, byte.as_mut_ptr().cast(), 1);
        libc::_exit(0)
    }
}

/// Makes the next number a random one.
fn begin_numbers(proc: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut random = [0u8; 2];
    // SAFETY: a local buffer with its length.
    unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
    let number = NUMBERS.start + u16::from_ne_bytes(random) % (NUMBERS.end - NUMBERS.start);
    let path = format!("/proc/self/fd/{}/sys/kernel/ns_last_pid", proc.as_raw_fd());
    fs::write(path, number.to_string())
}
