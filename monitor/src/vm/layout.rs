//! Where things lie: in the guest's addresses, in the guest's physical addresses, in the monitor.
//!
//! Guest virtual = guest physical below `WINDOW`. The first 2 MiB belong to the monitor: descriptor tables, the system call
//! stub, the return frames, exception stacks. The guest's page tables lie outside its virtual space.

/// The guest's address space, bytes. Reservations of Go, V8 and WebAssembly fit; a table of it costs 256 KiB.
pub const WINDOW: u64 = 64 << 30;
/// First address that can be the guest's.
pub const LOW_END: u64 = 2 << 20;
/// Where the window begins in the monitor.
pub const HOST_BASE: u64 = 0x1000_0000_0000;

/// Directly behind the window in the monitor lies nothing, so much of it, bytes: more than any call moves.
pub const NOTHING: u64 = 2 << 30;
/// The kernel refuses all addresses from here on.
pub const USER_END: u64 = 0x7fff_ffff_f000;

pub const PAGE: u64 = 4096;
pub const LARGE_PAGE: u64 = 2 << 20;

/// Memory slots of the window are this large, bytes: small enough to be cheap, large enough to be few.
pub const CHUNK: u64 = 64 << 20;
pub const CHUNKS: usize = (WINDOW / CHUNK) as usize;

/// Page tables: guest-physical base, where they lie in the monitor, most pages, slot size.
pub const TABLES_PHYSICAL: u64 = 128 << 30;
pub const TABLES_HOST: u64 = 0x2000_0000_0000;
pub const TABLES_MAX: u64 = 160 << 20;
pub const TABLES_CHUNK: u64 = 16 << 20;
pub const TABLES_FIRST_SLOT: u32 = 2000;

/// Pages apart from the image (`memory::apart`): guest-physical base, where they lie in the monitor, most bytes, slot.
pub const APART_PHYSICAL: u64 = 192 << 30;
pub const APART_HOST: u64 = 0x2800_0000_0000;
pub const APART_MAX: u64 = 64 << 20;
pub const APART_SLOT: u32 = 3000;

/// Global descriptor table, interrupt descriptor table: supervisor only.
pub const GDT: u64 = 0x2_0000;
pub const IDT: u64 = 0x2_1000;
/// Stub and exception handlers: readable and executable for the guest.
pub const STUB: u64 = 0x2_3000;
pub const HANDLERS: u64 = 0x2_3100;
/// Return frames, one of 64 bytes a vCPU: read-only for the guest.
pub const FRAMES: u64 = 0x4_0000;
pub const FRAME_SIZE: u64 = 64;
/// What the vDSO tells the time from: read-only for the guest.
pub const CLOCK_PAGE: u64 = 0x6_0000;
/// Task state segment and exception stack, 1 KiB a vCPU: supervisor only.
pub const TSS: u64 = 0x8_0000;
pub const TSS_SIZE: u64 = 0x400;
/// While a clone is warmed: the loop that touches its working set, and the list of its pages. Nothing is there otherwise.
pub const WARMER: u64 = 0x2_4000;
pub const WARM_LIST: u64 = 0x18_0000;
/// Most pages in the list, 8 bytes each.
pub const WARM_PAGES: u64 = (LOW_END - WARM_LIST) / 8;
/// Most vCPUs of a guest, so most threads.
pub const VCPUS_MAX: usize = 512;

pub const SYSCALL_PORT: u16 = 0x10;
pub const EXCEPTION_PORT: u16 = 0x20;

/// Selectors: 64-bit code and data of ring 3.
pub const USER_CODE: u64 = 0x2b;
pub const USER_DATA: u64 = 0x23;

/// Top of the main thread's stack, and its size.
pub const STACK_TOP: u64 = WINDOW - LARGE_PAGE;
pub const STACK_SIZE: u64 = 8 << 20;
/// Mappings without an address grow down from here; the stack's chunk is theirs too, to save slots.
pub const MMAP_TOP: u64 = STACK_TOP - STACK_SIZE - (1 << 20);
/// The vDSO's page, in the gap that the stack keeps below it.
pub const VDSO: u64 = MMAP_TOP;
/// Position-independent programs are loaded here, their heap follows.
pub const PROGRAM_BASE: u64 = 0x2000_0000;
/// The heap (`brk`) grows at most this far, bytes.
pub const HEAP_MAX: u64 = 16 << 30;

/// Length rounded up to whole pages; `None` on overflow.
pub fn page_up(length: u64) -> Option<u64> {
    Some(length.checked_add(PAGE - 1)? & !(PAGE - 1))
}

pub const fn page_down(address: u64) -> u64 {
    address & !(PAGE - 1)
}

pub const fn large_page_down(address: u64) -> u64 {
    address & !(LARGE_PAGE - 1)
}
