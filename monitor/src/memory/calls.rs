//! Implements mmap(2), munmap(2), mprotect(2), brk(2).

use super::charge;
use super::host_side::{host_advise, host_map, host_protect, reserve};
use super::list::Turned;
use super::mapping::{Backing, MappedFile, Mapping, Origin};
use super::space::{Space, aligned};
use crate::errno::{Errno, SysResult};
use crate::vm::layout::{HEAP_MAX, LOW_END, MMAP_TOP, STACK_SIZE, STACK_TOP, WINDOW, page_down, page_up};
use crate::vm::page_tables::Protection;

const MAP_32BIT_TOP: u64 = 0x7fff_0000;

/// A file to map: the guest's descriptor, already checked, and the place in the file.
pub struct FileAt {
    pub fd: i32,
    pub offset: u64,
    /// What of it, so many bytes behind the offset, should begin on a boundary of 2 MiB.
    pub large: Option<u64>,
    pub file: MappedFile,
}

impl Space {
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
                _ => {
                    let large = file.as_ref().and_then(|file| file.large);
                    let large = large.and_then(|from| self.large_gap(length, top, from));
                    large.or_else(|| self.gap(length, top)).ok_or(Errno::NOMEM)?
                }
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
