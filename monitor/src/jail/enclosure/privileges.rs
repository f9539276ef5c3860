//! Who `serve` and its children are on the node, and that they may do nothing there.
#![allow(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use sha2::{Digest, Sha256};

use super::{EnclosureError, failed};
use crate::errno::{Errno, from_libc};
use crate::fs::USER_RANGE as RANGE;
use crate::sys;

/// The first of them, above what distributions and containers give out, and how many functions have ranges of their own.
const FIRST: u32 = 0x7000_0000;
const RANGES: u32 = 1 << 12;
/// The last user of a range: who the image calls by a number that is too large.
const NOBODY: u32 = RANGE - 2;

/// The user that runs a function's program on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Who the image's root is.
    pub first: u32,
    pub user: u32,
    pub group: u32,
}

impl Ids {
    /// By the name of the function, so that its user stays the same. Two functions in some thousand share one: this wall stands
    /// behind others.
    pub fn of(name: &str, (user, group): (u32, u32)) -> Self {
        let first = first(name);
        let within = |id: u32| first + if id < RANGE - 1 { id } else { NOBODY };
        Self {
            first,
            user: within(user),
            group: within(group),
        }
    }
}

fn first(name: &str) -> u32 {
    let digest = Sha256::digest(name.as_bytes());
    let number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    FIRST + number % RANGES * RANGE
}

/// A capability that is asked for by its number.
#[derive(Clone, Copy, Debug)]
pub enum Capability {
    SetPcap = 8,
    SysAdmin = 21,
}

/// Whether this process has a capability now.
pub fn has(capability: Capability) -> bool {
    let mut status = String::new();
    let read = fs::File::open("/proc/self/status").and_then(|mut file| file.read_to_string(&mut status));
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    read.is_ok() && effective.is_some_and(|set| set >> (capability as u32) & 1 == 1)
}

pub fn user() -> u32 {
    sys::ids().0
}

/// User namespaces for mounts: who a file's owner is there.
pub struct Maps {
    /// The image's users are those of the function's range.
    pub image: OwnedFd,
    /// The superuser's files are the process's own.
    pub own: OwnedFd,
}

impl Maps {
    pub fn of(ids: Ids) -> Result<Self, EnclosureError> {
        Ok(Self {
            image: map((ids.first, ids.first), RANGE)?,
            own: map((ids.user, ids.group), 1)?,
        })
    }
}

/// A user namespace in which `count` users and groups from 0 on are those from the given ones on.
fn map((user, group): (u32, u32), count: u32) -> Result<OwnedFd, EnclosureError> {
    let fault = |error: std::io::Error| failed("a user namespace for the image")(error.into());
    let (mut told, mut tell) = std::io::pipe().map_err(fault)?;
    let (mut hold, release) = std::io::pipe().map_err(fault)?;
    // SAFETY: this process has one thread, so the child may go on as it was; it leaves by _exit.
    let pid = from_libc(unsafe { libc::fork() }).map_err(failed("fork"))?;
    if pid == 0 {
        drop(release);
        // SAFETY: no pointers.
        let made = unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0;
        let _ = tell.write_all(&[u8::from(made)]);
        // Until the other end is closed.
        let _ = hold.read(&mut [0]);
        // SAFETY: does not return.
        unsafe { libc::_exit(0) };
    }
    drop(tell);
    let mut made = [0];
    let namespace = told.read_exact(&mut made).map_err(fault).and_then(|()| {
        if made != [1] {
            return Err(failed("a user namespace for the image")(Errno::PERM));
        }
        for (file, first) in [("uid_map", user), ("gid_map", group)] {
            fs::write(format!("/proc/{pid}/{file}"), format!("0 {first} {count}")).map_err(fault)?;
        }

        fs::File::open(format!("/proc/{pid}/ns/user"))
            .map(OwnedFd::from)
            .map_err(fault)
    });
    drop(release);
    // SAFETY: the child that was just made, which ends when `release` is closed.
    unsafe { libc::waitpid(i32::try_from(pid).unwrap_or(-1), std::ptr::null_mut(), 0) };
    namespace
}

/// Gives up every capability and becomes `ids`, for good. Says whether none can ever be had again, whatever is executed.
pub fn drop_all(ids: Option<Ids>) -> Result<bool, EnclosureError> {
    // Nothing above this is ever set: PR_CAPBSET_DROP says EINVAL behind the last one.
    for capability in 0..64 {
        // SAFETY: no pointers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } < 0 {
            break;
        }
    }
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    if has(Capability::SetPcap) {
        // NOROOT and its lock, NO_SETUID_FIXUP's lock, KEEP_CAPS' lock, NO_CAP_AMBIENT_RAISE and its lock: root is nobody special.
        const NO_PRIVILEGES: libc::c_int = 0x01 | 0x02 | 0x08 | 0x20 | 0x40 | 0x80;
        // SAFETY: no pointers.
        from_libc(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, NO_PRIVILEGES, 0, 0, 0) })
            .map_err(failed("securebits"))?;
    }
    if let Some(Ids { user, group, .. }) = ids {
        // SAFETY: no groups are passed; the process has one thread.
        unsafe {
            from_libc(libc::setgroups(0, std::ptr::null())).map_err(failed("setgroups"))?;
            from_libc(libc::setresgid(group, group, group)).map_err(failed("setresgid"))?;
            from_libc(libc::setresuid(user, user, user)).map_err(failed("setresuid"))?;
        }
    }
    clear_sets()?;
    Ok(bounding_set_is_empty())
}

fn clear_sets() -> Result<(), EnclosureError> {
    /// `_LINUX_CAPABILITY_VERSION_3`, this process; effective, permitted and inheritable, twice 32 bits.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: a header and the sets of the version that it names.
    from_libc(unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), none.as_ptr()) })
        .map_err(failed("capset"))?;
    Ok(())
}

pub fn bounding_set_is_empty() -> bool {
    // SAFETY: no pointers; EINVAL behind the last capability.
    (0..64).all(|capability| unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) } != 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_has_users_of_its_own_that_stay_the_same() {
        let one = Ids::of("default/one", (0, 0));
        assert_eq!(one, Ids::of("default/one", (0, 0)));
        assert_eq!((one.user, one.group), (one.first, one.first));
        let firsts: std::collections::HashSet<u32> = (0..100)
            .map(|number| first(&format!("default/f{number}")))
            .collect();
        assert!(firsts.len() > 90);
        assert!(
            firsts
                .iter()
                .all(|first| *first >= FIRST && first.checked_add(RANGE).is_some_and(|end| end <= 1 << 31))
        );
    }

    #[test]
    fn a_user_of_the_image_keeps_its_place_in_the_range() {
        let ids = Ids::of("default/one", (1000, 33));
        assert_eq!((ids.user - ids.first, ids.group - ids.first), (1000, 33));
        let large = Ids::of("default/one", (1_000_650_000, u32::MAX));
        assert_eq!(
            (large.user - large.first, large.group - large.first),
            (65534, 65534)
        );
    }
}
