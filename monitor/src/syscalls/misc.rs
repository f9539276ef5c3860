//! Calls about the machine and the process that fit nowhere else: names, users, memory, random bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::guest::HOST_NAME;
use crate::memory::access;
use crate::sys::calls::{Arg, output, value};
use crate::task::Task;

const AREA: &str = "system";

pub const ENTRIES: &[Entry] = &[
    entry(
        libc::SYS_arch_prctl,
        AREA,
        Level::Emulated,
        arch_prctl,
        "fs and gs bases",
    ),
    entry(libc::SYS_getrusage, AREA, Level::Forwarded, getrusage, ""),
    entry(
        libc::SYS_sysinfo,
        AREA,
        Level::Emulated,
        sysinfo,
        "the function's memory",
    ),
    entry(libc::SYS_uname, AREA, Level::Emulated, uname, ""),
    entry(
        libc::SYS_getrandom,
        AREA,
        Level::Forwarded,
        getrandom,
        "always the host's",
    ),
    entry(libc::SYS_getuid, AREA, Level::Emulated, getuid, ""),
    entry(libc::SYS_geteuid, AREA, Level::Emulated, getuid, ""),
    entry(libc::SYS_getgid, AREA, Level::Emulated, getgid, ""),
    entry(libc::SYS_getegid, AREA, Level::Emulated, getgid, ""),
    entry(libc::SYS_getresuid, AREA, Level::Emulated, getresuid, ""),
    entry(libc::SYS_getresgid, AREA, Level::Emulated, getresgid, ""),
    entry(
        libc::SYS_getgroups,
        AREA,
        Level::Emulated,
        getgroups,
        "as the image says",
    ),
    entry(
        libc::SYS_setuid,
        AREA,
        Level::Emulated,
        setuid,
        "to what it is; EPERM otherwise",
    ),
    entry(
        libc::SYS_setgid,
        AREA,
        Level::Emulated,
        setgid,
        "to what it is; EPERM otherwise",
    ),
    entry(libc::SYS_capget, AREA, Level::Emulated, capget, "no capabilities"),
    entry(libc::SYS_capset, AREA, Level::Refused, refuse, "EPERM"),
    entry(
        libc::SYS_personality,
        AREA,
        Level::Emulated,
        personality,
        "PER_LINUX",
    ),
    entry(libc::SYS_ptrace, AREA, Level::Refused, refuse, "EPERM"),
    entry(
        libc::SYS_process_vm_readv,
        AREA,
        Level::Refused,
        refuse,
        "EPERM: would name the monitor's memory",
    ),
    entry(
        libc::SYS_process_vm_writev,
        AREA,
        Level::Refused,
        refuse,
        "EPERM: would name the monitor's memory",
    ),
    entry(
        libc::SYS_userfaultfd,
        AREA,
        Level::Refused,
        refuse,
        "EPERM: would name the monitor's memory",
    ),
    entry(
        libc::SYS_pidfd_getfd,
        AREA,
        Level::Refused,
        refuse,
        "EPERM: would name the monitor's descriptors",
    ),
    entry(libc::SYS_perf_event_open, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_bpf, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_mount, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_umount2, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_chroot, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_pivot_root, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_unshare, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_setns, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_reboot, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_sethostname, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_setdomainname, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_swapon, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_swapoff, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_init_module, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_finit_module, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_delete_module, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_iopl, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_ioperm, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_syslog, AREA, Level::Refused, refuse, "EPERM"),
    entry(
        libc::SYS_seccomp,
        AREA,
        Level::Refused,
        refuse_invalid,
        "EINVAL: as a kernel without filters",
    ),
    entry(
        libc::SYS_restart_syscall,
        AREA,
        Level::Refused,
        refuse_interrupted,
        "EINTR",
    ),
];

/// Implements the calls that need a privilege no guest has.
fn refuse(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::PERM)
}

fn refuse_invalid(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::INVAL)
}

fn refuse_interrupted(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::INTR)
}

/// Implements arch_prctl(2).
fn arch_prctl(task: &mut Task, [code, address, ..]: Args) -> SysResult {
    const ARCH_SET_GS: i32 = 0x1001;
    const ARCH_SET_FS: i32 = 0x1002;
    const ARCH_GET_FS: i32 = 0x1003;
    const ARCH_GET_GS: i32 = 0x1004;
    let canonical = |address: u64| {
        if address >> 47 == 0 {
            Ok(Some(address))
        } else {
            Err(Errno::PERM)
        }
    };
    match int(code) {
        ARCH_SET_FS => task
            .vcpu
            .set_bases(canonical(address)?, None)
            .map_err(|_| Errno::PERM)?,
        ARCH_SET_GS => task
            .vcpu
            .set_bases(None, canonical(address)?)
            .map_err(|_| Errno::PERM)?,
        ARCH_GET_FS => access::write(address, &task.vcpu.bases().map_err(|_| Errno::PERM)?.0)?,
        ARCH_GET_GS => access::write(address, &task.vcpu.bases().map_err(|_| Errno::PERM)?.1)?,
        _ => return Err(Errno::INVAL),
    }
    Ok(0)
}

/// Implements getrusage(2).
fn getrusage(task: &mut Task, [who, result, ..]: Args) -> SysResult {
    let mut usage = [0u64; 18];
    task.call(libc::SYS_getrusage, [value(who), output(&mut usage)])?;
    if int(who) == libc::RUSAGE_SELF {
        for (place, used) in usage.chunks_exact_mut(2).zip(crate::clock::used()) {
            let [seconds, fraction] = crate::clock::time(used);
            place.copy_from_slice(&[seconds.cast_unsigned(), (fraction / 1000).cast_unsigned()]);
        }
    }
    access::write(result, &usage)?;
    Ok(0)
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SysInfo {
    uptime: i64,
    loads: [u64; 3],
    total: u64,
    free: u64,
    shared: u64,
    buffers: u64,
    swap_total: u64,
    swap_free: u64,
    processes: u16,
    padding: [u16; 3],
    high_total: u64,
    high_free: u64,
    unit: u32,
    tail: u32,
}

/// Implements sysinfo(2).
fn sysinfo(task: &mut Task, [result, ..]: Args) -> SysResult {
    let [uptime, _] = crate::clock::read(libc::CLOCK_BOOTTIME)?;
    let total = task.process.memory_limit;
    let used = task.process.lock_space().committed();
    let info = SysInfo {
        uptime,
        loads: [0; 3],
        total,
        free: total.saturating_sub(used),
        shared: 0,
        buffers: 0,
        swap_total: 0,
        swap_free: 0,
        processes: 1,
        padding: [0; 3],
        high_total: 0,
        high_free: 0,
        unit: 1,
        tail: 0,
    };
    access::write(result, &info)?;
    Ok(0)
}

/// Implements uname(2). Contained, the node's name and kernel build are not shown.
fn uname(task: &mut Task, [result, ..]: Args) -> SysResult {
    let mut fields = [[0u8; 65]; 6];
    task.call(libc::SYS_uname, [output(&mut fields)])?;
    if task.process.contained {
        for (index, text) in [(1, HOST_NAME), (3, "#1 SMP"), (5, "(none)")] {
            fields[index] = [0; 65];
            fields[index][..text.len()].copy_from_slice(text.as_bytes());
        }
    }
    access::write(result, &fields)?;
    Ok(0)
}

/// Implements getrandom(2).
fn getrandom(task: &mut Task, [buffer, length, flags, ..]: Args) -> SysResult {
    let mut filled = 0;
    for (host, length) in access::pieces(buffer, length)?.ranges() {
        let args = [Arg::Guest(host), value(length), value(flags)];
        match task.call(libc::SYS_getrandom, args) {
            Err(_) if filled > 0 => break,
            result => filled += result?,
        }
    }
    Ok(filled)
}

/// Implements getuid(2), geteuid(2).
fn getuid(task: &mut Task, _: Args) -> SysResult {
    Ok(task.process.identity().uid.into())
}

/// Implements getgid(2), getegid(2).
fn getgid(task: &mut Task, _: Args) -> SysResult {
    Ok(task.process.identity().gid.into())
}

fn write_three(value: u32, addresses: [u64; 3]) -> SysResult {
    for address in addresses {
        access::write(address, &value)?;
    }
    Ok(0)
}

/// Implements getresuid(2).
fn getresuid(task: &mut Task, [real, effective, saved, ..]: Args) -> SysResult {
    write_three(task.process.identity().uid, [real, effective, saved])
}

/// Implements getresgid(2).
fn getresgid(task: &mut Task, [real, effective, saved, ..]: Args) -> SysResult {
    write_three(task.process.identity().gid, [real, effective, saved])
}

/// Implements getgroups(2).
fn getgroups(task: &mut Task, [room, list, ..]: Args) -> SysResult {
    let groups = &task.process.identity().groups;
    let count = i32::try_from(groups.len()).map_err(|_| Errno::INVAL)?;
    let room = int(room);
    if room < 0 || (room != 0 && room < count) {
        return Err(Errno::INVAL);
    }
    if room != 0 {
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
        access::write_bytes(list, &bytes)?;
    }
    Ok(count.unsigned_abs().into())
}

fn keep(own: u32, wanted: u64) -> SysResult {
    match int(wanted) {
        -1 => Ok(0),
        wanted if u32::try_from(wanted) == Ok(own) => Ok(0),
        _ => Err(Errno::PERM),
    }
}

/// Implements setuid(2).
fn setuid(task: &mut Task, [wanted, ..]: Args) -> SysResult {
    keep(task.process.identity().uid, wanted)
}

/// Implements setgid(2).
fn setgid(task: &mut Task, [wanted, ..]: Args) -> SysResult {
    keep(task.process.identity().gid, wanted)
}

/// Implements capget(2).
fn capget(_: &mut Task, [header, data, ..]: Args) -> SysResult {
    const VERSION_3: u32 = 0x2008_0522;
    let [version, _]: [u32; 2] = access::read(header)?;
    if version != VERSION_3 {
        access::write(header, &VERSION_3)?;
        return if data == 0 { Ok(0) } else { Err(Errno::INVAL) };
    }
    if data != 0 {
        access::write(data, &[0u32; 6])?;
    }
    Ok(0)
}

/// Implements personality(2): the query and PER_LINUX, also with ADDR_NO_RANDOMIZE.
fn personality(_: &mut Task, _: Args) -> SysResult {
    Ok(0)
}
