//! The table of system calls: number → name, area, level, handler. Dispatch, `mayfly-monitor syscalls`, the trace and the
//! log read it.

pub mod absent;
pub mod adjusting;
mod attributes;
mod copying;
pub mod descriptors;
pub mod exec;
pub mod files;
pub mod futexes;
pub mod identity;
mod interfaces;
pub mod limits;
pub mod memory;
pub mod messages;
pub mod misc;
pub mod names;
pub mod outside;
pub mod paths;
pub mod polling;
pub mod processes;
pub mod scheduling;
pub mod settings;
pub mod signals;
pub mod socket_options;
pub mod sockets;
pub mod threads;
pub mod time;
pub mod timers;

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::errno::{Errno, SysResult};
use crate::task::{Flow, Task};
use crate::vm::vcpu::Registers;

/// `syscall`.
pub const INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// The six arguments.
pub type Args = [u64; 6];
pub type Handler = fn(&mut Task, Args) -> SysResult;

/// How a call is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// The monitor answers.
    Emulated,
    /// The host kernel answers, with checked arguments.
    Forwarded,
    /// Always an error, on purpose.
    Refused,
    /// Not there yet: ENOSYS and a line in the log.
    Absent,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::Forwarded => "forwarded",
            Self::Refused => "refused",
            Self::Absent => "absent",
        }
    }
}

#[derive(Clone, Copy)]
pub struct Entry {
    pub number: u32,
    pub area: &'static str,
    pub level: Level,
    pub handler: Handler,
    pub note: &'static str,
}

/// An entry, in the form that the areas list theirs.
pub const fn entry(
    number: libc::c_long,
    area: &'static str,
    level: Level,
    handler: Handler,
    note: &'static str,
) -> Entry {
    // System call numbers are small and positive.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Entry {
        number: number as u32,
        area,
        level,
        handler,
        note,
    }
}

/// Size of the table: numbers at and above are unknown.
const SIZE: usize = crate::ledger::COUNTED;

const AREAS: &[&[Entry]] = &[
    absent::ENTRIES,
    adjusting::ENTRIES,
    attributes::ENTRIES,
    copying::ENTRIES,
    descriptors::ENTRIES,
    exec::ENTRIES,
    files::ENTRIES,
    futexes::ENTRIES,
    identity::ENTRIES,
    limits::ENTRIES,
    memory::ENTRIES,
    misc::ENTRIES,
    paths::ENTRIES,
    processes::ENTRIES,
    polling::ENTRIES,
    scheduling::ENTRIES,
    settings::ENTRIES,
    signals::ENTRIES,
    sockets::ENTRIES,
    threads::ENTRIES,
    time::ENTRIES,
    timers::ENTRIES,
];

fn table() -> &'static [Option<Entry>; SIZE] {
    static TABLE: OnceLock<[Option<Entry>; SIZE]> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = [None; SIZE];
        for entry in AREAS.iter().copied().flatten() {
            table[entry.number as usize] = Some(*entry);
        }
        table
    })
}

/// Builds the table now, for processes that are forked later and have none of the time.
pub fn prepare() {
    table();
}

/// The entry of a number.
pub fn find(number: u64) -> Option<&'static Entry> {
    table().get(usize::try_from(number).ok()?)?.as_ref()
}

/// Where a number stands in `names::NAMES`.
pub fn place(number: u64) -> Option<usize> {
    let number = u32::try_from(number).ok()?;
    names::NAMES
        .binary_search_by_key(&number, |(known, _)| *known)
        .ok()
}

/// The name of a number, also of calls that are not in the table.
pub fn name(number: u64) -> Option<&'static str> {
    place(number).map(|at| names::NAMES[at].1)
}

/// Calls by name with their results, for an explanation: `read=5 write=-32`; `futex=?` has not returned.
pub fn describe(calls: &[(u32, Option<i64>)]) -> String {
    let shown = calls.iter().map(|(number, result)| {
        let name = name(u64::from(*number)).map_or_else(|| number.to_string(), str::to_owned);
        match result {
            None => format!("{name}=?"),
            Some(value @ -4096..=65535) => format!("{name}={value}"),
            Some(value) => format!("{name}={value:#x}"),
        }
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// Makes the call that the guest asked for.
pub fn dispatch(task: &mut Task, number: u64) -> SysResult {
    let ledger = task.process.ledger;
    let known = u32::try_from(number).unwrap_or(u32::MAX);
    let place = ledger.called(known);
    let result = if task.process.trace.is_some() {
        traced(task, number)
    } else {
        answer(task, number)
    };
    if let Err(Errno::NOSYS | Errno::PERM) = result {
        ledger.denied(known);
    }
    ledger.returned(
        place,
        match &result {
            Ok(value) => value.cast_signed(),
            Err(errno) => -i64::from(errno.0),
        },
    );
    result
}

fn answer(task: &mut Task, number: u64) -> SysResult {
    let r = task.registers;
    let args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
    let Some(entry) = find(number) else {
        report_unknown(number);
        return Err(Errno::NOSYS);
    };
    (entry.handler)(task, args)
}

/// The same, told before and after.
fn traced(task: &mut Task, number: u64) -> SysResult {
    let r = task.registers;
    let args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
    let process = task.process.clone();
    let Some(tracer) = &process.trace else {
        return answer(task, number);
    };
    tracer.enter(task.tid, number, args);
    let result = answer(task, number);
    // The child of a fork comes back from its parent's call, which tells it.
    if task.flow != Flow::Fresh {
        tracer.leave(task.tid, number, args, &result);
    }
    result
}

/// One line for each unknown number, however often it is called.
fn report_unknown(number: u64) {
    static SEEN: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
    // All numbers beyond the table share its last place: there is no such call.
    let index = usize::try_from(number).unwrap_or(usize::MAX).min(SIZE - 1);
    if SEEN[index / 64].fetch_or(1 << (index % 64), Ordering::Relaxed) >> (index % 64) & 1 != 0 {
        return;
    }
    match name(number) {
        Some(name) => eprintln!("mayfly-monitor: system call {name} ({number}) is not supported: ENOSYS"),
        None => eprintln!(
            "mayfly-monitor: system call {} does not exist: ENOSYS",
            memory::int(number)
        ),
    }
}

/// Whether a call interrupted by a handler with SA_RESTART is made again (signal(7)).
pub fn is_restartable(number: u64, registers: &Registers) -> bool {
    let Ok(number) = i64::try_from(number) else {
        return false;
    };
    match number {
        libc::SYS_read
        | libc::SYS_readv
        | libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_pread64
        | libc::SYS_pwrite64
        | libc::SYS_ioctl
        | libc::SYS_openat
        | libc::SYS_open
        | libc::SYS_wait4
        | libc::SYS_waitid
        | libc::SYS_accept
        | libc::SYS_accept4
        | libc::SYS_connect
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_flock
        | libc::SYS_fcntl
        | libc::SYS_getrandom => true,
        // Without a timeout.
        libc::SYS_futex => registers.r10 == 0,
        _ => false,
    }
}

/// Writes the table to stdout: one line a call, or JSON.
pub fn print_table(json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let rows = names::NAMES.iter().map(|(number, name)| {
        let entry = find(u64::from(*number));
        let level = entry.map_or(Level::Absent, |entry| entry.level);
        (
            *number,
            *name,
            entry.map_or("", |entry| entry.area),
            level.name(),
            entry.map_or("", |entry| entry.note),
        )
    });
    if json {
        let rows: Vec<_> = rows
            .map(|(number, name, area, level, note)| {
                serde_json::json!({"number": number, "name": name, "area": area, "level": level, "note": note})
            })
            .collect();
        return writeln!(out, "{}", serde_json::Value::Array(rows));
    }
    writeln!(
        out,
        "{:>4}  {:<24} {:<10} {:<10} note",
        "no", "name", "area", "level"
    )?;
    for (number, name, area, level, note) in rows {
        writeln!(out, "{number:>4}  {name:<24} {area:<10} {level:<10} {note}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_named() {
        let mut seen = std::collections::HashSet::new();
        for entry in AREAS.iter().copied().flatten() {
            assert!(seen.insert(entry.number), "{} is listed twice", entry.number);
            assert!(
                name(u64::from(entry.number)).is_some(),
                "{} has no name",
                entry.number
            );
        }
        assert!(names::NAMES.is_sorted_by_key(|(number, _)| *number));
    }
}
