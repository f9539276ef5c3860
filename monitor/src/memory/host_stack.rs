//! A stack of the monitor's own, for a thread of control that the standard library does not make.
#![allow(unsafe_code)]

use crate::errno::Errno;

/// An anonymous mapping with an inaccessible page below; given back when dropped.
pub struct HostStack {
    base: *mut libc::c_void,
    size: usize,
}

/// A stack of `size` bytes, a multiple of the page size.
pub fn stack(size: usize) -> Result<HostStack, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
    // SAFETY: a fresh mapping.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: the lowest page of the mapping made just now.
    unsafe { libc::mprotect(base, 4096, libc::PROT_NONE) };
    Ok(HostStack { base, size })
}

impl HostStack {
    /// Where the stack begins: its highest address.
    pub fn top(&self) -> *mut libc::c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.base.byte_add(self.size) }
    }
}

impl Drop for HostStack {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `stack`, on which nothing runs any more.
        unsafe { libc::munmap(self.base, self.size) };
    }
}
