//! The guest's view of files: which paths there are, where they lead, and what may be done with them.
//!
//! Independent of the guest's processor and memory: everything here takes C strings and descriptor numbers, and answers
//! with an error number or a plain structure. The handlers in `syscalls/` copy in and out.
//!
//! A guest's tree is a [`Namespace`]: a table of mounts ([`mounts`]). A path is resolved against it as a kernel would
//! ([`resolve`]): the textual path names a mount and a rest, the rest is opened below the mount's root by openat2 with
//! `RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS`, and only when a link is in the way are links substituted, one by one, in the
//! *guest's* terms. So a link may lead from one mount into another, `..` leaves a mount as it should, and whatever the
//! guest's other threads rename meanwhile, the call that counts never leaves the mount that was checked.
//!
//! Existing files are first taken as a reference (`O_PATH`), judged by their type and their mount, and then opened through
//! that reference: nothing is opened that has not been judged.
//!
//! The guest's working directory and umask are those of the host process, so that fork, vfork, exec and threads need no
//! code. Descriptors are the host's too ([`descriptors`]); where a descriptor leads is asked of the host's /proc and
//! translated back through the table. What has no place in the table is not the guest's, and is refused.

pub mod descriptors;

mod attributes;
mod capacity;
pub mod carrying;
mod entries;
mod host;
mod mounts;
mod namespace;
mod opening;
mod owners;
mod removal;
mod resolve;
mod synthetic;
#[cfg(test)]
mod tests;

pub use attributes::truncate;
pub use capacity::Account;
pub use host::{bytes_of_stat, bytes_of_statx, guest_descriptor, random};
pub use mounts::{Access, Purpose, SpecialFile, Text};
pub use namespace::open_below;
pub use namespace::{Builder, Files, GuestInfo, Namespace, NoGuest, PassedNamespace, Region};
pub use opening::OpenRequest;
pub use owners::USER_RANGE;
pub use removal::{names_in, remove_instance, remove_name, remove_tree};
pub use resolve::At;
pub use synthetic::check_readable;
