//! Copies between descriptors: sendfile, copy_file_range, splice, tee, vmsplice.

use std::cell::Cell;
use std::os::fd::RawFd;

use super::descriptors::register;
use super::files::{NOBODY, READ, WRITE, transfer};
use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::guest_fd;
use crate::memory::access;
use crate::ready::Wait;
use crate::signals::host;
use crate::storage::{self, Start};
use crate::sys::calls::{Arg, value};
use crate::task::Task;

const AREA: &str = "copying";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_sendfile, AREA, Level::Forwarded, sendfile, ""),
    entry(
        libc::SYS_copy_file_range,
        AREA,
        Level::Forwarded,
        copy_file_range,
        "",
    ),
    entry(libc::SYS_splice, AREA, Level::Forwarded, splice, ""),
    entry(libc::SYS_tee, AREA, Level::Forwarded, tee, ""),
    entry(libc::SYS_vmsplice, AREA, Level::Emulated, vmsplice, "copies"),
];

const F_GETFL: u64 = libc::F_GETFL.unsigned_abs() as u64;

/// A position that the kernel reads and moves on, if the guest gives one.
struct Position {
    address: u64,
    value: Cell<i64>,
}

impl Position {
    fn read(address: u64) -> Result<Self, Errno> {
        Ok(Self {
            address,
            value: Cell::new(if address == 0 { 0 } else { access::read(address)? }),
        })
    }

    /// Where a write begins.
    fn start(&self) -> Start {
        if self.address == 0 {
            Start::Position
        } else {
            Start::At(self.value.get())
        }
    }

    fn argument(&self) -> Arg<'_> {
        if self.address == 0 {
            value(0)
        } else {
            Arg::Word(&self.value)
        }
    }

    fn write(&self) -> Result<(), Errno> {
        if self.address == 0 {
            Ok(())
        } else {
            access::write(self.address, &self.value.get())
        }
    }
}

/// Makes a call that copies between descriptors, within what an instance may store.
fn copied(
    task: &Task,
    input: RawFd,
    out: RawFd,
    start: Start,
    length: u64,
    call: impl Fn(RawFd, u64) -> SysResult,
) -> SysResult {
    let Some(storage) = &task.process.storage else {
        return call(out, length);
    };
    // Programs ask for more than there is: "all".
    let there = storage::size(input)?.map_or(length, |size| size.min(length));
    storage.copy(out, start, there, call)
}

/// Implements sendfile(2).
fn sendfile(task: &mut Task, [out, input, offset, count, ..]: Args) -> SysResult {
    // What is wrong with the input and its position comes before what is wrong with the output.
    let (out, input) = (guest_fd(int(out)).unwrap_or(NOBODY), guest_fd(int(input))?);
    task.process.ready.before(&Wait::Read(input))?;
    let offset = Position::read(offset)?;
    let result = copied(task, input, out, Start::Position, count, |out, count| {
        let [out, input] = [out, input].map(|fd| value(register(fd)));
        task.call(libc::SYS_sendfile, [out, input, offset.argument(), value(count)])
    });
    if let Ok(bytes) = result {
        task.process.transferred(out, bytes, true);
        offset.write()?;
    }
    result
}

/// copy_file_range and splice: between two descriptors, each with a position.
fn between(task: &Task, number: libc::c_long, [input, from, out, to, length, flags]: Args) -> SysResult {
    let (input, out) = (guest_fd(int(input))?, guest_fd(int(out))?);
    task.process.ready.before(&Wait::Read(input))?;
    let (from, to) = (Position::read(from)?, Position::read(to)?);
    let start = to.start();
    let result = copied(task, input, out, start, length, |out, length| {
        let [input, out] = [input, out].map(|fd| value(register(fd)));
        let [length, flags] = [length, flags].map(value);
        task.call(
            number,
            [input, from.argument(), out, to.argument(), length, flags],
        )
    });
    if let Ok(bytes) = result {
        task.process.transferred(input, bytes, false);
        task.process.transferred(out, bytes, true);
        from.write()?;
        to.write()?;
    }
    result
}

/// Implements copy_file_range(2).
fn copy_file_range(task: &mut Task, args: Args) -> SysResult {
    between(task, libc::SYS_copy_file_range, args)
}

/// Implements splice(2). To a file of an instance it is made without waiting, because all such calls wait for one another.
fn splice(task: &mut Task, [input, from, out, to, length, flags]: Args) -> SysResult {
    let nonblocking = u64::from(libc::SPLICE_F_NONBLOCK);
    if length == 0 {
        return Ok(0);
    }
    let (number, target) = (guest_fd(int(input))?, guest_fd(int(out))?);
    let to_file = task.process.storage.is_some() && storage::size(target)?.is_some();
    let status = task.plain(libc::SYS_fcntl, [register(number), F_GETFL, 0, 0, 0, 0])?;
    if !to_file || flags & nonblocking != 0 || int(status) & libc::O_NONBLOCK != 0 {
        return between(task, libc::SYS_splice, [input, from, out, to, length, flags]);
    }
    task.process.ready.before(&Wait::Read(number))?;
    loop {
        let mut waited = [libc::pollfd {
            fd: number,
            events: libc::POLLIN,
            revents: 0,
        }];
        host::poll(&mut waited, -1)?;
        let args = [input, from, out, to, length, flags | nonblocking];
        match between(task, libc::SYS_splice, args) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
}

/// Implements tee(2).
fn tee(task: &mut Task, [input, out, length, flags, ..]: Args) -> SysResult {
    let known = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;
    if int(flags).cast_unsigned() & !known != 0 {
        return Err(Errno::INVAL);
    }
    if length == 0 {
        return Ok(0);
    }
    let (input, out) = (guest_fd(int(input))?, guest_fd(int(out))?);
    task.process.ready.before(&Wait::Read(input))?;
    task.plain(
        libc::SYS_tee,
        [register(input), register(out), length, flags, 0, 0],
    )
}

/// Implements vmsplice(2) by copying: pages of the guest must not stay in a pipe.
fn vmsplice(task: &mut Task, [fd, vector, count, flags, ..]: Args) -> SysResult {
    let known = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;
    if int(flags).cast_unsigned() & !known != 0 {
        return Err(Errno::INVAL);
    }
    let number = guest_fd(int(fd))?;
    let mode = task.plain(
        libc::SYS_fcntl,
        [register(number), register(libc::F_GETFL), 0, 0, 0, 0],
    )?;
    task.plain(
        libc::SYS_fcntl,
        [register(number), register(libc::F_GETPIPE_SZ), 0, 0, 0, 0],
    )?;
    let reads = int(mode) & libc::O_ACCMODE == libc::O_RDONLY;
    if reads {
        task.process.ready.before(&Wait::Read(number))?;
    }
    transfer(
        task,
        fd,
        &access::vector(vector, count)?,
        if reads { READ } else { WRITE },
    )
}
