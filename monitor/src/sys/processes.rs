//! Processes: made, replaced, ended; their limits and how they take signals.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::RawFd;

use crate::errno::{Errno, from_libc};
use crate::memory::HostStack;

/// The niceness of what runs when nobody else wants to.
const LOWEST: i32 = 19;

/// fork(2), as it answers. The child has this thread alone: a lock that another one holds stays locked there.
pub fn fork() -> libc::pid_t {
    // SAFETY: no preconditions; both go on from here, each with memory of its own.
    unsafe { libc::fork() }
}

/// Runs `child` in a process that shares this one's memory, on `stack`, while this thread sleeps until that has ended or executed a
/// program: clone(2) with CLONE_VM and CLONE_VFORK, as it answers.
pub fn share<T>(stack: &HostStack, with: &mut T, child: fn(&mut T) -> i32) -> libc::pid_t {
    struct Start<'a, T> {
        with: &'a mut T,
        child: fn(&mut T) -> i32,
    }
    extern "C" fn begin<T>(argument: *mut libc::c_void) -> i32 {
        // SAFETY: the structure below, whose thread sleeps.
        let start = unsafe { &mut *argument.cast::<Start<'_, T>>() };
        (start.child)(start.with)
    }
    let mut start = Start { with, child };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: a stack of its own, which lives until the call has returned; the borrow is the child's alone while this thread sleeps.
    unsafe { libc::clone(begin::<T>, stack.top(), flags, (&raw mut start).cast()) }
}

/// execve(2) of an open file, or of this program's own, without an environment. Returns only if it failed.
pub fn execute(file: Option<RawFd>, words: &[&CStr]) -> Errno {
    let words: Vec<_> = words
        .iter()
        .map(|word| word.as_ptr())
        .chain([std::ptr::null()])
        .collect();
    let nothing: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: NUL-terminated strings in NULL-terminated lists; an empty path means the descriptor by the flag.
    unsafe {
        match file {
            Some(file) => {
                libc::syscall(
                    libc::SYS_execveat,
                    file,
                    c"".as_ptr(),
                    words.as_ptr(),
                    nothing.as_ptr(),
                    libc::AT_EMPTY_PATH,
                );
            }
            None => {
                libc::execve(c"/proc/self/exe".as_ptr(), words.as_ptr(), nothing.as_ptr());
            }
        }
    }
    Errno::last()
}

/// Ends this process at once, without destructors: the kernel takes everything back.
pub fn end(status: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(status) }
}

/// getrlimit(2): what is in force, and the most it may become.
pub fn limit(resource: libc::__rlimit_resource_t) -> Result<[u64; 2], Errno> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a live rlimit.
    from_libc(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    Ok([limit.rlim_cur, limit.rlim_max])
}

/// setrlimit(2).
pub fn set_limit(resource: libc::__rlimit_resource_t, [now, most]: [u64; 2]) -> Result<(), Errno> {
    let limit = libc::rlimit {
        rlim_cur: now,
        rlim_max: most,
    };
    // SAFETY: a live rlimit.
    from_libc(unsafe { libc::setrlimit(resource, &raw const limit) })?;
    Ok(())
}

/// Takes a signal as the kernel does by default, or not at all.
pub fn reset_signal(signal: i32, ignored: bool) {
    let action = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: no handler.
    unsafe { libc::signal(signal, action) };
}

/// Sets the mask of what files are made without, and gives the one before: umask(2).
pub fn set_file_mask(mask: libc::mode_t) -> libc::mode_t {
    // SAFETY: no pointers.
    unsafe { libc::umask(mask) }
}

/// Processor time that all threads of a process have used: clock_getcpuclockid(3), clock_gettime(2).
pub fn processor_time(pid: libc::pid_t) -> Result<std::time::Duration, Errno> {
    // The kernel's numbers for clocks of a process: the complement of its pid over three bits, of which 2 is the scheduler's count.
    let [seconds, nanoseconds] = super::clock((!pid) << 3 | 2)?;
    let whole = u64::try_from(seconds).map_err(|_| Errno::INVAL)?;
    Ok(std::time::Duration::new(
        whole,
        u32::try_from(nanoseconds).map_err(|_| Errno::INVAL)?,
    ))
}

/// The lowest priority, for all threads of all processes of a group: setpriority(2).
pub fn lower_group(group: libc::pid_t) -> Result<(), Errno> {
    // SAFETY: no pointers.
    from_libc(unsafe { libc::setpriority(libc::PRIO_PGRP, group.cast_unsigned(), LOWEST) })?;
    Ok(())
}

/// The policy of what makes way at once, and whose processor counts as free, for a thread (0 is the calling one) and all that it starts
/// from then on: SCHED_IDLE of sched_setscheduler(2). Without a privilege there is no way back.
pub fn make_idle(thread: libc::pid_t) -> Result<(), Errno> {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: a live sched_param.
    from_libc(unsafe { libc::sched_setscheduler(thread, libc::SCHED_IDLE, &raw const priority) })?;
    Ok(())
}

/// getpgid(2).
pub fn group(pid: libc::pid_t) -> Result<libc::pid_t, Errno> {
    // SAFETY: no pointers.
    let group = unsafe { libc::getpgid(pid) };
    if group < 0 { Err(Errno::last()) } else { Ok(group) }
}

/// The node's name.
pub fn host_name() -> Vec<u8> {
    let mut name = [0u8; 65];
    // SAFETY: a live buffer, of which a byte stays zero.
    if unsafe { libc::gethostname(name.as_mut_ptr().cast(), 64) } != 0 {
        return Vec::new();
    }
    name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// Wakes all who wait for a word of memory that processes share: futex(2).
pub fn wake_all(word: &std::sync::atomic::AtomicU32) {
    // SAFETY: a live word, which is only named.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE,
            i32::MAX,
            0,
            0,
            0,
        )
    };
}

/// Waits for such a word while it is `value`; may return earlier.
pub fn wait_for(word: &std::sync::atomic::AtomicU32, value: u32) {
    let patience = std::ptr::null::<libc::timespec>();
    // SAFETY: a live word, which the kernel compares.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            value,
            patience,
            0,
            0,
        )
    };
}
