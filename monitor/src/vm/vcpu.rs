//! One vCPU: ring 3 of a 64-bit guest, set up once, its registers shared with the kernel through `kvm_run`.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};

use kvm_bindings::{
    KVM_SYNC_X86_REGS, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr, kvm_msr_entry,
    kvm_regs, kvm_run, kvm_segment, kvm_sregs, kvm_xcr, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use serde::{Deserialize, Serialize};

use super::kvm::{Device, KvmError, Vm, ioctl_error};
use super::layout::{GDT, IDT, STUB, SYSCALL_PORT, TABLES_PHYSICAL};
use super::low;
use crate::errno::Errno;

/// kvm-ioctls makes this request on vCPUs of other processors only.
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SYSCALL_MASK: u32 = 0xc000_0084;

/// General registers of ring 3, in an order of our own (also the snapshot's).
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

macro_rules! convert {
    ($($field:ident),*) => {
        impl From<kvm_regs> for Registers {
            fn from(regs: kvm_regs) -> Self { Self { $($field: regs.$field),* } }
        }
        impl From<Registers> for kvm_regs {
            fn from(regs: Registers) -> Self { Self { $($field: regs.$field),* } }
        }
    };
}
convert!(
    rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags
);

/// State of a thread that is not in the general registers.
#[derive(Clone, Serialize, Deserialize)]
pub struct Extended {
    pub fs_base: u64,
    pub gs_base: u64,
    /// The XSAVE area as KVM gives it, 4 KiB.
    pub xsave: Vec<u32>,
}

/// Why the guest left.
#[derive(Debug)]
pub enum Exit {
    /// `out` to this port: a system call or an exception.
    Port(u16),
    Interrupted,
    /// The host mapping refused an access: no address is known.
    Fault,
    Other(String),
}

pub struct Vcpu {
    fd: VcpuFd,
    pub id: usize,
    run: *mut kvm_run,
}

// SAFETY: `run` points into the mapping that `fd` owns; a vCPU is used by one thread at a time.
unsafe impl Send for Vcpu {}

impl Vcpu {
    /// A vCPU in ring 3 with zeroed registers.
    ///
    /// Preconditions: `low::build` was done.
    pub fn new(device: &Device, vm: &Vm, id: usize) -> Result<Self, KvmError> {
        let mut fd = vm.create_vcpu_fd(id)?;
        let run: *mut kvm_run = fd.get_kvm_run();
        low::build_tss(id);
        fd.set_cpuid2(&device.cpuid)
            .map_err(ioctl_error("KVM_SET_CPUID2"))?;
        let mut sregs = fd.get_sregs().map_err(ioctl_error("KVM_GET_SREGS"))?;
        set_long_mode(&mut sregs, id);
        fd.set_sregs(&sregs).map_err(ioctl_error("KVM_SET_SREGS"))?;
        let entry = |index, data| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let msrs = Msrs::from_entries(&[
            entry(MSR_STAR, 0x1b << 48 | 8 << 32),
            entry(MSR_LSTAR, STUB),
            // Cleared on entry: trap, interrupt, direction, I/O level, nested task, alignment check.
            entry(MSR_SYSCALL_MASK, 0x4_7700),
        ])
        .map_err(|_| KvmError::Ioctl {
            what: "KVM_SET_MSRS",
            source: Errno::INVAL,
        })?;
        if fd.set_msrs(&msrs).map_err(ioctl_error("KVM_SET_MSRS"))? != 3 {
            return Err(KvmError::Ioctl {
                what: "KVM_SET_MSRS",
                source: Errno::INVAL,
            });
        }
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0] = kvm_xcr {
            value: device.xcr0,
            ..Default::default()
        };
        fd.set_xcrs(&xcrs).map_err(ioctl_error("KVM_SET_XCRS"))?;
        fd.set_sync_valid_reg(SyncReg::Register);
        set_counter_offset(&fd);
        Ok(Self { fd, id, run })
    }

    /// What the counter of this vCPU says, read in it.
    ///
    /// Preconditions: it has not run, and its registers are not set yet.
    pub fn counter(&mut self) -> Option<u64> {
        self.set_registers(Registers {
            rip: low::COUNTER,
            rflags: 2,
            ..Registers::default()
        });
        let Exit::Port(SYSCALL_PORT) = self.run() else {
            return None;
        };
        Some(self.told_counter())
    }

    /// The counter, which has just been read in this vCPU.
    pub fn told_counter(&self) -> u64 {
        let registers = self.registers();
        registers.rdx << 32 | registers.rax & 0xffff_ffff
    }

    /// How fast it counts.
    pub fn counter_kilohertz(&self) -> Option<u64> {
        self.fd.get_tsc_khz().ok().map(u64::from)
    }

    /// Ring 3 again, for another thread: the one before left in a system call, on hardware in ring 0.
    pub fn restart(&mut self) -> Result<(), KvmError> {
        let mut sregs = self.fd.get_sregs().map_err(ioctl_error("KVM_GET_SREGS"))?;
        set_long_mode(&mut sregs, self.id);
        self.fd.set_sregs(&sregs).map_err(ioctl_error("KVM_SET_SREGS"))
    }

    /// The shared page, for the host signal handler's `immediate_exit`.
    pub fn run_page(&self) -> *mut kvm_run {
        self.run
    }

    pub fn descriptor(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Runs the guest until it leaves.
    pub fn run(&mut self) -> Exit {
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, _) | VcpuExit::IoIn(port, _)) => Exit::Port(port),
            Ok(other) => Exit::Other(format!("{other:?}")),
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => Exit::Interrupted,
            Err(error) if error.errno() == libc::EFAULT => Exit::Fault,
            Err(error) => Exit::Other(format!("KVM_RUN: {error}")),
        }
    }

    /// The registers at the last exit.
    pub fn registers(&self) -> Registers {
        // SAFETY: `run` is this vCPU's live mapping, synchronised at each exit since `new` asked for it.
        unsafe { (*self.run).s.regs.regs }.into()
    }

    /// The registers for the next entry.
    pub fn set_registers(&mut self, registers: Registers) {
        // SAFETY: as in `registers`; `&mut self` excludes a running guest.
        unsafe { (*self.run).s.regs.regs = registers.into() };
        // SAFETY: as above.
        unsafe { (*self.run).kvm_dirty_regs |= u64::from(KVM_SYNC_X86_REGS) };
    }

    pub fn set_immediate_exit(&mut self, value: bool) {
        self.fd.set_kvm_immediate_exit(u8::from(value));
    }

    /// Address of the last page fault.
    pub fn fault_address(&self) -> Result<u64, KvmError> {
        Ok(self.fd.get_sregs().map_err(ioctl_error("KVM_GET_SREGS"))?.cr2)
    }

    /// Sets the bases of fs and gs; `None` keeps one.
    pub fn set_bases(&mut self, fs: Option<u64>, gs: Option<u64>) -> Result<(), KvmError> {
        let mut sregs = self.fd.get_sregs().map_err(ioctl_error("KVM_GET_SREGS"))?;
        sregs.fs.base = fs.unwrap_or(sregs.fs.base);
        sregs.gs.base = gs.unwrap_or(sregs.gs.base);
        self.fd.set_sregs(&sregs).map_err(ioctl_error("KVM_SET_SREGS"))
    }

    pub fn bases(&self) -> Result<(u64, u64), KvmError> {
        let sregs = self.fd.get_sregs().map_err(ioctl_error("KVM_GET_SREGS"))?;
        Ok((sregs.fs.base, sregs.gs.base))
    }

    pub fn xsave(&self) -> Result<kvm_xsave, KvmError> {
        self.fd.get_xsave().map_err(ioctl_error("KVM_GET_XSAVE"))
    }

    pub fn set_xsave(&mut self, area: &kvm_xsave) -> Result<(), KvmError> {
        // SAFETY: no feature beyond the 4 KiB area is enabled (`Device::open`).
        unsafe { self.fd.set_xsave(area) }.map_err(ioctl_error("KVM_SET_XSAVE"))
    }

    pub fn extended(&self) -> Result<Extended, KvmError> {
        let (fs_base, gs_base) = self.bases()?;
        Ok(Extended {
            fs_base,
            gs_base,
            xsave: self.xsave()?.region.to_vec(),
        })
    }

    pub fn set_extended(&mut self, state: &Extended) -> Result<(), KvmError> {
        self.set_bases(Some(state.fs_base), Some(state.gs_base))?;
        let mut area = kvm_xsave::default();
        for (to, from) in area.region.iter_mut().zip(&state.xsave) {
            *to = *from;
        }
        self.set_xsave(&area)
    }
}

/// Makes the vCPU's time-stamp counter the host's: KVM begins each at 0. Whether it worked is seen where it is used (`crate::clock`): before
/// Linux 5.16 there is no such attribute, and nested KVM may give the host's counter anyhow.
fn set_counter_offset(fd: &VcpuFd) {
    let offset = 0u64;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: (&raw const offset) as u64,
        ..Default::default()
    };
    // SAFETY: the attribute and the number that it points to are live locals, which the kernel only reads.
    unsafe { libc::ioctl(fd.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) };
}

/// Ring 3 of long mode with the tables of `low`.
fn set_long_mode(sregs: &mut kvm_sregs, id: usize) {
    sregs.cr0 = 0x8005_0033;
    sregs.cr3 = TABLES_PHYSICAL;
    // PAE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE; SMEP and SMAP stay off (module `low`).
    sregs.cr4 = 0x620 | 1 << 16 | 1 << 18;
    // Long mode, no-execute, system calls.
    sregs.efer = 0xd01;
    let code = kvm_segment {
        limit: u32::MAX,
        selector: 0x2b,
        type_: 11,
        present: 1,
        dpl: 3,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: 0x23,
        type_: 3,
        db: 1,
        l: 0,
        ..code
    };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: low::tss(id),
        limit: 0x67,
        selector: 0x30,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 63;
    sregs.idt.base = IDT;
    sregs.idt.limit = 511;
}
