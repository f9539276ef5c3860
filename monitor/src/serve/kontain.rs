//! `/.request` and `/.reply` of a Kontain function, before and during its call.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::contracts::Kontain;
use crate::errno::Errno;
use crate::fs::descriptors::private;
use crate::fs::{Purpose, SpecialFile};
use crate::ready::{Ready, Wait};
use crate::sys;

/// The files of the call, once there is one.
pub struct Files {
    ready: Arc<Ready>,
    call: Mutex<Option<Kontain>>,
    /// The process that the call comes to.
    owner: AtomicI32,
}

impl Files {
    pub fn new(ready: Arc<Ready>) -> Self {
        Self {
            ready,
            call: Mutex::default(),
            owner: AtomicI32::new(0),
        }
    }

    /// The calling process is the one that the call comes to.
    pub fn own(&self) {
        self.owner.store(sys::process_id(), Ordering::Relaxed);
    }

    pub fn begin(&self, call: Kontain) {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
    }

    /// Takes the call out, to answer it.
    pub fn end(&self) -> Option<Kontain> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn descriptor(&self, reply: bool) -> Vec<RawFd> {
        let call = self.call.lock().unwrap_or_else(PoisonError::into_inner);
        let file = call
            .as_ref()
            .map(|call| if reply { call.reply() } else { call.request() });
        file.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// A child that was made before the call has no way to it.
    fn is_early(&self) -> bool {
        let owner = self.owner.load(Ordering::Relaxed);
        let call = self.call.lock().unwrap_or_else(PoisonError::into_inner);
        owner != 0 && owner != sys::process_id() && call.is_none()
    }

    fn file(&self, purpose: Purpose, reply: bool) -> Result<OwnedFd, Errno> {
        if purpose == Purpose::Open && self.is_early() {
            eprintln!(
                "mayfly-monitor: /.request and /.reply must first be opened by the function's first process: EBUSY"
            );
            return Err(Errno(libc::EBUSY));
        }
        if !reply && purpose == Purpose::Open {
            self.ready.before(&Wait::OpenRequest)?;
        }
        let call = self.call.lock().unwrap_or_else(PoisonError::into_inner);
        match call.as_ref() {
            Some(call) => {
                let file = if reply { call.reply() } else { call.request() };
                private(|| Ok(file.as_fd().try_clone_to_owned()?))
            }
            // A program that looks or writes before its first call finds an empty file.
            None => private(|| sys::memory_file(c"empty")),
        }
    }
}

pub struct Request(pub Arc<Files>);

impl SpecialFile for Request {
    fn file(&self, purpose: Purpose) -> Result<OwnedFd, Errno> {
        self.0.file(purpose, false)
    }

    fn descriptors(&self) -> Vec<RawFd> {
        self.0.descriptor(false)
    }
}

pub struct Reply(pub Arc<Files>);

impl SpecialFile for Reply {
    fn file(&self, purpose: Purpose) -> Result<OwnedFd, Errno> {
        self.0.file(purpose, true)
    }

    fn descriptors(&self) -> Vec<RawFd> {
        self.0.descriptor(true)
    }
}
