//! The page from which the guest's vDSO tells the time (`vdso.s`), and the time-stamp counter that drives it.
//!
//! It lies in the monitor's low area: the guest reads it, the monitor writes it through its own mapping. A reader that meets an odd
//! sequence number, or another one after than before, reads again.
#![allow(unsafe_code)]

use std::arch::global_asm;
use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::mem::offset_of;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

use crate::vm::layout::{CLOCK_PAGE, HOST_BASE};

/// Clocks whose number is a bit here are told by the page.
pub const ANSWERED: u32 = PRECISE | 1 << libc::CLOCK_MONOTONIC_COARSE;
/// Of these, the ones that have the page's resolution.
pub const PRECISE: u32 = 1 << libc::CLOCK_REALTIME | 1 << libc::CLOCK_MONOTONIC | 1 << libc::CLOCK_BOOTTIME;

#[repr(C)]
pub struct Page {
    /// Odd while the rest is written.
    sequence: AtomicU32,
    /// The counter at the moment for which `monotonic` holds.
    start: AtomicU64,
    /// From so many ticks after `start` on the page is too old; 0: there is nothing in it.
    horizon: AtomicU64,
    /// Nanoseconds a tick, with 32 bits of fraction.
    rate: AtomicU64,
    monotonic: AtomicI64,
    /// What clock_getres(2) says of the precise clocks; 0: unknown.
    resolution: AtomicU64,
    /// By clock: what is added to the monotonic one.
    offsets: [AtomicI64; 8],
}

/// What the page says.
#[derive(Clone, Copy, Default, Debug)]
pub struct Content {
    pub start: u64,
    pub horizon: u64,
    pub rate: u64,
    pub monotonic: i64,
    pub resolution: u64,
    pub realtime: i64,
    pub boottime: i64,
}

global_asm!(
    include_str!("vdso.s"),
    PAGE = const CLOCK_PAGE,
    SEQUENCE = const offset_of!(Page, sequence),
    START = const offset_of!(Page, start),
    HORIZON = const offset_of!(Page, horizon),
    RATE = const offset_of!(Page, rate),
    MONOTONIC = const offset_of!(Page, monotonic),
    RESOLUTION = const offset_of!(Page, resolution),
    OFFSETS = const offset_of!(Page, offsets),
    ANSWERED = const ANSWERED,
    PRECISE = const PRECISE,
);

unsafe extern "C" {
    static mayfly_vdso: u8;
    static mayfly_vdso_end: u8;
}

/// The vDSO as an ELF file, less than a page.
pub fn vdso() -> &'static [u8] {
    let (start, end) = (&raw const mayfly_vdso, &raw const mayfly_vdso_end);
    // SAFETY: two labels around constant bytes of this program.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// The time-stamp counter, after everything before it has happened.
pub fn ticks() -> u64 {
    // SAFETY: both instructions exist on every x86-64, and the kernel allows rdtsc unless asked not to (PR_SET_TSC).
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// The page of this process.
///
/// Preconditions: `vm::low::build` was done.
pub fn page() -> &'static Page {
    // SAFETY: the low area is mapped for the life of the process and this page of it is nobody else's; the guest cannot write it; all fields
    // are atomic, and any bytes are valid in them.
    unsafe { &*((HOST_BASE + CLOCK_PAGE) as *const Page) }
}

impl Page {
    /// Replaces the content by what `make` gives. No reader uses the old one with a time after `make` was called.
    ///
    /// Preconditions: one writer at a time.
    pub fn publish(&self, make: impl FnOnce() -> Content) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence | 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let content = make();
        self.start.store(content.start, Ordering::Relaxed);
        self.horizon.store(content.horizon, Ordering::Relaxed);
        self.rate.store(content.rate, Ordering::Relaxed);
        self.monotonic.store(content.monotonic, Ordering::Relaxed);
        self.resolution.store(content.resolution, Ordering::Relaxed);
        for (clock, offset) in [
            (libc::CLOCK_REALTIME, content.realtime),
            (libc::CLOCK_BOOTTIME, content.boottime),
        ] {
            if let Some(place) = usize::try_from(clock)
                .ok()
                .and_then(|clock| self.offsets.get(clock))
            {
                place.store(offset, Ordering::Relaxed);
            }
        }
        self.sequence
            .store((sequence | 1).wrapping_add(1), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vdso_is_one_page() {
        assert!(vdso().starts_with(b"\x7fELF"));
        assert!(vdso().len() < 4096);
        assert!(size_of::<Page>() <= 4096);
    }
}
