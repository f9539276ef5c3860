//! The guest's address space: its mappings, and the calls that change them.
//!
//! Three things are kept the same under one lock: the list of mappings (the truth), the host mappings at the
//! shifted addresses, the guest's page tables. The order of a change is clear entries → host call → set entries
//! (`vm::page_tables`). What the guest has not mapped is PROT_NONE in the host and absent in its tables.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::access;
use super::advice::MADV_WIPEONFORK;
use super::charge;
use super::host_side::{host_advise, host_map, host_protect, reserve};
use super::mapping::{Backing, MappedFile, Mapping, Origin};
use crate::errno::{Errno, SysResult};
use crate::kin::Kin;
use crate::rlimits;
use crate::sys;
use crate::vm::kvm::Vm;
use crate::vm::layout::{
    HEAP_MAX, LOW_END, MMAP_TOP, NOTHING, PAGE, STACK_SIZE, STACK_TOP, WINDOW, page_down, page_up,
};
use crate::vm::low;
use crate::vm::page_tables::{PageTables, Protection};

const MAP_32BIT_TOP: u64 = 0x7fff_0000;
/// Most mappings (vm.max_map_count).
const MAPPINGS_MAX: usize = 65530;
/// What stays free below a mapping that grows down, bytes (stack_guard_gap).
pub(super) const GUARD: u64 = 256 * PAGE;

/// A file to map: the guest's descriptor, already checked, and the place in the file.
pub struct FileAt {
    pub fd: i32,
    pub offset: u64,
    pub file: MappedFile,
}

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

/// Bytes that have become fresh, and such as were fresh and count now, for a change that is under way.
#[derive(Clone, Copy, Default)]
pub(super) struct Turned {
    fresh: u64,
    counted: u64,
}

pub struct Space {
    pub(super) mappings: BTreeMap<u64, Mapping>,
    pub(super) tables: PageTables,
    vm: Vm,
    heap_start: u64,
    heap_end: u64,
    /// The files of the mappings, and perhaps some that were mapped before.
    files: BTreeMap<u64, MappedFile>,
    /// The key of the next file.
    next_object: u64,
    /// The most bytes that may count.
    limit: u64,
    /// Counts changes: a fault whose cause another thread just removed is retried once per generation.
    pub generation: u64,
}

impl SpaceState {
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
    /// Reserves the window and builds the low area. `limit` in bytes.
    pub fn new(vm: Vm, limit: u64) -> Result<Self, Errno> {
        let mut space = Self::detached(vm, limit)?;
        space.attach()?;
        Ok(space)
    }

    /// As `new`, but the memory is not the VM's before `attach`: until then KVM is not asked about each change in the host.
    pub fn detached(mut vm: Vm, limit: u64) -> Result<Self, Errno> {
        vm.detach();
        reserve(0, WINDOW, libc::MAP_FIXED_NOREPLACE)?;
        reserve(WINDOW, NOTHING, libc::MAP_FIXED)?;
        // SAFETY: the reservation made just now. Forks of the monitor that hold no guest must not copy it: see `detach`.
        let mut tables = PageTables::new()?;
        low::build(&mut tables)?;
        charge::begin(limit);
        let mut space = Self {
            mappings: BTreeMap::new(),
            tables,
            vm,
            heap_start: 0,
            heap_end: 0,
            files: BTreeMap::new(),
            next_object: 0,
            limit,
            generation: 0,
        };
        space.vm.ensure(0, LOW_END)?;
        space.vm.ensure_tables(space.tables.bytes())?;
        Ok(space)
    }

    /// Makes the memory the VM's.
    pub fn attach(&mut self) -> Result<(), Errno> {
        self.vm.attach()
    }

    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// In the child of a fork: the same memory under a VM of its own.
    pub fn replace_vm(&mut self, mut vm: Vm) -> Result<(), Errno> {
        self.wipe_image()?;
        vm.adopt(&self.vm)?;
        self.vm = vm;
        charge::recount(self.charge(0, WINDOW));
        Ok(())
    }

    /// Makes what a fork is to wipe fresh memory where it is a snapshot's image, which the host does not wipe by itself.
    fn wipe_image(&mut self) -> Result<(), Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        for (start, mapping) in &mut self.mappings {
            if !mapping.wiped || mapping.backing != (Backing::Image { anonymous: true }) {
                continue;
            }
            let length = mapping.end - start;
            if mapping.protection.any() {
                host_map(*start, length, mapping.protection.host(), flags, -1, 0)?;
                host_advise(*start, length, MADV_WIPEONFORK)?;
            }
            mapping.backing = Backing::Anonymous;
        }
        Ok(())
    }

    pub fn committed(&self) -> u64 {
        charge::counted()
    }

    /// Counts what is committed here and in all other processes of the instance as one.
    pub fn share_account(&mut self, kin: &'static Kin, row: usize) {
        charge::share(kin, row);
    }

    /// Whether a copy of this address space fits the limit; it is booked in `row` then.
    pub fn book_copy(&self, row: usize) -> Result<(), Errno> {
        charge::book_copy(row)
    }

    /// Gives all memory back and begins anew under `vm`: for a program that is executed.
    pub fn begin_again(&mut self, vm: Vm) -> Result<(), Errno> {
        reserve(0, WINDOW, libc::MAP_FIXED)?;
        self.tables.clear()?;
        low::build(&mut self.tables)?;
        self.vm = vm;
        self.mappings.clear();
        self.files.clear();
        (self.heap_start, self.heap_end) = (0, 0);
        charge::begin(self.limit);
        self.generation += 1;
        self.vm.ensure(0, LOW_END)?;
        self.vm.ensure_tables(self.tables.bytes())
    }

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

    /// Maps the image of a snapshot (offset in it = guest address) privately in place of each recorded mapping.
    ///
    /// Preconditions: the space is new.
    pub fn restore(&mut self, state: &SpaceState, image: i32) -> Result<(), Errno> {
        self.heap_start = state.heap_start;
        self.heap_end = state.heap_end;
        self.files = state.files.clone();
        self.next_object = state
            .files
            .last_key_value()
            .map_or(0, |(last, _)| last.saturating_add(1));
        for (start, mapping) in &state.mappings {
            let (start, mut mapping) = (*start, *mapping);
            if start < LOW_END
                || mapping.end > WINDOW
                || start >= mapping.end
                || !aligned(start | mapping.end)
            {
                return Err(Errno::INVAL);
            }
            let anonymous = matches!(
                mapping.backing,
                Backing::Anonymous | Backing::Image { anonymous: true }
            );
            // Children of this clone share it, so it cannot be the image's.
            let shared = mapping.shared && mapping.backing == Backing::Anonymous;
            if shared {
                share_anonymous(start, &mapping, image)?;
            } else if mapping.wiped && mapping.protection.any() {
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
            } else if mapping.protection.any() {
                let flags = libc::MAP_PRIVATE;
                host_map(
                    start,
                    mapping.end - start,
                    mapping.protection.host(),
                    flags,
                    image,
                    start,
                )?;
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
        self.vm.ensure_tables(self.tables.bytes())
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

    // ------------------------------------------------------------------ the list

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
    fn object(&mut self, file: Option<MappedFile>) -> u64 {
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
    fn reach(&self, start: u64, end: u64) -> u64 {
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
    fn mapped(&self, start: u64, end: u64) -> u64 {
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

    // ------------------------------------------------------------------ changes

    /// Clears the entries, does `host`, sets the entries: the order that KVM's shadow tables need.
    pub(super) fn change(
        &mut self,
        start: u64,
        end: u64,
        protection: Protection,
        host: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.alter(start, end, protection, host)?;
        self.show(start, end, protection)
    }

    /// The first two steps of `change`; the list is brought up to date, then `show` is the third.
    pub(super) fn alter(
        &mut self,
        start: u64,
        end: u64,
        protection: Protection,
        host: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.generation += 1;
        if protection.any() {
            self.vm.ensure(start, end)?;
        }
        self.tables.set(start, end, Protection::NONE)?;
        host()
    }

    /// Sets the entries, but for what is fresh.
    pub(super) fn show(&mut self, start: u64, end: u64, protection: Protection) -> Result<(), Errno> {
        for (from, to, fresh) in charge::parts(start, end) {
            let protection = if fresh { Protection::NONE } else { protection };
            self.tables.set(from, to, protection)?;
        }
        self.vm.ensure_tables(self.tables.bytes())
    }

    /// Implements mmap(2); anonymous memory has no file.
    pub fn map(
        &mut self,
        address: u64,
        length: u64,
        bits: u64,
        flags: i32,
        file: Option<FileAt>,
    ) -> SysResult {
        let length = page_up(length)
            .filter(|length| *length > 0)
            .ok_or(if length == 0 { Errno::INVAL } else { Errno::NOMEM })?;
        if length > WINDOW {
            return Err(Errno::NOMEM);
        }
        let noreplace = flags & libc::MAP_FIXED_NOREPLACE == libc::MAP_FIXED_NOREPLACE;
        let fixed = flags & libc::MAP_FIXED != 0 || noreplace;
        let shared = match flags & libc::MAP_TYPE {
            libc::MAP_PRIVATE => false,
            libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE => true,
            _ => return Err(Errno::INVAL),
        };
        let (host_fd, offset) = file.as_ref().map_or((-1, 0), |file| (file.fd, file.offset));
        if !aligned(offset) || (fixed && !aligned(address)) {
            return Err(Errno::INVAL);
        }
        let start = if fixed {
            let end = address
                .checked_add(length)
                .filter(|end| *end <= WINDOW)
                .ok_or(Errno::NOMEM)?;
            if address < LOW_END {
                return Err(Errno::PERM);
            }
            if noreplace && !self.is_free(address, end) {
                return Err(Errno::EXIST);
            }
            address
        } else {
            let hint = page_down(address);
            let top = if flags & libc::MAP_32BIT != 0 {
                MAP_32BIT_TOP
            } else {
                MMAP_TOP
            };
            match hint.checked_add(length) {
                Some(end) if hint != 0 && self.is_free(hint, end) => hint,
                _ => self.gap(length, top).ok_or(Errno::NOMEM)?,
            }
        };
        let end = start + length;
        let protection = Protection::from_bits(bits);
        let anonymous = file.is_none();
        let origin = (!anonymous || shared).then(|| Origin {
            object: self.object(file.map(|file| file.file)),
            offset,
        });
        let mapping = Mapping {
            shared,
            backing: if anonymous {
                Backing::Anonymous
            } else {
                Backing::File
            },
            origin,
            grows: flags & libc::MAP_GROWSDOWN != 0 && anonymous && !shared,
            unreserved: flags & libc::MAP_NORESERVE != 0 && anonymous && !shared,
            ..Mapping::anonymous(end, protection)
        };
        self.check_limit(self.charge(start, end), mapping.wanted(start, end))?;
        self.check_size(self.mapped(start, end), length)?;
        let host_flags = if shared {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE
        };
        let host_flags = host_flags
            | if anonymous {
                libc::MAP_ANONYMOUS | libc::MAP_NORESERVE
            } else {
                0
            };
        let turned = self.turn(start, &mapping);
        let changed = self.alter(start, end, protection, || {
            host_map(start, length, protection.host(), host_flags, host_fd, offset)
        });
        if let Err(error) = changed {
            // Nothing was mapped: what was there stays, with its entries.
            self.turn_back(start, end, turned);
            for (from, to, old) in self.parts(start, end) {
                self.show(from, to, old.protection)?;
            }
            return Err(error);
        }
        self.replace(start, mapping, turned);
        // As in the kernel, what cannot be made present is no error.
        let present = flags & libc::MAP_POPULATE != 0 && protection.any() && charge::touch(start, end) == end;
        self.show(start, end, protection)?;
        if present {
            let advice = if protection.write {
                libc::MADV_POPULATE_WRITE
            } else {
                libc::MADV_POPULATE_READ
            };
            let _ = host_advise(start, length, advice);
        }
        Ok(start)
    }

    /// Maps the main stack and returns its top.
    pub fn map_stack(&mut self, executable: bool) -> SysResult {
        let start = STACK_TOP - STACK_SIZE;
        let protection = Protection {
            execute: executable,
            ..Protection::READ_WRITE
        };
        self.change(start, STACK_TOP, protection, || {
            host_map(
                start,
                STACK_SIZE,
                protection.host(),
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        })?;
        self.insert(
            start,
            Mapping {
                stack: true,
                ..Mapping::anonymous(STACK_TOP, protection)
            },
        );
        Ok(STACK_TOP)
    }

    /// Implements munmap(2).
    pub fn unmap(&mut self, address: u64, length: u64) -> SysResult {
        let length = page_up(length).filter(|length| *length > 0).ok_or(Errno::INVAL)?;
        let end = address
            .checked_add(length)
            .filter(|end| *end <= WINDOW)
            .ok_or(Errno::INVAL)?;
        if !aligned(address) || address < LOW_END {
            return Err(Errno::INVAL);
        }
        self.change(address, end, Protection::NONE, || {
            reserve(address, length, libc::MAP_FIXED)
        })?;
        self.remove(address, end);
        Ok(0)
    }

    /// Implements mprotect(2).
    pub fn protect(&mut self, address: u64, length: u64, bits: u64) -> SysResult {
        let length = page_up(length).ok_or(Errno::NOMEM)?;
        if !aligned(address) || bits & !7 != 0 {
            return Err(Errno::INVAL);
        }
        let end = address.checked_add(length).ok_or(Errno::NOMEM)?;
        if length == 0 {
            return Ok(0);
        }
        // The host's reservation would let a hole pass: the list decides. What is before a hole is changed, as in the kernel.
        let wanted_end = end;
        let end = self.reach(address, end);
        if end == address {
            return Err(Errno::NOMEM);
        }
        let length = end - address;
        let protection = Protection::from_bits(bits);
        let parts = self.parts(address, end);
        let wanted = parts
            .iter()
            .map(|(from, to, part)| match (Mapping { protection, ..*part }) {
                part_now if part.is_counted() => part_now
                    .charge(*from, *to)
                    .saturating_sub(charge::fresh(*from, *to)),
                part_now => part_now.wanted(*from, *to),
            })
            .sum();
        self.check_limit(self.charge(address, end), wanted)?;
        charge::settle(address, end);
        // What never was writable has nothing in it.
        let turned: Vec<Turned> = parts
            .iter()
            .map(|(from, to, part)| {
                let end = *to;
                let now = Mapping {
                    end,
                    protection,
                    ..*part
                };
                if !part.is_counted() && now.is_counted() {
                    self.turn(*from, &now)
                } else {
                    Turned::default()
                }
            })
            .collect();
        let changed = self.alter(address, end, protection, || {
            host_protect(address, length, protection.host())
        });
        if let Err(error) = changed {
            for ((from, to, old), turned) in parts.into_iter().zip(turned) {
                if turned.fresh > 0 {
                    self.turn_back(from, to, turned);
                }
                self.show(from, to, old.protection)?;
            }
            return Err(error);
        }
        for ((from, to, part), turned) in parts.into_iter().zip(turned) {
            self.replace(
                from,
                Mapping {
                    end: to,
                    protection,
                    ..part
                },
                turned,
            );
        }
        self.show(address, end, protection)?;
        if end < wanted_end {
            Err(Errno::NOMEM)
        } else {
            Ok(0)
        }
    }

    /// Sets where the heap begins: behind the program.
    pub fn set_heap(&mut self, start: u64) {
        self.heap_start = start;
        self.heap_end = start;
    }

    /// Implements brk(2): gives the new end, or the old one.
    pub fn brk(&mut self, wanted: u64) -> u64 {
        if wanted < self.heap_start || wanted > self.heap_start + HEAP_MAX {
            return self.heap_end;
        }
        let (Some(old), Some(new)) = (page_up(self.heap_end), page_up(wanted)) else {
            return self.heap_end;
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let done = match new.cmp(&old) {
            std::cmp::Ordering::Greater => self.map(old, new - old, 3, flags, None).is_ok(),
            std::cmp::Ordering::Less => self.unmap(new, old - new).is_ok(),
            std::cmp::Ordering::Equal => true,
        };
        if done {
            self.heap_end = wanted;
        }
        self.heap_end
    }
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

pub(super) fn aligned(address: u64) -> bool {
    address.is_multiple_of(PAGE)
}
