//! The guest's memory: the one checked way into it, and its address space.

pub mod access;
pub mod space;
