//! An address space as each clone of a snapshot begins with it. `serve` makes it once, without a virtual machine and without ever touching what
//! it maps; fork(2) gives it to each clone, which then only makes what must be its own.
//!
//! Invariant: nothing of it is shared memory that can be written, so no clone sees what another does.

use std::os::fd::OwnedFd;

use super::host_side::{self, host_advise};
use super::restoring::SpaceState;
use super::space::Space;
use super::{apart, charge};
use crate::errno::Errno;
use crate::vm::kvm::Vm;
use crate::vm::layout::{CLOCK_PAGE, FRAMES, LARGE_PAGE, PAGE, WINDOW, large_page_down};
use crate::vm::low;
use crate::working_set::{Run, Warmth, WorkingSet};

pub struct Prepared {
    space: Space,
    /// What is to be there in the host before KVM knows the memory.
    present: Vec<Run>,
    /// How many pages the guest is to touch, if it is.
    touched: Option<u64>,
}

impl Prepared {
    /// Lays out what clones with this state and image begin with. `limit` in bytes.
    ///
    /// Preconditions: this process has no guest, and nothing in its window.
    pub fn new(
        limit: u64,
        state: &SpaceState,
        image: i32,
        set: &WorkingSet,
        warmth: Warmth,
    ) -> Result<Self, Errno> {
        let mut space = Space::detached(Vm::none(), limit)?;
        space.map_image(state, image)?;
        if warmth > Warmth::Cold {
            apart::choose(&set.apart)?;
        }
        space.restore(state)?;
        let mut prepared = Self {
            space,
            present: Vec::new(),
            touched: None,
        };
        if warmth > Warmth::Cold {
            prepared.space.count(set)?;
            let runs: Vec<Run> = prepared.space.warmable(set).collect();
            let there = |run: &Run| charge::touch(run.start, run.end) == run.end;
            let wanted = |run: &Run| run.written || warmth == Warmth::Populated;
            prepared.present = runs
                .iter()
                .filter(|run| wanted(run))
                .flat_map(|run| at_home(*run))
                .filter(there)
                .collect();
            // The copies first: a page that was mapped for reading is copied by a second fault, and what is read brings its neighbours.
            prepared.present.sort_by_key(|run| !run.written);
            if warmth == Warmth::Touched {
                prepared.touched = Some(prepared.space.lay_warmer(&runs)?);
            }
        }
        Ok(prepared)
    }

    /// In another child, which makes an address space of its own: nothing is in the window any more.
    pub fn discard(self) -> Result<(), Errno> {
        host_side::clear_window()?;
        apart::forget(0, WINDOW);
        Ok(())
    }

    /// In a clone: makes it the memory of `vm`, but for `attach`, with copies of the pages apart from `content`. Gives how many pages its guest is
    /// to touch (`Task::warm`).
    ///
    /// What is to be present and cannot be is met later. KVM makes pages present that the guest reads.
    pub fn take_up(self, vm: Vm, content: &OwnedFd) -> Result<(Space, Option<u64>), Errno> {
        let mut space = self.space;
        space.take_over(vm)?;
        apart::fill(content)?;
        // Before the guest reads them: a first write afterwards would take them from the guest again.
        low::touch_pages(&[FRAMES, CLOCK_PAGE]);
        for run in &self.present {
            let advice = if run.written {
                libc::MADV_POPULATE_WRITE
            } else {
                libc::MADV_POPULATE_READ
            };
            let _ = host_advise(run.start, run.end - run.start, advice);
        }
        Ok((space, self.touched))
    }
}

/// The parts of a run that are not apart.
fn at_home(run: Run) -> Vec<Run> {
    let mut parts: Vec<Run> = Vec::new();
    for page in run.pages().filter(|page| apart::physical(*page) == *page) {
        match parts.last_mut() {
            Some(part) if part.end == page => part.end += PAGE,
            _ => parts.push(Run {
                start: page,
                end: page + PAGE,
                ..run
            }),
        }
    }
    parts
}

impl Space {
    /// The parts of a set's runs that may be touched.
    fn warmable<'a>(&'a self, set: &'a WorkingSet) -> impl Iterator<Item = Run> + 'a {
        set.runs.iter().flat_map(|run| {
            self.parts(run.start, run.end)
                .into_iter()
                .filter(|(_, _, mapping)| mapping.protection.any())
                .map(|(start, end, mapping)| Run {
                    start,
                    end,
                    written: run.written && mapping.protection.write,
                })
        })
    }

    /// Counts the pages of the set that have not been touched before (`memory::charge`), as far as there is room.
    fn count(&mut self, set: &WorkingSet) -> Result<(), Errno> {
        let runs: Vec<Run> = self.warmable(set).collect();
        for run in runs {
            let Some((_, mapping)) = self.find(run.start) else {
                continue;
            };
            for (from, to, fresh) in charge::parts(run.start, run.end) {
                let (from, to) = (large_page_down(from), to.next_multiple_of(LARGE_PAGE));
                if fresh && charge::touch(from, to) == to {
                    self.show(from, to, mapping.protection)?;
                }
            }
        }
        Ok(())
    }

    /// Lays out what `Task::warm` runs: gives how many pages it touches.
    fn lay_warmer(&mut self, runs: &[Run]) -> Result<u64, Errno> {
        let pages = runs
            .iter()
            .filter(|run| charge::fresh(large_page_down(run.start), run.end) == 0)
            .flat_map(|run| run.pages().map(|page| (page, run.written)));
        // The page of the return frames too, by which each call goes back, and the clock's.
        let own = [FRAMES, CLOCK_PAGE].map(|page| (page, false));
        low::lay_warmer(&mut self.tables, pages.chain(own))
    }

    /// After `Task::warm`.
    pub fn clear_warmer(&mut self, count: u64) -> Result<(), Errno> {
        low::clear_warmer(&mut self.tables, count)
    }
}
