//! The guest's memory: the one checked way into it, and its address space.

pub mod access;
mod advice;
pub mod apart;
mod calls;
pub mod charge;
pub mod faults;
mod host_side;
mod host_stack;
mod list;
pub mod mapping;
pub mod moving;
mod observing;
pub mod prepared;
mod restoring;
pub mod space;

pub use calls::FileAt;
pub use host_stack::{HostStack, stack};
pub use restoring::SpaceState;
