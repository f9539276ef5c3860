//! The snapshot on disk: read instead of a boot, written after one.
//!
//! It is written by a child that never had a guest, from the memory files that the boot has left, while calls are already taken.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use super::parent::{Parent, Stop, stop};
use super::{Launch, Options, ServeError, host_error};
use crate::control::{ControlStream, Event, FailedReason, Source, Text};
use crate::errno::Errno;
use crate::lifecycle::end_process;
use crate::snapshot::file::{self, FileError, SnapshotFile};
use crate::snapshot::format::{Head, Stamp, sum};
use crate::snapshot::{Snapshot, features};
use crate::vm::kvm::Device;

/// The child that writes the file, and when it began.
pub(super) struct Keeper {
    pub(super) pid: i32,
    began: Instant,
}

/// What a snapshot of this bundle, this machine and this monitor bears.
pub(super) fn stamp(options: &Options, device: &Device) -> Result<Stamp, ServeError> {
    let digest = |path: &std::path::Path| {
        let content = std::fs::read(path);
        let content = content.map_err(|error| host_error(path.display().to_string())(error.into()))?;
        Ok::<_, ServeError>(sum(&content))
    };
    let config = digest(&options.bundle.join("config.json"))?;
    let function = digest(&options.bundle.join("function.json"))?;
    // One that is not kept is never another build's.
    let build = match options.snapshot {
        Some(_) => digest("/proc/self/exe".as_ref())?,
        None => Default::default(),
    };
    Ok(Stamp {
        build,
        function: sum(&[config, function].concat()),
        features: features::of(device),
    })
}

impl Parent {
    fn file(&self) -> Option<SnapshotFile> {
        let options = &self.world.as_ref()?.options;
        Some(SnapshotFile {
            path: options.snapshot.clone()?,
            age: options.snapshot_age,
        })
    }

    /// Takes calls from the snapshot of an earlier `serve`; whether there is one that can be used.
    pub(super) fn restore(&mut self, control: &mut ControlStream<'_>) -> Result<bool, Stop> {
        let Some(kept) = self.file() else {
            return Ok(false);
        };
        let began = Instant::now();
        let loaded = match kept.open() {
            Ok(None) => return Ok(false),
            Ok(Some(opened)) => self.read(&kept, &opened),
            Err(error) => Err(error),
        };
        let (head, snapshot) = match loaded {
            Ok(loaded) => loaded,
            Err(why) => {
                let message = format!(
                    "the snapshot {} is not used, the program is booted instead: {why}",
                    kept.path.display()
                );
                eprintln!("mayfly-monitor: {message}");
                control.send(&Event::Warning {
                    message: Text::message(message),
                })?;
                return Ok(false);
            }
        };
        let launch = self.launch_from(&head, snapshot, Source::File);
        let boot_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.ready(launch, boot_ms, None, control)?;
        Ok(true)
    }

    fn read(&self, kept: &SnapshotFile, opened: &File) -> Result<(Head, Snapshot), FileError> {
        let world = self.world.as_ref().ok_or(Errno::INVAL)?;
        kept.load(opened, &world.stamp, world.image.as_fd())
    }

    /// What the boot has written.
    pub(super) fn taken(&mut self) -> Result<Launch, FileError> {
        let world = self.world.as_ref().ok_or(Errno::INVAL)?;
        let head = file::read_head(world.head.as_fd())?;
        let snapshot = file::state(&head)?;
        Ok(self.launch_from(&head, snapshot, Source::Boot))
    }

    fn launch_from(&mut self, head: &Head, snapshot: Snapshot, source: Source) -> Launch {
        self.snapshot = Some(crate::control::Snapshot {
            digest: head.name(),
            bytes: head.header.image_length.get(),
            threads: u32::try_from(snapshot.threads.len()).unwrap_or(u32::MAX),
            source,
            warm_pages: 0,
        });
        Launch::Clone(Arc::new(snapshot), Arc::default())
    }

    /// Begins to write the file, if one is wanted.
    pub(super) fn keep(&mut self, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let (Some(kept), Some(world), Some(_)) = (self.file(), self.world.as_ref(), self.snapshot.as_ref())
        else {
            return Ok(());
        };
        let parent = self.jail.parent();
        // SAFETY: this process has one thread, so the child may go on as it was.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: plain calls.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::getppid() != parent {
                    end_process(1);
                }
            }
            match kept.save(world.head.as_fd(), world.image.as_fd()) {
                Ok(_) => end_process(0),
                Err(error) => {
                    eprintln!("mayfly-monitor: {}: {error}", kept.path.display());
                    end_process(1)
                }
            }
        }
        if pid < 0 {
            return self.not_kept(&Errno::last().to_string(), control);
        }
        self.keeper = Some(Keeper {
            pid,
            began: Instant::now(),
        });
        Ok(())
    }

    /// The child that wrote the file has ended.
    pub(super) fn kept(&mut self, status: i32, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let (Some(keeper), Some(kept)) = (self.keeper.take(), self.file()) else {
            return Ok(());
        };
        if status != 0 {
            return self.not_kept("see the monitor's log", control);
        }
        let bytes = std::fs::metadata(&kept.path).map_or(0, |about| about.len());
        let milliseconds = u64::try_from(keeper.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(control.send(&Event::Kept { bytes, milliseconds })?)
    }

    fn not_kept(&self, why: &str, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let path = self.file().map(|kept| kept.path).unwrap_or_default();
        let message = Text::message(format!(
            "the snapshot could not be written to {}, the next start will boot: {why}",
            path.display()
        ));
        Ok(control.send(&Event::Warning { message })?)
    }

    /// No instance can be made from a snapshot that seemed sound: it goes, and with it this process, whose successor boots.
    pub(super) fn forsake(&mut self, why: &str, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let Some(kept) = self.file() else {
            return Ok(());
        };
        std::fs::remove_file(&kept.path).map_err(|error| stop("the snapshot")(error.into()))?;
        let message = format!(
            "no instance can be made from the snapshot {}, which is removed: {why}",
            kept.path.display()
        );
        self.outcome = Some(super::parent::fail(
            control,
            FailedReason::Internal,
            message,
            Text::default(),
        ));
        Ok(())
    }
}
