//! What the guest's memory may cost the node, held below its function's `memory`.
//!
//! Memory that a program can fill counts from when it is first writable until it goes, whatever its protection becomes: its pages stay.
//! But programs map far more than they touch (stacks, heaps, V8's region for code), so 2 MiB of private anonymous memory, aligned, count
//! only when they are first touched. Until then they are *fresh*: the guest's tables have no entry for them, so that its first access comes
//! here as a page fault (`Space::fault`), and the monitor's own comes through `access`. A fresh piece lies in one mapping. It may be
//! mapped writable in the host: nothing but these two ways leads there.
//!
//! The count is the process's, as the window is. Those who change it do so without a lock: a system call touches memory while another
//! thread maps some. So each change is one addition, of what the bits have really become; and memory becomes fresh before it is there
//! in the host, or goes from there, so that nobody touches it uncounted in between.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::errno::Errno;
use crate::kin::Kin;
use crate::vm::layout::{LARGE_PAGE, WINDOW};

#[allow(clippy::cast_possible_truncation)]
const WORDS: usize = (WINDOW / LARGE_PAGE / 64) as usize;

/// A bit for each 2 MiB of the window.
static FRESH: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// How many of them are set.
static PIECES: AtomicU64 = AtomicU64::new(0);
/// Bytes that count, and the most that may.
static COUNTED: AtomicU64 = AtomicU64::new(0);
static LIMIT: AtomicU64 = AtomicU64::new(0);
/// Where the processes of an instance note what each counts, and the row of this one.
static KIN: OnceLock<&'static Kin> = OnceLock::new();
static ROW: AtomicUsize = AtomicUsize::new(0);

/// Nothing is mapped. `limit` in bytes.
pub fn begin(limit: u64) {
    for word in &FRESH {
        word.store(0, Ordering::SeqCst);
    }
    PIECES.store(0, Ordering::SeqCst);
    LIMIT.store(limit, Ordering::SeqCst);
    COUNTED.store(0, Ordering::SeqCst);
    publish();
}

/// Counts what is counted here and in all other processes of the instance as one.
pub fn share(kin: &'static Kin, row: usize) {
    ROW.store(row, Ordering::SeqCst);
    let _ = KIN.set(kin);
    publish();
}

/// Bytes that count.
pub fn counted() -> u64 {
    COUNTED.load(Ordering::SeqCst)
}

/// Notes for the other processes what this one counts. Whoever comes last to the note finds the last change.
fn publish() {
    let Some(kin) = KIN.get() else { return };
    loop {
        let counted = counted();
        kin.commit(ROW.load(Ordering::SeqCst), counted);
        if counted == self::counted() {
            break;
        }
    }
}

fn exceeded() -> bool {
    let limit = LIMIT.load(Ordering::SeqCst);
    counted() > limit || KIN.get().is_some_and(|kin| kin.committed() > limit)
}

/// Whether there is room for `wanted` bytes in place of `released` ones.
pub fn check(released: u64, wanted: u64) -> Result<(), Errno> {
    let limit = LIMIT.load(Ordering::SeqCst);
    let own = counted().saturating_sub(released).saturating_add(wanted);
    if own > limit {
        return Err(Errno::NOMEM);
    }
    if let Some(kin) = KIN.get()
        && wanted > released
    {
        // Booked before it is added up: two processes never both take the last of it.
        kin.commit(ROW.load(Ordering::SeqCst), own);
        if kin.committed() > limit {
            publish();
            return Err(Errno::NOMEM);
        }
    }
    Ok(())
}

/// Books what this process counts in `row`, for a copy of it, if there is room.
pub fn book_copy(row: usize) -> Result<(), Errno> {
    let Some(kin) = KIN.get() else { return Ok(()) };
    kin.commit(row, counted());
    if kin.committed() > LIMIT.load(Ordering::SeqCst) {
        kin.commit(row, 0);
        return Err(Errno::NOMEM);
    }
    Ok(())
}

/// Counts `more` bytes, and `less` no longer.
pub fn shift(more: u64, less: u64) {
    COUNTED.fetch_add(more.wrapping_sub(less), Ordering::SeqCst);
    publish();
}

/// In the child of a fork: another thread may have been about to count when its memory was copied.
pub fn recount(bytes: u64) {
    COUNTED.store(bytes, Ordering::SeqCst);
}

/// The word and the bit of the 2 MiB over `address`, which lies in the window.
#[allow(clippy::cast_possible_truncation)]
fn place(address: u64) -> (&'static AtomicU64, u64) {
    let piece = address / LARGE_PAGE;
    (&FRESH[(piece / 64) as usize], 1 << (piece % 64))
}

/// The 2 MiB that lie wholly in a range.
fn whole(start: u64, end: u64) -> impl Iterator<Item = u64> {
    let first = start.div_ceil(LARGE_PAGE);
    (first..(end / LARGE_PAGE).max(first)).map(|piece| piece * LARGE_PAGE)
}

pub fn is_fresh(address: u64) -> bool {
    if PIECES.load(Ordering::SeqCst) == 0 || address >= WINDOW {
        return false;
    }
    let (word, bit) = place(address);
    word.load(Ordering::SeqCst) & bit != 0
}

/// Bytes of a range that can be fresh.
pub fn most(start: u64, end: u64) -> u64 {
    whole(start, end).count() as u64 * LARGE_PAGE
}

/// Fresh bytes of a range.
pub fn fresh(start: u64, end: u64) -> u64 {
    if PIECES.load(Ordering::SeqCst) == 0 {
        return 0;
    }
    whole(start, end).filter(|at| is_fresh(*at)).count() as u64 * LARGE_PAGE
}

/// Makes all 2 MiB in a range fresh: there is nothing in them, or will be nothing. Gives the bytes that were not.
pub fn freshen(start: u64, end: u64) -> u64 {
    whole(start, end).map(freshen_one).sum()
}

fn freshen_one(at: u64) -> u64 {
    let (word, bit) = place(at);
    // The count first: with none, nobody looks at the bits.
    PIECES.fetch_add(1, Ordering::SeqCst);
    if word.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
        PIECES.fetch_sub(1, Ordering::SeqCst);
        return 0;
    }
    LARGE_PAGE
}

/// The 2 MiB over `address` are not fresh any more. Gives the bytes that were.
fn clear(address: u64) -> u64 {
    let (word, bit) = place(address);
    if word.fetch_and(!bit, Ordering::SeqCst) & bit == 0 {
        return 0;
    }
    PIECES.fetch_sub(1, Ordering::SeqCst);
    LARGE_PAGE
}

/// What goes is not fresh any more. Gives the bytes that were.
///
/// Preconditions: `settle` was called for the range.
pub fn forget(start: u64, end: u64) -> u64 {
    if PIECES.load(Ordering::SeqCst) == 0 {
        return 0;
    }
    whole(start, end).map(clear).sum()
}

/// Before a part of a mapping becomes something else: what is fresh over its ends counts from now on.
pub fn settle(start: u64, end: u64) {
    for edge in [start, end] {
        if !edge.is_multiple_of(LARGE_PAGE) && is_fresh(edge) {
            shift(clear(edge), 0);
        }
    }
}

/// Before memory is touched: how far it may be, from `start` to `end` at most.
pub fn touch(start: u64, end: u64) -> u64 {
    if PIECES.load(Ordering::SeqCst) == 0 {
        return end;
    }
    let mut at = start;
    while at < end {
        if is_fresh(at) && !count(at) {
            return at;
        }
        at = (at / LARGE_PAGE + 1) * LARGE_PAGE;
    }
    end
}

/// Counts the 2 MiB over `address`, if there is room.
fn count(address: u64) -> bool {
    let bytes = clear(address);
    if bytes == 0 {
        return true;
    }
    COUNTED.fetch_add(bytes, Ordering::SeqCst);
    publish();
    if !exceeded() {
        return true;
    }
    COUNTED.fetch_sub(freshen_one(address), Ordering::SeqCst);
    publish();
    false
}

/// A range cut where it becomes fresh or ceases to be: each part with whether it is.
pub fn parts(start: u64, end: u64) -> Vec<(u64, u64, bool)> {
    let mut parts: Vec<(u64, u64, bool)> = Vec::new();
    if PIECES.load(Ordering::SeqCst) == 0 {
        parts.push((start, end, false));
        return parts;
    }
    let mut at = start;
    while at < end {
        let next = ((at / LARGE_PAGE + 1) * LARGE_PAGE).min(end);
        let fresh = is_fresh(at);
        match parts.last_mut() {
            Some((_, last, same)) if *same == fresh => *last = next,
            _ => parts.push((at, next, fresh)),
        }
        at = next;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: the count is the process's.
    #[test]
    fn memory_counts_when_it_is_touched_and_never_beyond_the_limit() {
        let mib = 1 << 20;
        begin(10 * mib);
        let (start, end) = (3 * mib, 13 * mib);
        assert_eq!(most(start, end), 8 * mib);
        let made = freshen(start, end);
        shift(end - start, made);
        assert_eq!((made, counted()), (8 * mib, 2 * mib));
        assert_eq!(freshen(start, end), 0);
        assert_eq!(
            parts(start, end),
            [
                (start, 4 * mib, false),
                (4 * mib, 12 * mib, true),
                (12 * mib, end, false)
            ]
        );
        assert_eq!(touch(5 * mib, 7 * mib), 7 * mib);
        assert_eq!((counted(), fresh(start, end)), (6 * mib, 4 * mib));
        assert_eq!(check(0, 4 * mib), Ok(()));
        assert_eq!(check(0, 5 * mib), Err(Errno::NOMEM));
        settle(start, 9 * mib);
        assert_eq!(counted(), 8 * mib);
        shift(mib, 0);
        assert_eq!(touch(7 * mib, 13 * mib), 10 * mib);
        assert!(is_fresh(11 * mib));
        shift(0, mib);
        assert_eq!(touch(7 * mib, 13 * mib), end);
        shift(forget(start, end), end - start);
        assert_eq!((counted(), fresh(0, WINDOW)), (0, 0));
    }
}
