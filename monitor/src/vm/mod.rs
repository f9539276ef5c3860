//! The virtual machine: KVM, its memory slots, its vCPUs, the guest's tables.

pub mod kvm;
pub mod layout;
pub mod low;
pub mod page_tables;
pub mod vcpu;
