//! What is where: the table of places that make the guest's tree.
//!
//! A mount ties a path of the guest to a source: a directory of the host, a private directory that is made when it is first
//! touched, a synthetic tree, or one special file. Its path is canonical (no links, no `..`), so that the longest match over
//! a canonical path tells the mount.
//!
//! Invariant: whether something may be written is asked of the same [`Mount`] whose root descriptor is then used.

use std::ffi::CString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use serde::{Deserialize, Serialize};

use super::descriptors::{passing, take_up};
use super::host;
use super::synthetic::Tree;
use crate::errno::Errno;

/// Whether the guest may change what a mount holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// What a special file is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The guest looks at its attributes.
    Look,
    /// The guest opens it.
    Open,
}

/// A single file that the owner of the namespace provides, such as `/.request`.
pub trait SpecialFile: Send + Sync {
    /// The file at this moment, above the floor; may wait when it is opened. The guest gets its own open file of it.
    fn file(&self, purpose: Purpose) -> Result<OwnedFd, Errno>;

    /// The descriptors that it needs in a child of the guest's process.
    fn descriptors(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// What it always reads as, if that is so.
    fn text(&self) -> Option<&[u8]> {
        None
    }
}

/// A file that the monitor writes: a fresh one for each who opens it.
pub struct Text(pub Vec<u8>);

impl SpecialFile for Text {
    fn file(&self, _: Purpose) -> Result<OwnedFd, Errno> {
        super::descriptors::private(|| {
            let mut file = File::from(crate::sys::memory_file(c"text")?);
            file.write_all(&self.0)?;
            file.rewind()?;
            Ok(file.into())
        })
    }

    fn text(&self) -> Option<&[u8]> {
        Some(&self.0)
    }
}

/// Not to be had where it is asked for too early.
struct Early;

impl SpecialFile for Early {
    fn file(&self, _: Purpose) -> Result<OwnedFd, Errno> {
        Err(Errno(libc::EBUSY))
    }
}

/// One content at all times: what a special file is for a program that a child executes.
struct Fixed(OwnedFd);

impl SpecialFile for Fixed {
    fn file(&self, _: Purpose) -> Result<OwnedFd, Errno> {
        super::descriptors::private(|| Ok(self.0.try_clone()?))
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.0.as_raw_fd()]
    }
}

/// One entry of the table.
pub struct Mount {
    /// The canonical path in the guest, `""` for the root.
    pub(super) path: Vec<u8>,
    pub(super) access: Access,
    /// Whether device files in it can be opened.
    pub(super) devices: bool,
    pub(super) source: Source,
}

pub(super) enum Source {
    Directory(Directory),
    Scratch(Scratch),
    Tree(Tree),
    Special(Box<dyn SpecialFile>),
}

/// A directory of the host.
pub(super) struct Directory {
    root: OwnedFd,
    /// Where the host has it, as /proc shows it: without the last slash, so `""` for `/`.
    host: Vec<u8>,
}

impl Directory {
    /// `root` must be above the floor.
    pub(super) fn new(proc: BorrowedFd<'_>, root: OwnedFd) -> Result<Self, Errno> {
        let mut host = host::read_link(proc, &fd_path(root.as_raw_fd())?)?;
        if host == b"/" {
            host.clear();
        }
        Ok(Self { root, host })
    }
}

/// A private writable directory, made when it is first touched: `<parent>/<instance>/<name>`.
///
/// Whoever made `parent` deletes `<instance>` when the guest is gone. All processes of a guest share it, so "exists
/// already" is success.
pub(super) struct Scratch {
    parent: OwnedFd,
    instance: CString,
    name: CString,
    host: Vec<u8>,
    /// The descriptor once it exists, else -1. No lock, because fork may happen at any time.
    root: AtomicI32,
}

impl Scratch {
    /// `parent` must be above the floor.
    pub(super) fn new(
        proc: BorrowedFd<'_>,
        parent: OwnedFd,
        instance: &[u8],
        name: &[u8],
    ) -> Result<Self, Errno> {
        let mut host = host::read_link(proc, &fd_path(parent.as_raw_fd())?)?;
        if host == b"/" {
            host.clear();
        }
        for part in [instance, name] {
            host.push(b'/');
            host.extend_from_slice(part);
        }
        Ok(Self {
            parent,
            instance: host::c_string(instance)?,
            name: host::c_string(name)?,
            host,
            root: AtomicI32::new(-1),
        })
    }

    /// Preconditions: the directory was not made yet.
    fn rename(&mut self, instance: &[u8]) -> Result<(), Errno> {
        let kept = self.host.len() - self.name.as_bytes().len() - self.instance.as_bytes().len() - 1;
        self.host.truncate(kept);
        self.host.extend_from_slice(instance);
        self.host.push(b'/');
        self.host.extend_from_slice(self.name.as_bytes());
        self.instance = host::c_string(instance)?;
        Ok(())
    }

    fn root(&self) -> Result<BorrowedFd<'_>, Errno> {
        let known = self.root.load(Ordering::Acquire);
        if known < 0 {
            let made = self.make()?.into_raw_fd();
            if let Err(earlier) = self
                .root
                .compare_exchange(-1, made, Ordering::AcqRel, Ordering::Acquire)
            {
                // Nobody else has seen it.
                drop(take_up(made));
                return Ok(borrow_for(self, earlier));
            }
            return Ok(borrow_for(self, made));
        }
        Ok(borrow_for(self, known))
    }

    fn make(&self) -> Result<OwnedFd, Errno> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let instance = make_and_open(
            host::borrow(&self.parent),
            &self.instance,
            0o700,
            flags | libc::O_PATH,
        )?;
        let root = make_and_open(host::borrow(&instance), &self.name, 0o1777, flags)?;
        // The mode of mkdir is subject to the guest's umask.
        host::fchmod(host::borrow(&root), 0o1777)?;
        Ok(root)
    }
}

fn borrow_for(_owner: &Scratch, fd: i32) -> BorrowedFd<'_> {
    // It is closed only when the owner is dropped.
    passing(fd)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let fd = *self.root.get_mut();
        if fd >= 0 {
            drop(take_up(fd));
        }
    }
}

fn make_and_open(dir: BorrowedFd<'_>, name: &CString, mode: u32, flags: i32) -> Result<OwnedFd, Errno> {
    match host::make_directory(dir, name, mode) {
        Ok(()) | Err(Errno::EXIST) => host::open(dir, name, flags),
        Err(error) => Err(error),
    }
}

impl Mount {
    /// The directory that a directory mount shows.
    pub(super) fn root(&self) -> Result<BorrowedFd<'_>, Errno> {
        match &self.source {
            Source::Directory(directory) => Ok(host::borrow(&directory.root)),
            Source::Scratch(scratch) => scratch.root(),
            Source::Tree(_) | Source::Special(_) => Err(Errno::INVAL),
        }
    }

    pub(super) fn is_on_host(&self) -> bool {
        matches!(self.source, Source::Directory(_) | Source::Scratch(_))
    }

    /// Whether this is a private directory of the instance.
    pub(super) fn is_scratch(&self) -> bool {
        matches!(self.source, Source::Scratch(_))
    }

    /// The root of a private directory that has been made.
    pub(super) fn made_scratch(&self) -> Option<BorrowedFd<'_>> {
        let Source::Scratch(scratch) = &self.source else {
            return None;
        };
        let known = scratch.root.load(Ordering::Acquire);
        (known >= 0).then(|| borrow_for(scratch, known))
    }

    pub(super) fn is_directory(&self) -> bool {
        !matches!(self.source, Source::Special(_))
    }

    /// Where the host has the directory, without the last slash.
    fn host_path(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Directory(directory) => Some(&directory.host),
            Source::Scratch(scratch) => Some(&scratch.host),
            Source::Tree(_) | Source::Special(_) => None,
        }
    }

    pub(super) fn check_writable(&self) -> Result<(), Errno> {
        match self.access {
            Access::ReadOnly => Err(Errno::ROFS),
            Access::ReadWrite => Ok(()),
        }
    }

    /// What is left of a canonical path of the guest below this mount: `""`, or `/…`.
    pub(super) fn below<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        below(&self.path, path)
    }
}

/// A mount as it is passed on over an exec of the monitor: descriptors by their numbers.
#[derive(Serialize, Deserialize)]
pub(super) struct PassedMount {
    path: Vec<u8>,
    access: Access,
    devices: bool,
    source: PassedSource,
}

#[derive(Serialize, Deserialize)]
enum PassedSource {
    Directory {
        root: RawFd,
        host: Vec<u8>,
    },
    Scratch {
        parent: RawFd,
        instance: CString,
        name: CString,
        host: Vec<u8>,
        root: RawFd,
    },
    Tree(Tree),
    Text(Vec<u8>),
    Special(RawFd),
}

/// `pass` gave it the process before its exec.
fn owned(fd: RawFd) -> OwnedFd {
    take_up(fd)
}

impl Mount {
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        match &self.source {
            Source::Directory(directory) => vec![directory.root.as_raw_fd()],
            Source::Scratch(scratch) => {
                let root = scratch.root.load(Ordering::Acquire);
                let mut known = vec![scratch.parent.as_raw_fd()];
                known.extend((root >= 0).then_some(root));
                known
            }
            Source::Tree(_) => Vec::new(),
            Source::Special(file) => file.descriptors(),
        }
    }

    /// A special file is passed on as what it is now.
    pub(super) fn pass(&self) -> Result<PassedMount, Errno> {
        let source = match &self.source {
            Source::Directory(directory) => PassedSource::Directory {
                root: directory.root.as_raw_fd(),
                host: directory.host.clone(),
            },
            Source::Scratch(scratch) => PassedSource::Scratch {
                parent: scratch.parent.as_raw_fd(),
                instance: scratch.instance.clone(),
                name: scratch.name.clone(),
                host: scratch.host.clone(),
                root: scratch.root.load(Ordering::Acquire),
            },
            Source::Tree(tree) => PassedSource::Tree(*tree),
            Source::Special(file) if let Some(text) = file.text() => PassedSource::Text(text.to_vec()),
            // Without a descriptor it is not there yet.
            Source::Special(file) if file.descriptors().is_empty() => PassedSource::Special(-1),
            Source::Special(file) => PassedSource::Special(file.file(Purpose::Look)?.into_raw_fd()),
        };
        Ok(PassedMount {
            path: self.path.clone(),
            access: self.access,
            devices: self.devices,
            source,
        })
    }
}

impl PassedMount {
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        match &self.source {
            PassedSource::Special(-1) | PassedSource::Tree(_) | PassedSource::Text(_) => Vec::new(),
            PassedSource::Directory { root, .. } | PassedSource::Special(root) => vec![*root],
            PassedSource::Scratch { parent, root, .. } => {
                let mut known = vec![*parent];
                known.extend((*root >= 0).then_some(*root));
                known
            }
        }
    }

    pub(super) fn take_up(self) -> Mount {
        let source = match self.source {
            PassedSource::Directory { root, host } => Source::Directory(Directory {
                root: owned(root),
                host,
            }),
            PassedSource::Scratch {
                parent,
                instance,
                name,
                host,
                root,
            } => Source::Scratch(Scratch {
                parent: owned(parent),
                instance,
                name,
                host,
                root: AtomicI32::new(root),
            }),
            PassedSource::Tree(tree) => Source::Tree(tree),
            PassedSource::Text(text) => Source::Special(Box::new(Text(text))),
            PassedSource::Special(-1) => Source::Special(Box::new(Early)),
            PassedSource::Special(fd) => Source::Special(Box::new(Fixed(owned(fd)))),
        };
        Mount {
            path: self.path,
            access: self.access,
            devices: self.devices,
            source,
        }
    }
}

/// What is left of `path` below `prefix`, if it is there.
fn below<'p>(prefix: &[u8], path: &'p [u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

/// The whole table, longest path first.
pub(super) struct Mounts(Vec<Mount>);

impl Mounts {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// Puts a mount in its place; one on the same path is replaced.
    pub(super) fn insert(&mut self, mount: Mount) {
        self.0.retain(|other| other.path != mount.path);
        self.0.push(mount);
        self.0.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
    }

    /// The mount that a canonical path of the guest lies in.
    pub(super) fn of(&self, path: &[u8]) -> Result<&Mount, Errno> {
        self.0
            .iter()
            .find(|mount| mount.below(path).is_some())
            .ok_or(Errno::NOENT)
    }

    /// What is mounted exactly here.
    pub(super) fn at(&self, path: &[u8]) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.path == path)
    }

    /// Whether something is mounted exactly here.
    pub(super) fn is_mount_point(&self, path: &[u8]) -> bool {
        self.at(path).is_some()
    }

    /// The path by which the guest knows a path of the host.
    pub(super) fn guest_path(&self, host: &[u8]) -> Option<Vec<u8>> {
        let known = self.0.iter().filter_map(|mount| {
            let place = mount.host_path()?;
            Some((
                place.len(),
                mount,
                below(place, if host == b"/" { b"" } else { host })?,
            ))
        });
        let (_, mount, rest) = known.max_by_key(|(length, ..)| *length)?;
        Some([&mount.path, rest].concat())
    }

    /// Gives the private directories another instance's name; none of them has been made.
    pub(super) fn set_instance(&mut self, name: &[u8]) -> Result<(), Errno> {
        for mount in &mut self.0 {
            if let Source::Scratch(scratch) = &mut mount.source {
                scratch.rename(name)?;
            }
        }
        Ok(())
    }

    /// Lets device files of the host's directories be opened.
    pub(super) fn allow_devices(&mut self) {
        self.0.iter_mut().for_each(|mount| mount.devices = true);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }
}

/// The link that stands for a descriptor, below the host's /proc. By the thread, because `self` is its process's first
/// thread, which may have ended.
pub(super) fn fd_path(fd: RawFd) -> Result<CString, Errno> {
    host::c_string(format!("thread-self/fd/{fd}").as_bytes())
}
