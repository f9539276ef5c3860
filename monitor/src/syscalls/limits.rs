//! Resource limits: what a guest is told, and what it sets for itself (`rlimits`). The number of descriptors, the size of files,
//! memory, processes and processor time are held to what it sets, within what the function has anyhow.

use super::memory::int;
use super::{Args, Entry, Level, entry, signals};
use crate::clock;
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors;
use crate::guest::CONTAINED_FILES;
use crate::memory::access;
use crate::process::Process;
use crate::rlimits;
use crate::signals::host;
use crate::sys::processes;
use crate::task::Task;
use crate::vm::layout::{STACK_SIZE, VCPUS_MAX};

const AREA: &str = "system";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_prlimit64, AREA, Level::Emulated, prlimit, "own process"),
    entry(libc::SYS_getrlimit, AREA, Level::Emulated, getrlimit, ""),
    entry(libc::SYS_setrlimit, AREA, Level::Emulated, setrlimit, ""),
];

const INFINITE: u64 = libc::RLIM_INFINITY;

/// The limit that a process begins with: (soft, hard).
fn initial(process: &Process, resource: u32) -> [u64; 2] {
    let memory = process.memory_limit;
    match resource {
        libc::RLIMIT_STACK => [STACK_SIZE, INFINITE],
        libc::RLIMIT_NOFILE if process.contained => [0, CONTAINED_FILES],
        libc::RLIMIT_NOFILE => [0, descriptors::MONITOR_FD_FLOOR.unsigned_abs().into()],
        libc::RLIMIT_NPROC => [VCPUS_MAX as u64, VCPUS_MAX as u64],
        libc::RLIMIT_DATA if process.contained => [memory, memory],
        libc::RLIMIT_CORE | libc::RLIMIT_NICE | libc::RLIMIT_RTPRIO => [0, 0],
        libc::RLIMIT_MEMLOCK => [8 << 20, 8 << 20],
        libc::RLIMIT_MSGQUEUE => [819_200, 819_200],
        libc::RLIMIT_SIGPENDING => [4096, 4096],
        _ => [INFINITE, INFINITE],
    }
}

/// The limit of a resource as the guest sees it: (soft, hard).
pub fn limit(process: &Process, resource: u32) -> Result<[u64; 2], Errno> {
    let set = rlimits::of(resource).ok_or(Errno::INVAL)?;
    let mut limit = initial(process, resource);
    for (value, set) in limit.iter_mut().zip(set) {
        *value = set.unwrap_or(*value);
    }
    if resource == libc::RLIMIT_NOFILE {
        limit[0] = u64::from(descriptors::limit().unsigned_abs());
    }
    Ok(limit)
}

/// Implements prlimit64(2) for the own process.
fn prlimit(task: &mut Task, [pid, resource, new, old, ..]: Args) -> SysResult {
    if int(pid) != 0 && !crate::pids::is_own(int(pid)) {
        return Err(Errno::SRCH);
    }
    let resource = int(resource).cast_unsigned();
    let before = limit(&task.process, resource)?;
    if new != 0 {
        let [soft, hard]: [u64; 2] = access::read(new)?;
        if soft > hard {
            return Err(Errno::INVAL);
        }
        if hard > before[1] {
            return Err(Errno::PERM);
        }
        if resource == libc::RLIMIT_NOFILE {
            descriptors::set_limit(soft);
        }
        if resource == libc::RLIMIT_CPU {
            limit_processor(soft, hard)?;
        }
        rlimits::set(resource, [soft, hard]);
    }
    if old != 0 {
        access::write(old, &before)?;
    }
    Ok(0)
}

/// Processor time is counted by the host, for the monitor and its guest together; in a clone the guest has used more than this
/// process. What holds this process anyhow stays.
fn limit_processor(soft: u64, hard: u64) -> Result<(), Errno> {
    let used = clock::ahead(libc::CLOCK_PROCESS_CPUTIME_ID) / 1_000_000_000;
    let here = |seconds: u64| match seconds {
        INFINITE => INFINITE,
        // Zero is as one second.
        seconds => seconds.saturating_sub(used.unsigned_abs()).max(1),
    };
    let [_, most] = processes::limit(libc::RLIMIT_CPU)?;
    let hard = here(hard).min(most);
    // The node's own limit is told a second before it kills.
    let told = if most == INFINITE {
        INFINITE
    } else {
        most.saturating_sub(1)
    };
    processes::set_limit(libc::RLIMIT_CPU, [here(soft).min(told).min(hard), hard])
}

/// How many of `length` bytes may be written at `start` of a regular file. With none, the limit of its size was met: SIGXFSZ and
/// EFBIG (write(2), setrlimit(2)).
pub fn room_in_file(task: &Task, start: u64, length: u64) -> Result<u64, Errno> {
    let limit = rlimits::soft(libc::RLIMIT_FSIZE);
    if length == 0 || start.saturating_add(length) <= limit {
        return Ok(length);
    }
    if start < limit {
        return Ok(limit - start);
    }
    let signal = u64::from(libc::SIGXFSZ.unsigned_abs());
    signals::end_by(task, signal, "it met the limit of file sizes that it has set");
    host::send_self(libc::SIGXFSZ, None);
    Err(Errno(libc::EFBIG))
}

/// Implements getrlimit(2).
fn getrlimit(task: &mut Task, [resource, result, ..]: Args) -> SysResult {
    let limit = limit(&task.process, int(resource).cast_unsigned())?;
    access::write(result, &limit)?;
    Ok(0)
}

/// Implements setrlimit(2).
fn setrlimit(task: &mut Task, [resource, new, ..]: Args) -> SysResult {
    if new == 0 {
        return Err(Errno::FAULT);
    }
    prlimit(task, [0, resource, new, 0, 0, 0])
}

/// EFBIG, and SIGXFSZ, if a file would become larger than the guest lets it (truncate(2)).
pub fn check_size_of_file(task: &Task, end: u64) -> Result<(), Errno> {
    let limit = rlimits::soft(libc::RLIMIT_FSIZE);
    if end > limit {
        room_in_file(task, limit, end - limit)?;
    }
    Ok(())
}
