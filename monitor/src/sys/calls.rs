//! System calls that the guest's become, with arguments whose memory is checked by the call's signature.
//!
//! A handler names the call and gives numbers, buffers, and ranges of guest memory; `SIGNATURES`, in the form of `shapes`, says which argument
//! may be what. Invariant: the kernel gets a pointer only where the signature has one, only to a buffer of the size that the
//! signature asks for (or a range that `memory::access` has checked), and writes only where the buffer was borrowed to be written. A call
//! without a signature is ENOSYS, a call that does not fit it EFAULT: both are faults of the monitor, and tests find them.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::CStr;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::requests::{Content, content};
use crate::errno::{Errno, SysResult, from_libc};
use crate::memory::access::{HostAddress, Pieces};
use crate::signals::host;

/// An argument.
pub enum Arg<'a> {
    Value(u64),
    In(&'a [u8]),
    Out(&'a mut [u8]),
    /// A word that is read and written, and looked at again while the call may be made once more.
    Word(&'a Cell<i64>),
    Name(&'a CStr),
    /// A checked range of guest memory.
    Guest(HostAddress),
    /// Several of them.
    List(&'a Pieces),
}

pub fn value(value: u64) -> Arg<'static> {
    Arg::Value(value)
}

/// A structure or a list that the kernel reads.
pub fn input<T: IntoBytes + Immutable + ?Sized>(from: &T) -> Arg<'_> {
    Arg::In(from.as_bytes())
}

/// A structure or a list that the kernel fills, or reads and changes.
pub fn output<T: IntoBytes + FromBytes + ?Sized>(to: &mut T) -> Arg<'_> {
    Arg::Out(to.as_mut_bytes())
}

/// What an argument is.
#[derive(Clone, Copy)]
enum Shape {
    Value,
    /// Zero: a pointer that is not given.
    Null,
    /// Memory of so many bytes, or none.
    In(usize),
    Out(usize),
    /// Memory of as many pieces of a size as another argument says, or none.
    Ins(usize, usize),
    Outs(usize, usize),
    /// A set of as many bits as the first argument says, in words.
    Bits,
    /// A byte for each page of as many bytes as the second argument says.
    Pages,
    Name,
    /// `iovec`s of guest memory, as many as the third argument says.
    List,
}

/// `struct timespec`, `timeval`; `itimerspec`, `tms`; `siginfo_t`; `rusage`; `flock`; `epoll_event`; `pollfd`; `new_utsname`.
const TIME: usize = 16;
const TIMES: usize = 32;
const INFO: usize = 128;
const USAGE: usize = 144;
const LOCK: usize = size_of::<libc::flock>();
const EVENT: usize = size_of::<libc::epoll_event>();
const POLL: usize = size_of::<libc::pollfd>();
const NAMES: usize = 6 * 65;

fn shapes(number: libc::c_long, values: [u64; 2]) -> Option<[Shape; 6]> {
    use Shape::{Bits, In, Ins, List, Name, Null, Out, Outs, Pages, Value as V};
    let [_, second] = values;
    let shapes = match number {
        libc::SYS_lseek
        | libc::SYS_ftruncate
        | libc::SYS_fallocate
        | libc::SYS_fadvise64
        | libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_tee
        | libc::SYS_close
        | libc::SYS_close_range
        | libc::SYS_dup
        | libc::SYS_dup2
        | libc::SYS_dup3
        | libc::SYS_flock
        | libc::SYS_epoll_create1
        | libc::SYS_eventfd2
        | libc::SYS_inotify_init1
        | libc::SYS_inotify_rm_watch
        | libc::SYS_pidfd_open
        | libc::SYS_timerfd_create
        | libc::SYS_sched_yield
        | libc::SYS_sched_getscheduler
        | libc::SYS_getpriority
        | libc::SYS_setpriority
        | libc::SYS_membarrier
        | libc::SYS_pause
        | libc::SYS_alarm
        | libc::SYS_kill
        | libc::SYS_tgkill
        | libc::SYS_shutdown
        | libc::SYS_umask
        | libc::SYS_getpgrp
        | libc::SYS_getpgid
        | libc::SYS_getsid
        | libc::SYS_setpgid
        | libc::SYS_setsid => [V; 6],
        libc::SYS_fcntl => [V, V, of_fcntl(second), V, V, V],
        libc::SYS_ioctl => match content(second)? {
            Content::Number => [V; 6],
            Content::In(size) => [V, V, In(size), V, V, V],
            Content::Out(size) => [V, V, Out(size), V, V, V],
        },
        libc::SYS_prctl => match values[0].try_into() {
            Ok(libc::PR_GET_NAME) => [V, Out(16), V, V, V, V],
            Ok(libc::PR_SET_NAME) => [V, In(16), V, V, V, V],
            Ok(
                libc::PR_SET_PDEATHSIG
                | libc::PR_SET_CHILD_SUBREAPER
                | libc::PR_SET_TIMERSLACK
                | libc::PR_GET_TIMERSLACK,
            ) => [V; 6],
            _ => return None,
        },
        libc::SYS_read | libc::SYS_pread64 => [V, Outs(2, 1), V, V, V, V],
        libc::SYS_write | libc::SYS_pwrite64 => [V, Ins(2, 1), V, V, V, V],
        libc::SYS_readv
        | libc::SYS_writev
        | libc::SYS_preadv
        | libc::SYS_pwritev
        | libc::SYS_preadv2
        | libc::SYS_pwritev2
        | libc::SYS_vmsplice => [V, List, V, V, V, V],
        libc::SYS_sendfile => [V, V, Out(8), V, V, V],
        libc::SYS_copy_file_range | libc::SYS_splice => [V, Out(8), V, Out(8), V, V],
        libc::SYS_openat => [V, Name, V, V, V, V],
        libc::SYS_openat2 => [V, Name, Ins(3, 1), V, V, V],
        libc::SYS_memfd_create => [Name, V, V, V, V, V],
        libc::SYS_pipe2 => [Out(8), V, V, V, V, V],
        libc::SYS_socketpair => [V, V, V, Out(8), V, V],
        libc::SYS_accept4 => [V, Null, Null, V, V, V],
        libc::SYS_setsockopt => [V, V, V, Ins(4, 1), V, V],
        libc::SYS_ppoll => [Outs(1, POLL), V, Out(TIME), Ins(4, 1), V, V],
        libc::SYS_pselect6 => [V, Bits, Bits, Bits, Out(TIME), Null],
        libc::SYS_epoll_ctl => [V, V, V, In(EVENT), V, V],
        libc::SYS_epoll_pwait2 => [V, Outs(2, EVENT), V, In(TIME), Null, V],
        libc::SYS_signalfd4 => [V, Ins(2, 1), V, V, V, V],
        libc::SYS_pidfd_send_signal => [V, V, In(INFO), V, V, V],
        libc::SYS_rt_sigpending => [Outs(1, 1), V, V, V, V, V],
        libc::SYS_rt_sigtimedwait => [Ins(3, 1), Out(INFO), In(TIME), V, V, V],
        libc::SYS_rt_sigqueueinfo => [V, V, In(INFO), V, V, V],
        libc::SYS_rt_tgsigqueueinfo => [V, V, V, In(INFO), V, V],
        libc::SYS_wait4 => [V, Out(4), V, Out(USAGE), V, V],
        libc::SYS_waitid => [V, V, Out(INFO), V, Out(USAGE), V],
        libc::SYS_sched_getaffinity => [V, V, Outs(1, 1), V, V, V],
        libc::SYS_sched_setaffinity => [V, V, Ins(1, 1), V, V, V],
        libc::SYS_sched_setscheduler => [V, V, In(4), V, V, V],
        libc::SYS_sched_getattr => [V, Outs(2, 1), V, V, V, V],
        libc::SYS_sched_rr_get_interval | libc::SYS_clock_getres => [V, Out(TIME), V, V, V, V],
        libc::SYS_getcpu => [Out(4), Out(4), Null, V, V, V],
        libc::SYS_getitimer | libc::SYS_timerfd_gettime => [V, Out(TIMES), V, V, V, V],
        libc::SYS_setitimer => [V, In(TIMES), Out(TIMES), V, V, V],
        libc::SYS_timerfd_settime => [V, V, In(TIMES), Out(TIMES), V, V],
        libc::SYS_clock_nanosleep => [V, V, In(TIME), Out(TIME), V, V],
        libc::SYS_nanosleep => [In(TIME), Out(TIME), V, V, V, V],
        libc::SYS_times => [Out(TIMES), V, V, V, V, V],
        libc::SYS_getrusage => [V, Out(USAGE), V, V, V, V],
        libc::SYS_uname => [Out(NAMES), V, V, V, V, V],
        libc::SYS_getrandom => [Outs(1, 1), V, V, V, V, V],
        libc::SYS_futex => [Out(4), V, V, of_futex(second), Out(4), V],
        libc::SYS_msync => [Ins(1, 1), V, V, V, V, V],
        libc::SYS_mincore => [Ins(1, 1), V, Pages, V, V, V],
        _ => return None,
    };
    Some(shapes)
}

/// The fourth argument of futex(2): how long to wait, or a number.
fn of_futex(operation: u64) -> Shape {
    let command = i32::try_from(operation & 0x7f);
    match command {
        Ok(
            libc::FUTEX_WAIT
            | libc::FUTEX_WAIT_BITSET
            | libc::FUTEX_LOCK_PI
            | libc::FUTEX_LOCK_PI2
            | libc::FUTEX_WAIT_REQUEUE_PI,
        ) => Shape::In(TIME),
        _ => Shape::Value,
    }
}

fn of_fcntl(command: u64) -> Shape {
    const F_SETOWN_EX: i32 = 15;
    const F_GETOWN_EX: i32 = 16;
    const F_GETOWNER_UIDS: i32 = 17;
    match command.try_into() {
        Ok(libc::F_GETLK | libc::F_OFD_GETLK) => Shape::Out(LOCK),
        Ok(libc::F_SETLK | libc::F_SETLKW | libc::F_OFD_SETLK | libc::F_OFD_SETLKW) => Shape::In(LOCK),
        Ok(F_GETOWN_EX | F_GETOWNER_UIDS) => Shape::Out(8),
        Ok(F_SETOWN_EX) => Shape::In(8),
        // All others take a number, or nothing.
        _ => Shape::Value,
    }
}

/// The arguments as the kernel takes them.
fn checked(number: libc::c_long, args: &mut [Arg<'_>]) -> Result<[u64; 6], Errno> {
    let mut values = [0; 6];
    for (value, arg) in values.iter_mut().zip(args.iter()) {
        if let Arg::Value(given) = arg {
            *value = *given;
        }
    }
    let shapes = shapes(number, [values[0], values[1]]).ok_or(Errno::NOSYS)?;
    let sized = |index: usize, unit: usize| {
        let count = usize::try_from(values[index]).unwrap_or(usize::MAX);
        count.saturating_mul(unit)
    };
    let pages = sized(1, 1).div_ceil(4096);
    let bits = sized(0, 1).div_ceil(64).saturating_mul(8);
    let mut registers = values;
    for ((register, arg), shape) in registers.iter_mut().zip(args.iter_mut()).zip(shapes) {
        let (room, written) = match shape {
            Shape::In(size) => (size, false),
            Shape::Out(size) => (size, true),
            Shape::Ins(by, unit) => (sized(by, unit), false),
            Shape::Outs(by, unit) => (sized(by, unit), true),
            Shape::Bits => (bits, true),
            Shape::Pages => (pages, true),
            Shape::Value | Shape::Null | Shape::Name | Shape::List => (usize::MAX, true),
        };
        *register = match (arg, shape) {
            (Arg::Value(value), Shape::Value) => *value,
            (Arg::Value(0), _) => 0,
            (Arg::Name(name), Shape::Name) => name.as_ptr() as u64,
            (Arg::List(pieces), Shape::List) if pieces.count() as u64 == values[2] => pieces.as_ptr() as u64,
            // Whatever its length: it is the guest's memory, or none, for as long as its addresses are.
            (Arg::Guest(at), shape)
                if !matches!(shape, Shape::Value | Shape::Null | Shape::Name | Shape::List) =>
            {
                at.get()
            }
            (Arg::In(bytes), _) if !written && bytes.len() >= room => bytes.as_ptr() as u64,
            (Arg::Out(bytes), _) if bytes.len() >= room => bytes.as_mut_ptr() as u64,
            (Arg::Word(word), _) if size_of::<i64>() >= room => word.as_ptr() as u64,
            _ => return Err(Errno::FAULT),
        };
    }
    Ok(registers)
}

/// Makes a call that a signal of this thread ends, or keeps from being made (`crate::host`).
pub fn interruptible(number: libc::c_long, args: &mut [Arg<'_>]) -> SysResult {
    let registers = checked(number, args)?;
    // SAFETY: by the invariant above; the buffers are borrowed until the call has returned.
    unsafe { host::call(number, registers) }
}

/// Makes a call whatever signals wait.
pub fn direct(number: libc::c_long, args: &mut [Arg<'_>]) -> SysResult {
    let [a, b, c, d, e, f] = checked(number, args)?;
    // SAFETY: as above.
    from_libc(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_gets_memory_only_by_its_signature() {
        let mut ends = [0_i32; 2];
        assert_eq!(
            direct(
                libc::SYS_pipe2,
                &mut [output(&mut ends), value(libc::O_CLOEXEC as u64)]
            ),
            Ok(0)
        );
        let [read, write] = ends.map(|fd| u64::from(fd.unsigned_abs()));
        let mut buffer = [0u8; 4];
        assert_eq!(
            direct(libc::SYS_write, &mut [value(write), input(b"text"), value(4)]),
            Ok(4)
        );
        for (args, errno) in [
            ([value(read), output(&mut [0u8; 3]), value(4)], Errno::FAULT),
            ([value(read), input(b"text"), value(4)], Errno::FAULT),
            ([value(read), value(0x1000), value(4)], Errno::FAULT),
            ([output(&mut [0u8; 8]), value(0), value(0)], Errno::FAULT),
        ] {
            let mut args = args;
            assert_eq!(direct(libc::SYS_read, &mut args), Err(errno));
        }
        assert_eq!(
            direct(libc::SYS_read, &mut [value(read), output(&mut buffer), value(4)]),
            Ok(4)
        );
        assert_eq!(&buffer, b"text");
        assert_eq!(direct(libc::SYS_execve, &mut []), Err(Errno::NOSYS));
        for fd in [read, write] {
            assert_eq!(direct(libc::SYS_close, &mut [value(fd)]), Ok(0));
        }
    }
}
