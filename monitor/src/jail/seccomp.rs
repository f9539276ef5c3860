//! Filters on the monitor's own system calls, made from the `table`.
//!
//! `serve` installs two, which every child inherits for nothing: an allowlist of what any phase may do, and one with the calls
//! that are answered with an error. A child that is to run a guest adds a small one
//! of its own, which takes away what its phase does not need. The kernel takes the strictest answer of all filters, and none can be removed.
//!
//! A call that is not allowed ends the whole process with SIGSYS: it is a bug of the monitor, or somebody at work in it.
#![allow(unsafe_code)]

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction};

use super::program::{Rule, TooLong, assemble};
use super::table::{Condition, Phases, ROWS, Row, Verdict};
use crate::errno::Errno;

/// What happens at a call that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The process is killed.
    Enforce,
    /// The process names the call on stderr and exits with status 159. For whoever works on the monitor: what a handler does is
    /// in the hands of whoever has taken the process over.
    Explain,
}

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("seccomp filter: {0}")]
    Assemble(#[from] TooLong),
    #[error("seccomp: {0}")]
    Install(#[from] seccompiler::Error),
    #[error("seccomp: SIGSYS handler: {0}")]
    Handler(Errno),
}

/// The filters of `serve`: what any phase may do.
pub fn inherited(mode: Mode) -> Result<Vec<BpfProgram>, SeccompError> {
    let rules = calls().into_iter().map(|(number, rows)| {
        (
            number,
            judgement(rows.iter().map(|row| row.conditions.to_vec()).collect(), mode),
        )
    });
    Ok(vec![
        assemble(&rules.collect::<Vec<_>>(), &forbidden(mode))?,
        assemble(&answers(), &SeccompAction::Allow)?,
    ])
}

/// The calls that end with an error, of those that the first filter lets pass.
fn answers() -> Vec<(u32, Rule)> {
    let answer = |(number, rows): (u32, Vec<&Row>)| {
        let (allowed, answered): (Vec<&Row>, Vec<&Row>) =
            rows.into_iter().partition(|row| row.verdict == Verdict::Allow);
        let first = answered.first()?;
        let Verdict::Answer(errno) = first.verdict else {
            return None;
        };
        let error = SeccompAction::Errno(errno.unsigned_abs());
        let conditions = |rows: &[&Row]| rows.iter().map(|row| row.conditions.to_vec()).collect::<Vec<_>>();
        let rule = if first.conditions.is_empty() {
            Rule::If {
                alternatives: conditions(&allowed),
                then: SeccompAction::Allow,
                otherwise: error,
            }
        } else {
            Rule::If {
                alternatives: conditions(&answered),
                then: error,
                otherwise: SeccompAction::Allow,
            }
        };
        Some((number, rule))
    };
    calls().into_iter().filter_map(answer).collect()
}

/// The filter that a child adds: forbids what the inherited one allows and its phase does not.
///
/// Made before the fork, since it costs more to make than to install.
pub struct OwnFilter(BpfProgram);

impl OwnFilter {
    pub fn compile(phase: Phases, mode: Mode) -> Result<Self, SeccompError> {
        own(phase, mode).map(Self)
    }

    /// Installs it for this process.
    pub fn install(&self) -> Result<(), SeccompError> {
        install(&self.0)
    }
}

fn own(phase: Phases, mode: Mode) -> Result<BpfProgram, SeccompError> {
    let mut rules = Vec::new();
    for (number, rows) in calls() {
        let (mine, others): (Vec<&Row>, Vec<&Row>) =
            rows.into_iter().partition(|row| row.phases.contains(phase));
        let alternatives: Vec<Vec<Condition>> = mine.iter().map(|row| row.conditions.to_vec()).collect();
        let free = alternatives.iter().any(Vec::is_empty);
        // What the inherited filter says already is not said again.
        if !free && !others.is_empty() {
            rules.push((number, judgement(alternatives, mode)));
        }
    }
    Ok(assemble(&rules, &SeccompAction::Allow)?)
}

/// The rows of each call, sorted by its number.
fn calls() -> BTreeMap<u32, Vec<&'static Row>> {
    let mut calls: BTreeMap<u32, Vec<&Row>> = BTreeMap::new();
    for row in ROWS {
        // Numbers of calls are small and positive.
        calls
            .entry(u32::try_from(row.call).unwrap_or(u32::MAX))
            .or_default()
            .push(row);
    }
    calls
}

/// Allows what one of the alternatives allows; without one, nothing.
fn judgement(alternatives: Vec<Vec<Condition>>, mode: Mode) -> Rule {
    if alternatives.iter().any(Vec::is_empty) {
        return Rule::Always(SeccompAction::Allow);
    }
    if alternatives.is_empty() {
        return Rule::Always(forbidden(mode));
    }
    Rule::If {
        alternatives,
        then: SeccompAction::Allow,
        otherwise: forbidden(mode),
    }
}

/// Installs a filter for all threads of this process.
pub fn install(program: &BpfProgram) -> Result<(), SeccompError> {
    Ok(seccompiler::apply_filter_all_threads(program)?)
}

/// Makes SIGSYS name the call (`Mode::Explain`).
pub fn explain() -> Result<(), SeccompError> {
    // SAFETY: a sigaction may be zero.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = tell as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: a complete action whose handler only makes async-signal-safe calls.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } < 0 {
        return Err(SeccompError::Handler(Errno::last()));
    }
    Ok(())
}

/// Writes number and arguments of the forbidden call, without allocation, and ends the process.
extern "C" fn tell(_: libc::c_int, info: *const libc::siginfo_t, context: *const libc::c_void) {
    /// Where the kernel puts the number, `_sigsys._syscall` of siginfo_t.
    const NUMBER: usize = 24;
    let arguments = [
        libc::REG_RDI,
        libc::REG_RSI,
        libc::REG_RDX,
        libc::REG_R10,
        libc::REG_R8,
        libc::REG_R9,
    ];
    // SAFETY: the kernel passes a siginfo_t of 128 bytes to a handler installed with SA_SIGINFO.
    let number = unsafe { info.byte_add(NUMBER).cast::<i32>().read() };
    let mut line = Line {
        bytes: [0; 256],
        length: 0,
    };
    line.text(b"mayfly-monitor: forbidden system call ");
    line.hex(u64::from(number.unsigned_abs()));
    line.text(b" (all numbers hexadecimal) with");
    for register in arguments {
        line.text(b" ");
        let register = usize::try_from(register).unwrap_or(0);
        // SAFETY: the kernel passes a ucontext_t as the third argument.
        line.hex(
            unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[register] }.cast_unsigned(),
        );
    }
    line.text(b"\n");
    // SAFETY: the line is live and of the length given; the second call does not return.
    unsafe {
        libc::write(2, line.bytes.as_ptr().cast(), line.length);
        libc::_exit(159);
    }
}

/// A line that is put together without allocation.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Line {
    fn text(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn hex(&mut self, value: u64) {
        let digits = (64 - (value | 1).leading_zeros()).div_ceil(4);
        for digit in (0..digits).rev() {
            let nibble = usize::try_from(value >> (digit * 4) & 0xf).unwrap_or(0);
            self.text(&b"0123456789abcdef"[nibble..=nibble]);
        }
    }
}

fn forbidden(mode: Mode) -> SeccompAction {
    match mode {
        Mode::Enforce => SeccompAction::KillProcess,
        Mode::Explain => SeccompAction::Trap,
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Test;
    use crate::fs::descriptors::EXECUTABLE;
    use libc::c_long;

    use super::super::program::tests::{NATIVE, run};
    use super::super::table::Width;
    use super::super::testing::{Child, die_by_sigsys, raw};
    use super::*;

    const FAR: u64 = 1_000_000;

    fn confined(phase: Phases, act: impl FnOnce()) -> Child {
        let filters = inherited(Mode::Enforce).unwrap();
        let own = OwnFilter::compile(phase, Mode::Enforce);
        Child::run(move || {
            filters.iter().for_each(|filter| install(filter).unwrap());
            if phase != Phases::SERVE {
                own.unwrap().install().unwrap();
            }
            act();
        })
    }

    fn passes(phase: Phases, call: c_long, args: [u64; 6]) -> bool {
        confined(phase, || {
            raw(call, args);
        })
        .exited_with(0)
    }

    const PHASES: [Phases; 3] = [Phases::SERVE, Phases::BOOT, Phases::INSTANCE];

    /// A value of an argument that the row allows, or one that it does not.
    fn argument(condition: &Condition, allowed: bool) -> u64 {
        let value = match condition.test {
            Test::Is(value) => value,
            Test::Bits { value, .. } => value,
            Test::IsNot(value) => return if allowed { value + FAR } else { value },
        };
        value + if allowed { 0 } else { FAR }
    }

    #[test]
    fn filters_say_what_the_table_says() {
        let allow: u32 = SeccompAction::Allow.into();
        let process = std::process::id();
        let inherited = inherited(Mode::Enforce).unwrap();
        for phase in PHASES {
            let own = own(phase, Mode::Enforce).unwrap();
            let allowed = |number: u32, args: [u64; 6]| {
                let says = |program: &BpfProgram| run(program, NATIVE, number, args) == allow;
                says(&inherited[0]) && says(&own)
            };
            let holds = |condition: &Condition, args: [u64; 6]| {
                let argument = args[usize::from(condition.argument)];
                let argument = if condition.kernel_reads == Width::Int {
                    argument & 0xffff_ffff
                } else {
                    argument
                };
                match condition.test {
                    Test::Is(value) => argument == value,
                    Test::IsNot(value) => argument != value,
                    Test::Bits { mask, value } => argument & mask == value,
                }
            };
            for number in 0..600 {
                let rows = || ROWS.iter().filter(|row| row.call == c_long::from(number));
                // Right and wrong arguments of all rows of the call, also mixed.
                let mut tries = vec![[0; 6], [u64::MAX; 6], [u64::from(process); 6]];
                for row in rows() {
                    for wrong in 0..=row.conditions.len() {
                        let mut args = [0; 6];
                        for (at, condition) in row.conditions.iter().enumerate() {
                            args[usize::from(condition.argument)] = argument(condition, at + 1 != wrong);
                        }
                        tries.push(args);
                    }
                }
                for args in tries {
                    let expected = rows().any(|row| {
                        row.phases.contains(phase)
                            && row.conditions.iter().all(|condition| holds(condition, args))
                    });
                    assert_eq!(allowed(number, args), expected, "{phase:?} {number} {args:?}");
                }
            }
        }
    }

    #[test]
    fn what_a_guest_may_ask_of_the_host_is_allowed() {
        use crate::syscalls::{self, Level};
        /// Answered by another call than the one of the same number.
        const BY_ANOTHER: [c_long; 8] = [
            libc::SYS_pipe,
            libc::SYS_eventfd,
            libc::SYS_signalfd,
            libc::SYS_epoll_create,
            libc::SYS_inotify_init,
            libc::SYS_tkill,
            libc::SYS_sendmmsg,
            libc::SYS_recvmmsg,
        ];
        /// Forwarded for a program that is run by hand, answered in a jail.
        const NOT_CONTAINED: [c_long; 2] = [libc::SYS_setpgid, libc::SYS_setsid];
        for number in 0..512_u32 {
            let call = c_long::from(number);
            let forwarded =
                syscalls::find(number.into()).is_some_and(|entry| entry.level == Level::Forwarded);
            let has_row = ROWS
                .iter()
                .any(|row| row.call == call && row.phases.contains(Phases::INSTANCE));
            assert!(
                !forwarded || has_row || BY_ANOTHER.contains(&call) || NOT_CONTAINED.contains(&call),
                "{:?}",
                syscalls::name(number.into())
            );
        }
    }

    #[test]
    fn rows_stand_together_and_no_row_hides_another() {
        let mut calls: Vec<c_long> = ROWS.iter().map(|row| row.call).collect();
        calls.dedup();
        let distinct = calls.len();
        calls.sort_unstable();
        calls.dedup();
        assert_eq!(calls.len(), distinct, "the rows of a call are not together");
        for call in calls {
            for phase in PHASES {
                let rows: Vec<_> = ROWS
                    .iter()
                    .filter(|row| row.call == call && row.phases.contains(phase))
                    .collect();
                let free = rows.iter().any(|row| row.conditions.is_empty());
                assert!(
                    !free || rows.len() == 1,
                    "system call {call}: a row without conditions makes others vain"
                );
            }
        }
    }

    #[test]
    fn every_phase_has_its_filter() {
        for mode in [Mode::Enforce, Mode::Explain] {
            assert_eq!(inherited(mode).unwrap().len(), 2);
            for phase in [Phases::BOOT, Phases::INSTANCE] {
                let own = OwnFilter::compile(phase, mode).unwrap();
                assert!(own.0.len() > 10);
            }
        }
    }

    #[test]
    fn what_no_phase_needs_kills() {
        let path = c"/".as_ptr() as u64;
        for phase in PHASES {
            for (call, args) in [
                (libc::SYS_chroot, [path, 0, 0, 0, 0, 0]),
                (libc::SYS_ptrace, [u64::MAX; 6]),
                (libc::SYS_execve, [path, 0, 0, 0, 0, 0]),
                (libc::SYS_execveat, [path, 0, 0, 0, 0, 0]),
                (libc::SYS_open, [path, 0, 0, 0, 0, 0]),
                (libc::SYS_mount, [0; 6]),
                (libc::SYS_unshare, [0; 6]),
                (libc::SYS_setns, [0; 6]),
                (libc::SYS_bpf, [0; 6]),
                (libc::SYS_io_uring_setup, [0; 6]),
                (libc::SYS_userfaultfd, [0; 6]),
                (libc::SYS_perf_event_open, [0; 6]),
                (libc::SYS_process_vm_readv, [0; 6]),
                (libc::SYS_pidfd_getfd, [u64::MAX; 6]),
                (libc::SYS_setuid, [0; 6]),
                (libc::SYS_personality, [0; 6]),
                (libc::SYS_pkey_mprotect, [0; 6]),
                (libc::SYS_shmat, [0; 6]),
                (libc::SYS_vfork, [0; 6]),
                (9999, [0; 6]),
            ] {
                let child = confined(phase, || {
                    raw(call, args);
                });
                assert!(child.killed_by(libc::SIGSYS), "{phase:?} {call}: {child:?}");
            }
        }
    }

    #[test]
    fn a_number_of_another_architecture_kills() {
        // The x32 numbers would pass a filter that looks at the low bits only.
        let child = confined(Phases::INSTANCE, || {
            raw(0x4000_0000 | libc::SYS_getpid, [0; 6]);
        });
        assert!(child.killed_by(libc::SIGSYS), "{child:?}");
    }

    #[test]
    fn arguments_that_are_far_off_kill_and_the_right_ones_pass() {
        // Harmless with any descriptor; each call in a process of its own.
        for row in ROWS.iter().filter(|row| !row.conditions.is_empty()) {
            // These would really act, and have tests of their own.
            if [
                libc::SYS_clone,
                libc::SYS_kill,
                libc::SYS_tgkill,
                libc::SYS_rt_sigqueueinfo,
                libc::SYS_rt_tgsigqueueinfo,
                libc::SYS_pidfd_open,
            ]
            .contains(&row.call)
            {
                continue;
            }
            for phase in PHASES.into_iter().filter(|phase| row.phases.contains(*phase)) {
                let mut args = [u64::MAX; 6];
                for condition in row.conditions {
                    args[usize::from(condition.argument)] = argument(condition, true);
                }
                assert!(passes(phase, row.call, args), "{phase:?} {}: {row:?}", row.call);
                let alternatives = ROWS.iter().filter(|other| other.call == row.call).count();
                for condition in row.conditions {
                    let mut args = args;
                    args[usize::from(condition.argument)] = argument(condition, false);
                    // A Bits condition looks at some bits only, which a million may not touch.
                    if let Test::Bits { mask, value } = condition.test {
                        args[usize::from(condition.argument)] = value ^ mask;
                    }
                    let other_row_allows = alternatives > 1 && row.conditions.len() > 1;
                    assert!(
                        other_row_allows || !passes(phase, row.call, args),
                        "{phase:?} {row:?}: {condition:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn memory_is_never_executable() {
        for phase in PHASES {
            let page = [
                0,
                4096,
                0,
                c(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
                u64::MAX,
                0,
            ];
            for protection in [0, libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE] {
                let mut args = page;
                args[2] = c(protection);
                assert!(passes(phase, libc::SYS_mmap, args));
                for call in [libc::SYS_mmap, libc::SYS_mprotect] {
                    args[2] = c(protection | libc::PROT_EXEC);
                    assert!(!passes(phase, call, args), "{phase:?} {call} {protection}");
                }
            }
        }
    }

    #[test]
    fn the_monitor_itself_has_no_executable_memory_but_its_code() {
        // Static: no loader, no library. Only the program's own text and the kernel's vDSO are executable.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let own = std::env::current_exe().unwrap();
        for line in maps
            .lines()
            .filter(|line| line.split(' ').nth(1).unwrap().contains('x'))
        {
            let own_code = line.ends_with(own.to_str().unwrap());
            assert!(
                own_code || line.contains("[vdso]") || line.contains("[vsyscall]"),
                "{line}"
            );
        }
    }

    #[test]
    fn a_guest_makes_threads_and_processes_that_execute_the_monitor_alone() {
        for phase in [Phases::BOOT, Phases::INSTANCE] {
            let child = confined(phase, || {
                let made = std::thread::spawn(|| 7).join();
                assert_eq!(made.ok(), Some(7));
                // SAFETY: fork in a process of one thread; the child ends at once.
                if unsafe { libc::fork() } == 0 {
                    // SAFETY: does not return.
                    unsafe { libc::_exit(0) };
                }
            });
            assert!(child.exited_with(0), "{phase:?} {child:?}");
            let own_file = c(EXECUTABLE);
            let empty = c"".as_ptr() as u64;
            for (call, args) in [
                // A process that shares anything but its memory until it executes.
                (
                    libc::SYS_clone,
                    [c(libc::CLONE_FILES | libc::SIGCHLD), 0, 0, 0, 0, 0],
                ),
                (
                    libc::SYS_clone,
                    [c(libc::CLONE_NEWUSER | libc::SIGCHLD), 0, 0, 0, 0, 0],
                ),
                (libc::SYS_execve, [empty, 0, 0, 0, 0, 0]),
                (
                    libc::SYS_execveat,
                    [own_file + 1, empty, 0, 0, c(libc::AT_EMPTY_PATH), 0],
                ),
                (libc::SYS_execveat, [own_file, empty, 0, 0, 0, 0]),
                // What is behind the number stays there.
                (libc::SYS_close, [own_file, 0, 0, 0, 0, 0]),
                (libc::SYS_close_range, [3, u64::MAX, 0, 0, 0, 0]),
                (libc::SYS_dup2, [0, own_file, 0, 0, 0, 0]),
                (libc::SYS_dup3, [0, own_file, 0, 0, 0, 0]),
            ] {
                assert!(!passes(phase, call, args), "{phase:?} {call} {args:?}");
            }
        }
        let child = confined(Phases::SERVE, || {
            // SAFETY: fork in a process of one thread; the child ends at once.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: does not return.
                unsafe { libc::_exit(3) };
            }
            let mut status = 0;
            // SAFETY: a live status word.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!(libc::WEXITSTATUS(status), 3);
        });
        assert!(child.exited_with(0), "{child:?}");
    }

    #[test]
    fn the_inherited_filter_leaves_a_child_its_own_signals() {
        let child = confined(Phases::SERVE, || {
            // SAFETY: fork in a process of one thread.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let own = u64::from(std::process::id());
                raw(libc::SYS_tgkill, [own, own, 0, 0, 0, 0]);
                // SAFETY: does not return.
                unsafe { libc::_exit(0) };
            }
            let mut status = 0;
            // SAFETY: a live status word.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert!(libc::WIFEXITED(status));
        });
        assert!(child.exited_with(0), "{child:?}");
    }

    #[test]
    fn no_filter_can_follow_that_of_a_guest() {
        for phase in [Phases::BOOT, Phases::INSTANCE] {
            for call in [
                libc::SYS_seccomp,
                libc::SYS_landlock_restrict_self,
                libc::SYS_mkdir,
            ] {
                assert!(!passes(phase, call, [u64::MAX; 6]), "{phase:?} {call}");
            }
        }
    }

    #[test]
    fn what_is_not_to_be_had_is_answered_with_an_error() {
        for (call, args, errno) in [
            (libc::SYS_clone3, [0; 6], libc::ENOSYS),
            (libc::SYS_fcntl, [0, c(libc::F_SETOWN), 1, 0, 0, 0], libc::EPERM),
            (libc::SYS_ioctl, [0, libc::TCSETS, 0, 0, 0, 0], libc::ENOTTY),
            (libc::SYS_ioctl, [0, libc::TIOCSPGRP, 0, 0, 0, 0], libc::ENOTTY),
        ] {
            for phase in PHASES {
                let child = confined(phase, || {
                    assert_eq!(raw(call, args), -1);
                    assert_eq!(Errno::last(), Errno(errno));
                });
                assert!(child.exited_with(0), "{phase:?} {call}: {child:?}");
            }
        }
        for rows in calls().into_values() {
            let mut answers: Vec<_> = rows
                .iter()
                .filter(|row| row.verdict != Verdict::Allow)
                .map(|row| format!("{:?}", row.verdict))
                .collect();
            answers.dedup();
            assert!(answers.len() <= 1, "{rows:?}");
        }
    }

    #[test]
    fn explain_names_the_call() {
        let filters = inherited(Mode::Explain).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let child = Child::run(move || {
            // SAFETY: two open descriptors.
            unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&writer), 2) };
            explain().unwrap();
            filters.iter().for_each(|filter| install(filter).unwrap());
            raw(libc::SYS_chroot, [0x1234, 0, 0, 0, 0, 0xabc]);
        });
        assert!(child.exited_with(159), "{child:?}");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(
            text,
            "mayfly-monitor: forbidden system call a1 (all numbers hexadecimal) with 1234 0 0 0 0 abc\n"
        );
    }

    #[test]
    fn a_test_that_is_killed_is_seen() {
        assert!(Child::run(die_by_sigsys).killed_by(libc::SIGSYS));
    }

    /// Prints what the filters cost; `cargo test --release -- --ignored --nocapture cost`.
    #[test]
    #[ignore = "a measurement"]
    fn cost() {
        use std::time::Instant;
        let forks = |label: &str| {
            let begun = Instant::now();
            for _ in 0..500 {
                Child::run(|| {});
            }
            println!(
                "{label}: fork + exit + wait {:.0} µs",
                begun.elapsed().as_secs_f64() * 2000.0
            );
        };
        let child = Child::run(|| {
            forks("no filter");
            let begun = Instant::now();
            let filters = inherited(Mode::Enforce).unwrap();
            println!(
                "inherited: compile {:?}, {} instructions",
                begun.elapsed(),
                filters[0].len()
            );
            let begun = Instant::now();
            filters.iter().for_each(|filter| install(filter).unwrap());
            println!("inherited: install {:?}", begun.elapsed());
            forks("inherited");
            let own = OwnFilter::compile(Phases::INSTANCE, Mode::Enforce).unwrap();
            for round in 0..3 {
                Child::run(|| {
                    let begun = Instant::now();
                    own.install().unwrap();
                    println!(
                        "own, round {round}: install {:?}, {} instructions",
                        begun.elapsed(),
                        own.0.len()
                    );
                    let begun = Instant::now();
                    for _ in 0..100_000 {
                        raw(libc::SYS_ioctl, [u64::MAX, 0xae80, 0, 0, 0, 0]);
                    }
                    println!(
                        "  ioctl(-1, KVM_RUN) {:.0} ns",
                        begun.elapsed().as_secs_f64() * 1e4
                    );
                    let begun = Instant::now();
                    for _ in 0..100_000 {
                        raw(libc::SYS_getppid, [0; 6]);
                    }
                    println!("  getppid {:.0} ns", begun.elapsed().as_secs_f64() * 1e4);
                });
            }
        });
        assert!(child.exited_with(0), "{child:?}");
    }

    fn c(value: i32) -> u64 {
        u64::from(value.unsigned_abs())
    }
}
