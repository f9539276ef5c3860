//! The guest's memory: the one checked way into it, and its address space.

pub mod access;
mod advice;
pub mod charge;
pub mod faults;
mod host_side;
mod host_stack;
pub mod mapping;
pub mod moving;
pub mod space;
mod warming;

pub use host_stack::{HostStack, stack};
