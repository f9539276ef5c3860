//! One guest process: what its threads share.

use std::ffi::CString;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use crate::clock;
use crate::clock::timers::Timers;
use crate::dormant::{Dormant, Outcome};
use crate::errno::Errno;
use crate::fs::Namespace;
use crate::fs::descriptors::{Exclusive, exclusive};
use crate::kin::Kin;
use crate::ledger::Ledger;
use crate::lifecycle::{AtEnd, Exit, Plan};
use crate::memory::space::Space;
use crate::network::sockets::Sockets;
use crate::ready::Ready;
use crate::run::Launch;
use crate::signals::Actions;
use crate::storage::Storage;
use crate::task::TaskState;
use crate::trace::Tracer;
use crate::vm::kvm::Device;
use crate::vm::layout::VCPUS_MAX;
use crate::vm::vcpu::Vcpu;

/// What the guest is told about who it is.
#[derive(Clone, Debug)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Groups besides.
    pub groups: Vec<u32>,
    /// Program as a guest path, for /proc/self/exe.
    pub exe: CString,
    /// What it was executed as: the name of its main thread, until it gives itself another.
    pub named: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    /// The auxiliary vector as it lies on the stack.
    pub auxiliary: Vec<u8>,
}

/// Where a thread is, for those who must bring all to rest.
pub struct Thread {
    /// What the guest calls it. The host's, but for a thread from a snapshot, which keeps the number it had.
    pub tid: i32,
    pub host_tid: i32,
    /// Its state, once it rests.
    pub rested: Option<TaskState>,
    /// A thread of the snapshot that nothing has woken yet. Without a host thread `host_tid` is 0.
    pub dormant: Option<Box<Dormant>>,
    /// How a record that stood by goes on.
    pub outcome: Option<Outcome>,
    /// Its list of robust locks, for the end of the process.
    pub robust_list: u64,
}

impl Thread {
    /// A thread that runs on a host thread.
    pub fn running(tid: i32, host_tid: i32) -> Self {
        Self {
            tid,
            host_tid,
            rested: None,
            dormant: None,
            outcome: None,
            robust_list: 0,
        }
    }
}

/// The threads of the process. `changed` is told whenever one comes, goes, rests.
#[derive(Default)]
pub struct Threads {
    pub list: Mutex<Vec<Thread>>,
    pub changed: Condvar,
    /// Told when a record is started, and when a thread has found its host thread.
    pub started: Condvar,
    /// How many are records.
    pub dormant: AtomicUsize,
    /// Whether there has been more than one, though they may never have had a vCPU.
    pub several: AtomicBool,
    /// Records that were started, in order.
    woken: Mutex<Vec<i32>>,
}

/// What a process of an instance knows of its place among the others.
pub struct Member {
    /// Its row in the ledger's table of processes.
    row: AtomicUsize,
    /// The memory file of the ledger.
    pub ledger: RawFd,
}

impl Member {
    pub fn new(row: usize, ledger: RawFd) -> Self {
        Self {
            row: AtomicUsize::new(row),
            ledger,
        }
    }

    pub fn row(&self) -> usize {
        self.row.load(Ordering::Relaxed)
    }

    /// In the child of a fork.
    pub fn set_row(&self, row: usize) {
        self.row.store(row, Ordering::Relaxed);
    }
}

/// All locks of a process, so that a fork finds them free in the child. In the order of the fields.
pub struct Held<'a> {
    _storage: Option<crate::storage::Mappings<'a>>,
    pub space: MutexGuard<'a, Space>,
    _alone: Exclusive,
    _actions: MutexGuard<'a, Actions>,
    sockets: MutexGuard<'a, Sockets>,
    _threads: MutexGuard<'a, Vec<Thread>>,
    vcpus: MutexGuard<'a, Vec<Vcpu>>,
    _plan: MutexGuard<'a, Option<Plan>>,
    _exit: MutexGuard<'a, Option<Exit>>,
    timers: MutexGuard<'a, Timers>,
    _clock: clock::Held,
}

impl Held<'_> {
    /// Whether the process has the call's connection open.
    pub fn has_connection(&self) -> bool {
        self.sockets.has_connection()
    }

    /// In the child: a VM of its own over the copied memory, and its first vCPU.
    pub fn make_own(mut self, process: &Process, row: Option<usize>, parent: i32) -> Result<Vcpu, Errno> {
        self.vcpus.clear();
        self.sockets.forked(parent);
        self.timers.forked();
        clock::forked();
        if process.contained {
            // Everybody may choose that.
            let _ = crate::sys::processes::make_idle(0);
        }
        if let Some(row) = row {
            self.space.share_account(&process.ledger.kin, row);
        }
        let vm = process.device.create_vm().map_err(|_| Errno::AGAIN)?;
        self.space.replace_vm(vm)?;
        process.next_vcpu.store(1, Ordering::Relaxed);
        Vcpu::new(&process.device, self.space.vm(), 0).map_err(|_| Errno::AGAIN)
    }
}

pub struct Process {
    pub device: Arc<Device>,
    space: Mutex<Space>,
    actions: Mutex<Actions>,
    timers: Mutex<Timers>,
    pub files: Namespace,
    pub sockets: Mutex<Sockets>,
    pub ready: Arc<Ready>,
    pub threads: Threads,
    /// Set while threads must come to rest.
    pub resting: AtomicBool,
    pub ledger: &'static Ledger,
    identity: RwLock<Arc<Identity>>,
    /// Bytes the guest may commit; what it is shown as its memory.
    pub memory_limit: u64,
    /// Prints each call (`run --trace`).
    pub trace: Option<Tracer>,
    /// Whether this is an instance or a boot: its end is told in the ledger.
    pub contained: bool,
    /// Its place among the processes of its instance; `None` for a program run by hand.
    pub member: Option<Member>,
    /// Set while a thread executes a program: the others end.
    pub replaced: AtomicBool,
    /// Whether a thread of the monitor waits for the readiness of a child.
    guarded: AtomicBool,
    /// What an instance may store; `None` for a program run by hand.
    pub storage: Option<Storage>,
    /// Files whose calls of getpid(2) see another number than the rest (`snapshot::reseeding`).
    pub reseeding: Vec<u64>,
    /// How `run` was started: what its children need to execute programs. `None`: it may have no children.
    pub launch: Option<Launch>,
    /// What to do at the moment of readiness, and at the guest's exit.
    plan: Mutex<Option<Plan>>,
    exit: Mutex<Option<Exit>>,
    at_end: Mutex<Option<AtEnd>>,
    next_vcpu: AtomicUsize,
    free_vcpus: Mutex<Vec<Vcpu>>,
}

/// Parts that differ between a program run by hand, a boot, and an instance.
pub struct Parts {
    pub device: Arc<Device>,
    pub space: Space,
    pub actions: Actions,
    pub files: Namespace,
    pub sockets: Sockets,
    pub ready: Arc<Ready>,
    pub ledger: &'static Ledger,
    pub identity: Identity,
    pub memory_limit: u64,
    pub trace: Option<Tracer>,
    pub contained: bool,
    pub member: Option<Member>,
    pub reseeding: Vec<u64>,
    pub launch: Option<Launch>,
}

impl Process {
    /// Whether it yields whatever it asks for: a child that a guest has made, or all of an instance that has computed
    /// long.
    pub fn yields(&self) -> bool {
        self.contained && (!self.is_first() || self.ledger.is_yielding())
    }

    pub fn new(mut parts: Parts) -> Self {
        if let Some(member) = &parts.member {
            parts.space.share_account(&parts.ledger.kin, member.row());
        }
        Self {
            device: parts.device,
            space: Mutex::new(parts.space),
            actions: Mutex::new(parts.actions),
            timers: Mutex::default(),
            files: parts.files,
            sockets: Mutex::new(parts.sockets),
            ready: parts.ready,
            threads: Threads::default(),
            resting: AtomicBool::new(false),
            ledger: parts.ledger,
            identity: RwLock::new(Arc::new(parts.identity)),
            memory_limit: parts.memory_limit,
            trace: parts.trace,
            contained: parts.contained,
            member: parts.member,
            replaced: AtomicBool::new(false),
            guarded: AtomicBool::new(false),
            storage: parts.contained.then(|| Storage::new(parts.memory_limit)),
            reseeding: parts.reseeding,
            launch: parts.launch,
            plan: Mutex::default(),
            exit: Mutex::default(),
            at_end: Mutex::default(),
            next_vcpu: AtomicUsize::new(0),
            free_vcpus: Mutex::default(),
        }
    }

    pub fn lock_space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lock_actions(&self) -> MutexGuard<'_, Actions> {
        self.actions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lock_timers(&self) -> MutexGuard<'_, Timers> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lock_sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lock_threads(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.threads.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the leader does at the moment of readiness.
    pub fn set_plan(&self, plan: Plan) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
    }

    pub fn take_plan(&self) -> Option<Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What happens before the process ends by the guest's exit.
    pub fn set_exit(&self, exit: Exit) {
        *self.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
    }

    pub fn take_exit(&self) -> Option<Exit> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What happens first when the process ends by the guest's will: it exits, or closes the call's connection.
    pub fn set_at_end(&self, act: AtEnd) {
        *self.at_end.lock().unwrap_or_else(PoisonError::into_inner) = Some(act);
    }

    /// Once.
    pub fn run_at_end(&self) {
        let act = self.at_end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(act) = act {
            act(self);
        }
    }

    /// Takes every lock of the process, for a fork.
    pub fn hold_all(&self) -> Held<'_> {
        Held {
            _storage: self.storage.as_ref().map(Storage::mappings),
            space: self.lock_space(),
            _alone: exclusive(),
            _actions: self.lock_actions(),
            sockets: self.lock_sockets(),
            _threads: self.lock_threads(),
            vcpus: self.free_vcpus.lock().unwrap_or_else(PoisonError::into_inner),
            _plan: self.plan.lock().unwrap_or_else(PoisonError::into_inner),
            _exit: self.exit.lock().unwrap_or_else(PoisonError::into_inner),
            timers: self.lock_timers(),
            _clock: clock::hold(),
        }
    }

    /// The calling thread is all there is: in the child of a fork, and of a program that was executed. `tid` is its number in
    /// the guest.
    pub fn only_thread(&self, tid: i32, host_tid: i32) {
        if tid == host_tid {
            crate::pids::forget();
        } else {
            crate::pids::executed();
        }
        *self.lock_threads() = vec![Thread::running(tid, host_tid)];
        self.threads.dormant.store(0, Ordering::Release);
        self.count_threads(1);
    }

    /// Adds a thread to the list.
    pub fn thread_came(&self, thread: Thread) {
        let mut list = self.lock_threads();
        list.push(thread);
        self.count_threads(list.len());
    }

    /// Takes a thread off the list.
    pub fn thread_went(&self, tid: i32) {
        let mut list = self.lock_threads();
        list.retain(|thread| thread.tid != tid);
        self.count_threads(list.len());
        self.threads.changed.notify_all();
    }

    fn count_threads(&self, count: usize) {
        if let Some(member) = &self.member {
            self.ledger.kin.set_threads(member.row(), count);
        }
    }

    /// What the guest is told about who it is.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Another program runs now.
    pub fn set_identity(&self, identity: Identity) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
    }

    /// Other processes of the instance, the table of which there is in an instance only.
    pub fn kin(&self) -> Option<&'static Kin> {
        self.member.as_ref().map(|_| &self.ledger.kin)
    }

    /// Whether this process's end is the instance's.
    pub fn is_first(&self) -> bool {
        self.member.as_ref().is_none_or(|member| member.row() == 0)
    }

    /// Says once that a thread must wait for the moment of readiness, because it may come in a child of this process.
    pub fn needs_guard(&self) -> bool {
        self.is_first() && self.ready.is_awaited() && !self.guarded.swap(true, Ordering::AcqRel)
    }

    /// Forgets the vCPUs: a new program has a new machine.
    pub fn forget_vcpus(&self) {
        self.free_vcpus
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.next_vcpu.store(0, Ordering::Relaxed);
    }

    /// Waits while the process is at rest.
    pub fn await_release(&self) {
        let mut list = self.lock_threads();
        while self.resting.load(Ordering::Acquire) {
            list = self
                .threads
                .changed
                .wait(list)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The calling host thread is that of the guest's thread `tid`.
    pub fn settle(&self, tid: i32) {
        let mut list = self.lock_threads();
        if let Some(own) = list.iter_mut().find(|thread| thread.tid == tid) {
            own.host_tid = crate::sys::thread_id();
        }
        drop(list);
        self.threads.started.notify_all();
    }

    pub fn note_woken(&self, tid: i32) {
        self.threads
            .woken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(tid);
    }

    /// Which records were started until now.
    pub fn woken(&self) -> Vec<i32> {
        self.threads
            .woken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends the rest: all threads go on.
    pub fn release(&self) {
        let mut list = self.lock_threads();
        for thread in list.iter_mut() {
            thread.rested = None;
        }
        self.ready.pass();
        self.resting.store(false, Ordering::Release);
        self.threads.changed.notify_all();
    }

    /// A vCPU for a new thread; EAGAIN when there are too many threads (clone(2)).
    pub fn take_vcpu(&self) -> Result<Vcpu, Errno> {
        if let Some(mut vcpu) = self
            .free_vcpus
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
        {
            vcpu.restart().map_err(|_| Errno::AGAIN)?;
            return Ok(vcpu);
        }
        let id = self.next_vcpu.fetch_add(1, Ordering::Relaxed);
        if id >= VCPUS_MAX {
            return Err(Errno::AGAIN);
        }
        Vcpu::new(&self.device, self.lock_space().vm(), id).map_err(|_| Errno::AGAIN)
    }

    /// Whether there has only ever been one thread.
    pub fn is_alone(&self) -> bool {
        self.next_vcpu.load(Ordering::Acquire) <= 1 && !self.threads.several.load(Ordering::Acquire)
    }

    /// Keeps the vCPU of a thread that ended: KVM never forgets one, so it is used again.
    pub fn give_vcpu(&self, vcpu: Vcpu) {
        self.free_vcpus
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(vcpu);
    }

    /// The guest closed or lost `fd`; call before the host does. Ends the instance if it was the call's connection.
    pub fn closing(&self, fd: i32) {
        if self.replace_apart(|sockets| _ = sockets.closing(fd)) {
            return;
        }
        self.ready.closed(fd);
        if let Some(storage) = &self.storage {
            storage.closing(fd);
        }
        self.lock_timers().closing(fd);
        let ended = self.lock_sockets().closing(fd);
        if ended && self.lets_go() {
            crate::lifecycle::connection_closed(self, fd);
        }
    }

    /// In the child of a vfork, whose table of descriptors is its own: notes there what becomes of one, and nothing in what it shares
    /// with its parent. The call does not end with it, since the parent waits.
    fn replace_apart(&self, note: impl FnOnce(&mut Sockets)) -> bool {
        let mut sockets = self.lock_sockets();
        let apart = sockets.is_apart();
        if apart {
            note(&mut sockets);
        }
        apart
    }

    /// This process has no more of the call's connection. True if no other has.
    pub fn lets_go(&self) -> bool {
        self.member
            .as_ref()
            .is_none_or(|member| self.ledger.kin.hold(member.row(), false))
    }

    /// Counts bytes that crossed `fd`, if it is the call's connection.
    pub fn transferred(&self, fd: i32, bytes: u64, out: bool) {
        if self.contained && self.lock_sockets().is_connection(fd) {
            if out {
                self.ledger.count_answer(bytes);
            } else {
                self.ledger.bytes_in.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }

    /// `new` now refers to what `old` does (dup(2) and relatives); what `new` was before has been given to `closing`.
    pub fn duplicated(&self, old: i32, new: i32) {
        if self.replace_apart(|sockets| sockets.duplicated(old, new)) {
            return;
        }
        self.lock_timers().duplicated(old, new);
        self.ready.duplicated(old, new);
        self.lock_sockets().duplicated(old, new);
    }
}
