//! At the moment of readiness short timers may still run: what a program does a little later, once. Of a snapshot taken now every clone would do
//! it, before or within its call. So the moment is put off until those have ended that end within two seconds; what begins meanwhile is
//! not waited for, so that a program that looks around every half second is ready, too.
//!
//! Until then the threads wait as they want to. The one whose wait is the moment is made to call again by the monitor's stop signal when it
//! is over, and finds that the moment has come.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::{nanoseconds, read, time};
use crate::errno::Errno;
use crate::signals::host::{STOP_SIGNAL, STOPPING};
use crate::sys::calls::{self, input};

/// Timers that end within this time are waited for.
const SHORT: Duration = Duration::from_secs(2);

/// Gives the longest time, up to the one given, that a timer of the process still runs.
pub type Timers = Box<dyn Fn(Duration) -> Duration + Send + Sync>;

#[derive(Default)]
enum Stage {
    /// The moment has not come yet.
    #[default]
    Before,
    /// It has, and is put off. The host's number of the thread that met it last.
    Off(i32),
    Over,
}

#[derive(Default)]
pub struct Settling {
    /// Where a snapshot will be taken; elsewhere nothing is put off.
    timers: OnceLock<(Timers, Duration)>,
    stage: Mutex<Stage>,
    /// Ends of the waits of threads, by the guest's monotonic clock.
    waits: Mutex<HashMap<i32, i64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Settling {
    /// The moment may be put off, by `most` at most.
    pub fn allow(&self, timers: Timers, most: Duration) {
        // Said once, at the beginning of a boot.
        let _ = self.timers.set((timers, most.min(SHORT)));
    }

    /// A thread waits until `at`.
    pub fn waits(&self, tid: i32, at: i64) {
        lock(&self.waits).insert(tid, at);
    }

    pub fn waited(&self, tid: i32) {
        lock(&self.waits).remove(&tid);
    }

    /// How long something short will still run.
    fn left(&self) -> Duration {
        let Some((timers, most)) = self.timers.get() else {
            return Duration::ZERO;
        };
        let now = read(libc::CLOCK_MONOTONIC).map_or(0, nanoseconds);
        let waits = lock(&self.waits)
            .values()
            .map(|at| Duration::from_nanos(u64::try_from(at - now).unwrap_or(0)))
            .filter(|left| left <= most)
            .max();
        waits.unwrap_or_default().max(timers(*most))
    }

    /// Whether the moment that the calling thread meets is put off. `over` is called on another thread when it is not any more.
    pub fn puts_off(&self, over: impl FnOnce() + Send + 'static) -> bool {
        let mut stage = lock(&self.stage);
        let thread = crate::sys::thread_id();
        match *stage {
            Stage::Over => false,
            Stage::Off(_) => {
                *stage = Stage::Off(thread);
                true
            }
            Stage::Before => {
                let left = self.left();
                let waits = !left.is_zero()
                    && crate::contracts::spawn("settling", move || {
                        std::thread::sleep(left);
                        over();
                    })
                    .is_ok();
                *stage = if waits { Stage::Off(thread) } else { Stage::Over };
                waits
            }
        }
    }

    /// For a moment that is no wait: waits here. RESTART if a signal ended that.
    pub fn sit_out(&self) -> Result<(), Errno> {
        if !matches!(
            std::mem::replace(&mut *lock(&self.stage), Stage::Over),
            Stage::Before
        ) {
            return Ok(());
        }
        let left = i64::try_from(self.left().as_nanos()).unwrap_or(0);
        if left == 0 {
            return Ok(());
        }
        let wanted = time(left);
        let slept = calls::interruptible(libc::SYS_nanosleep, &mut [input(&wanted)]);
        slept.map(|_| ()).map_err(|_| Errno::RESTART)
    }

    /// From now on nothing is put off: the thread that met the moment meets it again.
    pub fn end(&self) {
        let mut stage = lock(&self.stage);
        if let Stage::Off(thread) = *stage {
            STOPPING.store(true, Ordering::Release);
            // If it comes before the thread waits, the wait does not begin.
            crate::sys::signal_thread(thread, STOP_SIGNAL);
        }
        *stage = Stage::Over;
    }
}
