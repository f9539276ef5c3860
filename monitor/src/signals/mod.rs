//! Signals of the guest, mirrored into the host.
//!
//! A signal that the guest ignores or leaves at its default has that disposition in the host too; one with a handler gets the
//! monitor's handler (`host`). The mask of a guest thread is the mask of its host thread. So kill(2), timers, alarms and
//! waiting calls are the host kernel's work, and only the delivery to a guest handler (`frame`) is done here.

pub mod frame;
pub mod host;

use crate::errno::Errno;
use crate::memory::access;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub const SIG_DFL: u64 = 0;
pub const SIG_IGN: u64 = 1;
pub const SA_ONSTACK: u64 = 0x0800_0000;
pub const SA_RESTART: u64 = 0x1000_0000;
pub const SA_NODEFER: u64 = 0x4000_0000;
pub const SA_RESETHAND: u64 = 0x8000_0000;
const SA_NOCLDSTOP: u64 = 1;
const SA_NOCLDWAIT: u64 = 2;

/// Signals that cannot be blocked: SIGKILL, SIGSTOP.
pub const UNBLOCKABLE: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

/// `struct sigaction` of the kernel.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, Serialize, Deserialize)]
#[repr(C)]
pub struct Action {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
}

/// The guest's dispositions, indexed by signal number.
pub type Actions = [Action; 65];

/// The alternate signal stack of a thread (sigaltstack(2)).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct AltStack {
    pub base: u64,
    pub size: u64,
    pub enabled: bool,
}

impl AltStack {
    pub const NONE: Self = Self {
        base: 0,
        size: 0,
        enabled: false,
    };

    pub fn contains(&self, rsp: u64) -> bool {
        self.enabled && rsp > self.base && rsp - self.base <= self.size
    }
}

/// Number of a signal the guest named; 1 to 64.
pub fn number(signal: u64) -> Result<usize, Errno> {
    match usize::try_from(signal) {
        Ok(number @ 1..=64) => Ok(number),
        _ => Err(Errno::INVAL),
    }
}

/// Gives the host the guest's disposition of a signal.
pub fn mirror_action(signal: usize, action: Action) -> Result<(), Errno> {
    let kept = action.flags & (SA_NOCLDSTOP | SA_NOCLDWAIT);
    match action.handler {
        SIG_DFL | SIG_IGN => host::set_disposition(signal, action.handler, kept),
        _ => host::install(signal, kept),
    }
}

/// Reads a signal set of `size` bytes; the kernel knows 8 only.
pub fn read_set(address: u64, size: u64) -> Result<u64, Errno> {
    if size != 8 {
        return Err(Errno::INVAL);
    }
    access::read(address)
}
