//! Calls that change what a file says of itself: mode, owner, times; extended attributes and handles, which there are none of.

use super::memory::int;
use super::paths::{HERE, NOFOLLOW, done, files, path, unsigned};
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::fs::At;
use crate::fs::descriptors::guest_fd;
use crate::memory::access;
use crate::task::Task;

const AREA: &str = "attributes";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_chmod, AREA, Level::Emulated, chmod, ""),
    entry(libc::SYS_fchmod, AREA, Level::Emulated, fchmod, ""),
    entry(libc::SYS_fchmodat, AREA, Level::Emulated, fchmodat, ""),
    entry(FCHMODAT2, AREA, Level::Emulated, fchmodat2, ""),
    entry(libc::SYS_chown, AREA, Level::Emulated, chown, ""),
    entry(libc::SYS_lchown, AREA, Level::Emulated, lchown, ""),
    entry(libc::SYS_fchown, AREA, Level::Emulated, fchown, ""),
    entry(libc::SYS_fchownat, AREA, Level::Emulated, fchownat, ""),
    entry(libc::SYS_utime, AREA, Level::Emulated, utime, ""),
    entry(libc::SYS_utimes, AREA, Level::Emulated, utimes, ""),
    entry(libc::SYS_futimesat, AREA, Level::Emulated, futimesat, ""),
    entry(libc::SYS_utimensat, AREA, Level::Emulated, utimensat, ""),
    entry(libc::SYS_getxattr, AREA, Level::Refused, getxattr, "ENODATA"),
    entry(libc::SYS_lgetxattr, AREA, Level::Refused, lgetxattr, "ENODATA"),
    entry(libc::SYS_fgetxattr, AREA, Level::Refused, fgetxattr, "ENODATA"),
    entry(libc::SYS_listxattr, AREA, Level::Refused, listxattr, "none"),
    entry(libc::SYS_llistxattr, AREA, Level::Refused, llistxattr, "none"),
    entry(libc::SYS_flistxattr, AREA, Level::Refused, flistxattr, "none"),
    entry(libc::SYS_setxattr, AREA, Level::Refused, setxattr, "EOPNOTSUPP"),
    entry(libc::SYS_lsetxattr, AREA, Level::Refused, lsetxattr, "EOPNOTSUPP"),
    entry(libc::SYS_fsetxattr, AREA, Level::Refused, fsetxattr, "EOPNOTSUPP"),
    entry(
        libc::SYS_removexattr,
        AREA,
        Level::Refused,
        setxattr,
        "EOPNOTSUPP",
    ),
    entry(
        libc::SYS_lremovexattr,
        AREA,
        Level::Refused,
        lsetxattr,
        "EOPNOTSUPP",
    ),
    entry(
        libc::SYS_fremovexattr,
        AREA,
        Level::Refused,
        fsetxattr,
        "EOPNOTSUPP",
    ),
    entry(
        libc::SYS_name_to_handle_at,
        AREA,
        Level::Refused,
        refuse_handles,
        "EOPNOTSUPP",
    ),
    entry(
        libc::SYS_open_by_handle_at,
        AREA,
        Level::Refused,
        refuse_handles,
        "EOPNOTSUPP",
    ),
];

const FCHMODAT2: libc::c_long = 452;

/// Implements chmod(2).
fn chmod(task: &mut Task, [name, mode, ..]: Args) -> SysResult {
    fchmodat2(task, [HERE, name, mode, 0, 0, 0])
}

/// Implements fchmod(2).
fn fchmod(task: &mut Task, [fd, mode, ..]: Args) -> SysResult {
    done(files(task).chmod_descriptor(int(fd), unsigned(mode)))
}

/// Implements fchmodat(2), which has no flags in the kernel.
fn fchmodat(task: &mut Task, [directory, name, mode, ..]: Args) -> SysResult {
    fchmodat2(task, [directory, name, mode, 0, 0, 0])
}

/// Implements fchmodat2(2).
fn fchmodat2(task: &mut Task, [directory, name, mode, flags, ..]: Args) -> SysResult {
    done(files(task).chmod(At::new(int(directory), &path(name)?), unsigned(mode), int(flags)))
}

/// Implements chown(2).
fn chown(task: &mut Task, [name, user, group, ..]: Args) -> SysResult {
    fchownat(task, [HERE, name, user, group, 0, 0])
}

/// Implements lchown(2).
fn lchown(task: &mut Task, [name, user, group, ..]: Args) -> SysResult {
    fchownat(task, [HERE, name, user, group, NOFOLLOW, 0])
}

/// Implements fchown(2).
fn fchown(task: &mut Task, [fd, user, group, ..]: Args) -> SysResult {
    done(files(task).chown_descriptor(int(fd), unsigned(user), unsigned(group)))
}

/// Implements fchownat(2).
fn fchownat(task: &mut Task, [directory, name, user, group, flags, _]: Args) -> SysResult {
    let name = path(name)?;
    done(files(task).chown(
        At::new(int(directory), &name),
        unsigned(user),
        unsigned(group),
        int(flags),
    ))
}

fn time(seconds: i64, nanoseconds: i64) -> libc::timespec {
    libc::timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    }
}

/// Implements utime(2).
fn utime(task: &mut Task, [name, times, ..]: Args) -> SysResult {
    let name = path(name)?;
    let times = if times == 0 {
        None
    } else {
        Some(access::read::<[i64; 2]>(times)?.map(|seconds| time(seconds, 0)))
    };
    done(files(task).set_times(At::cwd(&name), times.as_ref(), 0))
}

/// Two timevals.
fn read_timevals(address: u64) -> Result<Option<[libc::timespec; 2]>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let times: [[i64; 2]; 2] = access::read(address)?;
    if times
        .iter()
        .any(|[_, microseconds]| !(0..1_000_000).contains(microseconds))
    {
        return Err(Errno::INVAL);
    }
    Ok(Some(times.map(|[seconds, microseconds]| {
        time(seconds, microseconds * 1000)
    })))
}

/// Implements utimes(2).
fn utimes(task: &mut Task, [name, times, ..]: Args) -> SysResult {
    futimesat(task, [HERE, name, times, 0, 0, 0])
}

/// Implements futimesat(2).
fn futimesat(task: &mut Task, [directory, name, times, ..]: Args) -> SysResult {
    set_times(task, directory, name, read_timevals(times)?.as_ref(), 0)
}

/// Implements utimensat(2).
fn utimensat(task: &mut Task, [directory, name, times, flags, ..]: Args) -> SysResult {
    let mut wanted = None;
    if times != 0 {
        let times: [[i64; 2]; 2] = access::read(times)?;
        if times
            .iter()
            .all(|[_, nanoseconds]| *nanoseconds == libc::UTIME_OMIT)
        {
            return Ok(0);
        }
        wanted = Some(times.map(|[seconds, nanoseconds]| time(seconds, nanoseconds)));
    }
    set_times(task, directory, name, wanted.as_ref(), int(flags))
}

/// A NULL path means the descriptor itself.
fn set_times(
    task: &Task,
    directory: u64,
    name: u64,
    times: Option<&[libc::timespec; 2]>,
    flags: i32,
) -> SysResult {
    if name != 0 {
        return done(files(task).set_times(At::new(int(directory), &path(name)?), times, flags));
    }
    if flags != 0 {
        return Err(Errno::INVAL);
    }
    if int(directory) == libc::AT_FDCWD {
        return Err(Errno::FAULT);
    }
    done(files(task).set_times_of_descriptor(int(directory), times))
}

/// Implements getxattr(2).
fn getxattr(task: &mut Task, [name, ..]: Args) -> SysResult {
    done(files(task).get_attribute(At::cwd(&path(name)?), 0))
}

/// Implements lgetxattr(2).
fn lgetxattr(task: &mut Task, [name, ..]: Args) -> SysResult {
    done(files(task).get_attribute(At::cwd(&path(name)?), libc::AT_SYMLINK_NOFOLLOW))
}

/// Implements fgetxattr(2).
fn fgetxattr(task: &mut Task, [fd, ..]: Args) -> SysResult {
    done(files(task).get_attribute(At::new(guest_fd(int(fd))?, c""), libc::AT_EMPTY_PATH))
}

/// Implements listxattr(2).
fn listxattr(task: &mut Task, [name, ..]: Args) -> SysResult {
    done(files(task).list_attributes(At::cwd(&path(name)?), 0))
}

/// Implements llistxattr(2).
fn llistxattr(task: &mut Task, [name, ..]: Args) -> SysResult {
    done(files(task).list_attributes(At::cwd(&path(name)?), libc::AT_SYMLINK_NOFOLLOW))
}

/// Implements flistxattr(2).
fn flistxattr(task: &mut Task, [fd, ..]: Args) -> SysResult {
    done(files(task).list_attributes(At::new(guest_fd(int(fd))?, c""), libc::AT_EMPTY_PATH))
}

/// Implements setxattr(2), removexattr(2).
fn setxattr(task: &mut Task, [name, ..]: Args) -> SysResult {
    done(files(task).change_attribute(At::cwd(&path(name)?), 0))
}

/// Implements lsetxattr(2), lremovexattr(2).
fn lsetxattr(task: &mut Task, [name, ..]: Args) -> SysResult {
    done(files(task).change_attribute(At::cwd(&path(name)?), libc::AT_SYMLINK_NOFOLLOW))
}

/// Implements fsetxattr(2), fremovexattr(2).
fn fsetxattr(task: &mut Task, [fd, ..]: Args) -> SysResult {
    done(files(task).change_attribute(At::new(guest_fd(int(fd))?, c""), libc::AT_EMPTY_PATH))
}

/// Implements name_to_handle_at(2), open_by_handle_at(2): a handle would name a file without a path.
fn refuse_handles(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::OPNOTSUPP)
}
