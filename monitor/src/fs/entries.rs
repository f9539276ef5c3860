//! Names: making, removing and moving them.
//!
//! All work on the directory that the name is in, found as a reference, and on the last name, which the kernel never follows
//! here. On a read-only mount the errors are those of a kernel: "exists" comes before "read-only" for what would make a name.

use std::os::fd::{AsRawFd, OwnedFd};

use super::host;
use super::mounts::{Mount, fd_path};
use super::namespace::{Described, Files};
use super::resolve::{At, Last, Parent, Target, is_directory};
use crate::errno::Errno;

const BUSY: Errno = Errno(libc::EBUSY);
const IS_DIRECTORY: Errno = Errno(libc::EISDIR);
const CROSS_DEVICE: Errno = Errno(libc::EXDEV);

impl<'a> Files<'a> {
    /// mkdir, mkdirat.
    pub fn make_directory(&self, at: At<'_>, mode: u32) -> Result<(), Errno> {
        let place = self.place_for_new(at, true)?;
        host::make_directory(host::borrow(&place.directory), &place.name, mode & 0o7777)
    }

    /// mknod, mknodat: files, FIFOs and sockets, never devices.
    pub fn make_node(&self, at: At<'_>, mode: u32) -> Result<(), Errno> {
        match mode & libc::S_IFMT {
            0 | libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK => {}
            libc::S_IFCHR | libc::S_IFBLK | libc::S_IFDIR => return Err(Errno::PERM),
            _ => return Err(Errno::INVAL),
        }
        let place = self.place_for_new(at, false)?;
        host::make_node(
            host::borrow(&place.directory),
            &place.name,
            mode & (libc::S_IFMT | 0o7777),
        )
    }

    /// symlink, symlinkat. The target is kept as it is; it means something only when it is followed.
    pub fn symlink(&self, target: &std::ffi::CStr, at: At<'_>) -> Result<(), Errno> {
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        let place = self.place_for_new(at, false)?;
        host::symlink(target, host::borrow(&place.directory), &place.name)
    }

    /// link, linkat. Gives the file that has the new name.
    pub fn link(&self, from: At<'_>, to: At<'_>, flags: i32) -> Result<libc::stat, Errno> {
        if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
            return Err(Errno::INVAL);
        }
        let target = if from.path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
            Target::Descriptor(self.namespace.pin(from.directory)?)
        } else {
            let follow = flags & libc::AT_SYMLINK_FOLLOW != 0;
            self.find(from, if follow { Last::Follow } else { Last::Keep })?
        };
        let place = self.place_for_new(to, false)?;
        let (file, mount) = self.on_host(target)?;
        if !std::ptr::eq(mount, place.mount) {
            return Err(Self::why_not_made(&place, false, CROSS_DEVICE));
        }
        let source = fd_path(file.as_raw_fd())?;
        host::link(
            host::borrow(&self.namespace.proc),
            &source,
            host::borrow(&place.directory),
            &place.name,
        )?;
        host::stat(host::borrow(&file))
    }

    /// unlink, rmdir, unlinkat. Gives what had the name, as it was before.
    pub fn unlink(&self, at: At<'_>, flags: i32) -> Result<Option<libc::stat>, Errno> {
        if flags & !libc::AT_REMOVEDIR != 0 {
            return Err(Errno::INVAL);
        }
        let place = self.parent(at)?;
        if place.is_root && flags & libc::AT_REMOVEDIR != 0 {
            return Err(BUSY);
        }
        // The host refuses `.` and `..` for what they are, wherever they are.
        if !place.is_dots() {
            place.mount.check_writable()?;
        }
        if let Some(mount) = self.namespace.mounts.at(&place.path) {
            return Err(if flags & libc::AT_REMOVEDIR == 0 && mount.is_directory() {
                IS_DIRECTORY
            } else {
                BUSY
            });
        }
        let directory = host::borrow(&place.directory);
        let lost = host::stat_at(directory, &place.name).ok();
        host::unlink(directory, &place.name, flags)?;
        Ok(lost)
    }

    /// rename, renameat, renameat2. Gives what lost its name by it, as it was before.
    pub fn rename(&self, from: At<'_>, to: At<'_>, flags: u32) -> Result<Option<libc::stat>, Errno> {
        let known = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE;
        if flags & !known != 0 || flags & known == known {
            return Err(Errno::INVAL);
        }
        let from = self.parent(from)?;
        let to = self.parent(to)?;
        if !std::ptr::eq(from.mount, to.mount) {
            return Err(CROSS_DEVICE);
        }
        if !from.is_dots() && !to.is_dots() {
            to.mount.check_writable()?;
        }
        if [&from, &to]
            .iter()
            .any(|place| self.namespace.mounts.is_mount_point(&place.path))
        {
            // A name that is moved onto itself stays where it is, mounted on or not.
            let same = from.path == to.path && flags & libc::RENAME_NOREPLACE == 0 && !from.is_dots();
            return if same {
                Ok(None)
            } else {
                Err(self.why_not_renamed(&from, &to, flags))
            };
        }
        let (source, target) = (host::borrow(&from.directory), host::borrow(&to.directory));
        let lost = if flags == 0 {
            host::stat_at(target, &to.name).ok().filter(|lost| {
                // Two names of one file both stay.
                host::stat_at(source, &from.name)
                    .is_ok_and(|moved| (moved.st_dev, moved.st_ino) != (lost.st_dev, lost.st_ino))
            })
        } else {
            None
        };
        host::rename(source, &from.name, target, &to.name, flags)?;
        Ok(lost)
    }

    /// The error of a rename in which something is mounted on one of the names.
    fn why_not_renamed(&self, from: &Parent<'_>, to: &Parent<'_>, flags: u32) -> Errno {
        let kind = |place: &Parent<'_>| match self.namespace.mounts.at(&place.path) {
            Some(mount) => Ok(mount.is_directory()),
            None => {
                let file = host::reference(host::borrow(&place.directory), &place.name, libc::O_NOFOLLOW)?;
                Ok(is_directory(&host::stat(host::borrow(&file))?))
            }
        };
        if from.is_dots() {
            return BUSY;
        }
        if to.is_dots() {
            return if flags & libc::RENAME_NOREPLACE == 0 {
                BUSY
            } else {
                Errno::EXIST
            };
        }
        match (kind(from), kind(to)) {
            (Err(error), _) => error,
            (Ok(_), Ok(_)) if flags & libc::RENAME_NOREPLACE != 0 => Errno::EXIST,
            (Ok(_), Err(error)) if flags & libc::RENAME_EXCHANGE != 0 => error,
            (Ok(true), Ok(false)) if flags == 0 => Errno::NOTDIR,
            (Ok(false), _)
                if [from, to]
                    .iter()
                    .any(|place| place.name.to_bytes().ends_with(b"/")) =>
            {
                Errno::NOTDIR
            }
            (Ok(false), Ok(true)) if flags == 0 => IS_DIRECTORY,
            _ => BUSY,
        }
    }

    /// Where a name can be made; only a directory's may have a slash after it.
    fn place_for_new(&self, at: At<'_>, directory: bool) -> Result<Parent<'a>, Errno> {
        let place = self.parent(at)?;
        if place.is_dots() || self.namespace.mounts.is_mount_point(&place.path) {
            return Err(Errno::EXIST);
        }
        if let Err(error) = place.mount.check_writable() {
            return Err(Self::why_not_made(&place, directory, error));
        }
        Ok(place)
    }

    /// The error for a name that cannot be made: another one comes first if the name is taken, or has a slash after it.
    fn why_not_made(place: &Parent<'_>, directory: bool, error: Errno) -> Errno {
        let name = place.name.to_bytes();
        let Ok(bare) = host::c_string(name.strip_suffix(b"/").unwrap_or(name)) else {
            return error;
        };
        match host::reference(host::borrow(&place.directory), &bare, libc::O_NOFOLLOW) {
            Ok(_) => Errno::EXIST,
            Err(Errno::NOENT) if !directory && name.ends_with(b"/") => Errno::NOENT,
            Err(_) => error,
        }
    }

    /// The file and its mount, if it is one of the host's.
    fn on_host(&self, target: Target<'a>) -> Result<(OwnedFd, &'a Mount), Errno> {
        match target {
            Target::Host { file, mount } => Ok((file, mount)),
            Target::Descriptor(file) => match self.namespace.describe(host::borrow(&file))? {
                Described::Path { path, .. } => {
                    let mount = self.namespace.mounts.of(&path)?;
                    Ok((file, mount))
                }
                Described::Unnamed(_) | Described::Foreign => Err(CROSS_DEVICE),
            },
            Target::Special { .. } | Target::Node { .. } => Err(CROSS_DEVICE),
        }
    }
}
