//! What an instance counts, in one shared page that its parent reads after its death.
//!
//! The parent makes the page before the fork, so a receipt exists however the instance ends, SIGKILL included. The page
//! belongs to one instance: whatever breaks in it can falsify its own receipt only. The parent trusts none of it: numbers are
//! numbers, text is bounded and decoded with replacement.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Longest explanation kept, bytes.
pub const MESSAGE_MAX: usize = 480;
/// System calls kept for the explanation of an abnormal end.
pub const RECENT: usize = 16;

/// Why an instance says it ended; the parent adds what it sees itself (signal, deadline).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Cause {
    Unknown = 0,
    Closed = 1,
    Exited = 2,
    Signal = 3,
    Output = 4,
    Internal = 5,
    NoEnvelope = 6,
}

impl Cause {
    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Closed,
            2 => Self::Exited,
            3 => Self::Signal,
            4 => Self::Output,
            5 => Self::Internal,
            6 => Self::NoEnvelope,
            _ => Self::Unknown,
        }
    }
}

#[repr(C)]
pub struct Ledger {
    pub exits: AtomicU64,
    pub syscalls: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    cause: AtomicU8,
    pub code: AtomicU32,
    next_recent: AtomicU32,
    recent: [AtomicU32; RECENT],
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
        self.recent[place].store(number + 1, Ordering::Relaxed);
    }

    /// The last system calls, oldest first.
    pub fn recent(&self) -> Vec<u32> {
        let next = self.next_recent.load(Ordering::Relaxed) as usize;
        (0..RECENT)
            .filter_map(|place| self.recent[(next + place) % RECENT].load(Ordering::Relaxed).checked_sub(1))
            .collect()
    }

    /// Notes why the instance ends; the first note stays.
    pub fn end(&self, cause: Cause, code: u32, message: &str) {
        if self.cause.compare_exchange(0, cause as u8, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        self.code.store(code, Ordering::Relaxed);
        let bytes = message.as_bytes();
        let length = bytes.len().min(MESSAGE_MAX);
        for (to, from) in self.message.iter().zip(&bytes[..length]) {
            to.store(*from, Ordering::Relaxed);
        }
        self.message_length.store(u32::try_from(length).unwrap_or(0), Ordering::Release);
    }

    pub fn cause(&self) -> Cause {
        Cause::from_byte(self.cause.load(Ordering::Acquire))
    }

    pub fn message(&self) -> String {
        let length = (self.message_length.load(Ordering::Acquire) as usize).min(MESSAGE_MAX);
        let bytes: Vec<u8> = self.message[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
