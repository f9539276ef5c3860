//! What an instance counts, in one shared page that its parent reads after its death.
//!
//! The parent makes the page before the fork, so a receipt exists however the instance ends, SIGKILL included. The page
//! belongs to one instance: whatever breaks in it can falsify its own receipt only. The parent trusts none of it: numbers are
//! numbers, text is bounded and decoded with replacement.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::control::Cause;

/// Longest explanation kept, bytes.
pub const MESSAGE_MAX: usize = 480;
/// Causes in the order of their numbers in the page; 0 is none.
const CAUSES: [Cause; 8] = [
    Cause::Closed,
    Cause::Exited,
    Cause::Signal,
    Cause::Deadline,
    Cause::Abandoned,
    Cause::Drained,
    Cause::Output,
    Cause::Internal,
];
/// `code` when there is none.
const NO_CODE: i32 = i32::MIN;
/// System calls kept for the explanation of an abnormal end.
pub const RECENT: usize = 16;

#[repr(C)]
pub struct Ledger {
    pub exits: AtomicU64,
    pub syscalls: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    cause: AtomicU8,
    code: AtomicI32,
    next_recent: AtomicU32,
    recent: [AtomicU32; RECENT],
    /// Port of the last socket that listened elsewhere than on the function's port, plus one.
    listening: AtomicU32,
    message_length: AtomicU32,
    message: [AtomicU8; MESSAGE_MAX],
}

const _: () = assert!(size_of::<Ledger>() <= 4096);

impl Ledger {
    /// A zeroed ledger in a fresh shared page. Lives as long as the process, or until `free`.
    pub fn allocate() -> Result<&'static Self, crate::errno::Errno> {
        // SAFETY: a fresh anonymous mapping.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(crate::errno::Errno::last());
        }
        // SAFETY: page-aligned, zeroed, large enough; all fields are atomics, for which zero is valid.
        Ok(unsafe { &*at.cast::<Self>() })
    }

    /// Gives the page back.
    ///
    /// # Safety
    /// No reference to this ledger may be used afterwards in this process.
    pub unsafe fn free(&'static self) {
        // SAFETY: the page made by `allocate`; the caller vouches that it is not used any more.
        unsafe { libc::munmap(std::ptr::from_ref(self).cast_mut().cast(), 4096) };
    }

    pub fn count_syscall(&self, number: u32) {
        self.syscalls.fetch_add(1, Ordering::Relaxed);
        let place = self.next_recent.fetch_add(1, Ordering::Relaxed) as usize % RECENT;
        self.recent[place].store(number.saturating_add(1), Ordering::Relaxed);
    }

    /// Notes that the program listens on a port that is not the function's.
    pub fn listens_elsewhere(&self, port: u16) {
        self.listening.store(u32::from(port) + 1, Ordering::Relaxed);
    }

    /// That port, if there is one.
    pub fn listening_port(&self) -> Option<u16> {
        self.listening
            .load(Ordering::Relaxed)
            .checked_sub(1)
            .and_then(|port| u16::try_from(port).ok())
    }

    /// The last system calls, oldest first.
    pub fn recent(&self) -> Vec<u32> {
        let next = self.next_recent.load(Ordering::Relaxed) as usize;
        (0..RECENT)
            .filter_map(|place| {
                self.recent[(next + place) % RECENT]
                    .load(Ordering::Relaxed)
                    .checked_sub(1)
            })
            .collect()
    }

    /// Notes why the instance ends; the first note stays.
    pub fn end(&self, cause: Cause, code: Option<i32>, message: &str) {
        let number = CAUSES
            .iter()
            .position(|known| *known == cause)
            .map_or(0, |at| at + 1);
        let number = u8::try_from(number).unwrap_or(0);
        if self
            .cause
            .compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            return;
        }
        self.code.store(code.unwrap_or(NO_CODE), Ordering::Relaxed);
        let bytes = message.as_bytes();
        let length = bytes.len().min(MESSAGE_MAX);
        for (to, from) in self.message.iter().zip(&bytes[..length]) {
            to.store(*from, Ordering::Relaxed);
        }
        self.message_length
            .store(u32::try_from(length).unwrap_or(0), Ordering::Release);
    }

    /// What the instance noted, with its code.
    pub fn cause(&self) -> Option<(Cause, Option<i32>)> {
        let number = usize::from(self.cause.load(Ordering::Acquire)).checked_sub(1)?;
        let code = self.code.load(Ordering::Relaxed);
        Some((*CAUSES.get(number)?, (code != NO_CODE).then_some(code)))
    }

    pub fn message(&self) -> String {
        let length = (self.message_length.load(Ordering::Acquire) as usize).min(MESSAGE_MAX);
        let bytes: Vec<u8> = self.message[..length]
            .iter()
            .map(|byte| byte.load(Ordering::Relaxed))
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
