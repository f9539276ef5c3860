//! mremap(2): mappings that shrink, grow in place, move, or are doubled.

use super::charge;
use super::host_side::{grow_host, host_map, relocate, reserve};
use super::mapping::{Backing, Mapping, Origin};
use super::space::{Space, aligned};
use crate::errno::{Errno, SysResult};
use crate::vm::layout::{LOW_END, MMAP_TOP, WINDOW, page_up};
use crate::vm::page_tables::Protection;

/// What mremap(2) was given.
pub struct Remap {
    pub old: u64,
    pub old_length: u64,
    pub new_length: u64,
    pub flags: i32,
    pub target: u64,
}

/// Lengths in whole pages, flags taken apart.
struct Checked {
    old: u64,
    old_end: u64,
    new_length: u64,
    target: Option<u64>,
    may_move: bool,
    /// The old place stays, empty.
    keeps: bool,
}

fn check(request: &Remap) -> Result<Checked, Errno> {
    let flags = request.flags;
    let has = |flag: i32| flags & flag != 0;
    let known = libc::MREMAP_FIXED | libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    let old_length = page_up(request.old_length).ok_or(Errno::INVAL)?;
    let new_length = page_up(request.new_length)
        .filter(|length| *length > 0 && *length <= WINDOW)
        .ok_or(Errno::INVAL)?;
    let checked = Checked {
        old: request.old,
        old_end: request.old.checked_add(old_length).ok_or(Errno::INVAL)?,
        new_length,
        target: has(libc::MREMAP_FIXED).then_some(request.target),
        may_move: has(libc::MREMAP_MAYMOVE),
        keeps: has(libc::MREMAP_DONTUNMAP),
    };
    let moves = checked.target.is_some() || checked.keeps;
    if !aligned(request.old)
        || flags & !known != 0
        || (moves && !checked.may_move)
        || (checked.keeps && old_length != new_length)
    {
        return Err(Errno::INVAL);
    }
    if let Some(target) = checked.target {
        let end = target
            .checked_add(new_length)
            .filter(|end| *end <= WINDOW)
            .ok_or(Errno::INVAL)?;
        if !aligned(target) || target < LOW_END || (target < checked.old_end && checked.old < end) {
            return Err(Errno::INVAL);
        }
    }
    Ok(checked)
}

impl Space {
    /// Implements mremap(2).
    pub fn remap(&mut self, request: &Remap) -> SysResult {
        let wanted = check(request)?;
        let (found, mapping) = self.find(wanted.old).ok_or(Errno::FAULT)?;
        let mapping = mapping.later(wanted.old - found);
        if wanted.old_end == wanted.old {
            return self.double(&wanted, mapping);
        }
        if !self.covered(wanted.old, wanted.old_end) || wanted.old_end > mapping.end {
            // Neighbours that are alike are one mapping here, so these differ: they do not move as one.
            return Err(Errno::FAULT);
        }
        let old_length = wanted.old_end - wanted.old;
        if wanted.target.is_none() && !wanted.keeps {
            if wanted.new_length <= old_length {
                if wanted.new_length < old_length {
                    self.unmap(wanted.old + wanted.new_length, old_length - wanted.new_length)?;
                }
                return Ok(wanted.old);
            }
            let new_end = wanted.old.checked_add(wanted.new_length).ok_or(Errno::NOMEM)?;
            if mapping.end == wanted.old_end && self.is_free(wanted.old_end, new_end) {
                return self.grow(wanted.old, wanted.old_end, new_end, mapping);
            }
            if !wanted.may_move {
                return Err(Errno::NOMEM);
            }
        }
        self.relocate(&wanted, mapping)
    }

    /// Makes a mapping longer where it is.
    fn grow(&mut self, old: u64, old_end: u64, new_end: u64, mapping: Mapping) -> SysResult {
        let added = Mapping {
            end: new_end,
            ..mapping.later(old_end - old)
        };
        self.check_limit(0, added.wanted(old_end, new_end))?;
        self.check_size(0, new_end - old_end)?;
        // A file's pages are shown by the host mapping as a whole; memory is simply added.
        let from = if mapping.is_private_anonymous() || matches!(mapping.backing, Backing::Image { .. }) {
            old_end
        } else {
            old
        };
        let turned = self.turn(old_end, &added);
        let grown = self.alter(from, new_end, mapping.protection, || {
            grow_host(old, old_end, new_end, &mapping)
        });
        if let Err(error) = grown {
            self.turn_back(old_end, new_end, turned);
            self.show(from, old_end, mapping.protection)?;
            self.tables.set(old_end, new_end, Protection::NONE)?;
            reserve(old_end, new_end - old_end, libc::MAP_FIXED)?;
            return Err(error);
        }
        self.replace(old_end, added, turned);
        self.show(from, new_end, mapping.protection)?;
        Ok(old)
    }

    /// Makes room at the target, or finds a place.
    fn place(&mut self, wanted: &Checked) -> SysResult {
        let Some(start) = wanted.target else {
            return self.gap(wanted.new_length, MMAP_TOP).ok_or(Errno::NOMEM);
        };
        if !self.is_free(start, start + wanted.new_length) {
            self.unmap(start, wanted.new_length)?;
        }
        Ok(start)
    }

    fn relocate(&mut self, wanted: &Checked, mapping: Mapping) -> SysResult {
        let (old, old_end) = (wanted.old, wanted.old_end);
        charge::settle(old, old_end);
        let kept = if wanted.keeps {
            mapping.wanted(old, old_end)
        } else {
            0
        };
        let replaced = wanted
            .target
            .map_or(0, |start| self.charge(start, start + wanted.new_length));
        let released = self.charge(old, old_end) + replaced;
        self.check_limit(released, kept + mapping.wanted(0, wanted.new_length))?;
        self.check_size(if wanted.keeps { 0 } else { old_end - old }, wanted.new_length)?;
        let start = self.place(wanted)?;
        let end = start + wanted.new_length;
        // What is moved counts, all of it: it may be touched while it moves. What is added is fresh.
        let added = Mapping {
            end,
            ..mapping.later(old_end - old)
        };
        let added_at = (start + (old_end - old)).min(end);
        let turned = self.turn(added_at, &added);
        let moved = Mapping { end, ..mapping };
        self.tables.set(old, old_end, Protection::NONE)?;
        let relocated = self.alter(start, end, mapping.protection, || {
            relocate(old, old_end - old, start, wanted.new_length, &mapping)
        });
        if let Err(error) = relocated {
            self.turn_back(added_at, end, turned);
            for (from, to, part) in self.parts(old, old_end) {
                self.show(from, to, part.protection)?;
            }
            self.tables.set(start, end, Protection::NONE)?;
            reserve(start, wanted.new_length, libc::MAP_FIXED)?;
            return Err(error);
        }
        reserve(old, old_end - old, libc::MAP_FIXED)?;
        self.remove(old, old_end);
        self.replace(start, moved, turned);
        self.show(start, end, mapping.protection)?;
        if wanted.keeps {
            self.leave_empty(old, old_end, start, mapping)?;
        }
        Ok(start)
    }

    /// What MREMAP_DONTUNMAP leaves at the old place: fresh memory, or the file once more.
    fn leave_empty(&mut self, old: u64, old_end: u64, start: u64, mapping: Mapping) -> Result<(), Errno> {
        let length = old_end - old;
        if mapping.backing == Backing::File || mapping.shared {
            self.change(old, old_end, mapping.protection, || {
                super::host_side::double(start, old, length)
            })?;
            self.insert(
                old,
                Mapping {
                    end: old_end,
                    ..mapping
                },
            );
            return Ok(());
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let left = Mapping {
            wiped: mapping.wiped,
            unreserved: mapping.unreserved,
            counts: mapping.counts,
            ..Mapping::anonymous(old_end, mapping.protection)
        };
        let turned = self.turn(old, &left);
        let mapped = self.alter(old, old_end, mapping.protection, || {
            host_map(old, length, mapping.protection.host(), flags, -1, 0)
        });
        if let Err(error) = mapped {
            self.turn_back(old, old_end, turned);
            return Err(error);
        }
        self.replace(old, left, turned);
        self.show(old, old_end, mapping.protection)
    }

    /// An old length of zero maps shared memory a second time.
    fn double(&mut self, wanted: &Checked, mapping: Mapping) -> SysResult {
        let Some(Origin { .. }) = mapping.origin.filter(|_| mapping.shared && wanted.may_move) else {
            return Err(Errno::INVAL);
        };
        self.check_limit(0, mapping.charge(0, wanted.new_length))?;
        let start = self.place(wanted)?;
        let end = start + wanted.new_length;
        let doubled = self.change(start, end, mapping.protection, || {
            super::host_side::double(wanted.old, start, wanted.new_length)
        });
        if let Err(error) = doubled {
            self.tables.set(start, end, Protection::NONE)?;
            reserve(start, wanted.new_length, libc::MAP_FIXED)?;
            return Err(error);
        }
        self.insert(start, Mapping { end, ..mapping });
        Ok(start)
    }
}
