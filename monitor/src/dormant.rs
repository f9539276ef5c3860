//! Threads that wait since the snapshot: records, until something wakes them.
//!
//! A thread whose next instruction is a wait without end (or with one that the monitor can keep) needs neither a vCPU nor a host thread before
//! the wait is over. What ends it is looked for here first: a wake of its futex word, an epoll set that becomes ready, a signal, the end
//! of its time. Then it is started, and never held back. Most threads of Node and Go sleep through a whole call.
//!
//! A futex wait that was woken ends with 0, as futex(2) allows at any time; every other wait is made again, and finds why it was started.
//! Threads that the rehearsal saw woken stand by with a vCPU. A *warden*, one host thread for all, watches sets, times and signals.
//!
//! Invariants: a thread of the list is dormant or has a host thread of its own, never both but while it stands by; all changes are made
//! under the lock of the list; the child of a fork has no dormant threads, because only the caller of fork(2) lives there.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use crate::contracts;
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::{MONITOR_FD_FLOOR, guest_fd};
use crate::lifecycle::end_process;
use crate::memory::access;
use crate::process::{Process, Thread};
use crate::signals::{self, SA_RESTART, host};
use crate::sys;
use crate::syscalls;
use crate::task::{Task, TaskState};
use crate::vm::vcpu::Vcpu;

const FUTEX_WAIT_BITSET: i32 = 9;
const EVERY_BIT: u64 = u32::MAX as u64;
/// How long the warden sleeps at most, milliseconds.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What a thread waits for.
enum Wait {
    /// A futex word to be woken with one of these bits.
    Word { address: u64, bits: u64 },
    /// Events of an epoll set: the set itself, whatever becomes of its number.
    Set(OwnedFd),
}

/// How a thread that is started goes on.
pub struct Outcome {
    /// What its call ends with; `None`: it makes it again.
    result: Option<SysResult>,
    /// The signal that it was started for, and what it says if it was sent to the process.
    signal: Option<(i32, Option<Box<host::Info>>)>,
}

impl Outcome {
    const AGAIN: Self = Self {
        result: None,
        signal: None,
    };
    const WOKEN: Self = Self {
        result: Some(Ok(0)),
        signal: None,
    };
}

/// What a command of futex(2) does to those who wait.
pub enum Waking {
    /// Wakes so many at a word.
    Some { word: u64, most: u64, bits: u64 },
    /// Wakes some at these words and moves others: as records all are woken, which whoever waits must bear at any time.
    All([u64; 2]),
}

/// Where a signal for a thread has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// A record has been started with it.
    Taken,
    /// To be sent to this thread of the host.
    To(i32),
}

/// A thread that waits.
pub struct Dormant {
    state: TaskState,
    wait: Wait,
    /// Its wait ends by itself.
    timed: bool,
    /// A host thread with a vCPU is there.
    stands_by: bool,
}

impl Dormant {
    /// The thread as a record, if it waits for something that is looked for here.
    ///
    /// Preconditions: memory and descriptors are restored.
    pub fn of(state: &TaskState) -> Option<Self> {
        let mut instruction = [0u8; 2];
        access::read_bytes(state.registers.rip, &mut instruction).ok()?;
        if instruction != syscalls::INSTRUCTION {
            return None;
        }
        let registers = &state.registers;
        let (wait, timeout) = match i64::try_from(registers.rax).ok()? {
            libc::SYS_futex => futex_wait(state)?,
            // The signal mask of epoll_pwait(2) would have to be watched, too.
            libc::SYS_epoll_pwait if registers.r8 != 0 => return None,
            libc::SYS_epoll_wait | libc::SYS_epoll_pwait => {
                let timeout = syscalls::memory::int(registers.r10);
                if timeout == 0 || syscalls::memory::int(registers.rdx) <= 0 {
                    return None;
                }
                (Wait::Set(own_set(registers.rdi)?), timeout > 0)
            }
            _ => return None,
        };
        if timeout && state.until.is_none() {
            return None;
        }
        Some(Self {
            state: state.clone(),
            wait,
            timed: timeout,
            stands_by: false,
        })
    }

    fn is_at(&self, word: u64, wanted: u64) -> bool {
        matches!(self.wait, Wait::Word { address, bits } if address == word && bits & wanted != 0)
    }

    /// What is left of its time.
    fn left(&self) -> Option<Duration> {
        self.state.until.filter(|_| self.timed).map(|until| until.left())
    }

    /// What its call ends with when a signal with this action comes.
    fn interrupted(&self, signal: usize, action: signals::Action) -> Option<SysResult> {
        let blocked = self.state.mask >> (signal - 1) & 1 != 0;
        let registers = &self.state.registers;
        let restarts = action.flags & SA_RESTART != 0 && syscalls::is_restartable(registers.rax, registers);
        let again = blocked || action.handler <= signals::SIG_IGN || restarts;
        (!again).then_some(Err(Errno::INTR))
    }
}

/// A wait on a word that has the expected value, and whether it is timed.
fn futex_wait(state: &TaskState) -> Option<(Wait, bool)> {
    let registers = &state.registers;
    let bits = match syscalls::memory::int(registers.rsi) & 0x7f {
        libc::FUTEX_WAIT => EVERY_BIT,
        // With a time it is an absolute one.
        FUTEX_WAIT_BITSET if registers.r10 == 0 => registers.r9 & EVERY_BIT,
        _ => return None,
    };
    let address = registers.rdi;
    access::word(address).ok()?;
    let value: u32 = access::read(address).ok()?;
    let waits = u64::from(value) == registers.rdx & EVERY_BIT && bits != 0;
    waits.then_some((Wait::Word { address, bits }, registers.r10 != 0))
}

/// A copy of an epoll set's descriptor.
fn own_set(number: u64) -> Option<OwnedFd> {
    let number = guest_fd(syscalls::memory::int(number)).ok()?;
    sys::duplicate(&number, MONITOR_FD_FLOOR).ok()
}

impl Thread {
    /// Its registers and the rest, if it rests or is a record.
    pub fn at_rest(&self) -> Option<&TaskState> {
        self.rested
            .as_ref()
            .or(self.dormant.as_ref().map(|dormant| &dormant.state))
    }
}

impl Process {
    /// Adds a thread of the snapshot as a record. With a vCPU it stands by.
    pub fn add_dormant(self: &Arc<Self>, mut dormant: Dormant, vcpu: Option<Vcpu>) -> Result<(), Errno> {
        dormant.stands_by = vcpu.is_some();
        let (tid, robust_list) = (dormant.state.tid, dormant.state.robust_list);
        let state = vcpu.is_some().then(|| dormant.state.clone());
        self.threads.dormant.fetch_add(1, Ordering::AcqRel);
        self.threads.several.store(true, Ordering::Release);
        self.thread_came(Thread {
            dormant: Some(Box::new(dormant)),
            robust_list,
            ..Thread::running(tid, 0)
        });
        let (Some(vcpu), Some(state)) = (vcpu, state) else {
            return Ok(());
        };
        let process = self.clone();
        contracts::spawn("guest", move || {
            let mut task = awake(&process, Some(vcpu), &state);
            let outcome = process.await_start(state.tid);
            go_on(&mut task, outcome);
            process.await_release();
            task.run();
            task.finish();
        })
        .map(|_| ())
        .map_err(|_| Errno::AGAIN)
    }

    /// Whether any thread is a record. False is for ever.
    pub fn has_dormant(&self) -> bool {
        self.threads.dormant.load(Ordering::Acquire) > 0
    }

    /// Makes a call of futex(2) that wakes: records first, then, by `host`, those whom the host knows. `host` is told how many records were
    /// woken. No record that was woken goes on before it has been made.
    pub fn wake(self: &Arc<Self>, waking: &Waking, host: impl FnOnce(u64) -> SysResult) -> SysResult {
        if !self.has_dormant() {
            return host(0);
        }
        let mut list = self.lock_threads();
        match *waking {
            Waking::Some { word, most, bits } => {
                let woken = self.wake_records(&mut list, word, most, bits);
                if woken == most {
                    return Ok(woken);
                }
                match host(woken) {
                    Err(_) if woken > 0 => Ok(woken),
                    result => Ok(result? + woken),
                }
            }
            Waking::All(words) => {
                let done = host(0)?;
                let woken = words.map(|word| self.wake_records(&mut list, word, u64::MAX, u64::MAX));
                Ok(done + woken[0] + woken[1])
            }
        }
    }

    fn wake_records(
        self: &Arc<Self>,
        list: &mut MutexGuard<'_, Vec<Thread>>,
        word: u64,
        most: u64,
        bits: u64,
    ) -> u64 {
        let mut woken = 0;
        for place in 0..list.len() {
            let record = list[place].dormant.as_ref();
            if woken < most && record.is_some_and(|dormant| dormant.is_at(word, bits)) {
                self.start(list, place, Outcome::WOKEN);
                woken += 1;
            }
        }
        woken
    }

    /// Signals a thread that the guest names: a record is started with the signal. `info` is what the signal says if it came from elsewhere.
    pub fn signal_thread(
        self: &Arc<Self>,
        tid: i32,
        signal: u64,
        info: Option<&host::Info>,
    ) -> Result<Sent, Errno> {
        let known = signals::number(signal).ok();
        let action = known.map(|number| (number, self.lock_actions()[number]));
        let mut list = self.lock_threads();
        let at = list
            .iter()
            .position(|thread| thread.tid == tid)
            .ok_or(Errno::SRCH)?;
        match (&list[at].dormant, action) {
            (Some(dormant), Some((number, action))) => {
                let outcome = Outcome {
                    result: dormant.interrupted(number, action),
                    signal: Some((
                        i32::try_from(number).unwrap_or(0),
                        info.map(|info| Box::new(*info)),
                    )),
                };
                self.start(&mut list, at, outcome);
                Ok(Sent::Taken)
            }
            // It is there; whatever else is wrong with the number, the host says of any thread.
            (Some(_), None) => Ok(Sent::To(sys::thread_id())),
            (None, _) => Ok(Sent::To(self.await_host(list, tid)?)),
        }
    }

    /// The host's number of a thread that the guest names. A record is started, because the host is to know it.
    pub fn host_thread(self: &Arc<Self>, tid: i32) -> Result<i32, Errno> {
        let mut list = self.lock_threads();
        let record = list
            .iter()
            .position(|thread| thread.tid == tid && thread.dormant.is_some());
        if let Some(at) = record {
            self.start(&mut list, at, Outcome::AGAIN);
        }
        self.await_host(list, tid)
    }

    /// A thread that was started may not yet be on its host thread.
    fn await_host(&self, mut list: MutexGuard<'_, Vec<Thread>>, tid: i32) -> Result<i32, Errno> {
        loop {
            match list.iter().find(|thread| thread.tid == tid) {
                None => return Err(Errno::SRCH),
                Some(thread) if thread.host_tid != 0 => return Ok(thread.host_tid),
                Some(_) => {}
            }
            list = self
                .threads
                .started
                .wait(list)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Starts a record.
    fn start(self: &Arc<Self>, list: &mut MutexGuard<'_, Vec<Thread>>, place: usize, outcome: Outcome) {
        let thread = &mut list[place];
        let Some(dormant) = thread.dormant.take() else {
            return;
        };
        self.threads.dormant.fetch_sub(1, Ordering::AcqRel);
        self.note_woken(thread.tid);
        if dormant.stands_by {
            thread.outcome = Some(outcome);
            self.threads.started.notify_all();
            return;
        }
        let process = self.clone();
        let started = contracts::spawn("guest", move || {
            let mut task = awake(&process, None, &dormant.state);
            go_on(&mut task, outcome);
            process.await_release();
            task.run();
            task.finish();
        });
        if started.is_err() {
            self.fail("a thread that was woken could not be started");
        }
    }

    fn fail(&self, what: &str) -> ! {
        self.ledger.end(crate::control::Cause::Internal, None, what);
        eprintln!("mayfly-monitor: {what}");
        end_process(70)
    }

    /// On the host thread of a record that stands by: until it is started.
    pub fn await_start(&self, tid: i32) -> Outcome {
        let mut list = self.lock_threads();
        loop {
            let own = list.iter_mut().find(|thread| thread.tid == tid);
            if let Some(outcome) = own.and_then(|thread| thread.outcome.take()) {
                return outcome;
            }
            list = self
                .threads
                .started
                .wait(list)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Starts the records whose sets are ready or whose time is over. Gives how long the others need not be looked at.
    pub fn look_after_dormant(self: &Arc<Self>) -> Duration {
        let mut patience = PATIENCE;
        if !self.has_dormant() {
            return patience;
        }
        let mut list = self.lock_threads();
        for place in 0..list.len() {
            let Some(dormant) = &list[place].dormant else {
                continue;
            };
            let left = dormant.left().unwrap_or(PATIENCE);
            let ready = match &dormant.wait {
                Wait::Word { .. } => false,
                Wait::Set(set) => sys::poll(&mut [readable(set)], 0) == Ok(1),
            };
            if ready || left.is_zero() {
                self.start(&mut list, place, Outcome::AGAIN);
            } else {
                patience = patience.min(left);
            }
        }
        patience
    }

    /// Begins to watch the records, from the release on.
    pub fn watch_dormant(self: &Arc<Self>) -> Result<(), Errno> {
        if !self.has_dormant() {
            return Ok(());
        }
        let process = self.clone();
        let spawned = contracts::spawn("warden", move || {
            process.await_release();
            while process.has_dormant() {
                watch(&process);
            }
        });
        spawned.map(|_| ()).map_err(|_| Errno::AGAIN)
    }
}

fn readable(fd: &OwnedFd) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Waits for one thing to look at. A signal that only records would take reaches this thread, and is handed on.
fn watch(process: &Arc<Process>) {
    let patience = process.look_after_dormant();
    let (mut polls, taken): (Vec<_>, u64) = {
        let list = process.lock_threads();
        let records = || list.iter().filter_map(|thread| thread.dormant.as_ref());
        let sets = records().filter_map(|dormant| match &dormant.wait {
            Wait::Set(set) => Some(readable(set)),
            Wait::Word { .. } => None,
        });
        let taken = records().fold(0, |taken, dormant| taken | !dormant.state.mask);
        (sets.collect(), taken)
    };
    let milliseconds = i32::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    host::set_mask(!taken);
    // A signal ends it, also one that came just now. A set that was closed meanwhile is seen in the next round.
    let _ = host::poll(&mut polls, milliseconds);
    host::block_all();
    if let Some((signal, info)) = host::take() {
        hand_on(process, signal, &info);
    }
}

/// Gives a signal that was sent to the process to a record that takes it, else back to the process.
fn hand_on(process: &Arc<Process>, signal: i32, info: &host::Info) {
    let number = u64::try_from(signal).unwrap_or(0);
    if !(1..=64).contains(&number) {
        return;
    }
    let takes = |thread: &&Thread| {
        let record = thread.dormant.as_ref();
        record.is_some_and(|dormant| dormant.state.mask >> (number - 1) & 1 == 0)
    };
    let taker = process.lock_threads().iter().find(takes).map(|thread| thread.tid);
    match taker.map(|tid| process.signal_thread(tid, number, Some(info))) {
        Some(Ok(Sent::Taken)) => {}
        Some(Ok(Sent::To(thread))) => host::send_again(Some(thread), signal, info),
        _ => host::send_again(None, signal, info),
    }
}

/// The calling host thread becomes the thread of the snapshot.
pub fn awake(process: &Arc<Process>, vcpu: Option<Vcpu>, state: &TaskState) -> Task {
    process.settle(state.tid);
    let vcpu = match vcpu.map_or_else(|| process.take_vcpu(), Ok) {
        Ok(vcpu) => vcpu,
        Err(_) => process.fail("no vCPU for a thread that was woken"),
    };
    let mut task = Task::settled(process.clone(), vcpu, state.mask);
    if task.restore(state).is_err() {
        process.fail("a thread that was woken could not be restored");
    }
    task
}

/// Takes the outcome of its wait to a thread that stands before it. All signals are blocked until it runs.
fn go_on(task: &mut Task, outcome: Outcome) {
    if let Some((signal, info)) = outcome.signal {
        host::send_self(signal, info.as_deref());
    }
    if let Some(result) = outcome.result {
        task.end_call(result);
    }
}
