//! Rest, and the ways a guest process ends.
//!
//! Rest is one state of all threads: each has its registers in `Process::threads` and touches nothing. It is what a snapshot
//! is taken from, and what a parked instance is in. The first thread to come leads: it stops the others, does what the
//! process was made for (`Plan`), and then lets all go on.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use crate::control::Cause;
use crate::errno::Errno;
use crate::process::{Process, Thread};
use crate::signals::host::{self, STOP_SIGNAL, STOPPING};
use crate::sys::{self, processes};
use crate::task::{Task, TaskState};

/// What the leader does while all threads rest. It may end the process; if it returns, all threads go on.
pub type Plan = Box<dyn FnOnce(&Process, Vec<TaskState>) + Send>;
/// What happens when the guest exits by itself: given its exit status, before the process ends.
pub type Exit = Box<dyn FnOnce(&Process, i32) + Send>;

/// See `Process::set_at_end`.
pub type AtEnd = Box<dyn FnOnce(&Process) + Send>;
/// The moment of readiness may come in a child of this process from now on: a thread of the monitor waits for it, and does
/// here what the leader would have done.
pub fn guard_readiness(process: &Arc<Process>) -> Result<(), Errno> {
    if !process.needs_guard() {
        return Ok(());
    }
    let process = process.clone();
    crate::contracts::spawn("readiness", move || {
        process.ledger.kin.await_ready();
        if let Some(plan) = process.take_plan() {
            plan(&process, Vec::new());
        }
    })?;
    Ok(())
}

/// Stops the threads that `runs` names, and waits until it names none. `list` is the process's, locked before and after.
pub fn stop<'a>(
    process: &'a Process,
    mut list: MutexGuard<'a, Vec<Thread>>,
    runs: impl Fn(&Thread) -> bool,
) -> MutexGuard<'a, Vec<Thread>> {
    STOPPING.store(true, Ordering::Release);
    while list.iter().any(&runs) {
        for thread in list.iter().filter(|thread| runs(thread)) {
            sys::signal_thread(thread.host_tid, STOP_SIGNAL);
        }
        // A signal may come just before a thread blocks: tell it again until it has stopped.
        (list, _) = process
            .threads
            .changed
            .wait_timeout(list, Duration::from_millis(1))
            .unwrap_or_else(PoisonError::into_inner);
    }
    STOPPING.store(false, Ordering::Release);
    list
}

/// Keeps `state` and waits, or leads.
pub fn rest(task: &Task, state: TaskState) {
    let process = &task.process;
    let mut list = process.lock_threads();
    if let Some(own) = list.iter_mut().find(|thread| thread.tid == task.tid) {
        own.rested = Some(state);
    }
    process.threads.changed.notify_all();
    let leads = process
        .resting
        .compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire)
        .is_ok();
    if !leads {
        drop(list);
        process.await_release();
        return;
    }
    list = stop(process, list, |thread| thread.at_rest().is_none());
    let states: Vec<TaskState> = list
        .iter()
        .filter_map(|thread| thread.at_rest().cloned())
        .collect();
    drop(list);
    // With other processes, all of them go on while the call is awaited: a thread of the first one's waits for it.
    let plan = if process.kin().is_none_or(|kin| kin.others() == 0) {
        process.take_plan()
    } else {
        None
    };
    match (plan, process.kin()) {
        (Some(plan), _) => plan(process, states),
        (None, Some(kin)) => kin.announce_ready(),
        (None, None) => {}
    }
    process.release();
}

/// The guest closed the call's connection: the response is complete.
pub fn connection_closed(process: &Process, fd: i32) -> ! {
    if process.is_first() {
        process.run_at_end();
    }
    // The parent holds the connection too: only this tells the caller that the response ended.
    sys::shutdown(&fd);
    process.ledger.end(Cause::Closed, None, "");
    if !process.is_first() {
        end_instance(process);
    }
    end_process(0)
}

/// A process that is not the first ends: the rest of the instance goes on, unless the call's connection ends with it.
pub fn leave(process: &Process) {
    let Some(member) = &process.member else { return };
    process.ledger.kin.commit(member.row(), 0);
    if process.lets_go() {
        end_instance(process);
    }
}

/// The response is complete, and not by the first process's doing: ends that one, and so all.
pub fn end_instance(process: &Process) {
    process.ledger.end(Cause::Closed, None, "");
    let _ = sys::kill(process.ledger.kin.main(), libc::SIGKILL);
}

/// The guest called exit_group(2).
pub fn exit(process: &Process, status: i32) -> ! {
    let status = status & 0xff;
    if !process.is_first() {
        leave(process);
        end_process(status)
    }
    process.run_at_end();
    if let Some(exit) = process.take_exit() {
        exit(process, status);
    }
    process.ledger.end(Cause::Exited, Some(status), "");
    end_process(status)
}

/// Ends this process at once, without destructors: the kernel takes everything back.
pub fn end_process(status: i32) -> ! {
    processes::end(status)
}

/// Ends this process by a signal, so that whoever waits for it sees what happened.
pub fn die_by(signal: i32) -> ! {
    let _ = processes::set_limit(libc::RLIMIT_CORE, [0, 0]);
    processes::reset_signal(signal, false);
    host::set_mask(0);
    sys::signal_thread(sys::thread_id(), signal);
    processes::end(128 + signal)
}
