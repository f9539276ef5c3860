//! When a program is ready to be called, and the moment after.
//!
//! No SDK: a server is ready when it first waits for a connection (`http`), a filter when it first reads its standard
//! input (`stdin`), a Kontain function when it first opens `/.request` (`kontain`). The handlers of the calls that may
//! be that moment ask here first. At that moment the thread's call is undone (`Errno::RESTART`: it will be made again), all threads
//! are brought to rest, and the leader goes on in `lifecycle`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::bundle::Contract;
use crate::clock::settling::Settling;
use crate::errno::Errno;

/// What a thread is about to wait for.
pub enum Wait<'a> {
    /// accept(2) on a listening socket.
    Accept(i32),
    /// poll(2), select(2) with these descriptors wanted readable.
    Poll(&'a [i32]),
    /// epoll_wait(2) on this set.
    Epoll(i32),
    /// read(2) and its relatives.
    Read(i32),
    /// The program opens `/.request`.
    OpenRequest,
}

/// Watches for the moment. Inactive in `run`, and after the moment.
pub struct Ready {
    contract: Option<Contract>,
    active: AtomicBool,
    reached: AtomicBool,
    listeners: Mutex<HashSet<i32>>,
    /// Epoll sets with the descriptors of interest in them.
    sets: Mutex<HashSet<(i32, i32)>>,
    pub settling: Settling,
}

impl Ready {
    /// `None`: never.
    pub fn new(contract: Option<Contract>) -> Self {
        Self {
            contract,
            active: AtomicBool::new(contract.is_some()),
            reached: AtomicBool::new(false),
            listeners: Mutex::default(),
            sets: Mutex::default(),
            settling: Settling::default(),
        }
    }

    /// Whether the moment is still to come.
    pub fn is_awaited(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Whether the moment has come (and `rest` has not yet been left).
    pub fn reached(&self) -> bool {
        self.reached.load(Ordering::Acquire)
    }

    /// The instance goes on: the moment is over.
    pub fn pass(&self) {
        self.active.store(false, Ordering::Release);
        self.reached.store(false, Ordering::Release);
    }

    /// To be called before a call that would wait. `Err(RESTART)` at the moment.
    pub fn before(self: &Arc<Self>, wait: &Wait<'_>) -> Result<(), Errno> {
        if !self.active.load(Ordering::Acquire) || !self.is_moment(wait) {
            return Ok(());
        }
        if matches!(wait, Wait::OpenRequest) {
            self.settling.sit_out()?;
        }
        let ready = self.clone();
        if self.settling.puts_off(move || ready.settling.end()) {
            return Ok(());
        }
        self.reached.store(true, Ordering::Release);
        Err(Errno::RESTART)
    }

    fn is_moment(&self, wait: &Wait<'_>) -> bool {
        let listening = |fd: &i32| lock(&self.listeners).contains(fd);
        match (self.contract, wait) {
            (Some(Contract::Http), Wait::Accept(fd)) => listening(fd),
            (Some(Contract::Http), Wait::Poll(fds)) => fds.iter().any(listening),
            (Some(Contract::Http), Wait::Epoll(set)) => lock(&self.sets)
                .iter()
                .any(|(epoll, fd)| epoll == set && listening(fd)),
            (Some(Contract::Stdin), Wait::Read(0)) => true,
            (Some(Contract::Stdin), Wait::Poll(fds)) => fds.contains(&0),
            (Some(Contract::Stdin), Wait::Epoll(set)) => lock(&self.sets).contains(&(*set, 0)),
            (Some(Contract::Kontain), Wait::OpenRequest) => true,
            _ => false,
        }
    }

    /// `fd` listens on the function's port.
    pub fn listening(&self, fd: i32) {
        lock(&self.listeners).insert(fd);
    }

    /// `fd` was added to an epoll set.
    pub fn watched(&self, epoll: i32, fd: i32) {
        if self.active.load(Ordering::Acquire) {
            lock(&self.sets).insert((epoll, fd));
        }
    }

    /// `fd` was closed.
    pub fn closed(&self, fd: i32) {
        if self.active.load(Ordering::Acquire) {
            lock(&self.listeners).remove(&fd);
            lock(&self.sets).retain(|(epoll, watched)| *epoll != fd && *watched != fd);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
