//! What one call touches, learnt from a rehearsal, and laid out in a clone before its call comes.
//!
//! Touching changes nothing: a page is read, or written with what it holds, and only where the snapshot itself allows it. So a
//! set that is wrong, or none, costs time and nothing else. It comes from a process that ran a guest: it is bounded and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::memory::apart;
use crate::memory::space::Space;
use crate::vm::layout::{APART_MAX, PAGE, large_page_down};

/// Largest set that is read back, bytes.
const SIZE_MAX: u64 = 4 << 20;
/// Pages of a call's from which on 2 MiB are worth a huge page.
const WORTH: u64 = 4;

/// Most pages that are kept apart.
#[allow(clippy::cast_possible_truncation)]
const APART_PAGES: usize = (APART_MAX / PAGE) as usize;

/// How much is done for a clone before its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warmth {
    /// Nothing: each page is met in the call.
    Cold,
    /// The working set is present in the host.
    Populated,
    /// The guest has touched it, too.
    Touched,
}

/// Neighbouring pages, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub start: u64,
    pub end: u64,
    pub written: bool,
}

impl Run {
    /// The addresses of its pages.
    pub fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        (self.start..self.end).step_by(4096)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingSet {
    pub runs: Vec<Run>,
    /// Threads that waited at the snapshot and were woken.
    pub woken: Vec<i32>,
    /// The pages that clones keep apart from the image, in order. Chosen by `serve`.
    #[serde(skip)]
    pub apart: Vec<u64>,
}

impl WorkingSet {
    /// What the guest of `space`, whose tables are observed, and the monitor have touched. `pagemap` is the process's own, if it can
    /// be read: without it what the monitor alone has written is missing.
    pub fn collect(space: &Space, pagemap: Option<&File>, woken: Vec<i32>) -> Self {
        let mut set = Self {
            woken,
            ..Self::default()
        };
        for (page, written) in space.touched(|start, end| private_pages(pagemap, start, end)) {
            set.push(page, written);
        }
        set
    }

    /// Takes over what another call has touched.
    pub fn add(&mut self, other: Self) {
        let mut pages = BTreeMap::new();
        for run in self.runs.iter().chain(&other.runs) {
            for page in run.pages() {
                *pages.entry(page).or_default() |= run.written;
            }
        }
        self.runs.clear();
        for (page, written) in pages {
            self.push(page, written);
        }
        for tid in other.woken {
            if !self.woken.contains(&tid) {
                self.woken.push(tid);
            }
        }
    }

    fn push(&mut self, page: u64, written: bool) {
        match self.runs.last_mut() {
            Some(run) if run.end == page && run.written == written => run.end += 4096,
            _ => self.runs.push(Run {
                start: page,
                end: page + 4096,
                written,
            }),
        }
    }

    /// Chooses the pages that clones keep apart (`memory::apart`): those that are written and, where a huge page has room left, those that are
    /// read beside them, because KVM finds up to eight neighbours at once which are the clone's own. `may` says which can be.
    pub fn choose_apart(&mut self, may: impl Fn(u64) -> bool) {
        const TOGETHER: u64 = 8 * PAGE;
        let pages = |written: bool| {
            let runs = self.runs.iter().filter(move |run| run.written == written);
            runs.flat_map(Run::pages).filter(|page| may(*page))
        };
        let mut apart: BTreeSet<u64> = pages(true).take(APART_PAGES).collect();
        let groups: BTreeSet<u64> = apart.iter().map(|page| page / TOGETHER).collect();
        let count = apart.len() as u64;
        let room = usize::try_from(apart::huge(count).saturating_sub(count)).unwrap_or(0);
        let beside = pages(false).filter(|page| groups.contains(&(page / TOGETHER)));
        apart.extend(beside.take(room).collect::<Vec<u64>>());
        self.apart = apart.into_iter().collect();
    }

    /// The aligned 2 MiB of which it has several pages.
    pub fn regions(&self) -> Vec<u64> {
        let mut regions: BTreeMap<u64, u64> = BTreeMap::new();
        for run in &self.runs {
            for page in run.pages() {
                *regions.entry(large_page_down(page)).or_default() += 1;
            }
        }
        let worth = regions.into_iter().filter(|(_, pages)| *pages >= WORTH);
        worth.map(|(region, _)| region).collect()
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| (run.end - run.start) / 4096).sum()
    }

    pub fn save(&self, to: &File) -> Result<(), Errno> {
        let bytes = postcard::to_stdvec(self).map_err(|_| Errno::INVAL)?;
        to.set_len(0)?;
        to.write_all_at(&bytes, 0).map_err(Errno::from)
    }

    /// Reads a set back; its runs are in order and do not overlap.
    pub fn load(from: &File) -> Result<Self, Errno> {
        let length = from.metadata()?.len();
        if length > SIZE_MAX {
            return Err(Errno(libc::EFBIG));
        }
        let mut bytes = vec![0u8; usize::try_from(length).map_err(|_| Errno::NOMEM)?];
        from.read_exact_at(&mut bytes, 0)?;
        let set: Self = postcard::from_bytes(&bytes).map_err(|_| Errno::INVAL)?;
        let ordered = set.runs.windows(2).all(|pair| pair[0].end <= pair[1].start);
        let whole = |run: &Run| run.start < run.end && (run.start | run.end).is_multiple_of(4096);
        if !ordered || !set.runs.iter().all(whole) {
            return Err(Errno::INVAL);
        }
        Ok(set)
    }
}

/// The pages of a range of the monitor that are its own copies, by the kernel's page map (proc_pid_pagemap(5)).
fn private_pages(pagemap: Option<&File>, start: u64, end: u64) -> Vec<bool> {
    const PRESENT: u64 = 1 << 63;
    const SHARED: u64 = 1 << 61;
    let count = usize::try_from((end - start) / 4096).unwrap_or(0);
    let mut bytes = vec![0u8; count * 8];
    let read = pagemap.map(|file| file.read_exact_at(&mut bytes, start / 4096 * 8));
    if !matches!(read, Some(Ok(()))) {
        return vec![false; count];
    }
    bytes
        .chunks_exact(8)
        .map(|word| {
            let mut entry = [0u8; 8];
            entry.copy_from_slice(word);
            u64::from_ne_bytes(entry) & (PRESENT | SHARED) == PRESENT
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> File {
        let file = File::from(crate::sys::memory_file(c"set").unwrap());
        file.write_all_at(content, 0).unwrap();
        file
    }

    #[test]
    fn neighbours_are_one_run_and_come_back() {
        let mut set = WorkingSet::default();
        for (page, written) in [
            (0x40_0000, false),
            (0x40_1000, false),
            (0x40_2000, true),
            (0x50_0000, true),
        ] {
            set.push(page, written);
        }
        assert_eq!((set.runs.len(), set.pages()), (3, 4));
        let to = file(b"");
        set.save(&to).unwrap();
        assert_eq!(WorkingSet::load(&to).unwrap(), set);
    }

    #[test]
    fn what_two_calls_touch_is_one_set() {
        let set = |pages: &[(u64, bool)], woken: &[i32]| {
            let mut set = WorkingSet::default();
            for (page, written) in pages {
                set.push(*page, *written);
            }
            set.woken.extend(woken);
            set
        };
        let mut one = set(&[(0x1000, false), (0x3000, true)], &[7]);
        one.add(set(&[(0x1000, true), (0x2000, true), (0x3000, false)], &[8, 7]));
        assert_eq!(
            one,
            set(&[(0x1000, true), (0x2000, true), (0x3000, true)], &[7, 8])
        );
    }

    #[test]
    fn what_is_written_is_kept_apart_and_fills_its_huge_page_with_neighbours() {
        let mut set = WorkingSet::default();
        for page in 0..300 {
            // Two written pages and a read one in eight, and eight that are only read.
            let start = page * 16 * PAGE;
            for (offset, written) in [(0, true), (1, true), (2, false), (9, false)] {
                set.push(start + offset * PAGE, written);
            }
        }
        set.choose_apart(|page| page != 0);
        // 599 that are written: one huge page, and no room beside the rest.
        assert_eq!(set.apart.len(), 599);
        set.choose_apart(|page| page < 200 * 16 * PAGE && page != 0);
        assert_eq!(set.apart.len(), 512);
        assert!(set.apart.is_sorted() && set.apart.contains(&(2 * PAGE)));
        assert!(!set.apart.contains(&(9 * PAGE)) && !set.apart.contains(&0));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(WorkingSet::load(&file(&[0xff; 64])).is_err());
        for runs in [
            &[(0x40_1000, 0x40_2000), (0x40_0000, 0x40_1000)][..],
            &[(0x40_0001, 0x40_1000)],
            &[(8192, 4096)],
        ] {
            let runs = runs.iter().map(|(start, end)| Run {
                start: *start,
                end: *end,
                written: false,
            });
            let set = WorkingSet {
                runs: runs.collect(),
                ..WorkingSet::default()
            };
            let to = file(b"");
            set.save(&to).unwrap();
            assert!(WorkingSet::load(&to).is_err());
        }
    }
}
