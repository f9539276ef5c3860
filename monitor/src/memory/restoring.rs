//! What a snapshot keeps of an address space, and the address space made from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::access;
use super::advice::MADV_WIPEONFORK;
use super::host_side::{host_advise, host_map, host_protect};
use super::mapping::{Backing, MappedFile, Mapping};
use super::space::{Space, aligned};
use super::{apart, charge};
use crate::errno::Errno;
use crate::sys;
use crate::vm::layout::{LOW_END, WINDOW};
use crate::vm::page_tables::Protection;

/// What a snapshot keeps of an address space.
#[derive(Clone, Serialize, Deserialize)]
pub struct SpaceState {
    pub mappings: Vec<(u64, Mapping)>,
    pub heap_start: u64,
    pub heap_end: u64,
    pub files: BTreeMap<u64, MappedFile>,
    /// What of it is fresh, in whole 2 MiB.
    pub fresh: Vec<(u64, u64)>,
}

impl SpaceState {
    /// Whether a clone has the image's page here, and may write it.
    pub fn is_writable_image(&self, page: u64) -> bool {
        let behind = self.mappings.partition_point(|(start, _)| *start <= page);
        let found = behind.checked_sub(1).and_then(|at| self.mappings.get(at));
        found.is_some_and(|(_, mapping)| {
            page < mapping.end && mapping.protection.write && !mapping.shared && !mapping.wiped
        })
    }

    /// Makes fresh what of a mapping was so; gives the bytes.
    fn restored_fresh(&self, start: u64, mapping: &Mapping) -> u64 {
        if !mapping.is_counted() || !mapping.is_private_anonymous() {
            return 0;
        }
        self.fresh
            .iter()
            .map(|(from, to)| charge::freshen((*from).max(start), (*to).min(mapping.end)))
            .sum()
    }
}

impl Space {
    pub fn state(&self) -> SpaceState {
        SpaceState {
            mappings: self
                .mappings
                .iter()
                .map(|(start, mapping)| (*start, *mapping))
                .collect(),
            heap_start: self.heap_start,
            heap_end: self.heap_end,
            files: self.files.clone(),
            fresh: charge::parts(0, WINDOW)
                .into_iter()
                .filter_map(|(start, end, fresh)| fresh.then_some((start, end)))
                .collect(),
        }
    }

    /// Maps the image of a snapshot (offset in it = guest address), privately, where mappings of the guest show it.
    ///
    /// Preconditions: the space is new.
    pub fn map_image(&mut self, state: &SpaceState, image: i32) -> Result<(), Errno> {
        let mut at = LOW_END;
        for (start, mapping) in &state.mappings {
            if *start < at || *start >= mapping.end || !aligned(*start | mapping.end) {
                return Err(Errno::INVAL);
            }
            at = mapping.end;
        }
        if at > WINDOW {
            return Err(Errno::INVAL);
        }
        map_image(&state.mappings, image)
    }

    /// Makes the recorded mappings.
    ///
    /// Preconditions: `map_image` was called, and nothing but `apart::choose` since.
    pub fn restore(&mut self, state: &SpaceState) -> Result<(), Errno> {
        self.heap_start = state.heap_start;
        self.heap_end = state.heap_end;
        self.files = state.files.clone();
        self.next_object = state
            .files
            .last_key_value()
            .map_or(0, |(last, _)| last.saturating_add(1));
        for (start, mapping) in &state.mappings {
            let (start, mut mapping) = (*start, *mapping);
            let anonymous = matches!(
                mapping.backing,
                Backing::Anonymous | Backing::Image { anonymous: true }
            );
            let shared = is_kept_shared(&mapping);
            if !shared && mapping.wiped && mapping.protection.any() {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                host_map(
                    start,
                    mapping.end - start,
                    mapping.protection.host(),
                    flags,
                    -1,
                    0,
                )?;
                host_advise(start, mapping.end - start, MADV_WIPEONFORK)?;
            }
            let fresh = state.restored_fresh(start, &mapping);
            if mapping.protection.any() {
                self.vm.ensure(start, mapping.end)?;
                self.show(start, mapping.end, mapping.protection)?;
            }
            if !mapping.wiped && !shared {
                mapping.backing = Backing::Image { anonymous };
            }
            mapping.shared = shared;
            charge::shift(mapping.charge(start, mapping.end), fresh);
            self.mappings.insert(start, mapping);
        }
        self.vm.ensure_apart(apart::bytes())?;
        self.vm.ensure_tables(self.tables.bytes())
    }

    /// Makes the shared anonymous memory, with what the image has of it.
    ///
    /// Preconditions: `restore` was called; the memory is not a VM's yet.
    pub fn make_shared(&self, state: &SpaceState, image: i32) -> Result<(), Errno> {
        let mut kept = state
            .mappings
            .iter()
            .filter(|(_, mapping)| is_kept_shared(mapping));
        kept.try_for_each(|(start, mapping)| share_anonymous(*start, mapping, image))
    }

    /// Maps a file in place of a restored mapping that showed it, as a shared one.
    pub fn share(&mut self, start: u64, fd: i32) -> Result<(), Errno> {
        let (found, mapping) = self.find(start).ok_or(Errno::INVAL)?;
        let origin = mapping.origin.filter(|_| found == start).ok_or(Errno::INVAL)?;
        let (length, protection) = (mapping.end - start, mapping.protection);
        self.change(start, mapping.end, protection, || {
            host_map(
                start,
                length,
                protection.host(),
                libc::MAP_SHARED,
                fd,
                origin.offset,
            )
        })?;
        self.remove(start, mapping.end);
        self.insert(
            start,
            Mapping {
                shared: true,
                backing: Backing::File,
                ..mapping
            },
        );
        Ok(())
    }
}

/// Children of the clone share it, so it cannot be the image's.
fn is_kept_shared(mapping: &Mapping) -> bool {
    mapping.shared && mapping.backing == Backing::Anonymous
}

/// Maps the image, privately, where mappings show it: neighbours whose protection is one for the host (which never executes) at once.
fn map_image(mappings: &[(u64, Mapping)], image: i32) -> Result<(), Errno> {
    let shown = mappings
        .iter()
        .filter(|(_, mapping)| mapping.protection.any() && !mapping.wiped && !is_kept_shared(mapping));
    let mut runs: Vec<(u64, u64, i32)> = Vec::new();
    for (start, mapping) in shown {
        let protection = mapping.protection.host();
        match runs.last_mut() {
            Some((_, end, same)) if *end == *start && *same == protection => *end = mapping.end,
            _ => runs.push((*start, mapping.end, protection)),
        }
    }
    runs.into_iter().try_for_each(|(start, end, protection)| {
        host_map(start, end - start, protection, libc::MAP_PRIVATE, image, start)
    })
}

/// Makes shared anonymous memory with what the image has of it.
fn share_anonymous(start: u64, mapping: &Mapping, image: i32) -> Result<(), Errno> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    host_map(
        start,
        mapping.end - start,
        Protection::READ_WRITE.host(),
        flags,
        -1,
        0,
    )?;
    let mut buffer = vec![0; 64 << 10];
    let mut at = start;
    while let Some((from, end)) = sys::next_content(&image, at)?.filter(|(from, _)| *from < mapping.end) {
        at = from;
        let end = end.min(mapping.end);
        while at < end {
            let step = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            let got = sys::read_at(&image, &mut buffer[..step], at)?;
            if got == 0 {
                return Err(Errno::IO);
            }
            access::write_bytes(at, &buffer[..got])?;
            at += got as u64;
        }
    }
    host_protect(start, mapping.end - start, mapping.protection.host())
}
