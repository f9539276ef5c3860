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

const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    16,
    255,
    1023,
    1024,
    1025,
    4095,
    4096,
    4097,
    65_535,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_f000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
    u64::MAX - 1,
    u64::MAX - 99,
    2047,
    2048,
    2049,
    4 << 20,
    1 << 44,
];

const PATHS: &[&str] = &[
    "/tmp/a",
    "/tmp/b",
    "/tmp/a/../b",
    "/data",
    "/link",
    "/loop",
    "/directory/file",
    "/directory",
    "/",
    "",
    ".",
    "..",
    "../../../../etc/passwd",
    "/proc/self/maps",
    "/proc/self/fd/3",
    "/proc/self/fd",
    "/proc/self/exe",
    "/proc/1/root",
    "/proc/self/task/1/../../status",
    "/dev/null",
    "/dev/urandom",
    "/dev/zero",
    "/dev/full",
    "/dev/shm/x",
    "/sys/fs/cgroup/memory.max",
    "/tmp/",
    "/tmp/directory",
    "/tmp/directory/deep",
    "a",
    "/var/tmp/z",
    "/program",
    "/dev/kvm",
];

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

    // ------------------------------------------------------------------ arguments

    /// Whatever may be where something else is expected.
    fn anything(&mut self, input: &mut Input<'_>) -> u64 {
        match input.byte() {
            0..48 => input.pick(NUMBERS),
            48..96 => self.recent(input),
            96..192 => self.pointer(input),
            192..208 => input.long(),
            208..224 => input.word(),
            kind @ 224..=255 => {
                let letters = b"pvmMatTssSeEPhqALuy";
                let letter = letters[usize::from(kind) % letters.len()];
                self.meant(letter, kind, input)
            }
        }
    }

    /// What a call of before gave.
    fn recent(&self, input: &mut Input<'_>) -> u64 {
        input.pick(&self.recent)
    }

    /// Somewhere at the beginning or the end of a region, or a little before.
    fn pointer(&self, input: &mut Input<'_>) -> u64 {
        let region = input.pick(&self.regions);
        match input.byte() {
            0 => region,
            near @ 1..128 => region.wrapping_add(u64::from(near)),
            near @ 128..=255 => region.wrapping_sub(256 - u64::from(near)),
        }
    }

    /// A value of the kind that the letter stands for (`signatures`).
    fn meant(&mut self, letter: u8, kind: u8, input: &mut Input<'_>) -> u64 {
        let small = u64::from(kind);
        match letter {
            b'd' => match kind {
                0..160 => self.recent[usize::from(kind) % RECENT],
                160..192 => small % 16,
                _ => (-100i64).cast_unsigned(),
            },
            b'p' => self.path(input),
            b'b' | b'x' => match kind {
                0..64 => self.lay(&[0; 64], kind & 1 != 0),
                64..160 => DATA + small * 8,
                _ => self.pointer(input),
            },
            b'l' | b'n' => match kind {
                0..128 => small % 64,
                128..192 => input.pick(&[16, 110, 28, 4096, 8192, 65_536, 1 << 20]),
                _ => input.pick(NUMBERS),
            },
            b'f' => match kind {
                0..64 => 1 << (small % 32),
                64..96 => input.word(),
                96..128 => input.short(),
                _ => 0,
            },
            b'i' => small % 48,
            b'g' => small % 66,
            b'o' => match kind {
                0..128 => small * 64,
                128..192 => input.pick(NUMBERS),
                _ => input.long(),
            },
            b'c' => match kind {
                0..192 => small % 6,
                _ => input.pick(&[1023, 1024, 1025, u64::MAX, 0x8000_0000]),
            },
            b'z' => {
                if kind < 200 {
                    8
                } else {
                    input.pick(NUMBERS)
                }
            }
            b'r' => match kind {
                0..64 => 0,
                64..128 => DATA + 0x10_0000 + (small % 16) * PAGE,
                128..160 => DATA + (small % 16) * PAGE,
                _ => self.pointer(input),
            },
            b'R' => match kind {
                0..160 => (small % 32) * PAGE,
                160..192 => (small % 32) << 20,
                _ => input.pick(NUMBERS),
            },
            _ => self.structure(letter, kind, input),
        }
    }

    fn path(&mut self, input: &mut Input<'_>) -> u64 {
        let path = input.pick(PATHS);
        let mut bytes = path.as_bytes().to_vec();
        let other = input.byte();
        if other == 255 {
            bytes.resize(4090 + usize::from(input.byte()) % 16, b'/');
        }
        bytes.push(0);
        let at = self.lay(&bytes, other & 1 != 0);
        if other & 2 != 0 {
            // The same length, another meaning.
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(&bytes) {
                *to = *from;
            }
            let flip = input.pick(&[
                *b"/data\0\0\0",
                *b"/loop/..",
                *b"/../../.",
                *b"/proc/1/",
                *b"////////",
            ]);
            RACE.add(at, u64::from_le_bytes(word), u64::from_le_bytes(flip));
        }
        at
    }

    /// A list of words in memory, of which one may change while it is read.
    fn words(&mut self, kind: u8, words: &[u64], input: &mut Input<'_>) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = self.lay(&bytes, kind & 1 != 0);
        if kind & 2 != 0 && !words.is_empty() {
            let chosen = usize::from(input.byte()) % words.len();
            let other = match kind >> 2 & 3 {
                0 => self.pointer(input),
                1 => input.pick(NUMBERS),
                2 => words[chosen] ^ 1 << (input.byte() & 63),
                _ => u64::MAX,
            };
            RACE.add(at + chosen as u64 * 8, words[chosen], other);
        }
        at
    }

    fn structure(&mut self, letter: u8, kind: u8, input: &mut Input<'_>) -> u64 {
        let short = |input: &mut Input<'_>| u64::from(input.byte());
        match letter {
            b'v' => {
                let list = self.vectors(usize::from(kind) % 5, input);
                self.words(kind, &list, input)
            }
            b'm' => {
                let header = self.message(kind, input);
                self.words(kind, &header, input)
            }
            b'M' => {
                let mut list = Vec::new();
                for _ in 0..=kind % 3 {
                    list.extend(self.message(kind, input));
                    list.push(0);
                }
                self.words(kind, &list, input)
            }
            b'a' => self.address(kind, input),
            b'N' => {
                let length = if kind < 160 { 110 } else { input.pick(NUMBERS) };
                self.words(kind, &[length], input)
            }
            b't' => {
                let time = self.time(kind, input);
                self.words(kind, &time, input)
            }
            b'T' => {
                let (first, second) = (self.time(kind >> 1, input), self.time(kind, input));
                self.words(kind, &[first[0], first[1], second[0], second[1]], input)
            }
            b's' => {
                let set = if kind < 100 { 0 } else { input.long() };
                self.words(kind, &[set], input)
            }
            b'S' => {
                let handler = input.pick(&[0, 1, CODE, u64::MAX, DATA]);
                let flags = 0x0400_0000 | input.word();
                self.words(kind, &[handler, flags, CODE, input.long()], input)
            }
            b'E' => {
                // A signal that ends nothing, if any.
                let signal = 32 + short(input) % 30;
                let how = short(input) % 6;
                let event = [input.long(), signal | how << 32, short(input), 0, 0, 0, 0, 0];
                self.words(kind & !2, &event, input)
            }
            b'e' => {
                let word = input.word() | self.recent(input) << 32;
                self.words(kind, &[word, input.long()], input)
            }
            b'P' => {
                let list: Vec<u64> = (0..4)
                    .map(|_| self.recent(input) & 0xffff_ffff | input.short() << 32)
                    .collect();
                self.words(kind, &list, input)
            }
            b'w' => self.words(kind & !1, &[short(input) % 3], input),
            b'h' => {
                let how = [input.word(), short(input), short(input) & 0x3f, 0];
                self.words(kind, &how, input)
            }
            b'q' => {
                let flags = input.pick(&[0, 0x4100, 0x100, 0x0001_0f00, 0x003d_0f00, 0x5000, 0x2_0000])
                    ^ (short(input) << 8);
                let args = [
                    flags,
                    self.pointer(input),
                    self.pointer(input),
                    self.pointer(input),
                    17,
                    STACK,
                    4096,
                    0,
                ];
                self.words(kind, &args, input)
            }
            b'A' => {
                let list = [self.path(input), self.path(input), 0];
                self.words(kind, &list, input)
            }
            b'L' => {
                let limit = [input.pick(NUMBERS), input.pick(NUMBERS)];
                self.words(kind, &limit, input)
            }
            b'u' => {
                let (kind_of_lock, whence) = (short(input) % 3, short(input) % 3);
                let word = kind_of_lock | whence << 16;
                let lock = [word, input.pick(NUMBERS), input.pick(NUMBERS), 0];
                if kind < 100 {
                    short(input)
                } else {
                    self.words(kind, &lock, input)
                }
            }
            b'y' => {
                let stack = [self.pointer(input), short(input) % 3, input.pick(NUMBERS)];
                self.words(kind, &stack, input)
            }
            _ => 0,
        }
    }

    fn vectors(&mut self, count: usize, input: &mut Input<'_>) -> Vec<u64> {
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(self.pointer(input));
            list.push(match input.byte() {
                length @ 0..192 => u64::from(length),
                _ => input.pick(NUMBERS),
            });
        }
        list
    }

    /// A msghdr: seven words.
    fn message(&mut self, kind: u8, input: &mut Input<'_>) -> Vec<u64> {
        let vectors = self.vectors(2, input);
        let list = self.words(kind, &vectors, input);
        let name = if kind & 16 == 0 {
            0
        } else {
            self.address(kind, input)
        };
        let length = u64::from(input.byte() % 128);
        let (control, control_length) = match kind & 96 {
            0 => (0, 0),
            32 => {
                // cmsghdr: SCM_RIGHTS with a descriptor, or something else.
                let size = if kind & 4 == 0 { 20 } else { input.pick(NUMBERS) };
                let header = [
                    size,
                    1 | u64::from(input.byte() % 4) << 32,
                    self.recent(input) & 0xffff_ffff,
                ];
                (self.words(kind, &header, input), 24)
            }
            _ => (self.pointer(input), input.pick(NUMBERS)),
        };
        let count = if kind & 64 == 0 {
            2
        } else {
            u64::from(input.byte()) * 8
        };
        vec![name, length, list, count, control, control_length, 0]
    }

    fn address(&mut self, kind: u8, input: &mut Input<'_>) -> u64 {
        let mut bytes = match kind % 6 {
            0 => b"\x01\0/tmp/socket\0".to_vec(),
            1 => b"\x01\0\0abstract".to_vec(),
            2 => b"\x02\0\x1f\x90\x7f\0\0\x01\0\0\0\0\0\0\0\0".to_vec(),
            3 => b"\x02\0\0\x50\xa9\xfe\xa9\xfe\0\0\0\0\0\0\0\0".to_vec(),
            4 => b"\x0a\0\x1f\x90\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0".to_vec(),
            _ => input.long().to_le_bytes().to_vec(),
        };
        if kind & 8 != 0 {
            bytes[0] = input.byte();
        }
        bytes.resize(112, 0);
        let words: Vec<u64> = bytes
            .chunks(8)
            .map(|chunk| {
                chunk
                    .iter()
                    .rev()
                    .fold(0, |word, byte| word << 8 | u64::from(*byte))
            })
            .collect();
        self.words(kind, &words, input)
    }

    fn time(&mut self, kind: u8, input: &mut Input<'_>) -> [u64; 2] {
        match kind % 8 {
            0..5 => [0, u64::from(input.byte()) * 256],
            5 => [0, input.pick(NUMBERS)],
            6 => [input.pick(NUMBERS), 0],
            _ => [input.pick(NUMBERS), input.pick(NUMBERS)],
        }
    }

    /// Lays bytes into memory, at the very end of it if `edge`.
    fn lay(&mut self, bytes: &[u8], edge: bool) -> u64 {
        let length = bytes.len() as u64;
        if self.next + length + PAGE >= DATA + DATA_SIZE {
            self.next = SCRATCH;
        }
        let at = if edge {
            DATA + DATA_SIZE - length
        } else {
            self.next = (self.next + length).next_multiple_of(8);
            self.next - length.next_multiple_of(8)
        };
        let _ = access::write_bytes(at, bytes);
        at
    }
}
