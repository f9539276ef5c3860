//! A call that computes long yields to those that do not: beyond its first milliseconds of processor time it runs at the lowest priority.
//!
//! On a machine with idle processors that changes nothing; on a busy one short calls, and the processes that carry them, keep their time
//! beside a greedy instance, and long calls share what is left. The first thread, and what it starts from then on, gets the policy for
//! idle processors; the threads that there are already, which nobody here can list, the lowest niceness by their group, which the
//! instance's first process leads and cannot leave. Processes that a guest makes are idle from their start, since making one costs as much
//! as such a call.
//!
//! Priorities are compared within a scheduling group: where the kernel makes one of each session (autogroups, sched(7)), and nobody has
//! put Mayfly into a group of its own (a cgroup with the controller `cpu`: a systemd slice, a pod), they tell nothing. `doctor` says so.

use std::time::{Duration, Instant};

use super::offspring::Child;
use super::parent::Parent;
use crate::sys::processes;

/// Processor time that every call has at the ordinary priority.
const FREE: Duration = Duration::from_millis(10);
/// A call that mostly waits is looked at each time its age has doubled, and at least this often.
const SELDOM: Duration = Duration::from_secs(1);

/// What is watched of a call.
pub(super) struct Look {
    /// Processor time that the process had used before it.
    before: Duration,
    pub(super) next: Instant,
}

impl Look {
    /// From the moment it was accepted. Nothing if the process has ended already.
    pub(super) fn begin(pid: i32, accepted: Instant) -> Option<Self> {
        let before = processes::processor_time(pid).ok()?;
        Some(Self {
            before,
            next: accepted + FREE,
        })
    }
}

impl Child {
    /// When the processor time of its call is looked at next.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let call = self.call.as_ref().filter(|_| self.killed.is_none())?;
        call.look.as_ref().map(|look| look.next)
    }

    fn look(&mut self, now: Instant) {
        let Some(call) = &mut self.call else { return };
        let Some(look) = &mut call.look else { return };
        // The child was not reaped, so the number is its own; what has ended needs no more looks.
        let Ok(used) = processes::processor_time(self.pid) else {
            call.look = None;
            return;
        };
        if let Some(left) = FREE.checked_sub(used.saturating_sub(look.before))
            && !left.is_zero()
        {
            let age = now.saturating_duration_since(call.accepted);
            look.next = now + left.max(age).min(SELDOM);
            return;
        }
        call.look = None;
        self.ledger.set_yielding();
        // They fail only for what has ended.
        let _ = processes::make_idle(self.pid);
        let _ = processes::lower_group(self.pid);
    }
}

impl Parent {
    /// Lowers the priority of what has computed long.
    pub(super) fn make_way(&mut self) {
        let now = Instant::now();
        for child in self.children.values_mut() {
            if child.look_at().is_some_and(|at| at <= now) {
                child.look(now);
            }
        }
    }
}
