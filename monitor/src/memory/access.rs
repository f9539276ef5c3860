//! The one checked way from a guest address to memory of the monitor.
//!
//! Invariants: no guest address below `LOW_END` or beyond `WINDOW` is ever translated, so the guest cannot name the
//! monitor's own tables; a structure is copied in once and then used, so a second guest thread changes nothing that was
//! checked; a page that the guest may not touch gives EFAULT, because the host mapping has the guest's protection.
//!
//! A buffer becomes *pieces* (host ranges): in most cases one, but a clone keeps pages apart from the image (`apart`).
#![allow(unsafe_code)]

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::apart::{self, Spans};
use super::charge;
use crate::errno::Errno;
use crate::host;
use crate::vm::layout::{HOST_BASE, LOW_END, NOTHING, PAGE, USER_END, WINDOW};

/// Longest path the guest may give, with its NUL (limits.h PATH_MAX).
pub const PATH_MAX: usize = 4096;
/// Most buffers in one call (limits.h IOV_MAX).
pub const IOV_MAX: u64 = 1024;

/// Where guest memory lies in the monitor, or where nothing does: whatever the kernel does there, it does to the guest.
#[derive(Clone, Copy)]
pub struct HostAddress(u64);

impl HostAddress {
    pub fn get(self) -> u64 {
        self.0
    }
}

/// A buffer of the guest as host ranges, for the scatter/gather calls of the host.
///
/// A bad buffer is given to the host as one that is bad in the same way, because only the host knows what is wrong first:
/// the descriptor, or that there is nothing to read, or the buffer.
#[derive(Default)]
pub struct Pieces {
    ranges: Vec<libc::iovec>,
    /// The list itself cannot be read, or is too long: so many ranges.
    unreadable: Option<usize>,
    /// The guest gave a list, which means something else than one buffer even where it has one: without bytes nothing is done.
    list: bool,
}

impl Pieces {
    pub fn as_ptr(&self) -> *const libc::iovec {
        match self.unreadable {
            Some(_) => NOTHING_HERE as *const libc::iovec,
            None => self.ranges.as_ptr(),
        }
    }

    pub fn count(&self) -> usize {
        self.unreadable.unwrap_or(self.ranges.len())
    }

    /// Bytes in all, of what may be memory.
    pub fn length(&self) -> u64 {
        self.ranges
            .iter()
            .filter(|range| (range.iov_base as u64) < USER_END)
            .map(|range| range.iov_len as u64)
            .filter(|length| *length <= MOVED_MAX)
            .sum()
    }

    /// The host address and length when the buffer is one range (the usual case), else `None`.
    pub fn single(&self) -> Option<(HostAddress, u64)> {
        if self.list {
            return None;
        }
        match self.ranges.as_slice() {
            [] => Some((HostAddress(HOST_BASE + LOW_END), 0)),
            [one] => Some((HostAddress(one.iov_base as u64), one.iov_len as u64)),
            _ => None,
        }
    }

    /// The first bytes of it, so many.
    pub fn first(&self, mut bytes: u64) -> Self {
        let mut ranges = Vec::new();
        for range in &self.ranges {
            let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(range.iov_len);
            ranges.push(libc::iovec {
                iov_len: length,
                ..*range
            });
            bytes -= length as u64;
        }
        Self {
            ranges,
            unreadable: self.unreadable,
            list: self.list,
        }
    }

    /// Whether the guest gave a list in which there is no byte.
    pub fn is_empty_list(&self) -> bool {
        self.list && self.length() == 0
    }

    fn unreadable(count: u64) -> Self {
        Self {
            ranges: Vec::new(),
            unreadable: Some(usize::try_from(count).unwrap_or(usize::MAX)),
            list: true,
        }
    }

    /// Adds guest memory, or what is as bad as what the guest gave (`translate_for_host`). What does not fit into a list of the host's is left
    /// out: fewer bytes are moved.
    fn push_translated(&mut self, (host, length): (u64, u64)) -> Result<(), Errno> {
        if !(HOST_BASE..HOST_BASE + WINDOW).contains(&host) {
            return self.push(host, length);
        }
        for (host, length) in apart::spans(host - HOST_BASE, length) {
            if self.is_full() {
                break;
            }
            self.push(host, length)?;
        }
        if length == 0 {
            self.push(host, 0)?;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.ranges.len() as u64 >= IOV_MAX
    }

    /// Each range with its length.
    pub fn ranges(&self) -> impl Iterator<Item = (HostAddress, u64)> {
        let range = |range: &libc::iovec| (HostAddress(range.iov_base as u64), range.iov_len as u64);
        self.ranges.iter().map(range)
    }

    fn push(&mut self, host: u64, length: u64) -> Result<(), Errno> {
        let iov_len = usize::try_from(length).map_err(|_| Errno::FAULT)?;
        self.ranges.push(libc::iovec {
            iov_base: host as *mut libc::c_void,
            iov_len,
        });
        Ok(())
    }
}

/// Translates a range of guest addresses: the host ranges. An empty range is never an error, as in the kernel.
fn translate(address: u64, length: u64) -> Result<Spans, Errno> {
    if length == 0 {
        return Ok(apart::spans(LOW_END, 0));
    }
    let end = address.checked_add(length).ok_or(Errno::FAULT)?;
    if address < LOW_END || end > WINDOW || charge::touch(address, end) < end {
        return Err(Errno::FAULT);
    }
    Ok(apart::spans(address, length))
}

/// Where the monitor has nothing: behind the window.
const NOTHING_HERE: u64 = HOST_BASE + WINDOW;

/// Translates a range of guest addresses for a call of the host that judges it: what is not the guest's becomes a range that
/// the host refuses as it would refuse this one. `length` is what the guest says; of it the host is told at most what one call
/// moves, which is less than there is nothing behind the window. Where the function's memory ends, so does the range.
fn translate_for_host(address: u64, length: u64) -> (u64, u64) {
    match address.checked_add(length) {
        Some(end) if end <= USER_END && (LOW_END..WINDOW).contains(&address) => {
            let end = end.min(address.saturating_add(MOVED_MAX));
            match charge::touch(address, end.min(WINDOW)) {
                reached if reached >= end.min(WINDOW) => (HOST_BASE + address, length),
                reached if reached > address => (HOST_BASE + address, reached - address),
                _ => (NOTHING_HERE, length),
            }
        }
        Some(end) if end <= USER_END && address < USER_END => (NOTHING_HERE, length),
        _ => (address.max(USER_END), length),
    }
}

/// Fills `to` from guest memory.
pub fn read_bytes(address: u64, to: &mut [u8]) -> Result<(), Errno> {
    let mut rest = to;
    for (host, length) in translate(address, rest.len() as u64)? {
        let length = usize::try_from(length).map_err(|_| Errno::FAULT)?;
        let (part, later) = rest.split_at_mut_checked(length).ok_or(Errno::FAULT)?;
        // SAFETY: `part` is valid for its length; the guest side was checked and may fault.
        if unsafe { host::copy(part.as_mut_ptr(), host as *const u8, length) } != 0 {
            return Err(Errno::FAULT);
        }
        rest = later;
    }
    Ok(())
}

/// Writes `from` into guest memory.
pub fn write_bytes(address: u64, from: &[u8]) -> Result<(), Errno> {
    let mut rest = from;
    for (host, length) in translate(address, rest.len() as u64)? {
        let length = usize::try_from(length).map_err(|_| Errno::FAULT)?;
        let (part, later) = rest.split_at_checked(length).ok_or(Errno::FAULT)?;
        // SAFETY: `part` is valid for its length; the guest side was checked and may fault.
        if unsafe { host::copy(host as *mut u8, part.as_ptr(), length) } != 0 {
            return Err(Errno::FAULT);
        }
        rest = later;
    }
    Ok(())
}

/// Reads a structure.
pub fn read<T: FromBytes + IntoBytes + FromZeros>(address: u64) -> Result<T, Errno> {
    let mut value = T::new_zeroed();
    read_bytes(address, value.as_mut_bytes())?;
    Ok(value)
}

/// Writes a structure.
pub fn write<T: IntoBytes + Immutable>(address: u64, value: &T) -> Result<(), Errno> {
    write_bytes(address, value.as_bytes())
}

/// Reads `count` structures; the caller has bounded `count`.
pub fn read_array<T: FromBytes + IntoBytes + FromZeros>(address: u64, count: u64) -> Result<Vec<T>, Errno> {
    let count = usize::try_from(count).map_err(|_| Errno::INVAL)?;
    let mut values: Vec<T> = Vec::new();
    values.try_reserve(count).map_err(|_| Errno::NOMEM)?;
    values.resize_with(count, T::new_zeroed);
    read_bytes(address, values.as_mut_slice().as_mut_bytes())?;
    Ok(values)
}

/// Reads a NUL-terminated string of at most `limit` bytes with its NUL; longer is `too_long`.
pub fn read_string(address: u64, limit: usize, too_long: Errno) -> Result<std::ffi::CString, Errno> {
    let mut bytes = Vec::with_capacity(64);
    let mut at = address;
    while bytes.len() < limit {
        // Never over a page boundary that the string may not reach.
        let step = (PAGE - at % PAGE).min((limit - bytes.len()) as u64).min(256);
        let start = bytes.len();
        bytes.resize(start + usize::try_from(step).map_err(|_| Errno::FAULT)?, 0);
        read_bytes(at, &mut bytes[start..])?;
        if let Some(end) = bytes[start..].iter().position(|byte| *byte == 0) {
            bytes.truncate(start + end);
            return std::ffi::CString::new(bytes).map_err(|_| Errno::INVAL);
        }
        at += step;
    }
    Err(too_long)
}

/// Reads a path: ENAMETOOLONG beyond PATH_MAX.
pub fn read_path(address: u64) -> Result<std::ffi::CString, Errno> {
    read_string(address, PATH_MAX, Errno::NAMETOOLONG)
}

/// Reads a NULL-terminated array of strings (argv, envp) of at most `limit` bytes in all.
pub fn read_strings(address: u64, limit: usize) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut strings = Vec::new();
    let mut total = 0;
    if address == 0 {
        return Ok(strings);
    }
    let mut at = address;
    loop {
        let pointer: u64 = read(at)?;
        if pointer == 0 {
            return Ok(strings);
        }
        let string = read_string(pointer, 128 << 10, Errno(libc::E2BIG))?;
        total += string.as_bytes_with_nul().len() + 8;
        if total > limit {
            return Err(Errno(libc::E2BIG));
        }
        strings.push(string);
        at = at.checked_add(8).ok_or(Errno::FAULT)?;
    }
}

/// Most bytes that the kernel moves in one call (MAX_RW_COUNT).
const MOVED_MAX: u64 = 0x7fff_f000;
const _: () = assert!(MOVED_MAX < NOTHING);

/// A mapped range, for calls that ask about memory without touching it.
pub fn range(address: u64, length: u64) -> Result<HostAddress, Errno> {
    let end = address.checked_add(length).ok_or(Errno::FAULT)?;
    if address < LOW_END || end > WINDOW {
        return Err(Errno::FAULT);
    }
    Ok(HostAddress(HOST_BASE + address))
}

/// A buffer as host ranges. The host kernel checks each page when it uses them.
pub fn pieces(address: u64, length: u64) -> Result<Pieces, Errno> {
    let mut pieces = Pieces::default();
    let (host, length) = translate_for_host(address, length);
    pieces.push_translated((host, length.min(MOVED_MAX)))?;
    Ok(pieces)
}

/// As `pieces`, for sockets: there an address of the kernel's is EFAULT before anything else is looked at.
pub fn socket_buffer(address: u64, length: u64) -> Result<Pieces, Errno> {
    let end = address.checked_add(length);
    if end.is_none_or(|end| end > USER_END) {
        return Err(Errno::FAULT);
    }
    pieces(address, length)
}

/// The `iovec` array at `address` as host ranges.
pub fn vector(address: u64, count: u64) -> Result<Pieces, Errno> {
    if count > IOV_MAX {
        return Ok(Pieces::unreadable(count));
    }
    let Ok(ranges) = read_array::<[u64; 2]>(address, count) else {
        return Ok(Pieces::unreadable(count));
    };
    let mut pieces = Pieces {
        list: true,
        ..Pieces::default()
    };
    let mut total: u64 = 0;
    for [base, length] in ranges {
        if length > i64::MAX.cast_unsigned() {
            // One range of this length is refused like a list with it.
            pieces.ranges.clear();
            pieces.push(NOTHING_HERE, length)?;
            break;
        }
        let moved = length.min(MOVED_MAX - total);
        total += moved;
        let (host, length) = translate_for_host(base, length);
        pieces.push_translated((host, moved.min(length)))?;
        if pieces.is_full() {
            break;
        }
    }
    Ok(pieces)
}

/// Copies what is in the guest's buffers; the caller has bounded how much that is.
pub fn gather(pieces: &Pieces) -> Result<Vec<u8>, Errno> {
    if pieces.unreadable.is_some() {
        return Err(Errno::FAULT);
    }
    let mut bytes = vec![0; usize::try_from(pieces.length()).map_err(|_| Errno::FAULT)?];
    let mut rest = bytes.as_mut_slice();
    for (host, length) in pieces.ranges() {
        let length = usize::try_from(length).map_err(|_| Errno::FAULT)?;
        // What is not counted in the length is no memory.
        let (part, later) = rest.split_at_mut_checked(length).ok_or(Errno::FAULT)?;
        // SAFETY: `part` is valid for its length; the range was made from what the guest gave, and may fault.
        if unsafe { host::copy(part.as_mut_ptr(), host.get() as *const u8, length) } != 0 {
            return Err(Errno::FAULT);
        }
        rest = later;
    }
    Ok(bytes)
}

/// The host address of a futex word: aligned, so never over two pieces.
pub fn word(address: u64) -> Result<HostAddress, Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::INVAL);
    }
    let span = translate(address, 4)?.next();
    span.map(|(host, _)| HostAddress(host)).ok_or(Errno::FAULT)
}

/// Replaces a word of the guest if it is `expected`, atomically; gives what it was.
pub fn exchange(address: u64, expected: u32, new: u32) -> Result<u32, Errno> {
    let host = word(address)?;
    // SAFETY: an aligned word of the window.
    unsafe { host::exchange(host.get() as *mut u32, expected, new) }.ok_or(Errno::FAULT)
}

/// Whether every byte of the range can be read (or written, by a write of what is there), without changing it.
pub fn probe(address: u64) -> bool {
    let mut byte = [0u8];
    read_bytes(address, &mut byte).is_ok()
}
