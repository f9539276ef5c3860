//! The table of descriptors: duplicating, closing, flags, locks, pipes, files in memory, and the ioctls that programs use.
//!
//! The guest's numbers are the host's (`fs::descriptors`): whatever makes one is admitted against the guest's limit,
//! whatever closes or replaces one holds the table alone and tells the process first.

use std::os::fd::RawFd;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::memory::int;
use super::{Args, Entry, Level, entry, interfaces};
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::{self, MONITOR_FD_FLOOR, exclusive, guest_fd};
use crate::memory::access;
use crate::pids;
use crate::sys::calls::{self, Arg, input, output, value};
use crate::sys::requests::{Content, LARGEST, content};
use crate::task::Task;

const AREA: &str = "descriptors";
/// Largest pipe of an instance, bytes: what pipe(7) gives.
const PIPE_MAX: u64 = 64 << 10;

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_close, AREA, Level::Emulated, close, ""),
    entry(
        libc::SYS_close_range,
        AREA,
        Level::Emulated,
        close_range,
        "CLOSE_RANGE_UNSHARE for a single thread",
    ),
    entry(libc::SYS_dup, AREA, Level::Forwarded, dup, ""),
    entry(libc::SYS_dup2, AREA, Level::Emulated, dup2, ""),
    entry(libc::SYS_dup3, AREA, Level::Emulated, dup3, ""),
    entry(libc::SYS_pipe, AREA, Level::Forwarded, pipe, ""),
    entry(libc::SYS_pipe2, AREA, Level::Forwarded, pipe2, ""),
    entry(
        libc::SYS_memfd_create,
        AREA,
        Level::Forwarded,
        memfd_create,
        "no huge pages",
    ),
    entry(
        libc::SYS_fcntl,
        AREA,
        Level::Emulated,
        fcntl,
        "no leases, no F_NOTIFY",
    ),
    entry(
        libc::SYS_flock,
        AREA,
        Level::Emulated,
        flock,
        "without effect on a read-only file",
    ),
    entry(
        libc::SYS_ioctl,
        AREA,
        Level::Emulated,
        ioctl,
        "terminals, FIONREAD, FIONBIO, FIOCLEX",
    ),
];

/// A descriptor's number as an argument of a host call.
pub fn register(fd: RawFd) -> u64 {
    i64::from(fd).cast_unsigned()
}

/// Admits the descriptor that a host call has just made for the guest.
pub fn admitted(result: SysResult) -> SysResult {
    let fd = RawFd::try_from(result?).map_err(|_| Errno::IO)?;
    descriptors::admit(descriptors::take_up(fd)).map(register)
}

/// Makes a descriptor for the guest by a host call that takes numbers only.
pub fn make(task: &Task, number: libc::c_long, args: Args) -> SysResult {
    admitted(task.plain(number, args))
}

/// A call that changes the table after the process was told of it, so it is made whatever signal is pending.
fn at_once(number: libc::c_long, args: Args) -> SysResult {
    let _alone = exclusive();
    calls::direct(number, &mut args.map(Arg::Value))
}

/// Implements close(2).
fn close(task: &mut Task, [fd, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    task.process.closing(fd);
    at_once(libc::SYS_close, [register(fd), 0, 0, 0, 0, 0])
}

/// Implements close_range(2).
fn close_range(task: &mut Task, [first, last, flags, ..]: Args) -> SysResult {
    const UNSHARE: i32 = 2;
    const CLOEXEC: i32 = 4;
    let mut flags = int(flags);
    if task.process.is_alone() {
        // Nobody shares the table.
        flags &= !UNSHARE;
    }
    let (first, last) = (int(first).cast_unsigned(), int(last).cast_unsigned());
    // Sharing ends per thread here, not per table: nobody but runtimes that are alone in their process asks for it.
    if flags & !CLOEXEC != 0 || first > last {
        return Err(Errno::INVAL);
    }
    let floor = MONITOR_FD_FLOOR.unsigned_abs();
    if first >= floor {
        return Ok(0);
    }
    let last = last.min(floor - 1);
    if flags & CLOEXEC == 0 {
        let inside = |fd: &RawFd| (first..=last).contains(&fd.unsigned_abs());
        task.process
            .files
            .open_descriptors()
            .into_iter()
            .filter(inside)
            .for_each(|fd| task.process.closing(fd));
    }
    at_once(
        libc::SYS_close_range,
        [first.into(), last.into(), register(flags), 0, 0, 0],
    )
}

/// Implements dup(2).
fn dup(task: &mut Task, [old, ..]: Args) -> SysResult {
    let old = guest_fd(int(old))?;
    let new = make(task, libc::SYS_dup, [register(old), 0, 0, 0, 0, 0])?;
    task.process.duplicated(old, int(new));
    Ok(new)
}

/// Implements dup2(2).
fn dup2(task: &mut Task, [old, new, ..]: Args) -> SysResult {
    if int(old) == int(new) {
        return if descriptors::is_open(int(old)) {
            Ok(register(int(new)))
        } else {
            Err(Errno::BADF)
        };
    }
    replace(task, int(old), int(new), 0)
}

/// Implements dup3(2).
fn dup3(task: &mut Task, [old, new, flags, ..]: Args) -> SysResult {
    if int(flags) & !libc::O_CLOEXEC != 0 || int(old) == int(new) {
        return Err(Errno::INVAL);
    }
    replace(task, int(old), int(new), int(flags))
}

fn replace(task: &Task, old: RawFd, new: RawFd, flags: i32) -> SysResult {
    if guest_fd(new)? >= descriptors::limit() || !descriptors::is_open(old) {
        return Err(Errno::BADF);
    }
    task.process.closing(new);
    let result = at_once(
        libc::SYS_dup3,
        [register(old), register(new), register(flags), 0, 0, 0],
    )?;
    task.process.duplicated(old, new);
    Ok(result)
}

/// Implements pipe(2).
fn pipe(task: &mut Task, [ends, ..]: Args) -> SysResult {
    pipe2(task, [ends, 0, 0, 0, 0, 0])
}

/// Implements pipe2(2).
fn pipe2(task: &mut Task, [result, flags, ..]: Args) -> SysResult {
    let mut ends = [0_i32; 2];
    task.call(libc::SYS_pipe2, [output(&mut ends), value(flags)])?;
    let [read, write] = ends.map(descriptors::take_up);
    let read = descriptors::admit(read)?;
    let write = match descriptors::admit(write) {
        Ok(write) => write,
        Err(error) => {
            forget(&[read]);
            return Err(error);
        }
    };
    if let Err(error) = access::write(result, &[read, write]) {
        forget(&[read, write]);
        return Err(error);
    }
    Ok(0)
}

/// Takes back descriptors that the guest has not been told of.
fn forget(fds: &[RawFd]) {
    let _alone = exclusive();
    for fd in fds {
        // `admit` has just given these out, and the guest does not know them; should it have guessed one and replaced it, it loses
        // only what is its own.
        drop(descriptors::take_up(*fd));
    }
}

/// Implements memfd_create(2).
fn memfd_create(task: &mut Task, [name, flags, ..]: Args) -> SysResult {
    let flags = int(flags).cast_unsigned();
    if flags & libc::MFD_HUGETLB != 0 {
        return Err(Errno::INVAL);
    }
    let name = access::read_string(name, 250, Errno::INVAL)?;
    let args = [Arg::Name(&name), value(flags.into())];
    admitted(task.call(libc::SYS_memfd_create, args))
}

/// `struct flock`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Lock {
    kind: i16,
    whence: i16,
    padding: i32,
    start: i64,
    length: i64,
    process: i32,
    tail: i32,
}

const _: () = assert!(size_of::<Lock>() == size_of::<libc::flock>());

/// Implements fcntl(2).
fn fcntl(task: &mut Task, [fd, command, argument, ..]: Args) -> SysResult {
    const F_DUPFD_QUERY: i32 = 1027;
    const F_CREATED_QUERY: i32 = 1028;
    const F_GETSIG: i32 = 11;
    const F_SETSIG: i32 = 10;
    const F_SETOWN_EX: i32 = 15;
    const F_GETOWN_EX: i32 = 16;
    const F_OWNER_TID: i32 = 0;
    const F_OWNER_PID: i32 = 1;
    let number = guest_fd(int(fd))?;
    let with = |argument: Arg<'_>| {
        let [number, command] = [number, int(command)].map(|number| value(register(number)));
        task.call(libc::SYS_fcntl, [number, command, argument])
    };
    let forward = |argument: u64| with(value(argument));
    match int(command) {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            if int(argument) < 0 || int(argument) >= descriptors::limit() {
                return Err(if descriptors::is_open(number) {
                    Errno::INVAL
                } else {
                    Errno::BADF
                });
            }
            let new = admitted(forward(register(int(argument))))?;
            task.process.duplicated(number, int(new));
            Ok(new)
        }
        libc::F_GETFD
        | libc::F_SETFD
        | libc::F_GETFL
        | libc::F_SETFL
        | libc::F_GETOWN
        | libc::F_GETPIPE_SZ
        | libc::F_ADD_SEALS
        | libc::F_GET_SEALS
        | F_GETSIG
        | F_SETSIG
        | F_CREATED_QUERY => forward(argument),
        // What is in pipes is memory of the node that no limit counts.
        libc::F_SETPIPE_SZ if task.process.contained && argument > PIPE_MAX => Err(Errno::PERM),
        libc::F_SETPIPE_SZ => forward(argument),
        F_DUPFD_QUERY => forward(register(guest_fd(int(argument))?)),
        libc::F_SETOWN => {
            // Signals on behalf of the guest go to nobody else.
            match int(argument) {
                0 => forward(0),
                id if pids::is_own(id) => forward(register(pids::host_pid())),
                _ => Err(Errno::PERM),
            }
        }
        F_GETOWN_EX => {
            let mut owner = [0_i32; 2];
            let result = with(output(&mut owner))?;
            access::write(argument, &owner)?;
            Ok(result)
        }
        F_SETOWN_EX => {
            let mut owner: [i32; 2] = access::read(argument)?;
            match owner {
                [F_OWNER_TID | F_OWNER_PID, 0] => with(input(&owner)),
                [F_OWNER_PID, id] if pids::is_own(id) => {
                    owner[1] = pids::host_pid();
                    with(input(&owner))
                }
                [F_OWNER_TID, id] if id == task.tid => {
                    owner[1] = pids::host_tid();
                    with(input(&owner))
                }
                [0..=2, _] => Err(Errno::PERM),
                _ => Err(Errno::INVAL),
            }
        }
        libc::F_GETLK
        | libc::F_SETLK
        | libc::F_SETLKW
        | libc::F_OFD_GETLK
        | libc::F_OFD_SETLK
        | libc::F_OFD_SETLKW => {
            let mut lock: Lock = access::read(argument)?;
            let result = with(output(&mut lock))?;
            if matches!(int(command), libc::F_GETLK | libc::F_OFD_GETLK) {
                access::write(argument, &lock)?;
            }
            Ok(result)
        }
        libc::F_GETLEASE => forward(0).map(|_| register(libc::F_UNLCK)),
        // A descriptor that is only a path knows few commands, so even of these it says that it is none.
        libc::F_SETLEASE => Err(descriptors::open_file(number).err().unwrap_or(Errno::ACCES)),
        _ => Err(descriptors::open_file(number).err().unwrap_or(Errno::INVAL)),
    }
}

/// Implements flock(2). A read-only file is shared with other instances, and nobody can change it: a lock on it would do
/// nothing but make them wait for one another.
fn flock(task: &mut Task, [fd, operation, ..]: Args) -> SysResult {
    let known = matches!(
        int(operation) & !libc::LOCK_NB,
        libc::LOCK_SH | libc::LOCK_EX | libc::LOCK_UN
    );
    if !known {
        return Err(Errno::INVAL);
    }
    let fd = guest_fd(int(fd))?;
    if super::paths::files(task).is_on_read_only(fd)? {
        return Ok(0);
    }
    task.plain(libc::SYS_flock, [register(fd), operation, 0, 0, 0, 0])
}

/// Implements ioctl(2), what is harmless on any file. TIOCSTI, which types into a terminal, is not.
fn ioctl(task: &mut Task, [fd, request, argument, ..]: Args) -> SysResult {
    const FICLONE: u64 = 0x4004_9409;
    let fd = guest_fd(int(fd))?;
    let request = request & u64::from(u32::MAX);
    let forward =
        |argument: Arg<'_>| task.call(libc::SYS_ioctl, [value(register(fd)), value(request), argument]);
    let mut buffer = [0_u8; LARGEST];
    match content(request) {
        Some(Content::Number) => forward(value(argument)),
        Some(Content::In(size)) => {
            access::read_bytes(argument, &mut buffer[..size])?;
            forward(input(&buffer[..size]))
        }
        Some(Content::Out(size)) => {
            let result = forward(output(&mut buffer[..size]))?;
            access::write_bytes(argument, &buffer[..size])?;
            Ok(result)
        }
        None if descriptors::open_file(fd).is_err() => Err(Errno::BADF),
        None if request == FICLONE => Err(Errno::OPNOTSUPP),
        None => interfaces::ioctl(task, fd, request, argument).unwrap_or(Err(Errno::NOTTY)),
    }
}
