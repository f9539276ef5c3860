//! The monitor's 2 MiB below the guest's memory: descriptor tables, stub, exception handlers, return frames.
//!
//! The stub is two instructions, `out` and `iretq`, because ring-0 code is emulated on nested KVM (about 0.6 µs an
//! instruction), and because `syscall` may land there still in ring 3: it is readable and executable for the guest, never writable.
//! `iretq` returns through a frame that the monitor writes and the guest can only read.
#![allow(unsafe_code)]

use super::layout::{
    CLOCK_PAGE, EXCEPTION_PORT, FRAME_SIZE, FRAMES, GDT, HANDLERS, HOST_BASE, IDT, LOW_END, PAGE, STUB,
    SYSCALL_PORT, TSS, TSS_SIZE, USER_CODE, USER_DATA, VCPUS_MAX, WARM_LIST, WARM_PAGES, WARMER,
};
use super::page_tables::{PageTables, Protection};
use crate::errno::Errno;

/// `out imm8, al`; the port follows.
const OUT: u8 = 0xe6;
/// `iretq`.
const IRETQ: [u8; 2] = [0x48, 0xcf];

/// `rdtsc`, in front of another stub: how the monitor learns what a vCPU's counter says.
const RDTSC: [u8; 2] = [0x0f, 0x31];
pub const COUNTER: u64 = HANDLERS + 32 * 16;

/// Touches each page of the list at rsi, of rcx words: by a read, or where the word is odd by a write of nothing. Then a system call, with the
/// counter in rdx and rax.
const WARM_LOOP: [u8; 28] = [
    0x48, 0x8b, 0x06, // mov rax, [rsi]
    0x48, 0x83, 0xc6, 0x08, // add rsi, 8
    0xa8, 0x01, // test al, 1
    0x75, 0x04, // jnz write
    0x8a, 0x00, // mov al, [rax]
    0xeb, 0x05, // jmp next
    0xf0, 0x80, 0x48, 0xff, 0x00, // write: lock or byte [rax - 1], 0
    0xff, 0xc9, // next: dec ecx
    0x75, 0xe8, // jnz the beginning
    0x0f, 0x31, // rdtsc
    0x0f, 0x05, // syscall
];

/// What `iretq` pops: where ring 3 goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub rip: u64,
    pub rflags: u64,
    pub rsp: u64,
}

fn write(address: u64, bytes: &[u8]) {
    debug_assert!(address + bytes.len() as u64 <= LOW_END);
    // SAFETY: the low area is mapped writable in the monitor by `map`, and only the monitor writes it.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (HOST_BASE + address) as *mut u8, bytes.len()) };
}

fn write_word(address: u64, value: u64) {
    write(address, &value.to_ne_bytes());
}

fn read_word(address: u64) -> u64 {
    debug_assert!(address + 8 <= LOW_END);
    // SAFETY: as in `write`; the guest cannot write this area, only the CPU pushes exception frames here.
    unsafe { std::ptr::read_unaligned((HOST_BASE + address) as *const u64) }
}

/// Maps the low area in the monitor, fills it, and enters it into the tables.
///
/// Preconditions: the window is reserved in the monitor.
pub fn build(tables: &mut PageTables) -> Result<(), Errno> {
    let length = usize::try_from(LOW_END).map_err(|_| Errno::NOMEM)?;
    // SAFETY: replaces the first 2 MiB of the window's own reservation.
    let at = unsafe {
        libc::mmap(
            HOST_BASE as *mut libc::c_void,
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    for page in (GDT..STUB).step_by(4096) {
        tables.set_low(page, false, true, true)?;
    }
    tables.set_low(STUB, true, false, true)?;
    for page in (FRAMES..FRAMES + VCPUS_MAX as u64 * FRAME_SIZE).step_by(4096) {
        tables.set_low(page, true, false, false)?;
    }
    tables.set_low(CLOCK_PAGE, true, false, false)?;
    for page in (TSS..TSS + VCPUS_MAX as u64 * TSS_SIZE).step_by(4096) {
        tables.set_low(page, false, true, false)?;
    }
    // null · ring-0 code · ring-0 data · ring-3 code 32 · ring-3 data · ring-3 code 64 · task state
    let descriptors: [u64; 7] = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x67 | ((TSS & 0xff_ffff) << 16) | (0x8b << 40),
    ];
    for (number, descriptor) in (0u64..).zip(descriptors) {
        write_word(GDT + number * 8, descriptor);
    }
    write(STUB, &stub(SYSCALL_PORT));
    write(COUNTER, &RDTSC);
    write(COUNTER + 2, &stub(SYSCALL_PORT));
    for vector in 0u16..32 {
        let handler = HANDLERS + u64::from(vector) * 16;
        write(handler, &stub(EXCEPTION_PORT + vector));
        // Breakpoint and overflow may be raised by ring 3 (int3, into).
        let level: u64 = if vector == 3 || vector == 4 {
            0x6000 << 32
        } else {
            0
        };
        let gate =
            (handler & 0xffff) | (8 << 16) | (0x8e00 << 32) | (((handler >> 16) & 0xffff) << 48) | level;
        write_word(IDT + u64::from(vector) * 16, gate);
        write_word(IDT + u64::from(vector) * 16 + 8, handler >> 32);
    }
    Ok(())
}

fn stub(port: u16) -> [u8; 4] {
    // Ports are below 0x40.
    [OUT, port.to_le_bytes()[0], IRETQ[0], IRETQ[1]]
}

/// Lays out the loop and its list: pages, and whether each is to be written. Gives how many there are, at most `WARM_PAGES`.
pub fn lay_warmer(tables: &mut PageTables, pages: impl Iterator<Item = (u64, bool)>) -> Result<u64, Errno> {
    write(WARMER, &WARM_LOOP);
    tables.set_low(WARMER, true, false, true)?;
    let mut count = 0;
    for (page, written) in pages.take(usize::try_from(WARM_PAGES).unwrap_or(0)) {
        write_word(WARM_LIST + count * 8, page | u64::from(written));
        count += 1;
    }
    let end = (WARM_LIST + count * 8).next_multiple_of(PAGE);
    for page in (WARM_LIST..end).step_by(4096) {
        tables.set_low(page, true, false, false)?;
    }
    Ok(count)
}

/// Takes the loop and its list of `count` words away again.
pub fn clear_warmer(tables: &mut PageTables, count: u64) -> Result<(), Errno> {
    let end = (WARM_LIST + count * 8).next_multiple_of(PAGE);
    for (start, end) in [(WARMER, WARMER + PAGE), (WARM_LIST, end)] {
        tables.set(start, end, Protection::NONE)?;
        let length = usize::try_from(end - start).map_err(|_| Errno::NOMEM)?;
        // SAFETY: anonymous pages of the low area, which hold nothing else; that KVM forgets them is the point.
        unsafe {
            libc::madvise(
                (HOST_BASE + start) as *mut libc::c_void,
                length,
                libc::MADV_DONTNEED,
            )
        };
    }
    Ok(())
}

/// Sets the exception stack of a vCPU in its task state segment.
pub fn build_tss(vcpu: usize) {
    let segment = tss(vcpu);
    write_word(segment + 4, segment + TSS_SIZE);
}

pub fn tss(vcpu: usize) -> u64 {
    TSS + vcpu as u64 * TSS_SIZE
}

/// Address of a vCPU's return frame.
pub fn frame_address(vcpu: usize) -> u64 {
    FRAMES + vcpu as u64 * FRAME_SIZE
}

/// Writes a return frame: at the vCPU's own place, or where an exception pushed its frame.
pub fn write_frame(address: u64, frame: Frame) {
    write_word(address, frame.rip);
    write_word(address + 8, USER_CODE);
    write_word(address + 16, frame.rflags);
    write_word(address + 24, frame.rsp);
    write_word(address + 32, USER_DATA);
}

/// Writes what is there into these pages of the low area, so that they are this process's own.
pub fn touch_pages(pages: &[u64]) {
    for page in pages {
        debug_assert!(*page < LOW_END);
        let first = (HOST_BASE + page) as *mut u64;
        // SAFETY: an aligned word of the low area; volatile, because a compiler leaves out a write of what was read just now.
        unsafe { first.write_volatile(first.read_volatile()) };
    }
}

/// Reads the frame at `address`, and whether it returns to ring 3.
///
/// Preconditions: `address` lies in the frames or in an exception stack (`in_stack`).
pub fn read_frame(address: u64) -> (Frame, bool) {
    let frame = Frame {
        rip: read_word(address),
        rflags: read_word(address + 16),
        rsp: read_word(address + 24),
    };
    (frame, read_word(address + 8) & 3 == 3)
}

pub fn read_error_code(address: u64) -> u64 {
    read_word(address)
}

/// Whether a frame of `words` words at `address` lies in this vCPU's exception stack.
pub fn in_stack(vcpu: usize, address: u64, words: u64) -> bool {
    let segment = tss(vcpu);
    address.is_multiple_of(8) && address >= segment + 0x68 && address + words * 8 <= segment + TSS_SIZE
}

/// Whether an instruction pointer lies in the stub's page, and if it is at an `iretq`.
pub fn in_stub(rip: u64) -> Option<bool> {
    (STUB..STUB + PAGE)
        .contains(&rip)
        .then(|| read_word(rip & !7).to_le_bytes()[(rip & 7) as usize] == IRETQ[0])
}
