//! Leaving the node's namespaces, by the privileges of root or by a user namespace.
#![allow(unsafe_code)]

use std::fs;

use serde::{Deserialize, Serialize};

use super::privileges::{self, Capability};
use super::{EnclosureError, failed};
use crate::errno::{Errno, from_libc};

/// What allows a process to leave its namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Means {
    /// `CAP_SYS_ADMIN`.
    Privileged,
    /// A user namespace, in which an ordinary user has that capability over what is made there.
    UserNamespace,
}

impl Means {
    /// Whether it is worth an attempt.
    pub fn may_work(self) -> bool {
        self == Self::UserNamespace || privileges::has(Capability::SysAdmin)
    }
}

/// Whether this process is the superuser of its user namespace, with the right to become somebody else.
pub fn is_superuser() -> bool {
    crate::sys::ids().0 == 0
}

/// Leaves all namespaces of the node but, if `network`, that one. The process namespace is for children only.
pub fn unshare(means: Means, network: bool) -> Result<(), EnclosureError> {
    let mut flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    if !network {
        flags |= libc::CLONE_NEWNET;
    }
    if means == Means::UserNamespace {
        flags |= libc::CLONE_NEWUSER;
    }
    let (user, group) = crate::sys::ids();
    // SAFETY: no pointers; the process has one thread.
    from_libc(unsafe { libc::unshare(flags) }).map_err(failed(match means {
        Means::Privileged => "unshare",
        Means::UserNamespace => "unshare of a user namespace",
    }))?;
    if means == Means::UserNamespace {
        keep_ids(user, group).map_err(|error| failed("the map of users")(error.into()))?;
    }
    let name = crate::guest::HOST_NAME;
    // SAFETY: a live string with its length.
    from_libc(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })
        .map_err(failed("sethostname"))?;
    from_libc(private_mounts()).map_err(failed("making mounts private"))?;
    Ok(())
}

/// The process is who it was: the only user that its namespace has.
fn keep_ids(user: u32, group: u32) -> std::io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// What is mounted here from now on stays here.
fn private_mounts() -> i32 {
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: C strings; the other pointers may be null for a change of propagation.
    unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        )
    }
}

/// The error of a call that libc has no function for.
pub(super) fn call(number: libc::c_long, arguments: [i64; 6]) -> Result<u64, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the callers pass live C strings and structures of the kernel's documented types, or no pointers.
    from_libc(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}
