//! System calls to the host, and copies across the guest's memory, that a signal or a bad page may end.
//!
//! Both are a few lines of assembly because their correctness hangs on single instructions: the host signal handler
//! (`signals::host`) compares the interrupted instruction pointer with the labels below and moves it.
//! `interruptible` never starts a call once a signal is pending, so no wake-up is lost between the check and the call;
//! `copy` stops, and `exchange` fails, at a page that the host refuses instead of killing the monitor.
#![allow(unsafe_code)]

use std::arch::global_asm;
use std::sync::atomic::AtomicI32;

use crate::errno::{SysResult, from_raw};

global_asm!(
    r#"
    .text
    .globl mayfly_interruptible, mayfly_interruptible_check, mayfly_interruptible_call, mayfly_interruptible_abort
mayfly_interruptible:
    mov r11, rdi
    mov rax, rsi
    mov rdi, rdx
    mov rsi, rcx
    mov rdx, r8
    mov r10, r9
    mov r8, [rsp + 8]
    mov r9, [rsp + 16]
mayfly_interruptible_check:
    cmp dword ptr [r11], 0
    jne mayfly_interruptible_abort
mayfly_interruptible_call:
    syscall
    ret
mayfly_interruptible_abort:
    mov rax, -512
    ret

    .globl mayfly_copy, mayfly_copy_move, mayfly_copy_fault
mayfly_copy:
    mov rcx, rdx
mayfly_copy_move:
    rep movsb
mayfly_copy_fault:
    mov rax, rcx
    ret

    .globl mayfly_exchange, mayfly_exchange_do, mayfly_exchange_fault
mayfly_exchange:
    mov eax, esi
mayfly_exchange_do:
    lock cmpxchg dword ptr [rdi], edx
    ret
mayfly_exchange_fault:
    mov rax, -1
    ret
"#
);

unsafe extern "C" {
    fn mayfly_interruptible(
        pending: *const i32,
        number: i64,
        a: u64,
        b: u64,
        c: u64,
        d: u64,
        e: u64,
        f: u64,
    ) -> i64;
    fn mayfly_interruptible_check();
    fn mayfly_interruptible_call();
    fn mayfly_interruptible_abort();
    fn mayfly_copy(to: *mut u8, from: *const u8, length: usize) -> usize;
    fn mayfly_copy_move();
    fn mayfly_copy_fault();
    fn mayfly_exchange(at: *mut u32, expected: u32, new: u32) -> i64;
    fn mayfly_exchange_do();
    fn mayfly_exchange_fault();
}

/// Makes a system call unless `pending` is set; then, and when a signal arrives before it starts, `Errno::RESTART`.
///
/// # Safety
/// The arguments must be valid for the call: every pointer is the monitor's own or comes from the guest memory accessor.
pub unsafe fn interruptible(pending: &AtomicI32, number: libc::c_long, args: [u64; 6]) -> SysResult {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the caller vouches for the arguments; `pending` is a live i32 that the assembly only reads.
    from_raw(unsafe { mayfly_interruptible(pending.as_ptr(), number, a, b, c, d, e, f) })
}

/// Copies `length` bytes and says how many were *not* copied because a page was not accessible.
///
/// # Safety
/// Of the two ranges, the one outside the guest window must be valid; a fault is survived in either.
pub unsafe fn copy(to: *mut u8, from: *const u8, length: usize) -> usize {
    // SAFETY: the caller vouches for the monitor's side; the guest's side may fault, which the signal handler turns into an early end.
    unsafe { mayfly_copy(to, from, length) }
}

/// Replaces a word if it is `expected`, atomically, and gives what it was; `None` if it is not accessible.
///
/// # Safety
/// `at` is aligned and lies in the guest window, where a fault is survived.
pub unsafe fn exchange(at: *mut u32, expected: u32, new: u32) -> Option<u32> {
    // SAFETY: the caller vouches for the place; a fault there becomes the result -1.
    u32::try_from(unsafe { mayfly_exchange(at, expected, new) }).ok()
}

/// Where the host signal handler must continue when it interrupted `ip`, if that is one of the places above.
/// `fault` says whether the signal is a fault of that very instruction.
pub fn resume_point(ip: u64, fault: bool) -> Option<u64> {
    let at = |label: unsafe extern "C" fn()| label as usize as u64;
    if fault {
        if ip == at(mayfly_exchange_do) {
            return Some(at(mayfly_exchange_fault));
        }
        return (ip == at(mayfly_copy_move)).then(|| at(mayfly_copy_fault));
    }
    (at(mayfly_interruptible_check)..=at(mayfly_interruptible_call))
        .contains(&ip)
        .then(|| at(mayfly_interruptible_abort))
}
