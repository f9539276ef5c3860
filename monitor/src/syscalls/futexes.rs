//! Futexes: the host's, on the shifted address; and the lists of robust locks, which the monitor walks, because they hold
//! addresses of the guest.

use std::sync::Arc;

use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::dormant::Waking;
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::process::Process;
use crate::ready::Wait;
use crate::sys::calls::{self, Arg, input, value};
use crate::task::Task;

const AREA: &str = "threads";

pub const ENTRIES: &[Entry] = &[
    entry(
        libc::SYS_futex,
        AREA,
        Level::Forwarded,
        futex,
        "on the shifted address",
    ),
    entry(
        libc::SYS_set_robust_list,
        AREA,
        Level::Emulated,
        set_robust_list,
        "walked at the end of the thread",
    ),
    entry(
        libc::SYS_get_robust_list,
        AREA,
        Level::Emulated,
        get_robust_list,
        "the calling thread's",
    ),
];

/// Size of `struct robust_list_head`.
const HEAD: u64 = 24;
/// Most locks that the kernel looks at (ROBUST_LIST_LIMIT).
const LOCKS_MAX: usize = 2048;

/// Implements futex(2).
fn futex(task: &mut Task, [word, operation, number, timeout, second_word, value3]: Args) -> SysResult {
    const WAIT_BITSET: i32 = 9;
    const WAKE_BITSET: i32 = 10;
    const WAIT_REQUEUE_PI: i32 = 11;
    const LOCK_PI2: i32 = 13;
    let command = int(operation) & 0x7f;
    let waits = matches!(
        command,
        libc::FUTEX_WAIT | libc::FUTEX_LOCK_PI | WAIT_BITSET | WAIT_REQUEUE_PI | LOCK_PI2
    );
    let clock = if command == libc::FUTEX_LOCK_PI || int(operation) & libc::FUTEX_CLOCK_REALTIME != 0 {
        libc::CLOCK_REALTIME
    } else {
        libc::CLOCK_MONOTONIC
    };
    if waits && task.process.ready.is_awaited() {
        task.process.ready.before(&Wait::Futex(task.tid))?;
    }
    let limit: Option<[i64; 2]> = if waits && timeout != 0 {
        let limit = access::read(timeout)?;
        Some(if command == libc::FUTEX_WAIT {
            task.time_left(limit)
        } else {
            task.moment(clock, limit)
        })
    } else {
        None
    };
    if command > LOCK_PI2 || command == libc::FUTEX_FD {
        return Err(Errno::NOSYS);
    }
    let address = access::word(word)?;
    let needs_second = matches!(
        command,
        libc::FUTEX_REQUEUE
            | libc::FUTEX_CMP_REQUEUE
            | libc::FUTEX_WAKE_OP
            | WAIT_REQUEUE_PI
            | libc::FUTEX_CMP_REQUEUE_PI
    );
    let second = needs_second.then(|| access::word(second_word)).transpose()?;
    let host = |woken: u64| {
        let number = if woken > 0 { number - woken } else { number };
        let fourth = match &limit {
            Some(limit) => input(limit),
            None if waits => value(0),
            // A count for the requeue and wake-op commands.
            None => value(timeout),
        };
        let second = second.map_or(value(0), Arg::Guest);
        let args = [
            Arg::Guest(address),
            value(operation),
            value(number),
            fourth,
            second,
            value(value3),
        ];
        task.call(libc::SYS_futex, args)
    };
    let waking = match command {
        libc::FUTEX_WAKE | WAKE_BITSET => Waking::Some {
            word,
            most: u64::try_from(int(number)).unwrap_or(0).max(1),
            bits: if command == WAKE_BITSET { value3 } else { u64::MAX },
        },
        libc::FUTEX_REQUEUE | libc::FUTEX_CMP_REQUEUE | libc::FUTEX_CMP_REQUEUE_PI => Waking::All([word, 0]),
        libc::FUTEX_WAKE_OP => Waking::All([word, second_word]),
        _ => return host(0),
    };
    task.process.wake(&waking, host)
}

/// Implements set_robust_list(2).
fn set_robust_list(task: &mut Task, [head, length, ..]: Args) -> SysResult {
    if length != HEAD {
        return Err(Errno::INVAL);
    }
    task.robust_list = head;
    let mut threads = task.process.lock_threads();
    if let Some(own) = threads.iter_mut().find(|thread| thread.tid == task.tid) {
        own.robust_list = head;
    }
    Ok(0)
}

/// Implements get_robust_list(2) for the calling thread.
fn get_robust_list(task: &mut Task, [tid, head, length, ..]: Args) -> SysResult {
    if int(tid) != 0 && int(tid) != task.tid {
        super::signals::host_thread(task, tid)?;
        return Err(Errno::PERM);
    }
    access::write(length, &HEAD)?;
    access::write(head, &task.robust_list)?;
    Ok(0)
}

/// What the kernel does when a thread ends: each robust lock that it holds gets the mark of a dead owner, and one who waits
/// for it is woken. A list that cannot be read ends the walk.
pub fn give_up(task: &Task) {
    // A child that shares its parent's memory has no list of its own yet.
    if task.robust_list != 0 && !task.shared {
        let _ = walk(&task.process, task.tid, task.robust_list);
    }
}

/// The same for all threads, when the process ends: only other processes can learn of it, by memory that they share.
pub fn give_up_all(process: &Arc<Process>) {
    let lists: Vec<(i32, u64)> = process
        .lock_threads()
        .iter()
        .map(|thread| (thread.tid, thread.robust_list))
        .collect();
    for (tid, head) in lists.into_iter().filter(|(_, head)| *head != 0) {
        let _ = walk(process, tid, head);
    }
}

fn walk(process: &Arc<Process>, tid: i32, head: u64) -> Result<(), Errno> {
    let [first, offset, pending]: [u64; 3] = access::read(head)?;
    let mut at = first;
    for _ in 0..LOCKS_MAX {
        if at & !1 == head {
            break;
        }
        // Before the lock is given up: whoever takes it may change the list.
        let next: Result<u64, Errno> = access::read(at & !1);
        if at & !1 != pending & !1 {
            give_up_lock(process, tid, at, offset, false)?;
        }
        at = next?;
    }
    if pending & !1 != 0 {
        give_up_lock(process, tid, pending, offset, true)?;
    }
    Ok(())
}

/// `entry`: its lowest bit says that the lock inherits priority. `pending`: the thread ended while it took or gave it.
fn give_up_lock(
    process: &Arc<Process>,
    tid: i32,
    entry: u64,
    offset: u64,
    pending: bool,
) -> Result<(), Errno> {
    let address = (entry & !1).wrapping_add(offset);
    let inherits = entry & 1 != 0;
    loop {
        let word: u32 = access::read(address)?;
        if pending && !inherits && word == 0 {
            return wake_one(process, address);
        }
        if word & libc::FUTEX_TID_MASK != tid.unsigned_abs() {
            return Ok(());
        }
        let dead = word & libc::FUTEX_WAITERS | libc::FUTEX_OWNER_DIED;
        if access::exchange(address, word, dead)? == word {
            // Who waits for one that inherits is woken by the kernel when the host's thread ends.
            return if word & libc::FUTEX_WAITERS != 0 && !inherits {
                wake_one(process, address)
            } else {
                Ok(())
            };
        }
    }
}

/// Wakes one who waits at a word.
pub fn wake_one(process: &Arc<Process>, address: u64) -> Result<(), Errno> {
    let word = access::word(address)?;
    let one = Waking::Some {
        word: address,
        most: 1,
        bits: u64::MAX,
    };
    process.wake(&one, |_| {
        let wake = value(u64::from(libc::FUTEX_WAKE.unsigned_abs()));
        calls::direct(libc::SYS_futex, &mut [Arg::Guest(word), wake, value(1)])
    })?;
    Ok(())
}
