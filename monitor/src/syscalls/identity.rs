//! Users and groups: a guest is who it is, and may become that. What it asks for beyond needs a privilege that no guest has.

use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::task::Task;

const AREA: &str = "system";
const SAME: &str = "to what it is; EPERM otherwise";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_setreuid, AREA, Level::Emulated, setreuid, SAME),
    entry(libc::SYS_setregid, AREA, Level::Emulated, setregid, SAME),
    entry(libc::SYS_setresuid, AREA, Level::Emulated, setresuid, SAME),
    entry(libc::SYS_setresgid, AREA, Level::Emulated, setresgid, SAME),
    entry(
        libc::SYS_setfsuid,
        AREA,
        Level::Emulated,
        setfsuid,
        "stays what it is",
    ),
    entry(
        libc::SYS_setfsgid,
        AREA,
        Level::Emulated,
        setfsgid,
        "stays what it is",
    ),
    entry(
        libc::SYS_setgroups,
        AREA,
        Level::Emulated,
        setgroups,
        "none, or the own one",
    ),
];

/// Most groups of a process (NGROUPS_MAX).
const GROUPS_MAX: u64 = 65536;

fn user(task: &Task) -> u32 {
    task.process.identity().uid
}

fn group(task: &Task) -> u32 {
    task.process.identity().gid
}

/// Each of the numbers must be -1, which is no change, or the own one.
fn keep(own: u32, wanted: &[u64]) -> SysResult {
    let same = |wanted: &u64| int(*wanted) == -1 || int(*wanted).cast_unsigned() == own;
    if wanted.iter().all(same) {
        Ok(0)
    } else {
        Err(Errno::PERM)
    }
}

/// Implements setreuid(2).
fn setreuid(task: &mut Task, [real, effective, ..]: Args) -> SysResult {
    keep(user(task), &[real, effective])
}

/// Implements setregid(2).
fn setregid(task: &mut Task, [real, effective, ..]: Args) -> SysResult {
    keep(group(task), &[real, effective])
}

/// Implements setresuid(2).
fn setresuid(task: &mut Task, [real, effective, saved, ..]: Args) -> SysResult {
    keep(user(task), &[real, effective, saved])
}

/// Implements setresgid(2).
fn setresgid(task: &mut Task, [real, effective, saved, ..]: Args) -> SysResult {
    keep(group(task), &[real, effective, saved])
}

/// Implements setfsuid(2), which has no errors: it gives what it was before.
fn setfsuid(task: &mut Task, _: Args) -> SysResult {
    Ok(user(task).into())
}

/// Implements setfsgid(2), which has no errors: it gives what it was before.
fn setfsgid(task: &mut Task, _: Args) -> SysResult {
    Ok(group(task).into())
}

/// Implements setgroups(2). A set of nothing but the own group allows what no group at all does.
fn setgroups(task: &mut Task, [count, list, ..]: Args) -> SysResult {
    let count = u64::from(int(count).cast_unsigned());
    if count > GROUPS_MAX {
        return Err(Errno::INVAL);
    }
    let own = group(task);
    let wanted: Vec<u32> = access::read_array(list, count)?;
    if wanted.iter().all(|group| *group == own) {
        Ok(0)
    } else {
        Err(Errno::PERM)
    }
}
