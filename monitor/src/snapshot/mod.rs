//! A program at its moment of readiness, as data: what every clone begins from.
//!
//! Two parts: the *image*, a memory file whose offset is the guest's address; and the *state*, this structure, within a *head* that has the
//! digests of both (`format`). The boot process writes both and ends; `file` keeps them on disk. A clone maps the image privately and
//! rebuilds the rest, so nothing is shared but unwritten pages.
#![allow(unsafe_code)]

pub mod descriptors;
pub mod features;
pub mod file;
pub mod format;
pub mod image;
mod io;

use std::ffi::CString;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use self::descriptors::Descriptor;
use crate::clock;
use crate::errno::{Errno, from_libc};
use crate::fs::carrying::{Carried, CarryError, Taking};
use crate::memory::space::{Space, SpaceState};
use crate::process::Process;
use crate::signals::Action;
use crate::signals::host::STOP_SIGNAL;
use crate::syscalls::sockets::SocketsState;
use crate::task::TaskState;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The program holds something that a clone cannot be given. The function works, but boots for each call.
    #[error("{0}")]
    Refused(String),
    #[error("{what}: {source}")]
    Failed { what: &'static str, source: Errno },
}

fn failed(what: &'static str) -> impl Fn(Errno) -> SnapshotError {
    move |source| SnapshotError::Failed { what, source }
}

/// An armed interval timer is the process's own and would be silent in a clone.
fn refuse_timers() -> Result<(), SnapshotError> {
    for (name, which) in [
        ("real", libc::ITIMER_REAL),
        ("virtual", libc::ITIMER_VIRTUAL),
        ("profiling", libc::ITIMER_PROF),
    ] {
        // SAFETY: all-zero is a valid itimerval.
        let mut value: libc::itimerval = unsafe { std::mem::zeroed() };
        // SAFETY: a local of the documented type.
        from_libc(unsafe { libc::getitimer(which, &raw mut value) }).map_err(failed("getitimer"))?;
        if value.it_value.tv_sec != 0 || value.it_value.tv_usec != 0 {
            return Err(SnapshotError::Refused(format!(
                "an armed {name} interval timer (setitimer, alarm)"
            )));
        }
    }
    Ok(())
}

/// A signal that waits to be delivered is the kernel's, and would be lost.
fn refuse_signals() -> Result<(), SnapshotError> {
    let threads =
        std::fs::read_dir("/proc/self/task").map_err(|error| failed("/proc/self/task")(error.into()))?;
    for thread in threads.flatten() {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let sets = status
            .lines()
            .filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
        let pending = sets.fold(0, |all, set| {
            all | u64::from_str_radix(set.trim(), 16).unwrap_or(0)
        });
        // The monitor's own way to stop a thread may come too late to be needed.
        let pending = pending & !(1 << (STOP_SIGNAL - 1));
        if pending != 0 {
            let name = crate::task::signal_name(pending.trailing_zeros().cast_signed() + 1);
            return Err(SnapshotError::Refused(format!("a signal that waits, {name}")));
        }
    }
    Ok(())
}

/// A shared mapping of a file that each clone has of its own: to be mapped from there, so that both show the same.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Shared {
    pub start: u64,
    pub content: u32,
}

fn shared(space: &Space, taking: &Taking<'_>) -> Result<Vec<Shared>, SnapshotError> {
    let mut found = Vec::new();
    for (start, mapping) in space.mappings() {
        let Some(file) = space.file(mapping).filter(|_| mapping.shared) else {
            continue;
        };
        match taking.known(file.device, file.inode) {
            Some(content) => found.push(Shared { start, content }),
            // Nothing but the mapping leads to it any more, and there may be a second one.
            None if file.name.ends_with(b" (deleted)") && mapping.protection.any() => {
                return Err(SnapshotError::Refused(format!(
                    "a shared mapping of {}, which is open nowhere",
                    String::from_utf8_lossy(&file.name)
                )));
            }
            // A file of the image does not change.
            None => {}
        }
    }
    Ok(found)
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Snapshot {
    pub space: SpaceState,
    pub threads: Vec<TaskState>,
    pub actions: Vec<Action>,
    pub sockets: SocketsState,
    pub descriptors: Vec<Descriptor>,
    pub carried: Carried,
    pub shared: Vec<Shared>,
    /// The guest's working directory.
    pub directory: Vec<u8>,
    pub umask: u32,
    pub exe: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub auxiliary: Vec<u8>,
    /// The clocks that stand still until the clone goes on.
    pub clocks: clock::Frozen,
    /// Bytes of the image that hold something.
    pub image_bytes: u64,
}

impl Snapshot {
    /// Takes the process as it rests: writes the image to `image` and gives the state.
    pub fn take(
        process: &Process,
        threads: Vec<TaskState>,
        streams: &descriptors::Streams,
        image: BorrowedFd<'_>,
    ) -> Result<Self, SnapshotError> {
        let clocks = clock::freeze();
        refuse_timers()?;
        refuse_signals()?;
        descriptors::refuse_record_locks(&process.files)?;
        let sockets = process.lock_sockets();
        let refused = |error: CarryError| SnapshotError::Refused(error.to_string());
        let mut taking = Taking::begin(&process.files).map_err(refused)?;
        let descriptors = descriptors::capture(process, &sockets, streams, &mut taking)?;
        let sockets = sockets.state().map_err(failed("sockets"))?;
        let mut directory = vec![0u8; 4096];
        let files = crate::fs::Files::new(&process.files, process);
        directory.splice(
            ..,
            files
                .current_directory()
                .map_err(failed("the working directory"))?,
        );
        // SAFETY: sets the mask and back; no other thread of the process runs.
        let umask = unsafe {
            let umask = libc::umask(0o22);
            libc::umask(umask);
            umask
        };
        let mut space = process.lock_space();
        let shared = shared(&space, &taking)?;
        let image_bytes = image::write(&mut space, image)?;
        Ok(Self {
            space: space.state(),
            threads,
            actions: process.lock_actions().to_vec(),
            sockets,
            descriptors,
            carried: taking.finish(),
            shared,
            directory,
            umask,
            exe: process.identity.exe.clone(),
            args: process.identity.args.clone(),
            env: process.identity.env.clone(),
            auxiliary: process.identity.auxiliary.clone(),
            clocks,
            image_bytes,
        })
    }
}
