//! Who owns which descriptor number.
//!
//! A guest's descriptor numbers are the host's. The numbers below [`MONITOR_FD_FLOOR`] belong to the guest, the others to
//! the monitor: the guest can neither name, close nor replace them, and never gets one.
//!
//! The kernel gives the lowest free number, which is what the guest must see of its own calls, so a descriptor that the
//! monitor opens for itself first has a number of the guest's for a moment. Another thread of the guest could close or
//! replace it in that moment, and the monitor would go on with a file that it has never checked. [`private`] therefore holds
//! a lock until the descriptor has moved above the floor, and whatever closes or replaces numbers for the guest, and fork,
//! holds it alone ([`exclusive`]). Merely *using* the number in that moment gains nothing: what is opened there is a path of
//! the guest's own world, and what is not is refused by its path.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::errno::Errno;

/// The first descriptor number of the monitor; the guest's are below.
pub const MONITOR_FD_FLOOR: RawFd = 2048;

/// The monitor's own file in `serve` and its children: the only one that the jail lets a process execute, by this number.
pub const EXECUTABLE: RawFd = MONITOR_FD_FLOOR;

/// Puts this program's own file in its place. It stays open over exec.
///
/// Preconditions: nothing has been raised yet.
pub fn open_executable() -> Result<(), Errno> {
    let file = super::host::open(super::host::working_directory(), c"/proc/self/exe", libc::O_PATH)?;
    crate::sys::replace(&file, EXECUTABLE)?;
    crate::sys::set_close_on_exec(&EXECUTABLE, false)?;
    // Where it has its number already, it has no other.
    if file.as_raw_fd() == EXECUTABLE {
        let _ = file.into_raw_fd();
    }
    Ok(())
}

/// This program's own file.
pub fn executable() -> BorrowedFd<'static> {
    // SAFETY: put there by `open_executable`, and never closed.
    unsafe { BorrowedFd::borrow_raw(EXECUTABLE) }
}

static NUMBERS: RwLock<()> = RwLock::new(());

/// The guest's own `RLIMIT_NOFILE` (soft).
static LIMIT: AtomicI32 = AtomicI32::new(MONITOR_FD_FLOOR);

/// Held by whatever closes or replaces a number for the guest (close, dup2, dup3, close_range), and over fork.
#[must_use]
pub struct Exclusive(#[expect(dead_code, reason = "held for its drop")] RwLockWriteGuard<'static, ()>);

/// Waits until no descriptor of the monitor has a number of the guest's, and keeps it so.
pub fn exclusive() -> Exclusive {
    Exclusive(NUMBERS.write().unwrap_or_else(PoisonError::into_inner))
}

/// Opens a descriptor for the monitor itself: what `open` gives ends above the floor, closed on exec.
pub fn private(open: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    let _opening = NUMBERS.read().unwrap_or_else(PoisonError::into_inner);
    raise(open()?)
}

/// A descriptor that the program before this one, in the same process, has passed on by its number.
///
/// Preconditions: nothing else in this process owns it.
pub fn take_up(fd: RawFd) -> OwnedFd {
    // SAFETY: by the precondition; a number that is not open gives errors, never another's file.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A number of the guest's, for one system call: never closed, never kept.
pub fn passing(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: a number that is not open gives errors, never another's file.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Moves a descriptor above the floor.
///
/// Preconditions: no thread of the guest runs yet, or the caller is within [`private`].
pub fn raise(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() >= MONITOR_FD_FLOOR {
        return Ok(fd);
    }
    duplicate(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, MONITOR_FD_FLOOR)
}

/// Another descriptor of the monitor for the same open file, which must be a reference (`O_PATH`) or the monitor's own:
/// closing any other descriptor of a file ends the process's locks on it (fcntl(2)).
pub fn copy(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    duplicate(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, MONITOR_FD_FLOOR)
}

/// As long as it is held none of the guest's numbers is closed or replaced. Not to be taken twice, nor with [`private`].
#[must_use]
pub struct Steady(#[expect(dead_code, reason = "held for its drop")] RwLockReadGuard<'static, ()>);

pub fn steady() -> Steady {
    Steady(NUMBERS.read().unwrap_or_else(PoisonError::into_inner))
}

/// Looks at every number of the process, open or not.
pub fn each(_steady: &Steady, mut look: impl FnMut(BorrowedFd<'_>)) {
    for fd in 0..2 * MONITOR_FD_FLOOR {
        // SAFETY: the borrow ends with the call of `look`; of a number that is not open the kernel says EBADF.
        look(unsafe { BorrowedFd::borrow_raw(fd) });
    }
}

/// Gives the guest a copy of a descriptor of the monitor, with the lowest free number.
pub fn hand_out(fd: BorrowedFd<'_>, close_on_exec: bool) -> Result<RawFd, Errno> {
    let command = if close_on_exec {
        libc::F_DUPFD_CLOEXEC
    } else {
        libc::F_DUPFD
    };
    admit(duplicate(fd.as_raw_fd(), command, 0)?)
}

/// Checks a number that the guest named.
pub fn guest_fd(fd: RawFd) -> Result<RawFd, Errno> {
    if (0..MONITOR_FD_FLOOR).contains(&fd) {
        Ok(fd)
    } else {
        Err(Errno::BADF)
    }
}

/// Gives the guest a descriptor that was just made for it, unless its table is full.
pub fn admit(fd: OwnedFd) -> Result<RawFd, Errno> {
    if fd.as_raw_fd() < LIMIT.load(Ordering::Relaxed) {
        return Ok(fd.into_raw_fd());
    }
    // Dropping it closes a number at or above the guest's limit: the guest may have copied over it if it is below the
    // floor, so this too is a change of its table.
    let _alone = exclusive();
    drop(fd);
    Err(Errno::MFILE)
}

/// Whether the guest has this number open.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD touches no memory.
    guest_fd(fd).is_ok() && unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0
}

/// A number of the guest's that stands for an open file, not for a mere reference.
pub fn open_file(fd: RawFd) -> Result<RawFd, Errno> {
    // SAFETY: F_GETFL touches no memory.
    let flags = unsafe { libc::fcntl(guest_fd(fd)?, libc::F_GETFL) };
    if flags < 0 || flags & libc::O_PATH != 0 {
        Err(Errno::BADF)
    } else {
        Ok(fd)
    }
}

/// The guest's soft limit on descriptor numbers.
pub fn limit() -> RawFd {
    LIMIT.load(Ordering::Relaxed)
}

/// Sets the guest's soft limit on descriptor numbers; it is never above the floor.
pub fn set_limit(limit: u64) {
    let limit = RawFd::try_from(limit)
        .unwrap_or(MONITOR_FD_FLOOR)
        .min(MONITOR_FD_FLOOR);
    LIMIT.store(limit, Ordering::Relaxed);
}

fn duplicate(fd: RawFd, command: libc::c_int, floor: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD reads no memory; an invalid number is answered with EBADF.
    let copy = unsafe { libc::fcntl(fd, command, floor) };
    if copy < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel has just made this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_descriptor_is_above_the_floor_and_leaves_no_low_copy() {
        let fd = private(|| Ok(std::fs::File::open("/dev/null")?.into())).unwrap();
        assert!(fd.as_raw_fd() >= MONITOR_FD_FLOOR);
    }

    #[test]
    fn numbers_of_the_monitor_are_refused() {
        for number in [-1, i32::MIN, MONITOR_FD_FLOOR, i32::MAX] {
            assert_eq!(guest_fd(number), Err(Errno::BADF));
        }
        assert_eq!(guest_fd(0), Ok(0));
        assert_eq!(guest_fd(MONITOR_FD_FLOOR - 1), Ok(MONITOR_FD_FLOOR - 1));
    }
}
