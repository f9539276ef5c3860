//! A guest that means harm: a sequence of system calls as the bytes of a fuzzer say, each through the one dispatch table, while
//! another thread of the same process keeps changing the memory that the arguments point to.
//!
//! No code of the guest runs but a few bytes that end a thread. What is looked for is a monitor that faults, panics, hangs, breaks a
//! rule of its jail, or loses what is its own: `Guard` looks at its memory and descriptors after each sequence.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::input::Input;
use super::signatures;
use crate::errno::{Errno, from_libc};
use crate::fs::descriptors::MONITOR_FD_FLOOR;
use crate::memory::access;
use crate::signals::host::{self, STOP_SIGNAL, STOPPING};
use crate::syscalls;
use crate::task::{Flow, Task};
use crate::vm::layout::{
    CLOCK_PAGE, FRAMES, GDT, HOST_BASE, LOW_END, PAGE, STUB, TABLES_HOST, TABLES_PHYSICAL, TSS, USER_END,
    VDSO, WINDOW,
};
use crate::{contracts, sys};

/// The guest's memory, apart from what it maps by itself.
mod arguments;

const DATA: u64 = 0x3000_0000;
const DATA_SIZE: u64 = 64 << 10;
/// Structures are laid from here to the end of `DATA`, and again.
const SCRATCH: u64 = DATA + (16 << 10);
const READ_ONLY: u64 = DATA + 0x2_0000;
const NOTHING: u64 = DATA + 0x3_0000;
const CODE: u64 = DATA + 0x4_0000;
/// A page of a file, and one behind its end.
const FILE: u64 = DATA + 0x5_0000;
const STACK: u64 = DATA + 0x6_0000;
const STACK_SIZE: u64 = 64 << 10;
/// Zeroes, as long as the guest has not written there.
const NO_TIME: u64 = STACK + 64;

/// `xor edi, edi; mov eax, 60 (exit); syscall; jmp` to the beginning.
const END_THREAD: [u8; 11] = [0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf5];

/// How often the thread is stopped as for a snapshot, which every wait must obey: no call waits longer. Nanoseconds.
const PATIENCE: i64 = 100_000;
/// The other thread rests so long after a burst of so many rounds.
const REST: Duration = Duration::from_micros(30);
const BURST: usize = 32;
/// A sequence ends after so many calls.
const CALLS_MAX: usize = 256;
const RECENT: usize = 16;

/// What the other thread writes, and where: eight bytes, one value and another in turn.
struct Place {
    address: AtomicU64,
    values: [AtomicU64; 2],
}

/// What the threads of a hostile process share.
struct Race {
    places: [Place; 32],
    count: AtomicUsize,
}

static RACE: Race = Race {
    places: [const {
        Place {
            address: AtomicU64::new(0),
            values: [const { AtomicU64::new(0) }; 2],
        }
    }; 32],
    count: AtomicUsize::new(0),
};

impl Race {
    fn add(&self, address: u64, value: u64, other: u64) {
        let at = self.count.load(Ordering::Relaxed) % self.places.len();
        let place = &self.places[at];
        place.address.store(address, Ordering::Relaxed);
        place.values[0].store(value, Ordering::Relaxed);
        place.values[1].store(other, Ordering::Relaxed);
        self.count.store(at + 1, Ordering::Release);
    }

    /// The other thread.
    fn run(&self) {
        for round in 0usize.. {
            for place in &self.places[..self.count.load(Ordering::Acquire).min(self.places.len())] {
                let value = place.values[round & 1].load(Ordering::Relaxed);
                let _ = access::write(place.address.load(Ordering::Relaxed), &value);
            }
            if round % BURST == 0 {
                std::thread::sleep(REST);
            }
        }
    }
}

/// Stops the calling thread again and again, by a timer of the host.
fn stop_often() -> Result<(), Errno> {
    STOPPING.store(true, Ordering::Release);
    // SAFETY: all fields are numbers or may be zero.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = STOP_SIGNAL;
    event.sigev_notify_thread_id = sys::thread_id();
    let mut timer = 0i32;
    // SAFETY: live structures of the documented types.
    let made = unsafe {
        libc::syscall(
            libc::SYS_timer_create,
            libc::CLOCK_MONOTONIC,
            &raw const event,
            &raw mut timer,
        )
    };
    from_libc(made)?;
    let period = libc::timespec {
        tv_sec: 0,
        tv_nsec: PATIENCE,
    };
    let times = libc::itimerspec {
        it_interval: period,
        it_value: period,
    };
    // SAFETY: the timer that was just made, live times.
    let set = unsafe {
        libc::syscall(
            libc::SYS_timer_settime,
            timer,
            0,
            &raw const times,
            std::ptr::null::<libc::itimerspec>(),
        )
    };
    from_libc(set)?;
    Ok(())
}

/// What is the monitor's own and must be so afterwards.
struct Guard {
    memory: Vec<u64>,
    descriptors: Vec<(i32, u64, u64)>,
}

impl Guard {
    /// `machine` is exchanged when a program is executed.
    fn new(machine: &[RawFd]) -> Self {
        let known = (MONITOR_FD_FLOOR..2 * MONITOR_FD_FLOOR)
            .filter(|fd| !machine.contains(fd))
            .filter_map(|fd| sys::stat(&fd).ok().map(|stat| (fd, stat.st_dev, stat.st_ino)));
        Self {
            memory: (0..4096u64).map(|at| at ^ 0x00c0_ffee_0000_0000).collect(),
            descriptors: known.collect(),
        }
    }

    fn check(&self) {
        for (at, word) in (0..).zip(&self.memory) {
            assert_eq!(
                *word,
                at ^ 0x00c0_ffee_0000_0000,
                "memory of the monitor was changed"
            );
        }
        for (fd, device, file) in &self.descriptors {
            let now = sys::stat(fd).map(|stat| (stat.st_dev, stat.st_ino));
            assert_eq!(
                now,
                Ok((*device, *file)),
                "descriptor {fd} of the monitor was changed"
            );
        }
    }
}

/// The calls in the table, and some that are not.
fn calls() -> Vec<(u64, &'static str)> {
    let known = (0..512)
        .filter(|number| syscalls::find(*number).is_some())
        .map(|number| (number, signatures::of(syscalls::name(number).unwrap_or(""))));
    let unknown = [400, 511, 512, 513, 1_000_000_000, 0xffff_fff6, u64::MAX].map(|number| (number, "xxxxxx"));
    known.chain(unknown).collect()
}

/// The hostile guest on its thread.
pub struct Hostile {
    task: Task,
    calls: Vec<(u64, &'static str)>,
    regions: Vec<u64>,
    guard: Guard,
    next: u64,
    recent: [u64; RECENT],
    made: u64,
    /// Its own process: the child of a fork is another, and makes none of its own.
    process: i32,
    memory: u64,
}

impl Hostile {
    /// Preconditions: on the thread of `task`, which is the process's only one.
    pub fn new(task: Task) -> Self {
        let machine = [
            task.process.lock_space().vm().descriptor(),
            task.vcpu.descriptor(),
        ];
        let guard = Guard::new(&machine);
        let memory = task.process.memory_limit;
        let stopping = stop_often();
        assert!(stopping.is_ok(), "no timer: {stopping:?}");
        let started = contracts::spawn("race", || {
            host::block_all();
            RACE.run();
        });
        assert!(started.is_ok(), "no second thread");
        let regions = vec![
            DATA,
            DATA + DATA_SIZE,
            READ_ONLY,
            READ_ONLY + PAGE,
            NOTHING,
            CODE,
            FILE,
            FILE + PAGE,
            FILE + 2 * PAGE,
            STACK,
            0,
            GDT,
            STUB,
            FRAMES,
            CLOCK_PAGE,
            TSS,
            LOW_END,
            VDSO,
            WINDOW,
            TABLES_PHYSICAL,
            HOST_BASE,
            HOST_BASE + DATA,
            TABLES_HOST,
            USER_END,
            u64::MAX - PAGE + 1,
            guard.memory.as_ptr() as u64,
            std::ptr::from_ref(&RACE) as u64,
            WINDOW - PAGE,
        ];
        Self {
            task,
            calls: calls(),
            regions,
            guard,
            next: SCRATCH,
            recent: [0; RECENT],
            made: 0,
            process: sys::process_id(),
            memory,
        }
    }

    /// Makes one sequence of calls from a known state; says how many.
    pub fn play(&mut self, bytes: &[u8]) -> u64 {
        let before = self.made;
        self.begin();
        let mut input = Input::new(bytes);
        for _ in 0..CALLS_MAX {
            if input.is_empty() {
                break;
            }
            match input.byte() {
                0..224 => self.one_call(&mut input),
                224..240 => {
                    let address = self.pointer(&mut input);
                    let _ = access::write(address, &input.long());
                }
                240..=255 => {
                    let address = self.pointer(&mut input);
                    RACE.add(address, input.long(), input.word());
                }
            }
        }
        self.end();
        self.made - before
    }

    // ------------------------------------------------------------------ state

    fn begin(&mut self) {
        STOPPING.store(true, Ordering::Release);
        super::empty(&mut self.task.process.lock_space());
        self.task.mask = 0;
        host::set_mask(0);
        let (read, write, execute) = (1, 2, 4);
        let anonymous = 0x32; // MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
        let map = libc::SYS_mmap.unsigned_abs();
        let protect = libc::SYS_mprotect.unsigned_abs();
        for (address, length) in [
            (DATA, DATA_SIZE),
            (READ_ONLY, PAGE),
            (CODE, PAGE),
            (STACK, STACK_SIZE),
        ] {
            self.call(map, [address, length, read | write, anonymous, u64::MAX, 0]);
        }
        self.call(map, [NOTHING, PAGE, 0, anonymous, u64::MAX, 0]);
        let _ = access::write_bytes(CODE, &END_THREAD);
        self.call(protect, [CODE, PAGE, read | execute, 0, 0, 0]);
        self.call(protect, [READ_ONLY, PAGE, read, 0, 0, 0]);
        let _ = access::write_bytes(DATA, b"/data\0");
        let open = libc::SYS_open.unsigned_abs();
        let file = self.call(open, [DATA, 0, 0, 0, 0, 0]);
        self.call(map, [FILE, 2 * PAGE, read, 0x12, file, 0]);
        let _ = access::write_bytes(DATA, b"/\0");
        self.call(libc::SYS_chdir.unsigned_abs(), [DATA, 0, 0, 0, 0, 0]);
        for timer in 0..3 {
            self.call(libc::SYS_setitimer.unsigned_abs(), [timer, NO_TIME, 0, 0, 0, 0]);
        }
        self.next = SCRATCH;
        self.recent = [0, 1, 2, file, 0, 1, 2, file, 0, 1, 2, 3, 4, 5, 6, 7];
    }

    fn end(&mut self) {
        RACE.count.store(0, Ordering::Release);
        if sys::process_id() != self.process {
            // The child of a fork: nobody waits for its sequence.
            crate::lifecycle::end_process(0);
        }
        self.end_children();
        self.call(libc::SYS_close_range.unsigned_abs(), [3, u64::MAX, 0, 0, 0, 0]);
        self.guard.check();
        let committed = self.task.process.lock_space().committed();
        assert!(
            committed <= self.memory,
            "more memory than the limit: {committed}"
        );
    }

    /// Processes that the sequence has made end with it; none may have ended as a monitor does that failed.
    fn end_children(&self) {
        let Some(kin) = self.task.process.kin() else {
            return;
        };
        for pid in kin.pids().into_iter().filter(|pid| *pid != self.process) {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        let mut status = 0;
        loop {
            // SAFETY: a live status word.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
            if pid <= 0 {
                break;
            }
            kin.reaped(pid);
            assert!(
                !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 70),
                "the monitor of a child failed"
            );
            assert!(
                !(libc::WIFSIGNALED(status)
                    && [libc::SIGSYS, libc::SIGABRT, libc::SIGILL].contains(&libc::WTERMSIG(status))),
                "the monitor of a child panicked, or broke a rule of the jail"
            );
        }
    }

    // ------------------------------------------------------------------ calls

    fn call(&mut self, number: u64, args: [u64; 6]) -> u64 {
        self.made += 1;
        let result = self.task.hostile_call(number, args, CODE, STACK + STACK_SIZE / 2);
        match self.task.flow {
            Flow::ThreadEnd => crate::lifecycle::end_process(0),
            Flow::Fresh | Flow::Replaced | Flow::Return => result,
        }
    }

    fn one_call(&mut self, input: &mut Input<'_>) {
        let at = usize::try_from(input.short()).unwrap_or(0) % self.calls.len();
        let (number, letters) = self.calls[at];
        let mut args = [0; 6];
        for (place, arg) in args.iter_mut().enumerate() {
            let Some(letter) = letters.as_bytes().get(place) else {
                break;
            };
            let kind = input.byte();
            *arg = if kind >= 208 {
                self.anything(input)
            } else {
                self.meant(*letter, kind, input)
            };
        }
        if self.is_harmless(number, args) {
            let result = self.call(number, args);
            self.recent[usize::try_from(self.made).unwrap_or(0) % RECENT] = result;
        }
    }

    /// What the end of a sequence could not undo, and what would only end it: not made.
    fn is_harmless(&self, number: u64, args: [u64; 6]) -> bool {
        let Ok(call) = libc::c_long::try_from(number & 0xffff_ffff) else {
            return true;
        };
        // Signals by which a monitor that fails ends, and those that nothing can handle.
        let fatal = |signal: u64| matches!(signal & 0xffff_ffff, 4 | 5 | 6 | 7 | 8 | 9 | 11 | 19 | 31);
        let is_child = sys::process_id() != self.process;
        match call {
            libc::SYS_exit | libc::SYS_exit_group => false,
            libc::SYS_fork | libc::SYS_vfork | libc::SYS_clone | libc::SYS_clone3 => !is_child,
            libc::SYS_kill | libc::SYS_tkill | libc::SYS_rt_sigqueueinfo | libc::SYS_pidfd_send_signal => {
                !fatal(args[1])
            }
            libc::SYS_tgkill | libc::SYS_rt_tgsigqueueinfo => !fatal(args[2]),
            _ => true,
        }
    }
}
