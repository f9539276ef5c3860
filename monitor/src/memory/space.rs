//! The guest's address space: its mappings, and the calls that change them.
//!
//! Three things are kept the same under one lock: the list of mappings (the truth), the host mappings at the
//! shifted addresses, the guest's page tables. The order of a change is clear entries → host call → set entries
//! (`vm::page_tables`). What the guest has not mapped is PROT_NONE in the host and absent in its tables.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::host_side::{host_advise, host_map, host_protect, relocate, reserve};
use super::mapping::{Backing, Mapping};
use crate::errno::{Errno, SysResult};
use crate::vm::kvm::Vm;
use crate::vm::layout::{
    HEAP_MAX, HOST_BASE, LOW_END, MMAP_TOP, PAGE, STACK_SIZE, STACK_TOP, WINDOW, page_down, page_up,
};
use crate::vm::low;
use crate::vm::page_tables::{PageTables, Protection};

const MAP_32BIT_TOP: u64 = 0x7fff_0000;
/// Most mappings (vm.max_map_count).
const MAPPINGS_MAX: usize = 65530;

/// What a snapshot keeps of an address space.
#[derive(Clone, Serialize, Deserialize)]
pub struct SpaceState {
    pub mappings: Vec<(u64, Mapping)>,
    pub heap_start: u64,
    pub heap_end: u64,
}

pub struct Space {
    pub(super) mappings: BTreeMap<u64, Mapping>,
    pub(super) tables: PageTables,
    vm: Vm,
    heap_start: u64,
    heap_end: u64,
    /// Bytes committed, and the most allowed.
    committed: u64,
    limit: u64,
    /// Counts changes: a fault whose cause another thread just removed is retried once per generation.
    pub generation: u64,
}

impl Space {
    /// Reserves the window and builds the low area. `limit` in bytes.
    pub fn new(vm: Vm, limit: u64) -> Result<Self, Errno> {
        reserve(0, WINDOW, libc::MAP_FIXED_NOREPLACE)?;
        // SAFETY: the reservation made just now. Forks of the monitor that hold no guest must not copy it: see `detach`.
        let mut tables = PageTables::new()?;
        low::build(&mut tables)?;
        let mut space = Self {
            mappings: BTreeMap::new(),
            tables,
            vm,
            heap_start: 0,
            heap_end: 0,
            committed: 0,
            limit,
            generation: 0,
        };
        space.vm.ensure(0, LOW_END)?;
        space.vm.ensure_tables(space.tables.bytes())?;
        Ok(space)
    }

    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// In the child of a fork: the same memory under a VM of its own.
    pub fn replace_vm(&mut self, mut vm: Vm) -> Result<(), Errno> {
        vm.adopt(&self.vm)?;
        self.vm = vm;
        Ok(())
    }

    pub fn committed(&self) -> u64 {
        self.committed
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
        }
    }

    /// Maps the image of a snapshot (offset in it = guest address) privately in place of each recorded mapping.
    ///
    /// Preconditions: the space is new.
    pub fn restore(&mut self, state: &SpaceState, image: i32) -> Result<(), Errno> {
        self.heap_start = state.heap_start;
        self.heap_end = state.heap_end;
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
            if mapping.protection.any() {
                host_map(
                    start,
                    mapping.end - start,
                    mapping.protection.host(),
                    libc::MAP_PRIVATE,
                    image,
                    start,
                )?;
                self.vm.ensure(start, mapping.end)?;
                self.tables.set(start, mapping.end, mapping.protection)?;
            }
            mapping.backing = Backing::Image { anonymous };
            mapping.shared = false;
            self.committed += mapping.charge(start, mapping.end);
            self.mappings.insert(start, mapping);
        }
        self.vm.ensure_tables(self.tables.bytes())
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

    /// The host's name of the file mapped here, empty if there is none.
    pub fn file_name(&self, start: u64) -> Vec<u8> {
        let wanted = format!("{:x}-", HOST_BASE + start);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let line = maps.lines().find(|line| line.starts_with(&wanted));
        line.and_then(|line| line.find('/').map(|at| line.as_bytes()[at..].to_vec()))
            .unwrap_or_default()
    }

    /// Parts of mappings inside `start..end`, as (start, end, mapping).
    fn parts(&self, start: u64, end: u64) -> Vec<(u64, u64, Mapping)> {
        let first = self.find(start).map_or(start, |(at, _)| at);
        self.mappings
            .range(first..end)
            .map(|(at, mapping)| ((*at).max(start), mapping.end.min(end), *mapping))
            .filter(|(from, to, _)| from < to)
            .collect()
    }

    fn covered(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for (from, to, _) in self.parts(start, end) {
            if from != at {
                return false;
            }
            at = to;
        }
        at == end
    }

    fn is_free(&self, start: u64, end: u64) -> bool {
        start >= LOW_END && end <= WINDOW && start < end && self.parts(start, end).is_empty()
    }

    fn charge(&self, start: u64, end: u64) -> u64 {
        self.parts(start, end)
            .iter()
            .map(|(from, to, mapping)| mapping.charge(*from, *to))
            .sum()
    }

    fn check_limit(&self, released: u64, wanted: u64) -> Result<(), Errno> {
        if self.committed - released + wanted > self.limit || self.mappings.len() > MAPPINGS_MAX {
            return Err(Errno::NOMEM);
        }
        Ok(())
    }

    /// Removes `start..end` from the list, splitting what reaches over its ends.
    fn remove(&mut self, start: u64, end: u64) {
        for (from, to, mapping) in self.parts(start, end) {
            self.committed -= mapping.charge(from, to);
            let (whole_start, whole) = match self.find(from) {
                Some(found) => found,
                None => continue,
            };
            self.mappings.remove(&whole_start);
            if whole_start < from {
                self.mappings.insert(whole_start, Mapping { end: from, ..whole });
            }
            if to < whole.end {
                self.mappings.insert(to, whole);
            }
        }
    }

    /// Adds a mapping over free space, merged with equal neighbours.
    fn insert(&mut self, mut start: u64, mut mapping: Mapping) {
        self.committed += mapping.charge(start, mapping.end);
        let mergeable = |other: &Mapping, end| Mapping { end, ..*other } == Mapping { end, ..mapping };
        if let Some((before, left)) = self.mappings.range(..start).next_back().map(|(at, m)| (*at, *m))
            && left.end == start
            && mergeable(&left, mapping.end)
        {
            self.mappings.remove(&before);
            start = before;
        }
        if let Some(right) = self.mappings.get(&mapping.end).copied()
            && mergeable(&right, mapping.end)
        {
            self.mappings.remove(&mapping.end);
            mapping.end = right.end;
        }
        self.mappings.insert(start, mapping);
    }

    /// The highest free range of `length` bytes below `top`.
    fn gap(&self, length: u64, top: u64) -> Option<u64> {
        let mut end = top;
        for (start, mapping) in self.mappings.range(..top).rev() {
            if mapping.end < end && end - mapping.end >= length {
                break;
            }
            end = end.min(*start);
        }
        (end >= LOW_END + length).then(|| end - length)
    }

    // ------------------------------------------------------------------ changes

    /// Clears the entries, does `host`, sets the entries: the order that KVM's shadow tables need.
    fn change(
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
        host()?;
        self.tables.set(start, end, protection)?;
        self.vm.ensure_tables(self.tables.bytes())
    }

    /// Implements mmap(2). `fd` is the guest's, already checked, or -1.
    pub fn map(
        &mut self,
        address: u64,
        length: u64,
        bits: u64,
        flags: i32,
        fd: i32,
        offset: u64,
    ) -> SysResult {
        let length = page_up(length)
            .filter(|length| *length > 0)
            .ok_or(if length == 0 { Errno::INVAL } else { Errno::NOMEM })?;
        if length > WINDOW {
            return Err(Errno::NOMEM);
        }
        let noreplace = flags & libc::MAP_FIXED_NOREPLACE == libc::MAP_FIXED_NOREPLACE;
        let fixed = flags & libc::MAP_FIXED != 0 || noreplace;
        let anonymous = flags & libc::MAP_ANONYMOUS != 0;
        let shared = match flags & libc::MAP_TYPE {
            libc::MAP_PRIVATE => false,
            libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE => true,
            _ => return Err(Errno::INVAL),
        };
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
        let backing = if anonymous {
            Backing::Anonymous
        } else {
            Backing::File
        };
        let mapping = Mapping {
            end,
            protection,
            shared,
            backing,
            stack: false,
        };
        self.check_limit(self.charge(start, end), mapping.charge(start, end))?;
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
        let host_fd = if anonymous { -1 } else { fd };
        let changed = self.change(start, end, protection, || {
            host_map(start, length, protection.host(), host_flags, host_fd, offset)
        });
        if let Err(error) = changed {
            // Nothing was mapped: what was there stays, with its entries.
            for (from, to, old) in self.parts(start, end) {
                self.tables.set(from, to, old.protection)?;
            }
            return Err(error);
        }
        self.remove(start, end);
        self.insert(start, mapping);
        Ok(start)
    }

    /// Maps the main stack and returns its top.
    pub fn map_stack(&mut self) -> SysResult {
        let start = STACK_TOP - STACK_SIZE;
        self.change(start, STACK_TOP, Protection::READ_WRITE, || {
            host_map(
                start,
                STACK_SIZE,
                Protection::READ_WRITE.host(),
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        })?;
        self.insert(
            start,
            Mapping {
                end: STACK_TOP,
                protection: Protection::READ_WRITE,
                shared: false,
                backing: Backing::Anonymous,
                stack: true,
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
        // The host's reservation would let a hole pass: the list decides.
        if end > WINDOW || !self.covered(address, end) {
            return Err(Errno::NOMEM);
        }
        let protection = Protection::from_bits(bits);
        let parts = self.parts(address, end);
        let wanted = parts
            .iter()
            .map(|(from, to, part)| Mapping { protection, ..*part }.charge(*from, *to))
            .sum();
        self.check_limit(self.charge(address, end), wanted)?;
        let changed = self.change(address, end, protection, || {
            host_protect(address, length, protection.host())
        });
        if let Err(error) = changed {
            for (from, to, old) in parts {
                self.tables.set(from, to, old.protection)?;
            }
            return Err(error);
        }
        for (from, to, part) in parts {
            self.remove(from, to);
            self.insert(
                from,
                Mapping {
                    end: to,
                    protection,
                    ..part
                },
            );
        }
        Ok(0)
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
            std::cmp::Ordering::Greater => self.map(old, new - old, 3, flags, -1, 0).is_ok(),
            std::cmp::Ordering::Less => self.unmap(new, old - new).is_ok(),
            std::cmp::Ordering::Equal => true,
        };
        if done {
            self.heap_end = wanted;
        }
        self.heap_end
    }

    /// Implements mremap(2).
    pub fn remap(
        &mut self,
        old: u64,
        old_length: u64,
        new_length: u64,
        flags: i32,
        target: u64,
    ) -> SysResult {
        let old_length = page_up(old_length).ok_or(Errno::INVAL)?;
        let new_length = page_up(new_length)
            .filter(|length| *length > 0 && *length <= WINDOW)
            .ok_or(Errno::INVAL)?;
        let fixed = flags & libc::MREMAP_FIXED != 0;
        let may_move = flags & libc::MREMAP_MAYMOVE != 0;
        if !aligned(old) || flags & !(libc::MREMAP_FIXED | libc::MREMAP_MAYMOVE) != 0 || (fixed && !may_move)
        {
            return Err(Errno::INVAL);
        }
        let old_end = old.checked_add(old_length).ok_or(Errno::INVAL)?;
        let (_, mapping) = self.find(old).ok_or(Errno::FAULT)?;
        if old_length == 0 || !self.covered(old, old_end) {
            // Length 0 duplicates a shared mapping: refused.
            return Err(if old_length == 0 {
                Errno::INVAL
            } else {
                Errno::FAULT
            });
        }
        if self.parts(old, old_end).len() != 1 {
            // Neighbours that are alike are one mapping here, so these differ: they do not move as one.
            return Err(Errno::FAULT);
        }
        if !fixed && new_length <= old_length {
            if new_length < old_length {
                self.unmap(old + new_length, old_length - new_length)?;
            }
            return Ok(old);
        }
        if !may_move {
            return Err(Errno::NOMEM);
        }
        let start = if fixed {
            let end = target
                .checked_add(new_length)
                .filter(|end| *end <= WINDOW)
                .ok_or(Errno::INVAL)?;
            if !aligned(target) || target < LOW_END || (target < old_end && old < end) {
                return Err(Errno::INVAL);
            }
            target
        } else {
            self.gap(new_length, MMAP_TOP).ok_or(Errno::NOMEM)?
        };
        let moved = Mapping {
            end: start + new_length,
            ..mapping
        };
        let released = self.charge(old, old_end) + self.charge(start, start + new_length);
        self.check_limit(released, moved.charge(start, moved.end))?;
        if fixed && !self.is_free(start, start + new_length) {
            self.unmap(start, new_length)?;
        }
        self.tables.set(old, old_end, Protection::NONE)?;
        let relocated = self.change(start, start + new_length, mapping.protection, || {
            relocate(old, old_length, start, new_length, &mapping)
        });
        if let Err(error) = relocated {
            for (from, to, part) in self.parts(old, old_end) {
                self.tables.set(from, to, part.protection)?;
            }
            self.tables.set(start, start + new_length, Protection::NONE)?;
            reserve(start, new_length, libc::MAP_FIXED)?;
            return Err(error);
        }
        reserve(old, old_length, libc::MAP_FIXED)?;
        self.remove(old, old_end);
        self.insert(start, moved);
        Ok(start)
    }

    /// Implements madvise(2).
    pub fn advise(&mut self, address: u64, length: u64, advice: i32) -> SysResult {
        let length = page_up(length).ok_or(Errno::INVAL)?;
        let end = address.checked_add(length).ok_or(Errno::INVAL)?;
        if !aligned(address) {
            return Err(Errno::INVAL);
        }
        if length == 0 {
            return Ok(0);
        }
        if address < LOW_END || end > WINDOW || !self.covered(address, end) {
            return Err(Errno::NOMEM);
        }
        match advice {
            libc::MADV_DONTNEED | libc::MADV_FREE => {
                for (from, to, part) in self.parts(address, end) {
                    self.discard(from, to, part)?;
                }
                Ok(0)
            }
            libc::MADV_POPULATE_READ | libc::MADV_POPULATE_WRITE => {
                host_advise(address, length, advice)?;
                Ok(0)
            }
            // Hints: nothing to do is a correct answer to each.
            libc::MADV_NORMAL
            | libc::MADV_RANDOM
            | libc::MADV_SEQUENTIAL
            | libc::MADV_WILLNEED
            | libc::MADV_HUGEPAGE
            | libc::MADV_NOHUGEPAGE
            | libc::MADV_DONTDUMP
            | libc::MADV_DODUMP
            | libc::MADV_COLD
            | libc::MADV_PAGEOUT
            | libc::MADV_MERGEABLE
            | libc::MADV_UNMERGEABLE
            | libc::MADV_DONTFORK
            | libc::MADV_DOFORK => Ok(0),
            _ => Err(Errno::INVAL),
        }
    }

    /// Anonymous memory reads as zeroes afterwards. What came from a snapshot becomes fresh memory, because the image
    /// would show the snapshot's content.
    fn discard(&mut self, start: u64, end: u64, part: Mapping) -> Result<(), Errno> {
        if part.backing != (Backing::Image { anonymous: true }) {
            return host_advise(start, end - start, libc::MADV_DONTNEED);
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        self.change(start, end, part.protection, || {
            host_map(start, end - start, part.protection.host(), flags, -1, 0)
        })?;
        self.remove(start, end);
        self.insert(
            start,
            Mapping {
                end,
                backing: Backing::Anonymous,
                ..part
            },
        );
        Ok(())
    }
}

fn aligned(address: u64) -> bool {
    address.is_multiple_of(PAGE)
}
