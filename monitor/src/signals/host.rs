//! The monitor's own signal handler.
//!
//! It does three things, all async-signal-safe: ends a `host::copy` that met a bad page; makes a host call or a running
//! guest return soon (`pending`, `immediate_exit`); keeps the siginfo and blocks everything further but faults, so that at
//! most one signal is queued here and the others stay exact in the kernel.
#![allow(unsafe_code)]

use std::arch::global_asm;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use kvm_bindings::kvm_run;

use crate::errno::Errno;
use crate::host;
use crate::kin::Kin;

global_asm!(
    r#"
    .text
    .globl mayfly_restore
mayfly_restore:
    mov eax, 15
    syscall
"#
);

unsafe extern "C" {
    fn mayfly_restore();
}

const SA_SIGINFO: u64 = 4;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_ONSTACK: u64 = 0x0800_0000;

/// The signal by which the monitor stops its own threads for a snapshot. Never blocked while it boots.
pub const STOP_SIGNAL: i32 = 64;
/// What `pending` holds for it.
pub const STOP: i32 = 1000;
/// Whether `STOP_SIGNAL` is the monitor's at the moment.
pub static STOPPING: AtomicBool = AtomicBool::new(false);
/// Whether this process keeps `STOP_SIGNAL` deliverable.
pub static STOPPABLE: AtomicBool = AtomicBool::new(false);

/// The process that `STOP_SIGNAL` from the kernel says the end of, 0 where none has been asked for; and the processes of the
/// instance, of which the parent must be one.
static PARENT: AtomicI32 = AtomicI32::new(0);
static KIN: AtomicPtr<Kin> = AtomicPtr::new(std::ptr::null_mut());

/// SIGBUS and SIGSEGV. A thread that may touch guest memory never blocks them: a bad page met by `host::copy` would kill the
/// monitor instead of ending the copy.
const FAULTS: u64 = 1 << (libc::SIGBUS - 1) | 1 << (libc::SIGSEGV - 1);

/// `siginfo_t`, 128 bytes.
pub type Info = [u8; 128];

struct Cell {
    pending: AtomicI32,
    info: UnsafeCell<Info>,
    run: AtomicPtr<kvm_run>,
    /// A signal came that is not the guest's.
    quiet: AtomicBool,
}

thread_local! {
    // No destructor and a constant start: access is a plain thread-pointer offset, safe in a handler.
    static CELL: Cell = const {
        Cell {
            pending: AtomicI32::new(0),
            info: UnsafeCell::new([0; 128]),
            run: AtomicPtr::new(std::ptr::null_mut()),
            quiet: AtomicBool::new(false),
        }
    };
}

#[repr(C)]
struct KernelAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

fn rt_sigaction(signal: usize, action: &KernelAction) -> Result<(), Errno> {
    // SAFETY: a complete kernel_sigaction of the documented size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            std::ptr::from_ref(action),
            std::ptr::null::<u8>(),
            8,
        )
    };
    if done < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// Makes the monitor's handler that of `signal`.
pub fn install(signal: usize, flags: u64) -> Result<(), Errno> {
    rt_sigaction(
        signal,
        &KernelAction {
            handler: handle as *const () as u64,
            flags: flags | SA_SIGINFO | SA_RESTORER | SA_ONSTACK,
            restorer: mayfly_restore as *const () as u64,
            mask: u64::MAX,
        },
    )
}

/// Sets SIG_DFL or SIG_IGN. Faults of the monitor and its stop signal keep their handler.
pub fn set_disposition(signal: usize, handler: u64, flags: u64) -> Result<(), Errno> {
    let own = [libc::SIGSEGV, libc::SIGBUS];
    if own.iter().any(|kept| usize::try_from(*kept) == Ok(signal))
        || (signal == 64 && STOPPABLE.load(Ordering::Relaxed))
    {
        return install(signal, flags);
    }
    rt_sigaction(
        signal,
        &KernelAction {
            handler,
            flags: flags | SA_RESTORER,
            restorer: mayfly_restore as *const () as u64,
            mask: 0,
        },
    )
}

/// Lets the monitor stop this process's threads: for a boot.
pub fn keep_stoppable() {
    STOPPABLE.store(true, Ordering::Relaxed);
    // Fails only for numbers that are no signals.
    let _ = install(64, 0);
}

/// Sets the mask of this host thread to the guest thread's.
pub fn set_mask(mask: u64) {
    let mask = if STOPPABLE.load(Ordering::Relaxed) {
        mask & !(1 << (STOP_SIGNAL - 1))
    } else {
        mask
    } & !FAULTS;
    // SAFETY: an 8-byte set on the stack.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            std::ptr::null::<u8>(),
            8,
        )
    };
}

/// Blocks everything: for threads and moments that are not the guest's.
pub fn block_all() {
    let mask = !FAULTS;
    // SAFETY: as in `set_mask`.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            std::ptr::null::<u8>(),
            8,
        )
    };
}

/// Takes back what was sent to this thread to stop it, where the monitor may stop threads.
///
/// Preconditions: the signal is blocked, and none is sent any more.
pub fn forget_stops() {
    if !STOPPABLE.load(Ordering::Relaxed) {
        return;
    }
    let stop = 1u64 << (STOP_SIGNAL - 1);
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        // SAFETY: an 8-byte set and a time on the stack.
        let taken = unsafe {
            libc::syscall(
                libc::SYS_rt_sigtimedwait,
                &raw const stop,
                std::ptr::null::<u8>(),
                &raw const now,
                8,
            )
        };
        if taken < 0 {
            break;
        }
    }
    // Such a signal may also have said that the parent ended.
    check_parent();
}

/// The mask this thread was started with.
pub fn inherited_mask() -> u64 {
    let mut mask = 0u64;
    // SAFETY: the kernel writes 8 bytes.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            std::ptr::null::<u8>(),
            &raw mut mask,
            8,
        )
    };
    mask
}

/// Whether the parent left `signal` ignored.
pub fn is_ignored(signal: usize) -> bool {
    let mut action = KernelAction {
        handler: 0,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    // SAFETY: the kernel fills a structure of the documented size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            std::ptr::null::<u8>(),
            &raw mut action,
            8,
        )
    };
    done == 0 && action.handler == super::SIG_IGN
}

/// Tells the handler which vCPU this thread runs.
pub fn attach(run: *mut kvm_run) {
    CELL.with(|cell| cell.run.store(run, Ordering::Release));
}

/// Whether a signal waits to be delivered to this thread.
pub fn pending() -> i32 {
    CELL.with(|cell| cell.pending.load(Ordering::Acquire))
}

/// Takes the waiting signal with its siginfo. Every further one is blocked until the mask is set again.
pub fn take() -> Option<(i32, Info)> {
    CELL.with(|cell| {
        let signal = cell.pending.load(Ordering::Acquire);
        if signal == 0 {
            return None;
        }
        // SAFETY: the handler wrote it before `pending`, and does not write again while `pending` is set.
        let info = unsafe { *cell.info.get() };
        cell.pending.store(0, Ordering::Release);
        Some((signal, info))
    })
}

/// Whether a host call was ended by a signal that is none of the guest's, so that it must be made again. Says it once.
pub fn was_quiet() -> bool {
    CELL.with(|cell| cell.quiet.swap(false, Ordering::Relaxed))
}

/// From now on `STOP_SIGNAL` from `parent` means that this process may have to end.
pub fn end_with_parent(kin: &'static Kin, parent: i32) {
    KIN.store(std::ptr::from_ref(kin).cast_mut(), Ordering::Release);
    PARENT.store(parent, Ordering::Release);
}

/// Ends this process if its parent is no process of the instance any more. Safe in a signal handler.
pub fn check_parent() {
    let kin = KIN.load(Ordering::Acquire);
    if kin.is_null() {
        return;
    }
    let parent = crate::sys::parent_id();
    // SAFETY: put there by `end_with_parent` from a reference that lives as long as the process.
    let kin = unsafe { &*kin };
    if kin.contains(parent) && !kin.is_closed() {
        PARENT.store(parent, Ordering::Release);
    } else {
        crate::lifecycle::end_process(128 + libc::SIGKILL);
    }
}

/// A host system call that a signal ends, or keeps from starting (`Errno::RESTART`).
///
/// # Safety
/// As `host::interruptible`.
pub unsafe fn call(number: libc::c_long, args: [u64; 6]) -> crate::errno::SysResult {
    // SAFETY: the caller vouches for the arguments.
    CELL.with(|cell| unsafe { host::interruptible(&cell.pending, number, args) })
}

/// poll(2) that a signal ends also if it came just before. `patience` in milliseconds.
pub fn poll(polls: &mut [libc::pollfd], patience: i32) -> crate::errno::SysResult {
    let args = [
        polls.as_mut_ptr() as u64,
        polls.len() as u64,
        i64::from(patience).cast_unsigned(),
        0,
        0,
        0,
    ];
    // SAFETY: a live slice with its length.
    unsafe { call(libc::SYS_poll, args) }
}

/// Sends a signal that this thread has taken on: to a thread of this process, or to the process.
pub fn send_again(to: Option<i32>, signal: i32, info: &Info) {
    // SAFETY: a siginfo of the kernel's; the process may send itself any.
    unsafe {
        let own = libc::getpid();
        match to {
            Some(thread) => libc::syscall(libc::SYS_rt_tgsigqueueinfo, own, thread, signal, info.as_ptr()),
            None => libc::syscall(libc::SYS_rt_sigqueueinfo, own, signal, info.as_ptr()),
        }
    };
}

/// Sends the calling thread a signal: as its own process does, or with what `info` says.
pub fn send_self(signal: i32, info: Option<&Info>) {
    let thread = crate::sys::thread_id();
    match info {
        Some(info) => send_again(Some(thread), signal, info),
        // SAFETY: a signal of this thread to itself.
        None => unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal);
        },
    }
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context: *mut libc::ucontext_t = context.cast();
    // SAFETY: the kernel passes valid pointers to SA_SIGINFO handlers.
    let (ip, code) = unsafe {
        (
            (*context).uc_mcontext.gregs[libc::REG_RIP as usize].cast_unsigned(),
            (*info).si_code,
        )
    };
    let fault = matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE) && code > 0;
    if fault {
        match host::resume_point(ip, true) {
            // SAFETY: changes where the interrupted assembly goes on, to a label of the same routine.
            Some(next) => unsafe {
                (*context).uc_mcontext.gregs[libc::REG_RIP as usize] = next.cast_signed();
            },
            None => crash(signal, ip),
        }
        return;
    }
    let parent = PARENT.load(Ordering::Acquire);
    // SAFETY: as above; the sender is there for a code of 0.
    if signal == STOP_SIGNAL && parent != 0 && code == 0 && unsafe { (*info).si_pid() } == parent {
        check_parent();
        CELL.with(|cell| cell.quiet.store(true, Ordering::Relaxed));
        return;
    }
    CELL.with(|cell| {
        if cell.pending.load(Ordering::Acquire) != 0 {
            // Only the two that are never blocked, sent by a process, can come while another waits. There is no second place
            // to keep one, and the first may just be being read.
            return;
        }
        // SAFETY: this thread's own cell; nothing reads `info` while `pending` is 0.
        unsafe { *cell.info.get() = *info.cast::<Info>() };
        let stop = signal == STOP_SIGNAL && STOPPING.load(Ordering::Relaxed);
        cell.pending
            .store(if stop { STOP } else { signal }, Ordering::Release);
        let run = cell.run.load(Ordering::Acquire);
        if !run.is_null() {
            // SAFETY: the live mapping of this thread's vCPU (`attach`); a single byte the kernel only reads.
            unsafe { (*run).immediate_exit = 1 };
        }
    });
    // SAFETY: the kernel's mask is the first 8 bytes of the field.
    unsafe { *(&raw mut (*context).uc_sigmask).cast::<u64>() = !FAULTS };
    if let Some(next) = host::resume_point(ip, false) {
        // SAFETY: as above.
        unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] = next.cast_signed() };
    }
}

/// A fault of the monitor itself: say where, and end.
fn crash(signal: i32, ip: u64) -> ! {
    let mut line = *b"mayfly-monitor: fault of the monitor itself, signal 00 at 0000000000000000\n";
    // Formatting allocates nothing here: digits are put in their places.
    let digit = |value: u64| {
        let [nibble, ..] = (value & 15).to_le_bytes();
        if nibble < 10 {
            b'0' + nibble
        } else {
            b'a' + nibble - 10
        }
    };
    let signal = u64::from(signal.unsigned_abs());
    line[52] = digit(signal / 10 % 10);
    line[53] = digit(signal % 10);
    for (place, byte) in line[58..74].iter_mut().enumerate() {
        *byte = digit(ip >> (60 - 4 * place));
    }
    // SAFETY: writes a local buffer, then ends; both are async-signal-safe.
    unsafe {
        libc::write(2, line.as_ptr().cast(), line.len());
        libc::_exit(70)
    }
}
