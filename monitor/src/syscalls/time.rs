//! Time: clocks and sleeps.

use super::descriptors::register;
use super::memory::int;
use super::signals::host_thread;
use super::{Args, Entry, Level, entry};
use crate::clock;
use crate::clock::timers::is_processor_time;
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::sys::calls::{input, output, value};
use crate::task::Task;

const AREA: &str = "time";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_clock_gettime, AREA, Level::Forwarded, clock_gettime, ""),
    entry(libc::SYS_clock_getres, AREA, Level::Forwarded, clock_getres, ""),
    entry(libc::SYS_clock_settime, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_settimeofday, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_gettimeofday, AREA, Level::Emulated, gettimeofday, ""),
    entry(libc::SYS_time, AREA, Level::Emulated, time, ""),
    entry(libc::SYS_nanosleep, AREA, Level::Forwarded, nanosleep, ""),
    entry(
        libc::SYS_clock_nanosleep,
        AREA,
        Level::Forwarded,
        clock_nanosleep,
        "",
    ),
    entry(libc::SYS_times, AREA, Level::Forwarded, times, ""),
];

/// Seconds and a fraction, as timespec, timeval and half of an itimerval are laid out.
type Pair = [i64; 2];

/// The host's number of a clock that counts processor time: a thread of a clone has another number there. Only the guest's own can be named.
pub fn host_clock(task: &Task, clock: i32) -> Result<i32, Errno> {
    const PER_THREAD: i32 = 4;
    const DESCRIPTOR: i32 = 3;
    const PROCESS_TIME: i32 = 2;
    if clock >= 0 {
        return Ok(clock);
    }
    let number = !(clock >> 3);
    if clock & 7 == DESCRIPTOR {
        return Err(Errno::INVAL);
    }
    if clock & PER_THREAD != 0 && number != 0 {
        let number = u64::from(number.unsigned_abs());
        let thread = host_thread(task, number).map_err(|_| Errno::INVAL)?;
        return Ok(!int(thread) << 3 | clock & 7);
    }
    // Of another process the host would tell, too.
    let own = number == 0 || crate::pids::is_own(number);
    if own && clock & 7 == PROCESS_TIME {
        return Ok(libc::CLOCK_PROCESS_CPUTIME_ID);
    }
    if own {
        // The number that the guest knows may not be the host's.
        Ok(!0 << 3 | clock & 7)
    } else if !task.process.contained {
        Ok(clock)
    } else {
        Err(Errno::INVAL)
    }
}

/// Implements clock_gettime(2): where the vDSO cannot answer.
fn clock_gettime(task: &mut Task, [clock, result, ..]: Args) -> SysResult {
    let clock = host_clock(task, int(clock))?;
    access::write(result, &clock::read(clock)?)?;
    Ok(0)
}

/// Implements clock_getres(2).
fn clock_getres(task: &mut Task, [clock, result, ..]: Args) -> SysResult {
    let mut resolution: Pair = [0; 2];
    let clock = register(host_clock(task, int(clock))?);
    task.call(libc::SYS_clock_getres, [value(clock), output(&mut resolution)])?;
    if result != 0 {
        access::write(result, &resolution)?;
    }
    Ok(0)
}

/// Implements clock_settime(2) and its relatives without the privilege.
fn refuse(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::PERM)
}

/// Implements gettimeofday(2); the zone is UTC.
fn gettimeofday(_: &mut Task, [result, zone, ..]: Args) -> SysResult {
    let now = clock::read(libc::CLOCK_REALTIME)?;
    if result != 0 {
        access::write(result, &[now[0], now[1] / 1000])?;
    }
    if zone != 0 {
        access::write(zone, &0u64)?;
    }
    Ok(0)
}

/// Implements time(2).
fn time(_: &mut Task, [result, ..]: Args) -> SysResult {
    let [now, _] = clock::read(libc::CLOCK_REALTIME)?;
    if result != 0 {
        access::write(result, &now)?;
    }
    Ok(now.cast_unsigned())
}

/// Implements nanosleep(2).
fn nanosleep(task: &mut Task, [wanted, left, ..]: Args) -> SysResult {
    clock_nanosleep(
        task,
        [libc::CLOCK_MONOTONIC.unsigned_abs().into(), 0, wanted, left, 0, 0],
    )
}

/// Implements clock_nanosleep(2).
fn clock_nanosleep(task: &mut Task, [clock, flags, wanted, left, ..]: Args) -> SysResult {
    let wanted: Pair = access::read(wanted)?;
    let clock = register(host_clock(task, int(clock))?);
    let wanted = if is_processor_time(int(clock)) {
        wanted
    } else if int(flags) & libc::TIMER_ABSTIME == 0 {
        task.time_left(wanted)
    } else {
        task.moment(int(clock), wanted)
    };
    let mut rest: Pair = [0; 2];
    let args = [value(clock), value(flags), input(&wanted), output(&mut rest)];
    let slept = task.call(libc::SYS_clock_nanosleep, args);
    if slept == Err(Errno::INTR) && left != 0 && int(flags) & libc::TIMER_ABSTIME == 0 {
        access::write(left, &rest)?;
    }
    slept
}

/// Implements times(2). What it returns counts from some moment in the past: the one from which monotonic time counts.
fn times(task: &mut Task, [result, ..]: Args) -> SysResult {
    let mut ticks = [0i64; 4];
    task.call(libc::SYS_times, [output(&mut ticks)])?;
    for (place, used) in ticks.iter_mut().zip(clock::used()) {
        *place = used / 10_000_000;
    }
    if result != 0 {
        access::write(result, &ticks)?;
    }
    let [seconds, fraction] = clock::read(libc::CLOCK_MONOTONIC)?;
    Ok((seconds * 100 + fraction / 10_000_000).cast_unsigned())
}
