//! Limits that the kernel keeps for a process. They back the monitor's own counts, and hold when those fail.

use crate::errno::Errno;
use crate::fs::descriptors::MONITOR_FD_FLOOR;
use crate::sys::processes;

/// Descriptors of a process: the guest's numbers and as many for the monitor.
const DESCRIPTORS: u64 = 2 * MONITOR_FD_FLOOR.unsigned_abs() as u64;
/// With fewer than this the monitor has none of its own.
const FEWEST_DESCRIPTORS: u64 = MONITOR_FD_FLOOR.unsigned_abs() as u64 + 256;

#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error("limit of {name}: {source}")]
    Set { name: &'static str, source: Errno },
    #[error(
        "the hard limit on open files is {found}, at least {FEWEST_DESCRIPTORS} are needed, since a guest's are numbered below the monitor's own: raise it (as root `ulimit -Hn 4096`, for a service `LimitNOFILE=4096`, for a container `--ulimit nofile=4096`)"
    )]
    Descriptors { found: u64 },
}

/// Whether a process may have as many descriptors as a guest and the monitor need.
pub fn enough_descriptors() -> Result<(), LimitError> {
    most_descriptors().map(drop)
}

fn most_descriptors() -> Result<u64, LimitError> {
    let failed = |source| LimitError::Set {
        name: "open files",
        source,
    };
    let [_, found] = processes::limit(libc::RLIMIT_NOFILE).map_err(failed)?;
    if found < FEWEST_DESCRIPTORS {
        return Err(LimitError::Descriptors { found });
    }
    Ok(found)
}

/// For `serve` and all its children.
pub fn common() -> Result<(), LimitError> {
    set("core size", libc::RLIMIT_CORE, 0)?;
    set(
        "open files",
        libc::RLIMIT_NOFILE,
        most_descriptors()?.min(DESCRIPTORS),
    )
}

/// For a process with a guest: the largest file it may write, its private writable memory, and its processor time. At the last it is
/// told by SIGXCPU, and killed a second later.
pub fn guest(
    file_bytes: Option<u64>,
    data_bytes: Option<u64>,
    cpu_seconds: Option<u64>,
) -> Result<(), LimitError> {
    if let Some(seconds) = cpu_seconds {
        set_both(
            "processor time",
            libc::RLIMIT_CPU,
            seconds,
            seconds.saturating_add(1),
        )?;
    }
    if let Some(bytes) = file_bytes {
        set("file size", libc::RLIMIT_FSIZE, bytes)?;
    }
    if let Some(bytes) = data_bytes {
        set("data size", libc::RLIMIT_DATA, bytes)?;
    }
    Ok(())
}

/// Sets both the soft and the hard limit: nothing can raise it again.
fn set(name: &'static str, resource: libc::__rlimit_resource_t, value: u64) -> Result<(), LimitError> {
    set_both(name, resource, value, value)
}

fn set_both(
    name: &'static str,
    resource: libc::__rlimit_resource_t,
    soft: u64,
    hard: u64,
) -> Result<(), LimitError> {
    processes::set_limit(resource, [soft, hard]).map_err(|source| LimitError::Set { name, source })
}
