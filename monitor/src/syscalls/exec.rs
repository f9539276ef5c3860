//! execve(2).
//!
//! A process of an instance goes on as the other program where it is: its other threads end, its machine and memory are made
//! anew, close-on-exec and the dispositions of signals are the kernel's rules followed here. What the monitor holds for the
//! call (the way to `serve`, a thread that speaks HTTP, the moment of readiness) stays. Otherwise, under `run` and in the
//! child of a vfork, whose memory is its parent's, it is an execve of the monitor's own file, which finds in a memory file what to run: all
//! that the kernel keeps over an exec is kept by the kernel. No environment of the guest is ever the monitor's.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use super::threads::refuse_absent;
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::{EXECUTABLE, MONITOR_FD_FLOOR};
use crate::memory::access;
use crate::process::Identity;
use crate::run::{Image, Inside};
use crate::signals::host;
use crate::signals::{Action, AltStack, SIG_DFL, SIG_IGN};
use crate::sys::processes;
use crate::task::{Flow, Task};
use crate::{descent, guest, lifecycle, loader, sys};

const AREA: &str = "processes";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_execve, AREA, Level::Emulated, execve, ""),
    entry(
        libc::SYS_execveat,
        AREA,
        Level::Refused,
        refuse_absent,
        "ENOSYS: programs fall back to execve",
    ),
];

/// Largest argument list and environment of an exec, bytes.
const STRINGS_MAX: usize = 2 << 20;

/// What is executed.
struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Implements execve(2).
fn execve(task: &mut Task, [path, args, env, ..]: Args) -> SysResult {
    let path = access::read_path(path)?;
    let mut args = access::read_strings(args, STRINGS_MAX)?;
    let env = access::read_strings(env, STRINGS_MAX)?;
    let files = crate::fs::Files::new(&task.process.files, &*task.process);
    loader::check(&path, &|path| guest::open_program(files, path))?;
    if args.is_empty() {
        // As the kernel since 5.18: a program has a name.
        args.push(CString::default());
    }
    let program = Program { path, args, env };
    if task.process.contained && !task.shared {
        replace(task, program)
    } else {
        execute_monitor(task, program)
    }
}

// ---------------------------------------------------------------------- by the monitor's own file

fn execute_monitor(task: &Task, mut program: Program) -> SysResult {
    if program.path.as_c_str() == c"/proc/self/exe" {
        // Behind the exec this would be nothing yet.
        program.path = task.process.identity().exe.clone();
    }
    let inside = match (task.vfork_row, &task.process.member) {
        (Some(row), Some(member)) => Some(inside(task, row, member.ledger)?),
        _ => None,
    };
    let (contained, passed) = match &inside {
        Some(inside) => (true, inside.descriptors()),
        None => (false, Vec::new()),
    };
    let image = Image {
        launch: task.process.launch.clone(),
        inside,
        first: false,
        path: program.path,
        args: program.args,
        env: program.env,
        ignores_pipe: host::is_ignored(13),
        open_files: crate::fs::descriptors::limit(),
        limits: crate::rlimits::hand_over(),
        clock: crate::clock::hand_over(),
    };
    let state = image.save()?;
    let number = CString::new(state.as_raw_fd().to_string()).map_err(|_| Errno::INVAL)?;
    descent::keep_over_exec(&passed, true)?;
    if !task.shared {
        super::futexes::give_up_all(&task.process);
    }
    host::set_mask(task.mask);
    let file = contained.then_some(EXECUTABLE);
    let failure = processes::execute(file, &[c"mayfly-monitor", c"exec", &number]);
    descent::keep_over_exec(&passed, false)?;
    Err(failure)
}

/// What a process of an instance needs behind the exec.
fn inside(task: &Task, row: usize, ledger: i32) -> Result<Inside, Errno> {
    let process = &task.process;
    let identity = process.identity();
    let sockets = process.lock_sockets();
    let passed = sockets.pass();
    if passed.has_connection() {
        process.ledger.kin.hold(row, true);
    }
    Ok(Inside {
        device: process.device.descriptor(),
        ledger,
        row,
        files: process.files.pass()?,
        sockets: passed,
        awaits_call: process.ready.is_awaited() && sockets.port.is_some(),
        memory: process.memory_limit,
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups.clone(),
    })
}

/// A memory file that stays open over exec, above the floor.
pub fn passed_on(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    let copy = sys::duplicate(file, MONITOR_FD_FLOOR)?;
    sys::set_close_on_exec(&copy, false)?;
    Ok(copy)
}

// ---------------------------------------------------------------------- in place

/// Makes this process that of another program. Behind the end of the other threads there is no way back: what fails then
/// kills the process, as the kernel does it.
fn replace(task: &mut Task, program: Program) -> SysResult {
    let process = task.process.clone();
    if process.replaced.swap(true, Ordering::AcqRel) {
        // Another thread was first: this one is about to end.
        return Err(Errno::RESTART);
    }
    host::block_all();
    end_other_threads(task);
    super::futexes::give_up(task);
    reset_signals(task);
    process.lock_timers().executed();
    if let Err(why) = begin(task, program) {
        task.die(libc::SIGKILL, &format!("in execve: {why}"));
    }
    // Now, since the program may be named by one of them (fexecve(3)).
    for fd in process.files.open_descriptors() {
        if sys::closes_on_exec(&fd) == Ok(true) {
            process.closing(fd);
            // This is the guest's only thread.
            sys::close(fd);
        }
    }
    process.replaced.store(false, Ordering::Release);
    if host::pending() == 0 {
        host::set_mask(task.mask);
    }
    Ok(0)
}

fn end_other_threads(task: &Task) {
    let process = &task.process;
    let own = sys::thread_id();
    // Records become threads, which then end as all.
    let known: Vec<i32> = process.lock_threads().iter().map(|thread| thread.tid).collect();
    for tid in known {
        // One that has ended meanwhile is not there.
        let _ = process.host_thread(tid);
    }
    drop(lifecycle::stop(process, process.lock_threads(), |thread| {
        thread.host_tid != own
    }));
}

/// What has a handler is at its default again; what is ignored stays so (execve(2)).
fn reset_signals(task: &Task) {
    let mut actions = task.process.lock_actions();
    for (signal, action) in actions.iter_mut().enumerate().skip(1) {
        let kept = action.handler == SIG_IGN;
        let handled = action.handler > SIG_IGN;
        *action = Action::default();
        if kept {
            action.handler = SIG_IGN;
        }
        if handled {
            // Fails only for signals that cannot have a handler.
            let _ = host::set_disposition(signal, SIG_DFL, 0);
        }
    }
}

/// The new program in a new machine.
fn begin(task: &mut Task, program: Program) -> Result<(), String> {
    let process = task.process.clone();
    host::attach(std::ptr::null_mut());
    process.forget_vcpus();
    let before = process.identity();
    let files = crate::fs::Files::new(&process.files, &*process);
    let open = |path: &CStr| guest::open_program(files, path);
    let request = loader::Request {
        path: &program.path,
        args: program.args,
        env: program.env.clone(),
        uid: before.uid,
        gid: before.gid,
    };
    let vm = process.device.create_vm().map_err(|error| error.to_string())?;
    let loaded = {
        let mut space = process.lock_space();
        space.begin_again(vm).map_err(|error| error.to_string())?;
        loader::load(&mut space, &request, &open).map_err(|error| error.to_string())?
    };
    let mut vcpu = process.take_vcpu().map_err(|error| error.to_string())?;
    crate::clock::begin(&mut vcpu);
    host::attach(vcpu.run_page());
    task.vcpu = vcpu;
    crate::serve::set_name(&loaded.named);
    process.set_identity(Identity {
        exe: loaded.exe,
        named: loaded.named,
        args: loaded.args,
        env: program.env,
        auxiliary: loaded.auxiliary,
        ..(*before).clone()
    });
    task.alt = AltStack::NONE;
    task.clear_tid = 0;
    task.robust_list = 0;
    task.main = true;
    task.tid = sys::process_id();
    process.only_thread(task.tid, sys::thread_id());
    task.flow = Flow::Fresh;
    task.start_at(loaded.entry, loaded.stack_pointer);
    Ok(())
}
