//! /proc of the guest: the process itself, and the machine that the function has (its memory, its processors), not the
//! host.
//!
//! Only the process that asks is there. Other processes, and whatever would lead into the monitor's memory (`mem`,
//! `map_files`, `pagemap`) or out of the tree, do not exist here.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use super::{Entry, Fixed, Kind, Node, look_in_table};
use crate::errno::Errno;
use crate::fs::descriptors::{self, MONITOR_FD_FLOOR};
use crate::fs::host;
use crate::fs::mounts::{Access, Source, fd_path};
use crate::fs::namespace::{Files, Region};

use Fixed::{File, Link, Text};

#[rustfmt::skip]
const FILES: &[Entry] = &[
    ("cgroups", Text("#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\ncpu\t0\t1\t1\ncpuacct\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n")),
    ("cmdline", Text("mayfly\n")),
    ("cpuinfo", File(processors)),
    ("devices", Text("Character devices:\n  1 mem\n  5 /dev/tty\n\nBlock devices:\n")),
    ("diskstats", Text("")),
    ("filesystems", Text("nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tcgroup2\n\text4\n")),
    ("loadavg", File(load)),
    ("meminfo", File(memory)),
    ("modules", Text("")),
    ("mounts", Link("self/mounts")),
    ("partitions", Text("major minor  #blocks  name\n\n")),
    ("stat", File(statistics)),
    ("swaps", Text("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")),
    ("sys/fs/aio-max-nr", Text("65536\n")),
    ("sys/fs/file-max", File(file_max)),
    ("sys/fs/file-nr", Text("64\t0\t2048\n")),
    ("sys/fs/nr_open", File(file_max)),
    ("sys/fs/pipe-max-size", Text("1048576\n")),
    ("sys/kernel/cap_last_cap", Text("40\n")),
    ("sys/kernel/core_pattern", Text("core\n")),
    ("sys/kernel/domainname", Text("(none)\n")),
    ("sys/kernel/hostname", File(hostname)),
    ("sys/kernel/msgmax", Text("8192\n")),
    ("sys/kernel/ngroups_max", Text("65536\n")),
    ("sys/kernel/numa_balancing", Text("0\n")),
    ("sys/kernel/osrelease", File(release)),
    ("sys/kernel/ostype", Text("Linux\n")),
    ("sys/kernel/overflowgid", Text("65534\n")),
    ("sys/kernel/overflowuid", Text("65534\n")),
    ("sys/kernel/perf_event_paranoid", Text("3\n")),
    ("sys/kernel/pid_max", Text("4194304\n")),
    ("sys/kernel/random/boot_id", File(boot_id)),
    ("sys/kernel/random/entropy_avail", Text("256\n")),
    ("sys/kernel/random/poolsize", Text("256\n")),
    ("sys/kernel/random/uuid", File(uuid)),
    ("sys/kernel/randomize_va_space", Text("2\n")),
    ("sys/kernel/shmall", Text("18446744073692774399\n")),
    ("sys/kernel/shmmax", Text("18446744073692774399\n")),
    ("sys/kernel/shmmni", Text("4096\n")),
    ("sys/kernel/tainted", Text("0\n")),
    ("sys/kernel/threads-max", Text("32768\n")),
    ("sys/kernel/version", File(version)),
    ("sys/net/core/rmem_max", Text("212992\n")),
    ("sys/net/core/somaxconn", Text("4096\n")),
    ("sys/net/core/wmem_max", Text("212992\n")),
    ("sys/net/ipv4/ip_local_port_range", Text("32768\t60999\n")),
    ("sys/net/ipv4/tcp_fin_timeout", Text("60\n")),
    ("sys/net/ipv4/tcp_keepalive_time", Text("7200\n")),
    ("sys/vm/max_map_count", Text("65530\n")),
    ("sys/vm/min_free_kbytes", Text("4096\n")),
    ("sys/vm/mmap_min_addr", Text("65536\n")),
    ("sys/vm/nr_hugepages", Text("0\n")),
    ("sys/vm/overcommit_memory", Text("1\n")),
    ("sys/vm/overcommit_ratio", Text("50\n")),
    ("sys/vm/swappiness", Text("0\n")),
    ("uptime", File(uptime)),
    ("version", File(banner)),
    ("vmstat", Text("nr_free_pages 0\npgfault 0\npgmajfault 0\n")),
];

/// The files about a process or, given its id, about one of its threads.
#[rustfmt::skip]
const PROCESS: &[Entry] = &[
    ("auxv", File(auxiliary_vector)),
    ("cgroup", Text("0::/\n")),
    ("cmdline", File(arguments)),
    ("comm", File(name)),
    ("coredump_filter", Text("00000033\n")),
    ("environ", File(environment)),
    ("gid_map", Text("         0          0 4294967295\n")),
    ("io", Text("rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n")),
    ("limits", File(limits)),
    ("loginuid", Text("4294967295")),
    ("maps", File(maps)),
    ("mountinfo", File(mount_information)),
    ("mounts", File(mounts)),
    ("oom_adj", Text("0\n")),
    ("oom_score", Text("0\n")),
    ("oom_score_adj", Text("0\n")),
    ("personality", Text("00000000\n")),
    ("sessionid", Text("4294967295")),
    ("setgroups", Text("allow\n")),
    ("smaps", File(detailed_maps)),
    ("stat", File(process_statistics)),
    ("statm", File(process_memory)),
    ("status", File(status)),
    ("uid_map", Text("         0          0 4294967295\n")),
    ("wchan", Text("0")),
];

/// What is taken from the host, once, while it is in reach.
pub struct Machine {
    /// What /proc/cpuinfo says of the first processor, without its number.
    processor: String,
    release: Vec<u8>,
    version: Vec<u8>,
    boot_id: Vec<u8>,
}

impl Machine {
    pub fn observe(proc: BorrowedFd<'_>) -> Self {
        let information = host::content(proc, c"cpuinfo").unwrap_or_default();
        let information = String::from_utf8_lossy(&information);
        let first = information.split("\n\n").next().unwrap_or_default();
        // What counts processors is written anew for each of the guest's.
        let counted = [
            "processor",
            "core id",
            "apicid",
            "initial apicid",
            "siblings",
            "cpu cores",
            "physical id",
        ];
        let kept = first
            .lines()
            .filter(|line| !counted.contains(&line.split('\t').next().unwrap_or_default()));
        let processor = kept.flat_map(|line| [line, "\n"]).collect();
        let (release, version) = host::kernel();
        Self {
            processor,
            release,
            version,
            boot_id: new_uuid(),
        }
    }
}

pub fn look(files: &Files<'_>, names: &[&str]) -> Result<Node, Errno> {
    let ids = host::process_ids();
    match names {
        [] => {
            let Node::Directory(mut inside) = look_in_table(FILES, names)? else {
                return Err(Errno::NOTDIR);
            };
            inside.insert(b"self".to_vec(), Kind::Link);
            inside.insert(b"thread-self".to_vec(), Kind::Link);
            inside.insert(ids.process.to_string().into_bytes(), Kind::Directory);
            Ok(Node::Directory(inside))
        }
        ["self"] => Ok(Node::Link(ids.process.to_string().into_bytes())),
        ["thread-self"] => Ok(Node::Link(
            format!("{}/task/{}", ids.process, ids.thread).into_bytes(),
        )),
        ["self" | "thread-self", ..] => Err(Errno::LOOP),
        [id, rest @ ..] if *id == ids.process.to_string() => look_in_process(files, rest, None),
        _ => look_in_table(FILES, names),
    }
}

fn look_in_process(files: &Files<'_>, names: &[&str], thread: Option<i32>) -> Result<Node, Errno> {
    let subject = thread.unwrap_or_else(|| host::process_ids().process);
    match names {
        [] => {
            let Node::Directory(mut inside) = look_in_table(PROCESS, names)? else {
                return Err(Errno::NOTDIR);
            };
            inside.extend(["cwd", "exe", "root"].map(|name| (name.into(), Kind::Link)));
            inside.extend(["fd", "fdinfo"].map(|name| (name.into(), Kind::Directory)));
            if thread.is_none() {
                inside.insert(b"task".to_vec(), Kind::Directory);
            }
            Ok(Node::Directory(inside))
        }
        ["root"] => Ok(Node::Link(b"/".to_vec())),
        ["exe"] => Ok(Node::Link(files.guest.executable())),
        ["cwd"] => Ok(Node::Link(files.current_directory()?)),
        ["root" | "exe" | "cwd", ..] => Err(Errno::LOOP),
        ["fd"] => {
            let mut open = files.namespace.open_descriptors();
            // As with a kernel's, the descriptor that the directory is about to be read through is among them.
            open.extend((0..MONITOR_FD_FLOOR).find(|fd| open.binary_search(fd).is_err()));
            Ok(Node::Directory(numbers(&open, Kind::Link)))
        }
        ["fdinfo"] => Ok(Node::Directory(numbers(
            &files.namespace.open_descriptors(),
            Kind::File,
        ))),
        [kind @ ("fd" | "fdinfo"), number, rest @ ..] => {
            let fd = id(number)
                .filter(|fd| descriptors::is_open(*fd))
                .ok_or(Errno::NOENT)?;
            match (*kind, rest) {
                ("fd", []) => Ok(Node::Descriptor(fd)),
                ("fd", _) => Err(Errno::LOOP),
                (_, []) => Ok(Node::File(descriptor_information, fd)),
                _ => Err(Errno::NOTDIR),
            }
        }
        ["task"] if thread.is_none() => Ok(Node::Directory(numbers(&files.guest.threads(), Kind::Directory))),
        ["task", number, rest @ ..] if thread.is_none() => {
            let thread = id(number)
                .filter(|thread| files.guest.threads().contains(thread))
                .ok_or(Errno::NOENT)?;
            look_in_process(files, rest, Some(thread))
        }
        _ => Ok(match look_in_table(PROCESS, names)? {
            Node::File(content, _) => Node::File(content, subject),
            node => node,
        }),
    }
}

fn numbers(numbers: &[i32], kind: Kind) -> BTreeMap<Vec<u8>, Kind> {
    numbers
        .iter()
        .map(|number| (number.to_string().into_bytes(), kind))
        .collect()
}

/// A number as /proc writes it: no sign, no zero before it.
fn id(text: &str) -> Option<i32> {
    text.parse::<i32>()
        .ok()
        .filter(|number| *number >= 0 && number.to_string() == text)
}

// The machine.

fn processors(files: &Files<'_>, _: i32) -> Vec<u8> {
    let count = files.guest.processors();
    let one = |number: u32| {
        format!(
            "processor\t: {number}\n{}physical id\t: 0\nsiblings\t: {count}\ncore id\t\t: {number}\n\
             cpu cores\t: {count}\napicid\t\t: {number}\ninitial apicid\t: {number}\n\n",
            files.namespace.machine.processor
        )
    };
    (0..count).map(one).collect::<String>().into_bytes()
}

fn memory(files: &Files<'_>, _: i32) -> Vec<u8> {
    let total = files.guest.memory_limit() / 1024;
    let used = files.guest.memory_used() / 1024;
    let free = total.saturating_sub(used);
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("CommitLimit", total),
        ("Committed_AS", used),
        ("VmallocTotal", 34_359_738_367),
        ("Hugepagesize", 2048),
    ];
    let line = |(name, kilobytes): (&str, u64)| format!("{:<15} {kilobytes:>8} kB\n", format!("{name}:"));
    rows.map(line).concat().into_bytes()
}

fn statistics(files: &Files<'_>, _: i32) -> Vec<u8> {
    let idle = host::uptime().tv_sec.saturating_mul(100);
    let processors = i64::from(files.guest.processors());
    let one = |name: &str, idle: i64| format!("{name} 0 0 0 {idle} 0 0 0 0 0 0\n");
    let mut text = one("cpu ", idle * processors);
    for number in 0..processors {
        text += &one(&format!("cpu{number}"), idle);
    }
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let started = now.saturating_sub(host::uptime().tv_sec.unsigned_abs());
    text += &format!(
        "intr 0\nctxt 0\nbtime {started}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\nsoftirq 0\n"
    );
    text.into_bytes()
}

fn uptime(_: &Files<'_>, _: i32) -> Vec<u8> {
    let time = host::uptime();
    format!("{0}.{1:02} {0}.{1:02}\n", time.tv_sec, time.tv_nsec / 10_000_000).into_bytes()
}

fn load(files: &Files<'_>, _: i32) -> Vec<u8> {
    format!(
        "0.00 0.00 0.00 1/{} {}\n",
        files.guest.threads().len().max(1),
        std::process::id()
    )
    .into_bytes()
}

fn banner(files: &Files<'_>, _: i32) -> Vec<u8> {
    let machine = &files.namespace.machine;
    [
        b"Linux version ",
        &machine.release[..],
        b" (mayfly) ",
        &machine.version,
        b"\n",
    ]
    .concat()
}

fn release(files: &Files<'_>, _: i32) -> Vec<u8> {
    line(&files.namespace.machine.release)
}

fn version(files: &Files<'_>, _: i32) -> Vec<u8> {
    line(&files.namespace.machine.version)
}

fn hostname(files: &Files<'_>, _: i32) -> Vec<u8> {
    line(&files.guest.hostname())
}

fn file_max(_: &Files<'_>, _: i32) -> Vec<u8> {
    format!("{MONITOR_FD_FLOOR}\n").into_bytes()
}

fn boot_id(files: &Files<'_>, _: i32) -> Vec<u8> {
    line(&files.namespace.machine.boot_id)
}

fn uuid(_: &Files<'_>, _: i32) -> Vec<u8> {
    line(&new_uuid())
}

/// A random UUID, or none when there is no randomness.
fn new_uuid() -> Vec<u8> {
    let Ok(bytes) = host::random() else {
        return Vec::new();
    };
    let number = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{number:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]]
        .join("-")
        .into_bytes()
}

fn line(text: &[u8]) -> Vec<u8> {
    [text, b"\n"].concat()
}

// The process.

fn arguments(files: &Files<'_>, _: i32) -> Vec<u8> {
    files.guest.arguments()
}

fn environment(files: &Files<'_>, _: i32) -> Vec<u8> {
    files.guest.environment()
}

fn auxiliary_vector(files: &Files<'_>, _: i32) -> Vec<u8> {
    files.guest.auxiliary_vector()
}

fn name(files: &Files<'_>, thread: i32) -> Vec<u8> {
    line(&files.guest.thread_name(thread).unwrap_or_default())
}

/// The first line of a mapping.
fn head(files: &Files<'_>, region: &Region) -> Vec<u8> {
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    let mut text = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
        region.start,
        region.end,
        flag(region.read, 'r'),
        flag(region.write, 'w'),
        flag(region.execute, 'x'),
        if region.shared { 's' } else { 'p' },
        region.offset,
        libc::major(region.device),
        libc::minor(region.device),
        region.inode
    )
    .into_bytes();
    let name = if region.name.starts_with(b"/") {
        files.namespace.mapping_name(&region.name)
    } else {
        region.name.clone()
    };
    if !name.is_empty() {
        text.resize(text.len().max(73), b' ');
        text.extend(name.iter().flat_map(|byte| match byte {
            b'\n' => b"\\012".to_vec(),
            byte => vec![*byte],
        }));
    }
    text.push(b'\n');
    text
}

fn maps(files: &Files<'_>, _: i32) -> Vec<u8> {
    files
        .guest
        .regions()
        .iter()
        .flat_map(|region| head(files, region))
        .collect()
}

fn detailed_maps(files: &Files<'_>, _: i32) -> Vec<u8> {
    let detail = |region: &Region| {
        let size = (region.end - region.start) / 1024;
        let rows = format!(
            "Size:           {size:>8} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n\
             Rss:            {size:>8} kB\nPss:            {size:>8} kB\nPrivate_Dirty:  {size:>8} kB\n\
             Swap:                  0 kB\nLocked:                0 kB\n"
        );
        [head(files, region), rows.into_bytes()].concat()
    };
    files.guest.regions().iter().flat_map(detail).collect()
}

/// Sizes in pages: all that is mapped, what is taken to be resident, the program's code.
fn sizes(files: &Files<'_>) -> (u64, u64, u64) {
    let regions = files.guest.regions();
    let pages = |region: &Region| (region.end - region.start) / 4096;
    let all = regions.iter().map(pages).sum();
    let code = regions.iter().filter(|region| region.execute).map(pages).sum();
    (all, files.guest.memory_used() / 4096, code)
}

fn process_memory(files: &Files<'_>, _: i32) -> Vec<u8> {
    let (all, resident, code) = sizes(files);
    format!("{all} {resident} 0 {code} 0 {resident} 0\n").into_bytes()
}

fn status(files: &Files<'_>, thread: i32) -> Vec<u8> {
    let (all, resident, code) = sizes(files);
    let (all, resident, code) = (all * 4, resident * 4, code * 4);
    let ids = host::process_ids();
    let name = files.guest.thread_name(thread).unwrap_or_default();
    let (user, group) = files.guest.user();
    // What is the same for the monitor's process and for the guest's, because the guest's calls set it there.
    let host = host::content(host::borrow(&files.namespace.proc), c"thread-self/status").unwrap_or_default();
    let host = String::from_utf8_lossy(&host);
    let shared = |names: &[&str]| -> String {
        let known = host
            .lines()
            .filter(|line| names.contains(&line.split(':').next().unwrap_or_default()));
        known.flat_map(|line| [line, "\n"]).collect()
    };
    let processors = files.guest.processors().clamp(1, 64);
    [
        format!("Name:\t{}\n", String::from_utf8_lossy(&name)),
        shared(&["Umask"]),
        format!(
            "State:\tR (running)\nTgid:\t{}\nNgid:\t0\nPid:\t{thread}\n",
            ids.process
        ),
        format!("PPid:\t{}\nTracerPid:\t0\n", ids.parent),
        format!("Uid:\t{user}\t{user}\t{user}\t{user}\nGid:\t{group}\t{group}\t{group}\t{group}\n"),
        format!("FDSize:\t{}\nGroups:\t \n", descriptors::limit()),
        format!("VmPeak:\t{all:>8} kB\nVmSize:\t{all:>8} kB\nVmLck:\t       0 kB\nVmPin:\t       0 kB\n"),
        format!("VmHWM:\t{resident:>8} kB\nVmRSS:\t{resident:>8} kB\nRssAnon:\t{resident:>8} kB\n"),
        format!("RssFile:\t       0 kB\nRssShmem:\t       0 kB\nVmData:\t{resident:>8} kB\n"),
        format!("VmStk:\t     132 kB\nVmExe:\t{code:>8} kB\nVmLib:\t       0 kB\nVmPTE:\t       0 kB\n"),
        format!(
            "VmSwap:\t       0 kB\nThreads:\t{}\n",
            files.guest.threads().len().max(1)
        ),
        shared(&["SigQ", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"]),
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
            .map(|name| format!("{name}:\t0000000000000000\n"))
            .concat(),
        "NoNewPrivs:\t1\n".to_owned(),
        format!(
            "Seccomp:\t0\nCpus_allowed:\t{:x}\n",
            u64::MAX >> (64 - processors)
        ),
        format!("Cpus_allowed_list:\t0-{}\n", processors - 1),
        shared(&["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]),
    ]
    .concat()
    .into_bytes()
}

fn process_statistics(files: &Files<'_>, thread: i32) -> Vec<u8> {
    let ids = host::process_ids();
    let name = String::from_utf8_lossy(&files.guest.thread_name(thread).unwrap_or_default()).into_owned();
    let path = if thread == ids.thread {
        c"thread-self/stat"
    } else {
        c"self/stat"
    };
    let host = host::content(host::borrow(&files.namespace.proc), path).unwrap_or_default();
    let host = String::from_utf8_lossy(&host);
    // After the name, which may hold anything, fields 3 to 52 of proc(5).
    let mut fields: Vec<String> = host
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    fields.resize(50, "0".to_owned());
    let (all, resident, _) = sizes(files);
    let mut set = |number: usize, value: String| fields[number - 3] = value;
    set(3, "R".to_owned());
    set(4, ids.parent.to_string());
    set(5, ids.group.to_string());
    set(6, ids.session.to_string());
    set(20, files.guest.threads().len().max(1).to_string());
    set(23, (all * 4096).to_string());
    set(24, resident.to_string());
    // Addresses of the monitor's own.
    for number in (26..=30).chain(45..=51) {
        set(number, "0".to_owned());
    }
    format!("{thread} ({name}) {}\n", fields.join(" ")).into_bytes()
}

fn limits(_: &Files<'_>, _: i32) -> Vec<u8> {
    #[rustfmt::skip]
    let rows = [
        ("Max cpu time", libc::RLIMIT_CPU, "seconds"),
        ("Max file size", libc::RLIMIT_FSIZE, "bytes"),
        ("Max data size", libc::RLIMIT_DATA, "bytes"),
        ("Max stack size", libc::RLIMIT_STACK, "bytes"),
        ("Max core file size", libc::RLIMIT_CORE, "bytes"),
        ("Max resident set", libc::RLIMIT_RSS, "bytes"),
        ("Max processes", libc::RLIMIT_NPROC, "processes"),
        ("Max open files", libc::RLIMIT_NOFILE, "files"),
        ("Max locked memory", libc::RLIMIT_MEMLOCK, "bytes"),
        ("Max address space", libc::RLIMIT_AS, "bytes"),
        ("Max file locks", libc::RLIMIT_LOCKS, "locks"),
        ("Max pending signals", libc::RLIMIT_SIGPENDING, "signals"),
        ("Max msgqueue size", libc::RLIMIT_MSGQUEUE, "bytes"),
        ("Max nice priority", libc::RLIMIT_NICE, ""),
        ("Max realtime priority", libc::RLIMIT_RTPRIO, ""),
        ("Max realtime timeout", libc::RLIMIT_RTTIME, "us"),
    ];
    let show = |value: u64| {
        if value == libc::RLIM_INFINITY {
            "unlimited".to_owned()
        } else {
            value.to_string()
        }
    };
    let mut text = format!(
        "{:<25} {:<20} {:<20} {:<10}\n",
        "Limit", "Soft Limit", "Hard Limit", "Units"
    )
    .into_bytes();
    for (name, resource, unit) in rows {
        let (soft, hard) = match resource {
            libc::RLIMIT_NOFILE => (descriptors::limit().to_string(), MONITOR_FD_FLOOR.to_string()),
            resource => {
                let (soft, hard) = host::resource_limit(resource);
                (show(soft), show(hard))
            }
        };
        text.extend(format!("{name:<25} {soft:<20} {hard:<20} {unit:<10}\n").into_bytes());
    }
    text
}

/// Kind, source and options of each mount, in the order of their paths.
fn mount_rows(files: &Files<'_>) -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let mut rows: Vec<_> = files
        .namespace
        .mounts
        .iter()
        .map(|mount| {
            let path = if mount.path.is_empty() {
                b"/".to_vec()
            } else {
                mount.path.clone()
            };
            let kind = match &mount.source {
                Source::Directory(_) | Source::Special(_) => "ext4",
                Source::Scratch(_) => "tmpfs",
                Source::Tree(super::Tree::Proc) => "proc",
                Source::Tree(super::Tree::Sys) => "sysfs",
                Source::Tree(super::Tree::Dev) => "tmpfs",
            };
            let options = if mount.access == Access::ReadOnly {
                "ro,nosuid,nodev"
            } else {
                "rw,nosuid,nodev"
            };
            (path, kind, options)
        })
        .collect();
    if files.namespace.mounts.is_mount_point(b"/sys") {
        rows.push((b"/sys/fs/cgroup".to_vec(), "cgroup2", "ro,nosuid,nodev"));
    }
    rows.sort();
    rows
}

fn mounts(files: &Files<'_>, _: i32) -> Vec<u8> {
    let row = |(path, kind, options): (Vec<u8>, &str, &str)| {
        [
            kind.as_bytes(),
            b" ",
            &escaped(&path),
            format!(" {kind} {options} 0 0\n").as_bytes(),
        ]
        .concat()
    };
    mount_rows(files).into_iter().flat_map(row).collect()
}

fn mount_information(files: &Files<'_>, _: i32) -> Vec<u8> {
    let row = |(number, (path, kind, options)): (usize, (Vec<u8>, &str, &str))| {
        let parent = if number == 0 { 1 } else { 20 };
        let before = format!("{} {parent} 0:{} / ", number + 20, number + 20);
        let access = &options[..2];
        [
            before.as_bytes(),
            &escaped(&path),
            format!(" {options} - {kind} {kind} {access}\n").as_bytes(),
        ]
        .concat()
    };
    mount_rows(files).into_iter().enumerate().flat_map(row).collect()
}

/// Spaces and the like as octal, so that a line stays a line.
fn escaped(path: &[u8]) -> Vec<u8> {
    let one = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        byte => vec![*byte],
    };
    path.iter().flat_map(one).collect()
}

fn descriptor_information(files: &Files<'_>, fd: i32) -> Vec<u8> {
    let Ok(path) = fd_path(fd) else { return Vec::new() };
    let path = path.to_string_lossy().replace("/fd/", "/fdinfo/");
    let Ok(path) = host::c_string(path.as_bytes()) else {
        return Vec::new();
    };
    let text = host::content(host::borrow(&files.namespace.proc), &path).unwrap_or_default();
    // Position and flags; the rest (mount, inode, watched descriptors) is the host's.
    let text = String::from_utf8_lossy(&text);
    let kept = text
        .lines()
        .filter(|line| line.starts_with("pos:") || line.starts_with("flags:"));
    kept.flat_map(|line| [line, "\n"])
        .collect::<String>()
        .into_bytes()
}
