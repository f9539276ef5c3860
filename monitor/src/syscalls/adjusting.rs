//! The state of the clock (adjtimex(2)): a guest may ask, and is told of a clock that nobody disciplines. Setting it needs
//! a privilege.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::clock;
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::task::Task;

const AREA: &str = "time";
const ASKS: &str = "questions only";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_adjtimex, AREA, Level::Emulated, adjtimex, ASKS),
    entry(
        libc::SYS_clock_adjtime,
        AREA,
        Level::Emulated,
        clock_adjtime,
        ASKS,
    ),
];

/// `struct timex`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct State {
    modes: u32,
    padding: u32,
    offset: i64,
    frequency: i64,
    largest_error: i64,
    estimated_error: i64,
    status: i32,
    more_padding: i32,
    constant: i64,
    precision: i64,
    tolerance: i64,
    seconds: i64,
    microseconds: i64,
    tick: i64,
    pulses: [i64; 2],
    shift: i32,
    pulse_padding: i32,
    more_pulses: [i64; 5],
    leap_seconds: i32,
    tail: [i32; 11],
}

const _: () = assert!(size_of::<State>() == size_of::<libc::timex>());

/// Implements adjtimex(2).
fn adjtimex(_: &mut Task, [address, ..]: Args) -> SysResult {
    const ERROR: i64 = 16_000_000;
    let mut state: State = access::read(address)?;
    if state.modes != 0 {
        return Err(Errno::PERM);
    }
    let [seconds, nanoseconds] = clock::read(libc::CLOCK_REALTIME)?;
    state.offset = 0;
    state.frequency = 0;
    state.largest_error = ERROR;
    state.estimated_error = ERROR;
    state.status = libc::STA_UNSYNC;
    state.constant = 2;
    state.precision = 1;
    state.tolerance = 32_768_000;
    state.seconds = seconds;
    state.microseconds = nanoseconds / 1000;
    state.tick = 10_000;
    access::write(address, &state)?;
    Ok(u64::from(libc::TIME_ERROR.unsigned_abs()))
}

/// Implements clock_adjtime(2) for the real-time clock.
fn clock_adjtime(task: &mut Task, [clock, address, ..]: Args) -> SysResult {
    match int(clock) {
        libc::CLOCK_REALTIME => adjtimex(task, [address, 0, 0, 0, 0, 0]),
        1..=11 => Err(Errno::OPNOTSUPP),
        _ => Err(Errno::INVAL),
    }
}
