//! Calls that an instance does not have, each with the error that a kernel built or configured without them gives, and why.
//! Programs know these answers and do without.

use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::task::Task;

const AREA: &str = "absent";

/// As a kernel that was built without it.
fn absent(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::NOSYS)
}

/// As a kernel that refuses it to everybody but the administrator.
fn refused(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::PERM)
}

const fn no(number: libc::c_long, why: &'static str) -> Entry {
    entry(number, AREA, Level::Refused, absent, why)
}

const fn denied(number: libc::c_long, why: &'static str) -> Entry {
    entry(number, AREA, Level::Refused, refused, why)
}

const SYSV: &str = "ENOSYS: no System V IPC; memory is shared by mmap, locks by futexes";
const QUEUES: &str = "ENOSYS: no POSIX message queues";
const AIO: &str = "ENOSYS: no kernel AIO; libaio's users fall back to threads";
const URING: &str = "EPERM: as with kernel.io_uring_disabled";
const KEYS: &str = "ENOSYS: no keyrings";
const MOUNTS: &str = "EPERM: the guest's mounts are fixed";
const OBSOLETE: &str = "ENOSYS: as in every kernel today";
const NUMA: &str = "ENOSYS: one node";

pub const ENTRIES: &[Entry] = &[
    no(libc::SYS_shmget, SYSV),
    no(libc::SYS_shmat, SYSV),
    no(libc::SYS_shmctl, SYSV),
    no(libc::SYS_shmdt, SYSV),
    no(libc::SYS_semget, SYSV),
    no(libc::SYS_semop, SYSV),
    no(libc::SYS_semctl, SYSV),
    no(libc::SYS_semtimedop, SYSV),
    no(libc::SYS_msgget, SYSV),
    no(libc::SYS_msgsnd, SYSV),
    no(libc::SYS_msgrcv, SYSV),
    no(libc::SYS_msgctl, SYSV),
    no(libc::SYS_mq_open, QUEUES),
    no(libc::SYS_mq_unlink, QUEUES),
    no(libc::SYS_mq_timedsend, QUEUES),
    no(libc::SYS_mq_timedreceive, QUEUES),
    no(libc::SYS_mq_notify, QUEUES),
    no(libc::SYS_mq_getsetattr, QUEUES),
    no(libc::SYS_io_setup, AIO),
    no(libc::SYS_io_destroy, AIO),
    no(libc::SYS_io_getevents, AIO),
    no(333, AIO),
    no(libc::SYS_io_submit, AIO),
    no(libc::SYS_io_cancel, AIO),
    denied(libc::SYS_io_uring_setup, URING),
    denied(libc::SYS_io_uring_enter, URING),
    denied(libc::SYS_io_uring_register, URING),
    no(libc::SYS_add_key, KEYS),
    no(libc::SYS_request_key, KEYS),
    no(libc::SYS_keyctl, KEYS),
    denied(libc::SYS_open_tree, MOUNTS),
    denied(libc::SYS_move_mount, MOUNTS),
    denied(libc::SYS_fsopen, MOUNTS),
    denied(libc::SYS_fsconfig, MOUNTS),
    denied(libc::SYS_fsmount, MOUNTS),
    denied(libc::SYS_fspick, MOUNTS),
    denied(libc::SYS_mount_setattr, MOUNTS),
    denied(libc::SYS_quotactl, MOUNTS),
    denied(libc::SYS_quotactl_fd, MOUNTS),
    denied(libc::SYS_acct, "EPERM: the node's"),
    denied(libc::SYS_kexec_load, "EPERM: the node's"),
    denied(libc::SYS_kexec_file_load, "EPERM: the node's"),
    denied(libc::SYS_vhangup, "EPERM: no terminal"),
    denied(libc::SYS_kcmp, "EPERM: would compare with the monitor's"),
    no(libc::SYS_migrate_pages, NUMA),
    no(libc::SYS_move_pages, NUMA),
    no(libc::SYS_set_mempolicy_home_node, NUMA),
    no(
        libc::SYS_modify_ldt,
        "ENOSYS: as without CONFIG_MODIFY_LDT_SYSCALL",
    ),
    no(libc::SYS_set_thread_area, "ENOSYS: a 32-bit program's"),
    no(libc::SYS_get_thread_area, "ENOSYS: a 32-bit program's"),
    no(libc::SYS_remap_file_pages, "ENOSYS: mmap does it"),
    no(libc::SYS_landlock_create_ruleset, "ENOSYS: as without landlock"),
    no(libc::SYS_landlock_add_rule, "ENOSYS: as without landlock"),
    no(libc::SYS_landlock_restrict_self, "ENOSYS: as without landlock"),
    no(libc::SYS_memfd_secret, "ENOSYS: the monitor maps all memory"),
    no(libc::SYS_process_madvise, "ENOSYS: madvise does it for oneself"),
    no(libc::SYS_process_mrelease, "ENOSYS"),
    no(
        libc::SYS_futex_waitv,
        "ENOSYS: the list holds the guest's addresses",
    ),
    no(libc::SYS_ustat, "ENOSYS: statfs does it"),
    no(libc::SYS_sysfs, "ENOSYS: /proc/filesystems tells it"),
    no(libc::SYS_uselib, OBSOLETE),
    no(libc::SYS__sysctl, OBSOLETE),
    no(174, OBSOLETE),
    no(177, OBSOLETE),
    no(178, OBSOLETE),
    no(libc::SYS_nfsservctl, OBSOLETE),
    no(libc::SYS_getpmsg, OBSOLETE),
    no(libc::SYS_putpmsg, OBSOLETE),
    no(libc::SYS_afs_syscall, OBSOLETE),
    no(libc::SYS_tuxcall, OBSOLETE),
    no(libc::SYS_security, OBSOLETE),
    no(libc::SYS_lookup_dcookie, OBSOLETE),
    no(libc::SYS_epoll_ctl_old, OBSOLETE),
    no(libc::SYS_epoll_wait_old, OBSOLETE),
    no(libc::SYS_vserver, OBSOLETE),
];
