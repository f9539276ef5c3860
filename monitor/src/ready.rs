//! When a program is ready to be called, and the moment after.
//!
//! No SDK: a server is ready when it first waits for a connection (`http`), a filter when it first reads its standard
//! input (`stdin`), a Kontain function when it first opens `/.request` (`kontain`). The handlers of the calls that may
//! be that moment ask here first. A server whose threads share an epoll set may add the listener while another thread waits in the
//! set already; then it is ready when the thread that added it waits, too, for whatever. At that moment the thread's call is undone
//! (`Errno::RESTART`: it will be made again), all threads are brought to rest, and the leader goes on in `lifecycle`.

use std::collections::{HashMap, HashSet};
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
    /// futex(2), by a thread.
    Futex(i32),
    /// The program opens `/.request`.
    OpenRequest,
}

/// Watches for the moment. Inactive in `run`, and after the moment.
pub struct Ready {
    contract: Option<Contract>,
    active: AtomicBool,
    reached: AtomicBool,
    listeners: Mutex<HashSet<i32>>,
    sets: Mutex<Sets>,
    pub settling: Settling,
}

/// Epoll sets: each has a number, which the descriptors that lead to it share.
#[derive(Default)]
struct Sets {
    numbers: HashMap<i32, usize>,
    next: usize,
    /// What is in them.
    members: HashSet<(usize, i32)>,
    /// The sets that threads wait in, once for each.
    waited: Vec<usize>,
    /// Threads that put a descriptor into a set that others waited in.
    added: HashSet<(i32, usize, i32)>,
}

impl Sets {
    fn number(&mut self, epoll: i32) -> usize {
        let next = self.next;
        let number = *self.numbers.entry(epoll).or_insert(next);
        if number == next {
            self.next += 1;
        }
        number
    }
}

/// A thread waits in an epoll set as long as this lives.
pub struct Waiting<'a> {
    ready: &'a Ready,
    set: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut sets = lock(&self.ready.sets);
        if let Some(at) = sets.waited.iter().position(|set| *set == self.set) {
            sets.waited.swap_remove(at);
        }
    }
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
            (Some(Contract::Http), Wait::Epoll(epoll)) => {
                let mut sets = lock(&self.sets);
                let number = sets.number(*epoll);
                sets.members
                    .iter()
                    .any(|(set, fd)| *set == number && listening(fd))
            }
            (Some(Contract::Http), Wait::Futex(thread)) => {
                let sets = lock(&self.sets);
                sets.added
                    .iter()
                    .any(|(by, set, fd)| by == thread && listening(fd) && sets.waited.contains(set))
            }
            (Some(Contract::Stdin), Wait::Read(0)) => true,
            (Some(Contract::Stdin), Wait::Poll(fds)) => fds.contains(&0),
            (Some(Contract::Stdin), Wait::Epoll(epoll)) => {
                let mut sets = lock(&self.sets);
                let number = sets.number(*epoll);
                sets.members.contains(&(number, 0))
            }
            (Some(Contract::Kontain), Wait::OpenRequest) => true,
            _ => false,
        }
    }

    /// `fd` listens on the function's port.
    pub fn listening(&self, fd: i32) {
        lock(&self.listeners).insert(fd);
    }

    /// `fd` was added to an epoll set by `thread`.
    pub fn watched(&self, epoll: i32, fd: i32, thread: i32) {
        if self.active.load(Ordering::Acquire) {
            let mut sets = lock(&self.sets);
            let number = sets.number(epoll);
            sets.members.insert((number, fd));
            sets.added.insert((thread, number, fd));
        }
    }

    /// The calling thread begins to wait in an epoll set.
    pub fn waiting(&self, epoll: i32) -> Option<Waiting<'_>> {
        self.active.load(Ordering::Acquire).then(|| {
            let mut sets = lock(&self.sets);
            let set = sets.number(epoll);
            sets.waited.push(set);
            Waiting { ready: self, set }
        })
    }

    /// `new` leads to what `old` does.
    pub fn duplicated(&self, old: i32, new: i32) {
        if self.active.load(Ordering::Acquire) {
            let mut sets = lock(&self.sets);
            if let Some(number) = sets.numbers.get(&old).copied() {
                sets.numbers.insert(new, number);
            }
            let mut listeners = lock(&self.listeners);
            if listeners.contains(&old) {
                listeners.insert(new);
            }
        }
    }

    /// `fd` is a new epoll set.
    pub fn made_set(&self, fd: i32) {
        if self.active.load(Ordering::Acquire) {
            lock(&self.sets).number(fd);
        }
    }

    /// `fd` was closed.
    pub fn closed(&self, fd: i32) {
        if self.active.load(Ordering::Acquire) {
            lock(&self.listeners).remove(&fd);
            let mut sets = lock(&self.sets);
            sets.numbers.remove(&fd);
            sets.members.retain(|(_, watched)| *watched != fd);
            sets.added.retain(|(_, _, watched)| *watched != fd);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
