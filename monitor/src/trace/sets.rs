//! Numbers by name: what the kernel's headers call flags, operations, errors and signals.
#![allow(
    clippy::cast_lossless,
    reason = "constants of several types, where `From` is not to be had"
)]

/// Names and values.
pub type Set = &'static [(&'static str, i64)];

pub const OPEN: Set = &[
    ("O_CREAT", libc::O_CREAT as i64),
    ("O_EXCL", libc::O_EXCL as i64),
    ("O_NOCTTY", libc::O_NOCTTY as i64),
    ("O_TRUNC", libc::O_TRUNC as i64),
    ("O_APPEND", libc::O_APPEND as i64),
    ("O_NONBLOCK", libc::O_NONBLOCK as i64),
    ("O_SYNC", libc::O_SYNC as i64),
    ("O_DSYNC", libc::O_DSYNC as i64),
    ("O_ASYNC", libc::O_ASYNC as i64),
    ("O_DIRECT", libc::O_DIRECT as i64),
    ("O_TMPFILE", libc::O_TMPFILE as i64),
    ("O_DIRECTORY", libc::O_DIRECTORY as i64),
    ("O_NOFOLLOW", libc::O_NOFOLLOW as i64),
    ("O_NOATIME", libc::O_NOATIME as i64),
    ("O_CLOEXEC", libc::O_CLOEXEC as i64),
    ("O_PATH", libc::O_PATH as i64),
    ("O_LARGEFILE", 0x8000),
];

pub const PROTECTION: Set = &[
    ("PROT_READ", libc::PROT_READ as i64),
    ("PROT_WRITE", libc::PROT_WRITE as i64),
    ("PROT_EXEC", libc::PROT_EXEC as i64),
    ("PROT_GROWSDOWN", libc::PROT_GROWSDOWN as i64),
    ("PROT_GROWSUP", libc::PROT_GROWSUP as i64),
];

pub const MAPPING: Set = &[
    ("MAP_SHARED_VALIDATE", libc::MAP_SHARED_VALIDATE as i64),
    ("MAP_SHARED", libc::MAP_SHARED as i64),
    ("MAP_PRIVATE", libc::MAP_PRIVATE as i64),
    ("MAP_FIXED", libc::MAP_FIXED as i64),
    ("MAP_ANONYMOUS", libc::MAP_ANONYMOUS as i64),
    ("MAP_GROWSDOWN", libc::MAP_GROWSDOWN as i64),
    ("MAP_DENYWRITE", libc::MAP_DENYWRITE as i64),
    ("MAP_EXECUTABLE", libc::MAP_EXECUTABLE as i64),
    ("MAP_LOCKED", libc::MAP_LOCKED as i64),
    ("MAP_NORESERVE", libc::MAP_NORESERVE as i64),
    ("MAP_POPULATE", libc::MAP_POPULATE as i64),
    ("MAP_NONBLOCK", libc::MAP_NONBLOCK as i64),
    ("MAP_STACK", libc::MAP_STACK as i64),
    ("MAP_HUGETLB", libc::MAP_HUGETLB as i64),
    ("MAP_SYNC", libc::MAP_SYNC as i64),
    ("MAP_FIXED_NOREPLACE", libc::MAP_FIXED_NOREPLACE as i64),
];

pub const REMAPPING: Set = &[
    ("MREMAP_MAYMOVE", libc::MREMAP_MAYMOVE as i64),
    ("MREMAP_FIXED", libc::MREMAP_FIXED as i64),
    ("MREMAP_DONTUNMAP", libc::MREMAP_DONTUNMAP as i64),
];

pub const CLONE: Set = &[
    ("CLONE_VM", libc::CLONE_VM as i64),
    ("CLONE_FS", libc::CLONE_FS as i64),
    ("CLONE_FILES", libc::CLONE_FILES as i64),
    ("CLONE_SIGHAND", libc::CLONE_SIGHAND as i64),
    ("CLONE_PIDFD", libc::CLONE_PIDFD as i64),
    ("CLONE_PTRACE", libc::CLONE_PTRACE as i64),
    ("CLONE_VFORK", libc::CLONE_VFORK as i64),
    ("CLONE_PARENT", libc::CLONE_PARENT as i64),
    ("CLONE_THREAD", libc::CLONE_THREAD as i64),
    ("CLONE_NEWNS", libc::CLONE_NEWNS as i64),
    ("CLONE_SYSVSEM", libc::CLONE_SYSVSEM as i64),
    ("CLONE_SETTLS", libc::CLONE_SETTLS as i64),
    ("CLONE_PARENT_SETTID", libc::CLONE_PARENT_SETTID as i64),
    ("CLONE_CHILD_CLEARTID", libc::CLONE_CHILD_CLEARTID as i64),
    ("CLONE_DETACHED", libc::CLONE_DETACHED as i64),
    ("CLONE_UNTRACED", libc::CLONE_UNTRACED as i64),
    ("CLONE_CHILD_SETTID", libc::CLONE_CHILD_SETTID as i64),
    ("CLONE_NEWCGROUP", libc::CLONE_NEWCGROUP as i64),
    ("CLONE_NEWUTS", libc::CLONE_NEWUTS as i64),
    ("CLONE_NEWIPC", libc::CLONE_NEWIPC as i64),
    ("CLONE_NEWUSER", libc::CLONE_NEWUSER as i64),
    ("CLONE_NEWPID", libc::CLONE_NEWPID as i64),
    ("CLONE_NEWNET", libc::CLONE_NEWNET as i64),
    ("CLONE_IO", libc::CLONE_IO as i64),
];

pub const AT: Set = &[
    ("AT_SYMLINK_NOFOLLOW", libc::AT_SYMLINK_NOFOLLOW as i64),
    ("AT_REMOVEDIR", libc::AT_REMOVEDIR as i64),
    ("AT_SYMLINK_FOLLOW", libc::AT_SYMLINK_FOLLOW as i64),
    ("AT_NO_AUTOMOUNT", libc::AT_NO_AUTOMOUNT as i64),
    ("AT_EMPTY_PATH", libc::AT_EMPTY_PATH as i64),
    ("AT_STATX_FORCE_SYNC", 0x2000),
    ("AT_STATX_DONT_SYNC", 0x4000),
    ("AT_RECURSIVE", 0x8000),
];

pub const ACCESS: Set = &[
    ("R_OK", libc::R_OK as i64),
    ("W_OK", libc::W_OK as i64),
    ("X_OK", libc::X_OK as i64),
];

pub const WAIT: Set = &[
    ("WNOHANG", libc::WNOHANG as i64),
    ("WUNTRACED", libc::WUNTRACED as i64),
    ("WEXITED", libc::WEXITED as i64),
    ("WCONTINUED", libc::WCONTINUED as i64),
    ("WNOWAIT", libc::WNOWAIT as i64),
    ("__WNOTHREAD", libc::__WNOTHREAD as i64),
    ("__WALL", libc::__WALL as i64),
    ("__WCLONE", libc::__WCLONE as i64),
];

pub const MESSAGE: Set = &[
    ("MSG_OOB", libc::MSG_OOB as i64),
    ("MSG_PEEK", libc::MSG_PEEK as i64),
    ("MSG_DONTROUTE", libc::MSG_DONTROUTE as i64),
    ("MSG_CTRUNC", libc::MSG_CTRUNC as i64),
    ("MSG_TRUNC", libc::MSG_TRUNC as i64),
    ("MSG_DONTWAIT", libc::MSG_DONTWAIT as i64),
    ("MSG_EOR", libc::MSG_EOR as i64),
    ("MSG_WAITALL", libc::MSG_WAITALL as i64),
    ("MSG_CONFIRM", libc::MSG_CONFIRM as i64),
    ("MSG_ERRQUEUE", libc::MSG_ERRQUEUE as i64),
    ("MSG_NOSIGNAL", libc::MSG_NOSIGNAL as i64),
    ("MSG_MORE", libc::MSG_MORE as i64),
    ("MSG_WAITFORONE", libc::MSG_WAITFORONE as i64),
    ("MSG_FASTOPEN", libc::MSG_FASTOPEN as i64),
    ("MSG_CMSG_CLOEXEC", libc::MSG_CMSG_CLOEXEC as i64),
];

pub const EPOLL: Set = &[("EPOLL_CLOEXEC", libc::EPOLL_CLOEXEC as i64)];

pub const EVENTFD: Set = &[
    ("EFD_SEMAPHORE", libc::EFD_SEMAPHORE as i64),
    ("EFD_CLOEXEC", libc::EFD_CLOEXEC as i64),
    ("EFD_NONBLOCK", libc::EFD_NONBLOCK as i64),
];

pub const SOCKET: Set = &[
    ("SOCK_CLOEXEC", libc::SOCK_CLOEXEC as i64),
    ("SOCK_NONBLOCK", libc::SOCK_NONBLOCK as i64),
];

pub const TIMERFD: Set = &[
    ("TFD_CLOEXEC", libc::TFD_CLOEXEC as i64),
    ("TFD_NONBLOCK", libc::TFD_NONBLOCK as i64),
];

pub const SIGNALFD: Set = &[
    ("SFD_CLOEXEC", libc::SFD_CLOEXEC as i64),
    ("SFD_NONBLOCK", libc::SFD_NONBLOCK as i64),
];

pub const INOTIFY: Set = &[
    ("IN_CLOEXEC", libc::IN_CLOEXEC as i64),
    ("IN_NONBLOCK", libc::IN_NONBLOCK as i64),
];

pub const RANDOM: Set = &[("GRND_NONBLOCK", 1), ("GRND_RANDOM", 2)];

pub const MEMFD: Set = &[
    ("MFD_CLOEXEC", libc::MFD_CLOEXEC as i64),
    ("MFD_ALLOW_SEALING", libc::MFD_ALLOW_SEALING as i64),
    ("MFD_HUGETLB", libc::MFD_HUGETLB as i64),
];

pub const DESCRIPTOR: Set = &[("FD_CLOEXEC", libc::FD_CLOEXEC as i64)];

pub const LOCK: Set = &[
    ("LOCK_SH", libc::LOCK_SH as i64),
    ("LOCK_EX", libc::LOCK_EX as i64),
    ("LOCK_UN", libc::LOCK_UN as i64),
    ("LOCK_NB", libc::LOCK_NB as i64),
];

pub const ACTION: Set = &[
    ("SA_NOCLDSTOP", 1),
    ("SA_NOCLDWAIT", 2),
    ("SA_SIGINFO", 4),
    ("SA_RESTORER", 0x0400_0000),
    ("SA_ONSTACK", 0x0800_0000),
    ("SA_RESTART", 0x1000_0000),
    ("SA_NODEFER", 0x4000_0000),
    ("SA_RESETHAND", 0x8000_0000),
];

pub const EVENTS: Set = &[
    ("EPOLLIN", libc::EPOLLIN as i64),
    ("EPOLLPRI", libc::EPOLLPRI as i64),
    ("EPOLLOUT", libc::EPOLLOUT as i64),
    ("EPOLLERR", libc::EPOLLERR as i64),
    ("EPOLLHUP", libc::EPOLLHUP as i64),
    ("EPOLLRDHUP", libc::EPOLLRDHUP as i64),
    ("EPOLLEXCLUSIVE", libc::EPOLLEXCLUSIVE as i64),
    ("EPOLLWAKEUP", libc::EPOLLWAKEUP as i64),
    ("EPOLLONESHOT", libc::EPOLLONESHOT as i64),
    ("EPOLLET", 0x8000_0000),
];

pub const FAMILY: Set = &[
    ("AF_UNSPEC", libc::AF_UNSPEC as i64),
    ("AF_UNIX", libc::AF_UNIX as i64),
    ("AF_INET", libc::AF_INET as i64),
    ("AF_INET6", libc::AF_INET6 as i64),
    ("AF_NETLINK", libc::AF_NETLINK as i64),
    ("AF_PACKET", libc::AF_PACKET as i64),
    ("AF_VSOCK", libc::AF_VSOCK as i64),
    ("AF_ALG", libc::AF_ALG as i64),
];

pub const SOCKET_TYPE: Set = &[
    ("SOCK_STREAM", libc::SOCK_STREAM as i64),
    ("SOCK_DGRAM", libc::SOCK_DGRAM as i64),
    ("SOCK_RAW", libc::SOCK_RAW as i64),
    ("SOCK_RDM", libc::SOCK_RDM as i64),
    ("SOCK_SEQPACKET", libc::SOCK_SEQPACKET as i64),
];

pub const LEVEL: Set = &[
    ("SOL_IP", 0),
    ("SOL_SOCKET", libc::SOL_SOCKET as i64),
    ("SOL_TCP", libc::SOL_TCP as i64),
    ("SOL_UDP", libc::SOL_UDP as i64),
    ("SOL_IPV6", libc::SOL_IPV6 as i64),
];

pub const FUTEX: Set = &[
    ("FUTEX_WAIT", libc::FUTEX_WAIT as i64),
    ("FUTEX_WAKE", libc::FUTEX_WAKE as i64),
    ("FUTEX_FD", libc::FUTEX_FD as i64),
    ("FUTEX_REQUEUE", libc::FUTEX_REQUEUE as i64),
    ("FUTEX_CMP_REQUEUE", libc::FUTEX_CMP_REQUEUE as i64),
    ("FUTEX_WAKE_OP", libc::FUTEX_WAKE_OP as i64),
    ("FUTEX_LOCK_PI", libc::FUTEX_LOCK_PI as i64),
    ("FUTEX_UNLOCK_PI", libc::FUTEX_UNLOCK_PI as i64),
    ("FUTEX_TRYLOCK_PI", libc::FUTEX_TRYLOCK_PI as i64),
    ("FUTEX_WAIT_BITSET", libc::FUTEX_WAIT_BITSET as i64),
    ("FUTEX_WAKE_BITSET", libc::FUTEX_WAKE_BITSET as i64),
    ("FUTEX_WAIT_REQUEUE_PI", libc::FUTEX_WAIT_REQUEUE_PI as i64),
    ("FUTEX_CMP_REQUEUE_PI", libc::FUTEX_CMP_REQUEUE_PI as i64),
    ("FUTEX_LOCK_PI2", libc::FUTEX_LOCK_PI2 as i64),
];

pub const FCNTL: Set = &[
    ("F_DUPFD", libc::F_DUPFD as i64),
    ("F_GETFD", libc::F_GETFD as i64),
    ("F_SETFD", libc::F_SETFD as i64),
    ("F_GETFL", libc::F_GETFL as i64),
    ("F_SETFL", libc::F_SETFL as i64),
    ("F_GETLK", libc::F_GETLK as i64),
    ("F_SETLK", libc::F_SETLK as i64),
    ("F_SETLKW", libc::F_SETLKW as i64),
    ("F_SETOWN", libc::F_SETOWN as i64),
    ("F_GETOWN", libc::F_GETOWN as i64),
    ("F_OFD_GETLK", libc::F_OFD_GETLK as i64),
    ("F_OFD_SETLK", libc::F_OFD_SETLK as i64),
    ("F_OFD_SETLKW", libc::F_OFD_SETLKW as i64),
    ("F_SETLEASE", libc::F_SETLEASE as i64),
    ("F_GETLEASE", libc::F_GETLEASE as i64),
    ("F_NOTIFY", libc::F_NOTIFY as i64),
    ("F_DUPFD_CLOEXEC", libc::F_DUPFD_CLOEXEC as i64),
    ("F_SETPIPE_SZ", libc::F_SETPIPE_SZ as i64),
    ("F_GETPIPE_SZ", libc::F_GETPIPE_SZ as i64),
    ("F_ADD_SEALS", libc::F_ADD_SEALS as i64),
    ("F_GET_SEALS", libc::F_GET_SEALS as i64),
    ("F_SETSIG", 10),
    ("F_GETSIG", 11),
    ("F_SETOWN_EX", 15),
    ("F_GETOWN_EX", 16),
];

pub const IOCTL: Set = &[
    ("TCGETS", 0x5401),
    ("TCSETS", 0x5402),
    ("TCSETSW", 0x5403),
    ("TCSETSF", 0x5404),
    ("TIOCSCTTY", 0x540e),
    ("TIOCGPGRP", 0x540f),
    ("TIOCSPGRP", 0x5410),
    ("TIOCGWINSZ", 0x5413),
    ("TIOCSWINSZ", 0x5414),
    ("FIONREAD", 0x541b),
    ("FIONBIO", 0x5421),
    ("FIOCLEX", 0x5451),
    ("FIONCLEX", 0x5450),
    ("FIOASYNC", 0x5452),
    ("TIOCGPTN", 0x80045430),
    ("TIOCSPTLCK", 0x40045431),
    ("FICLONE", 0x40049409),
    ("SIOCGIFCONF", 0x8912),
    ("SIOCGIFFLAGS", 0x8913),
];

pub const EPOLL_OPERATION: Set = &[
    ("EPOLL_CTL_ADD", libc::EPOLL_CTL_ADD as i64),
    ("EPOLL_CTL_DEL", libc::EPOLL_CTL_DEL as i64),
    ("EPOLL_CTL_MOD", libc::EPOLL_CTL_MOD as i64),
];

pub const PRCTL: Set = &[
    ("PR_SET_PDEATHSIG", libc::PR_SET_PDEATHSIG as i64),
    ("PR_GET_PDEATHSIG", libc::PR_GET_PDEATHSIG as i64),
    ("PR_GET_DUMPABLE", libc::PR_GET_DUMPABLE as i64),
    ("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE as i64),
    ("PR_GET_KEEPCAPS", libc::PR_GET_KEEPCAPS as i64),
    ("PR_SET_KEEPCAPS", libc::PR_SET_KEEPCAPS as i64),
    ("PR_SET_NAME", libc::PR_SET_NAME as i64),
    ("PR_GET_NAME", libc::PR_GET_NAME as i64),
    ("PR_GET_SECCOMP", libc::PR_GET_SECCOMP as i64),
    ("PR_SET_SECCOMP", libc::PR_SET_SECCOMP as i64),
    ("PR_CAPBSET_READ", libc::PR_CAPBSET_READ as i64),
    ("PR_CAPBSET_DROP", libc::PR_CAPBSET_DROP as i64),
    ("PR_GET_TSC", libc::PR_GET_TSC as i64),
    ("PR_SET_TSC", libc::PR_SET_TSC as i64),
    ("PR_GET_SECUREBITS", libc::PR_GET_SECUREBITS as i64),
    ("PR_SET_SECUREBITS", libc::PR_SET_SECUREBITS as i64),
    ("PR_SET_TIMERSLACK", libc::PR_SET_TIMERSLACK as i64),
    ("PR_GET_TIMERSLACK", libc::PR_GET_TIMERSLACK as i64),
    ("PR_SET_MM", libc::PR_SET_MM as i64),
    ("PR_SET_CHILD_SUBREAPER", libc::PR_SET_CHILD_SUBREAPER as i64),
    ("PR_GET_CHILD_SUBREAPER", libc::PR_GET_CHILD_SUBREAPER as i64),
    ("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS as i64),
    ("PR_GET_NO_NEW_PRIVS", libc::PR_GET_NO_NEW_PRIVS as i64),
    ("PR_SET_THP_DISABLE", libc::PR_SET_THP_DISABLE as i64),
    ("PR_GET_THP_DISABLE", libc::PR_GET_THP_DISABLE as i64),
    ("PR_CAP_AMBIENT", libc::PR_CAP_AMBIENT as i64),
    ("PR_SET_PTRACER", libc::PR_SET_PTRACER as i64),
    ("PR_SET_VMA", 0x53564d41),
];

pub const ARCH_PRCTL: Set = &[
    ("ARCH_SET_GS", 0x1001),
    ("ARCH_SET_FS", 0x1002),
    ("ARCH_GET_FS", 0x1003),
    ("ARCH_GET_GS", 0x1004),
    ("ARCH_GET_CPUID", 0x1011),
    ("ARCH_SET_CPUID", 0x1012),
    ("ARCH_CET_STATUS", 0x3001),
];

pub const WHENCE: Set = &[
    ("SEEK_SET", libc::SEEK_SET as i64),
    ("SEEK_CUR", libc::SEEK_CUR as i64),
    ("SEEK_END", libc::SEEK_END as i64),
    ("SEEK_DATA", libc::SEEK_DATA as i64),
    ("SEEK_HOLE", libc::SEEK_HOLE as i64),
];

pub const CLOCK: Set = &[
    ("CLOCK_REALTIME", libc::CLOCK_REALTIME as i64),
    ("CLOCK_MONOTONIC", libc::CLOCK_MONOTONIC as i64),
    ("CLOCK_PROCESS_CPUTIME_ID", libc::CLOCK_PROCESS_CPUTIME_ID as i64),
    ("CLOCK_THREAD_CPUTIME_ID", libc::CLOCK_THREAD_CPUTIME_ID as i64),
    ("CLOCK_MONOTONIC_RAW", libc::CLOCK_MONOTONIC_RAW as i64),
    ("CLOCK_REALTIME_COARSE", libc::CLOCK_REALTIME_COARSE as i64),
    ("CLOCK_MONOTONIC_COARSE", libc::CLOCK_MONOTONIC_COARSE as i64),
    ("CLOCK_BOOTTIME", libc::CLOCK_BOOTTIME as i64),
    ("CLOCK_REALTIME_ALARM", libc::CLOCK_REALTIME_ALARM as i64),
    ("CLOCK_BOOTTIME_ALARM", libc::CLOCK_BOOTTIME_ALARM as i64),
    ("CLOCK_TAI", libc::CLOCK_TAI as i64),
];

pub const ADVICE: Set = &[
    ("MADV_NORMAL", libc::MADV_NORMAL as i64),
    ("MADV_RANDOM", libc::MADV_RANDOM as i64),
    ("MADV_SEQUENTIAL", libc::MADV_SEQUENTIAL as i64),
    ("MADV_WILLNEED", libc::MADV_WILLNEED as i64),
    ("MADV_DONTNEED", libc::MADV_DONTNEED as i64),
    ("MADV_FREE", libc::MADV_FREE as i64),
    ("MADV_REMOVE", libc::MADV_REMOVE as i64),
    ("MADV_DONTFORK", libc::MADV_DONTFORK as i64),
    ("MADV_DOFORK", libc::MADV_DOFORK as i64),
    ("MADV_MERGEABLE", libc::MADV_MERGEABLE as i64),
    ("MADV_UNMERGEABLE", libc::MADV_UNMERGEABLE as i64),
    ("MADV_HUGEPAGE", libc::MADV_HUGEPAGE as i64),
    ("MADV_NOHUGEPAGE", libc::MADV_NOHUGEPAGE as i64),
    ("MADV_DONTDUMP", libc::MADV_DONTDUMP as i64),
    ("MADV_DODUMP", libc::MADV_DODUMP as i64),
    ("MADV_WIPEONFORK", libc::MADV_WIPEONFORK as i64),
    ("MADV_KEEPONFORK", libc::MADV_KEEPONFORK as i64),
    ("MADV_COLD", libc::MADV_COLD as i64),
    ("MADV_PAGEOUT", libc::MADV_PAGEOUT as i64),
    ("MADV_POPULATE_READ", libc::MADV_POPULATE_READ as i64),
    ("MADV_POPULATE_WRITE", libc::MADV_POPULATE_WRITE as i64),
];

pub const MASK: Set = &[
    ("SIG_BLOCK", libc::SIG_BLOCK as i64),
    ("SIG_UNBLOCK", libc::SIG_UNBLOCK as i64),
    ("SIG_SETMASK", libc::SIG_SETMASK as i64),
];

pub const RESOURCE: Set = &[
    ("RLIMIT_CPU", libc::RLIMIT_CPU as i64),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE as i64),
    ("RLIMIT_DATA", libc::RLIMIT_DATA as i64),
    ("RLIMIT_STACK", libc::RLIMIT_STACK as i64),
    ("RLIMIT_CORE", libc::RLIMIT_CORE as i64),
    ("RLIMIT_RSS", libc::RLIMIT_RSS as i64),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC as i64),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE as i64),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK as i64),
    ("RLIMIT_AS", libc::RLIMIT_AS as i64),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS as i64),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING as i64),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE as i64),
    ("RLIMIT_NICE", libc::RLIMIT_NICE as i64),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO as i64),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME as i64),
];

pub const SIGNAL: Set = &[
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGILL", 4),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGBUS", 7),
    ("SIGFPE", 8),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGSEGV", 11),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
    ("SIGSTKFLT", 16),
    ("SIGCHLD", 17),
    ("SIGCONT", 18),
    ("SIGSTOP", 19),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGURG", 23),
    ("SIGXCPU", 24),
    ("SIGXFSZ", 25),
    ("SIGVTALRM", 26),
    ("SIGPROF", 27),
    ("SIGWINCH", 28),
    ("SIGIO", 29),
    ("SIGPWR", 30),
    ("SIGSYS", 31),
];

pub const ERROR: Set = &[
    ("EPERM", 1),
    ("ENOENT", 2),
    ("ESRCH", 3),
    ("EINTR", 4),
    ("EIO", 5),
    ("ENXIO", 6),
    ("E2BIG", 7),
    ("ENOEXEC", 8),
    ("EBADF", 9),
    ("ECHILD", 10),
    ("EAGAIN", 11),
    ("ENOMEM", 12),
    ("EACCES", 13),
    ("EFAULT", 14),
    ("ENOTBLK", 15),
    ("EBUSY", 16),
    ("EEXIST", 17),
    ("EXDEV", 18),
    ("ENODEV", 19),
    ("ENOTDIR", 20),
    ("EISDIR", 21),
    ("EINVAL", 22),
    ("ENFILE", 23),
    ("EMFILE", 24),
    ("ENOTTY", 25),
    ("ETXTBSY", 26),
    ("EFBIG", 27),
    ("ENOSPC", 28),
    ("ESPIPE", 29),
    ("EROFS", 30),
    ("EMLINK", 31),
    ("EPIPE", 32),
    ("EDOM", 33),
    ("ERANGE", 34),
    ("EDEADLK", 35),
    ("ENAMETOOLONG", 36),
    ("ENOLCK", 37),
    ("ENOSYS", 38),
    ("ENOTEMPTY", 39),
    ("ELOOP", 40),
    ("ENOMSG", 42),
    ("EIDRM", 43),
    ("ECHRNG", 44),
    ("EL2NSYNC", 45),
    ("EL3HLT", 46),
    ("EL3RST", 47),
    ("ELNRNG", 48),
    ("EUNATCH", 49),
    ("ENOCSI", 50),
    ("EL2HLT", 51),
    ("EBADE", 52),
    ("EBADR", 53),
    ("EXFULL", 54),
    ("ENOANO", 55),
    ("EBADRQC", 56),
    ("EBADSLT", 57),
    ("EBFONT", 59),
    ("ENOSTR", 60),
    ("ENODATA", 61),
    ("ETIME", 62),
    ("ENOSR", 63),
    ("ENONET", 64),
    ("ENOPKG", 65),
    ("EREMOTE", 66),
    ("ENOLINK", 67),
    ("EADV", 68),
    ("ESRMNT", 69),
    ("ECOMM", 70),
    ("EPROTO", 71),
    ("EMULTIHOP", 72),
    ("EDOTDOT", 73),
    ("EBADMSG", 74),
    ("EOVERFLOW", 75),
    ("ENOTUNIQ", 76),
    ("EBADFD", 77),
    ("EREMCHG", 78),
    ("ELIBACC", 79),
    ("ELIBBAD", 80),
    ("ELIBSCN", 81),
    ("ELIBMAX", 82),
    ("ELIBEXEC", 83),
    ("EILSEQ", 84),
    ("ERESTART", 85),
    ("ESTRPIPE", 86),
    ("EUSERS", 87),
    ("ENOTSOCK", 88),
    ("EDESTADDRREQ", 89),
    ("EMSGSIZE", 90),
    ("EPROTOTYPE", 91),
    ("ENOPROTOOPT", 92),
    ("EPROTONOSUPPORT", 93),
    ("ESOCKTNOSUPPORT", 94),
    ("EOPNOTSUPP", 95),
    ("EPFNOSUPPORT", 96),
    ("EAFNOSUPPORT", 97),
    ("EADDRINUSE", 98),
    ("EADDRNOTAVAIL", 99),
    ("ENETDOWN", 100),
    ("ENETUNREACH", 101),
    ("ENETRESET", 102),
    ("ECONNABORTED", 103),
    ("ECONNRESET", 104),
    ("ENOBUFS", 105),
    ("EISCONN", 106),
    ("ENOTCONN", 107),
    ("ESHUTDOWN", 108),
    ("ETOOMANYREFS", 109),
    ("ETIMEDOUT", 110),
    ("ECONNREFUSED", 111),
    ("EHOSTDOWN", 112),
    ("EHOSTUNREACH", 113),
    ("EALREADY", 114),
    ("EINPROGRESS", 115),
    ("ESTALE", 116),
    ("EUCLEAN", 117),
    ("ENOTNAM", 118),
    ("ENAVAIL", 119),
    ("EISNAM", 120),
    ("EREMOTEIO", 121),
    ("EDQUOT", 122),
    ("ENOMEDIUM", 123),
    ("EMEDIUMTYPE", 124),
    ("ECANCELED", 125),
    ("ENOKEY", 126),
    ("EKEYEXPIRED", 127),
    ("EKEYREVOKED", 128),
    ("EKEYREJECTED", 129),
    ("EOWNERDEAD", 130),
    ("ENOTRECOVERABLE", 131),
    ("ERFKILL", 132),
];

/// Signal, `si_code`, and what that is called.
pub const CODE: &[(i32, i32, &str)] = &[
    (11, 1, "SEGV_MAPERR"),
    (11, 2, "SEGV_ACCERR"),
    (11, 3, "SEGV_BNDERR"),
    (11, 4, "SEGV_PKUERR"),
    (7, 1, "BUS_ADRALN"),
    (7, 2, "BUS_ADRERR"),
    (7, 3, "BUS_OBJERR"),
    (8, 1, "FPE_INTDIV"),
    (8, 2, "FPE_INTOVF"),
    (8, 3, "FPE_FLTDIV"),
    (8, 4, "FPE_FLTOVF"),
    (8, 5, "FPE_FLTUND"),
    (8, 6, "FPE_FLTRES"),
    (8, 7, "FPE_FLTINV"),
    (8, 8, "FPE_FLTSUB"),
    (4, 1, "ILL_ILLOPC"),
    (4, 2, "ILL_ILLOPN"),
    (4, 3, "ILL_ILLADR"),
    (4, 4, "ILL_ILLTRP"),
    (4, 5, "ILL_PRVOPC"),
    (4, 6, "ILL_PRVREG"),
    (4, 7, "ILL_COPROC"),
    (4, 8, "ILL_BADSTK"),
    (5, 1, "TRAP_BRKPT"),
    (5, 2, "TRAP_TRACE"),
    (5, 3, "TRAP_BRANCH"),
    (5, 4, "TRAP_HWBKPT"),
    (17, 1, "CLD_EXITED"),
    (17, 2, "CLD_KILLED"),
    (17, 3, "CLD_DUMPED"),
    (17, 4, "CLD_TRAPPED"),
    (17, 5, "CLD_STOPPED"),
    (17, 6, "CLD_CONTINUED"),
];

pub const ANY_CODE: Set = &[
    ("SI_USER", 0),
    ("SI_KERNEL", 0x80),
    ("SI_QUEUE", -1),
    ("SI_TIMER", -2),
    ("SI_MESGQ", -3),
    ("SI_ASYNCIO", -4),
    ("SI_SIGIO", -5),
    ("SI_TKILL", -6),
];

/// The one name of `value`.
pub fn name(set: Set, value: i64) -> Option<&'static str> {
    set.iter()
        .find(|(_, known)| *known == value)
        .map(|(name, _)| *name)
}

/// A value of which each bit has a name: `A|B|0x800`; `zero` where none is set.
pub fn flags(set: Set, value: i64, zero: &str) -> String {
    let mut rest = value;
    let mut parts = Vec::new();
    // A name of several bits (O_SYNC, O_TMPFILE) comes before those of fewer.
    let mut ordered: Vec<_> = set
        .iter()
        .filter(|(_, bits)| *bits != 0 && value & bits == *bits)
        .collect();
    ordered.sort_by_key(|(_, bits)| std::cmp::Reverse(bits.count_ones()));
    let mut chosen = Vec::new();
    for (name, bits) in ordered {
        if rest & bits == *bits {
            rest &= !bits;
            chosen.push(*name);
        }
    }
    // In the order of the set, as the headers have it.
    parts.extend(
        set.iter()
            .filter(|(name, _)| chosen.contains(name))
            .map(|(name, _)| (*name).to_owned()),
    );
    if rest != 0 {
        parts.push(format!("{rest:#x}"));
    }
    if parts.is_empty() {
        zero.to_owned()
    } else {
        parts.join("|")
    }
}

/// The name of a signal; `SIGRT_n` of a real-time one, the number of what is none.
pub fn signal(number: i64) -> String {
    match name(SIGNAL, number) {
        Some(name) => name.to_owned(),
        None if (32..=64).contains(&number) => format!("SIGRT_{}", number - 32),
        None => number.to_string(),
    }
}
