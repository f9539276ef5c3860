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
use crate::memory::space::SpaceState;
use crate::network::sockets::SocketsState;
use crate::process::Process;
use crate::signals::Action;
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

#[derive(Clone, Serialize, Deserialize)]
pub struct Snapshot {
    pub space: SpaceState,
    pub threads: Vec<TaskState>,
    pub actions: Vec<Action>,
    pub sockets: SocketsState,
    pub descriptors: Vec<Descriptor>,
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
        let sockets = process.lock_sockets();
        let descriptors = descriptors::capture(process, &sockets, streams)?;
        let sockets = sockets.state();
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
        let image_bytes = image::write(&mut space, image)?;
        Ok(Self {
            space: space.state(),
            threads,
            actions: process.lock_actions().to_vec(),
            sockets,
            descriptors,
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
