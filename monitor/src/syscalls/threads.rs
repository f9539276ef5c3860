//! Threads and what a process is: clone(2) of threads, futexes, identifiers, ends.
//!
//! One guest thread is one host thread with a vCPU. Futexes are the host's: the word lies at the shifted address.

use std::sync::{Arc, mpsc};

use super::futexes::wake_one;
use super::memory::int;
use super::processes::{Request, clone_process};
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::pids;
use crate::process::Process;
use crate::signals::host;
use crate::task::{Flow, Task};
use crate::vm::layout::PAGE;

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
        Level::Emulated,
        clone3,
        "as clone; ENOSYS for what clone does not have",
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
        libc::SYS_rseq,
        AREA,
        Level::Refused,
        refuse_rseq,
        "ENOSYS: glibc goes on without",
    ),
    entry(libc::SYS_gettid, AREA, Level::Emulated, gettid, ""),
    entry(libc::SYS_getpid, AREA, Level::Forwarded, getpid, ""),
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
    if let Some(kin) = task.process.kin() {
        kin.check_thread()?;
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

/// `struct clone_args`, its first version and the rest of what is known.
const CLONE_ARGS_FIRST: u64 = 64;
const CLONE_ARGS: usize = 11;

/// Implements clone3(2). What clone(2) cannot say is ENOSYS, so that the C library goes on with that.
fn clone3(task: &mut Task, [address, size, ..]: Args) -> SysResult {
    if size > PAGE {
        return Err(Errno(libc::E2BIG));
    }
    if size < CLONE_ARGS_FIRST {
        return Err(Errno::INVAL);
    }
    let bytes: Vec<u8> = access::read_array(address, size)?;
    let mut words = bytes.chunks(8).map(|word| {
        word.iter()
            .rev()
            .fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    });
    let mut known = [0_u64; CLONE_ARGS];
    for slot in &mut known {
        *slot = words.next().unwrap_or(0);
    }
    if words.any(|word| word != 0) {
        return Err(Errno(libc::E2BIG));
    }
    let [
        flags,
        _,
        child_tid,
        parent_tid,
        exit_signal,
        stack,
        stack_size,
        tls,
        _,
        set_tid,
        _,
    ] = known;
    let Ok(low) = u32::try_from(flags) else {
        return Err(Errno::NOSYS);
    };
    let is_thread = low.cast_signed() & libc::CLONE_THREAD != 0;
    if low & 0xff != 0
        || exit_signal > 64
        || (stack == 0) != (stack_size == 0)
        || (is_thread && exit_signal != 0)
        || set_tid != 0
    {
        return Err(Errno::INVAL);
    }
    if !is_thread && low.cast_signed() & !super::processes::UNDERSTOOD != 0 {
        return Err(Errno::NOSYS);
    }
    let top = stack.checked_add(stack_size).ok_or(Errno::INVAL)?;
    clone(task, [flags | exit_signal, top, parent_tid, child_tid, tls, 0])
}

impl Task {
    /// The end of a thread: clears and wakes its word, gives the vCPU back.
    pub fn finish(self) {
        host::block_all();
        host::attach(std::ptr::null_mut());
        let process = self.process;
        process.give_vcpu(self.vcpu);
        process.thread_went(self.tid);
        clear_and_wake(&process, self.clear_tid);
    }
}

/// What the kernel does with the word of CLONE_CHILD_CLEARTID when a thread has ended.
fn clear_and_wake(process: &Arc<Process>, address: u64) {
    if address == 0 || access::write(address, &0u32).is_err() {
        return;
    }
    let _ = wake_one(process, address);
}

/// Implements execveat(2) as a kernel without it.
pub fn refuse_absent(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::NOSYS)
}

/// Implements exit(2): the end of a thread, of the process with its last one.
fn exit(task: &mut Task, [status, ..]: Args) -> SysResult {
    if task.shared {
        crate::lifecycle::end_process(int(status));
    }
    if task.process.lock_threads().len() == 1 {
        super::futexes::give_up_all(&task.process);
        crate::lifecycle::exit(&task.process, int(status));
    }
    super::futexes::give_up(task);
    if task.main {
        // The main host thread stays: its end would make the process a zombie that runs.
        task.leave_main();
    }
    task.flow = Flow::ThreadEnd;
    Ok(0)
}

/// Implements exit_group(2).
fn exit_group(task: &mut Task, [status, ..]: Args) -> SysResult {
    if task.shared {
        crate::lifecycle::end_process(int(status));
    }
    super::futexes::give_up_all(&task.process);
    crate::lifecycle::exit(&task.process, int(status))
}

/// Implements set_tid_address(2).
fn set_tid_address(task: &mut Task, [address, ..]: Args) -> SysResult {
    task.clear_tid = address;
    Ok(u64::from(task.tid.unsigned_abs()))
}

/// Implements rseq(2) as a kernel without it.
fn refuse_rseq(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::NOSYS)
}

/// Implements gettid(2).
fn gettid(task: &mut Task, _: Args) -> SysResult {
    Ok(u64::from(task.tid.unsigned_abs()))
}

/// Implements getpid(2). In a clone the number is the boot's, but for a caller whose randomness must not be the boot's.
fn getpid(task: &mut Task, _: Args) -> SysResult {
    let pid = if reseeds(task) {
        pids::another_pid()
    } else {
        pids::pid()
    };
    Ok(u64::from(pid.unsigned_abs()))
}

/// Whether the call comes from a file that holds OpenSSL's generator (`snapshot::reseeding`). The C library's `getpid` has no frame:
/// its caller's address is on top of the stack.
fn reseeds(task: &Task) -> bool {
    if task.process.reseeding.is_empty() || !pids::are_kept() {
        return false;
    }
    let Ok(caller) = access::read::<u64>(task.registers.rsp) else {
        return false;
    };
    let origin = task
        .process
        .lock_space()
        .find(caller)
        .and_then(|(_, mapping)| mapping.origin);
    origin.is_some_and(|origin| task.process.reseeding.contains(&origin.object))
}

impl Task {
    /// The guest's main thread ended while others run: its host thread waits, asleep, for the end of the process.
    pub fn leave_main(&self) -> ! {
        host::block_all();
        self.process.thread_went(self.tid);
        clear_and_wake(&self.process, self.clear_tid);
        loop {
            std::thread::park();
        }
    }
}
