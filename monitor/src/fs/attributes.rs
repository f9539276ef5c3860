//! What the guest may learn of a file and change about it, and its working directory.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::descriptors::{guest_fd, open_file};
use super::host;
use super::mounts::{Access, Purpose, Source, fd_path};
use super::namespace::{Described, Files};
use super::resolve::{At, Last, Target, is_directory, is_link};
use super::synthetic::{Node, Tree, is_marked, whole_records};
use crate::errno::Errno;

/// `AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC`
const SYNC_FLAGS: i32 = libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC;

const STAT_FLAGS: i32 = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH;

impl<'a> Files<'a> {
    /// stat, lstat, newfstatat.
    pub fn stat(&self, at: At<'_>, flags: i32) -> Result<libc::stat, Errno> {
        check(flags, STAT_FLAGS)?;
        if at.path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 && at.directory != libc::AT_FDCWD {
            return self.stat_descriptor(at.directory);
        }
        self.stat_of(&self.object(at, flags)?)
    }

    /// fstat.
    pub fn stat_descriptor(&self, fd: RawFd) -> Result<libc::stat, Errno> {
        self.stat_of_open(host::guest_descriptor(guest_fd(fd)?))
    }

    /// statx.
    pub fn statx(&self, at: At<'_>, flags: i32, mask: u32) -> Result<libc::statx, Errno> {
        check(flags, STAT_FLAGS | SYNC_FLAGS)?;
        if mask & libc::STATX__RESERVED.cast_unsigned() != 0 || flags & SYNC_FLAGS == SYNC_FLAGS {
            return Err(Errno::INVAL);
        }
        let target = self.object(at, flags)?;
        let file = match &target {
            Target::Host { file, .. } | Target::Descriptor(file) => file,
            Target::Special { file, .. } => &file.file(Purpose::Look)?,
            Target::Node { .. } => return Ok(extended(&self.stat_of(&target)?)),
        };
        let stat = self.stat_of(&target)?;
        if is_marked(&host::stat(host::borrow(file))?) {
            return Ok(extended(&stat));
        }
        let mut statx = host::statx(host::borrow(file), flags & SYNC_FLAGS, mask)?;
        (statx.stx_uid, statx.stx_gid) = self.owner((statx.stx_uid, statx.stx_gid));
        Ok(statx)
    }

    /// access, faccessat, faccessat2.
    pub fn access(&self, at: At<'_>, mode: i32, flags: i32) -> Result<(), Errno> {
        check(
            flags,
            libc::AT_SYMLINK_NOFOLLOW | libc::AT_EACCESS | libc::AT_EMPTY_PATH,
        )?;
        if mode & !(libc::R_OK | libc::W_OK | libc::X_OK) != 0 {
            return Err(Errno::INVAL);
        }
        let target = self.object(at, flags)?;
        let flags = flags & libc::AT_EACCESS;
        let (file, writable) = match &target {
            Target::Host { file, mount } => (host::borrow(file), mount.access == Access::ReadWrite),
            Target::Special { file, mount } => {
                let file = file.file(Purpose::Look)?;
                return Self::access_file(
                    host::borrow(&file),
                    mount.access == Access::ReadWrite,
                    mode,
                    flags,
                );
            }
            Target::Descriptor(file) => (host::borrow(file), self.is_writable(file)?),
            Target::Node {
                node: Node::Device(index),
                ..
            } => (self.namespace.devices.reference(*index), true),
            Target::Node {
                node: Node::Directory(_),
                ..
            } if mode & libc::W_OK == 0 => return Ok(()),
            Target::Node { .. } if mode & (libc::W_OK | libc::X_OK) == 0 => return Ok(()),
            Target::Node { .. } => return Err(Errno::ACCES),
        };
        Self::access_file(file, writable, mode, flags)
    }

    fn access_file(file: BorrowedFd<'_>, writable: bool, mode: i32, flags: i32) -> Result<(), Errno> {
        host::access(file, mode, flags)?;
        if mode & libc::W_OK != 0 && !writable {
            let kind = host::stat(file)?.st_mode & libc::S_IFMT;
            if matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK) {
                return Err(Errno::ROFS);
            }
        }
        Ok(())
    }

    /// readlink, readlinkat.
    pub fn read_link(&self, at: At<'_>) -> Result<Vec<u8>, Errno> {
        if at.path.is_empty() {
            let fd = self.namespace.pin(at.directory)?;
            return match self.node_of(host::borrow(&fd))? {
                Some((node, ..)) => self.read_node(&node, Errno::NOENT),
                None => host::read_link(host::borrow(&fd), c""),
            };
        }
        match self.find(at, Last::Keep)? {
            Target::Host { file, .. } if is_link(&host::stat(host::borrow(&file))?) => {
                host::read_link(host::borrow(&file), c"")
            }
            Target::Node { node, .. } => self.read_node(&node, Errno::INVAL),
            _ => Err(Errno::INVAL),
        }
    }

    fn read_node(&self, node: &Node, otherwise: Errno) -> Result<Vec<u8>, Errno> {
        match node {
            Node::Link(target) => Ok(target.clone()),
            Node::Descriptor(fd) => self.descriptor_path(*fd),
            _ => Err(otherwise),
        }
    }

    /// chmod, fchmodat, fchmodat2.
    pub fn chmod(&self, at: At<'_>, mode: u32, flags: i32) -> Result<(), Errno> {
        check(flags, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
        let file = self.changeable(self.object(at, flags)?)?;
        if is_link(&host::stat(host::borrow(&file))?) {
            return Err(Errno::OPNOTSUPP);
        }
        host::chmod(self.proc(), &fd_path(file.as_raw_fd())?, mode & 0o7777)
    }

    /// fchmod.
    pub fn chmod_descriptor(&self, fd: RawFd, mode: u32) -> Result<(), Errno> {
        self.chmod(At::new(open_file(fd)?, c""), mode, libc::AT_EMPTY_PATH)
    }

    /// chown, lchown, fchownat.
    pub fn chown(&self, at: At<'_>, user: u32, group: u32, flags: i32) -> Result<(), Errno> {
        check(flags, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
        let (user, group) = self.namespace.owners.of_host((user, group), self.guest.user());
        host::chown(
            host::borrow(&self.changeable(self.object(at, flags)?)?),
            user,
            group,
        )
    }

    /// fchown.
    pub fn chown_descriptor(&self, fd: RawFd, user: u32, group: u32) -> Result<(), Errno> {
        self.chown(At::new(open_file(fd)?, c""), user, group, libc::AT_EMPTY_PATH)
    }

    /// utimensat with a path, utime, utimes, futimesat.
    pub fn set_times(
        &self,
        at: At<'_>,
        times: Option<&[libc::timespec; 2]>,
        flags: i32,
    ) -> Result<(), Errno> {
        check(flags, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
        let file = self.changeable(self.object(at, flags)?)?;
        host::set_times(self.proc(), &fd_path(file.as_raw_fd())?, times)
    }

    /// utimensat without a path.
    pub fn set_times_of_descriptor(
        &self,
        fd: RawFd,
        times: Option<&[libc::timespec; 2]>,
    ) -> Result<(), Errno> {
        self.set_times(At::new(open_file(fd)?, c""), times, libc::AT_EMPTY_PATH)
    }

    /// truncate: finds the file, which [`truncate`] then changes.
    pub fn truncatable(&self, path: At<'_>, length: i64) -> Result<OwnedFd, Errno> {
        if length < 0 {
            return Err(Errno::INVAL);
        }
        let target = self.find(path, Last::Follow)?;
        match self.stat_of(&target)?.st_mode & libc::S_IFMT {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(Errno(libc::EISDIR)),
            _ => return Err(Errno::INVAL),
        }
        self.changeable(target)
    }

    /// getxattr and its kin: whether there is the file to ask, which then has no such attribute.
    pub fn get_attribute(&self, at: At<'_>, flags: i32) -> Result<(), Errno> {
        self.object(at, flags)?;
        Err(Errno(libc::ENODATA))
    }

    /// listxattr and its kin: whether there is the file to ask, which then has none.
    pub fn list_attributes(&self, at: At<'_>, flags: i32) -> Result<(), Errno> {
        self.object(at, flags).map(|_| ())
    }

    /// setxattr, removexattr and their kin: no mount has them.
    pub fn change_attribute(&self, at: At<'_>, flags: i32) -> Result<(), Errno> {
        self.changeable(self.object(at, flags)?)?;
        Err(Errno::OPNOTSUPP)
    }

    /// Whether a descriptor stands for a file that nobody can change, and that other instances have too.
    pub fn is_on_read_only(&self, fd: RawFd) -> Result<bool, Errno> {
        match self.namespace.describe(host::guest_descriptor(guest_fd(fd)?))? {
            Described::Path { path, .. } => Ok(self.namespace.mounts.of(&path)?.access == Access::ReadOnly),
            Described::Unnamed(_) | Described::Foreign => Ok(false),
        }
    }

    /// inotify_add_watch. Of a read-only file there is nothing to tell but its end: what other instances do with it is not
    /// the guest's to see.
    pub fn watch(&self, inotify: RawFd, path: At<'_>, mask: u32) -> Result<i32, Errno> {
        let last = if mask & libc::IN_DONT_FOLLOW != 0 {
            Last::Keep
        } else {
            Last::Follow
        };
        let (file, quiet) = match self.find(path, last)? {
            Target::Host { file, mount } => (file, mount.access == Access::ReadOnly),
            Target::Descriptor(file) => {
                let quiet = !self.is_writable(&file)?;
                (file, quiet)
            }
            Target::Special { .. } | Target::Node { .. } => return Err(Errno::ACCES),
        };
        if mask & libc::IN_ONLYDIR != 0 && !is_directory(&host::stat(host::borrow(&file))?) {
            return Err(Errno::NOTDIR);
        }
        if mask & libc::IN_ALL_EVENTS == 0 {
            return Err(Errno::INVAL);
        }
        let mask = mask & !libc::IN_DONT_FOLLOW;
        let mask = if quiet {
            mask & !libc::IN_ALL_EVENTS | libc::IN_DELETE_SELF
        } else {
            mask
        };
        host::watch(
            host::guest_descriptor(guest_fd(inotify)?),
            &host_path(&file)?,
            mask,
        )
    }

    /// getcwd, and what `/proc/self/cwd` shows.
    pub fn current_directory(&self) -> Result<Vec<u8>, Errno> {
        let mut path = self.namespace.working_directory()?;
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(path)
    }

    /// chdir.
    pub fn change_directory(&self, path: At<'_>) -> Result<(), Errno> {
        match self.find(path, Last::Follow)? {
            Target::Host { file, .. } => self.namespace.enter(host::borrow(&file)),
            Target::Node {
                node: node @ Node::Directory(_),
                tree,
                path,
            } => {
                self.namespace
                    .set_synthetic_directory(Some(node.materialize(self, tree, &path)?));
                Ok(())
            }
            _ => Err(Errno::NOTDIR),
        }
    }

    /// fchdir.
    pub fn change_to_descriptor(&self, fd: RawFd) -> Result<(), Errno> {
        let file = self.namespace.pin(fd)?;
        if let Some((node, tree, path)) = self.node_of(host::borrow(&file))? {
            let Node::Directory(_) = node else {
                return Err(Errno::NOTDIR);
            };
            self.namespace
                .set_synthetic_directory(Some(node.materialize(self, tree, &path)?));
            return Ok(());
        }
        if !is_directory(&host::stat(host::borrow(&file))?) {
            return Err(Errno::NOTDIR);
        }
        match self.namespace.describe(host::borrow(&file))? {
            Described::Path { .. } => self.namespace.enter(host::borrow(&file)),
            Described::Unnamed(_) | Described::Foreign => Err(Errno::ACCES),
        }
    }

    /// getdents64: whole records, as many as fit.
    pub fn read_directory(&self, fd: RawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
        let directory = host::guest_descriptor(guest_fd(fd)?);
        match host::directory_records(directory, buffer) {
            Ok(length) => return usize::try_from(length).map_err(|_| Errno::IO),
            Err(Errno::NOTDIR) => {}
            Err(error) => return Err(error),
        }
        if !matches!(self.node_of(directory)?, Some((Node::Directory(_), ..))) {
            return Err(Errno::NOTDIR);
        }
        let position = host::seek(directory, 0, libc::SEEK_CUR)?;
        let length = host::read_at(directory, buffer, position)?;
        let whole = whole_records(&buffer[..length], length);
        if length > 0 && whole == 0 {
            return Err(Errno::INVAL);
        }
        let end = position.saturating_add(i64::try_from(whole).map_err(|_| Errno::IO)?);
        host::seek(directory, end, libc::SEEK_SET)?;
        Ok(whole)
    }

    /// What a call names by a path, or by a descriptor alone.
    fn object(&self, at: At<'_>, flags: i32) -> Result<Target<'a>, Errno> {
        if at.path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
            return match at.directory {
                libc::AT_FDCWD => self.find(At::cwd(c"."), Last::Follow),
                fd => Ok(Target::Descriptor(self.namespace.pin(fd)?)),
            };
        }
        self.find(
            at,
            if flags & libc::AT_SYMLINK_NOFOLLOW != 0 {
                Last::Keep
            } else {
                Last::Follow
            },
        )
    }

    fn stat_of(&self, target: &Target<'_>) -> Result<libc::stat, Errno> {
        match target {
            Target::Host { file, .. } => self.stat_of_host(host::borrow(file)),
            Target::Descriptor(file) => self.stat_of_open(host::borrow(file)),
            Target::Special { file, .. } => self.stat_of_host(host::borrow(&file.file(Purpose::Look)?)),
            Target::Node { node, tree, path } => node.stat(self, *tree, path),
        }
    }

    fn stat_of_host(&self, file: BorrowedFd<'_>) -> Result<libc::stat, Errno> {
        let mut stat = host::stat(file)?;
        (stat.st_uid, stat.st_gid) = self.owner((stat.st_uid, stat.st_gid));
        Ok(stat)
    }

    /// User and group of a file of the host as the guest knows them.
    fn owner(&self, ids: (u32, u32)) -> (u32, u32) {
        self.namespace.owners.of_guest(ids, self.guest.user())
    }

    fn stat_of_open(&self, file: BorrowedFd<'_>) -> Result<libc::stat, Errno> {
        let stat = self.stat_of_host(file)?;
        if is_marked(&stat)
            && let Some((node, tree, path)) = self.node_of(file)?
        {
            return node.stat(self, tree, &path);
        }
        Ok(stat)
    }

    /// The synthetic file that an open descriptor stands for.
    fn node_of(&self, file: BorrowedFd<'_>) -> Result<Option<(Node, Tree, Vec<u8>)>, Errno> {
        if !is_marked(&host::stat(file)?) {
            return Ok(None);
        }
        let Described::Path { path, .. } = self.namespace.describe(file)? else {
            return Ok(None);
        };
        let mount = self.namespace.mounts.of(&path)?;
        let Source::Tree(tree) = mount.source else {
            return Ok(None);
        };
        // It may be gone by now, as `/proc/self/fd/N` is after a close; what is left then is the file in memory.
        let found = mount.below(&path).map(|rest| tree.look(self, rest));
        Ok(found.and_then(Result::ok).map(|node| (node, tree, path)))
    }

    /// The file, if the guest may change anything about it.
    fn changeable(&self, target: Target<'a>) -> Result<OwnedFd, Errno> {
        match target {
            Target::Host { file, mount } => mount.check_writable().map(|()| file),
            Target::Special { file, mount } => {
                mount.check_writable()?;
                file.file(Purpose::Look)
            }
            Target::Descriptor(file) if self.is_writable(&file)? => Ok(file),
            Target::Descriptor(_) | Target::Node { .. } => Err(Errno::ROFS),
        }
    }

    /// Whether a file that the guest has open lies where it may write.
    fn is_writable(&self, file: &OwnedFd) -> Result<bool, Errno> {
        Ok(match self.namespace.describe(host::borrow(file))? {
            Described::Path { path, .. } => self.namespace.mounts.of(&path)?.access == Access::ReadWrite,
            Described::Unnamed(_) => true,
            Described::Foreign => false,
        })
    }

    pub(super) fn proc(&self) -> BorrowedFd<'a> {
        host::borrow(&self.namespace.proc)
    }
}

/// Changes the length of a file that was found for it.
pub fn truncate(file: &OwnedFd, length: i64) -> Result<(), Errno> {
    host::truncate(&host_path(file)?, length)
}

/// The path by which calls without a directory argument reach a reference.
fn host_path(file: &OwnedFd) -> Result<CString, Errno> {
    host::c_string(&[b"/proc/", fd_path(file.as_raw_fd())?.to_bytes()].concat())
}

/// Refuses flags that a call does not know.
fn check(flags: i32, known: i32) -> Result<(), Errno> {
    if flags & !known == 0 {
        Ok(())
    } else {
        Err(Errno::INVAL)
    }
}

/// A struct stat as statx(2) gives it.
fn extended(stat: &libc::stat) -> libc::statx {
    let time = |seconds: i64, nanoseconds: i64| {
        let mut time = host::zeroed_statx().stx_mtime;
        time.tv_sec = seconds;
        time.tv_nsec = u32::try_from(nanoseconds).unwrap_or(0);
        time
    };
    let mut statx = host::zeroed_statx();
    statx.stx_mask = libc::STATX_BASIC_STATS;
    statx.stx_blksize = u32::try_from(stat.st_blksize).unwrap_or(4096);
    statx.stx_nlink = u32::try_from(stat.st_nlink).unwrap_or(1);
    statx.stx_uid = stat.st_uid;
    statx.stx_gid = stat.st_gid;
    statx.stx_mode = u16::try_from(stat.st_mode).unwrap_or(0);
    statx.stx_ino = stat.st_ino;
    statx.stx_size = stat.st_size.unsigned_abs();
    statx.stx_blocks = stat.st_blocks.unsigned_abs();
    statx.stx_atime = time(stat.st_atime, stat.st_atime_nsec);
    statx.stx_mtime = time(stat.st_mtime, stat.st_mtime_nsec);
    statx.stx_ctime = time(stat.st_ctime, stat.st_ctime_nsec);
    statx.stx_rdev_major = libc::major(stat.st_rdev);
    statx.stx_rdev_minor = libc::minor(stat.st_rdev);
    statx.stx_dev_major = libc::major(stat.st_dev);
    statx.stx_dev_minor = libc::minor(stat.st_dev);
    statx
}
