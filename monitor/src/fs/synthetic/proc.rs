//! /proc of the guest: the machine that the function has (its memory, its processors), not the host, and in it the one
//! process that asks ([`process`]).
//!
//! Only the process that asks is there. Other processes, and whatever would lead into the monitor's memory (`mem`,
//! `map_files`, `pagemap`) or out of the tree, do not exist here.

use std::os::fd::BorrowedFd;

use super::{Entry, Fixed, Kind, Node, look_in_table, process};
use crate::clock;
use crate::errno::Errno;
use crate::fs::descriptors::MONITOR_FD_FLOOR;
use crate::fs::host;
use crate::fs::namespace::Files;

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
    ("net", Link("self/net")),
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

/// What is taken from the host, once, while it is in reach.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct Machine {
    /// What /proc/cpuinfo says of the first processor, without its number.
    processor: String,
    release: Vec<u8>,
    version: Vec<u8>,
    boot_id: Vec<u8>,
    /// When this was, in hundredths of a second since the host started: the start of the process.
    pub started: i64,
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
            started: ticks(uptime_now()),
        }
    }

    /// From now on it is another machine: what a program can tell an instance from the next by.
    pub fn renew(&mut self) {
        self.boot_id = new_uuid();
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
        [id, rest @ ..] if *id == ids.process.to_string() => process::look(files, rest, None),
        _ => look_in_table(FILES, names),
    }
}

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
    let idle = uptime_now()[0].saturating_mul(100);
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
    let started = now.saturating_sub(uptime_now()[0].unsigned_abs());
    text += &format!(
        "intr 0\nctxt 0\nbtime {started}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\nsoftirq 0\n"
    );
    text.into_bytes()
}

/// In hundredths of a second, the unit of /proc.
fn ticks([seconds, fraction]: clock::Time) -> i64 {
    seconds.saturating_mul(100).saturating_add(fraction / 10_000_000)
}

/// Time since the machine started, as the guest counts it.
fn uptime_now() -> clock::Time {
    clock::read(libc::CLOCK_BOOTTIME).unwrap_or_default()
}

fn uptime(_: &Files<'_>, _: i32) -> Vec<u8> {
    let [seconds, fraction] = uptime_now();
    format!("{0}.{1:02} {0}.{1:02}\n", seconds, fraction / 10_000_000).into_bytes()
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

pub fn line(text: &[u8]) -> Vec<u8> {
    [text, b"\n"].concat()
}
