//! An address space seen by a rehearsal.

use super::space::Space;
use crate::vm::layout::{HOST_BASE, LARGE_PAGE};

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
}
