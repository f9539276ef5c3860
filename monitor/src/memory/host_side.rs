//! The host's side of the window: the calls that map, protect and move guest memory in the monitor.
#![allow(unsafe_code)]

use super::mapping::{Backing, Mapping};
use crate::errno::Errno;
use crate::vm::layout::HOST_BASE;

fn host_pointer(address: u64) -> *mut libc::c_void {
    (HOST_BASE + address) as *mut libc::c_void
}

fn size(length: u64) -> Result<usize, Errno> {
    usize::try_from(length).map_err(|_| Errno::NOMEM)
}

/// Maps over guest addresses `start..start + length` in the monitor.
pub fn host_map(
    start: u64,
    length: u64,
    protection: i32,
    flags: i32,
    fd: i32,
    offset: u64,
) -> Result<(), Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))?;
    // SAFETY: the callers pass ranges inside the window, which the monitor has reserved for the guest alone.
    let at = unsafe {
        libc::mmap(
            host_pointer(start),
            size(length)?,
            protection,
            flags | libc::MAP_FIXED,
            fd,
            offset,
        )
    };
    if at == libc::MAP_FAILED {
        Err(Errno::last())
    } else {
        Ok(())
    }
}

/// Makes a range of the window inaccessible, its memory given back.
pub fn reserve(start: u64, length: u64, fixed: i32) -> Result<(), Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    // SAFETY: inside the window; the first call takes it with NOREPLACE, so it was free.
    let at = unsafe { libc::mmap(host_pointer(start), size(length)?, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        Err(Errno::last())
    } else {
        Ok(())
    }
}

pub fn host_protect(start: u64, length: u64, protection: i32) -> Result<(), Errno> {
    // SAFETY: inside the window, see `host_map`.
    if unsafe { libc::mprotect(host_pointer(start), size(length)?, protection) } < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

pub fn host_advise(start: u64, length: u64, advice: i32) -> Result<(), Errno> {
    // SAFETY: inside the window, see `host_map`.
    if unsafe { libc::madvise(host_pointer(start), size(length)?, advice) } < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

/// Moves host pages; copies where the old range is several host mappings, which older kernels do not move.
pub fn relocate(
    old: u64,
    old_length: u64,
    new: u64,
    new_length: u64,
    mapping: &Mapping,
) -> Result<(), Errno> {
    // SAFETY: both ranges lie in the window; the new one is reserved and free.
    let at = unsafe {
        libc::mremap(
            host_pointer(old),
            size(old_length)?,
            size(new_length)?,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            host_pointer(new),
        )
    };
    // The image behind a restored mapping ends where the mapping did: growth past it needs memory of its own.
    let grows_image = matches!(mapping.backing, Backing::Image { .. }) && new_length > old_length;
    if at != libc::MAP_FAILED && !grows_image {
        return Ok(());
    }
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    if at != libc::MAP_FAILED {
        return host_map(
            new + old_length,
            new_length - old_length,
            mapping.protection.host(),
            anonymous,
            -1,
            0,
        );
    }
    let error = Errno::last();
    if mapping.shared || mapping.backing == Backing::File || error != Errno::FAULT {
        return Err(error);
    }
    host_map(
        new,
        new_length,
        libc::PROT_READ | libc::PROT_WRITE,
        anonymous,
        -1,
        0,
    )?;
    // SAFETY: both ranges are mapped in the window; the old one is readable by the guest's own protection or faults.
    let left = unsafe {
        crate::host::copy(
            host_pointer(new).cast(),
            host_pointer(old).cast(),
            size(old_length.min(new_length))?,
        )
    };
    if left != 0 {
        return Err(Errno::FAULT);
    }
    host_protect(new, new_length, mapping.protection.host())
}

/// Maps what the host shows at `from` once more at `to`: for shared memory and files.
pub fn double(from: u64, to: u64, length: u64) -> Result<(), Errno> {
    // SAFETY: both places lie in the window; an old length of zero only reads the mapping at `from`.
    let at = unsafe {
        libc::mremap(
            host_pointer(from),
            0,
            size(length)?,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            host_pointer(to),
        )
    };
    if at == libc::MAP_FAILED {
        Err(Errno::last())
    } else {
        Ok(())
    }
}

/// Makes the host mapping at `old..old_end` reach to `new_end`, over the reservation behind it.
pub fn grow_host(old: u64, old_end: u64, new_end: u64, mapping: &Mapping) -> Result<(), Errno> {
    if mapping.is_private_anonymous() || matches!(mapping.backing, Backing::Image { .. }) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        return host_map(
            old_end,
            new_end - old_end,
            mapping.protection.host(),
            flags,
            -1,
            0,
        );
    }
    let (old_size, new_size) = (size(old_end - old)?, size(new_end - old)?);
    // Away and back, longer: in place the reservation is in the way. The first step leaves the range mapped, so nothing of
    // the monitor's can come to lie in it.
    // The C library's function would not pass the address, of which the kernel wants none.
    // SAFETY: the range lies in the window; the temporary place is the kernel's choice among free addresses.
    let away = unsafe {
        libc::syscall(
            libc::SYS_mremap,
            host_pointer(old),
            old_size,
            old_size,
            libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP,
            0,
        )
    };
    let away = crate::errno::from_libc(away)? as *mut libc::c_void;
    // SAFETY: from the place just made, over the range in the window that it came from and the reservation behind it.
    let back = unsafe {
        libc::mremap(
            away,
            old_size,
            new_size,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            host_pointer(old),
        )
    };
    if back != libc::MAP_FAILED {
        return Ok(());
    }
    let error = Errno::last();
    // SAFETY: as above, with the old length, which always fits.
    unsafe {
        libc::mremap(
            away,
            old_size,
            old_size,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            host_pointer(old),
        )
    };
    Err(error)
}
