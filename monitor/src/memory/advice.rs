//! madvise(2), and the memory that comes of itself: mappings that grow down.

use std::os::fd::{AsRawFd, OwnedFd};

use super::charge;
use super::host_side::{host_advise, host_map};
use super::list::{GUARD, Turned};
use super::mapping::{Backing, Mapping};
use super::space::{Space, aligned};
use crate::errno::{Errno, SysResult};
use crate::vm::layout::{LOW_END, STACK_SIZE, WINDOW, page_down, page_up};
use crate::vm::page_tables::Protection;

/// libc does not have these (<asm-generic/mman-common.h>).
pub(super) const MADV_WIPEONFORK: i32 = 18;
const MADV_KEEPONFORK: i32 = 19;

const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

impl Space {
    /// Implements madvise(2). A hole is ENOMEM, after what is mapped has been advised. `files` are those of `restored_files` that could be
    /// opened.
    pub fn advise(&mut self, address: u64, length: u64, advice: i32, files: &[(u64, OwnedFd)]) -> SysResult {
        let length = page_up(length).ok_or(Errno::INVAL)?;
        let end = address.checked_add(length).ok_or(Errno::INVAL)?;
        if !aligned(address) || !is_known(advice) {
            return Err(Errno::INVAL);
        }
        if length == 0 {
            return Ok(0);
        }
        if address < LOW_END || end > WINDOW {
            return Err(Errno::NOMEM);
        }
        for (from, to, part) in self.parts(address, end) {
            self.advise_part(from, to, part, advice, files)?;
        }
        if self.covered(address, end) {
            Ok(0)
        } else {
            Err(Errno::NOMEM)
        }
    }

    fn advise_part(
        &mut self,
        from: u64,
        to: u64,
        part: Mapping,
        advice: i32,
        files: &[(u64, OwnedFd)],
    ) -> Result<(), Errno> {
        match advice {
            libc::MADV_DONTNEED => self.discard(from, to, part, files),
            libc::MADV_FREE | MADV_WIPEONFORK if !part.is_private_anonymous() => Err(Errno::INVAL),
            libc::MADV_FREE => self.discard(from, to, part, files),
            MADV_WIPEONFORK | MADV_KEEPONFORK => {
                let wiped = advice == MADV_WIPEONFORK;
                if part.backing == Backing::Anonymous && part.is_private_anonymous() {
                    host_advise(from, to - from, advice)?;
                }
                charge::settle(from, to);
                self.replace(
                    from,
                    Mapping {
                        end: to,
                        wiped,
                        ..part
                    },
                    Turned::default(),
                );
                Ok(())
            }
            libc::MADV_REMOVE if !part.shared => Err(Errno::INVAL),
            libc::MADV_POPULATE_READ | libc::MADV_POPULATE_WRITE if charge::touch(from, to) < to => {
                Err(Errno::NOMEM)
            }
            libc::MADV_REMOVE | libc::MADV_POPULATE_READ | libc::MADV_POPULATE_WRITE => {
                host_advise(from, to - from, advice)
            }
            // Hints: nothing to do is a correct answer to each.
            _ => Ok(()),
        }
    }

    /// Anonymous memory reads as zeroes afterwards, a file's as the file. What came from a snapshot becomes fresh memory or the file itself,
    /// because the image would show the snapshot's content.
    fn discard(
        &mut self,
        start: u64,
        end: u64,
        part: Mapping,
        files: &[(u64, OwnedFd)],
    ) -> Result<(), Errno> {
        let (backing, flags, fd, offset) = match (part.backing, part.origin) {
            (Backing::Image { anonymous: true }, _) => (Backing::Anonymous, ANONYMOUS, -1, 0),
            (Backing::Image { anonymous: false }, Some(origin)) => {
                let file = files.iter().find(|(object, _)| *object == origin.object);
                let Some((_, file)) = file else {
                    // It is not there any more.
                    return host_advise(start, end - start, libc::MADV_DONTNEED);
                };
                (Backing::File, libc::MAP_PRIVATE, file.as_raw_fd(), origin.offset)
            }
            (Backing::Anonymous, _) if part.is_private_anonymous() && charge::most(start, end) > 0 => {
                return self.empty(start, end, part, || {
                    host_advise(start, end - start, libc::MADV_DONTNEED)
                });
            }
            _ => return host_advise(start, end - start, libc::MADV_DONTNEED),
        };
        self.empty(start, end, Mapping { end, backing, ..part }, || {
            host_map(start, end - start, part.protection.host(), flags, fd, offset)
        })?;
        charge::settle(start, end);
        self.replace(start, Mapping { end, backing, ..part }, Turned::default());
        Ok(())
    }

    /// Takes the content of a mapping's part away by `host`; anonymous memory is fresh then.
    fn empty(
        &mut self,
        start: u64,
        end: u64,
        part: Mapping,
        host: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let fresh = if part.is_counted() && part.is_private_anonymous() {
            charge::freshen(start, end)
        } else {
            0
        };
        let emptied = self.alter(start, end, part.protection, host);
        charge::shift(0, fresh);
        if emptied.is_err() {
            charge::shift(charge::forget(start, end), 0);
        }
        self.show(start, end, part.protection)?;
        emptied
    }

    /// Lets the mapping above `address` grow down to it, if it may (MAP_GROWSDOWN). Says whether it did.
    pub(super) fn grow_down(&mut self, address: u64) -> bool {
        let page = page_down(address);
        let Some((above, mapping)) = self.mappings().find(|(start, _)| *start > page) else {
            return false;
        };
        let mapping = *mapping;
        let below = self
            .mappings()
            .take_while(|(start, _)| *start < page)
            .last()
            .map_or(LOW_END, |(_, below)| below.end + GUARD);
        let fits = page >= below && mapping.end - page <= STACK_SIZE;
        let added = Mapping {
            end: above,
            ..mapping
        };
        if !mapping.grows || !fits || self.check_limit(0, added.charge(page, above)).is_err() {
            return false;
        }
        let grown = self.change(page, above, mapping.protection, || {
            host_map(page, above - page, mapping.protection.host(), ANONYMOUS, -1, 0)
        });
        if grown.is_err() {
            let _ = self.tables.set(page, above, Protection::NONE);
            return false;
        }
        self.insert(page, added);
        true
    }
}

fn is_known(advice: i32) -> bool {
    matches!(
        advice,
        libc::MADV_NORMAL
            | libc::MADV_RANDOM
            | libc::MADV_SEQUENTIAL
            | libc::MADV_WILLNEED
            | libc::MADV_DONTNEED
            | libc::MADV_FREE
            | libc::MADV_REMOVE
            | libc::MADV_DONTFORK
            | libc::MADV_DOFORK
            | libc::MADV_MERGEABLE
            | libc::MADV_UNMERGEABLE
            | libc::MADV_HUGEPAGE
            | libc::MADV_NOHUGEPAGE
            | libc::MADV_DONTDUMP
            | libc::MADV_DODUMP
            | MADV_WIPEONFORK
            | MADV_KEEPONFORK
            | libc::MADV_COLD
            | libc::MADV_PAGEOUT
            | libc::MADV_POPULATE_READ
            | libc::MADV_POPULATE_WRITE
    )
}
