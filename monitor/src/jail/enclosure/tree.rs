//! The root of `serve` and its children: a few bytes of memory with five things mounted in it.
//!
//! ```text
//! /.image     the image: read-only, no device, no setuid
//! /.private   where private directories are made
//! /dev        null, zero, full, random, urandom
//! /proc       of the process namespace
//! DIR         the directory in which `serve` keeps the snapshot, by its own name, for messages
//! ```
//!
//! The guest's `/` is `/.image`, reached through a descriptor as without this; so what the monitor itself needs has no place in the
//! guest's tree, and needs no mount point in an image that cannot be written to.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::namespaces::call;
use super::privileges::Maps;
use super::{EnclosureError, Wanted, failed, owned};
use crate::errno::{Errno, from_libc};

pub const ROOT: &str = "/.image";
pub const SCRATCH: &str = "/.private";

const DEVICES: [&CStr; 5] = [c"null", c"zero", c"full", c"random", c"urandom"];

/// Flags of the mount calls that libc lacks, from <linux/mount.h>.
const OPEN_TREE_CLONE: i64 = 1;
const MOVE_MOUNT_FROM_EMPTY: i64 = 4;
const FSCONFIG_SET_STRING: i64 = 1;
const FSCONFIG_CREATE: i64 = 6;
const READ_ONLY: u64 = 1;
const NO_SETUID: u64 = 2;
const NO_DEVICES: u64 = 4;
const NO_EXEC: u64 = 8;
const MAP_USERS: u64 = 0x10_0000;

/// What is mounted, taken from the node's tree while that is in reach.
pub struct Parts {
    image: OwnedFd,
    scratch: OwnedFd,
    devices: Vec<(&'static CStr, OwnedFd)>,
    /// The node's, for where no other can be mounted.
    proc: OwnedFd,
    keep: Option<(PathBuf, OwnedFd)>,
}

impl Parts {
    /// Preconditions: the mounts are private to this process.
    pub fn collect(wanted: &Wanted, maps: Option<&Maps>) -> Result<Self, EnclosureError> {
        let private = copy(&c_path(wanted.scratch)?, 0).map_err(failed("the private directories"))?;
        change(private.as_fd(), NO_SETUID | NO_DEVICES, None).map_err(failed("the private directories"))?;
        let keep = match wanted.keep {
            Some(path) => {
                let fault = failed("a mount of the directory of snapshots");
                let path = path.canonicalize().map_err(|error| fault(error.into()))?;
                let kept = copy(&c_path(&path)?, 0).map_err(&fault)?;
                let map = maps.map(|maps| maps.own.as_fd());
                change(kept.as_fd(), NO_SETUID | NO_DEVICES | NO_EXEC, map).map_err(&fault)?;
                Some((path, kept))
            }
            None => None,
        };
        let mut devices = Vec::new();
        for name in DEVICES {
            let path = CString::new([b"/dev/", name.to_bytes()].concat()).unwrap_or_default();
            match copy(&path, 0) {
                Ok(device) => {
                    change(device.as_fd(), NO_SETUID | NO_EXEC, None).map_err(failed("a device"))?;
                    devices.push((name, device));
                }
                // A container may have fewer.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("a device")(error)),
            }
        }
        Ok(Self {
            image: image(wanted.root, maps.map(|maps| maps.image.as_fd()))?,
            scratch: private,
            devices,
            proc: copy(c"/proc", i64::from(libc::AT_RECURSIVE)).map_err(failed("/proc"))?,
            keep,
        })
    }
}

/// The image as a mount of its own; with `map`, its users 0 to 65535 are those of that namespace.
fn image(root: &Path, map: Option<BorrowedFd<'_>>) -> Result<OwnedFd, EnclosureError> {
    let image = copy(&c_path(root)?, 0).map_err(failed("the image"))?;
    let what = if map.is_some() {
        "a mount of the image with other users"
    } else {
        "a read-only mount of the image"
    };
    change(image.as_fd(), READ_ONLY | NO_SETUID | NO_DEVICES, map).map_err(failed(what))?;
    Ok(image)
}

/// Puts the parts together and enters: nothing else of the node's tree is in reach. Gives what `mount_proc` needs.
pub fn enter(parts: Parts) -> Result<OwnedFd, EnclosureError> {
    let root =
        file_system(c"tmpfs", &[(c"mode", c"755"), (c"nr_inodes", c"256")]).map_err(failed("a tmpfs"))?;
    // Any directory will do; it is left at once.
    attach(root.as_fd(), None, c"/proc").map_err(failed("mounting a root"))?;
    let made = || -> Result<(), Errno> {
        for directory in [c".image", c".private", c"dev", c"proc"] {
            // SAFETY: a C string and an open directory.
            from_libc(unsafe { libc::mkdirat(root.as_raw_fd(), directory.as_ptr(), 0o755) })?;
        }
        attach(parts.image.as_fd(), Some(root.as_fd()), c".image")?;
        attach(parts.scratch.as_fd(), Some(root.as_fd()), c".private")?;
        if let Some((path, kept)) = &parts.keep {
            let path = make_directories(root.as_fd(), path)?;
            attach(kept.as_fd(), Some(root.as_fd()), &path)?;
        }
        for (name, device) in &parts.devices {
            let path = CString::new([b"dev/", name.to_bytes()].concat()).unwrap_or_default();
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
            // SAFETY: a C string and an open directory; the result is checked.
            drop(owned(from_libc(unsafe {
                libc::openat(root.as_raw_fd(), path.as_ptr(), flags, 0o444)
            })?)?);
            attach(device.as_fd(), Some(root.as_fd()), &path)?;
        }
        Ok(())
    };
    // Everybody passes through these directories, whatever the mask of whoever started this.
    // SAFETY: no pointers.
    let mask = unsafe { libc::umask(0) };
    let made = made();
    // SAFETY: no pointers.
    unsafe { libc::umask(mask) };
    made.map_err(failed("the jail's root"))?;
    // SAFETY: an open directory and C strings. The old root lies over the new one and is taken off.
    unsafe {
        from_libc(libc::fchdir(root.as_raw_fd())).map_err(failed("fchdir"))?;
        from_libc(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))
            .map_err(failed("pivot_root"))?;
        from_libc(libc::umount2(c".".as_ptr(), libc::MNT_DETACH)).map_err(failed("umount"))?;
        from_libc(libc::chdir(c"/".as_ptr())).map_err(failed("chdir"))?;
    }
    change(root.as_fd(), READ_ONLY | NO_SETUID | NO_DEVICES | NO_EXEC, None)
        .map_err(failed("a read-only root"))?;
    Ok(parts.proc)
}

/// Mounts the /proc of the calling process's namespace, in which nobody sees anybody else; else, where /proc is covered in part
/// (in a container), that of the node. Of either, the names of descriptors are all that is ever read.
pub fn mount_proc(of_node: BorrowedFd<'_>) -> Result<(), Errno> {
    // In a user namespace the kernel gives a new one only to who has one already.
    attach(of_node, None, c"/proc")?;
    let Ok(own) = file_system(c"proc", &[(c"hidepid", c"ptraceable"), (c"subset", c"pid")]) else {
        return Ok(());
    };
    change(own.as_fd(), NO_SETUID | NO_DEVICES | NO_EXEC, None)?;
    // SAFETY: a C string.
    from_libc(unsafe { libc::umount2(c"/proc".as_ptr(), libc::MNT_DETACH) })?;
    attach(own.as_fd(), None, c"/proc")
}

/// Makes a directory with all that it lies in below `root`; gives its path from there.
fn make_directories(root: BorrowedFd<'_>, path: &Path) -> Result<CString, Errno> {
    let mut made = Vec::new();
    for part in path.components().skip(1) {
        if !made.is_empty() {
            made.push(b'/');
        }
        made.extend_from_slice(part.as_os_str().as_bytes());
        let directory = CString::new(made.as_slice()).map_err(|_| Errno::INVAL)?;
        // SAFETY: a C string and an open directory.
        match from_libc(unsafe { libc::mkdirat(root.as_raw_fd(), directory.as_ptr(), 0o755) }) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    CString::new(made).map_err(|_| Errno::INVAL)
}

fn c_path(path: &Path) -> Result<CString, EnclosureError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| failed("a path")(Errno::INVAL))
}

/// A mount of what lies at `path`, in no place yet.
fn copy(path: &CStr, flags: i64) -> Result<OwnedFd, Errno> {
    let flags = OPEN_TREE_CLONE | i64::from(libc::O_CLOEXEC) | flags;
    owned(call(
        libc::SYS_open_tree,
        [libc::AT_FDCWD.into(), path.as_ptr() as i64, flags, 0, 0, 0],
    )?)
}

fn attach(mount: BorrowedFd<'_>, directory: Option<BorrowedFd<'_>>, path: &CStr) -> Result<(), Errno> {
    let directory = directory.map_or(libc::AT_FDCWD, |directory| directory.as_raw_fd());
    call(
        libc::SYS_move_mount,
        [
            mount.as_raw_fd().into(),
            c"".as_ptr() as i64,
            directory.into(),
            path.as_ptr() as i64,
            MOVE_MOUNT_FROM_EMPTY,
            0,
        ],
    )?;
    Ok(())
}

/// Adds attributes to a mount.
fn change(mount: BorrowedFd<'_>, attributes: u64, map: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    // struct mount_attr: set, clear, propagation, user namespace.
    let mut wanted = [attributes, 0, 0, 0];
    if let Some(map) = map {
        wanted[0] |= MAP_USERS;
        wanted[3] = u64::from(map.as_raw_fd().unsigned_abs());
    }
    call(
        libc::SYS_mount_setattr,
        [
            mount.as_raw_fd().into(),
            c"".as_ptr() as i64,
            libc::AT_EMPTY_PATH.into(),
            wanted.as_ptr() as i64,
            32,
            0,
        ],
    )?;
    Ok(())
}

/// A new file system, mounted in no place yet.
fn file_system(kind: &CStr, options: &[(&CStr, &CStr)]) -> Result<OwnedFd, Errno> {
    const CLOSE_ON_EXEC: i64 = 1;
    let context = owned(call(
        libc::SYS_fsopen,
        [kind.as_ptr() as i64, CLOSE_ON_EXEC, 0, 0, 0, 0],
    )?)?;
    let configure = |command: i64, key: i64, value: i64| {
        call(
            libc::SYS_fsconfig,
            [context.as_raw_fd().into(), command, key, value, 0, 0],
        )
    };
    for (key, value) in options {
        configure(FSCONFIG_SET_STRING, key.as_ptr() as i64, value.as_ptr() as i64)?;
    }
    configure(FSCONFIG_CREATE, 0, 0)?;
    owned(call(
        libc::SYS_fsmount,
        [context.as_raw_fd().into(), CLOSE_ON_EXEC, 0, 0, 0, 0],
    )?)
}
