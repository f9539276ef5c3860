//! /proc/self of the guest.
//!
//! Nothing here reads the host's /proc, which would speak of the monitor and is out of reach in a jail: what the two have in
//! common (ids, times, signals, limits) is asked of the kernel, the rest of the guest.

use std::collections::BTreeMap;

use super::proc::line;
use super::{Entry, Fixed, Kind, Node, look_in_table};
use crate::errno::Errno;
use crate::fs::descriptors::{self, MONITOR_FD_FLOOR};
use crate::fs::host;
use crate::fs::mounts::{Access, Source};
use crate::fs::namespace::{Files, Region};

use Fixed::{File, Text};

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
    ("smaps_rollup", File(summed_maps)),
    ("stat", File(process_statistics)),
    ("statm", File(process_memory)),
    ("status", File(status)),
    ("uid_map", Text("         0          0 4294967295\n")),
    ("wchan", Text("0")),
];

pub fn look(files: &Files<'_>, names: &[&str], thread: Option<i32>) -> Result<Node, Errno> {
    let subject = thread.unwrap_or_else(|| host::process_ids().process);
    match names {
        [] => {
            let Node::Directory(mut inside) = look_in_table(PROCESS, names)? else {
                return Err(Errno::NOTDIR);
            };
            inside.extend(["cwd", "exe", "root"].map(|name| (name.into(), Kind::Link)));
            inside.extend(["fd", "fdinfo", "net"].map(|name| (name.into(), Kind::Directory)));
            if thread.is_none() {
                inside.insert(b"task".to_vec(), Kind::Directory);
            }
            Ok(Node::Directory(inside))
        }
        ["net", rest @ ..] => look_in_table(super::net::FILES, rest),
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
            look(files, rest, Some(thread))
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

fn arguments(files: &Files<'_>, _: i32) -> Vec<u8> {
    files.guest.arguments()
}

fn environment(files: &Files<'_>, _: i32) -> Vec<u8> {
    files.guest.environment()
}

fn auxiliary_vector(files: &Files<'_>, _: i32) -> Vec<u8> {
    files.guest.auxiliary_vector()
}

/// The name of a thread; of the program, where the guest has given none.
fn thread_name(files: &Files<'_>, thread: i32) -> Vec<u8> {
    let given = files.guest.thread_name(thread).unwrap_or_default();
    if !given.is_empty() {
        return given;
    }
    let program = files.guest.executable();
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name[..name.len().min(15)].to_vec()
}

fn name(files: &Files<'_>, thread: i32) -> Vec<u8> {
    line(&thread_name(files, thread))
}

/// The first line of a mapping.
fn head(region: &Region) -> Vec<u8> {
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
        libc::major(region.file.device),
        libc::minor(region.file.device),
        region.file.inode
    )
    .into_bytes();
    let name = &region.file.name;
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
    files.guest.regions().iter().flat_map(head).collect()
}

/// What `smaps` says of one mapping, of so many KiB.
fn amounts(size: u64) -> String {
    format!(
        "Rss:            {size:>8} kB\nPss:            {size:>8} kB\nPrivate_Dirty:  {size:>8} kB\n\
         Swap:                  0 kB\nLocked:                0 kB\n"
    )
}

fn summed_maps(files: &Files<'_>, _: i32) -> Vec<u8> {
    let regions = files.guest.regions();
    let start = regions.first().map_or(0, |region| region.start);
    let end = regions.last().map_or(0, |region| region.end);
    format!(
        "{start:08x}-{end:08x} ---p 00000000 00:00 0                                [rollup]\n{}",
        amounts(files.guest.memory_used() / 1024)
    )
    .into_bytes()
}

fn detailed_maps(files: &Files<'_>, _: i32) -> Vec<u8> {
    let detail = |region: &Region| {
        let size = (region.end - region.start) / 1024;
        let rows = format!(
            "Size:           {size:>8} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n{}",
            amounts(size)
        );
        [head(region), rows.into_bytes()].concat()
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
    let (user, group) = files.guest.user();
    let groups: Vec<String> = files.guest.groups().iter().map(u32::to_string).collect();
    let groups = groups.join(" ");
    let signals = host::signals();
    let usage = host::usage();
    let processors = files.guest.processors().clamp(1, 64);
    [
        format!(
            "Name:\t{}\n",
            String::from_utf8_lossy(&thread_name(files, thread))
        ),
        format!(
            "State:\tR (running)\nTgid:\t{}\nNgid:\t0\nPid:\t{thread}\n",
            ids.process
        ),
        format!("PPid:\t{}\nTracerPid:\t0\n", files.guest.parent()),
        format!("Uid:\t{user}\t{user}\t{user}\t{user}\nGid:\t{group}\t{group}\t{group}\t{group}\n"),
        format!("FDSize:\t{}\nGroups:\t{groups} \n", descriptors::limit()),
        format!("VmPeak:\t{all:>8} kB\nVmSize:\t{all:>8} kB\nVmLck:\t       0 kB\nVmPin:\t       0 kB\n"),
        format!("VmHWM:\t{resident:>8} kB\nVmRSS:\t{resident:>8} kB\nRssAnon:\t{resident:>8} kB\n"),
        format!("RssFile:\t       0 kB\nRssShmem:\t       0 kB\nVmData:\t{resident:>8} kB\n"),
        format!("VmStk:\t     132 kB\nVmExe:\t{code:>8} kB\nVmLib:\t       0 kB\nVmPTE:\t       0 kB\n"),
        format!(
            "VmSwap:\t       0 kB\nThreads:\t{}\n",
            files.guest.threads().len().max(1)
        ),
        format!(
            "SigQ:\t0/{}\nSigPnd:\t{:016x}\n",
            files.guest.limit(libc::RLIMIT_SIGPENDING)[0],
            signals.pending
        ),
        format!("ShdPnd:\t{:016x}\nSigBlk:\t{:016x}\n", 0, signals.blocked),
        format!(
            "SigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
            signals.ignored, signals.caught
        ),
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
            .map(|name| format!("{name}:\t{:016x}\n", 0))
            .concat(),
        format!(
            "NoNewPrivs:\t1\nSeccomp:\t0\nCpus_allowed:\t{:x}\n",
            u64::MAX >> (64 - processors)
        ),
        format!("Cpus_allowed_list:\t0-{}\n", processors - 1),
        format!("voluntary_ctxt_switches:\t{}\n", usage.ru_nvcsw),
        format!("nonvoluntary_ctxt_switches:\t{}\n", usage.ru_nivcsw),
    ]
    .concat()
    .into_bytes()
}

fn process_statistics(files: &Files<'_>, thread: i32) -> Vec<u8> {
    let ids = host::process_ids();
    let name = String::from_utf8_lossy(&thread_name(files, thread)).into_owned();
    let (all, resident, _) = sizes(files);
    let usage = host::usage();
    let [user, system] = crate::clock::used().map(|time| time / 10_000_000);
    // Fields 3 to 52 of proc(5), after the name. Most are nothing here: addresses, other processes, real-time.
    let mut fields = vec!["0".to_owned(); 50];
    let mut set = |number: usize, value: &dyn std::fmt::Display| fields[number - 3] = value.to_string();
    set(3, &"R");
    set(4, &files.guest.parent());
    set(5, &ids.group);
    set(6, &ids.session);
    set(8, &-1);
    set(9, &0x40_0000);
    set(10, &usage.ru_minflt);
    set(12, &usage.ru_majflt);
    set(14, &user);
    set(15, &system);
    set(18, &20);
    set(20, &files.guest.threads().len().max(1));
    set(22, &files.namespace.machine.started);
    set(23, &(all * 4096));
    set(24, &resident);
    set(25, &u64::MAX);
    set(38, &libc::SIGCHLD);
    format!("{thread} ({name}) {}\n", fields.join(" ")).into_bytes()
}

fn limits(files: &Files<'_>, _: i32) -> Vec<u8> {
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
        let [soft, hard] = files.guest.limit(resource).map(show);
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

fn descriptor_information(_: &Files<'_>, fd: i32) -> Vec<u8> {
    let (position, flags) = host::position_and_flags(fd);
    format!("pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t1\n").into_bytes()
}
