//! The processes of one instance, as they know each other: a table in the memory they share with `serve`.
//!
//! A process reserves its row before it is made, so the rows bound how many there are, threads included, and what they
//! commit together. Whom the guest may signal or wait for is asked here, too. A row is given back by whoever learns of the
//! end first: the parent that waits for it, or anybody who finds that the process is not there any more.
//!
//! Nothing here is trusted outside of the instance: `serve` ends the processes by what the kernel says (`serve/orphans.rs`).

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use crate::errno::Errno;
use crate::sys::processes;

/// Processes and threads that an instance may have together.
pub const TASKS_MAX: u32 = 256;
const ROWS: usize = TASKS_MAX as usize;

const FREE: i32 = 0;
/// Reserved for a process that is being made.
const RESERVED: i32 = -1;

#[repr(C)]
struct Row {
    pid: AtomicI32,
    threads: AtomicU32,
    /// Bytes of memory that the process may make the node commit.
    committed: AtomicU64,
    /// Whether it has the call's connection open.
    holds: AtomicBool,
}

#[repr(C)]
pub struct Kin {
    rows: [Row; ROWS],
    /// Set at the end: no process is made any more.
    closed: AtomicBool,
    /// The number by which the program of a snapshot knows the first process, 0 if that is the host's.
    alias: AtomicI32,
    /// A futex: 1 once a process that is not alone came to the moment of readiness.
    ready: AtomicU32,
}

impl Kin {
    /// The first process takes its row, which is number 0.
    pub fn begin(&self, pid: i32) {
        self.rows[0].threads.store(1, Ordering::Relaxed);
        self.rows[0].pid.store(pid, Ordering::Release);
    }

    /// The id of the first process: its end is the instance's.
    pub fn main(&self) -> i32 {
        self.rows[0].pid.load(Ordering::Acquire)
    }

    /// The first process was known as `pid` where its snapshot was taken, and its program may have kept that.
    pub fn set_alias(&self, pid: i32) {
        self.alias.store(pid, Ordering::Release);
    }

    /// The process that the guest names, as the host knows it.
    pub fn find(&self, pid: i32) -> Option<i32> {
        if self.contains(pid) {
            Some(pid)
        } else {
            (pid > 0 && pid == self.alias.load(Ordering::Acquire)).then(|| self.main())
        }
    }

    /// What the guest calls a process of the host.
    pub fn named(&self, pid: i32) -> i32 {
        match self.alias.load(Ordering::Acquire) {
            alias if alias != 0 && pid == self.main() => alias,
            _ => pid,
        }
    }

    /// The instance ends: no process is made any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Reserves a row for a process with one thread; EAGAIN as fork(2) says it.
    pub fn reserve(&self) -> Result<usize, Errno> {
        if self.is_closed() {
            return Err(Errno::AGAIN);
        }
        for swept in [false, true] {
            let taken = self.rows.iter().position(|row| {
                row.pid
                    .compare_exchange(FREE, RESERVED, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            });
            if let Some(row) = taken {
                self.rows[row].threads.store(1, Ordering::Release);
                if self.tasks() <= TASKS_MAX {
                    return Ok(row);
                }
                self.free(row);
            }
            if !swept {
                self.sweep();
            }
        }
        Err(Errno::AGAIN)
    }

    /// The process of a reserved row exists now.
    pub fn settle(&self, row: usize, pid: i32) {
        self.rows[row].pid.store(pid, Ordering::Release);
    }

    /// Gives a row back.
    pub fn free(&self, row: usize) {
        let row = &self.rows[row];
        row.threads.store(0, Ordering::Relaxed);
        row.committed.store(0, Ordering::Relaxed);
        row.holds.store(false, Ordering::Relaxed);
        row.pid.store(FREE, Ordering::Release);
    }

    /// The process `pid` was waited for. True if the call's connection went with it.
    pub fn reaped(&self, pid: i32) -> bool {
        let Some(row) = self.row(pid) else { return false };
        let held = self.rows[row].holds.load(Ordering::Acquire);
        self.free(row);
        held && !self.is_held()
    }

    fn row(&self, pid: i32) -> Option<usize> {
        (pid > 0)
            .then(|| {
                self.rows
                    .iter()
                    .position(|row| row.pid.load(Ordering::Acquire) == pid)
            })
            .flatten()
    }

    /// Whether `pid` is a process of this instance.
    pub fn contains(&self, pid: i32) -> bool {
        self.row(pid).is_some()
    }

    /// The process group that the guest names.
    pub fn find_group(&self, group: i32) -> Option<i32> {
        let group = self.find(group).unwrap_or(group);
        self.pids()
            .into_iter()
            .any(|pid| processes::group(pid) == Ok(group))
            .then_some(group)
    }

    /// All processes.
    pub fn pids(&self) -> Vec<i32> {
        self.rows
            .iter()
            .map(|row| row.pid.load(Ordering::Acquire))
            .filter(|pid| *pid > 0)
            .collect()
    }

    /// How many processes there are beside the first.
    pub fn others(&self) -> usize {
        if self.rows[1..]
            .iter()
            .all(|row| row.pid.load(Ordering::Acquire) == FREE)
        {
            return 0;
        }
        self.sweep();
        self.rows[1..]
            .iter()
            .filter(|row| row.pid.load(Ordering::Acquire) != FREE)
            .count()
    }

    /// Frees the rows of processes that nobody will wait for any more: their parent ignores SIGCHLD.
    fn sweep(&self) {
        for (number, row) in self.rows.iter().enumerate().skip(1) {
            let pid = row.pid.load(Ordering::Acquire);
            // Signal 0 asks whether there is a process that this one may signal: others of the instance alone.
            if pid > 0 && crate::sys::kill(pid, 0).is_err() {
                self.free(number);
            }
        }
    }

    fn tasks(&self) -> u32 {
        self.rows
            .iter()
            .map(|row| row.threads.load(Ordering::Acquire))
            .sum()
    }

    /// EAGAIN when there may be no further thread.
    pub fn check_thread(&self) -> Result<(), Errno> {
        if self.tasks() < TASKS_MAX {
            return Ok(());
        }
        self.sweep();
        if self.tasks() < TASKS_MAX {
            Ok(())
        } else {
            Err(Errno::AGAIN)
        }
    }

    pub fn set_threads(&self, row: usize, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        self.rows[row].threads.store(count, Ordering::Release);
    }

    /// Notes what the process of `row` commits.
    pub fn commit(&self, row: usize, bytes: u64) {
        self.rows[row].committed.store(bytes, Ordering::Release);
    }

    /// Bytes that all processes commit.
    pub fn committed(&self) -> u64 {
        self.rows
            .iter()
            .map(|row| row.committed.load(Ordering::Acquire))
            .fold(0, u64::saturating_add)
    }

    /// Notes whether the process of `row` has the call's connection. True if now nobody has who had it before.
    pub fn hold(&self, row: usize, holds: bool) -> bool {
        self.rows[row].holds.swap(holds, Ordering::AcqRel) && !self.is_held()
    }

    fn is_held(&self) -> bool {
        self.rows.iter().any(|row| row.holds.load(Ordering::Acquire))
    }

    /// A process with kin came to the moment of readiness.
    pub fn announce_ready(&self) {
        self.ready.store(1, Ordering::Release);
        processes::wake_all(&self.ready);
    }

    /// Waits for `announce_ready` in any of the processes.
    pub fn await_ready(&self) {
        while self.ready.load(Ordering::Acquire) == 0 {
            processes::wait_for(&self.ready, 0);
        }
    }
}
