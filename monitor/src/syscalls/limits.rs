//! Resource limits: what a guest is told, and what it sets for itself. Of those only the number of descriptors is held
//! here; memory, output and time are the function's, whatever is set.

use std::sync::atomic::{AtomicU64, Ordering};

use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors;
use crate::guest::CONTAINED_FILES;
use crate::memory::access;
use crate::process::Process;
use crate::task::Task;
use crate::vm::layout::{STACK_SIZE, VCPUS_MAX};

const AREA: &str = "system";

pub const ENTRIES: &[Entry] = &[
    entry(
        libc::SYS_prlimit64,
        AREA,
        Level::Emulated,
        prlimit,
        "own process; kept, of descriptors enforced",
    ),
    entry(libc::SYS_getrlimit, AREA, Level::Emulated, getrlimit, ""),
    entry(libc::SYS_setrlimit, AREA, Level::Emulated, setrlimit, ""),
];

/// How many limits there are (RLIM_NLIMITS).
const COUNT: usize = 16;
const INFINITE: u64 = libc::RLIM_INFINITY;
/// No process has this: the limit was not set.
const UNSET: u64 = INFINITE - 1;

/// What the guest has set, soft and hard; one process of the host is one of the guest.
static SET: [[AtomicU64; 2]; COUNT] = [const { [const { AtomicU64::new(UNSET) }; 2] }; COUNT];

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
    let index = usize::try_from(resource).map_err(|_| Errno::INVAL)?;
    let set = SET.get(index).ok_or(Errno::INVAL)?;
    let mut limit = initial(process, resource);
    for (value, set) in limit.iter_mut().zip(set) {
        match set.load(Ordering::Relaxed) {
            UNSET => {}
            set => *value = set,
        }
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
        let index = usize::try_from(resource).map_err(|_| Errno::INVAL)?;
        for (place, value) in SET[index].iter().zip([soft, hard]) {
            place.store(value, Ordering::Relaxed);
        }
    }
    if old != 0 {
        access::write(old, &before)?;
    }
    Ok(0)
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
