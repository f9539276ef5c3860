//! One mapping of the guest.

use serde::{Deserialize, Serialize};

use super::charge;
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

/// What /proc says of a mapped file, as the guest knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MappedFile {
    pub name: Vec<u8>,
    pub device: u64,
    pub inode: u64,
}

/// Which object a mapping shows, and from where. Mappings of different ones are never merged, so each has one end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// Key in the list of files of the address space; one without an entry there is shared anonymous memory.
    pub object: u64,
    pub offset: u64,
}

/// One mapping; its start is the key in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mapping {
    pub end: u64,
    pub protection: Protection,
    pub shared: bool,
    pub backing: Backing,
    /// None for private anonymous memory.
    pub origin: Option<Origin>,
    /// The main stack: not counted, it is bounded.
    pub stack: bool,
    /// Grows down when the page before it is touched (MAP_GROWSDOWN).
    pub grows: bool,
    /// Has been writable: what it may hold counts, whatever its protection is now (`memory::charge`).
    pub counts: bool,
    /// Made with MAP_NORESERVE: it may become writable without room for all of it.
    pub unreserved: bool,
    /// Zeroes in whatever is made of this process: the child of a fork, and a snapshot's clone (MADV_WIPEONFORK).
    pub wiped: bool,
}

impl Mapping {
    /// An ordinary private anonymous one.
    pub fn anonymous(end: u64, protection: Protection) -> Self {
        Self {
            end,
            protection,
            shared: false,
            backing: Backing::Anonymous,
            origin: None,
            stack: false,
            grows: false,
            counts: false,
            unreserved: false,
            wiped: false,
        }
    }

    /// Whether what it may hold counts.
    pub fn is_counted(&self) -> bool {
        let own = !self.shared || self.backing == Backing::Anonymous;
        (self.counts || self.protection.write) && own && !self.stack
    }

    /// Bytes that this mapping may make the node commit.
    pub fn charge(&self, start: u64, end: u64) -> u64 {
        if self.is_counted() { end - start } else { 0 }
    }

    /// Bytes for which there must be room when it becomes writable.
    pub fn wanted(&self, start: u64, end: u64) -> u64 {
        let charge = self.charge(start, end);
        if self.unreserved && self.is_private_anonymous() {
            charge.saturating_sub(charge::most(start, end))
        } else {
            charge
        }
    }

    /// The part that begins `by` bytes later.
    pub fn later(self, by: u64) -> Self {
        let move_on = |origin: Origin| Origin {
            offset: origin.offset.wrapping_add(by),
            ..origin
        };
        Self {
            origin: self.origin.map(move_on),
            ..self
        }
    }

    /// Private memory that no file is behind.
    pub fn is_private_anonymous(&self) -> bool {
        let anonymous = matches!(
            self.backing,
            Backing::Anonymous | Backing::Image { anonymous: true }
        );
        anonymous && !self.shared
    }
}
