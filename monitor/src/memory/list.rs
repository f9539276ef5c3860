//! The list of mappings: what is where, what counts, and where there is room.

use super::charge;
use super::mapping::{Backing, MappedFile, Mapping};
use super::space::Space;
use crate::errno::Errno;
use crate::rlimits;
use crate::vm::layout::{LARGE_PAGE, LOW_END, PAGE, WINDOW, large_page_down};

/// Most mappings (vm.max_map_count).
const MAPPINGS_MAX: usize = 65530;
/// What stays free below a mapping that grows down, bytes (stack_guard_gap).
pub(super) const GUARD: u64 = 256 * PAGE;

/// Bytes that have become fresh, and such as were fresh and count now, for a change that is under way.
#[derive(Clone, Copy, Default)]
pub(super) struct Turned {
    pub(super) fresh: u64,
    pub(super) counted: u64,
}

impl Space {
    /// The mapping over `address` with its start.
    pub fn find(&self, address: u64) -> Option<(u64, Mapping)> {
        let (start, mapping) = self.mappings.range(..=address).next_back()?;
        (address < mapping.end).then_some((*start, *mapping))
    }

    /// All mappings in order.
    pub fn mappings(&self) -> impl Iterator<Item = (u64, &Mapping)> {
        self.mappings.iter().map(|(start, mapping)| (*start, mapping))
    }

    /// Whether a mapping that starts here is the heap's.
    pub fn is_heap(&self, start: u64) -> bool {
        (self.heap_start..self.heap_end).contains(&start)
    }

    /// The files in a range that was restored from a snapshot, by their keys.
    pub fn restored_files(&self, start: u64, length: u64) -> Vec<(u64, MappedFile)> {
        let end = start.saturating_add(length);
        let parts = self.parts(start, end).into_iter();
        parts
            .filter(|(.., part)| part.backing == Backing::Image { anonymous: false })
            .filter_map(|(.., part)| Some((part.origin?.object, self.file(&part)?.clone())))
            .collect()
    }

    /// The file that a mapping shows.
    pub fn file(&self, mapping: &Mapping) -> Option<&MappedFile> {
        self.files.get(&mapping.origin?.object)
    }

    /// The key of a file that is about to be mapped; `None` is new shared anonymous memory.
    pub(super) fn object(&mut self, file: Option<MappedFile>) -> u64 {
        let known = self.files.iter().find(|(_, known)| Some(*known) == file.as_ref());
        if let Some((object, _)) = known {
            return *object;
        }
        let object = self.next_object;
        self.next_object += 1;
        if let Some(file) = file {
            if self.files.len() > 2 * self.mappings.len() + 64 {
                let used: std::collections::BTreeSet<u64> = self
                    .mappings
                    .values()
                    .filter_map(|mapping| Some(mapping.origin?.object))
                    .collect();
                self.files.retain(|object, _| used.contains(object));
            }
            self.files.insert(object, file);
        }
        object
    }

    /// Parts of mappings inside `start..end`, as (start, end, mapping).
    pub(super) fn parts(&self, start: u64, end: u64) -> Vec<(u64, u64, Mapping)> {
        let first = self.find(start).map_or(start, |(at, _)| at);
        self.mappings
            .range(first..end)
            .map(|(at, mapping)| {
                let from = (*at).max(start);
                (from, mapping.end.min(end), mapping.later(from - *at))
            })
            .filter(|(from, to, _)| from < to)
            .collect()
    }

    /// Where the mapped memory from `start` on ends, at `end` at the latest.
    pub(super) fn reach(&self, start: u64, end: u64) -> u64 {
        let mut at = start;
        for (from, to, _) in self.parts(start, end) {
            if from != at {
                break;
            }
            at = to;
        }
        at
    }

    pub(super) fn covered(&self, start: u64, end: u64) -> bool {
        self.reach(start, end) == end
    }

    pub(super) fn is_free(&self, start: u64, end: u64) -> bool {
        start >= LOW_END && end <= WINDOW && start < end && self.parts(start, end).is_empty()
    }

    pub(super) fn charge(&self, start: u64, end: u64) -> u64 {
        self.parts(start, end)
            .iter()
            .map(|(from, to, mapping)| {
                mapping
                    .charge(*from, *to)
                    .saturating_sub(charge::fresh(*from, *to))
            })
            .sum()
    }

    /// ENOMEM if an address space that becomes so much larger is beyond what the guest has set.
    pub(super) fn check_size(&self, released: u64, wanted: u64) -> Result<(), Errno> {
        let most = rlimits::soft(libc::RLIMIT_AS);
        if wanted <= released || most == libc::RLIM_INFINITY {
            return Ok(());
        }
        let size: u64 = self
            .mappings
            .iter()
            .map(|(start, mapping)| mapping.end - start)
            .sum();
        if size + wanted - released > most {
            return Err(Errno::NOMEM);
        }
        Ok(())
    }

    /// Whether private memory that may be written becomes more than the guest has allowed itself.
    fn is_beyond_data(&self, released: u64, wanted: u64) -> bool {
        let most = rlimits::soft(libc::RLIMIT_DATA);
        if wanted <= released || most == libc::RLIM_INFINITY {
            return false;
        }
        let sizes = self
            .mappings
            .iter()
            .map(|(start, mapping)| mapping.charge(*start, mapping.end));
        (sizes.sum::<u64>() + wanted).saturating_sub(released) > most
    }

    /// Bytes that are mapped between two addresses.
    pub(super) fn mapped(&self, start: u64, end: u64) -> u64 {
        self.parts(start, end).iter().map(|(from, to, _)| to - from).sum()
    }

    pub(super) fn check_limit(&self, released: u64, wanted: u64) -> Result<(), Errno> {
        if self.mappings.len() > MAPPINGS_MAX || self.is_beyond_data(released, wanted) {
            return Err(Errno::NOMEM);
        }
        charge::check(released, wanted)
    }

    /// Removes `start..end` from the list, splitting what reaches over its ends.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        charge::settle(start, end);
        for (from, to, mapping) in self.parts(start, end) {
            charge::shift(charge::forget(from, to), mapping.charge(from, to));
        }
        self.take_out(start, end);
    }

    /// Puts `mapping` in place of what is there. What is fresh stays so, and `turned` of it became so for this.
    ///
    /// Preconditions: `charge::settle` was called for the range.
    pub(super) fn replace(&mut self, start: u64, mapping: Mapping, turned: Turned) {
        let end = mapping.end;
        let parts = self.parts(start, end).into_iter();
        let old: u64 = parts.map(|(from, to, part)| part.charge(from, to)).sum();
        charge::shift(mapping.charge(start, end) + turned.counted, old + turned.fresh);
        self.take_out(start, end);
        self.put_in(start, mapping);
    }

    /// Before memory with nothing in it comes into the place of what is there.
    pub(super) fn turn(&self, start: u64, mapping: &Mapping) -> Turned {
        let end = mapping.end;
        charge::settle(start, end);
        if mapping.is_counted() && mapping.is_private_anonymous() {
            Turned {
                fresh: charge::freshen(start, end),
                counted: 0,
            }
        } else {
            Turned {
                fresh: 0,
                counted: charge::forget(start, end),
            }
        }
    }

    /// It did not come: all of the range counts.
    pub(super) fn turn_back(&self, start: u64, end: u64, turned: Turned) {
        charge::shift(charge::forget(start, end) + turned.counted, turned.fresh);
    }

    fn take_out(&mut self, start: u64, end: u64) {
        for (from, to, _) in self.parts(start, end) {
            let (whole_start, whole) = match self.find(from) {
                Some(found) => found,
                None => continue,
            };
            self.mappings.remove(&whole_start);
            if whole_start < from {
                self.mappings.insert(whole_start, Mapping { end: from, ..whole });
            }
            if to < whole.end {
                self.mappings.insert(to, whole.later(to - whole_start));
            }
        }
    }

    /// Adds a mapping over free space, merged with equal neighbours.
    pub(super) fn insert(&mut self, start: u64, mapping: Mapping) {
        self.replace(start, mapping, Turned::default());
    }

    fn put_in(&mut self, mut start: u64, mut mapping: Mapping) {
        mapping.counts = mapping.is_counted();
        if let Some((before, left)) = self.mappings.range(..start).next_back().map(|(at, m)| (*at, *m))
            && left.end == start
            && (Mapping {
                end: mapping.end,
                ..left.later(start - before)
            }) == mapping
        {
            self.mappings.remove(&before);
            mapping = Mapping {
                end: mapping.end,
                ..left
            };
            start = before;
        }
        if let Some(right) = self.mappings.get(&mapping.end).copied()
            && (Mapping {
                end: right.end,
                ..mapping.later(mapping.end - start)
            }) == right
        {
            self.mappings.remove(&mapping.end);
            mapping.end = right.end;
        }
        self.mappings.insert(start, mapping);
    }

    /// A high free range of `length` bytes below `top` whose part from `from` on begins on a boundary of 2 MiB.
    pub(super) fn large_gap(&self, length: u64, top: u64, from: u64) -> Option<u64> {
        let low = self.gap(length.checked_add(LARGE_PAGE)?, top)?;
        Some(large_page_down(low + LARGE_PAGE + from) - from)
    }

    /// The highest free range of `length` bytes below `top`.
    pub(super) fn gap(&self, length: u64, top: u64) -> Option<u64> {
        let mut end = top;
        for (start, mapping) in self.mappings.range(..top).rev() {
            if mapping.end < end && end - mapping.end >= length {
                break;
            }
            let guard = if mapping.grows { GUARD } else { 0 };
            end = end.min(start.saturating_sub(guard));
        }
        (end >= LOW_END + length).then(|| end - length)
    }
}
