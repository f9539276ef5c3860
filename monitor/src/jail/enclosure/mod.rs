//! The privileged part of the jail: namespaces, a root of its own, a user without rights.
//!
//! ```text
//! serve      tries everything in a child that is thrown away · enters for good: unshare, tree, init, no privileges
//!   ├ init   the first process of the process namespace: mounts its /proc, then only waits; ends all others by its end
//!   ├ boot   ┐ in that process namespace, since a process makes its children there, not itself: so `serve` knows them by the
//!   └ …      ┘ node's numbers, and they see neither it nor anybody else
//! ```
//!
//! `serve` enters before its first fork, so an instance has all of it for nothing. It needs either the privileges of root, or
//! that the kernel gives user namespaces to everybody. With neither, the layers are reported as not in force with the reason.
//!
//! Invariants: either all namespaces are entered or none; no process that runs a guest has a capability, in any namespace.

#![allow(unsafe_code)]

mod init;
mod namespaces;
mod privileges;
#[cfg(test)]
mod tests;
mod tree;

use std::ffi::CStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Layer;
use crate::errno::{Errno, from_libc};

pub use init::Init;
use namespaces::Means;
use privileges::{Ids, Maps};

/// What is to be enclosed.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The image, which nobody may change.
    pub root: &'a Path,
    /// Where private directories are made.
    pub scratch: &'a Path,
    /// Where the snapshot is kept.
    pub keep: Option<&'a Path>,
    /// The node's network stays in reach (for destinations that a policy grants).
    pub network: bool,
    /// Whose users of the node these are: functions of different names have different ones.
    pub name: &'a str,
    /// The program's own user and group.
    pub user: (u32, u32),
}

#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct EnclosureError {
    what: &'static str,
    source: Errno,
}

/// For `map_err`: what failed.
fn failed(what: &'static str) -> impl Fn(Errno) -> EnclosureError {
    move |source| EnclosureError { what, source }
}

/// What was found to be possible here, by trying it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Findings {
    means: Option<Means>,
    /// Why the means that were tried before failed, or all.
    refused: Vec<String>,
    /// Why files of the image cannot be shown as the function's user's own, if they cannot.
    unmapped: Option<String>,
}

/// What stays of an enclosure when the guest's tree was put together.
#[derive(Debug, Default)]
pub struct Enclosed {
    pub layers: Vec<Layer>,
    /// The first process of the namespace of `serve`'s children.
    pub init: Option<Init>,
}

/// `serve` as it is from now on.
pub struct Enclosure {
    pub enclosed: Enclosed,
    pub root: PathBuf,
    pub scratch: PathBuf,
    /// The /proc of the namespace that `serve` itself is in: the one of its children does not know it.
    pub proc: OwnedFd,
    /// The users of the node that the image's users 0 to 65535 are shown as begin here.
    pub first_user: Option<u32>,
}

impl Enclosure {
    /// Encloses the calling process and the children it makes from now on.
    ///
    /// Preconditions: one thread, no child; whatever else of the node is needed is open.
    pub fn enter(wanted: &Wanted) -> Result<Self, EnclosureError> {
        let findings = Findings::of(wanted)?;
        if let Some(ids) = findings.ids(wanted) {
            std::os::unix::fs::chown(wanted.scratch, Some(ids.user), Some(ids.group))
                .map_err(|error| failed("chown of the private directories")(error.into()))?;
        }
        findings.enter(wanted)
    }
}

/// Becomes the user and group that a directory belongs to, if they are others and that is possible, and gives up every privilege.
pub fn become_owner(directory: BorrowedFd<'_>) -> Result<(), EnclosureError> {
    let owner = crate::sys::stat(&directory).map_err(failed("fstat"))?;
    let other = namespaces::is_superuser() && owner.st_uid != privileges::user();
    privileges::drop_all(other.then_some(Ids {
        first: owner.st_uid,
        user: owner.st_uid,
        group: owner.st_gid,
    }))?;
    Ok(())
}

/// What this machine offers, tried with an empty directory that is removed again.
pub fn probe() -> Vec<Layer> {
    // Not `/` or the temporary directory itself: in a user namespace nothing is mounted elsewhere that holds another mount.
    let place = std::env::temp_dir().join(format!("mayfly-doctor-{}", std::process::id()));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&place);
    let wanted = Wanted {
        root: &place,
        scratch: &place,
        keep: None,
        network: false,
        name: "doctor",
        user: (0, 0),
    };
    let found = made
        .map_err(|error| failed("a temporary directory")(error.into()))
        .and_then(|()| Findings::of(&wanted));
    let _ = std::fs::remove_dir(&place);
    match found {
        Ok(findings) => {
            let bounded = findings.means.is_some()
                || privileges::has(privileges::Capability::SetPcap)
                || privileges::bounding_set_is_empty();
            findings.layers(&wanted, bounded)
        }
        Err(error) => Findings {
            refused: vec![error.to_string()],
            ..Findings::default()
        }
        .layers(&wanted, false),
    }
}

impl Findings {
    /// Tries in a child what would be done.
    fn of(wanted: &Wanted) -> Result<Self, EnclosureError> {
        let mut findings = Self::default();
        if namespaces::is_superuser() {
            findings.unmapped = attempt(&|| {
                let ids = Ids::of(wanted.name, wanted.user);
                let maps = Maps::of(ids)?;
                tree::Parts::collect(wanted, Some(&maps)).map(drop)
            })?
            .err();
        }
        for means in [Means::Privileged, Means::UserNamespace] {
            if !means.may_work() {
                continue;
            }
            let tried = Self {
                means: Some(means),
                ..findings.clone()
            };
            match attempt(&|| tried.clone().enter(wanted).map(drop))? {
                Ok(()) => return Ok(tried),
                Err(why) => findings.refused.push(why),
            }
        }
        Ok(findings)
    }

    /// The users of the node that `serve` and its children are to be.
    fn ids(&self, wanted: &Wanted) -> Option<Ids> {
        (self.means == Some(Means::Privileged) && namespaces::is_superuser() && self.unmapped.is_none())
            .then(|| Ids::of(wanted.name, wanted.user))
    }

    fn enter(self, wanted: &Wanted) -> Result<Enclosure, EnclosureError> {
        let host_proc = open(c"/proc").map_err(failed("/proc"))?;
        let ids = self.ids(wanted);
        let mut enclosure = Enclosure {
            enclosed: Enclosed::default(),
            root: wanted.root.to_owned(),
            scratch: wanted.scratch.to_owned(),
            proc: host_proc,
            first_user: ids.map(|ids| ids.first),
        };
        if let Some(means) = self.means {
            let maps = ids.map(Maps::of).transpose()?;
            namespaces::unshare(means, wanted.network)?;
            let parts = tree::Parts::collect(wanted, maps.as_ref())?;
            let proc = tree::enter(parts)?;
            enclosure.root = tree::ROOT.into();
            enclosure.scratch = tree::SCRATCH.into();
            enclosure.enclosed.init = Some(init::start(proc, enclosure.proc.as_fd(), ids)?);
        }
        let bounded = privileges::drop_all(ids)?;
        enclosure.enclosed.layers = self.layers(wanted, bounded);
        Ok(enclosure)
    }

    /// What is in force, or why not.
    fn layers(&self, wanted: &Wanted, bounded: bool) -> Vec<Layer> {
        let how = match self.means {
            Some(Means::Privileged) => "",
            Some(Means::UserNamespace) => ", in a user namespace",
            None => "",
        };
        let namespace = |name, detail: &str| match self.means {
            Some(_) => Layer::new(name, &format!("{detail}{how}")),
            None => Layer::missing(name, format!("{} ({})", advice(), self.refused.join("; "))),
        };
        let network = if wanted.network {
            Layer::missing("network", "the function's policy grants destinations".to_owned())
        } else {
            namespace("network", "an empty network namespace")
        };
        vec![
            namespace(
                "mounts",
                "a root that holds the image, read-only, private directories and five devices",
            ),
            namespace(
                "processes",
                "a process namespace: no other process of the node is seen",
            ),
            network,
            namespace("names", "ipc, uts and cgroup namespaces"),
            self.user(wanted),
            if bounded {
                Layer::new("capabilities", "none, and none can be had")
            } else {
                Layer::missing(
                    "capabilities",
                    format!("none, but some could be had but for no-new-privs: {}", advice()),
                )
            },
        ]
    }

    fn user(&self, wanted: &Wanted) -> Layer {
        match self.ids(wanted) {
            Some(_) => Layer::new("user", "a user of the node that nobody else is, without groups"),
            None if !namespaces::is_superuser() => {
                Layer::new("user", &format!("the user {}", privileges::user()))
            }
            None => Layer::missing(
                "user",
                match &self.unmapped {
                    Some(why) => format!(
                        "root without capabilities: the image's files cannot be shown to another user ({why})"
                    ),
                    None => format!("root without capabilities: {}", advice()),
                },
            ),
        }
    }
}

/// How the layers can be had: what exactly refuses user namespaces, where the kernel says so.
fn advice() -> String {
    let setting = |path: &str| {
        std::fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    let changes: Vec<&str> = SETTINGS
        .into_iter()
        .filter(|(path, refusing, _)| setting(path).as_deref() == Some(*refusing))
        .map(|(_, _, change)| change)
        .collect();
    if changes.is_empty() {
        "start Mayfly as root with CAP_SYS_ADMIN, or allow it user namespaces (in a container: by its seccomp profile and its capabilities)"
            .to_owned()
    } else {
        format!(
            "allow user namespaces (sudo sysctl {}), or start Mayfly as root with CAP_SYS_ADMIN",
            changes.join(" ")
        )
    }
}

/// Where kernels keep user namespaces from ordinary users, the value that does, and what to set.
const SETTINGS: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "user.max_user_namespaces=15000",
    ),
    // Debian's own.
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "kernel.unprivileged_userns_clone=1",
    ),
    // Ubuntu's own.
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

/// Does `act` in a child and gives what it said.
fn attempt(act: &dyn Fn() -> Result<(), EnclosureError>) -> Result<Result<(), String>, EnclosureError> {
    let (mut told, mut tell) = std::io::pipe().map_err(|error| failed("pipe")(error.into()))?;
    // SAFETY: this process has one thread, so the child may go on as it was; it leaves by _exit.
    let pid = from_libc(unsafe { libc::fork() }).map_err(failed("fork"))?;
    if pid == 0 {
        let said = match act() {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        };
        let _ = tell.write_all(said.as_bytes());
        // SAFETY: does not return.
        unsafe { libc::_exit(0) };
    }
    drop(tell);
    let mut said = String::new();
    let read = told.read_to_string(&mut said);
    let mut status = 0;
    // SAFETY: a local word; the child that was just made.
    unsafe { libc::waitpid(i32::try_from(pid).unwrap_or(-1), &raw mut status, 0) };
    Ok(match (read, said.as_str()) {
        (Ok(_), "ok") => Ok(()),
        (Ok(_), why) if !why.is_empty() => Err(why.to_owned()),
        _ => Err("the attempt ended without a word".to_owned()),
    })
}

/// A reference to a place.
fn open(path: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: a C string; the result is checked.
    owned(from_libc(unsafe {
        libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC)
    })?)
}

/// Takes a descriptor that a call has just made.
fn owned(fd: u64) -> Result<OwnedFd, Errno> {
    let fd = i32::try_from(fd).map_err(|_| Errno::MFILE)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
