//! The guest's memory: the one checked way into it, and its address space.

pub mod access;
mod host_stack;
pub mod space;

pub use host_stack::stack;
