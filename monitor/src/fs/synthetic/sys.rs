//! /sys of the guest: its processors, its memory, and the control group that its limits make up.

use super::{Entry, Fixed, Kind, Node, look_in_table};
use crate::errno::Errno;
use crate::fs::namespace::Files;

use Fixed::{Directory, File, Text};

#[rustfmt::skip]
const FILES: &[Entry] = &[
    ("block", Directory),
    ("bus", Directory),
    ("class/net/lo/address", Text("00:00:00:00:00:00\n")),
    ("class/net/lo/addr_len", Text("6\n")),
    ("class/net/lo/carrier", Text("1\n")),
    ("class/net/lo/flags", Text("0x9\n")),
    ("class/net/lo/ifindex", Text("1\n")),
    ("class/net/lo/mtu", Text("65536\n")),
    ("class/net/lo/operstate", Text("unknown\n")),
    ("class/net/lo/tx_queue_len", Text("1000\n")),
    ("class/net/lo/type", Text("772\n")),
    ("devices/system/cpu/isolated", Text("\n")),
    ("devices/system/cpu/kernel_max", Text("8191\n")),
    ("devices/system/cpu/offline", Text("\n")),
    ("devices/system/cpu/online", File(processors)),
    ("devices/system/cpu/possible", File(processors)),
    ("devices/system/cpu/present", File(processors)),
    ("devices/system/node/node0/cpulist", File(processors)),
    ("devices/system/node/online", Text("0\n")),
    ("devices/system/node/possible", Text("0\n")),
    ("fs/cgroup/cgroup.controllers", Text("cpu memory pids\n")),
    ("fs/cgroup/cgroup.procs", File(process)),
    ("fs/cgroup/cgroup.subtree_control", Text("\n")),
    ("fs/cgroup/cgroup.type", Text("domain\n")),
    ("fs/cgroup/cpu.max", File(processor_time)),
    ("fs/cgroup/cpu.stat", Text("usage_usec 0\nuser_usec 0\nsystem_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n")),
    ("fs/cgroup/cpu.weight", Text("100\n")),
    ("fs/cgroup/cpuset.cpus.effective", File(processors)),
    ("fs/cgroup/memory.current", File(memory_used)),
    ("fs/cgroup/memory.events", Text("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n")),
    ("fs/cgroup/memory.high", Text("max\n")),
    ("fs/cgroup/memory.low", Text("0\n")),
    ("fs/cgroup/memory.max", File(memory_limit)),
    ("fs/cgroup/memory.min", Text("0\n")),
    ("fs/cgroup/memory.stat", File(memory_statistics)),
    ("fs/cgroup/memory.swap.current", Text("0\n")),
    ("fs/cgroup/memory.swap.max", Text("0\n")),
    ("fs/cgroup/pids.current", File(tasks)),
    ("fs/cgroup/pids.max", Text("max\n")),
    ("kernel/mm/hugepages", Directory),
    ("kernel/mm/transparent_hugepage/defrag", Text("always defer defer+madvise [madvise] never\n")),
    ("kernel/mm/transparent_hugepage/enabled", Text("always [madvise] never\n")),
    ("kernel/mm/transparent_hugepage/hpage_pmd_size", Text("2097152\n")),
    ("kernel/mm/transparent_hugepage/shmem_enabled", Text("always within_size advise [never] deny force\n")),
    ("module", Directory),
];

/// One processor, below `devices/system/cpu/cpuN`.
#[rustfmt::skip]
const PROCESSOR: &[Entry] = &[
    ("topology/core_cpus_list", File(one)),
    ("topology/core_id", File(one)),
    ("topology/core_siblings_list", File(processors)),
    ("topology/package_cpus_list", File(processors)),
    ("topology/physical_package_id", Text("0\n")),
    ("topology/thread_siblings_list", File(one)),
];

pub fn look(files: &Files<'_>, names: &[&str]) -> Result<Node, Errno> {
    let count = files.guest.processors();
    match names {
        ["devices", "system", "cpu"] => {
            let Node::Directory(mut inside) = look_in_table(FILES, names)? else {
                return Err(Errno::NOTDIR);
            };
            inside.extend((0..count).map(|n| (format!("cpu{n}").into_bytes(), Kind::Directory)));
            Ok(Node::Directory(inside))
        }
        ["devices", "system", "cpu", name, rest @ ..] => {
            match name.strip_prefix("cpu").map(str::parse::<u32>) {
                Some(Ok(number)) if number < count => Ok(match look_in_table(PROCESSOR, rest)? {
                    Node::File(content, _) => Node::File(content, i32::try_from(number).unwrap_or(0)),
                    node => node,
                }),
                _ => look_in_table(FILES, names),
            }
        }
        _ => look_in_table(FILES, names),
    }
}

fn processors(files: &Files<'_>, _: i32) -> Vec<u8> {
    match files.guest.processors() {
        0 | 1 => b"0\n".to_vec(),
        count => format!("0-{}\n", count - 1).into_bytes(),
    }
}

fn one(_: &Files<'_>, number: i32) -> Vec<u8> {
    format!("{number}\n").into_bytes()
}

fn process(_: &Files<'_>, _: i32) -> Vec<u8> {
    format!("{}\n", std::process::id()).into_bytes()
}

fn processor_time(files: &Files<'_>, _: i32) -> Vec<u8> {
    format!("{} 100000\n", u64::from(files.guest.processors()) * 100_000).into_bytes()
}

fn memory_limit(files: &Files<'_>, _: i32) -> Vec<u8> {
    format!("{}\n", files.guest.memory_limit()).into_bytes()
}

fn memory_used(files: &Files<'_>, _: i32) -> Vec<u8> {
    format!("{}\n", files.guest.memory_used()).into_bytes()
}

fn memory_statistics(files: &Files<'_>, _: i32) -> Vec<u8> {
    format!(
        "anon {}\nfile 0\nkernel 0\nshmem 0\ninactive_file 0\nactive_file 0\n",
        files.guest.memory_used()
    )
    .into_bytes()
}

fn tasks(files: &Files<'_>, _: i32) -> Vec<u8> {
    format!("{}\n", files.guest.threads().len()).into_bytes()
}
