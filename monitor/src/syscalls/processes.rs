//! Child processes: fork(2), vfork(2), clone(2) of a process, execve(2), waiting.
//!
//! One guest process is one host process, so pipes, descriptors, waiting, job control and exit statuses are the host's.
//! A fork is a host fork in which the child makes a VM of its own over its copy of the memory. A vfork is a host vfork: the child
//! shares the address space, so KVM lets it run the parent's own vCPU until it ends or executes (`exec`).
//!
//! In an instance a process has its row in the table of processes (`kin`) before it exists, and takes its place there first
//! (`descent`).

use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::signals::host;
use crate::sys::calls::{output, value};
use crate::sys::processes;
use crate::task::{Flow, Task};
use crate::vm::vcpu::{Extended, Vcpu};
use crate::{descent, lifecycle, sys};

const AREA: &str = "processes";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_fork, AREA, Level::Emulated, fork, ""),
    entry(libc::SYS_vfork, AREA, Level::Emulated, vfork, ""),
    entry(libc::SYS_wait4, AREA, Level::Forwarded, wait4, ""),
    entry(libc::SYS_waitid, AREA, Level::Forwarded, waitid, ""),
    entry(
        libc::SYS_getppid,
        AREA,
        Level::Forwarded,
        getppid,
        "0 for the first process of an instance",
    ),
    entry(libc::SYS_getpgrp, AREA, Level::Forwarded, getpgrp, ""),
    entry(libc::SYS_getpgid, AREA, Level::Forwarded, getpgid, ""),
    entry(libc::SYS_getsid, AREA, Level::Forwarded, getsid, ""),
    entry(libc::SYS_setpgid, AREA, Level::Forwarded, setpgid, ""),
    entry(libc::SYS_setsid, AREA, Level::Forwarded, setsid, ""),
];

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
    let shares = request.flags & libc::CLONE_VM != 0;
    if request.flags & !UNDERSTOOD & !0xff != 0 || (shares && request.flags & libc::CLONE_VFORK == 0) {
        return Err(Errno::INVAL);
    }
    let extended = task.vcpu.extended().map_err(|_| Errno::AGAIN)?;
    let row = reserve(task)?;
    let made = if shares {
        share(task, request, &extended, row)
    } else {
        copy(task, request, &extended, row)
    };
    if let (Err(_), Some(row)) = (&made, row) {
        task.process.ledger.kin.free(row);
    }
    made
}

/// In an instance: a row for the new process, and what this one must do before it has kin.
fn reserve(task: &Task) -> Result<Option<usize>, Errno> {
    let Some(kin) = task.process.kin() else {
        return Ok(None);
    };
    lifecycle::guard_readiness(&task.process)?;
    task.process.lock_sockets().share()?;
    kin.reserve().map(Some)
}

/// fork(2): the child gets a VM of its own over its copy of the memory.
fn copy(task: &mut Task, request: Request, extended: &Extended, row: Option<usize>) -> SysResult {
    let waits = request.flags & libc::CLONE_VFORK != 0;
    // Closed by the child's exec or end.
    let ends = waits.then(sys::pipe).transpose()?;
    let process = task.process.clone();
    let parent = sys::process_id();
    host::block_all();
    // Every lock that another thread may hold, so that the child, which has only this one, finds them free.
    let held = process.hold_all();
    let output = std::io::stderr().lock();
    if let Some(row) = row {
        if let Err(errno) = held.space.book_copy(row) {
            drop((output, held));
            host::set_mask(task.mask);
            return Err(errno);
        }
        if held.has_connection() {
            process.ledger.kin.hold(row, true);
        }
    }
    let pid = processes::fork();
    if pid == 0 {
        let made = held.make_own(&process, row, parent);
        drop(output);
        let Ok(vcpu) = made else {
            lifecycle::end_process(70)
        };
        if let Some((read, write)) = ends {
            drop(read);
            // Till this process executes or ends.
            std::mem::forget(write);
        }
        task.become_child(vcpu, request, extended);
        if let Some(row) = row {
            let machine = [process.lock_space().vm().descriptor(), task.vcpu.descriptor()];
            // What the first process does at the moment of readiness and at its end is not this one's to do.
            std::mem::forget((process.take_plan(), process.take_exit()));
            descent::close_foreign(&process, &machine);
            descent::settle(&process, row, parent);
        }
        host::set_mask(task.mask);
        return Ok(0);
    }
    let failure = Errno::last();
    drop((output, held));
    if let (Some(row), true) = (row, pid > 0) {
        process.ledger.kin.settle(row, pid);
    }
    if let Some((read, write)) = ends {
        drop(write);
        while sys::read(&read, &mut [0]) == Err(Errno::INTR) {}
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

impl Task {
    /// In the child of a fork: the new vCPU takes the place of the parent's.
    fn become_child(&mut self, vcpu: Vcpu, request: Request, extended: &Extended) {
        host::attach(vcpu.run_page());
        self.vcpu = vcpu;
        self.tid = sys::thread_id();
        self.main = true;
        // Its parent may have been the child of a vfork.
        self.shared = false;
        self.vfork_row = None;
        // It names the parent's locks.
        self.robust_list = 0;
        if let Some(own) = self.own_actions.take() {
            *self.process.lock_actions() = *own;
        }
        self.process.only_thread(self.tid, self.tid);
        let mut extended = extended.clone();
        if request.flags & libc::CLONE_SETTLS != 0 {
            extended.fs_base = request.tls;
        }
        if self.vcpu.set_extended(&extended).is_err() {
            lifecycle::end_process(70);
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
    }
}

/// What the child of a vfork is started with.
struct Shared<'a> {
    task: &'a mut Task,
    request: Request,
    row: Option<usize>,
    parent: i32,
}

fn shared_child(shared: &mut Shared<'_>) -> i32 {
    if let Some(row) = shared.row {
        shared.task.process.ledger.kin.settle(row, sys::process_id());
        // The parent waits for this process, so it ends before only if all end.
        if sys::set_parent_death_signal(libc::SIGKILL).is_err() {
            lifecycle::end_process(70);
        }
    }
    shared.task.vfork_row = shared.row;
    shared.task.process.lock_sockets().part(shared.parent);
    shared.task.run_shared(shared.request.stack);
    lifecycle::end_process(0)
}

/// vfork(2): the child runs on this vCPU, in this address space, until it ends or executes.
fn share(task: &mut Task, request: Request, extended: &Extended, row: Option<usize>) -> SysResult {
    let stack = crate::memory::stack(VFORK_STACK)?;
    let kept = task.keep();
    // It shares the memory, but has a table of its own, in the kernel and here: the parent's other threads keep theirs.
    task.own_actions = Some(Box::new(*task.process.lock_actions()));
    host::block_all();
    let mut shared = Shared {
        task,
        request,
        row,
        parent: sys::process_id(),
    };
    let pid = processes::share(&stack, &mut shared, shared_child);
    let failure = Errno::last();
    let task = shared.task;
    task.process.lock_sockets().parted(pid);
    drop(stack);
    task.go_back(kept);
    task.own_actions = None;
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

/// Implements wait4(2).
fn wait4(task: &mut Task, [pid, status, options, usage, ..]: Args) -> SysResult {
    let mut ended = 0i32;
    let mut used = [0u64; 18];
    let args = [value(pid), output(&mut ended), value(options), output(&mut used)];
    let child = task.call(libc::SYS_wait4, args)?;
    if child != 0 && (libc::WIFEXITED(ended) || libc::WIFSIGNALED(ended)) {
        reaped(task, int(child));
    }
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
    let mut filled: host::Info = [0; 128];
    let mut used = [0u64; 18];
    let [kind, id, wanted] = [kind, id, options].map(value);
    let args = [kind, id, output(&mut filled), wanted, output(&mut used)];
    let result = task.call(libc::SYS_waitid, args)?;
    let word = |at: usize| i32::from_ne_bytes([filled[at], filled[at + 1], filled[at + 2], filled[at + 3]]);
    let (code, child) = (word(8), word(16));
    let ended = matches!(code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED);
    if ended && int(options) & libc::WNOWAIT == 0 {
        reaped(task, child);
    }
    if info != 0 {
        access::write_bytes(info, &filled)?;
    }
    if usage != 0 {
        access::write(usage, &used)?;
    }
    Ok(result)
}

/// A child is no more.
fn reaped(task: &Task, child: i32) {
    if let Some(kin) = task.process.kin()
        && kin.reaped(child)
    {
        lifecycle::end_instance(&task.process);
    }
}

/// A process that the guest names: 0 is the caller. Others of the instance only; ESRCH for what is not the guest's.
fn known(task: &Task, pid: u64) -> Result<u64, Errno> {
    match task.process.kin() {
        Some(kin) if int(pid) != 0 => {
            let pid = kin.find(int(pid)).ok_or(Errno::SRCH)?;
            Ok(u64::from(pid.unsigned_abs()))
        }
        _ => Ok(pid),
    }
}

/// Implements getppid(2).
fn getppid(task: &mut Task, _: Args) -> SysResult {
    let parent = sys::parent_id();
    match task.process.kin() {
        // As in a container: what started the first process is out of sight.
        Some(kin) if !kin.contains(parent) => Ok(0),
        Some(kin) => Ok(u64::from(kin.named(parent).unsigned_abs())),
        None => Ok(u64::from(parent.unsigned_abs())),
    }
}

/// What the guest calls a process, a group or a session that the host tells of.
fn named(task: &Task, told: u64) -> u64 {
    let named = task.process.kin().map(|kin| kin.named(int(told)));
    named.map_or(told, |pid| u64::from(pid.unsigned_abs()))
}

/// Implements getpgrp(2).
fn getpgrp(task: &mut Task, _: Args) -> SysResult {
    let group = task.plain(libc::SYS_getpgrp, [0; 6])?;
    Ok(named(task, group))
}

/// Implements getpgid(2).
fn getpgid(task: &mut Task, [pid, ..]: Args) -> SysResult {
    let group = task.plain(libc::SYS_getpgid, [known(task, pid)?, 0, 0, 0, 0, 0])?;
    Ok(named(task, group))
}

/// Implements getsid(2).
fn getsid(task: &mut Task, [pid, ..]: Args) -> SysResult {
    let session = task.plain(libc::SYS_getsid, [known(task, pid)?, 0, 0, 0, 0, 0])?;
    Ok(named(task, session))
}

/// Implements setpgid(2).
fn setpgid(task: &mut Task, [pid, group, ..]: Args) -> SysResult {
    let found = task.process.kin().and_then(|kin| kin.find(int(group)));
    let group = found.map_or(group, |group| u64::from(group.unsigned_abs()));
    task.plain(libc::SYS_setpgid, [known(task, pid)?, group, 0, 0, 0, 0])
}

/// Implements setsid(2).
fn setsid(task: &mut Task, _: Args) -> SysResult {
    task.plain(libc::SYS_setsid, [0; 6])
}
