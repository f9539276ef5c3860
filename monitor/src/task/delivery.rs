//! Signals on their way to the guest, and the ends that they bring.

use super::Task;
use crate::control::Cause;
use crate::signals::frame::{self, Trap};
use crate::signals::{self, host};
use crate::{sys, syscalls, trace};

impl Task {
    /// Delivers what waits, as far as the guest has handlers; then the mask is the guest's again.
    pub(super) fn deliver_pending(&mut self) {
        while let Some((signal, mut info)) = host::take() {
            crate::pids::name_sender(&mut info);
            self.vcpu.set_immediate_exit(false);
            if signal != host::STOP {
                let index = usize::try_from(signal).unwrap_or(0);
                let action = self.action(index);
                if action.handler != signals::SIG_IGN {
                    self.tell(signal, &info);
                }
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
    pub(super) fn default_action(&self, signal: i32) {
        if matches!(signal, libc::SIGSEGV | libc::SIGBUS | host::STOP_SIGNAL) {
            self.die(signal, "sent by the program itself");
        }
        if self.process.trace.is_some() && trace::is_fatal(usize::try_from(signal).unwrap_or(0)) {
            // The handler in the host is the monitor's, for this.
            self.die(signal, "without a handler");
        }
        sys::signal_thread(sys::thread_id(), signal);
    }

    fn tell(&self, signal: i32, info: &host::Info) {
        if let Some(tracer) = &self.process.trace {
            tracer.signal(self.tid, signal, info);
        }
    }

    pub(super) fn push_frame(
        &mut self,
        action: signals::Action,
        info: &host::Info,
        signal: usize,
        trap: Trap,
    ) {
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
        let info = frame::fault_info(signal, code, address);
        self.tell(signal, &info);
        if action.handler <= signals::SIG_IGN || blocked {
            self.die(
                signal,
                &format!("at {:#x}, address {address:#x}", self.registers.rip),
            );
        }
        self.push_frame(action, &info, index, trap);
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
        if let Some(tracer) = &self.process.trace {
            tracer.killed(self.tid, signal);
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
