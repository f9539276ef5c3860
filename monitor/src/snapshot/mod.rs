//! A program at its moment of readiness, as data: what every clone begins from.
//!
//! Two parts: the *image*, a memory file whose offset is the guest's address; and the *state*, this structure, within a *head* that has the
//! digests of both (`format`). The boot process writes both and ends; `file` keeps them on disk. A clone maps the image privately and
//! rebuilds the rest, so nothing is shared but unwritten pages.

pub mod descriptors;
pub mod features;
pub mod file;
pub mod format;
pub mod image;
mod io;
pub mod rebuilding;
mod reseeding;

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::descriptors::{Descriptor, What};
use crate::clock;
use crate::errno::Errno;
use crate::fs::carrying::{Carried, CarryError, Taking};
use crate::memory::SpaceState;
use crate::memory::space::Space;
use crate::network::sockets::SocketsState;
use crate::process::Process;
use crate::signals::{Action, host};
use crate::task::TaskState;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The program holds something that a clone cannot be given. The function works, but boots for each call.
    #[error("{0}")]
    Refused(String),
    #[error("{what}: {source}")]
    Failed { what: &'static str, source: Errno },
}

pub(crate) fn failed(what: &'static str) -> impl Fn(Errno) -> SnapshotError {
    move |source| SnapshotError::Failed { what, source }
}

/// A signal that a thread has blocked waits in the kernel, and would not come in a clone.
fn refuse_pending_signals() -> Result<(), SnapshotError> {
    let unreadable = |error: std::io::Error| failed("/proc/self/task")(error.into());
    for thread in std::fs::read_dir("/proc/self/task").map_err(unreadable)? {
        let path = thread.map_err(unreadable)?.path().join("status");
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let pending = status
            .lines()
            .filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")))
            .filter_map(|set| u64::from_str_radix(set.trim(), 16).ok())
            .fold(0, |all, set| all | set)
            & !(1 << (host::STOP_SIGNAL - 1));
        if pending != 0 {
            return Err(SnapshotError::Refused(format!(
                "{} waits to be delivered",
                crate::task::signal_name(i32::try_from(pending.trailing_zeros()).unwrap_or(0) + 1)
            )));
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
    pub named: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub auxiliary: Vec<u8>,
    /// The clocks that stand still until the clone goes on.
    pub clocks: clock::Frozen,
    pub timers: clock::timers::TimersState,
    /// The process's number as the guest knows it.
    pub pid: i32,
    /// Files whose calls of getpid(2) must see another number (`reseeding`).
    pub reseeding: Vec<u64>,
    /// Bytes of the image that hold something.
    pub image_bytes: u64,
}

impl Snapshot {
    /// Lets the timers of a clone run.
    ///
    /// Preconditions: its clocks go on, its descriptors are there, its threads are being made.
    pub fn resume_timers(&self, process: &Arc<Process>) -> Result<(), Errno> {
        let mut timers = process.lock_timers();
        let main = self.threads.iter().find(|thread| thread.main);
        timers.resume(&self.timers, |tid| match main {
            // The main thread's number is the process's, on the host.
            Some(main) if main.tid == tid => i32::try_from(std::process::id()).map_err(|_| Errno::SRCH),
            _ => process.host_thread(tid),
        })?;
        let mut clocks = std::collections::HashMap::new();
        for descriptor in &self.descriptors {
            match &descriptor.what {
                What::Timer { timer, .. } => {
                    timer.resume(descriptor.fd)?;
                    clocks.insert(descriptor.fd, timer.clock);
                    timers.opened(descriptor.fd, timer.clock);
                }
                What::Same(other) => {
                    if let Some(clock) = clocks.get(other) {
                        timers.opened(descriptor.fd, *clock);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the process as it rests: writes the image to `image` and gives the state.
    pub fn take(
        process: &Process,
        threads: Vec<TaskState>,
        streams: &descriptors::Streams,
        image: BorrowedFd<'_>,
    ) -> Result<Self, SnapshotError> {
        let clocks = clock::freeze();
        refuse_pending_signals()?;
        descriptors::refuse_record_locks(&process.files)?;
        let timers = process.lock_timers().state(&clocks)?;
        let sockets = process.lock_sockets();
        let refused = |error: CarryError| SnapshotError::Refused(error.to_string());
        let mut taking = Taking::begin(&process.files).map_err(refused)?;
        let descriptors = descriptors::capture(process, &sockets, streams, &clocks, &mut taking)?;
        let sockets = sockets.state();
        let mut directory = vec![0u8; 4096];
        let files = crate::fs::Files::new(&process.files, process);
        directory.splice(
            ..,
            files
                .current_directory()
                .map_err(failed("the working directory"))?,
        );
        // There and back: no other thread of the process runs.
        let umask = crate::sys::processes::set_file_mask(0o22);
        crate::sys::processes::set_file_mask(umask);
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
            exe: process.identity().exe.clone(),
            named: process.identity().named.clone(),
            args: process.identity().args.clone(),
            env: process.identity().env.clone(),
            auxiliary: process.identity().auxiliary.clone(),
            clocks,
            timers,
            pid: crate::pids::pid(),
            reseeding: reseeding::find(&space),
            image_bytes,
        })
    }
}
