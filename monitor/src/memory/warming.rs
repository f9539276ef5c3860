//! An address space seen by a rehearsal, and made warm for a call: pages there in the host, and known to KVM.

use super::charge;
use super::host_side::host_advise;
use super::space::Space;
use crate::errno::Errno;
use crate::vm::layout::{CLOCK_PAGE, FRAMES, HOST_BASE, LARGE_PAGE, large_page_down};
use crate::vm::low;
use crate::working_set::{Run, WorkingSet};

impl Space {
    /// From now on the guest's tables tell what it touches.
    ///
    /// Preconditions: nothing is mapped.
    pub fn observe(&mut self) {
        self.tables.observe();
    }

    /// The pages that the guest has touched, in order, and whether they were written. `own` says of a range of the monitor which pages
    /// are private copies; it is asked where the guest has touched something.
    pub fn touched(&self, own: impl Fn(u64, u64) -> Vec<bool>) -> Vec<(u64, bool)> {
        let mut found = Vec::new();
        for (start, mapping) in self
            .mappings
            .iter()
            .filter(|(_, mapping)| mapping.protection.any())
        {
            let mut at = *start;
            while at < mapping.end {
                let next = ((at | (LARGE_PAGE - 1)) + 1).min(mapping.end);
                let touched = self.tables.touched(at, next);
                if !touched.is_empty() {
                    let mut touched = touched.into_iter().peekable();
                    let copies = own(HOST_BASE + at, HOST_BASE + next);
                    for (page, copied) in (at..next).step_by(4096).zip(copies) {
                        let seen = touched.next_if(|(touched, _)| *touched == page);
                        if copied || seen.is_some() {
                            found.push((page, copied || seen.is_some_and(|(_, written)| written)));
                        }
                    }
                }
                at = next;
            }
        }
        found
    }

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

    /// Makes the pages of the set that are written present in the host, as copies, and with `read` the others too. A page that cannot be is
    /// met later. KVM makes pages present that the guest reads; of the written ones it then finds several at once.
    ///
    /// The copies come first: a page that was mapped for reading is copied by a second fault, and what is read brings its neighbours.
    pub fn populate(&mut self, set: &WorkingSet, read: bool) {
        if self.count(set).is_err() {
            return;
        }
        let there = |run: &Run| charge::touch(run.start, run.end) == run.end;
        let runs: Vec<Run> = self.warmable(set).filter(there).collect();
        let advise = |written: bool, advice| {
            for run in runs.iter().filter(|run| run.written == written) {
                let _ = host_advise(run.start, run.end - run.start, advice);
            }
        };
        advise(true, libc::MADV_POPULATE_WRITE);
        if read {
            advise(false, libc::MADV_POPULATE_READ);
        }
    }

    /// Lays out what `Task::warm` runs: gives how many pages it touches.
    pub fn lay_warmer(&mut self, set: &WorkingSet) -> Result<u64, Errno> {
        self.count(set)?;
        let parts: Vec<Run> = self.warmable(set).collect();
        let pages: Vec<(u64, bool)> = parts
            .iter()
            .filter(|run| charge::fresh(large_page_down(run.start), run.end) == 0)
            .flat_map(|run| run.pages().map(|page| (page, run.written)))
            .collect();
        // Before the guest reads it: a first write afterwards would take it from the guest again.
        low::touch_frames();
        // The page of the return frames too, by which each call goes back, and the clock's.
        let own = [FRAMES, CLOCK_PAGE].map(|page| (page, false));
        low::lay_warmer(&mut self.tables, pages.into_iter().chain(own))
    }

    pub fn clear_warmer(&mut self, count: u64) -> Result<(), Errno> {
        low::clear_warmer(&mut self.tables, count)
    }
}
