//! A program at its moment of readiness, as data: what every clone begins from.
//!
//! Two parts: the *image*, a memory file whose offset is the guest's address; and the *state*, this structure. The boot process writes
//! both and ends. A clone maps the image privately and rebuilds the rest, so nothing is shared but unwritten pages.
#![allow(unsafe_code)]

pub mod descriptors;
pub mod image;

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use serde::{Deserialize, Serialize};

use self::descriptors::Descriptor;
use crate::errno::{Errno, from_libc};
use crate::memory::space::SpaceState;
use crate::process::Process;
use crate::signals::Action;
use crate::syscalls::sockets::SocketsState;
use crate::task::TaskState;

/// Largest state that is read back, bytes: hundreds of threads, thousands of mappings and descriptors.
const STATE_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The program holds something that a clone cannot be given. The function works, but boots for each call.
    #[error("{0}")]
    Refused(String),
    #[error("{what}: {source}")]
    Failed { what: &'static str, source: Errno },
    #[error("the state of the snapshot is unreadable: {0}")]
    Unreadable(postcard::Error),
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
        refuse_timers()?;
        let sockets = process.lock_sockets();
        let descriptors = descriptors::capture(process, &sockets, streams)?;
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
            image_bytes,
        })
    }

    /// Writes the state to a memory file.
    pub fn save(&self, to: BorrowedFd<'_>) -> Result<(), SnapshotError> {
        let bytes = postcard::to_stdvec(self).map_err(SnapshotError::Unreadable)?;
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let at = i64::try_from(done).map_err(|_| failed("state")(Errno::INVAL))?;
            // SAFETY: a local buffer with its length.
            let step = unsafe { libc::pwrite(to.as_raw_fd(), rest.as_ptr().cast(), rest.len(), at) };
            let step = from_libc(step as i64).map_err(failed("state"))?;
            done += usize::try_from(step).map_err(|_| failed("state")(Errno::IO))?;
        }
        Ok(())
    }

    /// Reads a state back; it comes from a process that ran a guest, so it is bounded and checked where it is used.
    pub fn load(from: BorrowedFd<'_>) -> Result<Self, SnapshotError> {
        // SAFETY: all-zero is a valid stat.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: a local of the documented type.
        from_libc(unsafe { libc::fstat(from.as_raw_fd(), &raw mut stat) }).map_err(failed("state"))?;
        let length = u64::try_from(stat.st_size)
            .ok()
            .filter(|length| *length <= STATE_MAX);
        let length = length.ok_or_else(|| failed("state")(Errno(libc::EFBIG)))?;
        let mut bytes = vec![0u8; usize::try_from(length).map_err(|_| failed("state")(Errno::NOMEM))?];
        let mut done = 0;
        while done < bytes.len() {
            let rest = &mut bytes[done..];
            let at = i64::try_from(done).map_err(|_| failed("state")(Errno::INVAL))?;
            // SAFETY: a local buffer with its length.
            let step = unsafe { libc::pread(from.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), at) };
            match from_libc(step as i64).map_err(failed("state"))? {
                0 => return Err(failed("state")(Errno::IO)),
                step => done += usize::try_from(step).map_err(|_| failed("state")(Errno::IO))?,
            }
        }
        postcard::from_bytes(&bytes).map_err(SnapshotError::Unreadable)
    }
}
