//! The system calls of the network broker, as data, and the jail that it puts on. It runs no guest's code, but reads what guests write: requests,
//! datagrams, questions for names.
//!
//! What is not here ends it, and with it the network of its function's instances.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::Path;

use libc::{SYS_socket, c_long};
use seccompiler::{BpfProgram, SeccompAction};

use super::program::{Rule, assemble};
use super::seccomp::{self, SeccompError};
use super::table::{Condition, bits, int};
use super::{JailError, enclosure, files, prctl};

/// A call with the conditions of one alternative; without any, with whatever arguments.
type Call = (c_long, &'static [Condition]);

const fn any(call: c_long) -> Call {
    (call, &[])
}

/// An argument that is small and positive.
const fn argument(value: i32) -> u64 {
    value.unsigned_abs() as u64
}

/// What a socket's type may say besides the type.
const TYPE: u64 = 0xf;

const CALLS: &[Call] = &[
    // Waiting, and messages of instances, guests and the network.
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    any(libc::SYS_recvmsg),
    any(libc::SYS_recvfrom),
    any(libc::SYS_sendmsg),
    any(libc::SYS_sendto),
    any(libc::SYS_read),
    any(libc::SYS_readv),
    any(libc::SYS_write),
    any(libc::SYS_writev),
    // Sockets: names of guests, TCP and UDP, and the kernel's list of this machine's addresses (netlink, protocol 0: routes).
    (SYS_socket, &[int(0, argument(libc::AF_UNIX))]),
    (
        SYS_socket,
        &[
            int(0, argument(libc::AF_INET)),
            bits(1, TYPE, argument(libc::SOCK_STREAM)),
        ],
    ),
    (
        SYS_socket,
        &[
            int(0, argument(libc::AF_INET)),
            bits(1, TYPE, argument(libc::SOCK_DGRAM)),
        ],
    ),
    (
        SYS_socket,
        &[
            int(0, argument(libc::AF_INET6)),
            bits(1, TYPE, argument(libc::SOCK_STREAM)),
        ],
    ),
    (
        SYS_socket,
        &[
            int(0, argument(libc::AF_INET6)),
            bits(1, TYPE, argument(libc::SOCK_DGRAM)),
        ],
    ),
    (
        SYS_socket,
        &[
            int(0, argument(libc::AF_NETLINK)),
            int(2, argument(libc::NETLINK_ROUTE)),
        ],
    ),
    any(libc::SYS_connect),
    any(libc::SYS_bind),
    any(libc::SYS_listen),
    any(libc::SYS_accept4),
    any(libc::SYS_getsockname),
    any(libc::SYS_getpeername),
    any(libc::SYS_getsockopt),
    // Sizes and times; nothing of a protocol, no filter.
    (
        libc::SYS_setsockopt,
        &[
            int(1, argument(libc::SOL_SOCKET)),
            int(2, argument(libc::SO_SNDBUF)),
        ],
    ),
    (
        libc::SYS_setsockopt,
        &[
            int(1, argument(libc::SOL_SOCKET)),
            int(2, argument(libc::SO_RCVBUF)),
        ],
    ),
    (
        libc::SYS_setsockopt,
        &[
            int(1, argument(libc::SOL_SOCKET)),
            int(2, argument(libc::SO_SNDTIMEO)),
        ],
    ),
    (
        libc::SYS_setsockopt,
        &[
            int(1, argument(libc::SOL_SOCKET)),
            int(2, argument(libc::SO_RCVTIMEO)),
        ],
    ),
    // Files: /etc/hosts and resolv.conf, private directories; landlock says which. None is made but a socket's name.
    any(libc::SYS_open),
    any(libc::SYS_openat),
    any(libc::SYS_fstat),
    any(libc::SYS_stat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_statx),
    any(libc::SYS_lseek),
    any(libc::SYS_getdents64),
    any(libc::SYS_unlink),
    any(libc::SYS_unlinkat),
    any(libc::SYS_close),
    any(libc::SYS_fcntl),
    (libc::SYS_ioctl, &[int(1, FIONBIO)]),
    // Memory, never executable.
    (libc::SYS_mmap, &[bits(2, argument(libc::PROT_EXEC), 0)]),
    (libc::SYS_mprotect, &[bits(2, argument(libc::PROT_EXEC), 0)]),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    any(libc::SYS_madvise),
    any(libc::SYS_brk),
    // Threads for names; no process.
    (
        libc::SYS_clone,
        &[bits(
            0,
            argument(libc::CLONE_THREAD),
            argument(libc::CLONE_THREAD),
        )],
    ),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_rseq),
    any(libc::SYS_set_tid_address),
    any(libc::SYS_futex),
    any(libc::SYS_gettid),
    any(libc::SYS_getpid),
    any(libc::SYS_sched_yield),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_getrandom),
    (libc::SYS_prctl, &[int(0, argument(libc::PR_SET_NAME))]),
    // With its parent, which the change of the user made it forget.
    (libc::SYS_prctl, &[int(0, argument(libc::PR_SET_PDEATHSIG))]),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
];

/// Its arguments lie in memory: whoever asks goes on to clone.
const CLONE3: u32 = 435;

/// The request that makes a descriptor of the standard library not wait.
const FIONBIO: u64 = 0x5421;

fn filter() -> Result<BpfProgram, SeccompError> {
    let mut calls: BTreeMap<u32, Vec<Vec<Condition>>> = BTreeMap::new();
    for (call, conditions) in CALLS {
        let number = u32::try_from(*call).unwrap_or(u32::MAX);
        calls.entry(number).or_default().push(conditions.to_vec());
    }
    let rule = |(number, alternatives): (u32, Vec<Vec<Condition>>)| {
        let rule = if alternatives.iter().any(Vec::is_empty) {
            Rule::Always(SeccompAction::Allow)
        } else {
            Rule::If {
                alternatives,
                then: SeccompAction::Allow,
                otherwise: SeccompAction::KillProcess,
            }
        };
        (number, rule)
    };
    let mut rules: Vec<_> = calls.into_iter().map(rule).collect();
    rules.push((
        CLONE3,
        Rule::Always(SeccompAction::Errno(libc::ENOSYS.unsigned_abs())),
    ));
    rules.sort_by_key(|(number, _)| *number);
    Ok(assemble(&rules, &SeccompAction::KillProcess)?)
}

/// Confines the network broker, for good: it becomes the user that the private directories belong to, without privileges, may
/// reach of the host's files those directories and /etc (names), and makes the system calls above.
pub fn confine(scratch: BorrowedFd<'_>) -> Result<(), JailError> {
    enclosure::become_owner(scratch)?;
    prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 0)?;
    prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    files::restrict_broker(Path::new("/etc"), scratch)?;
    Ok(seccomp::install(&filter()?)?)
}

#[cfg(test)]
mod tests {
    use super::super::program::tests::{NATIVE, run};
    use super::super::testing::{Child, raw};
    use super::*;

    #[test]
    fn it_makes_sockets_and_threads_and_no_processes_or_files() {
        let program = filter().unwrap();
        let allow: u32 = SeccompAction::Allow.into();
        let says =
            |call: c_long, args: [u64; 6]| run(&program, NATIVE, u32::try_from(call).unwrap(), args) == allow;
        let inet = argument(libc::AF_INET);
        let thread = argument(libc::CLONE_THREAD | libc::CLONE_VM);
        for (call, args) in [
            (
                SYS_socket,
                [inet, argument(libc::SOCK_STREAM | libc::SOCK_CLOEXEC), 0, 0, 0, 0],
            ),
            (SYS_socket, [argument(libc::AF_NETLINK), 3, 0, 0, 0, 0]),
            (libc::SYS_clone, [thread, 0, 0, 0, 0, 0]),
            (
                libc::SYS_mmap,
                [0, 1, argument(libc::PROT_READ | libc::PROT_WRITE), 0, 0, 0],
            ),
        ] {
            assert!(says(call, args), "{call} {args:?}");
        }
        for (call, args) in [
            (SYS_socket, [inet, argument(libc::SOCK_RAW), 0, 0, 0, 0]),
            (SYS_socket, [argument(libc::AF_PACKET), 3, 0, 0, 0, 0]),
            (SYS_socket, [argument(libc::AF_NETLINK), 3, 9, 0, 0, 0]),
            (libc::SYS_clone, [0x11, 0, 0, 0, 0, 0]),
            (libc::SYS_mmap, [0, 1, argument(libc::PROT_EXEC), 0, 0, 0]),
            (libc::SYS_execve, [0; 6]),
            (libc::SYS_ptrace, [0; 6]),
            (libc::SYS_kill, [1, 9, 0, 0, 0, 0]),
            (libc::SYS_renameat, [0; 6]),
            (
                libc::SYS_setsockopt,
                [0, 1, argument(libc::SO_ATTACH_FILTER), 0, 0, 0],
            ),
        ] {
            assert!(!says(call, args), "{call} {args:?}");
        }
    }

    #[test]
    fn what_it_does_not_need_kills() {
        let child = Child::run(|| {
            prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1).unwrap();
            seccomp::install(&filter().unwrap()).unwrap();
            raw(libc::SYS_unshare, [0; 6]);
        });
        assert!(child.killed_by(libc::SIGSYS), "{child:?}");
    }
}
