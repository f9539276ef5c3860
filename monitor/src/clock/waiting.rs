//! Waits that end after a time.
//!
//! A stop of the monitor undoes the call in which a thread waits, and the thread makes it again when it goes on, perhaps in a clone much
//! later. What is left of its time by then is counted by the guest's clock: the end of the wait is kept with the thread.

use serde::{Deserialize, Serialize};

use super::timers::is_processor_time;
use super::{SECOND, Time, nanoseconds, read, time, to_host};
use crate::signals::host;
use crate::task::Task;

/// When a wait ends, by the guest's monotonic clock, nanoseconds; and which wait: a handler that runs before it goes on may wait, too.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Until {
    at: i64,
    instruction: u64,
    stack: u64,
}

impl Until {
    /// The time from now.
    pub fn left(&self) -> std::time::Duration {
        let now = read(libc::CLOCK_MONOTONIC).map_or(0, nanoseconds);
        std::time::Duration::from_nanos(u64::try_from(self.at.saturating_sub(now)).unwrap_or(0))
    }

    fn is_of(&self, task: &Task) -> bool {
        (self.instruction, self.stack) == (task.registers.rip, task.registers.rsp)
    }
}

impl Task {
    /// What is left of the time that the call in hand may wait: all of it, unless it is made again after a stop. To be called once a call.
    pub fn time_left(&self, wanted: Time) -> Time {
        let again = self.until.get().filter(|until| until.is_of(self));
        // Only a boot is ever stopped in a call.
        if again.is_none() && !self.process.ready.is_awaited()
            || wanted[0] < 0
            || !(0..SECOND).contains(&wanted[1])
        {
            return wanted;
        }
        let now = read(libc::CLOCK_MONOTONIC).map_or(0, nanoseconds);
        if let Some(until) = again {
            return time(until.at.saturating_sub(now).max(0));
        }
        self.waits_until(now.saturating_add(nanoseconds(wanted)));
        wanted
    }

    /// The moment of the guest's `clock` until which the call in hand may wait, as the host counts it.
    pub fn moment(&self, clock: i32, at: Time) -> Time {
        if self.process.ready.is_awaited() && !is_processor_time(clock) {
            let now = |clock| read(clock).map_or(0, nanoseconds);
            let left = nanoseconds(at).saturating_sub(now(clock));
            self.waits_until(now(libc::CLOCK_MONOTONIC).saturating_add(left));
        }
        to_host(clock, at)
    }

    fn waits_until(&self, at: i64) {
        self.until.set(Some(Until {
            at,
            instruction: self.registers.rip,
            stack: self.registers.rsp,
        }));
        self.process.ready.settling.waits(self.tid, at);
    }

    /// The call in hand is over, or will be made again.
    pub fn waited(&self, again: bool) {
        let Some(until) = self.until.get() else { return };
        self.process.ready.settling.waited(self.tid);
        let stopped = again && (host::pending() == host::STOP || self.process.ready.reached());
        if until.is_of(self) && !stopped {
            self.until.set(None);
        }
    }
}
