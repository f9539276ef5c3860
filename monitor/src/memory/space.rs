//! The guest's address space: the list of its mappings (`list`), the calls that change them (`calls`), and the one order of a change.
//!
//! Three things are kept the same under one lock: the list of mappings (the truth), the host mappings at the
//! shifted addresses, the guest's page tables. The order of a change is clear entries → host call → set entries
//! (`vm::page_tables`). What the guest has not mapped is PROT_NONE in the host and absent in its tables.

use std::collections::BTreeMap;

use super::advice::MADV_WIPEONFORK;
use super::charge;
use super::host_side::{host_advise, host_map, reserve};
use super::mapping::{Backing, MappedFile, Mapping};
use crate::errno::Errno;
use crate::kin::Kin;
use crate::vm::kvm::Vm;
use crate::vm::layout::{LOW_END, NOTHING, PAGE, WINDOW};
use crate::vm::low;
use crate::vm::page_tables::{PageTables, Protection};

pub struct Space {
    pub(super) mappings: BTreeMap<u64, Mapping>,
    pub(super) tables: PageTables,
    pub(super) vm: Vm,
    pub(super) heap_start: u64,
    pub(super) heap_end: u64,
    /// The files of the mappings, and perhaps some that were mapped before.
    pub(super) files: BTreeMap<u64, MappedFile>,
    /// The key of the next file.
    pub(super) next_object: u64,
    /// The most bytes that may count.
    limit: u64,
    /// Counts changes: a fault whose cause another thread just removed is retried once per generation.
    pub generation: u64,
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

    /// In place of the VM that it was laid out without.
    pub(super) fn take_over(&mut self, mut vm: Vm) -> Result<(), Errno> {
        vm.detach();
        vm.adopt(&self.vm)?;
        self.vm = vm;
        Ok(())
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
}

pub(super) fn aligned(address: u64) -> bool {
    address.is_multiple_of(PAGE)
}
