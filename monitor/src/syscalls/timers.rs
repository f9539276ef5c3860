//! Timers of the process, and timers that are descriptors. They are the host's; `clock::timers` knows which, and of what clock.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::descriptors::{make, register};
use super::memory::int;
use super::signals::host_thread;
use super::{Args, Entry, Level, entry};
use crate::clock::timers::{Event, Setting, THREAD_ID};
use crate::clock::{Time, to_host};
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::guest_fd;
use crate::memory::access;
use crate::sys::calls::{input, output, value};
use crate::task::Task;

const AREA: &str = "timers";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_timer_create, AREA, Level::Emulated, timer_create, ""),
    entry(libc::SYS_timer_settime, AREA, Level::Emulated, timer_settime, ""),
    entry(libc::SYS_timer_gettime, AREA, Level::Emulated, timer_gettime, ""),
    entry(
        libc::SYS_timer_getoverrun,
        AREA,
        Level::Emulated,
        timer_getoverrun,
        "",
    ),
    entry(libc::SYS_timer_delete, AREA, Level::Emulated, timer_delete, ""),
    entry(libc::SYS_getitimer, AREA, Level::Forwarded, getitimer, ""),
    entry(libc::SYS_setitimer, AREA, Level::Forwarded, setitimer, ""),
    entry(libc::SYS_alarm, AREA, Level::Forwarded, alarm, ""),
    entry(
        libc::SYS_timerfd_create,
        AREA,
        Level::Forwarded,
        timerfd_create,
        "",
    ),
    entry(
        libc::SYS_timerfd_settime,
        AREA,
        Level::Forwarded,
        timerfd_settime,
        "",
    ),
    entry(
        libc::SYS_timerfd_gettime,
        AREA,
        Level::Forwarded,
        timerfd_gettime,
        "",
    ),
];

/// `struct sigevent`, as far as the kernel reads it.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SigEvent {
    value: u64,
    signal: i32,
    kind: i32,
    thread: i32,
    padding: [i32; 11],
}

/// Implements timer_create(2).
fn timer_create(task: &mut Task, [clock, event, result, ..]: Args) -> SysResult {
    let wanted: Option<SigEvent> = if event == 0 {
        None
    } else {
        Some(access::read(event)?)
    };
    let mut thread = 0;
    if let Some(wanted) = wanted.as_ref().filter(|wanted| wanted.kind == THREAD_ID) {
        let number = u64::from(wanted.thread.unsigned_abs());
        thread = int(host_thread(task, number).map_err(|_| Errno::INVAL)?);
    }
    let clock = super::time::host_clock(task, int(clock))?;
    let mut timers = task.process.lock_timers();
    let id = timers.create(
        clock,
        |id| match &wanted {
            Some(wanted) => Event {
                value: wanted.value,
                signal: wanted.signal,
                kind: wanted.kind,
                thread: wanted.thread,
            },
            None => Event {
                value: u64::from(id.unsigned_abs()),
                signal: libc::SIGALRM,
                kind: libc::SIGEV_SIGNAL,
                thread: 0,
            },
        },
        thread,
    )?;
    if let Err(errno) = access::write(result, &id) {
        timers.delete(id)?;
        return Err(errno);
    }
    Ok(0)
}

/// Implements timer_settime(2).
fn timer_settime(task: &mut Task, [id, flags, new, old, ..]: Args) -> SysResult {
    if new == 0 {
        return Err(Errno::INVAL);
    }
    let wanted: Setting = access::read(new)?;
    let before = task.process.lock_timers().set(int(id), int(flags), wanted)?;
    if old != 0 {
        access::write(old, &before)?;
    }
    Ok(0)
}

/// Implements timer_gettime(2).
fn timer_gettime(task: &mut Task, [id, result, ..]: Args) -> SysResult {
    let left = task.process.lock_timers().get(int(id))?;
    access::write(result, &left)?;
    Ok(0)
}

/// Implements timer_getoverrun(2).
fn timer_getoverrun(task: &mut Task, [id, ..]: Args) -> SysResult {
    task.process.lock_timers().overrun(int(id))
}

/// Implements timer_delete(2).
fn timer_delete(task: &mut Task, [id, ..]: Args) -> SysResult {
    task.process.lock_timers().delete(int(id)).map(|()| 0)
}

/// Implements getitimer(2).
fn getitimer(task: &mut Task, [which, result, ..]: Args) -> SysResult {
    let mut left: Setting = [[0; 2]; 2];
    task.call(libc::SYS_getitimer, [value(which), output(&mut left)])?;
    access::write(result, &left)?;
    Ok(0)
}

/// Implements setitimer(2).
fn setitimer(task: &mut Task, [which, new, old, ..]: Args) -> SysResult {
    let wanted: Setting = if new == 0 { [[0; 2]; 2] } else { access::read(new)? };
    let mut before: Setting = [[0; 2]; 2];
    let args = [value(which), input(&wanted), output(&mut before)];
    task.call(libc::SYS_setitimer, args)?;
    if old != 0 {
        access::write(old, &before)?;
    }
    Ok(0)
}

/// Implements alarm(2).
fn alarm(task: &mut Task, [seconds, ..]: Args) -> SysResult {
    task.plain(libc::SYS_alarm, [seconds, 0, 0, 0, 0, 0])
}

/// Implements timerfd_create(2).
fn timerfd_create(task: &mut Task, [clock, flags, ..]: Args) -> SysResult {
    let fd = make(task, libc::SYS_timerfd_create, [clock, flags, 0, 0, 0, 0])?;
    task.process.lock_timers().opened(int(fd), int(clock));
    Ok(fd)
}

/// Implements timerfd_settime(2).
fn timerfd_settime(task: &mut Task, [fd, flags, new, old, ..]: Args) -> SysResult {
    let [interval, mut first]: [Time; 2] = access::read(new)?;
    let mut before: Setting = [[0; 2]; 2];
    let fd = guest_fd(int(fd))?;
    if int(flags) & libc::TFD_TIMER_ABSTIME != 0 {
        first = to_host(task.process.lock_timers().clock(fd), first);
    }
    let wanted: Setting = [interval, first];
    let args = [
        value(register(fd)),
        value(flags),
        input(&wanted),
        output(&mut before),
    ];
    task.call(libc::SYS_timerfd_settime, args)?;
    if old != 0 {
        access::write(old, &before)?;
    }
    Ok(0)
}

/// Implements timerfd_gettime(2).
fn timerfd_gettime(task: &mut Task, [fd, result, ..]: Args) -> SysResult {
    let mut left: Setting = [[0; 2]; 2];
    let fd = register(guest_fd(int(fd))?);
    task.call(libc::SYS_timerfd_gettime, [value(fd), output(&mut left)])?;
    access::write(result, &left)?;
    Ok(0)
}
