//! One guest thread on its host thread: run the vCPU, answer its exits, deliver its signals.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::clock::waiting::Until;
use crate::control::Cause;
use crate::errno::{Errno, SysResult};
use crate::memory::faults::Fault;
use crate::process::{Process, Thread};
use crate::signals::frame::{self, FIXED_FLAGS, Trap, USER_FLAGS};
use crate::signals::{self, Actions, AltStack, SA_RESTART, host};
use crate::sys::calls::{self, Arg};
#[cfg(any(fuzzing, test))]
use crate::vm::layout::STUB;
use crate::vm::layout::{EXCEPTION_PORT, SYSCALL_PORT, WARM_LIST, WARMER, WINDOW};
use crate::vm::low::{self, Frame};
use crate::vm::vcpu::{Exit, Extended, Registers, Vcpu};
use crate::{sys, syscalls};

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

    /// Lets the guest's own CPU touch the working set of a call, laid out by `Space::lay_warmer`, so that KVM knows each page
    /// before the call comes. The thread stands where it stood, whatever happens on the way.
    pub fn warm(&mut self, pages: u64) {
        self.vcpu.set_registers(Registers {
            rip: WARMER,
            rsi: WARM_LIST,
            rcx: pages,
            rflags: FIXED_FLAGS,
            ..Registers::default()
        });
        while matches!(self.vcpu.run(), Exit::Interrupted) {
            self.vcpu.set_immediate_exit(false);
        }
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
            crate::clock::keep_fresh();
            let exit = self.vcpu.run();
            self.process.ledger.exits.fetch_add(1, Ordering::Relaxed);
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

    // ------------------------------------------------------------------ exits

    fn port(&mut self, port: u16) {
        let stub = low::in_stub(self.vcpu.registers().rip).is_some();
        if stub && port == SYSCALL_PORT {
            self.system_call();
        } else if stub && (EXCEPTION_PORT..EXCEPTION_PORT + 32).contains(&port) {
            self.exception(u64::from(port - EXCEPTION_PORT));
        } else {
            // Ring 3 of nested KVM may reach ports; of a machine it would get a general protection fault.
            self.registers = self.vcpu.registers();
            self.force(
                libc::SIGSEGV,
                SI_KERNEL,
                0,
                Trap {
                    number: 13,
                    ..Trap::default()
                },
            );
            self.vcpu.set_registers(self.registers);
        }
    }

    fn system_call(&mut self) {
        let raw = self.vcpu.registers();
        // syscall left the return address in rcx, the flags in r11.
        self.registers = Registers {
            rip: raw.rcx,
            rflags: raw.r11,
            ..raw
        };
        // As the kernel: the number is an int.
        let number = u64::from(syscalls::memory::int(raw.rax).cast_unsigned());
        self.flow = Flow::Return;
        let result = syscalls::dispatch(self, number);
        match self.flow {
            Flow::ThreadEnd => return,
            Flow::Replaced => {}
            Flow::Return | Flow::Fresh => self.set_result(number, result),
        }
        self.deliver_pending();
        self.registers.rflags = self.registers.rflags & USER_FLAGS | FIXED_FLAGS;
        if self.must_rest() {
            // `come_to_rest` takes the registers as they are here.
            return;
        }
        if self.flow == Flow::Fresh {
            self.vcpu.set_registers(self.registers);
            return;
        }
        self.resume_through(low::frame_address(self.vcpu.id), raw.rip);
    }

    /// Makes a system call as if the guest had made it at `rip`, with its stack there; gives what is in rax afterwards. For fuzzers.
    #[cfg(any(fuzzing, test))]
    pub fn hostile_call(&mut self, number: u64, args: [u64; 6], rip: u64, rsp: u64) -> u64 {
        let [rdi, rsi, rdx, r10, r8, r9] = args;
        self.vcpu.set_registers(Registers {
            rax: number,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            rcx: rip,
            r11: FIXED_FLAGS,
            rsp,
            rip: STUB + 2,
            rflags: FIXED_FLAGS,
            ..Registers::default()
        });
        self.system_call();
        self.settled = true;
        self.registers.rax
    }

    fn set_result(&mut self, number: u64, result: SysResult) {
        let restart = match result {
            Err(Errno::RESTART) => true,
            Err(Errno::INTR) => self.restarts(number),
            _ => false,
        };
        self.waited(restart);
        if restart {
            self.registers.rax = number;
            self.registers.rip -= SYSCALL_LENGTH;
            return;
        }
        self.registers.rax = match result {
            Ok(value) => value,
            Err(errno) => (-i64::from(errno.0)).cast_unsigned(),
        };
    }

    /// Whether an interrupted call is made again: at a stop of the monitor always, for a handler with SA_RESTART by signal(7).
    fn restarts(&self, number: u64) -> bool {
        match host::pending() {
            host::STOP => true,
            0 => host::was_quiet(),
            signal => {
                let restartable = syscalls::is_restartable(number, &self.registers);
                let index = usize::try_from(signal).unwrap_or(0);
                restartable && self.action(index).flags & SA_RESTART != 0
            }
        }
    }

    /// Lets ring 3 go on at `self.registers` through the `iretq` at `rip`, by the frame at `frame`.
    fn resume_through(&mut self, frame: u64, rip: u64) {
        let user = self.registers;
        if user.rip >= WINDOW {
            // Not canonical would fault in ring 0, and nothing is mapped there anyhow.
            self.force(
                libc::SIGSEGV,
                1,
                user.rip,
                Trap {
                    number: 14,
                    error: 0x14,
                    address: user.rip,
                },
            );
        }
        let user = self.registers;
        low::write_frame(
            frame,
            Frame {
                rip: user.rip,
                rflags: user.rflags,
                rsp: user.rsp,
            },
        );
        self.vcpu.set_registers(Registers {
            rip,
            rsp: frame,
            rflags: FIXED_FLAGS,
            ..user
        });
    }

    /// KVM_RUN ended by a signal: the guest is in ring 3, at the stub's `out`, or at its `iretq`.
    fn interrupted(&mut self) {
        let raw = self.vcpu.registers();
        match low::in_stub(raw.rip) {
            Some(false) => {
                // At `out`: one more entry makes the exit it asks for; the signal stays pending until then.
                self.vcpu.set_immediate_exit(false);
                self.settled = false;
                return;
            }
            Some(true) => {
                let at_frame =
                    raw.rsp == low::frame_address(self.vcpu.id) || low::in_stack(self.vcpu.id, raw.rsp, 5);
                if !at_frame {
                    self.fatal("the guest jumped into the system call stub");
                }
                let (frame, _) = low::read_frame(raw.rsp);
                self.registers = Registers {
                    rip: frame.rip,
                    rflags: frame.rflags,
                    rsp: frame.rsp,
                    ..raw
                };
            }
            None => self.registers = raw,
        }
        self.deliver_pending();
        self.vcpu.set_immediate_exit(false);
        if host::pending() != 0 {
            self.vcpu.set_immediate_exit(true);
        }
        if low::in_stub(raw.rip).is_some() {
            self.resume_through(raw.rsp, raw.rip);
        } else {
            self.vcpu.set_registers(self.registers);
        }
    }

    fn exception(&mut self, vector: u64) {
        let raw = self.vcpu.registers();
        let has_error = matches!(vector, 8 | 10..=14 | 17 | 21);
        let mut at = raw.rsp;
        let mut error = 0;
        if !low::in_stack(self.vcpu.id, at, if has_error { 6 } else { 5 }) {
            self.fatal(&format!("exception {vector} outside the exception stack"));
        }
        if has_error {
            error = low::read_error_code(at);
            at += 8;
        }
        let (frame, from_user) = low::read_frame(at);
        if !from_user {
            self.fatal(&format!("exception {vector} in ring 0 at {:#x}", frame.rip));
        }
        self.registers = Registers {
            rip: frame.rip,
            rflags: frame.rflags,
            rsp: frame.rsp,
            ..raw
        };
        self.raise(vector, error);
        self.deliver_pending();
        self.registers.rflags = self.registers.rflags & USER_FLAGS | FIXED_FLAGS;
        self.resume_through(at, raw.rip);
    }

    /// The signal that Linux sends for an exception of the CPU.
    fn raise(&mut self, vector: u64, error: u64) {
        let rip = self.registers.rip;
        let trap = Trap {
            number: vector,
            error,
            address: 0,
        };
        match vector {
            0 => self.force(libc::SIGFPE, 1, rip, trap),
            1 => self.force(libc::SIGTRAP, 2, rip, trap),
            3 => self.force(libc::SIGTRAP, SI_KERNEL, 0, trap),
            6 => self.force(libc::SIGILL, 2, rip, trap),
            14 => self.page_fault(error),
            16 | 19 => {
                let code = self.floating_point_code(vector);
                self.force(libc::SIGFPE, code, rip, trap);
            }
            17 => self.force(libc::SIGBUS, 1, rip, trap),
            _ => self.force(libc::SIGSEGV, SI_KERNEL, 0, trap),
        }
    }

    fn floating_point_code(&self, vector: u64) -> i32 {
        let Ok(area) = self.vcpu.xsave() else { return 7 };
        let status = if vector == 19 {
            let mxcsr = area.region[6];
            mxcsr & !(mxcsr >> 7) & 0x3f
        } else {
            (area.region[0] >> 16) & !area.region[0] & 0x3f
        };
        // FPE_FLTINV, FPE_FLTDIV, FPE_FLTOVF, FPE_FLTUND, FPE_FLTRES
        [(1, 7), (4, 3), (8, 4), (16, 5), (2, 5)]
            .iter()
            .find(|(bit, _)| status & bit != 0)
            .map_or(6, |(_, code)| *code)
    }

    fn page_fault(&mut self, error: u64) {
        let address = match self.vcpu.fault_address() {
            Ok(address) => address,
            Err(problem) => self.fatal(&problem.to_string()),
        };
        let answer = self
            .process
            .lock_space()
            .fault(address, error & 2 != 0, error & 16 != 0);
        let trap = Trap {
            number: 14,
            error: error | 4,
            address,
        };
        match answer {
            Fault::Retry => {}
            Fault::Exhausted => self.die(
                libc::SIGKILL,
                &format!(
                    "out of memory: all {} MiB of the function are touched",
                    self.process.memory_limit >> 20
                ),
            ),
            Fault::Unmapped => self.force(libc::SIGSEGV, 1, address, trap),
            Fault::Denied => self.force(libc::SIGSEGV, 2, address, trap),
            Fault::BeyondFile => self.force(libc::SIGBUS, 2, address, trap),
        }
    }

    /// The host refused an access (KVM_RUN: EFAULT), which has no address. Either a change by another thread was under
    /// way, then once more is right; or a mapped file is shorter than its mapping.
    fn host_fault(&mut self) {
        self.registers = self.vcpu.registers();
        let (generation, uncovered) = {
            let mut space = self.process.lock_space();
            (space.generation, space.uncover_file_ends())
        };
        let again = (generation, self.registers.rip);
        if again != self.last_fault || matches!(uncovered, Ok(true)) {
            self.last_fault = again;
            return;
        }
        self.force(
            libc::SIGBUS,
            2,
            0,
            Trap {
                number: 14,
                error: 4,
                address: 0,
            },
        );
        self.vcpu.set_registers(self.registers);
    }

    // ------------------------------------------------------------------ signals

    /// Delivers what waits, as far as the guest has handlers; then the mask is the guest's again.
    fn deliver_pending(&mut self) {
        while let Some((signal, mut info)) = host::take() {
            crate::pids::name_sender(&mut info);
            self.vcpu.set_immediate_exit(false);
            if signal != host::STOP {
                let index = usize::try_from(signal).unwrap_or(0);
                let action = self.action(index);
                if action.handler > signals::SIG_IGN {
                    self.process.lock_timers().rename(&mut info);
                    self.push_frame(action, &info, index, Trap::default());
                } else if action.handler == signals::SIG_DFL {
                    self.default_action(signal);
                }
            }
            host::set_mask(self.mask);
        }
    }

    /// A signal without a handler came to the monitor's: one of the few whose handler in the host is always the monitor's, or
    /// one whose handler was taken away meanwhile, which the host now treats rightly.
    fn default_action(&self, signal: i32) {
        if matches!(signal, libc::SIGSEGV | libc::SIGBUS | host::STOP_SIGNAL) {
            self.die(signal, "sent by the program itself");
        }
        sys::signal_thread(sys::thread_id(), signal);
    }

    fn push_frame(&mut self, action: signals::Action, info: &host::Info, signal: usize, trap: Trap) {
        let mut registers = self.registers;
        if !frame::push(self, &mut registers, action, info, signal, trap) {
            self.die(libc::SIGSEGV, "no room on the stack for a signal frame");
        }
        self.registers = registers;
    }

    /// Sends a fault's signal to this thread: it cannot be blocked or ignored.
    pub fn force(&mut self, signal: i32, code: i32, address: u64, trap: Trap) {
        let index = usize::try_from(signal).unwrap_or(0);
        let action = self.action(index);
        let blocked = self.mask >> (index - 1) & 1 != 0;
        if action.handler <= signals::SIG_IGN || blocked {
            self.die(
                signal,
                &format!("at {:#x}, address {address:#x}", self.registers.rip),
            );
        }
        self.push_frame(action, &frame::fault_info(signal, code, address), index, trap);
        host::set_mask(self.mask);
    }

    /// The guest dies by `signal`, as a process of its own would.
    pub fn die(&self, signal: i32, why: &str) -> ! {
        let last = syscalls::describe(&self.process.ledger.recent());
        let message = format!("{} {why}; last system calls: {last}", signal_name(signal));
        if self.is_first() {
            self.process.ledger.end(Cause::Signal, Some(signal), &message);
        } else {
            self.process
                .ledger
                .note(&format!("process {}: {message}", sys::process_id()));
            if !self.shared {
                crate::lifecycle::leave(&self.process);
            }
        }
        if !self.shared {
            syscalls::futexes::give_up_all(&self.process);
        }
        if self.process.trace {
            eprintln!("mayfly-monitor: the guest died: {message}");
        }
        crate::lifecycle::die_by(signal)
    }

    /// Ends the process because something is wrong that no signal describes.
    pub fn fatal(&self, why: &str) -> ! {
        let last = syscalls::describe(&self.process.ledger.recent());
        let message = format!("{why}; last system calls: {last}");
        if self.is_first() {
            self.process.ledger.end(Cause::Internal, None, &message);
        } else {
            self.process.ledger.note(&message);
        }
        eprintln!("mayfly-monitor: {why}");
        crate::lifecycle::end_process(70)
    }

    /// Whether this is the process whose end is the instance's.
    pub fn is_first(&self) -> bool {
        !self.shared && self.process.is_first()
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

/// The name of a signal, for people.
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        libc::SIGKILL => "SIGKILL",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGALRM => "SIGALRM",
        libc::SIGCHLD => "SIGCHLD",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}
