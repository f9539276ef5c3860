//! What a program may have decided by: the CPU it found when it started.
//!
//! Libraries choose code by CPUID once (memcpy by AVX, AES by its instructions) and lay out signal frames by XCR0. Such a choice
//! lies in the snapshot's memory, so a snapshot is of one kind of CPU.

use crate::vm::kvm::Device;

pub const FEATURES: usize = 16;
/// Words of CPUID as the guest sees them, then XCR0 and the size of the XSAVE area.
pub type Features = [u32; FEATURES];

/// Where the system has enabled XSAVE: the guest's own setting, not the CPU's.
const OSXSAVE: u32 = 1 << 27;

#[derive(Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}
use Register::{Eax, Ebx, Ecx, Edx};

/// Name, leaf, subleaf, register.
const WORDS: [(&str, u32, u32, Register); FEATURES - 3] = [
    ("vendor ebx", 0, 0, Ebx),
    ("vendor edx", 0, 0, Edx),
    ("vendor ecx", 0, 0, Ecx),
    ("leaf 1 eax (model)", 1, 0, Eax),
    ("leaf 1 ecx", 1, 0, Ecx),
    ("leaf 1 edx", 1, 0, Edx),
    ("leaf 7 ebx", 7, 0, Ebx),
    ("leaf 7 ecx", 7, 0, Ecx),
    ("leaf 7 edx", 7, 0, Edx),
    ("leaf 7.1 eax", 7, 1, Eax),
    ("leaf 0xd.1 eax", 0xd, 1, Eax),
    ("leaf 0x80000001 ecx", 0x8000_0001, 0, Ecx),
    ("leaf 0x80000001 edx", 0x8000_0001, 0, Edx),
];
const OTHERS: [&str; 3] = ["XCR0", "XCR0 (upper half)", "the size of the XSAVE area"];

/// What the guests of this device find.
pub fn of(device: &Device) -> Features {
    let mut features = [0; FEATURES];
    for (word, (_, leaf, subleaf, register)) in features.iter_mut().zip(WORDS) {
        let entry = device
            .cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == leaf && entry.index == subleaf);
        if let Some(entry) = entry {
            *word = match register {
                Eax => entry.eax,
                Ebx => entry.ebx,
                Ecx => entry.ecx,
                Edx => entry.edx,
            };
        }
        if (leaf, register as u32) == (1, Ecx as u32) {
            *word &= !OSXSAVE;
        }
    }
    let others = [
        device.xcr0 & u64::from(u32::MAX),
        device.xcr0 >> 32,
        device.xsave_size as u64,
    ];
    for (word, other) in features.iter_mut().skip(WORDS.len()).zip(others) {
        *word = u32::try_from(other).unwrap_or(u32::MAX);
    }
    features
}

/// The first word that differs: its name, and both values.
pub fn first_difference(one: &Features, two: &Features) -> Option<(&'static str, u32, u32)> {
    let names = WORDS.iter().map(|(name, ..)| *name).chain(OTHERS);
    names
        .zip(one.iter().zip(two))
        .find(|(_, (one, two))| one != two)
        .map(|(name, (one, two))| (name, *one, *two))
}
