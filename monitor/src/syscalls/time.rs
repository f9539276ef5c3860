//! Time: the host's clocks, sleeps and interval timers.
#![allow(unsafe_code)]

use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::clock;
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::task::Task;

const AREA: &str = "time";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_clock_gettime, AREA, Level::Forwarded, clock_gettime, ""),
    entry(libc::SYS_clock_getres, AREA, Level::Forwarded, clock_getres, ""),
    entry(libc::SYS_clock_settime, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_clock_adjtime, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_settimeofday, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_adjtimex, AREA, Level::Refused, refuse, "EPERM"),
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
    entry(libc::SYS_getitimer, AREA, Level::Forwarded, getitimer, ""),
    entry(libc::SYS_setitimer, AREA, Level::Forwarded, setitimer, ""),
    entry(libc::SYS_alarm, AREA, Level::Forwarded, alarm, ""),
    entry(libc::SYS_times, AREA, Level::Forwarded, times, ""),
];

/// Seconds and a fraction, as timespec, timeval and half of an itimerval are laid out.
type Pair = [i64; 2];

fn local<T>(value: &mut T) -> u64 {
    std::ptr::from_mut(value) as u64
}

/// Implements clock_gettime(2): where the vDSO cannot answer.
fn clock_gettime(_: &mut Task, [clock, result, ..]: Args) -> SysResult {
    access::write(result, &clock::read(int(clock))?)?;
    Ok(0)
}

/// Implements clock_getres(2).
fn clock_getres(task: &mut Task, [clock, result, ..]: Args) -> SysResult {
    let mut resolution: Pair = [0; 2];
    // SAFETY: a local timespec.
    unsafe {
        task.host(
            libc::SYS_clock_getres,
            [clock, local(&mut resolution), 0, 0, 0, 0],
        )?
    };
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
    let mut wanted = if int(flags) & libc::TIMER_ABSTIME == 0 {
        task.time_left(wanted)
    } else {
        clock::to_host(int(clock), wanted)
    };
    let mut rest: Pair = [0; 2];
    let rest_address = local(&mut rest);
    // SAFETY: two local timespecs.
    let slept = unsafe {
        task.host(
            libc::SYS_clock_nanosleep,
            [clock, flags, local(&mut wanted), rest_address, 0, 0],
        )
    };
    if slept == Err(Errno::INTR) && left != 0 && int(flags) & libc::TIMER_ABSTIME == 0 {
        access::write(left, &rest)?;
    }
    slept
}

/// Implements getitimer(2).
fn getitimer(task: &mut Task, [which, result, ..]: Args) -> SysResult {
    let mut value: [Pair; 2] = [[0; 2]; 2];
    // SAFETY: a local itimerval.
    unsafe { task.host(libc::SYS_getitimer, [which, local(&mut value), 0, 0, 0, 0])? };
    access::write(result, &value)?;
    Ok(0)
}

/// Implements setitimer(2).
fn setitimer(task: &mut Task, [which, new, old, ..]: Args) -> SysResult {
    let mut wanted: [Pair; 2] = if new == 0 { [[0; 2]; 2] } else { access::read(new)? };
    let mut before: [Pair; 2] = [[0; 2]; 2];
    let before_address = local(&mut before);
    // SAFETY: two local itimervals.
    unsafe {
        task.host(
            libc::SYS_setitimer,
            [which, local(&mut wanted), before_address, 0, 0, 0],
        )?
    };
    if old != 0 {
        access::write(old, &before)?;
    }
    Ok(0)
}

/// Implements alarm(2).
fn alarm(task: &mut Task, [seconds, ..]: Args) -> SysResult {
    // SAFETY: no pointers.
    unsafe { task.host(libc::SYS_alarm, [seconds, 0, 0, 0, 0, 0]) }
}

/// Implements times(2).
fn times(task: &mut Task, [result, ..]: Args) -> SysResult {
    let mut value = [0i64; 4];
    // SAFETY: a local tms.
    let ticks = unsafe { task.host(libc::SYS_times, [local(&mut value), 0, 0, 0, 0, 0])? };
    if result != 0 {
        access::write(result, &value)?;
    }
    // The kernel counts from its start, in hundredths of a second.
    let ahead = clock::ahead(libc::CLOCK_MONOTONIC) / 10_000_000;
    Ok(ticks.wrapping_add_signed(ahead))
}
