//! Child processes: fork(2), vfork(2), clone(2) of a process, execve(2), waiting.
//!
//! One guest process is one host process, so pipes, descriptors, waiting, job control and exit statuses are the host's.
//! A fork is a host fork in which the child makes a VM of its own over its copy of the memory. A vfork is a host vfork: the child
//! shares the address space, so KVM lets it run the parent's own vCPU until it ends or executes. execve is an execve of the
//! monitor, which finds in a memory file what to run: what the kernel keeps over an exec is kept by the kernel.
//!
//! For `run` only. An instance has one process: its calls answer ENOSYS (`processes` in docs/decisions.md).
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::memory::int;
use super::threads::{accept, refuse_absent};
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult, from_libc};
use crate::fs::descriptors::{MONITOR_FD_FLOOR, exclusive};
use crate::memory::access;
use crate::run::Image;
use crate::signals::host;
use crate::task::{Flow, Task};
use crate::vm::vcpu::Extended;
use crate::{guest, loader};

const AREA: &str = "processes";
const RUN_ONLY: &str = "ENOSYS in an instance";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_fork, AREA, Level::Emulated, fork, RUN_ONLY),
    entry(libc::SYS_vfork, AREA, Level::Emulated, vfork, RUN_ONLY),
    entry(libc::SYS_execve, AREA, Level::Emulated, execve, RUN_ONLY),
    entry(
        libc::SYS_execveat,
        AREA,
        Level::Refused,
        refuse_absent,
        "ENOSYS: programs fall back to execve",
    ),
    entry(
        libc::SYS_wait4,
        AREA,
        Level::Forwarded,
        wait4,
        "ECHILD in an instance",
    ),
    entry(
        libc::SYS_waitid,
        AREA,
        Level::Forwarded,
        waitid,
        "ECHILD in an instance",
    ),
    entry(
        libc::SYS_getppid,
        AREA,
        Level::Forwarded,
        getppid,
        "0 in an instance",
    ),
    entry(
        libc::SYS_getpgrp,
        AREA,
        Level::Forwarded,
        getpgrp,
        "the process leads its group in an instance",
    ),
    entry(
        libc::SYS_getpgid,
        AREA,
        Level::Forwarded,
        getpgid,
        "the process leads its group in an instance",
    ),
    entry(
        libc::SYS_getsid,
        AREA,
        Level::Forwarded,
        getsid,
        "the process leads its session in an instance",
    ),
    entry(
        libc::SYS_setpgid,
        AREA,
        Level::Forwarded,
        setpgid,
        "without effect in an instance",
    ),
    entry(
        libc::SYS_setsid,
        AREA,
        Level::Forwarded,
        setsid,
        "EPERM in an instance",
    ),
];

/// Largest argument list and environment of an exec, bytes.
const STRINGS_MAX: usize = 2 << 20;
/// Host stack on which a vfork child runs, bytes.
const VFORK_STACK: usize = 256 << 10;
/// The flags of clone(2) that a process may be made with.
pub const UNDERSTOOD: i32 = libc::CLONE_VM
    | libc::CLONE_VFORK
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_CHILD_SETTID;

/// What clone(2) was given, for a process.
#[derive(Clone, Copy)]
pub struct Request {
    pub flags: i32,
    pub stack: u64,
    pub parent_tid: u64,
    pub child_tid: u64,
    pub tls: u64,
}

impl Request {
    const FORK: Self = Self {
        flags: libc::SIGCHLD,
        stack: 0,
        parent_tid: 0,
        child_tid: 0,
        tls: 0,
    };
}

/// Implements fork(2).
fn fork(task: &mut Task, _: Args) -> SysResult {
    clone_process(task, Request::FORK)
}

/// Implements vfork(2).
fn vfork(task: &mut Task, _: Args) -> SysResult {
    clone_process(
        task,
        Request {
            flags: libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            ..Request::FORK
        },
    )
}

/// Implements clone(2) of a process.
pub fn clone_process(task: &mut Task, request: Request) -> SysResult {
    if task.process.launch.is_none() {
        super::report_refused("a child process");
        return Err(Errno::NOSYS);
    }
    let shares = request.flags & libc::CLONE_VM != 0;
    if request.flags & !UNDERSTOOD & !0xff != 0 || (shares && request.flags & libc::CLONE_VFORK == 0) {
        return Err(Errno::INVAL);
    }
    let extended = task.vcpu.extended().map_err(|_| Errno::AGAIN)?;
    if shares {
        share(task, request, &extended)
    } else {
        copy(task, request, &extended)
    }
}

/// fork(2): the child gets a VM of its own over its copy of the memory.
fn copy(task: &mut Task, request: Request, extended: &Extended) -> SysResult {
    let mut ends = [0i32; 2];
    let waits = request.flags & libc::CLONE_VFORK != 0;
    if waits {
        // Closed by the child's exec or end.
        // SAFETY: a local array of two.
        from_libc(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    }
    host::block_all();
    // Every lock that another thread may hold, so that the child, which has only this one, finds them free.
    let alone = exclusive();
    let process = task.process.clone();
    let held = process.hold_all();
    let output = std::io::stderr().lock();
    // SAFETY: all locks of this program are held by this thread; the child goes on from here with a copy of them.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let made = held.make_own(&process);
        drop((output, alone));
        let Ok(vcpu) = made else {
            crate::lifecycle::end_process(70)
        };
        if waits {
            // SAFETY: the read end belongs to the parent.
            unsafe { libc::close(ends[0]) };
        }
        task.become_child(vcpu, request, extended);
        return Ok(0);
    }
    let failure = Errno::last();
    drop((output, held, alone));
    if waits {
        wait_for_close(ends);
    }
    if host::pending() == 0 {
        host::set_mask(task.mask);
    }
    if pid < 0 {
        return Err(failure);
    }
    if request.flags & libc::CLONE_PARENT_SETTID != 0 {
        let _ = access::write(request.parent_tid, &pid);
    }
    Ok(u64::from(pid.unsigned_abs()))
}

fn wait_for_close(ends: [i32; 2]) {
    let mut byte = [0u8];
    // SAFETY: descriptors made by the caller; one local byte.
    unsafe {
        libc::close(ends[1]);
        while libc::read(ends[0], byte.as_mut_ptr().cast(), 1) < 0 && Errno::last() == Errno::INTR {}
        libc::close(ends[0]);
    }
}

impl Task {
    /// In the child of a fork: the new vCPU takes the place of the parent's.
    fn become_child(&mut self, vcpu: crate::vm::vcpu::Vcpu, request: Request, extended: &Extended) {
        host::attach(vcpu.run_page());
        self.vcpu = vcpu;
        // SAFETY: gettid has no preconditions.
        self.tid = unsafe { libc::gettid() };
        self.main = true;
        self.process.only_thread(self.tid);
        let mut extended = extended.clone();
        if request.flags & libc::CLONE_SETTLS != 0 {
            extended.fs_base = request.tls;
        }
        if self.vcpu.set_extended(&extended).is_err() {
            crate::lifecycle::end_process(70);
        }
        if request.stack != 0 {
            self.registers.rsp = request.stack;
        }
        self.clear_tid = if request.flags & libc::CLONE_CHILD_CLEARTID != 0 {
            request.child_tid
        } else {
            0
        };
        if request.flags & libc::CLONE_CHILD_SETTID != 0 {
            let _ = access::write(request.child_tid, &self.tid);
        }
        self.flow = Flow::Fresh;
        let _ = host::take();
        host::set_mask(self.mask);
    }
}

/// What the child of a vfork is started with.
struct Shared<'a> {
    task: &'a mut Task,
    request: Request,
}

extern "C" fn shared_child(argument: *mut libc::c_void) -> i32 {
    // SAFETY: `share` passes its own live structure and waits until this process has ended or executed.
    let shared = unsafe { &mut *argument.cast::<Shared<'_>>() };
    shared.task.run_shared(shared.request.stack);
    crate::lifecycle::end_process(0)
}

/// vfork(2): the child runs on this vCPU, in this address space, until it ends or executes.
fn share(task: &mut Task, request: Request, extended: &Extended) -> SysResult {
    let stack = crate::memory::stack(VFORK_STACK)?;
    let kept = task.keep();
    let actions = *task.process.lock_actions();
    host::block_all();
    let mut shared = Shared { task, request };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child runs on a stack of its own while this thread sleeps; it touches only what it is given and ends with
    // _exit or execve.
    let pid = unsafe { libc::clone(shared_child, stack.top(), flags, (&raw mut shared).cast()) };
    let failure = Errno::last();
    let task = shared.task;
    drop(stack);
    task.go_back(kept);
    // The child had a table of its own in the kernel, but wrote into ours.
    *task.process.lock_actions() = actions;
    let restored = task.vcpu.set_extended(extended);
    let _ = host::take();
    host::set_mask(task.mask);
    if restored.is_err() {
        task.fatal("the vCPU could not be restored after vfork");
    }
    if pid < 0 {
        Err(failure)
    } else {
        Ok(u64::from(pid.unsigned_abs()))
    }
}

/// Implements execve(2).
fn execve(task: &mut Task, [path, args, env, ..]: Args) -> SysResult {
    let Some(launch) = task.process.launch.clone() else {
        super::report_refused("execve");
        return Err(Errno::NOSYS);
    };
    let path = access::read_path(path)?;
    let mut args = access::read_strings(args, STRINGS_MAX)?;
    let env = access::read_strings(env, STRINGS_MAX)?;
    let files = crate::fs::Files::new(&task.process.files, &*task.process);
    loader::check(&path, &|path| guest::open_program(files, path))?;
    if args.is_empty() {
        // As the kernel since 5.18: a program has a name.
        args.push(CString::default());
    }
    let ignores_pipe = host::is_ignored(13);
    let image = Image {
        launch,
        path,
        args,
        env,
        ignores_pipe,
        open_files: crate::fs::descriptors::limit(),
        clock: crate::clock::hand_over(),
    };
    let file = image.save()?;
    let number = CString::new(file.as_raw_fd().to_string()).map_err(|_| Errno::INVAL)?;
    let words = [
        c"mayfly-monitor".as_ptr(),
        c"exec".as_ptr(),
        number.as_ptr(),
        std::ptr::null(),
    ];
    let nothing = [std::ptr::null()];
    host::set_mask(task.mask);
    // SAFETY: NUL-terminated strings in NULL-terminated arrays; it returns only if it failed.
    unsafe { libc::execve(c"/proc/self/exe".as_ptr(), words.as_ptr(), nothing.as_ptr()) };
    Err(Errno::last())
}

/// A memory file that stays open over exec, above the floor.
pub fn passed_on(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    let fd = from_libc(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, MONITOR_FD_FLOOR) })?;
    // SAFETY: a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(int(fd)) })
}

/// Implements wait4(2).
fn wait4(task: &mut Task, [pid, status, options, usage, ..]: Args) -> SysResult {
    if task.process.contained {
        return Err(Errno::CHILD);
    }
    let mut ended = 0i32;
    let mut used = [0u64; 18];
    let at = (&raw mut ended) as u64;
    // SAFETY: locals of the documented sizes.
    let child = unsafe {
        task.host(
            libc::SYS_wait4,
            [pid, at, options, used.as_mut_ptr() as u64, 0, 0],
        )?
    };
    if status != 0 && child != 0 {
        access::write(status, &ended)?;
    }
    if usage != 0 && child != 0 {
        access::write(usage, &used)?;
    }
    Ok(child)
}

/// Implements waitid(2).
fn waitid(task: &mut Task, [kind, id, info, options, usage, _]: Args) -> SysResult {
    if task.process.contained {
        return Err(Errno::CHILD);
    }
    let mut filled: host::Info = [0; 128];
    let mut used = [0u64; 18];
    // SAFETY: locals of the documented sizes.
    let result = unsafe {
        task.host(
            libc::SYS_waitid,
            [
                kind,
                id,
                filled.as_mut_ptr() as u64,
                options,
                used.as_mut_ptr() as u64,
                0,
            ],
        )?
    };
    if info != 0 {
        access::write_bytes(info, &filled)?;
    }
    if usage != 0 {
        access::write(usage, &used)?;
    }
    Ok(result)
}

fn own_pid() -> u64 {
    // SAFETY: getpid has no preconditions.
    u64::from(unsafe { libc::getpid() }.unsigned_abs())
}

/// Asks the host, but in an instance the process stands alone.
fn ask(task: &Task, number: libc::c_long, argument: u64) -> SysResult {
    if task.process.contained {
        return Ok(own_pid());
    }
    // SAFETY: no pointers.
    unsafe { task.host(number, [argument, 0, 0, 0, 0, 0]) }
}

/// Implements getppid(2).
fn getppid(task: &mut Task, _: Args) -> SysResult {
    if task.process.contained {
        Ok(0)
    } else {
        ask(task, libc::SYS_getppid, 0)
    }
}

/// Implements getpgrp(2).
fn getpgrp(task: &mut Task, _: Args) -> SysResult {
    ask(task, libc::SYS_getpgrp, 0)
}

/// Implements getpgid(2).
fn getpgid(task: &mut Task, [pid, ..]: Args) -> SysResult {
    ask(task, libc::SYS_getpgid, pid)
}

/// Implements getsid(2).
fn getsid(task: &mut Task, [pid, ..]: Args) -> SysResult {
    ask(task, libc::SYS_getsid, pid)
}

/// Implements setpgid(2).
fn setpgid(task: &mut Task, args @ [pid, group, ..]: Args) -> SysResult {
    if task.process.contained {
        return accept(task, args);
    }
    // SAFETY: no pointers.
    unsafe { task.host(libc::SYS_setpgid, [pid, group, 0, 0, 0, 0]) }
}

/// Implements setsid(2).
fn setsid(task: &mut Task, _: Args) -> SysResult {
    if task.process.contained {
        return Err(Errno::PERM);
    }
    // SAFETY: no pointers.
    unsafe { task.host(libc::SYS_setsid, [0; 6]) }
}
