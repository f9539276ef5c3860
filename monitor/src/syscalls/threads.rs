//! Threads and what a process is: clone(2) of threads, futexes, identifiers, ends.
//!
//! One guest thread is one host thread with a vCPU. Futexes are the host's: the word lies at the shifted address.
#![allow(unsafe_code)]

use std::sync::mpsc;

use super::memory::int;
use super::processes::{Request, clone_process};
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::signals::host;
use crate::task::{Flow, Task};

const AREA: &str = "threads";

pub const ENTRIES: &[Entry] = &[
    entry(
        libc::SYS_clone,
        AREA,
        Level::Emulated,
        clone,
        "processes: ENOSYS in an instance",
    ),
    entry(
        libc::SYS_clone3,
        AREA,
        Level::Refused,
        refuse_absent,
        "ENOSYS: programs fall back to clone",
    ),
    entry(libc::SYS_exit, AREA, Level::Emulated, exit, ""),
    entry(libc::SYS_exit_group, AREA, Level::Emulated, exit_group, ""),
    entry(
        libc::SYS_set_tid_address,
        AREA,
        Level::Emulated,
        set_tid_address,
        "",
    ),
    entry(
        libc::SYS_set_robust_list,
        AREA,
        Level::Emulated,
        set_robust_list,
        "kept, not walked",
    ),
    entry(
        libc::SYS_get_robust_list,
        AREA,
        Level::Refused,
        refuse_robust,
        "EPERM",
    ),
    entry(
        libc::SYS_rseq,
        AREA,
        Level::Refused,
        refuse_rseq,
        "ENOSYS: glibc goes on without",
    ),
    entry(
        libc::SYS_futex,
        AREA,
        Level::Forwarded,
        futex,
        "on the shifted address",
    ),
    entry(libc::SYS_gettid, AREA, Level::Emulated, gettid, ""),
    entry(libc::SYS_getpid, AREA, Level::Forwarded, getpid, ""),
    entry(libc::SYS_sched_yield, AREA, Level::Forwarded, sched_yield, ""),
    entry(
        libc::SYS_sched_getaffinity,
        AREA,
        Level::Emulated,
        sched_getaffinity,
        "the host's CPUs",
    ),
    entry(
        libc::SYS_sched_setaffinity,
        AREA,
        Level::Emulated,
        accept,
        "accepted without effect",
    ),
    entry(
        libc::SYS_sched_getscheduler,
        AREA,
        Level::Emulated,
        accept,
        "SCHED_OTHER",
    ),
    entry(
        libc::SYS_sched_setscheduler,
        AREA,
        Level::Refused,
        refuse_robust,
        "EPERM",
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
        accept,
        "accepted without effect",
    ),
    entry(
        libc::SYS_sched_get_priority_max,
        AREA,
        Level::Emulated,
        accept,
        "0",
    ),
    entry(
        libc::SYS_sched_get_priority_min,
        AREA,
        Level::Emulated,
        accept,
        "0",
    ),
    entry(
        libc::SYS_getpriority,
        AREA,
        Level::Emulated,
        getpriority,
        "nice 0",
    ),
    entry(
        libc::SYS_setpriority,
        AREA,
        Level::Emulated,
        accept,
        "accepted without effect",
    ),
    entry(
        libc::SYS_membarrier,
        AREA,
        Level::Refused,
        refuse_absent,
        "ENOSYS: programs fall back",
    ),
    entry(
        libc::SYS_getcpu,
        AREA,
        Level::Forwarded,
        getcpu,
        "the host's CPUs",
    ),
];

/// Flags that make a thread, all of which it must have (as glibc, musl and Go give them).
const THREAD: i32 =
    libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
const UNDERSTOOD: i32 = THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_CHILD_SETTID
    | libc::CLONE_DETACHED
    | libc::CLONE_PTRACE
    | libc::CLONE_UNTRACED;

/// Host stack of a guest thread, bytes: handlers are shallow, and there may be hundreds.
const HOST_STACK: usize = 256 << 10;

/// Implements clone(2) for threads.
fn clone(task: &mut Task, [flags, stack, parent_tid, child_tid, tls, _]: Args) -> SysResult {
    let flags = int(flags);
    if flags & libc::CLONE_THREAD == 0 {
        return clone_process(
            task,
            Request {
                flags,
                stack,
                parent_tid,
                child_tid,
                tls,
            },
        );
    }
    if flags & THREAD != THREAD || flags & !UNDERSTOOD & !0xff != 0 {
        return Err(Errno::INVAL);
    }
    let vcpu = task.process.take_vcpu()?;
    let extended = task.vcpu.extended().map_err(|_| Errno::AGAIN)?;
    let mut registers = task.registers;
    registers.rax = 0;
    registers.rflags =
        registers.rflags & crate::signals::frame::USER_FLAGS | crate::signals::frame::FIXED_FLAGS;
    if stack != 0 {
        registers.rsp = stack;
    }
    let process = task.process.clone();
    let mask = task.mask;
    let (tell, told) = mpsc::sync_channel::<Result<i32, Errno>>(1);
    // The new host thread must not take a signal before it is the guest's.
    host::block_all();
    let spawned = std::thread::Builder::new().stack_size(HOST_STACK).spawn(move || {
        let mut thread = Task::new(process, vcpu, mask);
        let mut state = extended;
        if flags & libc::CLONE_SETTLS != 0 {
            state.fs_base = tls;
        }
        let ready = thread.vcpu.set_extended(&state).is_ok();
        thread.registers = registers;
        thread.vcpu.set_registers(registers);
        if flags & libc::CLONE_CHILD_CLEARTID != 0 {
            thread.clear_tid = child_tid;
        }
        // Both words are there before either thread goes on.
        if flags & libc::CLONE_PARENT_SETTID != 0 {
            let _ = access::write(parent_tid, &thread.tid);
        }
        if flags & libc::CLONE_CHILD_SETTID != 0 {
            let _ = access::write(child_tid, &thread.tid);
        }
        let _ = tell.send(if ready { Ok(thread.tid) } else { Err(Errno::AGAIN) });
        if ready {
            thread.run();
        }
        thread.finish();
    });
    let outcome = match spawned {
        Ok(_) => told.recv().unwrap_or(Err(Errno::AGAIN)),
        Err(_) => Err(Errno::AGAIN),
    };
    if host::pending() == 0 {
        host::set_mask(task.mask);
    }
    outcome.map(|tid| u64::from(tid.unsigned_abs()))
}

impl Task {
    /// The end of a thread: clears and wakes its word, gives the vCPU back.
    pub fn finish(self) {
        host::block_all();
        host::attach(std::ptr::null_mut());
        let process = self.process;
        process.lock_threads().retain(|thread| thread.tid != self.tid);
        process.threads.changed.notify_all();
        process.give_vcpu(self.vcpu);
        clear_and_wake(self.clear_tid);
    }
}

/// What the kernel does with the word of CLONE_CHILD_CLEARTID when a thread has ended.
fn clear_and_wake(address: u64) {
    if address == 0 || access::write(address, &0u32).is_err() {
        return;
    }
    if let Ok(word) = access::word(address) {
        // SAFETY: FUTEX_WAKE on a word of guest memory.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1, 0, 0, 0) };
    }
}

/// Implements clone3(2), membarrier(2), execveat(2) as a kernel without them.
pub fn refuse_absent(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::NOSYS)
}

/// Implements exit(2): the end of a thread, of the process with its last one.
fn exit(task: &mut Task, [status, ..]: Args) -> SysResult {
    if task.shared || task.process.lock_threads().len() == 1 {
        crate::lifecycle::exit(&task.process, int(status));
    }
    if task.main {
        // The main host thread stays: its end would make the process a zombie that runs.
        task.leave_main();
    }
    task.flow = Flow::ThreadEnd;
    Ok(0)
}

/// Implements exit_group(2).
fn exit_group(task: &mut Task, [status, ..]: Args) -> SysResult {
    crate::lifecycle::exit(&task.process, int(status))
}

/// Implements set_tid_address(2).
fn set_tid_address(task: &mut Task, [address, ..]: Args) -> SysResult {
    task.clear_tid = address;
    Ok(u64::from(task.tid.unsigned_abs()))
}

/// Implements set_robust_list(2).
fn set_robust_list(task: &mut Task, [head, length, ..]: Args) -> SysResult {
    if length != 24 {
        return Err(Errno::INVAL);
    }
    task.robust_list = head;
    Ok(0)
}

/// Implements get_robust_list(2), sched_setscheduler(2) without the privilege.
fn refuse_robust(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::PERM)
}

/// Implements rseq(2) as a kernel without it.
fn refuse_rseq(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::NOSYS)
}

/// Implements futex(2).
fn futex(task: &mut Task, [word, operation, value, timeout, second, value3]: Args) -> SysResult {
    const WAIT_BITSET: i32 = 9;
    const WAIT_REQUEUE_PI: i32 = 11;
    const LOCK_PI2: i32 = 13;
    let command = int(operation) & 0x7f;
    let address = access::word(word)?;
    let waits = matches!(
        command,
        libc::FUTEX_WAIT | libc::FUTEX_LOCK_PI | WAIT_BITSET | WAIT_REQUEUE_PI | LOCK_PI2
    );
    let clock = if command == libc::FUTEX_LOCK_PI || int(operation) & libc::FUTEX_CLOCK_REALTIME != 0 {
        libc::CLOCK_REALTIME
    } else {
        libc::CLOCK_MONOTONIC
    };
    let limit: Option<[i64; 2]> = if waits && timeout != 0 {
        let limit = access::read(timeout)?;
        Some(if command == libc::FUTEX_WAIT {
            task.time_left(limit)
        } else {
            crate::clock::to_host(clock, limit)
        })
    } else {
        None
    };
    let fourth = match &limit {
        Some(limit) => std::ptr::from_ref(limit) as u64,
        None if waits => 0,
        // A count for the requeue and wake-op commands.
        None => timeout,
    };
    let needs_second = matches!(
        command,
        libc::FUTEX_REQUEUE
            | libc::FUTEX_CMP_REQUEUE
            | libc::FUTEX_WAKE_OP
            | WAIT_REQUEUE_PI
            | libc::FUTEX_CMP_REQUEUE_PI
    );
    let second = if needs_second { access::word(second)? } else { 0 };
    // SAFETY: two words of guest memory and a local timeout; FUTEX_FD and unknown commands take no pointers.
    unsafe {
        task.host(
            libc::SYS_futex,
            [address, operation, value, fourth, second, value3],
        )
    }
}

/// Implements gettid(2).
fn gettid(task: &mut Task, _: Args) -> SysResult {
    Ok(u64::from(task.tid.unsigned_abs()))
}

/// Implements getpid(2).
fn getpid(_: &mut Task, _: Args) -> SysResult {
    // SAFETY: getpid has no preconditions.
    Ok(u64::from(unsafe { libc::getpid() }.unsigned_abs()))
}

pub fn accept(_: &mut Task, _: Args) -> SysResult {
    Ok(0)
}

/// Implements sched_yield(2).
fn sched_yield(task: &mut Task, _: Args) -> SysResult {
    // SAFETY: no pointers.
    unsafe { task.host(libc::SYS_sched_yield, [0; 6]) }
}

/// Implements sched_getaffinity(2).
fn sched_getaffinity(task: &mut Task, [_, size, set, ..]: Args) -> SysResult {
    if size < 8 || !size.is_multiple_of(8) {
        return Err(Errno::INVAL);
    }
    let mut host_set = [0u8; 128];
    // SAFETY: the kernel writes at most 128 bytes to a local.
    let written = unsafe {
        task.host(
            libc::SYS_sched_getaffinity,
            [0, 128, host_set.as_mut_ptr() as u64, 0, 0, 0],
        )?
    };
    let length = written.min(size);
    access::write_bytes(
        set,
        &host_set[..usize::try_from(length).map_err(|_| Errno::INVAL)?],
    )?;
    Ok(length)
}

/// Implements sched_getparam(2).
fn sched_getparam(_: &mut Task, [_, parameter, ..]: Args) -> SysResult {
    access::write(parameter, &0i32)?;
    Ok(0)
}

/// Implements getpriority(2): the kernel gives 20 minus the nice value.
fn getpriority(_: &mut Task, _: Args) -> SysResult {
    Ok(20)
}

/// Implements getcpu(2): a guest thread is on the processor of its host thread.
fn getcpu(task: &mut Task, [cpu, node, ..]: Args) -> SysResult {
    let mut on = [0u32; 2];
    let [first, second] = &mut on;
    // SAFETY: two local words.
    unsafe {
        task.host(
            libc::SYS_getcpu,
            [
                std::ptr::from_mut(first) as u64,
                std::ptr::from_mut(second) as u64,
                0,
                0,
                0,
                0,
            ],
        )?
    };
    for (address, value) in [cpu, node].into_iter().zip(on) {
        if address != 0 {
            access::write(address, &value)?;
        }
    }
    Ok(0)
}

impl Task {
    /// The guest's main thread ended while others run: its host thread waits, asleep, for the end of the process.
    fn leave_main(&self) -> ! {
        host::block_all();
        self.process
            .lock_threads()
            .retain(|thread| thread.tid != self.tid);
        self.process.threads.changed.notify_all();
        clear_and_wake(self.clear_tid);
        loop {
            std::thread::park();
        }
    }
}
