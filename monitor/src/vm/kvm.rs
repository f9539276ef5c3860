//! The KVM device and one VM's memory slots.
//!
//! Descriptors are raised above the guest's (`fs::descriptors`): guest and monitor share one descriptor table.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};

use super::layout::{
    APART_HOST, APART_PHYSICAL, APART_SLOT, CHUNK, CHUNKS, HOST_BASE, LARGE_PAGE, TABLES_CHUNK,
    TABLES_FIRST_SLOT, TABLES_HOST, TABLES_PHYSICAL,
};
use crate::errno::Errno;
use crate::fs::descriptors::raise;

/// Requests that kvm-ioctls makes internally too; made here to raise the new descriptor before it is wrapped.
const KVM_CREATE_VM: libc::c_ulong = 0xae01;
const KVM_CREATE_VCPU: libc::c_ulong = 0xae41;

#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    #[error("{device}: {source}")]
    Open { device: String, source: Errno },
    #[error("{what}: {source}")]
    Ioctl { what: &'static str, source: Errno },
}

pub(crate) fn ioctl_error(what: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> KvmError {
    move |error| KvmError::Ioctl {
        what,
        source: Errno(error.errno()),
    }
}

/// The open device, with what every vCPU needs from it.
pub struct Device {
    kvm: Kvm,
    pub cpuid: CpuId,
    /// Size of the XSAVE area for the enabled features, bytes.
    pub xsave_size: usize,
    /// Features enabled in the guest's XCR0.
    pub xcr0: u64,
}

impl Device {
    /// Opens `path`, usually `/dev/kvm`.
    pub fn open(path: &str) -> Result<Self, KvmError> {
        let name = std::ffi::CString::new(path).map_err(|_| KvmError::Open {
            device: path.to_owned(),
            source: Errno::INVAL,
        })?;
        // SAFETY: a NUL-terminated path; the result is checked.
        let fd = unsafe { libc::open(name.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(KvmError::Open {
                device: path.to_owned(),
                source: Errno::last(),
            });
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let fd = raise(fd).map_err(|source| KvmError::Open {
            device: path.to_owned(),
            source,
        })?;
        Self::from(fd)
    }

    fn from(fd: OwnedFd) -> Result<Self, KvmError> {
        // SAFETY: an open KVM device, owned from here by `Kvm`.
        let kvm = unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) };
        let mut cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(ioctl_error("KVM_GET_SUPPORTED_CPUID"))?;
        let xcr0 = host_xcr0() & 0xe7;
        let xsave_size = restrict_xsave(&mut cpuid, xcr0);
        Ok(Self {
            kvm,
            cpuid,
            xsave_size,
            xcr0,
        })
    }

    /// Its descriptor, for a process that it is passed on to.
    pub fn descriptor(&self) -> RawFd {
        self.kvm.as_raw_fd()
    }

    /// The device that was passed on to this process.
    pub fn take_up(fd: RawFd) -> Result<Self, KvmError> {
        // SAFETY: the number of an open KVM device that nothing else in this process owns.
        Self::from(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub fn create_vm(&self) -> Result<Vm, KvmError> {
        // SAFETY: an ioctl without a pointer; the result is checked.
        let fd = unsafe { libc::ioctl(self.kvm.as_raw_fd(), KVM_CREATE_VM, 0) };
        if fd < 0 {
            return Err(KvmError::Ioctl {
                what: "KVM_CREATE_VM",
                source: Errno::last(),
            });
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        let fd = raise(unsafe { OwnedFd::from_raw_fd(fd) }).map_err(|source| KvmError::Ioctl {
            what: "KVM_CREATE_VM",
            source,
        })?;
        // SAFETY: a VM descriptor of this device, owned from here by `VmFd`.
        let fd = unsafe { self.kvm.create_vmfd_from_rawfd(fd.into_raw_fd()) }.map_err(ioctl_error("VM"))?;
        Ok(Vm {
            fd: Some(fd),
            slots: [false; CHUNKS],
            table_slots: 0,
            apart: 0,
            detached: false,
        })
    }
}

/// XCR0 of the host, as ring 3 reads it.
fn host_xcr0() -> u64 {
    if !std::arch::is_x86_feature_detected!("xsave") {
        return 3;
    }
    let (low, high): (u32, u32);
    // SAFETY: xgetbv with ecx = 0 is allowed where the OS has enabled XSAVE, which the detection above checks.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Offers the guest only the state components of `xcr0` and returns the size of their XSAVE area.
///
/// Components beyond 4 KiB (AMX) would not fit `struct kvm_xsave`.
fn restrict_xsave(cpuid: &mut CpuId, xcr0: u64) -> usize {
    let mut size = 576;
    for entry in cpuid.as_mut_slice() {
        if entry.function != 0xd {
            continue;
        }
        if entry.index == 0 {
            entry.eax &= u32::try_from(xcr0).unwrap_or(7);
            entry.edx = 0;
        } else if (2..63).contains(&entry.index) {
            if xcr0 & (1 << entry.index) == 0 {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            } else {
                size = size.max(entry.eax as usize + entry.ebx as usize);
            }
        }
    }
    for entry in cpuid.as_mut_slice() {
        if entry.function == 0xd && entry.index == 0 {
            let bytes = u32::try_from(size).unwrap_or(u32::MAX);
            (entry.ebx, entry.ecx) = (bytes, bytes);
        }
    }
    size
}

/// A VM and which parts of memory it has.
///
/// Invariant: `slots[i]` says that chunk `i` of the window is a slot, or will be from `attach` on; the slot of a chunk is numbered like it.
pub struct Vm {
    /// None: it is only a note of what will be memory.
    fd: Option<VmFd>,
    slots: [bool; CHUNKS],
    table_slots: u32,
    /// Bytes of the pages apart.
    apart: u64,
    detached: bool,
}

impl Vm {
    /// None: for memory that is laid out before there is one.
    pub fn none() -> Self {
        Self {
            fd: None,
            slots: [false; CHUNKS],
            table_slots: 0,
            apart: 0,
            detached: true,
        }
    }

    fn fd(&self) -> Result<&VmFd, Errno> {
        self.fd.as_ref().ok_or(Errno::BADF)
    }

    pub fn descriptor(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// A new vCPU's descriptor, raised.
    pub fn create_vcpu_fd(&self, id: usize) -> Result<kvm_ioctls::VcpuFd, KvmError> {
        // SAFETY: an ioctl with a number; the result is checked.
        let fd = unsafe { libc::ioctl(self.descriptor(), KVM_CREATE_VCPU, id) };
        if fd < 0 {
            return Err(KvmError::Ioctl {
                what: "KVM_CREATE_VCPU",
                source: Errno::last(),
            });
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        let fd = raise(unsafe { OwnedFd::from_raw_fd(fd) }).map_err(|source| KvmError::Ioctl {
            what: "KVM_CREATE_VCPU",
            source,
        })?;
        let vm = self
            .fd()
            .map_err(|source| KvmError::Ioctl { what: "vCPU", source })?;
        // SAFETY: a vCPU descriptor of this VM, owned from here by `VcpuFd`.
        unsafe { vm.create_vcpu_from_rawfd(fd.into_raw_fd()) }.map_err(ioctl_error("vCPU"))
    }

    /// Makes the chunks of the window that hold `start..end` memory of the VM.
    pub fn ensure(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        if start >= end {
            return Ok(());
        }
        for chunk in start / CHUNK..=(end - 1) / CHUNK {
            let index = usize::try_from(chunk).map_err(|_| Errno::NOMEM)?;
            if self.slots.get(index).is_some_and(|present| !present) {
                self.set_slot(
                    u32::try_from(chunk).map_err(|_| Errno::NOMEM)?,
                    chunk * CHUNK,
                    HOST_BASE + chunk * CHUNK,
                    CHUNK,
                )?;
                self.slots[index] = true;
            }
        }
        Ok(())
    }

    /// From now on it is only noted which parts become memory.
    ///
    /// Preconditions: it has no slots.
    pub fn detach(&mut self) {
        self.detached = true;
    }

    /// Makes what was noted memory of the VM.
    pub fn attach(&mut self) -> Result<(), Errno> {
        self.detached = false;
        for (chunk, _) in (0u32..).zip(self.slots).filter(|(_, present)| *present) {
            self.set_slot(
                chunk,
                u64::from(chunk) * CHUNK,
                HOST_BASE + u64::from(chunk) * CHUNK,
                CHUNK,
            )?;
        }
        for number in 0..self.table_slots {
            let offset = u64::from(number) * TABLES_CHUNK;
            let slot = TABLES_FIRST_SLOT + number;
            self.set_slot(slot, TABLES_PHYSICAL + offset, TABLES_HOST + offset, TABLES_CHUNK)?;
        }
        self.set_apart()
    }

    /// Makes the pages apart memory of the VM, so many bytes.
    ///
    /// Preconditions: it has none of them.
    pub fn ensure_apart(&mut self, bytes: u64) -> Result<(), Errno> {
        self.apart = bytes.next_multiple_of(LARGE_PAGE);
        self.set_apart()
    }

    fn set_apart(&self) -> Result<(), Errno> {
        if self.apart == 0 {
            return Ok(());
        }
        self.set_slot(APART_SLOT, APART_PHYSICAL, APART_HOST, self.apart)
    }

    /// Makes the same parts of memory this VM's as `other` has.
    pub fn adopt(&mut self, other: &Self) -> Result<(), Errno> {
        for (chunk, present) in (0u64..).zip(other.slots) {
            if present {
                self.ensure(chunk * CHUNK, (chunk + 1) * CHUNK)?;
            }
        }
        self.ensure_apart(other.apart)?;
        self.ensure_tables(u64::from(other.table_slots) * TABLES_CHUNK)
    }

    /// Makes the first `bytes` of the table region memory of the VM.
    pub fn ensure_tables(&mut self, bytes: u64) -> Result<(), Errno> {
        while u64::from(self.table_slots) * TABLES_CHUNK < bytes {
            let offset = u64::from(self.table_slots) * TABLES_CHUNK;
            let slot = TABLES_FIRST_SLOT + self.table_slots;
            self.set_slot(slot, TABLES_PHYSICAL + offset, TABLES_HOST + offset, TABLES_CHUNK)?;
            self.table_slots += 1;
        }
        Ok(())
    }

    fn set_slot(&self, slot: u32, physical: u64, host: u64, size: u64) -> Result<(), Errno> {
        if self.detached {
            return Ok(());
        }
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: physical,
            memory_size: size,
            userspace_addr: host,
        };
        // SAFETY: the range lies in the window, in the table region or in the area of pages apart, all of them reserved for the life of
        // the process and used by nothing but the guest; slots do not overlap.
        unsafe { self.fd()?.set_user_memory_region(region) }.map_err(|error| Errno(error.errno()))
    }
}
