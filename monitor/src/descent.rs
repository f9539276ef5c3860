//! What a new process of an instance does first, and how it ends with the instance.
//!
//! A process must not outlive its instance, whatever the guest does and however the instance ends. Three things see to it:
//! `serve` kills what the kernel hands it when a first process has ended (`serve/orphans.rs`); each process asks the kernel
//! for a signal at the end of its parent, and ends when it finds that it has no parent among its kin any more, which
//! holds when `serve` itself was killed; and a pid namespace, where the node has one.
//!
//! What the first process holds for the call (its connection, the standard streams' other ends, its way to `serve`) is closed
//! here: it is not the child's.

use std::collections::BTreeSet;
use std::os::fd::RawFd;

use crate::errno::Errno;
use crate::fs::descriptors::EXECUTABLE;
use crate::process::Process;
use crate::signals::host::{self, STOP_SIGNAL};
use crate::sys;

/// In a child that has just been made, with `row` reserved for it by `parent`: takes its place among the processes of the
/// instance, or ends.
pub fn settle(process: &Process, row: usize, parent: i32) {
    let kin = &process.ledger.kin;
    if let Some(member) = &process.member {
        member.set_row(row);
    }
    kin.settle(row, sys::process_id());
    host::keep_stoppable();
    host::end_with_parent(kin, parent);
    if sys::set_parent_death_signal(STOP_SIGNAL).is_err() {
        crate::lifecycle::end_process(70);
    }
    // It may have ended before the signal was asked for.
    host::check_parent();
}

/// Closes the descriptors of the monitor that a forked process does not need.
///
/// Preconditions: the only thread; what owned the others is never dropped.
pub fn close_foreign(process: &Process, vm: &[RawFd]) {
    let mut kept: BTreeSet<RawFd> = process.files.descriptors().into_iter().collect();
    kept.extend([EXECUTABLE, process.device.descriptor()]);
    kept.extend(process.member.as_ref().map(|member| member.ledger));
    kept.extend(process.lock_sockets().descriptors());
    kept.extend(vm);
    for fd in process.files.monitor_descriptors() {
        if !kept.contains(&fd) {
            sys::close(fd);
        }
    }
}

/// The descriptors that must stay open over an exec of the monitor, or must not any more.
pub fn keep_over_exec(descriptors: &[RawFd], keep: bool) -> Result<(), Errno> {
    descriptors
        .iter()
        .try_for_each(|fd| sys::set_close_on_exec(fd, !keep))
}
