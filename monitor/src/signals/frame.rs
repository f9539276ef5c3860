//! Delivery of a signal to a handler of the guest, and the return from it.
//!
//! The frame is the kernel's `struct rt_sigframe` with the XSAVE area above it (arch/x86/kernel/signal_64.c), so unwinders,
//! debuggers and runtimes that read or change the context find what they expect.

use kvm_bindings::kvm_xsave;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::host::{self, Info};
use super::{Action, SA_NODEFER, SA_ONSTACK, SA_RESETHAND, UNBLOCKABLE};
use crate::memory::access;
use crate::task::Task;
use crate::vm::vcpu::Registers;

const RED_ZONE: u64 = 128;
const XSTATE_MAGIC1: u32 = 0x4650_5853;
const XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Offset of the software-reserved bytes in the FXSAVE area.
const SOFTWARE: usize = 464;
const SS_ONSTACK: u32 = 1;
const SS_DISABLE: u32 = 2;
/// uc_flags: an XSAVE area is there, ss is saved and strictly restored.
const UC_FLAGS: u64 = 7;
/// Flags that a handler may change in its context; nested task, I/O level and interrupts are not among them.
pub const USER_FLAGS: u64 = 0x24_0dd5;
/// Always set: interrupts on, the reserved bit.
pub const FIXED_FLAGS: u64 = 0x202;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Context {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    error: u64,
    trap: u64,
    old_mask: u64,
    cr2: u64,
    fpstate: u64,
    reserved: [u64; 8],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SignalFrame {
    restorer: u64,
    flags: u64,
    link: u64,
    stack_base: u64,
    stack_flags: u32,
    padding: u32,
    stack_size: u64,
    context: Context,
    mask: u64,
    info: Info,
}

const _: () = assert!(size_of::<SignalFrame>() == 8 + 304 + 128);

/// What a fault adds to the context.
#[derive(Clone, Copy, Default)]
pub struct Trap {
    pub number: u64,
    pub error: u64,
    pub address: u64,
}

/// Builds the frame on the guest's stack and points `registers` at the handler. `false`: no room, the guest must die.
pub fn push(
    task: &mut Task,
    registers: &mut Registers,
    action: Action,
    info: &Info,
    signal: usize,
    trap: Trap,
) -> bool {
    let on_stack = task.alt.contains(registers.rsp);
    let mut top = registers.rsp.wrapping_sub(RED_ZONE);
    if action.flags & SA_ONSTACK != 0 && task.alt.enabled && !on_stack {
        top = task.alt.base + task.alt.size;
    }
    let size = task.process.device.xsave_size;
    let Ok(area) = task.vcpu.xsave() else { return false };
    let fpstate = top.wrapping_sub(size as u64 + 4) & !63;
    let address = (fpstate.wrapping_sub(size_of::<SignalFrame>() as u64) & !15).wrapping_sub(8);
    let mut bytes: Vec<u8> = area
        .region
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .take(size)
        .collect();
    let software: [u32; 5] = [
        XSTATE_MAGIC1,
        u32::try_from(size + 4).unwrap_or(0),
        u32::try_from(task.process.device.xcr0).unwrap_or(7),
        0,
        u32::try_from(size).unwrap_or(0),
    ];
    bytes[SOFTWARE..SOFTWARE + 20].copy_from_slice(software.as_bytes());
    bytes.extend(XSTATE_MAGIC2.to_ne_bytes());
    let r = *registers;
    let frame = SignalFrame {
        restorer: action.restorer,
        flags: UC_FLAGS,
        link: 0,
        stack_base: task.alt.base,
        stack_flags: if !task.alt.enabled {
            SS_DISABLE
        } else if on_stack {
            SS_ONSTACK
        } else {
            0
        },
        padding: 0,
        stack_size: task.alt.size,
        context: Context {
            r8: r.r8,
            r9: r.r9,
            r10: r.r10,
            r11: r.r11,
            r12: r.r12,
            r13: r.r13,
            r14: r.r14,
            r15: r.r15,
            rdi: r.rdi,
            rsi: r.rsi,
            rbp: r.rbp,
            rbx: r.rbx,
            rdx: r.rdx,
            rax: r.rax,
            rcx: r.rcx,
            rsp: r.rsp,
            rip: r.rip,
            rflags: r.rflags,
            cs: 0x33,
            gs: 0,
            fs: 0,
            ss: 0x2b,
            error: trap.error,
            trap: trap.number,
            old_mask: task.mask,
            cr2: trap.address,
            fpstate,
            reserved: [0; 8],
        },
        mask: task.mask,
        info: *info,
    };
    if access::write_bytes(fpstate, &bytes).is_err() || access::write(address, &frame).is_err() {
        return false;
    }
    registers.rdi = signal as u64;
    registers.rsi = address + 8 + 304;
    registers.rdx = address + 8;
    registers.rax = 0;
    registers.rip = action.handler;
    registers.rsp = address;
    // Direction, resume and trap flags are clear in a handler.
    registers.rflags &= !(0x400 | 0x1_0000 | 0x100);
    task.mask |= action.mask;
    if action.flags & SA_NODEFER == 0 {
        task.mask |= 1 << (signal - 1);
    }
    task.mask &= !UNBLOCKABLE;
    if action.flags & SA_RESETHAND != 0 {
        task.set_action(signal, Action::default());
        if host::set_disposition(signal, super::SIG_DFL, 0).is_err() {
            return false;
        }
    }
    true
}

/// Implements rt_sigreturn(2): restores what `push` saved, or what the handler made of it. `false`: the frame is unusable.
pub fn pop(task: &mut Task, registers: &mut Registers) -> bool {
    let Ok(frame) = access::read::<SignalFrame>(registers.rsp.wrapping_sub(8)) else {
        return false;
    };
    let c = frame.context;
    *registers = Registers {
        rax: c.rax,
        rbx: c.rbx,
        rcx: c.rcx,
        rdx: c.rdx,
        rsi: c.rsi,
        rdi: c.rdi,
        rbp: c.rbp,
        rsp: c.rsp,
        r8: c.r8,
        r9: c.r9,
        r10: c.r10,
        r11: c.r11,
        r12: c.r12,
        r13: c.r13,
        r14: c.r14,
        r15: c.r15,
        rip: c.rip,
        rflags: c.rflags & USER_FLAGS | FIXED_FLAGS,
    };
    task.mask = frame.mask & !UNBLOCKABLE;
    task.alt = super::AltStack {
        base: frame.stack_base,
        size: frame.stack_size,
        enabled: frame.stack_flags & SS_DISABLE == 0,
    };
    if c.fpstate == 0 {
        return true;
    }
    let Ok(legacy) = access::read::<[u8; 512]>(c.fpstate) else {
        return false;
    };
    let word = |at: usize| u32::from_ne_bytes([legacy[at], legacy[at + 1], legacy[at + 2], legacy[at + 3]]);
    let size = task.process.device.xsave_size;
    let full = word(SOFTWARE) == XSTATE_MAGIC1;
    let mut bytes = [0u8; 4096];
    let length = if full { size.min(4096) } else { 512 };
    if access::read_bytes(c.fpstate, &mut bytes[..length]).is_err() {
        return false;
    }
    bytes[SOFTWARE..512].fill(0);
    if !full {
        // x87 and SSE only.
        bytes[512] = 3;
    }
    let mut area = kvm_xsave::new_zeroed_area();
    for (to, from) in area.region.iter_mut().zip(bytes.chunks_exact(4)) {
        *to = u32::from_ne_bytes([from[0], from[1], from[2], from[3]]);
    }
    task.vcpu.set_xsave(&area).is_ok()
}

trait Zeroed {
    fn new_zeroed_area() -> Self;
}

impl Zeroed for kvm_xsave {
    fn new_zeroed_area() -> Self {
        Self::default()
    }
}

/// A siginfo for a fault: signal, code, address.
pub fn fault_info(signal: i32, code: i32, address: u64) -> Info {
    let mut info = Info::new_zeroed();
    info[0..4].copy_from_slice(&signal.to_ne_bytes());
    info[8..12].copy_from_slice(&code.to_ne_bytes());
    info[16..24].copy_from_slice(&address.to_ne_bytes());
    info
}
