//! Signals: dispositions and masks here, delivery in `crate::signals`, waiting and sending by the host.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::dormant::Sent;
use crate::errno::{Errno, SysResult};
use crate::kin::Kin;
use crate::memory::access;
use crate::pids;
use crate::signals::frame;
use crate::signals::{
    Action, Actions, AltStack, SIG_DFL, UNBLOCKABLE, host, mirror_action, number, read_set,
};
use crate::sys;
use crate::sys::calls::{input, output, value};
use crate::task::{Flow, Task};

const AREA: &str = "signals";

pub const ENTRIES: &[Entry] = &[
    entry(
        libc::SYS_rt_sigaction,
        AREA,
        Level::Emulated,
        rt_sigaction,
        "mirrored into the host",
    ),
    entry(
        libc::SYS_rt_sigprocmask,
        AREA,
        Level::Emulated,
        rt_sigprocmask,
        "mirrored into the host",
    ),
    entry(libc::SYS_rt_sigreturn, AREA, Level::Emulated, rt_sigreturn, ""),
    entry(libc::SYS_sigaltstack, AREA, Level::Emulated, sigaltstack, ""),
    entry(libc::SYS_rt_sigpending, AREA, Level::Forwarded, rt_sigpending, ""),
    entry(
        libc::SYS_rt_sigtimedwait,
        AREA,
        Level::Forwarded,
        rt_sigtimedwait,
        "",
    ),
    entry(libc::SYS_rt_sigsuspend, AREA, Level::Emulated, rt_sigsuspend, ""),
    entry(libc::SYS_pause, AREA, Level::Forwarded, pause, ""),
    entry(
        libc::SYS_kill,
        AREA,
        Level::Forwarded,
        kill,
        "processes of the instance",
    ),
    entry(
        libc::SYS_tkill,
        AREA,
        Level::Forwarded,
        tkill,
        "processes of the instance",
    ),
    entry(
        libc::SYS_tgkill,
        AREA,
        Level::Forwarded,
        tgkill,
        "processes of the instance",
    ),
    entry(
        libc::SYS_rt_sigqueueinfo,
        AREA,
        Level::Forwarded,
        rt_sigqueueinfo,
        "own process only",
    ),
    entry(
        libc::SYS_rt_tgsigqueueinfo,
        AREA,
        Level::Forwarded,
        rt_tgsigqueueinfo,
        "own threads only",
    ),
];

/// Signals that by default end nothing: ignored, or they stop a process or let it go on (signal(7)).
const SPARING: u64 = set(&[
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGWINCH,
]);
/// Signals that by default leave a core behind.
const FAILURES: u64 = set(&[
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGSYS,
]);

/// Why a program ends that wants to.
const SENT: &str = "sent by the program itself";

const fn set(signals: &[i32]) -> u64 {
    let (mut bits, mut at) = (0, 0);
    while at < signals.len() {
        bits |= 1 << (signals[at] - 1);
        at += 1;
    }
    bits
}

/// Implements rt_sigaction(2).
fn rt_sigaction(task: &mut Task, [signal, new, old, size, ..]: Args) -> SysResult {
    let signal = number(signal)?;
    if size != 8 {
        return Err(Errno::INVAL);
    }
    let fixed = UNBLOCKABLE >> (signal - 1) & 1 != 0;
    let action: Option<Action> = if new == 0 { None } else { Some(access::read(new)?) };
    if action.is_some() && fixed {
        return Err(Errno::INVAL);
    }
    let traced = task.process.trace.is_some();
    let change = |actions: &mut Actions| {
        let before = actions[signal];
        if let Some(mut action) = action {
            action.mask &= !UNBLOCKABLE;
            actions[signal] = action;
            if traced && action.handler == SIG_DFL && crate::trace::is_fatal(signal) {
                host::install(signal, 0)?;
            } else {
                mirror_action(signal, action)?;
            }
        }
        Ok::<_, Errno>(before)
    };
    let before = match &mut task.own_actions {
        Some(own) => change(own)?,
        None => change(&mut task.process.lock_actions())?,
    };
    if old != 0 {
        access::write(old, &before)?;
    }
    Ok(0)
}

/// Implements rt_sigprocmask(2).
fn rt_sigprocmask(task: &mut Task, [how, new, old, size, ..]: Args) -> SysResult {
    if size != 8 {
        return Err(Errno::INVAL);
    }
    let before = task.mask;
    if new != 0 {
        let set = read_set(new, size)?;
        let mask = match int(how) {
            libc::SIG_BLOCK => before | set,
            libc::SIG_UNBLOCK => before & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::INVAL),
        };
        task.mask = mask & !UNBLOCKABLE;
    }
    if old != 0 {
        access::write(old, &before)?;
    }
    if host::pending() == 0 {
        host::set_mask(task.mask);
    }
    Ok(0)
}

/// Implements rt_sigreturn(2).
fn rt_sigreturn(task: &mut Task, _: Args) -> SysResult {
    let mut registers = task.registers;
    if !frame::pop(task, &mut registers) {
        task.die(libc::SIGSEGV, "bad signal frame");
    }
    task.registers = registers;
    task.flow = Flow::Replaced;
    if host::pending() == 0 {
        host::set_mask(task.mask);
    }
    Ok(0)
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct StackT {
    base: u64,
    flags: i32,
    padding: u32,
    size: u64,
}

/// Implements sigaltstack(2).
fn sigaltstack(task: &mut Task, [new, old, ..]: Args) -> SysResult {
    const MINSIGSTKSZ: u64 = 2048;
    let on = task.alt.contains(task.registers.rsp);
    let before = StackT {
        base: task.alt.base,
        flags: match (task.alt.enabled, on) {
            (false, _) => libc::SS_DISABLE,
            (true, true) => libc::SS_ONSTACK,
            (true, false) => 0,
        },
        padding: 0,
        size: task.alt.size,
    };
    if new != 0 {
        let stack: StackT = access::read(new)?;
        if on {
            return Err(Errno::PERM);
        }
        // SS_AUTODISARM is accepted by ignoring it: the stack stays armed.
        match stack.flags & 0x7fff_ffff {
            libc::SS_DISABLE => task.alt = AltStack::NONE,
            0 | libc::SS_ONSTACK if stack.size < MINSIGSTKSZ => return Err(Errno::NOMEM),
            0 | libc::SS_ONSTACK => {
                task.alt = AltStack {
                    base: stack.base,
                    size: stack.size,
                    enabled: true,
                };
            }
            _ => return Err(Errno::INVAL),
        }
    }
    if old != 0 {
        access::write(old, &before)?;
    }
    Ok(0)
}

/// Implements rt_sigpending(2).
fn rt_sigpending(task: &mut Task, [set, size, ..]: Args) -> SysResult {
    if size != 8 {
        return Err(Errno::INVAL);
    }
    let mut pending = 0u64;
    task.call(libc::SYS_rt_sigpending, [output(&mut pending), value(8)])?;
    access::write(set, &pending)?;
    Ok(0)
}

/// Implements rt_sigtimedwait(2).
fn rt_sigtimedwait(task: &mut Task, [set, info, timeout, size, ..]: Args) -> SysResult {
    let set = read_set(set, size)?;
    let limit: Option<[i64; 2]> = if timeout == 0 {
        None
    } else {
        Some(task.time_left(access::read(timeout)?))
    };
    let mut filled: host::Info = [0; 128];
    let limit = limit.as_ref().map_or(value(0), input);
    let args = [input(&set), output(&mut filled), limit, value(8)];
    let signal = task.call(libc::SYS_rt_sigtimedwait, args)?;
    if info != 0 {
        task.process.lock_timers().rename(&mut filled);
        pids::name_sender(&mut filled);
        access::write_bytes(info, &filled)?;
    }
    Ok(signal)
}

/// Implements rt_sigsuspend(2): waits under another mask; the handler's frame keeps the old one.
fn rt_sigsuspend(task: &mut Task, [set, size, ..]: Args) -> SysResult {
    let wanted = read_set(set, size)? & !UNBLOCKABLE;
    let kept = task.mask;
    if host::pending() == 0 {
        host::set_mask(wanted);
        let _ = task.plain(libc::SYS_pause, [0; 6]);
    }
    task.mask = kept;
    if host::pending() == 0 {
        host::set_mask(kept);
    }
    Err(Errno::INTR)
}

/// Implements pause(2).
fn pause(task: &mut Task, _: Args) -> SysResult {
    task.plain(libc::SYS_pause, [0; 6])
}

/// Implements kill(2): in an instance for its own processes. -1 means all but the caller and the first, as in a pid namespace.
fn kill(task: &mut Task, [pid, signal, ..]: Args) -> SysResult {
    let mut target = int(pid);
    if let Some(kin) = task.process.kin() {
        target = match target {
            0 => 0,
            1.. => kin.find(target).ok_or(Errno::SRCH)?,
            -1 => return kill_all(task, kin, signal),
            group => -kin.find_group(group.wrapping_neg()).ok_or(Errno::SRCH)?,
        };
    }
    if target == sys::process_id() {
        end_by(task, signal, SENT);
    }
    let pid = i64::from(target).cast_unsigned();
    task.plain(libc::SYS_kill, [pid, signal, 0, 0, 0, 0])
}

/// A signal that the calling thread sends to itself, or to its process: ends the program if that is what it does, and notes why before.
pub fn end_by(task: &Task, signal: u64, why: &str) {
    let Ok(signal) = number(signal) else { return };
    let blocked = task.mask >> (signal - 1) & 1 != 0;
    let bit = 1u64 << (signal - 1);
    if blocked || bit & SPARING != 0 || task.action(signal).handler != SIG_DFL {
        return;
    }
    // How a child ends by what it is told, its parent knows. What is noted is the failure.
    if bit & FAILURES == 0 && !task.is_first() {
        return;
    }
    if let Ok(signal) = i32::try_from(signal) {
        task.die(signal, why);
    }
}

fn kill_all(task: &Task, kin: &Kin, signal: u64) -> SysResult {
    let own = sys::process_id();
    let others = kin
        .pids()
        .into_iter()
        .filter(|pid| *pid != own && *pid != kin.main());
    let mut result = Err(Errno::SRCH);
    for pid in others {
        let pid = u64::from(pid.unsigned_abs());
        match task.plain(libc::SYS_kill, [pid, signal, 0, 0, 0, 0]) {
            Err(Errno::SRCH) => {}
            told => result = told,
        }
    }
    result
}

/// The host's number of a thread that the guest names.
pub fn host_thread(task: &Task, tid: u64) -> Result<u64, Errno> {
    let thread = task.process.host_thread(int(tid))?;
    Ok(u64::from(thread.unsigned_abs()))
}

/// A siginfo of the guest's, for itself: it may say anything.
fn read_info(address: u64, signal: u64) -> Result<host::Info, Errno> {
    let mut info: host::Info = access::read(address)?;
    info[..4].copy_from_slice(&int(signal).to_ne_bytes());
    Ok(info)
}

/// Implements tkill(2).
fn tkill(task: &mut Task, [tid, signal, ..]: Args) -> SysResult {
    let known = task.process.kin().and_then(|kin| kin.find(int(tid)));
    let pid = known.unwrap_or_else(sys::process_id);
    let pid = u64::from(pid.unsigned_abs());
    tgkill(task, [pid, tid, signal, 0, 0, 0])
}

/// A thread that the guest names, as the host knows it: its process, of this instance, and itself. `None`: a record of this process,
/// which has the signal now.
fn thread_of(
    task: &Task,
    pid: u64,
    tid: u64,
    signal: u64,
    info: Option<&host::Info>,
) -> Result<Option<(u64, u64)>, Errno> {
    let own = sys::process_id();
    let host = match task.process.kin() {
        Some(kin) => kin.find(int(pid)).ok_or(Errno::SRCH)?,
        None => int(pid),
    };
    let number = |id: i32| u64::from(id.unsigned_abs());
    // By its process's number a first thread is meant.
    let tid = match int(tid) {
        tid if tid != int(pid) => tid,
        _ if host == own => pids::pid(),
        _ => host,
    };
    if host != own {
        return Ok(Some((number(host), number(tid))));
    }
    match task.process.signal_thread(tid, signal, info)? {
        Sent::To(tid) => Ok(Some((number(host), number(tid)))),
        _ => Ok(None),
    }
}

/// Implements tgkill(2).
fn tgkill(task: &mut Task, [pid, tid, signal, ..]: Args) -> SysResult {
    if int(pid) <= 0 || int(tid) <= 0 {
        return Err(Errno::INVAL);
    }
    let Some((pid, tid)) = thread_of(task, pid, tid, signal, None)? else {
        return Ok(0);
    };
    if tid == u64::from(sys::thread_id().unsigned_abs()) {
        end_by(task, signal, SENT);
    }
    task.plain(libc::SYS_tgkill, [pid, tid, signal, 0, 0, 0])
}

/// Implements rt_sigqueueinfo(2): in an instance for its own processes.
fn rt_sigqueueinfo(task: &mut Task, [pid, signal, info, ..]: Args) -> SysResult {
    let info = read_info(info, signal)?;
    let pid = match task.process.kin() {
        Some(kin) => u64::from(kin.find(int(pid)).ok_or(Errno::SRCH)?.unsigned_abs()),
        None => pid,
    };
    task.call(
        libc::SYS_rt_sigqueueinfo,
        [value(pid), value(signal), input(&info)],
    )
}

/// Implements rt_tgsigqueueinfo(2).
fn rt_tgsigqueueinfo(task: &mut Task, [pid, tid, signal, info, ..]: Args) -> SysResult {
    let info = read_info(info, signal)?;
    if int(pid) <= 0 || int(tid) <= 0 {
        return Err(Errno::INVAL);
    }
    let Some((pid, tid)) = thread_of(task, pid, tid, signal, Some(&info))? else {
        return Ok(0);
    };
    let [pid, tid, signal] = [pid, tid, signal].map(value);
    task.call(libc::SYS_rt_tgsigqueueinfo, [pid, tid, signal, input(&info)])
}
