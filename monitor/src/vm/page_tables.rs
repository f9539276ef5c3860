//! The guest's page tables: static identity tables that mirror the guest's protections.
//!
//! They are what makes faults exact (`docs/decisions.md`): a page that the guest may not touch has no entry here, so the
//! guest gets a plain page fault with its address, instead of an error of KVM_RUN that has none. A protection change is
//! made in this order, under the lock of the address space: clear the entries, change the host mapping (which makes KVM drop its
//! shadow of them), set the entries.
//!
//! 4 KiB entries, but a 2 MiB one where a whole aligned region has one protection and never had another. A page is where its address is, or
//! apart (`memory::apart`).
#![allow(unsafe_code)]

use super::layout::{LARGE_PAGE, PAGE, TABLES_HOST, TABLES_MAX, TABLES_PHYSICAL, WINDOW};
use crate::errno::Errno;
use crate::memory::apart;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Accessed and dirty are set, but in tables that are observed: the CPU never has to write a table.
const ACCESSED_DIRTY: u64 = ACCESSED | DIRTY;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const TABLE: u64 = PRESENT | WRITE | USER | ACCESSED_DIRTY;

const GIB: u64 = 1 << 30;
const DIRECTORIES: usize = (WINDOW / GIB) as usize;
const LEAVES: usize = (WINDOW / LARGE_PAGE) as usize;

/// What the guest may do with a page. Read is implied by the other two, as on x86.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Protection {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

impl Protection {
    pub const NONE: Self = Self {
        read: false,
        write: false,
        execute: false,
    };
    pub const READ_WRITE: Self = Self {
        read: true,
        write: true,
        execute: false,
    };

    /// From the `PROT_*` bits of mmap(2).
    pub fn from_bits(bits: u64) -> Self {
        Self {
            read: bits & 1 != 0,
            write: bits & 2 != 0,
            execute: bits & 4 != 0,
        }
    }

    pub fn any(self) -> bool {
        self.read || self.write || self.execute
    }

    /// The host mapping's protection: never executable, the monitor does not run guest code.
    pub fn host(self) -> i32 {
        let read = if self.any() { libc::PROT_READ } else { 0 };
        read | if self.write { libc::PROT_WRITE } else { 0 }
    }

    fn entry(self) -> u64 {
        if !self.any() {
            return 0;
        }
        PRESENT
            | USER
            | ACCESSED_DIRTY
            | if self.write { WRITE } else { 0 }
            | if self.execute { 0 } else { NO_EXECUTE }
    }
}

/// The tables of one address space. Frame 0 is the root, frame 1 the only second-level table.
pub struct PageTables {
    frames: *mut [u64; 512],
    used: usize,
    directories: [usize; DIRECTORIES],
    leaves: Box<[usize]>,
    /// Entries are made small, and neither accessed nor dirty: see `observe`.
    observed: bool,
}

// SAFETY: `frames` points to a mapping that this value owns; all access goes through `&mut self` or `&self`.
unsafe impl Send for PageTables {}

impl PageTables {
    /// Reserves the region of the tables and makes the two upper levels.
    pub fn new() -> Result<Self, Errno> {
        let length = usize::try_from(TABLES_MAX).map_err(|_| Errno::NOMEM)?;
        // SAFETY: a fresh anonymous mapping at an address that nothing else uses (NOREPLACE checks).
        let at = unsafe {
            libc::mmap(
                TABLES_HOST as *mut libc::c_void,
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let mut tables = Self {
            frames: at.cast(),
            used: 0,
            directories: [0; DIRECTORIES],
            leaves: vec![0; LEAVES].into_boxed_slice(),
            observed: false,
        };
        let root = tables.frame()?;
        let second = tables.frame()?;
        tables.table(root)[0] = physical(second) | TABLE;
        Ok(tables)
    }

    /// Takes all entries away and gives the memory back.
    pub fn clear(&mut self) -> Result<(), Errno> {
        // SAFETY: the mapping made by `new`; the anonymous pages read as zeroes afterwards.
        let done = unsafe { libc::madvise(self.frames.cast(), index(TABLES_MAX, 1), libc::MADV_DONTNEED) };
        crate::errno::from_libc(done)?;
        self.used = 0;
        self.directories = [0; DIRECTORIES];
        self.leaves.fill(0);
        let root = self.frame()?;
        let second = self.frame()?;
        self.table(root)[0] = physical(second) | TABLE;
        Ok(())
    }

    /// From now on entries tell whether the guest has used their page: see `touched`. That costs the CPU a write for each.
    pub fn observe(&mut self) {
        self.observed = true;
    }

    /// The pages of `start..end` that the guest has used since `observe`, and whether it has written them.
    pub fn touched(&self, start: u64, end: u64) -> Vec<(u64, bool)> {
        let mut found = Vec::new();
        let mut at = start;
        while at < end {
            let next = ((at | (LARGE_PAGE - 1)) + 1).min(end);
            let leaf = self.leaves[index(at, LARGE_PAGE)];
            if leaf != 0 {
                for page in (at..next).step_by(4096) {
                    // SAFETY: a frame below `used`; the CPU may set bits meanwhile, so the word is read once, as it is.
                    let entry = unsafe {
                        (&raw const (*self.frames.add(leaf))[index(page, PAGE) % 512]).read_volatile()
                    };
                    if entry & (PRESENT | ACCESSED) == PRESENT | ACCESSED {
                        found.push((page, entry & DIRTY != 0));
                    }
                }
            }
            at = next;
        }
        found
    }

    /// Bytes of tables in use: what the VM's slots must cover.
    pub fn bytes(&self) -> u64 {
        self.used as u64 * PAGE
    }

    fn frame(&mut self) -> Result<usize, Errno> {
        if (self.used as u64 + 1) * PAGE > TABLES_MAX {
            return Err(Errno::NOMEM);
        }
        self.used += 1;
        Ok(self.used - 1)
    }

    fn table(&mut self, frame: usize) -> &mut [u64; 512] {
        debug_assert!(frame < self.used);
        // SAFETY: frames below `used` lie in the mapping made by `new`; `&mut self` makes the reference unique.
        unsafe { &mut *self.frames.add(frame) }
    }

    fn directory(&mut self, address: u64) -> Result<usize, Errno> {
        let index = index(address, GIB);
        if self.directories[index] == 0 {
            let frame = self.frame()?;
            self.directories[index] = frame;
            self.table(1)[index] = physical(frame) | TABLE;
        }
        Ok(self.directories[index])
    }

    /// The 4 KiB table over `address`, made from the 2 MiB entry if there is one.
    fn leaf(&mut self, address: u64) -> Result<usize, Errno> {
        let region = index(address, LARGE_PAGE);
        if self.leaves[region] == 0 {
            let directory = self.directory(address)?;
            let leaf = self.frame()?;
            let old = self.table(directory)[region % 512];
            if old & LARGE != 0 {
                let mut entry = old & !LARGE;
                for slot in self.table(leaf) {
                    *slot = entry;
                    entry += PAGE;
                }
            }
            self.leaves[region] = leaf;
            self.table(directory)[region % 512] = physical(leaf) | TABLE;
        }
        Ok(self.leaves[region])
    }

    /// Sets the protection of whole pages.
    ///
    /// Preconditions: `start` and `end` are page-aligned, `end <= WINDOW`, the address space is locked.
    pub fn set(&mut self, start: u64, end: u64, protection: Protection) -> Result<(), Errno> {
        let mut bits = protection.entry();
        if self.observed {
            bits &= !ACCESSED_DIRTY;
        }
        let mut at = start;
        while at < end {
            let next = ((at | (LARGE_PAGE - 1)) + 1).min(end);
            let region = index(at, LARGE_PAGE);
            let whole = next - at == LARGE_PAGE
                && self.leaves[region] == 0
                && !self.observed
                && (bits == 0 || !apart::any(at, next));
            if whole && (bits != 0 || self.directories[index(at, GIB)] != 0) {
                let directory = self.directory(at)?;
                self.table(directory)[region % 512] = if bits == 0 { 0 } else { bits | at | LARGE };
            } else if !whole && (bits != 0 || self.covered(at)) {
                let leaf = self.leaf(at)?;
                let first = index(at, PAGE) % 512;
                let count = index(next - at, PAGE);
                for (slot, page) in self.table(leaf)[first..first + count]
                    .iter_mut()
                    .zip((at..next).step_by(4096))
                {
                    *slot = if bits == 0 {
                        0
                    } else {
                        bits | apart::physical(page)
                    };
                }
            }
            at = next;
        }
        Ok(())
    }

    /// Sets one page of the monitor's low area.
    pub fn set_low(&mut self, page: u64, user: bool, write: bool, execute: bool) -> Result<(), Errno> {
        let entry = PRESENT
            | ACCESSED_DIRTY
            | if user { USER } else { 0 }
            | if write { WRITE } else { 0 }
            | if execute { 0 } else { NO_EXECUTE };
        let leaf = self.leaf(page)?;
        self.table(leaf)[index(page, PAGE) % 512] = entry | page;
        Ok(())
    }

    fn covered(&mut self, address: u64) -> bool {
        let region = index(address, LARGE_PAGE);
        let directory = self.directories[index(address, GIB)];
        self.leaves[region] != 0 || (directory != 0 && self.table(directory)[region % 512] & LARGE != 0)
    }

    /// What the entry over `address` allows.
    pub fn get(&mut self, address: u64) -> Protection {
        if address >= WINDOW {
            return Protection::NONE;
        }
        let region = index(address, LARGE_PAGE);
        let directory = self.directories[index(address, GIB)];
        let entry = if self.leaves[region] != 0 {
            let leaf = self.leaves[region];
            self.table(leaf)[index(address, PAGE) % 512]
        } else if directory != 0 {
            self.table(directory)[region % 512]
        } else {
            0
        };
        Protection {
            read: entry & (PRESENT | USER) == PRESENT | USER,
            write: entry & (PRESENT | USER | WRITE) == PRESENT | USER | WRITE,
            execute: entry & (PRESENT | USER | NO_EXECUTE) == PRESENT | USER,
        }
    }
}

impl Drop for PageTables {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`, which nothing refers to any more.
        unsafe { libc::munmap(self.frames.cast(), index(TABLES_MAX, 1)) };
    }
}

const fn physical(frame: usize) -> u64 {
    TABLES_PHYSICAL + frame as u64 * PAGE
}

/// `address / unit` as an index. Addresses lie below `WINDOW`, so it fits.
#[allow(clippy::cast_possible_truncation)]
const fn index(address: u64, unit: u64) -> usize {
    (address / unit) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: the tables live at one fixed address of the process.
    #[test]
    fn entries_follow_protections_across_large_pages() {
        let mut tables = PageTables::new().unwrap();
        let base = 4 * LARGE_PAGE;
        tables
            .set(base, base + 2 * LARGE_PAGE, Protection::READ_WRITE)
            .unwrap();
        let large = tables.bytes();
        assert_eq!(tables.get(base + 5 * PAGE), Protection::READ_WRITE);
        tables
            .set(base + PAGE, base + 2 * PAGE, Protection::from_bits(1))
            .unwrap();
        assert_eq!(tables.bytes(), large + PAGE, "one 2 MiB entry was split");
        assert_eq!(tables.get(base), Protection::READ_WRITE);
        assert_eq!(tables.get(base + PAGE), Protection::from_bits(1));
        assert_eq!(tables.get(base + 2 * PAGE), Protection::READ_WRITE);
        tables.set(base, base + 2 * LARGE_PAGE, Protection::NONE).unwrap();
        assert!(!tables.get(base).any() && !tables.get(base + LARGE_PAGE).any());
        assert!(!tables.get(WINDOW - PAGE).any() && !tables.get(WINDOW).any());
        let end = WINDOW - LARGE_PAGE;
        tables
            .set(end - PAGE, end + PAGE, Protection::from_bits(5))
            .unwrap();
        assert!(tables.get(end).execute && !tables.get(end).write && !tables.get(end + PAGE).any());
    }
}
