//! Waiting for descriptors, and the descriptors that exist to be waited for: epoll sets, events, signals, watches.
//!
//! Lists of descriptors are copied in once; a number of the monitor's in them is as good as closed. A call that would wait
//! may be the moment of readiness (`crate::ready`), so until then it is first asked whether anything is ready already.

use super::descriptors::{admitted, make, register};
use super::memory::int;
use super::{Args, Entry, Level, entry};
use crate::errno::{Errno, SysResult};
use crate::fs::At;
use crate::fs::descriptors::{self, MONITOR_FD_FLOOR, guest_fd};
use crate::memory::access;
use crate::ready::Wait;
use crate::signals::{UNBLOCKABLE, host, read_set};
use crate::sys::calls::{Arg, input, output, value};
use crate::task::Task;

const AREA: &str = "polling";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_poll, AREA, Level::Forwarded, poll, ""),
    entry(libc::SYS_ppoll, AREA, Level::Forwarded, ppoll, ""),
    entry(libc::SYS_select, AREA, Level::Forwarded, select, ""),
    entry(libc::SYS_pselect6, AREA, Level::Forwarded, pselect6, ""),
    entry(libc::SYS_epoll_create, AREA, Level::Forwarded, epoll_create, ""),
    entry(libc::SYS_epoll_create1, AREA, Level::Forwarded, epoll_create1, ""),
    entry(libc::SYS_epoll_ctl, AREA, Level::Forwarded, epoll_ctl, ""),
    entry(libc::SYS_epoll_wait, AREA, Level::Forwarded, epoll_wait, ""),
    entry(libc::SYS_epoll_pwait, AREA, Level::Forwarded, epoll_pwait, ""),
    entry(libc::SYS_epoll_pwait2, AREA, Level::Forwarded, epoll_pwait2, ""),
    entry(libc::SYS_eventfd, AREA, Level::Forwarded, eventfd, ""),
    entry(libc::SYS_eventfd2, AREA, Level::Forwarded, eventfd2, ""),
    entry(libc::SYS_signalfd, AREA, Level::Forwarded, signalfd, ""),
    entry(libc::SYS_signalfd4, AREA, Level::Forwarded, signalfd4, ""),
    entry(libc::SYS_inotify_init, AREA, Level::Forwarded, inotify_init, ""),
    entry(libc::SYS_inotify_init1, AREA, Level::Forwarded, inotify_init1, ""),
    entry(
        libc::SYS_inotify_add_watch,
        AREA,
        Level::Emulated,
        inotify_add_watch,
        "read-only files never change",
    ),
    entry(
        libc::SYS_inotify_rm_watch,
        AREA,
        Level::Forwarded,
        inotify_rm_watch,
        "",
    ),
    entry(libc::SYS_fanotify_init, AREA, Level::Refused, refuse, "EPERM"),
    entry(libc::SYS_fanotify_mark, AREA, Level::Refused, refuse, "EPERM"),
    entry(
        libc::SYS_pidfd_open,
        AREA,
        Level::Forwarded,
        pidfd_open,
        "own process and children",
    ),
    entry(
        libc::SYS_pidfd_send_signal,
        AREA,
        Level::Forwarded,
        pidfd_send_signal,
        "without siginfo",
    ),
];

/// Implements fanotify_init(2), fanotify_mark(2).
fn refuse(_: &mut Task, _: Args) -> SysResult {
    Err(Errno::PERM)
}

/// Makes a waiting call under another signal mask, as the `p` forms do. A signal that only that mask lets through ends
/// the wait; the mask of before is what its handler's frame keeps.
fn under_mask(task: &Task, mask: Option<u64>, wait: impl FnOnce() -> SysResult) -> SysResult {
    let Some(mask) = mask else { return wait() };
    if host::pending() != 0 {
        return Err(Errno::RESTART);
    }
    host::set_mask(mask & !UNBLOCKABLE);
    let result = match wait() {
        Err(Errno::RESTART) => Err(Errno::INTR),
        result => result,
    };
    if host::pending() == 0 {
        host::set_mask(task.mask);
    }
    result
}

fn read_mask(address: u64, size: u64) -> Result<Option<u64>, Errno> {
    if address == 0 {
        Ok(None)
    } else {
        read_set(address, size).map(Some)
    }
}

/// Asks whether this wait is the moment of readiness: only if nothing is ready, which `look` finds without waiting.
fn before_wait(task: &Task, wait: &Wait<'_>, look: impl FnOnce() -> SysResult) -> Result<(), Errno> {
    if task.process.ready.is_awaited() && look() == Ok(0) {
        task.process.ready.before(wait)
    } else {
        Ok(())
    }
}

/// Seconds and a fraction, as timespec and timeval are laid out.
type Pair = [i64; 2];

/// A timeout that the kernel counts down, if the guest gives one.
struct Timeout {
    value: Option<Pair>,
}

impl Timeout {
    const NOW: Self = Self { value: Some([0, 0]) };

    fn read(address: u64) -> Result<Self, Errno> {
        Ok(Self {
            value: if address == 0 {
                None
            } else {
                Some(access::read(address)?)
            },
        })
    }

    /// Counts on from where a stop of the monitor undid the call.
    fn go_on(&mut self, task: &Task) {
        self.value = self.value.map(|value| task.time_left(value));
    }

    fn is_now(&self) -> bool {
        self.value == Some([0, 0])
    }

    fn argument(&mut self) -> Arg<'_> {
        self.value.as_mut().map_or(value(0), output)
    }
}

// ---------------------------------------------------------------------- poll

/// `struct pollfd`: descriptor, then events and revents in one word.
type PollFd = [i32; 2];

/// Nobody has this number open: the kernel answers POLLNVAL.
const NOBODY: i32 = i32::MAX;

struct Polled {
    address: u64,
    list: Vec<PollFd>,
}

impl Polled {
    fn read(address: u64, count: u64) -> Result<Self, Errno> {
        let count = u64::from(int(count).cast_unsigned());
        if count > u64::from(descriptors::limit().unsigned_abs()) {
            return Err(Errno::INVAL);
        }
        let mut list: Vec<PollFd> = access::read_array(address, count)?;
        for [fd, _] in &mut list {
            if *fd >= MONITOR_FD_FLOOR {
                *fd = NOBODY;
            }
        }
        Ok(Self { address, list })
    }

    /// Waits on a copy, and gives what is ready: the kernel's answer and the list.
    fn wait(&self, task: &Task, timeout: &mut Timeout) -> (SysResult, Vec<PollFd>) {
        let mut list = self.list.clone();
        let count = value(list.len() as u64);
        let args = [
            output(list.as_mut_slice()),
            count,
            timeout.argument(),
            value(0),
            value(8),
        ];
        let result = task.call(libc::SYS_ppoll, args);
        (result, list)
    }

    /// The descriptors that are wanted readable.
    fn readable(&self) -> Vec<i32> {
        let wanted = |[_, events]: &&PollFd| events & i32::from(libc::POLLIN | libc::POLLRDNORM) != 0;
        self.list.iter().filter(wanted).map(|[fd, _]| *fd).collect()
    }

    fn run(&self, task: &Task, timeout: &mut Timeout, mask: Option<u64>) -> SysResult {
        if !timeout.is_now() {
            timeout.go_on(task);
            before_wait(task, &Wait::Poll(&self.readable()), || {
                self.wait(task, &mut Timeout { ..Timeout::NOW }).0
            })?;
        }
        let mut answered = Vec::new();
        let result = under_mask(task, mask, || {
            let (result, list) = self.wait(task, timeout);
            answered = list;
            result
        })?;
        for (index, [_, events]) in (0_u64..).zip(answered) {
            let [_, _, low, high] = events.to_ne_bytes();
            access::write_bytes(
                self.address + index * size_of::<PollFd>() as u64 + 6,
                &[low, high],
            )?;
        }
        Ok(result)
    }
}

/// Implements poll(2).
fn poll(task: &mut Task, [list, count, timeout, ..]: Args) -> SysResult {
    let polled = Polled::read(list, count)?;
    let milliseconds = i64::from(int(timeout));
    let value = (milliseconds >= 0).then(|| [milliseconds / 1000, milliseconds % 1000 * 1_000_000]);
    polled.run(task, &mut Timeout { value }, None)
}

/// Implements ppoll(2).
fn ppoll(task: &mut Task, [list, count, timeout, mask, size, _]: Args) -> SysResult {
    let mut left = Timeout::read(timeout)?;
    let mask = read_mask(mask, size)?;
    let result = Polled::read(list, count)?.run(task, &mut left, mask);
    give_back(timeout, &left, &result);
    result
}

/// Writes what is left of a timeout. As in the kernel a page that cannot be written is no error.
fn give_back(address: u64, left: &Timeout, result: &SysResult) {
    if let Some(value) = left.value
        && *result != Err(Errno::RESTART)
    {
        let _ = access::write(address, &value);
    }
}

// ---------------------------------------------------------------------- select

const WORDS: usize = MONITOR_FD_FLOOR.unsigned_abs() as usize / 64;

/// The three sets of a select call. Numbers of the monitor's are beyond their end.
struct Sets {
    addresses: [u64; 3],
    count: usize,
    sets: [[u64; WORDS]; 3],
}

impl Sets {
    fn read(count: u64, addresses: [u64; 3]) -> Result<Self, Errno> {
        let count = usize::try_from(int(count))
            .map_err(|_| Errno::INVAL)?
            .min(WORDS * 64);
        let mut sets = [[0; WORDS]; 3];
        for (address, set) in addresses.iter().zip(&mut sets) {
            if *address != 0 {
                let words: Vec<u64> = access::read_array(*address, count.div_ceil(64) as u64)?;
                set[..words.len()].copy_from_slice(&words);
            }
        }
        Ok(Self {
            addresses,
            count,
            sets,
        })
    }

    fn wait(&self, task: &Task, timeout: &mut Timeout) -> (SysResult, [[u64; WORDS]; 3]) {
        let mut sets = self.sets;
        let mut args = sets.each_mut().map(output);
        for (arg, address) in args.iter_mut().zip(self.addresses) {
            if address == 0 {
                *arg = value(0);
            }
        }
        let [reads, writes, exceptions] = args;
        let count = value(self.count as u64);
        let args = [count, reads, writes, exceptions, timeout.argument(), value(0)];
        let result = task.call(libc::SYS_pselect6, args);
        (result, sets)
    }

    fn readable(&self) -> Vec<i32> {
        let set = &self.sets[0];
        let wanted = (0..self.count).filter(|fd| set[fd / 64] >> (fd % 64) & 1 != 0);
        wanted.filter_map(|fd| i32::try_from(fd).ok()).collect()
    }

    fn run(&self, task: &Task, timeout: &mut Timeout, mask: Option<u64>) -> SysResult {
        if !timeout.is_now() {
            timeout.go_on(task);
            before_wait(task, &Wait::Poll(&self.readable()), || {
                self.wait(task, &mut Timeout { ..Timeout::NOW }).0
            })?;
        }
        let mut answered = self.sets;
        let result = under_mask(task, mask, || {
            let (result, sets) = self.wait(task, timeout);
            answered = sets;
            result
        })?;
        for (address, set) in self.addresses.iter().zip(&answered) {
            if *address != 0 {
                let bytes: Vec<u8> = set
                    .iter()
                    .take(self.count.div_ceil(64))
                    .flat_map(|w| w.to_ne_bytes())
                    .collect();
                access::write_bytes(*address, &bytes)?;
            }
        }
        Ok(result)
    }
}

/// Implements select(2).
fn select(task: &mut Task, [count, read, write, except, timeout, _]: Args) -> SysResult {
    let mut left = Timeout::read(timeout)?;
    if let Some([seconds, microseconds]) = &mut left.value {
        if *seconds < 0 || *microseconds < 0 {
            return Err(Errno::INVAL);
        }
        *seconds = seconds.saturating_add(*microseconds / 1_000_000);
        *microseconds = *microseconds % 1_000_000 * 1000;
    }
    let result = Sets::read(count, [read, write, except])?.run(task, &mut left, None);
    if let Some([_, fraction]) = &mut left.value {
        *fraction /= 1000;
    }
    give_back(timeout, &left, &result);
    result
}

/// Implements pselect(2), whose last argument points to the mask and its size.
fn pselect6(task: &mut Task, [count, read, write, except, timeout, mask]: Args) -> SysResult {
    let [mask, size]: [u64; 2] = if mask == 0 { [0; 2] } else { access::read(mask)? };
    let mut left = Timeout::read(timeout)?;
    let mask = read_mask(mask, size)?;
    let result = Sets::read(count, [read, write, except])?.run(task, &mut left, mask);
    give_back(timeout, &left, &result);
    result
}

// ---------------------------------------------------------------------- epoll

/// `struct epoll_event`, which is packed: events, and 8 bytes of the guest's.
type Event = [u32; 3];

/// The kernel refuses to be asked for more events than fill the positive ints with bytes.
const ALLOWED_MAX: usize = i32::MAX.unsigned_abs() as usize / size_of::<Event>();

/// More events than this at a time are left for the next call.
const EVENTS_MAX: usize = 1024;

/// Implements epoll_create(2).
fn epoll_create(task: &mut Task, [size, ..]: Args) -> SysResult {
    if int(size) <= 0 {
        Err(Errno::INVAL)
    } else {
        epoll_create1(task, [0; 6])
    }
}

/// Implements epoll_create1(2).
fn epoll_create1(task: &mut Task, [flags, ..]: Args) -> SysResult {
    let fd = make(task, libc::SYS_epoll_create1, [flags, 0, 0, 0, 0, 0])?;
    task.process.ready.made_set(int(fd));
    Ok(fd)
}

/// Implements epoll_ctl(2).
fn epoll_ctl(task: &mut Task, [set, operation, fd, event, ..]: Args) -> SysResult {
    let event: Event = if int(operation) == libc::EPOLL_CTL_DEL {
        [0; 3]
    } else {
        access::read(event)?
    };
    let (set, fd) = (guest_fd(int(set))?, guest_fd(int(fd))?);
    let args = [
        value(register(set)),
        value(operation),
        value(register(fd)),
        input(&event),
    ];
    let result = task.call(libc::SYS_epoll_ctl, args)?;
    if int(operation) == libc::EPOLL_CTL_ADD {
        task.process.ready.watched(set, fd, task.tid);
    }
    let watched = (int(operation) != libc::EPOLL_CTL_DEL).then_some(event);
    task.process.lock_sockets().watch(set, fd, watched);
    Ok(result)
}

fn wait_for_events(
    task: &Task,
    set: u64,
    room: (u64, u64),
    timeout: &mut Timeout,
    mask: Option<u64>,
) -> SysResult {
    let (address, count) = room;
    let count = usize::try_from(int(count))
        .ok()
        .filter(|count| (1..=ALLOWED_MAX).contains(count))
        .ok_or(Errno::INVAL)?;
    let set = guest_fd(int(set))?;
    let mut events: Vec<Event> = vec![[0; 3]; count.min(EVENTS_MAX)];
    let room = events.len() as u64;
    // Known before it is asked whether this is the moment: a thread that adds the listener between the two sees it.
    let _waiting = task.process.ready.waiting(set);
    if !timeout.is_now() {
        timeout.go_on(task);
        before_wait(task, &Wait::Epoll(set), || {
            // An edge that is seen here would not be seen again, so the set itself is asked, not its members.
            Polled {
                address: 0,
                list: vec![[set, libc::POLLIN.into()]],
            }
            .wait(task, &mut Timeout { ..Timeout::NOW })
            .0
        })?;
    }
    let result = under_mask(task, mask, || {
        let [set, room, none, size] = [register(set), room, 0, 8].map(value);
        let events = output(events.as_mut_slice());
        let args = [set, events, room, timeout.argument(), none, size];
        task.call(libc::SYS_epoll_pwait2, args)
    })?;
    let ready = usize::try_from(result).map_err(|_| Errno::IO)?.min(events.len());
    access::write_bytes(address, zerocopy::IntoBytes::as_bytes(&events[..ready]))?;
    Ok(result)
}

fn milliseconds(timeout: u64) -> Timeout {
    let timeout = i64::from(int(timeout));
    Timeout {
        value: (timeout >= 0).then(|| [timeout / 1000, timeout % 1000 * 1_000_000]),
    }
}

/// Implements epoll_wait(2).
fn epoll_wait(task: &mut Task, [set, events, count, timeout, ..]: Args) -> SysResult {
    wait_for_events(task, set, (events, count), &mut milliseconds(timeout), None)
}

/// Implements epoll_pwait(2).
fn epoll_pwait(task: &mut Task, [set, events, count, timeout, mask, size]: Args) -> SysResult {
    let mask = read_mask(mask, size)?;
    wait_for_events(task, set, (events, count), &mut milliseconds(timeout), mask)
}

/// Implements epoll_pwait2(2).
fn epoll_pwait2(task: &mut Task, [set, events, count, timeout, mask, size]: Args) -> SysResult {
    let mask = read_mask(mask, size)?;
    wait_for_events(task, set, (events, count), &mut Timeout::read(timeout)?, mask)
}

// ---------------------------------------------------------------------- events, signals

/// Implements eventfd(2) without flags.
fn eventfd(task: &mut Task, [value, ..]: Args) -> SysResult {
    eventfd2(task, [value, 0, 0, 0, 0, 0])
}

/// Implements eventfd(2).
fn eventfd2(task: &mut Task, [value, flags, ..]: Args) -> SysResult {
    make(task, libc::SYS_eventfd2, [value, flags, 0, 0, 0, 0])
}

/// Implements signalfd(2) without flags.
fn signalfd(task: &mut Task, [fd, mask, size, ..]: Args) -> SysResult {
    signalfd4(task, [fd, mask, size, 0, 0, 0])
}

/// Implements signalfd(2): signals are the host's (`crate::signals`), so its descriptor tells of the guest's.
fn signalfd4(task: &mut Task, [fd, mask, size, flags, ..]: Args) -> SysResult {
    let mask = read_set(mask, size)?;
    let call = |fd| {
        task.call(
            libc::SYS_signalfd4,
            [value(fd), input(&mask), value(8), value(flags)],
        )
    };
    if int(fd) == -1 {
        return admitted(call(fd));
    }
    call(register(guest_fd(int(fd))?))
}

// ---------------------------------------------------------------------- watches

/// Implements inotify_init(2).
fn inotify_init(task: &mut Task, _: Args) -> SysResult {
    inotify_init1(task, [0; 6])
}

/// Implements inotify_init1(2).
fn inotify_init1(task: &mut Task, [flags, ..]: Args) -> SysResult {
    make(task, libc::SYS_inotify_init1, [flags, 0, 0, 0, 0, 0])
}

/// Implements inotify_add_watch(2).
fn inotify_add_watch(task: &mut Task, [fd, path, mask, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    let path = access::read_path(path)?;
    super::paths::files(task)
        .watch(fd, At::cwd(&path), int(mask).cast_unsigned())
        .map(register)
}

/// Implements inotify_rm_watch(2).
fn inotify_rm_watch(task: &mut Task, [fd, watch, ..]: Args) -> SysResult {
    task.plain(
        libc::SYS_inotify_rm_watch,
        [register(guest_fd(int(fd))?), watch, 0, 0, 0, 0],
    )
}

// ---------------------------------------------------------------------- processes as descriptors

/// Implements pidfd_open(2) for the processes of an instance; under `run` for the process itself and its children.
fn pidfd_open(task: &mut Task, [pid, flags, ..]: Args) -> SysResult {
    const P_PID: u64 = 1;
    if int(pid) <= 0 {
        return Err(Errno::INVAL);
    }
    if let Some(kin) = task.process.kin() {
        let pid = kin.find(int(pid)).ok_or(Errno::SRCH)?;
        let pid = u64::from(pid.unsigned_abs());
        return make(task, libc::SYS_pidfd_open, [pid, flags, 0, 0, 0, 0]);
    }
    if int(pid) != crate::sys::process_id() {
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let child = task.plain(libc::SYS_waitid, [P_PID, pid, 0, register(options), 0, 0]);
        if child == Err(Errno::CHILD) {
            return Err(Errno::SRCH);
        }
    }
    make(task, libc::SYS_pidfd_open, [pid, flags, 0, 0, 0, 0])
}

/// Implements pidfd_send_signal(2): the guest has descriptors of its own processes only.
fn pidfd_send_signal(task: &mut Task, [fd, signal, info, flags, ..]: Args) -> SysResult {
    if info != 0 {
        return Err(Errno::PERM);
    }
    // A directory of the host's /proc would be taken for a process, too.
    if crate::sys::stat(&guest_fd(int(fd))?)?.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno::BADF);
    }
    task.plain(
        libc::SYS_pidfd_send_signal,
        [register(guest_fd(int(fd))?), signal, 0, flags, 0, 0],
    )
}
