//! The guest's clocks.
//!
//! Realtime is the host's. The clocks that begin with the machine (monotonic, raw, boottime) are the host's moved by a constant, so that in a
//! clone they go on from the moment of the snapshot; times that the guest gives are moved back before the host sees them.
//!
//! The guest reads the clocks in its vDSO (`page`), from the time-stamp counter and a line through it that the monitor draws anew whenever
//! the guest has left the machine for more than a millisecond. The guest's system calls read the same line, so that what both tell never
//! goes back. The line is never behind the host's clock when it is drawn, so a timer of the host does not end before its time is told. Behind
//! `HORIZON` the vDSO asks by system call: a guest that only computes is corrected then.

mod page;
pub mod settling;
pub mod timers;
pub mod waiting;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub use self::page::vdso;
use self::page::{Content, ticks};
use crate::errno::Errno;
use crate::sys;
use crate::vm::vcpu::Vcpu;

/// How long a line may be used, nanoseconds. Two clocks of one host differ by at most 500 ppm (adjtimex(2)): half a millisecond by then.
const HORIZON: u64 = 1_000_000_000;
/// From this age on it is drawn anew when the guest has left the machine, nanoseconds.
const FRESH: u64 = 1_000_000;
/// From this distance on two readings of the host's clock give its rate better than the kernel's own figure does, nanoseconds.
const BASELINE: i64 = 10_000_000;
const SECOND: i64 = 1_000_000_000;

/// `struct timespec`.
pub type Time = [i64; 2];

/// The counter and the host's monotonic clock at one moment, nanoseconds.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
struct Moment {
    tick: u64,
    monotonic: i64,
}

struct Line {
    /// Whether the guest's counter is the host's, and steady.
    usable: bool,
    /// An early moment, for the rate.
    anchor: Moment,
    /// Nanoseconds a tick with 32 bits of fraction: the kernel's figure.
    nominal: u64,
    /// Where the line begins, and its rate; a tick of 0: there is none yet.
    start: Moment,
    rate: u64,
    /// What realtime and boottime are ahead of the host's monotonic clock.
    realtime: i64,
    boottime: i64,
}

static LINE: Mutex<Line> = Mutex::new(Line {
    usable: false,
    anchor: Moment {
        tick: 0,
        monotonic: 0,
    },
    nominal: 0,
    start: Moment {
        tick: 0,
        monotonic: 0,
    },
    rate: 0,
    realtime: 0,
    boottime: 0,
});
/// The counter when the line was drawn, and the ticks after which it is not fresh.
static DRAWN: AtomicU64 = AtomicU64::new(0);
static FRESH_TICKS: AtomicU64 = AtomicU64::new(u64::MAX);
/// What the guest's monotonic, raw, boottime and processor clocks are ahead of the host's, nanoseconds; and its times of user and system.
static AHEAD: [AtomicI64; 4] = [const { AtomicI64::new(0) }; 4];
static USED: [AtomicI64; 2] = [const { AtomicI64::new(0) }; 2];

/// The clocks of a guest that do not belong to the host, at one moment: in a clone they go on from here. Nanoseconds.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct Frozen {
    monotonic: i64,
    raw: i64,
    boottime: i64,
    /// Of the processors, and in it of user and system: the clone is the same program, and its time does not go back.
    processor: i64,
    used: [i64; 2],
}

impl Frozen {
    /// How long ago that was, nanoseconds.
    pub fn since(&self) -> i64 {
        let now = read(libc::CLOCK_MONOTONIC).map_or(self.monotonic, nanoseconds);
        now - self.monotonic
    }
}

/// What an exec hands on.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct Handover {
    ahead: [i64; 4],
    used: [i64; 2],
    usable: bool,
    anchor: Moment,
}

fn line() -> MutexGuard<'static, Line> {
    LINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held over a fork, so that the child finds a whole line.
pub struct Held {
    _line: MutexGuard<'static, Line>,
}

pub fn hold() -> Held {
    Held { _line: line() }
}

/// The index in `AHEAD` of a clock that does not go on with the host's, but from a snapshot.
fn own(clock: i32) -> Option<usize> {
    match clock {
        libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_COARSE => Some(0),
        libc::CLOCK_MONOTONIC_RAW => Some(1),
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => Some(2),
        libc::CLOCK_PROCESS_CPUTIME_ID => Some(3),
        _ => None,
    }
}

/// Nanoseconds by which the guest's `clock` is ahead of the host's.
pub fn ahead(clock: i32) -> i64 {
    own(clock).map_or(0, |clock| AHEAD[clock].load(Ordering::Relaxed))
}

fn all<const COUNT: usize>(places: &[AtomicI64; COUNT]) -> [i64; COUNT] {
    std::array::from_fn(|place| places[place].load(Ordering::Relaxed))
}

fn set<const COUNT: usize>(places: &[AtomicI64; COUNT], values: [i64; COUNT]) {
    for (place, value) in places.iter().zip(values) {
        place.store(value, Ordering::Relaxed);
    }
}

/// The process's times of user and system, nanoseconds, as the guest counts them.
pub fn used() -> [i64; 2] {
    let [user, system] = sys::used().map(nanoseconds);
    let [user_ahead, system_ahead] = all(&USED);
    [user + user_ahead, system + system_ahead]
}

/// In the child of a fork, which has used no processor yet.
pub fn forked() {
    AHEAD[3].store(0, Ordering::Relaxed);
    set(&USED, [0; 2]);
}

pub fn nanoseconds(time: Time) -> i64 {
    time[0].saturating_mul(SECOND).saturating_add(time[1])
}

pub fn time(nanoseconds: i64) -> Time {
    [nanoseconds.div_euclid(SECOND), nanoseconds.rem_euclid(SECOND)]
}

/// A moment of the guest's `clock` as the host counts it. What is no time stays as it is: the host refuses it.
pub fn to_host(clock: i32, at: Time) -> Time {
    let ahead = ahead(clock);
    // 0 is no moment but the end of a timer.
    if ahead == 0 || at == [0, 0] || at[0] < 0 || !(0..SECOND).contains(&at[1]) {
        return at;
    }
    // A moment before the host's own beginning has passed, as its first has. One that no number of nanoseconds reaches never comes.
    time(nanoseconds(at).saturating_sub(ahead).max(1))
}

fn host(clock: i32) -> Result<i64, Errno> {
    sys::clock(clock).map(nanoseconds)
}

// ---------------------------------------------------------------------- the line

/// Looks at the machine's clock source, while /sys is in reach.
pub fn observe() {
    let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let mut line = line();
    // What the kernel itself tells the time from is steady, and the same on all processors.
    line.usable = source.is_ok_and(|source| source.trim() == "tsc");
    line.anchor = now();
}

/// The counter just before the host's clock was read.
fn now() -> Moment {
    let mut best = (u64::MAX, Moment::default());
    for _ in 0..4 {
        let tick = ticks();
        let monotonic = host(libc::CLOCK_MONOTONIC).unwrap_or(0);
        let took = ticks().wrapping_sub(tick);
        if took < best.0 {
            best = (took, Moment { tick, monotonic });
        }
    }
    best.1
}

/// `ticks` as nanoseconds.
fn scale(ticks: u64, rate: u64) -> i64 {
    i64::try_from((u128::from(ticks) * u128::from(rate)) >> 32).unwrap_or(i64::MAX)
}

/// Begins to tell the time on the page of this process, if a vCPU's counter is the host's.
///
/// Preconditions: the vCPU has not run and its registers are not set yet.
pub fn begin(vcpu: &mut Vcpu) {
    if line().usable {
        let reading = Reading::take(|| vcpu.counter());
        begin_with(vcpu, &reading);
    } else {
        begin_with(vcpu, &Reading::default());
    }
}

/// What a vCPU's counter said, and what the host's said before and after.
#[derive(Default)]
pub struct Reading {
    before: u64,
    inside: Option<u64>,
    after: u64,
}

impl Reading {
    pub fn take(read: impl FnOnce() -> Option<u64>) -> Self {
        let before = ticks();
        let inside = read();
        Self {
            before,
            inside,
            after: ticks(),
        }
    }
}

/// As `begin`, with a reading of its counter.
pub fn begin_with(vcpu: &Vcpu, reading: &Reading) {
    let mut line = line();
    line.start = Moment::default();
    FRESH_TICKS.store(u64::MAX, Ordering::Relaxed);
    if !line.usable {
        return;
    }
    let kilohertz = vcpu.counter_kilohertz().filter(|kilohertz| *kilohertz > 0);
    match (reading.inside, kilohertz) {
        (Some(inside), Some(kilohertz)) if (reading.before..=reading.after).contains(&inside) => {
            line.nominal = (1_000_000 << 32) / kilohertz;
            FRESH_TICKS.store(FRESH * kilohertz / 1_000_000, Ordering::Relaxed);
            line.draw();
        }
        _ => line.usable = false,
    }
}

/// Draws the line anew if it is not fresh: to be called before the guest is entered.
pub fn keep_fresh() {
    let age = ticks().wrapping_sub(DRAWN.load(Ordering::Relaxed));
    if age > FRESH_TICKS.load(Ordering::Relaxed)
        && let Ok(mut line) = LINE.try_lock()
    {
        line.draw();
    }
}

impl Line {
    /// What the line says at `tick`, in the host's monotonic time; `None` when it has not begun.
    fn told(&self, tick: u64) -> Option<i64> {
        let reach = (u128::from(HORIZON) << 32) / u128::from(self.nominal.max(1));
        let passed = tick
            .saturating_sub(self.start.tick)
            .min(u64::try_from(reach).unwrap_or(u64::MAX));
        (self.start.tick != 0).then(|| self.start.monotonic + scale(passed, self.rate))
    }

    /// The rate that the host's clock had since the anchor.
    fn measured(&mut self, now: Moment) -> u64 {
        let passed = now.monotonic - self.anchor.monotonic;
        let ticks = now.tick.wrapping_sub(self.anchor.tick);
        if passed < BASELINE || ticks == 0 {
            return self.nominal;
        }
        let rate = (u128::from(passed.unsigned_abs()) << 32) / u128::from(ticks);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        if rate.abs_diff(self.nominal) > self.nominal / 1000 {
            // One of the two stood still meanwhile: the machine slept.
            self.anchor = now;
            return self.nominal;
        }
        rate
    }

    fn draw(&mut self) {
        let first = self.start.tick == 0;
        let now = now();
        let rate = self.measured(now);
        for (clock, offset) in [
            (libc::CLOCK_REALTIME, &mut self.realtime),
            (libc::CLOCK_BOOTTIME, &mut self.boottime),
        ] {
            let before = host(libc::CLOCK_MONOTONIC).unwrap_or(0);
            let other = host(clock).unwrap_or(0);
            let after = host(libc::CLOCK_MONOTONIC).unwrap_or(0);
            // The offset is the same until somebody sets the clock: it changes only if it must.
            let (least, most) = (other - after, other - before.min(after));
            *offset = if first { most } else { (*offset).clamp(least, most) };
        }
        let resolution = sys::clock_resolution(libc::CLOCK_MONOTONIC).map_or(0, nanoseconds);
        let ahead = all(&AHEAD);
        page::page().publish(|| {
            let tick = ticks();
            let host = now.monotonic + scale(tick.saturating_sub(now.tick), rate);
            let told = self.told(tick).unwrap_or(host);
            self.start = Moment {
                tick,
                monotonic: host.max(told),
            };
            // What the line is ahead of the host's clock it loses until the horizon.
            let lead = u64::try_from(told - host).unwrap_or(0).min(HORIZON / 2);
            self.rate =
                rate - u64::try_from(u128::from(rate) * u128::from(lead) / u128::from(HORIZON)).unwrap_or(0);
            Content {
                start: tick,
                horizon: u64::try_from((u128::from(HORIZON) << 32) / u128::from(self.nominal.max(1)))
                    .unwrap_or(0),
                rate: self.rate,
                monotonic: self.start.monotonic + ahead[0],
                resolution: resolution.unsigned_abs(),
                realtime: self.realtime - ahead[0],
                boottime: self.boottime + ahead[2] - ahead[0],
            }
        });
        DRAWN.store(self.start.tick, Ordering::Relaxed);
    }
}

/// What the guest's clock says; clocks that are not told on the page the host is asked for.
pub fn read(clock: i32) -> Result<Time, Errno> {
    let told = u32::try_from(clock).is_ok_and(|clock| clock < 8 && page::ANSWERED >> clock & 1 != 0);
    let mut line = line();
    if told && line.usable && line.start.tick != 0 {
        let tick = ticks();
        if tick.wrapping_sub(line.start.tick) > FRESH_TICKS.load(Ordering::Relaxed) {
            line.draw();
        }
        if let Some(monotonic) = line.told(ticks()) {
            let offset = match clock {
                libc::CLOCK_REALTIME => line.realtime,
                libc::CLOCK_BOOTTIME => line.boottime,
                _ => 0,
            };
            return Ok(time(monotonic + offset + ahead(clock)));
        }
    }
    drop(line);
    Ok(time(host(clock)? + ahead(clock)))
}

// ---------------------------------------------------------------------- snapshots and exec

/// The clocks as they stand.
pub fn freeze() -> Frozen {
    let read = |clock| read(clock).map_or(0, nanoseconds);
    Frozen {
        monotonic: read(libc::CLOCK_MONOTONIC),
        raw: read(libc::CLOCK_MONOTONIC_RAW),
        boottime: read(libc::CLOCK_BOOTTIME),
        processor: read(libc::CLOCK_PROCESS_CPUTIME_ID),
        used: used(),
    }
}

/// Lets the clocks go on from `frozen`.
///
/// Preconditions: no guest of this process has read them.
pub fn thaw(frozen: &Frozen) {
    let mut line = line();
    for (place, (clock, value)) in AHEAD.iter().zip([
        (libc::CLOCK_MONOTONIC, frozen.monotonic),
        (libc::CLOCK_MONOTONIC_RAW, frozen.raw),
        (libc::CLOCK_BOOTTIME, frozen.boottime),
        (libc::CLOCK_PROCESS_CPUTIME_ID, frozen.processor),
    ]) {
        place.store(value.saturating_sub(host(clock).unwrap_or(0)), Ordering::Relaxed);
    }
    let [user, system] = sys::used().map(nanoseconds);
    set(&USED, [frozen.used[0] - user, frozen.used[1] - system]);
    if line.start.tick != 0 {
        line.draw();
    }
}

/// What the program that takes this one's place goes on with.
pub fn hand_over() -> Handover {
    let line = line();
    Handover {
        ahead: all(&AHEAD),
        used: all(&USED),
        usable: line.usable,
        anchor: line.anchor,
    }
}

pub fn take_over(handover: &Handover) {
    let mut line = line();
    line.usable = handover.usable;
    line.anchor = handover.anchor;
    set(&AHEAD, handover.ahead);
    set(&USED, handover.used);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_normal() {
        assert_eq!(time(-1), [-1, 999_999_999]);
        assert_eq!(nanoseconds(time(1_234_567_890_123)), 1_234_567_890_123);
        assert_eq!(nanoseconds([i64::MAX, 999_999_999]), i64::MAX);
    }

    #[test]
    fn what_is_no_time_is_left_to_the_host() {
        assert_eq!(to_host(libc::CLOCK_MONOTONIC, [-1, 0]), [-1, 0]);
        assert_eq!(to_host(libc::CLOCK_MONOTONIC, [0, SECOND]), [0, SECOND]);
        assert_eq!(to_host(libc::CLOCK_REALTIME, [5, 5]), [5, 5]);
    }
}
