//! The system calls that the monitor itself may make, as data. What is not here ends the process.
//!
//! A guest's calls are answered by the monitor, which forwards many: a fault of the monitor may let a guest choose the
//! arguments of one of *these*, and no other. So a row names what a phase needs and no more, and its conditions keep out what
//! the same number could do besides. Pointers cannot be judged here; paths are landlock's affair (`files`).
//!
//! Rows of one call are alternatives, the conditions of a row must all hold. The row that is used most comes first within
//! its call. A row may answer a call with an error instead of allowing it: what a program may well ask for, and what is not to be
//! had here. `kernel_reads` says how much of an argument the kernel looks at: more must not be compared, less must not be.

use kvm_bindings as kvm;
use libc::c_long;

use crate::clock::timers::SET_TICKS;
use crate::fs::descriptors::EXECUTABLE;
use crate::signals::host::STOP_SIGNAL;

/// Sets of phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases(u8);

impl Phases {
    /// `serve`: supervises; and every child of it until it confines itself.
    pub const SERVE: Self = Self(1);
    /// A guest on its way to ready, in a child of `serve`.
    pub const BOOT: Self = Self(2);
    /// A guest of one call.
    pub const INSTANCE: Self = Self(4);
    pub const GUEST: Self = Self(2 | 4);
    pub const EVERY: Self = Self(1 | 2 | 4);

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How much of an argument the kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Int,
    Long,
}

/// What an argument is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    Is(u64),
    /// The bits of the mask have this value.
    Bits {
        mask: u64,
        value: u64,
    },
    /// Anything but this; of an int.
    IsNot(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub argument: u8,
    pub kernel_reads: Width,
    pub test: Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// The call is not made and ends with this error. All such rows of one call have the same; without conditions it is the
    /// answer to whatever no other row allows.
    Answer(i32),
}

#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub call: c_long,
    pub phases: Phases,
    pub conditions: &'static [Condition],
    pub verdict: Verdict,
    #[expect(dead_code, reason = "for whoever reads the table")]
    pub comment: &'static str,
}

const fn row(call: c_long, phases: Phases, conditions: &'static [Condition], comment: &'static str) -> Row {
    Row {
        call,
        phases,
        conditions,
        verdict: Verdict::Allow,
        comment,
    }
}

/// An error for every phase.
const fn answer(call: c_long, errno: i32, conditions: &'static [Condition], comment: &'static str) -> Row {
    Row {
        call,
        phases: Phases::EVERY,
        conditions,
        verdict: Verdict::Answer(errno),
        comment,
    }
}

/// Any arguments, in every phase.
const fn any(call: c_long, comment: &'static str) -> Row {
    row(call, Phases::EVERY, &[], comment)
}

/// Any arguments, where a guest runs.
const fn guest(call: c_long, comment: &'static str) -> Row {
    row(call, Phases::GUEST, &[], comment)
}

/// Any arguments, in `serve` alone.
const fn serve(call: c_long, comment: &'static str) -> Row {
    row(call, Phases::SERVE, &[], comment)
}

pub const fn int(argument: u8, value: u64) -> Condition {
    Condition {
        argument,
        kernel_reads: Width::Int,
        test: Test::Is(value),
    }
}

const fn long(argument: u8, value: u64) -> Condition {
    Condition {
        argument,
        kernel_reads: Width::Long,
        test: Test::Is(value),
    }
}

pub const fn bits(argument: u8, mask: u64, value: u64) -> Condition {
    Condition {
        argument,
        kernel_reads: Width::Int,
        test: Test::Bits { mask, value },
    }
}

const fn int_not(argument: u8, value: u64) -> Condition {
    Condition {
        argument,
        kernel_reads: Width::Int,
        test: Test::IsNot(value),
    }
}

/// The number of the monitor's own file, which stays what it is: nothing else can be put there.
const OWN_FILE: u64 = c(EXECUTABLE);

/// The constants of libc are ints and never negative here.
#[allow(clippy::cast_sign_loss)]
const fn c(value: i32) -> u64 {
    value as u64
}

/// A request with a structure, as the kernel's `_IOC` composes it.
#[allow(clippy::cast_possible_truncation)]
const fn kvm_request<T>(direction: u64, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | 0xae << 8 | number
}

const fn kvm_plain(number: u64) -> u64 {
    0xae << 8 | number
}

const WRITE: u64 = 1;
const READ: u64 = 2;

const NOT_EXECUTABLE: Condition = bits(2, c(libc::PROT_EXEC), 0);
const UNIX: Condition = int(0, c(libc::AF_UNIX));

/// Requests that libc does not have, from <asm-generic/ioctls.h> and <linux/fs.h>.
const TCGETS2: u64 = 0x802c_542a;
const TCSETS2: u64 = 0x402c_542b;
const TCSETSW2: u64 = 0x402c_542c;
const TCSETSF2: u64 = 0x402c_542d;
const FIGETBSZ: u64 = 2;

/// Commands that libc does not have, from <linux/fcntl.h>.
const F_GETSIG: i32 = 11;
const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_DUPFD_QUERY: i32 = 1027;
const F_CREATED_QUERY: i32 = 1028;

/// From <linux/kcmp.h>.
const KCMP_FILE: u64 = 0;

/// What a new thread shares: everything (`pthread_create`).
const THREAD: u64 = c(libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID);
/// What a child shares that executes a program at once.
const VFORK: u64 = c(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD);
/// `fork` of the C library.
const FORK: u64 = c(libc::CLONE_CHILD_CLEARTID | libc::CLONE_CHILD_SETTID | libc::SIGCHLD);

macro_rules! ioctl {
    ($request:expr, $comment:literal) => {
        row(libc::SYS_ioctl, Phases::EVERY, &[int(1, $request)], $comment)
    };
}

macro_rules! fcntl {
    ($command:expr, $comment:literal) => {
        row(libc::SYS_fcntl, Phases::EVERY, &[int(1, c($command))], $comment)
    };
}

macro_rules! node {
    ($kind:expr, $comment:literal) => {
        row(
            libc::SYS_mknodat,
            Phases::GUEST,
            &[bits(2, c_mode(libc::S_IFMT), c_mode($kind))],
            $comment,
        )
    };
}

macro_rules! tcp_option {
    ($option:expr) => {
        row(
            libc::SYS_setsockopt,
            Phases::GUEST,
            &[int(1, c(libc::IPPROTO_TCP)), int(2, c($option))],
            "of a connection that the broker made",
        )
    };
}

macro_rules! terminal {
    ($request:expr) => {
        answer(libc::SYS_ioctl, libc::ENOTTY, &[int(1, $request)], "")
    };
}

pub const ROWS: &[Row] = &[
    // Running a guest. The devices are open before the jail; no other device file ever is but the five harmless ones.
    ioctl!(kvm_plain(0x80), "KVM_RUN"),
    ioctl!(kvm_request::<kvm::kvm_sregs>(READ, 0x83), "KVM_GET_SREGS"),
    ioctl!(kvm_request::<kvm::kvm_sregs>(WRITE, 0x84), "KVM_SET_SREGS"),
    ioctl!(kvm_request::<kvm::kvm_regs>(READ, 0x81), "KVM_GET_REGS"),
    ioctl!(kvm_request::<kvm::kvm_regs>(WRITE, 0x82), "KVM_SET_REGS"),
    ioctl!(
        kvm_request::<kvm::kvm_userspace_memory_region>(WRITE, 0x46),
        "KVM_SET_USER_MEMORY_REGION"
    ),
    ioctl!(kvm_request::<kvm::kvm_xsave>(READ, 0xa4), "KVM_GET_XSAVE"),
    ioctl!(kvm_request::<kvm::kvm_xsave>(WRITE, 0xa5), "KVM_SET_XSAVE"),
    ioctl!(kvm_request::<kvm::kvm_xcrs>(WRITE, 0xa7), "KVM_SET_XCRS"),
    ioctl!(kvm_request::<kvm::kvm_msrs>(WRITE, 0x89), "KVM_SET_MSRS"),
    ioctl!(kvm_request::<kvm::kvm_cpuid2>(WRITE, 0x90), "KVM_SET_CPUID2"),
    ioctl!(kvm_plain(0x41), "KVM_CREATE_VCPU"),
    ioctl!(kvm_plain(0x01), "KVM_CREATE_VM"),
    ioctl!(kvm_plain(0x03), "KVM_CHECK_EXTENSION"),
    ioctl!(
        kvm_plain(0x04),
        "KVM_GET_VCPU_MMAP_SIZE: kvm-ioctls asks for each VM"
    ),
    ioctl!(kvm_plain(0xa3), "KVM_GET_TSC_KHZ"),
    ioctl!(
        kvm_request::<kvm::kvm_device_attr>(WRITE, 0xe1),
        "KVM_SET_DEVICE_ATTR: a vCPU's time-stamp counter is the host's"
    ),
    ioctl!(
        kvm_request::<kvm::kvm_cpuid2>(READ | WRITE, 0x05),
        "KVM_GET_SUPPORTED_CPUID: behind an exec"
    ),
    // Flags of descriptors, and questions.
    ioctl!(SET_TICKS, "how often a timerfd of the snapshot had expired"),
    ioctl!(libc::FIONBIO, "the non-blocking flag"),
    ioctl!(libc::FIOCLEX, "the close-on-exec flag"),
    ioctl!(libc::FIONCLEX, ""),
    ioctl!(libc::FIONREAD, "bytes to read"),
    ioctl!(libc::TIOCOUTQ, "bytes not yet sent"),
    ioctl!(FIGETBSZ, "block size"),
    ioctl!(libc::TCGETS, "isatty"),
    ioctl!(TCGETS2, ""),
    ioctl!(libc::TIOCGWINSZ, "size of a terminal"),
    ioctl!(libc::TIOCGPGRP, ""),
    ioctl!(libc::TIOCGSID, ""),
    // There is no terminal in a jail, whatever a descriptor may lead to.
    terminal!(libc::TCSETS),
    terminal!(libc::TCSETSW),
    terminal!(libc::TCSETSF),
    terminal!(TCSETS2),
    terminal!(TCSETSW2),
    terminal!(TCSETSF2),
    terminal!(libc::TIOCSWINSZ),
    terminal!(libc::TIOCSPGRP),
    terminal!(libc::TIOCSCTTY),
    terminal!(libc::TIOCNOTTY),
    terminal!(libc::TCSBRK),
    terminal!(libc::TCXONC),
    terminal!(libc::TCFLSH),
    // Reading and writing.
    any(libc::SYS_read, ""),
    any(libc::SYS_write, ""),
    any(libc::SYS_readv, ""),
    any(libc::SYS_writev, ""),
    any(libc::SYS_pread64, ""),
    any(libc::SYS_pwrite64, ""),
    any(libc::SYS_preadv, ""),
    any(libc::SYS_pwritev, ""),
    any(libc::SYS_preadv2, ""),
    any(libc::SYS_pwritev2, ""),
    any(libc::SYS_lseek, ""),
    any(libc::SYS_sendfile, ""),
    any(libc::SYS_copy_file_range, ""),
    any(libc::SYS_fsync, ""),
    any(libc::SYS_fdatasync, ""),
    any(libc::SYS_ftruncate, ""),
    any(libc::SYS_fallocate, ""),
    guest(libc::SYS_splice, ""),
    guest(libc::SYS_tee, ""),
    guest(libc::SYS_sync_file_range, ""),
    guest(libc::SYS_fadvise64, ""),
    guest(libc::SYS_flock, ""),
    // Descriptors.
    row(
        libc::SYS_close,
        Phases::EVERY,
        &[int_not(0, OWN_FILE)],
        "the monitor's own file stays at its number",
    ),
    row(
        libc::SYS_close_range,
        Phases::EVERY,
        &[bits(1, !0x7ff, 0)],
        "the guest's numbers",
    ),
    any(libc::SYS_dup, ""),
    row(libc::SYS_dup2, Phases::EVERY, &[int_not(1, OWN_FILE)], ""),
    row(libc::SYS_dup3, Phases::EVERY, &[int_not(1, OWN_FILE)], ""),
    any(libc::SYS_pipe2, ""),
    any(libc::SYS_memfd_create, ""),
    any(libc::SYS_eventfd2, ""),
    any(libc::SYS_signalfd4, ""),
    any(libc::SYS_timerfd_create, ""),
    any(libc::SYS_timerfd_settime, ""),
    any(libc::SYS_timerfd_gettime, ""),
    fcntl!(libc::F_GETFL, ""),
    fcntl!(libc::F_SETFL, ""),
    fcntl!(libc::F_GETFD, ""),
    fcntl!(libc::F_SETFD, ""),
    fcntl!(libc::F_DUPFD, ""),
    fcntl!(libc::F_DUPFD_CLOEXEC, ""),
    fcntl!(F_DUPFD_QUERY, ""),
    fcntl!(F_CREATED_QUERY, ""),
    fcntl!(libc::F_GETLK, ""),
    fcntl!(libc::F_SETLK, ""),
    fcntl!(libc::F_SETLKW, ""),
    fcntl!(libc::F_OFD_GETLK, ""),
    fcntl!(libc::F_OFD_SETLK, ""),
    fcntl!(libc::F_OFD_SETLKW, ""),
    fcntl!(libc::F_GETPIPE_SZ, ""),
    fcntl!(libc::F_SETPIPE_SZ, ""),
    fcntl!(libc::F_GETLEASE, ""),
    fcntl!(libc::F_GETOWN, ""),
    fcntl!(F_GETSIG, ""),
    fcntl!(F_SETSIG, "says which signal, not to whom"),
    fcntl!(F_GETOWN_EX, "the C library's F_GETOWN"),
    answer(
        libc::SYS_fcntl,
        libc::EPERM,
        &[int(1, c(libc::F_SETOWN))],
        "it would signal any process",
    ),
    answer(
        libc::SYS_fcntl,
        libc::EPERM,
        &[int(1, c(F_SETOWN_EX))],
        "the same",
    ),
    fcntl!(libc::F_ADD_SEALS, "synthetic files are sealed"),
    fcntl!(libc::F_GET_SEALS, ""),
    // Files. What a path may reach is decided by openat2's resolve flags first, by landlock behind it.
    any(libc::SYS_openat2, "how guest paths are resolved"),
    any(
        libc::SYS_openat,
        "opens a judged reference through /proc/thread-self/fd; the C library's open",
    ),
    any(libc::SYS_newfstatat, ""),
    any(libc::SYS_fstat, ""),
    any(libc::SYS_statx, ""),
    any(libc::SYS_fstatfs, ""),
    any(libc::SYS_readlinkat, ""),
    guest(
        libc::SYS_readlink,
        "the standard library's: what the descriptors of a snapshot are; the C library's at its start",
    ),
    row(
        libc::SYS_kcmp,
        Phases::BOOT,
        &[int(2, KCMP_FILE)],
        "which of them are one open file",
    ),
    any(libc::SYS_getdents64, ""),
    any(libc::SYS_faccessat2, ""),
    any(libc::SYS_mkdirat, ""),
    any(libc::SYS_unlinkat, "serve clears the scratch directories"),
    guest(libc::SYS_renameat2, ""),
    guest(libc::SYS_linkat, ""),
    guest(libc::SYS_symlinkat, ""),
    node!(libc::S_IFREG, "no device"),
    node!(0, "the same as a regular file"),
    node!(libc::S_IFIFO, ""),
    node!(libc::S_IFSOCK, "a name only: nobody listens there"),
    serve(
        libc::SYS_mkdir,
        "the standard library's, for the scratch directories; so are the next three",
    ),
    serve(libc::SYS_rmdir, ""),
    serve(libc::SYS_unlink, ""),
    serve(libc::SYS_rename, ""),
    any(libc::SYS_fchmod, ""),
    guest(libc::SYS_fchmodat, ""),
    guest(libc::SYS_fchownat, ""),
    guest(libc::SYS_utimensat, ""),
    guest(
        libc::SYS_truncate,
        "by the path of a reference: opening and closing the file would end the guest's locks on it",
    ),
    guest(libc::SYS_fchdir, "the guest's working directory is the host's"),
    guest(libc::SYS_umask, ""),
    // Memory. The monitor has all its code at its start: nothing is ever made executable on the host.
    row(
        libc::SYS_mmap,
        Phases::EVERY,
        &[NOT_EXECUTABLE],
        "never executable",
    ),
    row(
        libc::SYS_mprotect,
        Phases::EVERY,
        &[NOT_EXECUTABLE],
        "never executable",
    ),
    any(libc::SYS_munmap, ""),
    any(libc::SYS_mremap, ""),
    any(libc::SYS_madvise, ""),
    any(libc::SYS_msync, ""),
    guest(libc::SYS_mincore, "which pages a snapshot needs; mincore(2)"),
    any(libc::SYS_brk, ""),
    // Waiting.
    any(libc::SYS_poll, ""),
    any(libc::SYS_ppoll, ""),
    any(libc::SYS_epoll_create1, ""),
    any(libc::SYS_epoll_ctl, ""),
    any(libc::SYS_epoll_wait, ""),
    any(libc::SYS_epoll_pwait, ""),
    any(libc::SYS_epoll_pwait2, ""),
    guest(libc::SYS_select, ""),
    guest(libc::SYS_pselect6, ""),
    guest(libc::SYS_pause, ""),
    guest(libc::SYS_inotify_init1, ""),
    guest(libc::SYS_inotify_add_watch, ""),
    guest(libc::SYS_inotify_rm_watch, ""),
    any(libc::SYS_futex, ""),
    any(libc::SYS_nanosleep, ""),
    any(libc::SYS_clock_nanosleep, ""),
    any(libc::SYS_restart_syscall, "the kernel's own, after a stop"),
    // Time.
    any(libc::SYS_clock_gettime, "where the vDSO cannot answer"),
    any(libc::SYS_clock_getres, ""),
    any(libc::SYS_gettimeofday, ""),
    any(libc::SYS_time, ""),
    guest(
        libc::SYS_timer_create,
        "signals go to the process and its threads only",
    ),
    guest(libc::SYS_timer_settime, ""),
    guest(libc::SYS_timer_gettime, ""),
    guest(libc::SYS_timer_getoverrun, ""),
    guest(libc::SYS_timer_delete, ""),
    guest(libc::SYS_getitimer, ""),
    guest(libc::SYS_setitimer, ""),
    guest(libc::SYS_alarm, ""),
    guest(libc::SYS_times, ""),
    // Sockets: the guest's are unix sockets whose names lie in its private directory. No address of the guest's is ever passed on.
    row(libc::SYS_socket, Phases::GUEST, &[UNIX], "unix only"),
    row(libc::SYS_socketpair, Phases::EVERY, &[UNIX], "unix only"),
    guest(
        libc::SYS_bind,
        "names in the private directory: landlock keeps all others from being made",
    ),
    guest(libc::SYS_connect, "the same; TCP is landlock's to refuse"),
    guest(libc::SYS_listen, ""),
    guest(
        libc::SYS_accept4,
        "connections inside; the call's: the listener is closed after it",
    ),
    guest(libc::SYS_getsockname, "which name a socket has"),
    guest(libc::SYS_getpeername, ""),
    any(libc::SYS_sendto, ""),
    any(libc::SYS_recvfrom, ""),
    any(libc::SYS_sendmsg, ""),
    any(libc::SYS_recvmsg, ""),
    any(libc::SYS_shutdown, ""),
    row(
        libc::SYS_setsockopt,
        Phases::EVERY,
        &[int(1, c(libc::SOL_SOCKET))],
        "nothing below the socket",
    ),
    tcp_option!(libc::TCP_NODELAY),
    tcp_option!(libc::TCP_CORK),
    tcp_option!(libc::TCP_QUICKACK),
    tcp_option!(libc::TCP_KEEPIDLE),
    tcp_option!(libc::TCP_KEEPINTVL),
    tcp_option!(libc::TCP_KEEPCNT),
    tcp_option!(libc::TCP_USER_TIMEOUT),
    row(
        libc::SYS_getsockopt,
        Phases::EVERY,
        &[int(1, c(libc::SOL_SOCKET))],
        "nothing below the socket",
    ),
    row(
        libc::SYS_getsockopt,
        Phases::GUEST,
        &[int(1, c(libc::IPPROTO_TCP))],
        "of a connection that the broker made",
    ),
    // Threads and processes.
    row(libc::SYS_clone, Phases::GUEST, &[long(0, THREAD)], "a thread"),
    row(
        libc::SYS_clone,
        Phases::SERVE,
        &[long(0, FORK)],
        "a process, by fork",
    ),
    row(
        libc::SYS_clone,
        Phases::GUEST,
        &[long(0, FORK)],
        "a child of the guest's process",
    ),
    row(
        libc::SYS_clone,
        Phases::GUEST,
        &[long(0, VFORK)],
        "the same, in its parent's memory until it executes",
    ),
    row(
        libc::SYS_execveat,
        Phases::GUEST,
        &[int(0, OWN_FILE), int(4, c(libc::AT_EMPTY_PATH))],
        "the monitor's own file, which landlock lets be executed alone",
    ),
    row(
        libc::SYS_arch_prctl,
        Phases::GUEST,
        &[int(0, 0x1002)],
        "its start: the thread's own memory",
    ),
    guest(libc::SYS_set_tid_address, "its start"),
    answer(
        libc::SYS_clone3,
        libc::ENOSYS,
        &[],
        "its arguments lie in memory: whoever asks goes on to clone",
    ),
    any(libc::SYS_set_robust_list, "start of a thread"),
    any(libc::SYS_rseq, "start of a thread"),
    any(
        libc::SYS_sched_getaffinity,
        "start of a thread; the guest's number of CPUs",
    ),
    any(libc::SYS_sched_yield, ""),
    any(libc::SYS_getcpu, ""),
    guest(libc::SYS_sched_getscheduler, ""),
    guest(libc::SYS_sched_getattr, ""),
    guest(libc::SYS_sched_rr_get_interval, ""),
    guest(libc::SYS_getpriority, ""),
    row(
        libc::SYS_sched_setaffinity,
        Phases::GUEST,
        &[int(0, 0)],
        "a thread changes itself alone; the next two likewise",
    ),
    row(libc::SYS_sched_setscheduler, Phases::GUEST, &[int(0, 0)], ""),
    row(
        libc::SYS_sched_setscheduler,
        Phases::SERVE,
        &[int(1, 5)],
        "an instance that has computed long yields: SCHED_IDLE",
    ),
    row(libc::SYS_setpriority, Phases::GUEST, &[int(0, 0), int(1, 0)], ""),
    row(
        libc::SYS_setpriority,
        Phases::SERVE,
        &[int(0, 1), int(2, 19)],
        "the same, its other threads: the lowest for its group",
    ),
    guest(
        libc::SYS_membarrier,
        "interrupts the CPUs that run this process, no others",
    ),
    any(libc::SYS_exit, ""),
    any(libc::SYS_exit_group, ""),
    any(libc::SYS_getpid, ""),
    any(libc::SYS_gettid, ""),
    any(libc::SYS_getppid, ""),
    any(libc::SYS_getuid, ""),
    any(libc::SYS_geteuid, ""),
    any(libc::SYS_getgid, ""),
    any(libc::SYS_getegid, ""),
    any(libc::SYS_getpgrp, ""),
    any(libc::SYS_getpgid, ""),
    any(libc::SYS_getsid, ""),
    any(libc::SYS_getrusage, ""),
    any(libc::SYS_uname, ""),
    any(libc::SYS_getrandom, ""),
    any(libc::SYS_wait4, "own children"),
    any(libc::SYS_waitid, ""),
    guest(
        libc::SYS_pidfd_open,
        "the processes of the instance, by landlock's scope for whatever it is used",
    ),
    guest(libc::SYS_pidfd_send_signal, "the same"),
    guest(libc::SYS_setpgid, "own children, in the own session"),
    any(libc::SYS_setsid, "an instance leads its own session"),
    // Signals: a guest's processes signal each other. To others landlock's scope keeps them from it, and a pid namespace.
    any(libc::SYS_rt_sigaction, ""),
    any(libc::SYS_rt_sigprocmask, ""),
    any(libc::SYS_rt_sigreturn, ""),
    any(libc::SYS_sigaltstack, ""),
    guest(libc::SYS_rt_sigpending, ""),
    guest(libc::SYS_rt_sigtimedwait, ""),
    row(
        libc::SYS_kill,
        Phases::EVERY,
        &[int_not(0, 0xffff_ffff)],
        "one process or a group, never everybody (-1), which the monitor spells out",
    ),
    any(libc::SYS_tgkill, ""),
    guest(libc::SYS_rt_sigqueueinfo, ""),
    guest(libc::SYS_rt_tgsigqueueinfo, ""),
    // Settings of the own process.
    row(
        libc::SYS_prctl,
        Phases::EVERY,
        &[int(0, c(libc::PR_SET_NAME))],
        "a thread's name",
    ),
    row(
        libc::SYS_prctl,
        Phases::EVERY,
        &[int(0, c(libc::PR_GET_NAME))],
        "",
    ),
    row(
        libc::SYS_prctl,
        Phases::GUEST,
        &[int(0, c(libc::PR_SET_TIMERSLACK))],
        "how exactly a thread's sleeps end",
    ),
    row(
        libc::SYS_prctl,
        Phases::GUEST,
        &[int(0, c(libc::PR_GET_TIMERSLACK))],
        "",
    ),
    row(
        libc::SYS_prctl,
        Phases::SERVE,
        &[int(0, c(libc::PR_SET_PDEATHSIG))],
        "a child dies with serve",
    ),
    row(
        libc::SYS_prctl,
        Phases::GUEST,
        &[int(0, c(libc::PR_SET_PDEATHSIG)), long(1, c(STOP_SIGNAL))],
        "a child ends with its instance",
    ),
    row(
        libc::SYS_prctl,
        Phases::GUEST,
        &[int(0, c(libc::PR_SET_PDEATHSIG)), long(1, c(libc::SIGKILL))],
        "until it executes: with its parent",
    ),
    row(
        libc::SYS_prctl,
        Phases::GUEST,
        &[int(0, c(libc::PR_SET_DUMPABLE)), long(1, 0)],
        "an exec undoes it",
    ),
    row(
        libc::SYS_prctl,
        Phases::SERVE,
        &[int(0, c(libc::PR_SET_CHILD_SUBREAPER))],
        "an instance keeps its orphans",
    ),
    row(
        libc::SYS_prctl,
        Phases::SERVE,
        &[int(0, c(libc::PR_SET_NO_NEW_PRIVS))],
        "before a child's own filter",
    ),
    row(
        libc::SYS_prlimit64,
        Phases::EVERY,
        &[int(0, 0), long(2, 0)],
        "questions",
    ),
    row(
        libc::SYS_prlimit64,
        Phases::GUEST,
        &[int(0, 0), int(1, c_resource(libc::RLIMIT_CORE))],
        "no core of a guest that ends by a signal",
    ),
    row(
        libc::SYS_prlimit64,
        Phases::GUEST,
        &[int(0, 0), int(1, c_resource(libc::RLIMIT_CPU))],
        "a guest limits its own processor time; the hard limit cannot be raised",
    ),
    row(
        libc::SYS_prlimit64,
        Phases::SERVE,
        &[int(0, 0)],
        "a child's own limits",
    ),
    serve(libc::SYS_seccomp, "a child's own filter"),
    serve(libc::SYS_landlock_create_ruleset, "a child's own rules"),
    serve(libc::SYS_landlock_add_rule, ""),
    serve(libc::SYS_landlock_restrict_self, ""),
];

const fn c_mode(value: libc::mode_t) -> u64 {
    value as u64
}

const fn c_resource(value: libc::__rlimit_resource_t) -> u64 {
    value as u64
}
