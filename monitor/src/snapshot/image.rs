//! The memory image: a sparse memory file, offset = guest address.
//!
//! Every page of a file mapping is copied, resident or not: fault-around may have skipped one that a clone will need, and the
//! clone has no mapping of the file. Of anonymous memory only pages that exist are copied; a hole reads as zeroes.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{SnapshotError, failed};
use crate::errno::{Errno, from_libc};
use crate::fs::descriptors::private;
use crate::memory::apart;
use crate::memory::mapping::{Backing, Mapping};
use crate::memory::space::Space;
use crate::sys;
use crate::vm::layout::{HOST_BASE, LARGE_PAGE, PAGE, WINDOW};

/// Pages asked about at a time.
const BATCH: u64 = 64 << 20;

/// A memory file of the window's size, of which nothing exists yet.
pub fn create(name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let fd = create_empty(name)?;
    let size = i64::try_from(WINDOW).map_err(|_| Errno::INVAL)?;
    // SAFETY: no pointers.
    from_libc(unsafe { libc::ftruncate(fd.as_raw_fd(), size) })?;
    Ok(fd)
}

/// A memory file without content.
pub fn create_empty(name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    private(|| {
        // SAFETY: a NUL-terminated name; the result is checked.
        let fd = from_libc(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
        // SAFETY: a fresh descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(|_| Errno::MFILE)?) })
    })
}

/// Writes all mappings; gives the bytes written.
///
/// Preconditions: all threads rest.
pub fn write(space: &mut Space, image: BorrowedFd<'_>) -> Result<u64, SnapshotError> {
    let mappings: Vec<(u64, Mapping)> = space
        .mappings()
        .map(|(start, mapping)| (start, *mapping))
        .collect();
    let mut total = 0;
    for (start, mapping) in mappings {
        let whole = mapping.backing == Backing::File && mapping.protection.any();
        let mut at = start;
        while at < mapping.end {
            let end = (at + BATCH).min(mapping.end);
            for (from, to) in present(at, end, whole).map_err(failed("mincore"))? {
                total += copy(from, to, mapping, image).map_err(failed("the memory image"))?;
            }
            at = end;
        }
    }
    Ok(total)
}

/// Makes a huge page of each of these aligned 2 MiB, whether or not all of it is there: in a clone, one entry of the host's and of KVM's tables
/// can stand for it where one protection holds, and elsewhere many pages are mapped at once. Needs no setting of the node.
///
/// Preconditions: this process has no guest.
pub fn collapse(image: BorrowedFd<'_>, regions: &[u64]) -> Result<(), Errno> {
    let size = usize::try_from(LARGE_PAGE).map_err(|_| Errno::NOMEM)?;
    let length = usize::try_from(WINDOW).map_err(|_| Errno::NOMEM)?;
    // SAFETY: a mapping that nothing reads, where nothing is: NOREPLACE checks.
    let at = unsafe {
        libc::mmap(
            HOST_BASE as *mut libc::c_void,
            length,
            libc::PROT_READ,
            libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE,
            image.as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    for region in regions.iter().filter(|region| **region < WINDOW) {
        // SAFETY: a part of the mapping made just now.
        unsafe {
            libc::madvise(
                (HOST_BASE + region) as *mut libc::c_void,
                size,
                libc::MADV_COLLAPSE,
            )
        };
    }
    // SAFETY: the mapping made above, to which nothing refers.
    from_libc(unsafe { libc::munmap(at, length) }).map(|_| ())
}

/// Copies these pages of the image, in order, into a file that has nothing yet. Where clones read 2 MiB of it at once, it is in a huge page.
///
/// Preconditions: as of `collapse`.
pub fn copy_pages(image: BorrowedFd<'_>, pages: &[u64], to: &OwnedFd) -> Result<(), Errno> {
    let mut page = [0u8; 4096];
    for (offset, address) in (0..).step_by(4096).zip(pages) {
        let read = sys::read_at(&image, &mut page, *address)?;
        if read < page.len() || sys::write_at(to, &page, offset)? < page.len() {
            return Err(Errno::IO);
        }
    }
    let huge = apart::huge(pages.len() as u64) * PAGE;
    let regions: Vec<u64> = (0..huge / LARGE_PAGE).map(|region| region * LARGE_PAGE).collect();
    if !regions.is_empty() {
        // A huge page lies within its file. Where the kernel refuses, it is small ones.
        let whole = i64::try_from(huge.max(pages.len() as u64 * PAGE)).map_err(|_| Errno::INVAL)?;
        // SAFETY: no pointers.
        from_libc(unsafe { libc::ftruncate(to.as_raw_fd(), whole) })?;
        let _ = collapse(to.as_fd(), &regions);
    }
    Ok(())
}

/// Runs of pages that exist.
fn present(start: u64, end: u64, whole: bool) -> Result<Vec<(u64, u64)>, Errno> {
    if whole {
        return Ok(vec![(start, end)]);
    }
    let length = usize::try_from(end - start).map_err(|_| Errno::NOMEM)?;
    let mut resident = vec![0u8; length / 4096];
    // SAFETY: a range of the window, all of which is mapped; one byte a page in a local buffer.
    from_libc(unsafe {
        libc::mincore(
            (HOST_BASE + start) as *mut libc::c_void,
            length,
            resident.as_mut_ptr(),
        )
    })?;
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (page, _) in (start..end)
        .step_by(4096)
        .zip(&resident)
        .filter(|(_, state)| **state & 1 != 0)
    {
        match runs.last_mut() {
            Some((_, last)) if *last == page => *last += PAGE,
            _ => runs.push((page, page + PAGE)),
        }
    }
    Ok(runs)
}

/// Copies a range into the image. What lies behind the end of a mapped file is left out.
fn copy(start: u64, end: u64, mapping: Mapping, image: BorrowedFd<'_>) -> Result<u64, Errno> {
    let hidden = !mapping.protection.any();
    if hidden {
        protect(start, end, libc::PROT_READ)?;
    }
    let mut at = start;
    let mut done = 0;
    let mut problem = None;
    while at < end {
        let length = usize::try_from(end - at).map_err(|_| Errno::NOMEM)?;
        let offset = i64::try_from(at).map_err(|_| Errno::INVAL)?;
        // SAFETY: the kernel reads guest memory and answers EFAULT where it cannot.
        let step = unsafe { libc::pwrite(image.as_raw_fd(), (HOST_BASE + at) as *const _, length, offset) };
        match from_libc(step as i64) {
            Ok(step) => {
                at += step;
                done += step;
            }
            Err(Errno::FAULT) => at = (at & !(PAGE - 1)) + PAGE,
            Err(errno) => {
                problem = Some(errno);
                break;
            }
        }
    }
    if hidden {
        protect(start, end, libc::PROT_NONE)?;
    }
    problem.map_or(Ok(done), Err)
}

fn protect(start: u64, end: u64, protection: i32) -> Result<(), Errno> {
    let length = usize::try_from(end - start).map_err(|_| Errno::NOMEM)?;
    // SAFETY: pages of the guest's window; no thread of the guest runs.
    from_libc(unsafe { libc::mprotect((HOST_BASE + start) as *mut libc::c_void, length, protection) })?;
    Ok(())
}
