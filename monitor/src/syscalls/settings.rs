//! prctl(2): what a process sets about itself. It is kept, so that it is told again; what would change the host's process
//! beyond the guest has no effect there.

use std::sync::atomic::{AtomicI32, Ordering};

use super::descriptors::register;
use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::sys::calls::{input, output, value as value_of};
use crate::task::Task;

pub const ENTRIES: &[Entry] = &[entry(
    libc::SYS_prctl,
    "system",
    Level::Emulated,
    prctl,
    "what is not in the table: EINVAL",
)];

const SIGNALS: i32 = 64;
const LAST_CAPABILITY: i32 = 40;

/// What the guest has set; one process of the host is one of the guest.
static DUMPABLE: AtomicI32 = AtomicI32::new(1);
static KEEPS_CAPABILITIES: AtomicI32 = AtomicI32::new(0);
static DEATH_SIGNAL: AtomicI32 = AtomicI32::new(0);
static REAPS: AtomicI32 = AtomicI32::new(0);
static NO_HUGE_PAGES: AtomicI32 = AtomicI32::new(0);

fn set(place: &AtomicI32, value: i32) -> SysResult {
    place.store(value, Ordering::Relaxed);
    Ok(0)
}

fn get(place: &AtomicI32) -> SysResult {
    Ok(u64::from(place.load(Ordering::Relaxed).unsigned_abs()))
}

/// A value that is 0 or 1.
fn set_flag(place: &AtomicI32, value: u64) -> SysResult {
    match value {
        0 => set(place, 0),
        1 => set(place, 1),
        _ => Err(Errno::INVAL),
    }
}

/// Sets what the host's process must do for a program run by hand, too.
fn set_on_host(task: &Task, place: &AtomicI32, option: u64, value: i32) -> SysResult {
    if !task.process.contained {
        let value = u64::from(value.unsigned_abs());
        task.plain(libc::SYS_prctl, [register(int(option)), value, 0, 0, 0, 0])?;
    }
    set(place, value)
}

/// Implements prctl(2).
fn prctl(task: &mut Task, [option, value, third, fourth, fifth, _]: Args) -> SysResult {
    const PR_TSC_ENABLE: i32 = 1;
    const PR_MCE_KILL_DEFAULT: u64 = 2;
    let rest_is_zero = third | fourth | fifth == 0;
    match int(option) {
        libc::PR_SET_NAME => set_name(task, value),
        libc::PR_GET_NAME => {
            let mut name = [0u8; 16];
            task.call(
                libc::SYS_prctl,
                [value_of(register(int(option))), output(&mut name)],
            )?;
            access::write_bytes(value, &name)?;
            Ok(0)
        }
        libc::PR_SET_DUMPABLE => set_flag(&DUMPABLE, value),
        libc::PR_GET_DUMPABLE => get(&DUMPABLE),
        libc::PR_SET_KEEPCAPS => set_flag(&KEEPS_CAPABILITIES, value),
        libc::PR_GET_KEEPCAPS => get(&KEEPS_CAPABILITIES),
        libc::PR_SET_PDEATHSIG if (0..=SIGNALS).contains(&int(value)) => {
            set_on_host(task, &DEATH_SIGNAL, option, int(value))
        }
        libc::PR_GET_PDEATHSIG => {
            access::write(value, &DEATH_SIGNAL.load(Ordering::Relaxed))?;
            Ok(0)
        }
        libc::PR_SET_CHILD_SUBREAPER => set_on_host(task, &REAPS, option, i32::from(value != 0)),
        libc::PR_GET_CHILD_SUBREAPER => {
            access::write(value, &REAPS.load(Ordering::Relaxed))?;
            Ok(0)
        }
        libc::PR_SET_TIMERSLACK | libc::PR_GET_TIMERSLACK => {
            task.plain(libc::SYS_prctl, [register(int(option)), value, 0, 0, 0, 0])
        }
        // What every guest has had from the start.
        libc::PR_SET_NO_NEW_PRIVS if value == 1 && rest_is_zero => Ok(0),
        libc::PR_GET_NO_NEW_PRIVS if value == 0 && rest_is_zero => Ok(1),
        libc::PR_GET_SECCOMP | libc::PR_GET_SECUREBITS => Ok(0),
        libc::PR_CAPBSET_READ if (0..=LAST_CAPABILITY).contains(&int(value)) => Ok(0),
        libc::PR_CAPBSET_DROP | libc::PR_SET_SECUREBITS | libc::PR_SET_MM => Err(Errno::PERM),
        libc::PR_CAP_AMBIENT => match int(value) {
            libc::PR_CAP_AMBIENT_IS_SET | libc::PR_CAP_AMBIENT_LOWER | libc::PR_CAP_AMBIENT_CLEAR_ALL => {
                Ok(0)
            }
            libc::PR_CAP_AMBIENT_RAISE => Err(Errno::PERM),
            _ => Err(Errno::INVAL),
        },
        libc::PR_SET_THP_DISABLE if rest_is_zero => set(&NO_HUGE_PAGES, i32::from(value != 0)),
        libc::PR_GET_THP_DISABLE if value == 0 && rest_is_zero => get(&NO_HUGE_PAGES),
        libc::PR_GET_TSC => {
            access::write(value, &PR_TSC_ENABLE)?;
            Ok(0)
        }
        libc::PR_SET_TSC if int(value) == PR_TSC_ENABLE => Ok(0),
        libc::PR_GET_TID_ADDRESS => {
            access::write(value, &task.clear_tid)?;
            Ok(0)
        }
        libc::PR_MCE_KILL_GET => Ok(PR_MCE_KILL_DEFAULT),
        _ => Err(Errno::INVAL),
    }
}

/// The name of the calling thread, cut to what fits.
fn set_name(task: &Task, address: u64) -> SysResult {
    let mut name = [0u8; 16];
    let given = match access::read_string(address, 16, Errno::RANGE) {
        Ok(given) => given.into_bytes(),
        Err(Errno::RANGE) => access::read::<[u8; 15]>(address)?.to_vec(),
        Err(errno) => return Err(errno),
    };
    name[..given.len()].copy_from_slice(&given);
    let option = u64::from(libc::PR_SET_NAME.unsigned_abs());
    task.call(libc::SYS_prctl, [value_of(option), input(&name)])
}
