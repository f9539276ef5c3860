//! What a fault of the guest means, by the list of mappings.

use super::access;
use super::charge;
use super::mapping::{Backing, Mapping};
use super::space::Space;
use crate::errno::Errno;
use crate::vm::layout::{LARGE_PAGE, PAGE, large_page_down, page_down};
use crate::vm::page_tables::Protection;

/// The answer to a page fault.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    Retry,
    /// There is no room for what was touched.
    Exhausted,
    Unmapped,
    Denied,
    BeyondFile,
}

impl Space {
    /// What a page fault at `address` means. `write` and `fetch` from its error code.
    pub fn fault(&mut self, address: u64, write: bool, fetch: bool) -> Fault {
        let Some((start, mapping)) = self.find(address) else {
            return if self.grow_down(address) {
                Fault::Retry
            } else {
                Fault::Unmapped
            };
        };
        let allowed = mapping.protection;
        if !(allowed.any() && (!write || allowed.write) && (!fetch || allowed.execute)) {
            return Fault::Denied;
        }
        if mapping.is_private_anonymous() && !self.tables.get(address).any() {
            // It is fresh, or the monitor has touched it first.
            let piece = large_page_down(address);
            let (from, to) = (piece.max(start), (piece + LARGE_PAGE).min(mapping.end));
            return if charge::touch(from, to) < to {
                Fault::Exhausted
            } else if self.show(from, to, allowed).is_ok() {
                Fault::Retry
            } else {
                Fault::Unmapped
            };
        }
        let entry = self.tables.get(address);
        if entry.any() && (!write || entry.write) && (!fetch || entry.execute) {
            // Another thread allowed it meanwhile.
            return Fault::Retry;
        }
        // The entry was taken away because the file ended before the page.
        let page = page_down(address);
        if access::probe(page) && self.tables.set(page, page + PAGE, allowed).is_ok() {
            return Fault::Retry;
        }
        Fault::BeyondFile
    }

    /// The host refused an access that the tables allow: pages behind the end of a mapped file. Takes their entries
    /// away, so that the guest's next try is an exact page fault. Says whether there were any.
    pub fn uncover_file_ends(&mut self) -> Result<bool, Errno> {
        let mut found = false;
        // Shared anonymous memory is a file, too: mremap(2) may show more of it than there is.
        let has_end = |mapping: &Mapping| match mapping.backing {
            Backing::File => true,
            Backing::Anonymous => mapping.shared,
            Backing::Image { .. } => false,
        };
        let files: Vec<_> = self
            .mappings
            .iter()
            .filter(|(_, mapping)| has_end(mapping) && mapping.protection.any())
            .map(|(start, mapping)| (*start, mapping.end))
            .collect();
        for (start, end) in files {
            // Pages behind the end all fault, those before do not: bisect for the first bad one.
            let (mut good, mut bad) = (start, end);
            while good < bad {
                let middle = page_down(good + (bad - good) / 2);
                if access::probe(middle) {
                    good = middle + PAGE;
                } else {
                    bad = middle;
                }
            }
            if bad < end {
                self.generation += 1;
                found |= (bad..end).step_by(4096).any(|page| self.tables.get(page).any());
                self.tables.set(bad, end, Protection::NONE)?;
            }
        }
        Ok(found)
    }
}
