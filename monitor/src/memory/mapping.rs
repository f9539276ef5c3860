//! One mapping of the guest.

use serde::{Deserialize, Serialize};

use crate::vm::page_tables::Protection;

/// What is behind a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Backing {
    Anonymous,
    /// A file, mapped privately or shared.
    File,
    /// Restored from a snapshot: private, the image's memory. The flag says that it was anonymous.
    Image {
        anonymous: bool,
    },
}

/// One mapping; its start is the key in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mapping {
    pub end: u64,
    pub protection: Protection,
    pub shared: bool,
    pub backing: Backing,
    /// The main stack: not counted, it is bounded.
    pub stack: bool,
}

impl Mapping {
    /// Bytes that this mapping may make the node commit.
    pub fn charge(&self, start: u64, end: u64) -> u64 {
        let private = !self.shared || self.backing == Backing::Anonymous;
        if self.protection.write && private && !self.stack {
            end - start
        } else {
            0
        }
    }
}
