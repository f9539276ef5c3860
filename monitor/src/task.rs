//! One guest thread on its host thread: run the vCPU, answer its exits, deliver its signals.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::clock::waiting::Until;
use crate::clock::{self, Reading};
use crate::errno::SysResult;
use crate::process::{Process, Thread};
use crate::signals::frame::{FIXED_FLAGS, USER_FLAGS};
use crate::signals::{self, Actions, AltStack, host};
use crate::sys::calls::{self, Arg};
use crate::vm::layout::{SYSCALL_PORT, WARM_LIST, WARMER};
use crate::vm::low;
use crate::vm::vcpu::{Exit, Extended, Registers, Vcpu};
use crate::{sys, syscalls};

mod delivery;
mod exits;

pub use delivery::signal_name;

/// `syscall` is two bytes: going back by them makes the call again.
const SYSCALL_LENGTH: u64 = 2;

/// siginfo: the kernel sent it, and has no address for it.
const SI_KERNEL: i32 = 0x80;

/// What a handler wants beyond a value in rax.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Return the value.
    Return,
    /// All registers were replaced (rt_sigreturn).
    Replaced,
    /// This thread ends.
    ThreadEnd,
    /// Return the value, on a vCPU that has not run yet (the child of a fork).
    Fresh,
}

/// A thread at rest: everything needed to go on elsewhere.
#[derive(Clone, Serialize, Deserialize)]
pub struct TaskState {
    pub registers: Registers,
    pub extended: Extended,
    pub mask: u64,
    pub alt: AltStack,
    pub clear_tid: u64,
    pub robust_list: u64,
    pub tid: i32,
    /// The thread whose tid is the process's.
    pub main: bool,
    /// The end of the wait that the thread goes on with.
    pub until: Option<Until>,
}

/// See `Task::keep`.
pub struct Kept {
    registers: Registers,
    mask: u64,
    alt: AltStack,
    clear_tid: u64,
    robust_list: u64,
    tid: i32,
    main: bool,
    shared: bool,
}

pub struct Task {
    pub process: Arc<Process>,
    pub vcpu: Vcpu,
    /// Ring-3 registers while an exit is handled.
    pub registers: Registers,
    pub mask: u64,
    pub alt: AltStack,
    /// Address to clear and wake at the end (CLONE_CHILD_CLEARTID).
    pub clear_tid: u64,
    pub robust_list: u64,
    pub tid: i32,
    pub main: bool,
    pub flow: Flow,
    /// The child of a vfork runs on this task: it shares the parent's memory and ends alone.
    pub shared: bool,
    /// Its dispositions of signals, which are its own.
    pub own_actions: Option<Box<Actions>>,
    /// Its row in the instance's table of processes.
    pub vfork_row: Option<usize>,
    /// `registers` is the state of ring 3. Not so while an exit that the guest has begun is still to come.
    settled: bool,
    last_fault: (u64, u64),
    pub until: Cell<Option<Until>>,
}

impl Task {
    /// A task on the calling host thread.
    pub fn new(process: Arc<Process>, vcpu: Vcpu, mask: u64) -> Self {
        let tid = sys::thread_id();
        process.thread_came(Thread::running(tid, tid));
        Self::settled(process, vcpu, mask)
    }

    /// A task on the calling host thread, which is in the list of threads.
    pub fn settled(process: Arc<Process>, vcpu: Vcpu, mask: u64) -> Self {
        let tid = sys::thread_id();
        let main = sys::process_id() == tid;
        host::attach(vcpu.run_page());
        Self {
            process,
            vcpu,
            registers: Registers::default(),
            mask,
            alt: AltStack::NONE,
            clear_tid: 0,
            robust_list: 0,
            tid,
            main,
            flow: Flow::Return,
            shared: false,
            own_actions: None,
            vfork_row: None,
            settled: true,
            last_fault: (0, 0),
            until: Cell::new(None),
        }
    }

    /// Sets the first instruction and stack of a program.
    pub fn start_at(&mut self, entry: u64, stack_pointer: u64) {
        self.registers = Registers {
            rip: entry,
            rsp: stack_pointer,
            rflags: FIXED_FLAGS,
            ..Registers::default()
        };
        self.vcpu.set_registers(self.registers);
    }

    /// Takes over the state of a thread at rest, with the number that the guest knows it by.
    pub fn restore(&mut self, state: &TaskState) -> Result<(), crate::vm::kvm::KvmError> {
        let host_tid = self.tid;
        self.tid = state.tid;
        crate::pids::keep_thread(state.tid);
        for thread in self
            .process
            .lock_threads()
            .iter_mut()
            .filter(|thread| thread.host_tid == host_tid)
        {
            thread.tid = state.tid;
            thread.robust_list = state.robust_list;
        }
        if let (true, Some(kin)) = (state.main, self.process.kin()) {
            kin.set_alias(state.tid);
        }
        self.registers = state.registers;
        self.mask = state.mask;
        self.alt = state.alt;
        self.clear_tid = state.clear_tid;
        self.robust_list = state.robust_list;
        self.until.set(state.until);
        self.vcpu.set_extended(&state.extended)?;
        self.vcpu.set_registers(state.registers);
        Ok(())
    }

    /// Ends the call that the thread stands before, as if it had been made.
    pub fn end_call(&mut self, result: SysResult) {
        self.registers.rip += SYSCALL_LENGTH;
        self.registers.rax = match result {
            Ok(value) => value,
            Err(errno) => (-i64::from(errno.0)).cast_unsigned(),
        };
        self.until.set(None);
        self.vcpu.set_registers(self.registers);
    }

    /// Lets the guest's own CPU touch the working set of a call, laid out by `memory::prepared`, so that KVM knows each page
    /// before the call comes. The thread stands where it stood, whatever happens on the way. The clocks begin by what it reads at the end.
    pub fn warm(&mut self, pages: u64) {
        self.vcpu.set_registers(Registers {
            rip: WARMER,
            rsi: WARM_LIST,
            rcx: pages,
            rflags: FIXED_FLAGS,
            ..Registers::default()
        });
        let reading = Reading::take(|| {
            loop {
                match self.vcpu.run() {
                    Exit::Interrupted => self.vcpu.set_immediate_exit(false),
                    Exit::Port(SYSCALL_PORT) => return Some(self.vcpu.told_counter()),
                    _ => return None,
                }
            }
        });
        clock::begin_with(&self.vcpu, &reading);
        let rip = self.vcpu.registers().rip;
        if low::in_stub(rip).is_some() {
            // At its system call, or at a fault: either way before an `iretq`.
            self.resume_through(low::frame_address(self.vcpu.id), rip);
        } else {
            self.vcpu.set_registers(self.registers);
        }
        self.vcpu.set_immediate_exit(host::pending() != 0);
    }

    fn state(&self) -> Result<TaskState, crate::vm::kvm::KvmError> {
        Ok(TaskState {
            registers: self.registers,
            extended: self.vcpu.extended()?,
            mask: self.mask,
            alt: self.alt,
            clear_tid: self.clear_tid,
            robust_list: self.robust_list,
            tid: self.tid,
            main: self.main,
            until: self.until.get(),
        })
    }

    /// A host call that this thread's signals interrupt.
    pub fn call<const N: usize>(&self, number: libc::c_long, mut args: [Arg<'_>; N]) -> SysResult {
        calls::interruptible(number, &mut args)
    }

    /// The same of one that takes numbers only.
    pub fn plain(&self, number: libc::c_long, args: [u64; 6]) -> SysResult {
        self.call(number, args.map(Arg::Value))
    }

    /// As `run`, for a thread that a snapshot has restored: most stand before a call, of which the answer is known at once.
    pub fn go_on(&mut self) {
        host::set_mask(self.mask);
        self.make_pending_call();
        if self.flow != Flow::ThreadEnd {
            self.run();
        }
    }

    /// Runs the guest on this thread until the thread ends. The process may end inside.
    pub fn run(&mut self) {
        host::set_mask(self.mask);
        loop {
            if self.settled && self.must_rest() {
                if self.process.replaced.load(Ordering::Acquire) {
                    self.vanish();
                    return;
                }
                self.come_to_rest();
            }
            self.settled = true;
            clock::keep_fresh();
            let entered = Instant::now();
            let exit = self.vcpu.run();
            self.process.ledger.count_exit(entered.elapsed());
            match exit {
                Exit::Port(port) => self.port(port),
                Exit::Interrupted => self.interrupted(),
                Exit::Fault => self.host_fault(),
                Exit::Other(what) => {
                    let rip = self.vcpu.registers().rip;
                    self.fatal(&format!("the virtual machine stopped: {what}, at {rip:#x}"));
                }
            }
            if self.flow == Flow::ThreadEnd {
                return;
            }
        }
    }

    // ------------------------------------------------------------------ vfork

    /// What the guest wants at a signal.
    pub fn action(&self, signal: usize) -> signals::Action {
        match &self.own_actions {
            Some(own) => own[signal],
            None => self.process.lock_actions()[signal],
        }
    }

    pub fn set_action(&mut self, signal: usize, action: signals::Action) {
        match &mut self.own_actions {
            Some(own) => own[signal] = action,
            None => self.process.lock_actions()[signal] = action,
        }
    }

    /// What a vfork child may change and its parent needs back.
    pub fn keep(&self) -> Kept {
        Kept {
            registers: self.registers,
            mask: self.mask,
            alt: self.alt,
            clear_tid: self.clear_tid,
            robust_list: self.robust_list,
            tid: self.tid,
            main: self.main,
            shared: self.shared,
        }
    }

    pub fn go_back(&mut self, kept: Kept) {
        self.registers = kept.registers;
        self.mask = kept.mask;
        self.alt = kept.alt;
        self.clear_tid = kept.clear_tid;
        self.robust_list = kept.robust_list;
        self.tid = kept.tid;
        self.main = kept.main;
        self.shared = kept.shared;
        self.flow = Flow::Return;
        self.settled = true;
    }

    /// In the child of a vfork: goes on behind the call, until the process ends or executes.
    pub fn run_shared(&mut self, stack: u64) {
        self.tid = sys::thread_id();
        self.main = true;
        self.shared = true;
        self.alt = AltStack::NONE;
        self.clear_tid = 0;
        self.registers.rax = 0;
        if stack != 0 {
            self.registers.rsp = stack;
        }
        self.registers.rflags = self.registers.rflags & USER_FLAGS | FIXED_FLAGS;
        let rip = self.vcpu.registers().rip;
        self.resume_through(low::frame_address(self.vcpu.id), rip);
        self.run();
    }

    // ------------------------------------------------------------------ rest

    fn must_rest(&self) -> bool {
        self.process.resting.load(Ordering::Acquire)
            || self.process.ready.reached()
            || self.process.replaced.load(Ordering::Acquire)
    }

    /// Another thread executes a program: this one is no more. The main host thread stays, asleep.
    fn vanish(&mut self) {
        syscalls::futexes::give_up(self);
        self.clear_tid = 0;
        if sys::thread_id() == sys::process_id() {
            self.leave_main();
        }
        self.flow = Flow::ThreadEnd;
    }

    /// Keeps this thread's state for the others, and waits until the process goes on. The first to come is the leader.
    fn come_to_rest(&mut self) {
        let raw = self.vcpu.registers();
        let state = match self.state() {
            Ok(state) => state,
            Err(problem) => self.fatal(&problem.to_string()),
        };
        // What the leader sent twice would be taken for the guest's afterwards.
        host::block_all();
        crate::lifecycle::rest(self, state);
        host::forget_stops();
        if low::in_stub(raw.rip).is_some() {
            // Perhaps in ring 0: only the stub's `iretq` leads back.
            self.resume_through(low::frame_address(self.vcpu.id), raw.rip);
        } else {
            self.vcpu.set_registers(self.registers);
        }
        host::set_mask(self.mask);
    }
}
