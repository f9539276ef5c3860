//! What the guest's exits ask for: system calls, exceptions, faults of pages.

use super::{Flow, SI_KERNEL, SYSCALL_LENGTH, Task};
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::memory::faults::Fault;
use crate::signals::frame::{FIXED_FLAGS, Trap, USER_FLAGS};
use crate::signals::{SA_RESTART, host};
use crate::syscalls;
#[cfg(any(fuzzing, test))]
use crate::vm::layout::STUB;
use crate::vm::layout::{EXCEPTION_PORT, SYSCALL_PORT, WINDOW};
use crate::vm::low::{self, Frame};
use crate::vm::vcpu::Registers;

impl Task {
    pub(super) fn port(&mut self, port: u16) {
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

    pub(super) fn system_call(&mut self) {
        let raw = self.vcpu.registers();
        // syscall left the return address in rcx, the flags in r11.
        self.registers = Registers {
            rip: raw.rcx,
            rflags: raw.r11,
            ..raw
        };
        self.answer(&raw);
    }

    /// Makes the system call that the thread stands before, if it does: without entering the guest for it.
    pub(super) fn make_pending_call(&mut self) {
        let next = self.registers.rip;
        let mut instruction = [0u8; 2];
        if access::read_bytes(next, &mut instruction).is_err() || instruction != syscalls::INSTRUCTION {
            return;
        }
        let behind = next + SYSCALL_LENGTH;
        self.registers = Registers {
            rip: behind,
            rcx: behind,
            r11: self.registers.rflags,
            ..self.registers
        };
        let raw = self.vcpu.registers();
        self.answer(&raw);
    }

    /// Answers the call in `registers`, which are those of ring 3; `raw` are the vCPU's.
    fn answer(&mut self, raw: &Registers) {
        // As the kernel: the number is an int.
        let number = u64::from(syscalls::memory::int(self.registers.rax).cast_unsigned());
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
        if self.flow == Flow::Fresh || low::in_stub(raw.rip).is_none() {
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

    pub(super) fn set_result(&mut self, number: u64, result: SysResult) {
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
    pub(super) fn restarts(&self, number: u64) -> bool {
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
    pub(super) fn resume_through(&mut self, frame: u64, rip: u64) {
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
    pub(super) fn interrupted(&mut self) {
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

    pub(super) fn exception(&mut self, vector: u64) {
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
    pub(super) fn raise(&mut self, vector: u64, error: u64) {
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

    pub(super) fn floating_point_code(&self, vector: u64) -> i32 {
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

    pub(super) fn page_fault(&mut self, error: u64) {
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
    pub(super) fn host_fault(&mut self) {
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
}
