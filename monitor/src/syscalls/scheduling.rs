//! Scheduling: affinity, policies, niceness, barriers.
//!
//! A guest thread is a host thread, so the host answers. In an instance a thread changes itself alone, and only to less:
//! what would take time from others is refused as to a user without privilege.

use super::memory::int;
use super::signals::host_thread;
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::sys::calls::{input, output, value};
use crate::task::Task;

const AREA: &str = "threads";
const OTHERS: &str = "without effect on other threads in an instance";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_sched_yield, AREA, Level::Forwarded, sched_yield, ""),
    entry(
        libc::SYS_sched_getaffinity,
        AREA,
        Level::Forwarded,
        sched_getaffinity,
        "the host's CPUs",
    ),
    entry(
        libc::SYS_sched_setaffinity,
        AREA,
        Level::Forwarded,
        sched_setaffinity,
        OTHERS,
    ),
    entry(
        libc::SYS_sched_getscheduler,
        AREA,
        Level::Forwarded,
        sched_getscheduler,
        "",
    ),
    entry(
        libc::SYS_sched_setscheduler,
        AREA,
        Level::Forwarded,
        sched_setscheduler,
        "real-time policies: EPERM",
    ),
    entry(
        libc::SYS_sched_getparam,
        AREA,
        Level::Emulated,
        sched_getparam,
        "priority 0",
    ),
    entry(
        libc::SYS_sched_setparam,
        AREA,
        Level::Emulated,
        sched_setparam,
        "priority 0",
    ),
    entry(libc::SYS_sched_getattr, AREA, Level::Forwarded, sched_getattr, ""),
    entry(
        libc::SYS_sched_setattr,
        AREA,
        Level::Emulated,
        sched_setattr,
        "policy and niceness",
    ),
    entry(
        libc::SYS_sched_rr_get_interval,
        AREA,
        Level::Forwarded,
        sched_rr_get_interval,
        "",
    ),
    entry(
        libc::SYS_sched_get_priority_max,
        AREA,
        Level::Emulated,
        priority_max,
        "",
    ),
    entry(
        libc::SYS_sched_get_priority_min,
        AREA,
        Level::Emulated,
        priority_min,
        "",
    ),
    entry(libc::SYS_getpriority, AREA, Level::Forwarded, getpriority, ""),
    entry(
        libc::SYS_setpriority,
        AREA,
        Level::Forwarded,
        setpriority,
        "upwards only",
    ),
    entry(
        libc::SYS_ioprio_get,
        AREA,
        Level::Emulated,
        ioprio_get,
        "best effort, 4",
    ),
    entry(
        libc::SYS_ioprio_set,
        AREA,
        Level::Emulated,
        ioprio_set,
        "accepted without effect",
    ),
    entry(
        libc::SYS_membarrier,
        AREA,
        Level::Forwarded,
        membarrier,
        "global, private expedited",
    ),
    entry(libc::SYS_getcpu, AREA, Level::Forwarded, getcpu, ""),
];

/// Bytes of a set of CPUs (1,024 of them, as in the C library).
const SET: usize = 128;

/// A host's number of a thread for the scheduling calls: 0 for the calling one.
fn target(task: &Task, pid: u64) -> Result<u64, Errno> {
    match int(pid) {
        negative if negative < 0 => Err(Errno::INVAL),
        0 => Ok(0),
        own if own == task.tid => Ok(0),
        _ => host_thread(task, pid),
    }
}

/// Whether a change of `target` reaches the host.
fn takes_effect(task: &Task, target: u64) -> bool {
    target == 0 || !task.process.contained
}

/// Implements sched_yield(2).
fn sched_yield(task: &mut Task, _: Args) -> SysResult {
    task.plain(libc::SYS_sched_yield, [0; 6])
}

fn affinity(task: &Task, target: u64) -> Result<(u64, [u8; SET]), Errno> {
    let mut set = [0u8; SET];
    let args = [value(target), value(SET as u64), output(&mut set)];
    let length = task.call(libc::SYS_sched_getaffinity, args)?;
    Ok((length, set))
}

/// Implements sched_getaffinity(2).
fn sched_getaffinity(task: &mut Task, [pid, size, set, ..]: Args) -> SysResult {
    if size < 8 || !size.is_multiple_of(8) {
        return Err(Errno::INVAL);
    }
    let target = target(task, pid).map_err(|_| Errno::SRCH)?;
    let (written, host_set) = affinity(task, target)?;
    let length = written.min(size);
    access::write_bytes(
        set,
        &host_set[..usize::try_from(length).map_err(|_| Errno::INVAL)?],
    )?;
    Ok(length)
}

/// Implements sched_setaffinity(2).
fn sched_setaffinity(task: &mut Task, [pid, size, set, ..]: Args) -> SysResult {
    let mut wanted = [0u8; SET];
    let size = usize::try_from(size).map_or(SET, |size| size.min(SET));
    access::read_bytes(set, &mut wanted[..size])?;
    let target = target(task, pid).map_err(|_| Errno::SRCH)?;
    if takes_effect(task, target) {
        let args = [value(target), value(SET as u64), input(&wanted)];
        return task.call(libc::SYS_sched_setaffinity, args);
    }
    let (_, allowed) = affinity(task, 0)?;
    if allowed.iter().zip(&wanted).all(|(a, b)| a & b == 0) {
        return Err(Errno::INVAL);
    }
    Ok(0)
}

/// Implements sched_getscheduler(2).
fn sched_getscheduler(task: &mut Task, [pid, ..]: Args) -> SysResult {
    let target = target(task, pid)?;
    task.plain(libc::SYS_sched_getscheduler, [target, 0, 0, 0, 0, 0])
}

/// The ordinary policies may be chosen, with their only priority; the others need a privilege.
fn choose(task: &Task, target: u64, policy: i32, priority: i32) -> SysResult {
    match policy & !libc::SCHED_RESET_ON_FORK {
        libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE if priority == 0 => {}
        libc::SCHED_FIFO | libc::SCHED_RR if (1..=99).contains(&priority) => return Err(Errno::PERM),
        libc::SCHED_DEADLINE => return Err(Errno::PERM),
        _ => return Err(Errno::INVAL),
    }
    // What yields goes on doing so.
    if !takes_effect(task, target) || task.process.yields() {
        return Ok(0);
    }
    let policy = u64::from(policy.cast_unsigned());
    task.call(
        libc::SYS_sched_setscheduler,
        [value(target), value(policy), input(&0i32)],
    )
}

/// Implements sched_setscheduler(2).
fn sched_setscheduler(task: &mut Task, [pid, policy, parameter, ..]: Args) -> SysResult {
    if int(policy) < 0 || int(pid) < 0 || parameter == 0 {
        return Err(Errno::INVAL);
    }
    let priority: i32 = access::read(parameter)?;
    choose(task, target(task, pid)?, int(policy), priority)
}

/// Implements sched_getparam(2): ordinary policies have one priority.
fn sched_getparam(task: &mut Task, [pid, parameter, ..]: Args) -> SysResult {
    if parameter == 0 {
        return Err(Errno::INVAL);
    }
    target(task, pid)?;
    access::write(parameter, &0i32)?;
    Ok(0)
}

/// Implements sched_setparam(2).
fn sched_setparam(task: &mut Task, [pid, parameter, ..]: Args) -> SysResult {
    if parameter == 0 || int(pid) < 0 {
        return Err(Errno::INVAL);
    }
    let priority: i32 = access::read(parameter)?;
    target(task, pid)?;
    if priority == 0 { Ok(0) } else { Err(Errno::INVAL) }
}

/// `struct sched_attr`: bytes of its first version, and of what is known.
const ATTRIBUTES_FIRST: u64 = 48;
const ATTRIBUTES: u64 = 56;

/// Implements sched_getattr(2).
fn sched_getattr(task: &mut Task, [pid, attributes, size, flags, ..]: Args) -> SysResult {
    let size = u64::from(int(size).cast_unsigned());
    if attributes == 0 || int(flags) != 0 || !(ATTRIBUTES_FIRST..=4096).contains(&size) {
        return Err(Errno::INVAL);
    }
    let target = target(task, pid)?;
    let size = size.min(ATTRIBUTES);
    let mut words = [0u64; 7];
    let args = [value(target), output(&mut words), value(size), value(0)];
    task.call(libc::SYS_sched_getattr, args)?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    access::write_bytes(
        attributes,
        &bytes[..usize::try_from(size).map_err(|_| Errno::INVAL)?],
    )?;
    Ok(0)
}

/// Implements sched_setattr(2): what `sched_setscheduler` and `setpriority` can do.
fn sched_setattr(task: &mut Task, [pid, attributes, flags, ..]: Args) -> SysResult {
    const KEEP_POLICY: u64 = 8;
    if attributes == 0 || int(flags) != 0 || int(pid) < 0 {
        return Err(Errno::INVAL);
    }
    // Size, policy; flags (64 bits); niceness, priority.
    let [size, policy, flags, _, nice, priority]: [u32; 6] = access::read(attributes)?;
    if size != 0 && u64::from(size) < ATTRIBUTES_FIRST {
        return Err(Errno(libc::E2BIG));
    }
    let target = target(task, pid)?;
    if u64::from(flags) & KEEP_POLICY == 0 {
        choose(task, target, policy.cast_signed(), priority.cast_signed())?;
    }
    renice(task, target, nice.cast_signed())
}

/// Implements sched_rr_get_interval(2).
fn sched_rr_get_interval(task: &mut Task, [pid, interval, ..]: Args) -> SysResult {
    let target = target(task, pid)?;
    let mut time = [0i64; 2];
    task.call(
        libc::SYS_sched_rr_get_interval,
        [value(target), output(&mut time)],
    )?;
    access::write(interval, &time)?;
    Ok(0)
}

/// The lowest and highest priority of a policy.
fn priorities(policy: u64) -> Result<(u64, u64), Errno> {
    match int(policy) {
        libc::SCHED_FIFO | libc::SCHED_RR => Ok((1, 99)),
        libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE | libc::SCHED_DEADLINE => Ok((0, 0)),
        _ => Err(Errno::INVAL),
    }
}

/// Implements sched_get_priority_max(2).
fn priority_max(_: &mut Task, [policy, ..]: Args) -> SysResult {
    Ok(priorities(policy)?.1)
}

/// Implements sched_get_priority_min(2).
fn priority_min(_: &mut Task, [policy, ..]: Args) -> SysResult {
    Ok(priorities(policy)?.0)
}

/// Whom `getpriority` and its relatives mean: a thread, or, by the group or the user, the calling one.
fn meant(task: &Task, which: u64, who: u64) -> Result<u64, Errno> {
    match int(which) {
        0 => target(task, who).map_err(|_| Errno::SRCH),
        1 | 2 => Ok(0),
        _ => Err(Errno::INVAL),
    }
}

/// The kernel's answer is 20 minus the niceness.
fn niceness(task: &Task, target: u64) -> SysResult {
    task.plain(libc::SYS_getpriority, [0, target, 0, 0, 0, 0])
}

/// Implements getpriority(2).
fn getpriority(task: &mut Task, [which, who, ..]: Args) -> SysResult {
    niceness(task, meant(task, which, who)?)
}

fn renice(task: &Task, target: u64, nice: i32) -> SysResult {
    let nice = nice.clamp(-20, 19);
    let now = 20 - i32::try_from(niceness(task, target)?).map_err(|_| Errno::INVAL)?;
    if nice < now {
        // What the monitor has lowered is not the program's mistake.
        return if task.process.yields() {
            Ok(0)
        } else {
            Err(Errno::ACCES)
        };
    }
    if nice == now || !takes_effect(task, target) {
        return Ok(0);
    }
    let nice = i64::from(nice).cast_unsigned();
    task.plain(libc::SYS_setpriority, [0, target, nice, 0, 0, 0])
}

/// Implements setpriority(2).
fn setpriority(task: &mut Task, [which, who, nice, ..]: Args) -> SysResult {
    let target = meant(task, which, who)?;
    renice(task, target, int(nice))
}

/// Implements ioprio_get(2): the best-effort class, as everybody has it.
fn ioprio_get(task: &mut Task, [which, who, ..]: Args) -> SysResult {
    check_io_subject(task, which, who)?;
    Ok(2 << 13 | 4)
}

/// Implements ioprio_set(2); the real-time class needs a privilege.
fn ioprio_set(task: &mut Task, [which, who, priority, ..]: Args) -> SysResult {
    check_io_subject(task, which, who)?;
    match int(priority) >> 13 {
        0 if int(priority) & 0x1fff == 0 => Ok(0),
        1 => Err(Errno::PERM),
        2 | 3 => Ok(0),
        _ => Err(Errno::INVAL),
    }
}

fn check_io_subject(task: &Task, which: u64, who: u64) -> Result<(), Errno> {
    let which = u64::from(int(which).cast_unsigned());
    meant(task, which.checked_sub(1).ok_or(Errno::INVAL)?, who).map(|_| ())
}

/// Implements membarrier(2). A vCPU is left and entered again by the interrupt that the host sends for it, so the barrier
/// holds for the guest.
fn membarrier(task: &mut Task, [command, flags, cpu, ..]: Args) -> SysResult {
    const QUERY: i32 = 0;
    const GLOBAL: i32 = 1;
    const PRIVATE: i32 = 1 << 3;
    const PRIVATE_CORE: i32 = 1 << 5;
    /// Each of the two is registered for by the next bit.
    const ALL: i32 = GLOBAL | PRIVATE | PRIVATE << 1 | PRIVATE_CORE | PRIVATE_CORE << 1;
    if int(flags) != 0 {
        return Err(Errno::INVAL);
    }
    let call = |command: i32| {
        task.plain(
            libc::SYS_membarrier,
            [u64::from(command.cast_unsigned()), 0, cpu, 0, 0, 0],
        )
    };
    match int(command) {
        QUERY => Ok(call(QUERY)? & u64::from(ALL.cast_unsigned())),
        private @ (PRIVATE | PRIVATE_CORE) => match call(private) {
            // What was registered at the boot, this process, its clone, has yet to.
            Err(Errno::PERM) if task.process.contained && !task.process.ready.is_awaited() => {
                call(private << 1)?;
                call(private)
            }
            result => result,
        },
        known if known & ALL != 0 && known.count_ones() == 1 => call(known),
        _ => Err(Errno::INVAL),
    }
}

/// Implements getcpu(2).
fn getcpu(task: &mut Task, [cpu, node, ..]: Args) -> SysResult {
    let mut numbers = [0u32; 2];
    let [at, node_at] = numbers.each_mut().map(output);
    task.call(libc::SYS_getcpu, [at, node_at])?;
    for (address, number) in [cpu, node].into_iter().zip(numbers) {
        if address != 0 {
            access::write(address, &number)?;
        }
    }
    Ok(0)
}
