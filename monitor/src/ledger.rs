//! What an instance counts, in a shared page that its parent reads after its death, and what its processes know of each other.
//!
//! The parent makes the page before the fork, so a receipt exists however the instance ends, SIGKILL included. The page
//! is a memory file of a fixed size, so that a process which executes a program finds it again; it belongs to one instance: whatever breaks in it can falsify its own receipt only. The parent trusts none of it: numbers are
//! numbers, text is bounded and decoded with replacement.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::control::Cause;
use crate::errno::{Errno, from_libc};
use crate::fs::descriptors::raise;
use crate::kin::Kin;

/// Longest explanation kept, bytes.
pub const MESSAGE_MAX: usize = 960;
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
/// Numbers of system calls that are counted apart; all above share one more place.
pub const COUNTED: usize = 512;

/// How often a system call was made, and how often its answer was ENOSYS or EPERM.
#[repr(C)]
struct Used {
    calls: AtomicU32,
    denied: AtomicU32,
}

#[repr(C)]
pub struct Ledger {
    pub exits: AtomicU64,
    /// Nanoseconds for which the guest ran, of all its threads: up to the exits that are counted.
    pub guest: AtomicU64,
    /// When the call's connection was taken, and when the first byte of its answer was written: microseconds of CLOCK_MONOTONIC, 0 if never.
    taken: AtomicU64,
    answered: AtomicU64,
    /// `guest` at that first byte.
    guest_to_answer: AtomicU64,
    pub syscalls: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    cause: AtomicU8,
    code: AtomicI32,
    next_recent: AtomicU32,
    recent: [AtomicU32; RECENT],
    results: [AtomicI64; RECENT],
    /// Port of the last socket that listened elsewhere than on the function's port, plus one.
    listening: AtomicU32,
    message_length: AtomicU32,
    message: [AtomicU8; MESSAGE_MAX],
    /// Whether its processes run at the lowest priority by the parent's doing.
    yielding: AtomicBool,
    /// Whether `used` is kept: set before the fork, or never.
    counting: AtomicBool,
    used: [Used; COUNTED + 1],
    /// The processes of the instance.
    pub kin: Kin,
}

/// Bytes of the shared memory.
const SIZE: usize = 16 << 10;
const _: () = assert!(size_of::<Ledger>() <= SIZE);

/// The result of a call that has not returned.
const RUNNING: i64 = i64::MIN;

/// What a call's timeline is drawn by; the clock is CLOCK_MONOTONIC, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Moments {
    pub taken_at: Option<u64>,
    pub answered_at: Option<u64>,
    /// For which the guest ran until the answer began.
    pub guest_us: u64,
}

fn monotonic_us() -> u64 {
    crate::sys::clock(libc::CLOCK_MONOTONIC).map_or(0, |[seconds, nanoseconds]| {
        u64::try_from(seconds * 1_000_000 + nanoseconds / 1000).unwrap_or(0)
    })
}

impl Ledger {
    /// The guest has left its virtual machine, after it ran for so long.
    pub fn count_exit(&self, ran: Duration) {
        let nanoseconds = u64::try_from(ran.as_nanos()).unwrap_or(u64::MAX);
        self.exits.fetch_add(1, Ordering::Relaxed);
        self.guest.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// A zeroed ledger, and the memory file behind it, whose size cannot be changed. The ledger lives as long as the process, or
    /// until `free`.
    pub fn allocate() -> Result<(&'static Self, OwnedFd), Errno> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: a NUL-terminated name; the result is checked.
        let fd = from_libc(unsafe { libc::memfd_create(c"mayfly-ledger".as_ptr(), flags) })?;
        // SAFETY: a fresh descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(|_| Errno::MFILE)?) };
        let size = i64::try_from(SIZE).map_err(|_| Errno::INVAL)?;
        // SAFETY: no pointers.
        from_libc(unsafe { libc::ftruncate(fd.as_raw_fd(), size) })?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: no pointers. An instance that made the file shorter would kill its parent.
        from_libc(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        let ledger = Self::map(fd.as_raw_fd())?;
        Ok((ledger, raise(fd)?))
    }

    /// The ledger in a memory file that `allocate` made.
    pub fn map(fd: RawFd) -> Result<&'static Self, Errno> {
        // SAFETY: a fresh mapping.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // SAFETY: page-aligned, large enough; all fields are atomics, for which any content is valid.
        Ok(unsafe { &*at.cast::<Self>() })
    }

    /// Counts from the call on; by this write its page is there then.
    pub fn begin(&self) {
        self.exits.store(0, Ordering::Relaxed);
        self.guest.store(0, Ordering::Relaxed);
    }

    /// The call's connection is here.
    pub fn take_call(&self) {
        self.taken.store(monotonic_us(), Ordering::Relaxed);
    }

    /// So many bytes of the answer have been written.
    pub fn count_answer(&self, bytes: u64) {
        if self.bytes_out.fetch_add(bytes, Ordering::Relaxed) == 0 {
            self.guest_to_answer
                .store(self.guest.load(Ordering::Relaxed), Ordering::Relaxed);
            self.answered.store(monotonic_us(), Ordering::Relaxed);
        }
    }

    /// When the call came and when its answer began, and for how long the guest ran in between.
    pub fn moments(&self) -> Moments {
        let read = |moment: &AtomicU64| Some(moment.load(Ordering::Relaxed)).filter(|moment| *moment != 0);
        Moments {
            taken_at: read(&self.taken),
            answered_at: read(&self.answered),
            guest_us: self.guest_to_answer.load(Ordering::Relaxed) / 1000,
        }
    }

    /// Notes that the parent lowers the instance's priority.
    pub fn set_yielding(&self) {
        self.yielding.store(true, Ordering::Relaxed);
    }

    pub fn is_yielding(&self) -> bool {
        self.yielding.load(Ordering::Relaxed)
    }

    /// Gives the page back.
    ///
    /// # Safety
    /// No reference to this ledger may be used afterwards in this process.
    pub unsafe fn free(&'static self) {
        // SAFETY: the page made by `allocate`; the caller vouches that it is not used any more.
        unsafe { libc::munmap(std::ptr::from_ref(self).cast_mut().cast(), SIZE) };
    }

    /// Notes a call that begins; what is given back is for `returned`.
    pub fn called(&self, number: u32) -> usize {
        self.syscalls.fetch_add(1, Ordering::Relaxed);
        let place = self.next_recent.fetch_add(1, Ordering::Relaxed) as usize % RECENT;
        self.results[place].store(RUNNING, Ordering::Relaxed);
        self.recent[place].store(number.saturating_add(1), Ordering::Relaxed);
        if self.counting.load(Ordering::Relaxed) {
            self.used(number).calls.fetch_add(1, Ordering::Relaxed);
        }
        place
    }

    /// Counts the system calls one by one from now on.
    pub fn count(&self) {
        self.counting.store(true, Ordering::Relaxed);
    }

    /// Notes that a call was answered by ENOSYS or EPERM.
    pub fn denied(&self, number: u32) {
        if self.counting.load(Ordering::Relaxed) {
            self.used(number).denied.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn used(&self, number: u32) -> &Used {
        &self.used[(number as usize).min(COUNTED)]
    }

    /// The system calls that were made: number, how often, how often denied. Those above `COUNTED` have its number.
    pub fn counts(&self) -> Vec<[u32; 3]> {
        (0u32..)
            .zip(&self.used)
            .map(|(number, used)| {
                let [calls, denied] = [&used.calls, &used.denied].map(|count| count.load(Ordering::Relaxed));
                [number, calls, denied]
            })
            .filter(|[_, calls, _]| *calls > 0)
            .collect()
    }

    /// Notes its result, negative for an error.
    pub fn returned(&self, place: usize, result: i64) {
        self.results[place % RECENT].store(result, Ordering::Relaxed);
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

    /// The last system calls of all threads and processes, oldest first, with their results as far as they have one.
    pub fn recent(&self) -> Vec<(u32, Option<i64>)> {
        let next = self.next_recent.load(Ordering::Relaxed) as usize;
        (0..RECENT)
            .filter_map(|place| {
                let place = (next + place) % RECENT;
                let number = self.recent[place].load(Ordering::Relaxed).checked_sub(1)?;
                let result = self.results[place].load(Ordering::Relaxed);
                Some((number, (result != RUNNING).then_some(result)))
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
        if !message.is_empty() {
            self.note(message);
        }
    }

    /// Notes an explanation: the abnormal end of a process that is not the first stays in the receipt if nothing else is said.
    pub fn note(&self, message: &str) {
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
