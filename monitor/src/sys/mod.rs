//! System calls of the host that need no more care than their arguments: one safe function each.
//!
//! `unsafe` code stands in the modules that say `#![allow(unsafe_code)]` at their top, and the lint refuses it everywhere else. This is the
//! one for everyday calls, so that a module that only reads, polls or duplicates needs none. Descriptors are plain numbers here: those
//! of the guest have no owner in Rust, and a wrong number is answered by the kernel, never by memory.
#![allow(unsafe_code)]

pub mod calls;
pub mod messages;
pub mod passing;
pub mod processes;
pub mod requests;

use std::ffi::CStr;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::errno::{Errno, from_libc};

fn count(value: isize) -> Result<usize, Errno> {
    usize::try_from(value).map_err(|_| Errno::last())
}

/// Takes ownership of what a call that makes a descriptor has just given.
fn fresh(value: i32) -> Result<OwnedFd, Errno> {
    if value < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the callers, all below, pass the result of a call that makes a descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(value) })
}

/// gettid(2).
pub fn thread_id() -> i32 {
    // SAFETY: no preconditions.
    unsafe { libc::gettid() }
}

/// read(2): bytes read, 0 at the end.
pub fn read(fd: &impl AsRawFd, to: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: a live buffer with its length.
    count(unsafe { libc::read(fd.as_raw_fd(), to.as_mut_ptr().cast(), to.len()) })
}

/// write(2): bytes written.
pub fn write(fd: &impl AsRawFd, from: &[u8]) -> Result<usize, Errno> {
    // SAFETY: a live buffer with its length.
    count(unsafe { libc::write(fd.as_raw_fd(), from.as_ptr().cast(), from.len()) })
}

/// pread(2).
pub fn read_at(fd: &impl AsRawFd, to: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
    // SAFETY: a live buffer with its length.
    count(unsafe { libc::pread(fd.as_raw_fd(), to.as_mut_ptr().cast(), to.len(), offset) })
}

/// User and group of the process: geteuid(2), getegid(2).
pub fn ids() -> (u32, u32) {
    // SAFETY: no preconditions.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// pwrite(2).
pub fn write_at(fd: &impl AsRawFd, from: &[u8], offset: u64) -> Result<usize, Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno(libc::EFBIG))?;
    // SAFETY: a live buffer with its length.
    count(unsafe { libc::pwrite(fd.as_raw_fd(), from.as_ptr().cast(), from.len(), offset) })
}

/// Where an open file is read and written next: lseek(2).
pub fn position(fd: &impl AsRawFd) -> Result<u64, Errno> {
    // SAFETY: no pointers.
    from_libc(unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_CUR) })
}

/// ftruncate(2).
pub fn set_length(fd: &impl AsRawFd, length: u64) -> Result<(), Errno> {
    let length = i64::try_from(length).map_err(|_| Errno(libc::EFBIG))?;
    // SAFETY: no pointers.
    from_libc(unsafe { libc::ftruncate(fd.as_raw_fd(), length) })?;
    Ok(())
}

/// The next range of a file at or after `from` that is no hole, by lseek(2), which moves the position; `None` when only holes follow.
pub fn next_content(fd: &impl AsRawFd, from: u64) -> Result<Option<(u64, u64)>, Errno> {
    let seek = |offset: u64, whence| {
        let offset = i64::try_from(offset).map_err(|_| Errno(libc::EFBIG))?;
        // SAFETY: no pointers.
        from_libc(unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) })
    };
    match seek(from, libc::SEEK_DATA) {
        Ok(start) => Ok(Some((start, seek(start, libc::SEEK_HOLE)?))),
        Err(Errno(libc::ENXIO)) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sets when a file was last read and changed: futimens(3).
pub fn set_times(fd: &impl AsRawFd, time: libc::timespec) -> Result<(), Errno> {
    let times = [time, time];
    // SAFETY: two live timespecs.
    from_libc(unsafe { libc::futimens(fd.as_raw_fd(), times.as_ptr()) })?;
    Ok(())
}

/// recv(2).
pub fn receive(fd: &impl AsRawFd, to: &mut [u8], flags: i32) -> Result<usize, Errno> {
    // SAFETY: a live buffer with its length.
    count(unsafe { libc::recv(fd.as_raw_fd(), to.as_mut_ptr().cast(), to.len(), flags) })
}

/// send(2).
pub fn send(fd: &impl AsRawFd, from: &[u8], flags: i32) -> Result<usize, Errno> {
    // SAFETY: a live buffer with its length.
    count(unsafe { libc::send(fd.as_raw_fd(), from.as_ptr().cast(), from.len(), flags) })
}

/// sendmsg(2) of several pieces, without a name or control data.
pub fn send_pieces(fd: &impl AsRawFd, pieces: &[IoSlice<'_>], flags: i32) -> Result<usize, Errno> {
    // SAFETY: a msghdr may be zero: no name, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len();
    // SAFETY: an IoSlice has the layout of an iovec (its documentation says so); the pieces live, and are only read.
    count(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) })
}

/// poll(2), `patience` in milliseconds, -1 for ever: how many have an event.
pub fn poll(polls: &mut [libc::pollfd], patience: i32) -> Result<usize, Errno> {
    let length = libc::nfds_t::try_from(polls.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: a live slice of pollfds with its length.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), length, patience) };
    usize::try_from(ready).map_err(|_| Errno::last())
}

/// fstat(2).
pub fn stat(fd: &impl AsRawFd) -> Result<libc::stat, Errno> {
    let mut stat = MaybeUninit::uninit();
    // SAFETY: the buffer is a struct stat, which fstat fills when it succeeds.
    from_libc(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: filled above.
    Ok(unsafe { stat.assume_init() })
}

/// The flags of an open file: fcntl(2), F_GETFL.
pub fn flags(fd: &impl AsRawFd) -> Result<i32, Errno> {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 { Err(Errno::last()) } else { Ok(flags) }
}

/// Adds O_NONBLOCK to the flags of an open file.
pub fn set_nonblocking(fd: &impl AsRawFd) -> Result<(), Errno> {
    let flags = flags(fd)? | libc::O_NONBLOCK;
    // SAFETY: no pointers.
    from_libc(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) })?;
    Ok(())
}

/// A copy of a descriptor, closed on exec, with the lowest free number from `floor` on.
pub fn duplicate(fd: &impl AsRawFd, floor: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers; what it gives is new.
    fresh(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, floor) })
}

/// Makes `number` a copy of `fd`, whatever it was before: dup2(2). Only for numbers that nothing in Rust owns.
pub fn replace(fd: &impl AsRawFd, number: RawFd) -> Result<(), Errno> {
    // SAFETY: no pointers.
    from_libc(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
    Ok(())
}

/// The same by dup3(2).
pub fn replace_with(fd: &impl AsRawFd, number: RawFd, flags: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    from_libc(unsafe { libc::dup3(fd.as_raw_fd(), number, flags) })?;
    Ok(())
}

/// Sets the flags of an open file: fcntl(2), F_SETFL.
pub fn set_flags(fd: &impl AsRawFd, flags: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    from_libc(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) })?;
    Ok(())
}

/// pipe2(2), closed on exec: where to read, where to write.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut ends = [-1; 2];
    // SAFETY: a local array of two.
    from_libc(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((fresh(ends[0])?, fresh(ends[1])?))
}

/// epoll_ctl(2), EPOLL_CTL_ADD.
pub fn watch(set: &impl AsRawFd, fd: RawFd, mut event: libc::epoll_event) -> Result<(), Errno> {
    // SAFETY: a live event.
    from_libc(unsafe { libc::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
    Ok(())
}

/// getsockopt(2): how many bytes the option has, of which those that fit are in `to`.
pub fn socket_option(fd: &impl AsRawFd, level: i32, option: i32, to: &mut [u8]) -> Result<usize, Errno> {
    let mut size = libc::socklen_t::try_from(to.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: a live buffer with its length.
    from_libc(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            option,
            to.as_mut_ptr().cast(),
            &raw mut size,
        )
    })?;
    usize::try_from(size).map_err(|_| Errno::INVAL)
}

/// eventfd2(2), closed on exec, not blocking.
pub fn eventfd() -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    fresh(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// memfd_create(2), closed on exec.
pub fn memory_file(name: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: a C string that lives.
    fresh(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })
}

/// A memory file that can be sealed, closed on exec.
pub fn sealable_file(name: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: a C string that lives.
    fresh(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) })
}

/// What can no more be done with a memory file: fcntl(2), F_GET_SEALS.
pub fn seals(fd: &impl AsRawFd) -> Result<i32, Errno> {
    // SAFETY: no pointers.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 { Err(Errno::last()) } else { Ok(seals) }
}

/// F_ADD_SEALS.
pub fn add_seals(fd: &impl AsRawFd, seals: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    from_libc(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(())
}

/// socketpair(2) of unix sockets, closed on exec.
pub fn socket_pair(kind: i32) -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut ends = [-1; 2];
    // SAFETY: a local array of two.
    from_libc(unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) })?;
    Ok((fresh(ends[0])?, fresh(ends[1])?))
}

/// signalfd4(2) for a set of signals, bit 0 being signal 1.
pub fn signalfd(mask: u64, flags: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel reads a set of the 8 bytes given.
    let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, 8, flags) };
    fresh(i32::try_from(fd).unwrap_or(-1))
}

/// The version of landlock(7), or -1.
pub fn landlock_version() -> libc::c_long {
    const VERSION: u32 = 1;
    let nothing = std::ptr::null::<u8>();
    // SAFETY: with this flag and no attributes the call only answers a number.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, VERSION) }
}

/// listen(2).
pub fn listen(fd: &impl AsRawFd, backlog: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    from_libc(unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    Ok(())
}

/// shutdown(2) of both directions. What is no connection any more needs none.
pub fn shutdown(fd: &impl AsRawFd) {
    // SAFETY: no pointers.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
}

/// getrandom(2): fills the buffer.
pub fn random(to: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: a live buffer with its length.
    match count(unsafe { libc::getrandom(to.as_mut_ptr().cast(), to.len(), 0) })? {
        all if all == to.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// Changes the calling thread's signal mask, with the kernel's own 64-bit set: libc hides two signals from its callers. Gives the
/// mask before.
pub fn change_mask(how: i32, mask: u64) -> u64 {
    let mut before = 0_u64;
    // SAFETY: two live words of the size given.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const mask,
            &raw mut before,
            8_usize,
        )
    };
    before
}

/// kill(2).
pub fn kill(pid: libc::pid_t, signal: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    from_libc(unsafe { libc::kill(pid, signal) })?;
    Ok(())
}

/// tgkill(2) in this process. A thread that has just ended needs no signal.
pub fn signal_thread(thread: i32, signal: i32) {
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
}

/// getpid(2).
pub fn process_id() -> libc::pid_t {
    // SAFETY: no preconditions.
    unsafe { libc::getpid() }
}

/// getppid(2).
pub fn parent_id() -> libc::pid_t {
    // SAFETY: no preconditions.
    unsafe { libc::getppid() }
}

/// close(2). Only of numbers that nothing in Rust goes on to use.
pub fn close(fd: RawFd) {
    // SAFETY: no pointers; a number that is not open is answered with an error.
    unsafe { libc::close(fd) };
}

/// Whether a descriptor is closed on exec.
pub fn closes_on_exec(fd: &impl AsRawFd) -> Result<bool, Errno> {
    // SAFETY: no pointers.
    Ok(from_libc(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) })? != 0)
}

/// Says whether a descriptor is closed on exec.
pub fn set_close_on_exec(fd: &impl AsRawFd, closed: bool) -> Result<(), Errno> {
    let flags = if closed { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: no pointers.
    from_libc(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) })?;
    Ok(())
}

/// Asks for `signal` when the thread that made this process ends: prctl(2).
pub fn set_parent_death_signal(signal: i32) -> Result<(), Errno> {
    let signal = libc::c_long::from(signal);
    // SAFETY: an option with a number.
    from_libc(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0_i64, 0_i64, 0_i64) })?;
    Ok(())
}

/// Takes up the orphans among the descendants of this process: prctl(2).
pub fn adopt_orphans() -> Result<(), Errno> {
    // SAFETY: an option with a number.
    from_libc(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1_i64, 0_i64, 0_i64, 0_i64) })?;
    Ok(())
}

/// No core, and no tracing by others of the same user: prctl(2). An exec undoes it.
pub fn set_undumpable() -> Result<(), Errno> {
    // SAFETY: an option with a number.
    from_libc(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0_i64, 0_i64, 0_i64, 0_i64) })?;
    Ok(())
}

/// A word of the auxiliary vector that this process was started with, 0 if there is none: getauxval(3).
pub fn auxiliary(key: u64) -> u64 {
    // SAFETY: no preconditions.
    unsafe { libc::getauxval(key) }
}

/// clock_gettime(2).
pub fn clock(clock: i32) -> Result<[i64; 2], Errno> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the C library's function, which reads the host's vDSO; a live timespec.
    from_libc(unsafe { libc::clock_gettime(clock, &raw mut time) })?;
    Ok([time.tv_sec, time.tv_nsec])
}

/// The process's times of user and system: getrusage(2).
pub fn used() -> [[i64; 2]; 2] {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the buffer is a struct rusage; should the call fail it stays zero, which is valid too.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    [usage.ru_utime, usage.ru_stime].map(|time| [time.tv_sec, time.tv_usec * 1000])
}

/// clock_getres(2).
pub fn clock_resolution(clock: i32) -> Result<[i64; 2], Errno> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live timespec.
    from_libc(unsafe { libc::clock_getres(clock, &raw mut time) })?;
    Ok([time.tv_sec, time.tv_nsec])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_in_pieces_arrives_as_one() {
        let (near, far) = socket_pair(libc::SOCK_SEQPACKET).unwrap();
        assert_eq!(
            send_pieces(&near, &[IoSlice::new(b"ab"), IoSlice::new(b"c")], 0),
            Ok(3)
        );
        let mut buffer = [0; 8];
        assert_eq!(receive(&far, &mut buffer, 0), Ok(3));
        assert_eq!(&buffer[..3], b"abc");
    }

    #[test]
    fn a_number_that_is_not_open_is_said_so() {
        assert_eq!(read(&-1, &mut [0; 1]), Err(Errno::BADF));
        assert_eq!(stat(&-1).err(), Some(Errno::BADF));
        assert_eq!(duplicate(&-1, 0).err(), Some(Errno::BADF));
    }
}
