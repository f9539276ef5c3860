//! Timers: of the process (timer_create(2), setitimer(2)) and behind descriptors (timerfd_create(2)), and how a clone is given them.
//!
//! All are the host's. A snapshot keeps what is left of the time of each; in a clone it begins to run when the guest does. A timer for a moment
//! of realtime keeps that moment. The guest's numbers of its timers are kept here, because the host gives a clone others.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Frozen, Time, nanoseconds, own, read, time};
use crate::errno::{Errno, from_libc};
use crate::signals::host;
use crate::snapshot::SnapshotError;

/// Most timers of a process: the kernel counts them with the signals of the user, who is the same for all instances.
const TIMERS_MAX: usize = 1024;
/// A request of timerfd, from <linux/timerfd.h>: how often it has expired.
pub const SET_TICKS: libc::c_ulong = 0x4008_5400;

/// `struct itimerspec`: interval, then value.
pub type Setting = [Time; 2];

/// A timer that runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Armed {
    /// Nanoseconds left, and between expirations.
    After { left: i64, interval: i64 },
    /// At a moment of its clock, which is not one that stands still for a snapshot.
    At { moment: i64, interval: i64 },
}

impl Armed {
    /// What a timer that has this setting now will do from the moment at which the clocks stood still.
    fn new(
        clock: i32,
        absolute: bool,
        [interval, left]: Setting,
        stop: &Frozen,
    ) -> Result<Option<Self>, Errno> {
        if left == [0, 0] {
            return Ok(None);
        }
        let (left, interval) = (nanoseconds(left), nanoseconds(interval));
        let host_clock = own(clock).is_none() && !is_processor_time(clock);
        Ok(Some(if absolute && host_clock {
            let now = nanoseconds(read(told_by(clock))?);
            Self::At {
                moment: now.saturating_add(left),
                interval,
            }
        } else {
            let since = if is_processor_time(clock) { 0 } else { stop.since() };
            Self::After {
                left: left.saturating_add(since),
                interval,
            }
        }))
    }

    /// The flags and the setting with which a call of the host makes it run.
    fn setting(self) -> (i32, Setting) {
        match self {
            Self::After { left, interval } => (0, [time(interval), time(left.max(1))]),
            Self::At { moment, interval } => (libc::TIMER_ABSTIME, [time(interval), time(moment.max(1))]),
        }
    }
}

/// The clock that says the time of a timer's clock.
fn told_by(clock: i32) -> i32 {
    match clock {
        libc::CLOCK_REALTIME_ALARM => libc::CLOCK_REALTIME,
        clock => clock,
    }
}

/// Whether a clock counts the time of processors.
pub fn is_processor_time(clock: i32) -> bool {
    clock < 0 || clock == libc::CLOCK_PROCESS_CPUTIME_ID || clock == libc::CLOCK_THREAD_CPUTIME_ID
}

/// How a timer tells that it has expired (`struct sigevent`).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Event {
    pub value: u64,
    pub signal: i32,
    pub kind: i32,
    /// The guest's number of the thread that is told.
    pub thread: i32,
}

/// `SIGEV_THREAD_ID`.
pub const THREAD_ID: i32 = 4;

struct Timer {
    host: i32,
    clock: i32,
    event: Event,
    /// Whether it was last set for a moment.
    absolute: bool,
}

/// The timers of a process, by the guest's numbers.
#[derive(Default)]
pub struct Timers {
    timers: BTreeMap<i32, Timer>,
    /// Clocks of the descriptors. One that came through a socket is not here, and taken for one of monotonic time.
    descriptors: HashMap<i32, i32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct TimerState {
    id: i32,
    clock: i32,
    event: Event,
    armed: Option<Armed>,
}

/// What a snapshot keeps of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TimersState {
    timers: Vec<TimerState>,
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
    intervals: [Option<Armed>; 3],
}

fn settime(host: i32, flags: i32, setting: &Setting) -> Result<Setting, Errno> {
    let mut before: Setting = [[0; 2]; 2];
    // SAFETY: two live itimerspecs; the kernel knows the numbers of this process's timers.
    let done = unsafe {
        libc::syscall(
            libc::SYS_timer_settime,
            host,
            flags,
            std::ptr::from_ref(setting),
            &raw mut before,
        )
    };
    from_libc(done).map(|_| before)
}

fn gettime(host: i32) -> Result<Setting, Errno> {
    let mut setting: Setting = [[0; 2]; 2];
    // SAFETY: a live itimerspec.
    from_libc(unsafe { libc::syscall(libc::SYS_timer_gettime, host, &raw mut setting) })?;
    Ok(setting)
}

/// `struct sigevent`, as far as the kernel reads it.
#[repr(C)]
struct HostEvent {
    value: u64,
    signal: i32,
    kind: i32,
    thread: i32,
    padding: [i32; 11],
}

fn create(clock: i32, event: Event, host_thread: i32) -> Result<i32, Errno> {
    let event = HostEvent {
        value: event.value,
        signal: event.signal,
        kind: event.kind,
        thread: host_thread,
        padding: [0; 11],
    };
    let mut id = 0i32;
    // SAFETY: a live sigevent and a live number.
    from_libc(unsafe { libc::syscall(libc::SYS_timer_create, clock, &raw const event, &raw mut id) })?;
    Ok(id)
}

impl Timers {
    fn host(&self, id: i32) -> Result<i32, Errno> {
        Ok(self.timers.get(&id).ok_or(Errno::INVAL)?.host)
    }

    /// Makes a timer; `event` is given its number, for a guest that asks for none of its own. Gives the number.
    pub fn create(
        &mut self,
        clock: i32,
        event: impl FnOnce(i32) -> Event,
        host_thread: i32,
    ) -> Result<i32, Errno> {
        if self.timers.len() >= TIMERS_MAX {
            return Err(Errno::AGAIN);
        }
        let id = (0..)
            .find(|id| !self.timers.contains_key(id))
            .ok_or(Errno::AGAIN)?;
        let event = event(id);
        let host = create(clock, event, host_thread)?;
        self.timers.insert(
            id,
            Timer {
                host,
                clock,
                event,
                absolute: false,
            },
        );
        Ok(id)
    }

    /// Sets a timer, for a moment of the guest's clock or a time from now; gives the setting of before.
    pub fn set(&mut self, id: i32, flags: i32, setting: Setting) -> Result<Setting, Errno> {
        let timer = self.timers.get_mut(&id).ok_or(Errno::INVAL)?;
        let absolute = flags & libc::TIMER_ABSTIME != 0;
        let [interval, value] = setting;
        let value = if absolute {
            super::to_host(timer.clock, value)
        } else {
            value
        };
        let before = settime(timer.host, flags, &[interval, value])?;
        timer.absolute = absolute;
        Ok(before)
    }

    pub fn get(&self, id: i32) -> Result<Setting, Errno> {
        gettime(self.host(id)?)
    }

    pub fn overrun(&self, id: i32) -> Result<u64, Errno> {
        let host = self.host(id)?;
        // SAFETY: no pointers.
        from_libc(unsafe { libc::syscall(libc::SYS_timer_getoverrun, host) })
    }

    pub fn delete(&mut self, id: i32) -> Result<(), Errno> {
        let host = self.host(id)?;
        // SAFETY: no pointers.
        from_libc(unsafe { libc::syscall(libc::SYS_timer_delete, host) })?;
        self.timers.remove(&id);
        Ok(())
    }

    /// Puts the guest's number of a timer in place of the host's, where a signal says it.
    pub fn rename(&self, info: &mut host::Info) {
        const SI_TIMER: i32 = -2;
        let word = |at: usize| i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        if word(8) != SI_TIMER {
            return;
        }
        let host = word(16);
        if let Some((id, _)) = self.timers.iter().find(|(_, timer)| timer.host == host) {
            info[16..20].copy_from_slice(&id.to_ne_bytes());
        }
    }

    /// In the child of a fork, which has no timers of its parent's; descriptors it has.
    pub fn forked(&mut self) {
        self.timers.clear();
    }

    /// Another program runs in this process: timers by number are gone (execve(2)).
    pub fn executed(&mut self) {
        let known: Vec<i32> = self.timers.keys().copied().collect();
        for id in known {
            // It is there.
            let _ = self.delete(id);
        }
    }

    // ------------------------------------------------------------------ descriptors

    /// `fd` is a timer of `clock`.
    pub fn opened(&mut self, fd: i32, clock: i32) {
        self.descriptors.insert(fd, clock);
    }

    pub fn duplicated(&mut self, old: i32, new: i32) {
        if let Some(clock) = self.descriptors.get(&old).copied() {
            self.descriptors.insert(new, clock);
        }
    }

    pub fn closing(&mut self, fd: i32) {
        self.descriptors.remove(&fd);
    }

    /// The clock of a descriptor that is a timer.
    pub fn clock(&self, fd: i32) -> i32 {
        self.descriptors
            .get(&fd)
            .copied()
            .unwrap_or(libc::CLOCK_MONOTONIC)
    }

    /// The longest time, up to `most`, that a timer still runs which does not count the time of processors.
    pub fn longest(&self, most: Duration) -> Duration {
        let process = self
            .timers
            .values()
            .filter(|timer| !is_processor_time(timer.clock))
            .filter_map(|timer| gettime(timer.host).ok());
        let descriptors = self.descriptors.keys().filter_map(|fd| descriptor_time(*fd).ok());
        let interval = interval_timer(libc::ITIMER_REAL).ok().into_iter();
        let interval =
            interval.map(|[every, [seconds, microseconds]]| [every, [seconds, microseconds * 1000]]);
        process
            .chain(descriptors)
            .chain(interval)
            .map(|[_, left]| Duration::from_nanos(u64::try_from(nanoseconds(left)).unwrap_or(0)))
            .filter(|left| *left <= most)
            .max()
            .unwrap_or_default()
    }

    // ------------------------------------------------------------------ snapshots

    /// What is left of each timer at `stop`.
    pub fn state(&self, stop: &Frozen) -> Result<TimersState, SnapshotError> {
        let failed = crate::snapshot::failed("timers");
        let mut timers = Vec::new();
        for (id, timer) in &self.timers {
            let armed =
                gettime(timer.host).and_then(|left| Armed::new(timer.clock, timer.absolute, left, stop));
            if timer.clock == libc::CLOCK_THREAD_CPUTIME_ID || timer.clock < 0 {
                return Err(SnapshotError::Refused(format!(
                    "timer {id} counts the processor time of one thread or process (timer_create)"
                )));
            }
            timers.push(TimerState {
                id: *id,
                clock: timer.clock,
                event: timer.event,
                armed: armed.map_err(&failed)?,
            });
        }
        let mut intervals = [None; 3];
        for (which, place) in (0..).zip(&mut intervals) {
            let [interval, [seconds, microseconds]] = interval_timer(which).map_err(&failed)?;
            let setting = [[interval[0], interval[1] * 1000], [seconds, microseconds * 1000]];
            let clock = if which == libc::ITIMER_REAL {
                libc::CLOCK_MONOTONIC
            } else {
                libc::CLOCK_PROCESS_CPUTIME_ID
            };
            *place = Armed::new(clock, false, setting, stop).map_err(&failed)?;
        }
        Ok(TimersState { timers, intervals })
    }

    /// Makes the timers of `state` and lets them run. `host_thread` gives the host's number of a thread of the guest.
    ///
    /// Preconditions: the guest has made none.
    pub fn resume(
        &mut self,
        state: &TimersState,
        host_thread: impl Fn(i32) -> Result<i32, Errno>,
    ) -> Result<(), Errno> {
        for timer in &state.timers {
            let thread = if timer.event.kind == THREAD_ID {
                host_thread(timer.event.thread)?
            } else {
                0
            };
            let host = create(timer.clock, timer.event, thread)?;
            let armed = timer.armed.map(Armed::setting);
            if let Some((flags, setting)) = armed {
                settime(host, flags, &setting)?;
            }
            self.timers.insert(
                timer.id,
                Timer {
                    host,
                    clock: timer.clock,
                    event: timer.event,
                    absolute: armed.is_some_and(|(flags, _)| flags != 0),
                },
            );
        }
        for (which, armed) in (0..).zip(&state.intervals) {
            if let Some(Armed::After { left, interval }) = armed {
                set_interval_timer(which, *left, *interval)?;
            }
        }
        Ok(())
    }
}

/// timerfd_gettime(2).
fn descriptor_time(fd: i32) -> Result<Setting, Errno> {
    let mut setting: Setting = [[0; 2]; 2];
    // SAFETY: a live itimerspec.
    from_libc(unsafe { libc::syscall(libc::SYS_timerfd_gettime, fd, &raw mut setting) })?;
    Ok(setting)
}

/// getitimer(2): interval and value, in seconds and microseconds.
fn interval_timer(which: i32) -> Result<Setting, Errno> {
    let mut setting: Setting = [[0; 2]; 2];
    // SAFETY: a live itimerval.
    from_libc(unsafe { libc::syscall(libc::SYS_getitimer, which, &raw mut setting) })?;
    Ok(setting)
}

fn set_interval_timer(which: i32, left: i64, interval: i64) -> Result<(), Errno> {
    let microseconds = |nanoseconds: i64| {
        let [seconds, fraction] = time(nanoseconds);
        [seconds, fraction / 1000]
    };
    let setting: Setting = [microseconds(interval), microseconds(left.max(1000))];
    // SAFETY: a live itimerval.
    from_libc(unsafe { libc::syscall(libc::SYS_setitimer, which, &raw const setting, 0) }).map(|_| ())
}

// ---------------------------------------------------------------------- timers behind descriptors

/// What a snapshot keeps of a descriptor that is a timer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Descriptor {
    pub clock: i32,
    pub armed: Option<Armed>,
    /// How often it has expired and nobody has read it.
    pub ticks: u64,
}

impl Descriptor {
    /// The timer `fd` as it was at `stop`. `fields` gives what the kernel says of it (proc_pid_fdinfo(5)), by name.
    pub fn observe(
        fd: i32,
        stop: &Frozen,
        fields: impl Fn(i32, &str) -> Option<String>,
    ) -> Result<Self, String> {
        // Counts what has expired, and winds a periodic timer up again: to be asked before the kernel's own words.
        let setting =
            descriptor_time(fd).map_err(|errno| format!("a timerfd that cannot be asked: {errno}"))?;
        let number = |name: &str| {
            let text = fields(fd, name)?;
            let digits = text.strip_prefix('0').filter(|rest| !rest.is_empty());
            match digits {
                // Flags are shown in octal.
                Some(octal) => u64::from_str_radix(octal, 8).ok(),
                None => text.parse().ok(),
            }
        };
        let unknown = || "a timerfd of which the kernel says too little".to_owned();
        let clock = number("clockid").and_then(|clock| i32::try_from(clock).ok());
        let clock = clock.ok_or_else(unknown)?;
        let flags = number("settime flags").ok_or_else(unknown)?;
        let absolute = flags & u64::from(libc::TFD_TIMER_ABSTIME.unsigned_abs()) != 0;
        let found = Self {
            clock,
            armed: Armed::new(clock, absolute, setting, stop)
                .map_err(|errno| format!("a timerfd whose clock cannot be read: {errno}"))?,
            ticks: number("ticks").ok_or_else(unknown)?,
        };
        if found.ticks > 0 && set_ticks(fd, found.ticks).is_err() {
            return Err(
                "a timerfd that has expired and was not read: this kernel cannot make another so \
                 (CONFIG_CHECKPOINT_RESTORE)"
                    .to_owned(),
            );
        }
        Ok(found)
    }

    /// Lets the timer `fd`, made of the same clock, run on.
    pub fn resume(&self, fd: i32) -> Result<(), Errno> {
        if let Some((flags, setting)) = self.armed.map(Armed::setting) {
            // SAFETY: a live itimerspec.
            from_libc(unsafe { libc::syscall(libc::SYS_timerfd_settime, fd, flags, &raw const setting, 0) })?;
        }
        if self.ticks > 0 {
            set_ticks(fd, self.ticks)?;
        }
        Ok(())
    }
}

fn set_ticks(fd: i32, ticks: u64) -> Result<(), Errno> {
    // SAFETY: a live number of eight bytes.
    from_libc(unsafe { libc::ioctl(fd, SET_TICKS, &raw const ticks) }).map(|_| ())
}
