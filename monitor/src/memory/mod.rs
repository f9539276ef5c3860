//! The guest's memory: the one checked way into it, and its address space.

pub mod access;
pub mod faults;
mod host_side;
mod host_stack;
pub mod mapping;
pub mod space;

pub use host_stack::stack;
