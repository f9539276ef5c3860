//! The resource limits that the guest has set for itself (setrlimit(2)). One process of the host is one of the guest, so they are
//! the process's: a fork copies them, and a program that is executed keeps them.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many limits there are (RLIM_NLIMITS).
pub const COUNT: usize = 16;
const INFINITE: u64 = libc::RLIM_INFINITY;
/// No process has this: the limit was not set.
const UNSET: u64 = INFINITE - 1;

/// Soft and hard.
static SET: [[AtomicU64; 2]; COUNT] = [const { [const { AtomicU64::new(UNSET) }; 2] }; COUNT];

fn place(resource: u32) -> Option<&'static [AtomicU64; 2]> {
    SET.get(usize::try_from(resource).ok()?)
}

/// What the guest has set, soft and hard, if it has. `None` for a number that is no resource's.
pub fn of(resource: u32) -> Option<[Option<u64>; 2]> {
    let known = |value: &AtomicU64| Some(value.load(Ordering::Relaxed)).filter(|value| *value != UNSET);
    let [soft, hard] = place(resource)?;
    Some([known(soft), known(hard)])
}

/// The soft limit that the guest has set, or none.
pub fn soft(resource: u32) -> u64 {
    of(resource).and_then(|[soft, _]| soft).unwrap_or(INFINITE)
}

pub fn set(resource: u32, limit: [u64; 2]) {
    for (place, value) in place(resource).into_iter().flatten().zip(limit) {
        place.store(value, Ordering::Relaxed);
    }
}

/// All of them, for `take_over` in the process's next program.
pub fn hand_over() -> Vec<[u64; 2]> {
    let value = |place: &AtomicU64| place.load(Ordering::Relaxed);
    SET.iter()
        .map(|[soft, hard]| [value(soft), value(hard)])
        .collect()
}

pub fn take_over(limits: &[[u64; 2]]) {
    for (resource, limit) in (0..).zip(limits) {
        set(resource, *limit);
    }
}
