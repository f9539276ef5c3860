//! statfs(2): how much a file system holds, and how much more.
//!
//! Contained, that is the function's: where it may write there is what its account says, and the image is full. What the node's disks
//! hold is nobody's business.

use std::os::fd::{BorrowedFd, RawFd};

use super::descriptors::guest_fd;
use super::host::{self, Statfs};
use super::mounts::{Access, Mount, Purpose, Source};
use super::namespace::{Described, Files};
use super::resolve::{At, Last, Target};
use super::synthetic::Tree;
use crate::errno::Errno;

/// What a function may store, in blocks and in names: (the most, in use).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub blocks: (u64, u64),
    pub names: (u64, u64),
}

/// The unit of an account, bytes.
const BLOCK: i64 = 4096;
/// What an image is said to hold, of which nothing is free.
const IMAGE: Account = Account {
    blocks: (1 << 18, 1 << 18),
    names: (1 << 16, 1 << 16),
};
/// The kind that /proc/mounts says of it (ext4).
const IMAGE_KIND: i64 = 0xef53;
const NAME_MAX: i64 = 255;
/// The flags are valid; nosuid, nodev, relatime.
const FLAGS: i64 = 0x20 | 0x2 | 0x4 | 0x1000;
const READ_ONLY: i64 = 0x1;

impl Account {
    fn shown(self, kind: i64) -> Statfs {
        let free = |(most, used): (u64, u64)| most.saturating_sub(used);
        Statfs {
            kind,
            block_size: BLOCK,
            blocks: self.blocks.0,
            free: free(self.blocks),
            available: free(self.blocks),
            files: self.names.0,
            free_files: free(self.names),
            id: [0; 2],
            name_length: NAME_MAX,
            fragment_size: BLOCK,
            flags: FLAGS,
            spare: [0; 4],
        }
    }
}

impl Files<'_> {
    /// statfs.
    pub fn statfs(&self, path: At<'_>) -> Result<Statfs, Errno> {
        match self.find(path, Last::Follow)? {
            Target::Host { file, mount } => self.capacity(host::borrow(&file), mount),
            Target::Special { file, mount } => self.capacity(host::borrow(&file.file(Purpose::Look)?), mount),
            Target::Descriptor(file) => self.statfs_of_open(host::borrow(&file)),
            Target::Node { tree, .. } => synthetic(self.proc(), tree),
        }
    }

    /// fstatfs.
    pub fn statfs_descriptor(&self, fd: RawFd) -> Result<Statfs, Errno> {
        self.statfs_of_open(host::guest_descriptor(guest_fd(fd)?))
    }

    fn statfs_of_open(&self, file: BorrowedFd<'_>) -> Result<Statfs, Errno> {
        let statfs = host::statfs(file)?;
        let Described::Path { path, .. } = self.namespace.describe(file)? else {
            return Ok(statfs);
        };
        let mount = self.namespace.mounts.of(&path)?;
        match &mount.source {
            Source::Tree(tree) => synthetic(self.proc(), *tree),
            _ => self.capacity(file, mount),
        }
    }

    /// What a mount holds.
    fn capacity(&self, file: BorrowedFd<'_>, mount: &Mount) -> Result<Statfs, Errno> {
        let mut statfs = match (self.guest.account(), &mount.source) {
            (Some(account), Source::Scratch(_)) => account.shown(libc::TMPFS_MAGIC),
            (Some(_), _) => IMAGE.shown(IMAGE_KIND),
            (None, _) => host::statfs(file)?,
        };
        if mount.access == Access::ReadOnly {
            statfs.flags |= READ_ONLY;
        }
        Ok(statfs)
    }
}

fn synthetic(proc: BorrowedFd<'_>, tree: Tree) -> Result<Statfs, Errno> {
    // The host's /proc has the shape that is wanted: no blocks, no files.
    let mut statfs = host::statfs(proc)?;
    statfs.kind = tree.magic();
    Ok(statfs)
}
