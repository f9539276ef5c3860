//! Descriptors made again in a clone, under the numbers that the snapshot has for them (`descriptors`).
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::descriptors::{Descriptor, What};
use super::{SnapshotError, failed};
use crate::errno::{Errno, from_libc};
use crate::fs::carrying::Remade;
use crate::fs::descriptors::{MONITOR_FD_FLOOR, guest_fd};
use crate::fs::{At, Files, OpenRequest};
use crate::network::host::{self, Mark};
use crate::network::keys;
use crate::network::sockets::{BACKLOG, Sockets};
use crate::sys;
use crate::syscalls::sockets::place;

/// What a clone gives for the standard streams.
pub type StreamFds = [OwnedFd; 3];

/// Makes the descriptors again.
///
/// Preconditions: the numbers below the floor are free but for what this call makes, sockets are restored, no thread of the guest runs.
pub fn rebuild(
    process_files: Files<'_>,
    list: &[Descriptor],
    streams: StreamFds,
    sockets: &Sockets,
    remade: &Remade,
) -> Result<(), SnapshotError> {
    let mut links = link(list, sockets).map_err(failed("a connection inside"))?;
    let mut pipes: HashMap<u32, [OwnedFd; 2]> = HashMap::new();
    let mut pairs: HashMap<u32, [OwnedFd; 2]> = HashMap::new();
    for descriptor in list {
        let fd = guest_fd(descriptor.fd).map_err(failed("descriptor"))?;
        let made: OwnedFd = match &descriptor.what {
            What::Stream(stream) => {
                let stream = streams
                    .get(usize::from(*stream))
                    .ok_or(Errno::INVAL)
                    .map_err(failed("stream"))?;
                sys::duplicate(stream, MONITOR_FD_FLOOR).map_err(failed("stream"))?
            }
            What::Same(other) => {
                // SAFETY: a number of the guest's, which an earlier round made.
                let other =
                    unsafe { std::os::fd::BorrowedFd::borrow_raw(guest_fd(*other).map_err(failed("dup"))?) };
                sys::duplicate(&other, MONITOR_FD_FLOOR).map_err(failed("dup"))?
            }
            What::File { path, flags, offset } => {
                open(process_files, path, *flags, *offset).map_err(failed("an open file"))?
            }
            What::Carried {
                content,
                flags,
                offset,
            } => {
                let file = usize::try_from(*content)
                    .ok()
                    .and_then(|content| remade.get(content));
                let file = file.ok_or(Errno::INVAL).map_err(failed("a carried file"))?;
                let file = process_files
                    .reopen(file.as_fd(), *flags)
                    .map_err(failed("a carried file"))?;
                move_to(&file, *offset).map_err(failed("a carried file"))?;
                file
            }
            What::Pipe {
                pipe,
                write,
                nonblocking,
                content,
            } => {
                if let std::collections::hash_map::Entry::Vacant(slot) = pipes.entry(*pipe) {
                    slot.insert(
                        two(|ends| {
                            // SAFETY: a local array of two.
                            unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }
                        })
                        .map_err(failed("pipe"))?,
                    );
                }
                let ends = &pipes[pipe];
                if !content.is_empty() {
                    // SAFETY: a buffer with its length; a fresh pipe has room for what one held.
                    let done =
                        unsafe { libc::write(ends[1].as_raw_fd(), content.as_ptr().cast(), content.len()) };
                    from_libc(done as i64).map_err(failed("pipe"))?;
                }
                end(&ends[usize::from(*write)], *nonblocking).map_err(failed("pipe"))?
            }
            What::Pair {
                pair,
                end: number,
                kind,
                nonblocking,
            } => {
                if let std::collections::hash_map::Entry::Vacant(slot) = pairs.entry(*pair) {
                    slot.insert(
                        two(|ends| {
                            // SAFETY: a local array of two.
                            unsafe {
                                libc::socketpair(
                                    libc::AF_UNIX,
                                    *kind | libc::SOCK_CLOEXEC,
                                    0,
                                    ends.as_mut_ptr(),
                                )
                            }
                        })
                        .map_err(failed("socketpair"))?,
                    );
                    for end in &pairs[pair] {
                        host::bound_buffer(end.as_raw_fd(), libc::SOCK_STREAM)
                            .map_err(failed("socketpair"))?;
                    }
                }
                end(&pairs[pair][usize::from(*number & 1)], *nonblocking).map_err(failed("socketpair"))?
            }
            What::Socket {
                family,
                kind,
                key,
                listening,
                nonblocking,
            } => {
                let made = socket(*family, *kind).map_err(failed("socket"))?;
                if let Some(key) = key {
                    keys::check(key).map_err(failed("the name of a socket"))?;
                    sockets
                        .place
                        .bind(made.as_raw_fd(), key)
                        .map_err(failed("bind"))?;
                }
                if *listening {
                    sys::listen(&made, BACKLOG).map_err(failed("listen"))?;
                }
                set_nonblocking(&made, *nonblocking).map_err(failed("socket"))?;
                made
            }
            What::Linked {
                keys, nonblocking, ..
            } => {
                let made = links
                    .remove(keys)
                    .ok_or(Errno::INVAL)
                    .map_err(failed("a connection inside"))?;
                set_nonblocking(&made, *nonblocking).map_err(failed("socket"))?;
                made
            }
            What::Event {
                count,
                semaphore,
                nonblocking,
            } => {
                let flags = if *semaphore { libc::EFD_SEMAPHORE } else { 0 };
                // SAFETY: no pointers.
                let event =
                    own(unsafe { libc::eventfd(0, flags | libc::EFD_CLOEXEC) }).map_err(failed("eventfd"))?;
                if *count > 0 {
                    // SAFETY: eight bytes of a local.
                    unsafe { libc::write(event.as_raw_fd(), std::ptr::from_ref(count).cast(), 8) };
                }
                set_nonblocking(&event, *nonblocking).map_err(failed("eventfd"))?;
                event
            }
            What::Timer { timer, nonblocking } => {
                let flags = if *nonblocking { libc::TFD_NONBLOCK } else { 0 };
                // SAFETY: no pointers.
                own(unsafe { libc::timerfd_create(timer.clock, flags | libc::TFD_CLOEXEC) })
                    .map_err(failed("timerfd"))?
            }
            What::Signals { mask, nonblocking } => {
                let flags = libc::SFD_CLOEXEC | if *nonblocking { libc::SFD_NONBLOCK } else { 0 };
                // SAFETY: the kernel reads an 8-byte set.
                let fd =
                    unsafe { libc::syscall(libc::SYS_signalfd4, -1, std::ptr::from_ref(mask), 8, flags) };
                own(i32::try_from(fd).unwrap_or(-1)).map_err(failed("signalfd"))?
            }
            What::Epoll { .. } => {
                // SAFETY: no pointers.
                let set = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
                own(set).map_err(failed("epoll"))?
            }
        };
        put(made, fd, descriptor.close_on_exec).map_err(failed("descriptor"))?;
        if let Some(lock) = descriptor.lock {
            // SAFETY: no pointers.
            from_libc(unsafe { libc::flock(fd, lock | libc::LOCK_NB) }).map_err(failed("a lock"))?;
        }
    }
    // When all members exist.
    for descriptor in list {
        if let What::Epoll { members } = &descriptor.what {
            for member in members {
                let mut event = libc::epoll_event {
                    events: member.events,
                    u64: member.data,
                };
                // SAFETY: a local event; numbers of the guest's.
                let done =
                    unsafe { libc::epoll_ctl(descriptor.fd, libc::EPOLL_CTL_ADD, member.fd, &raw mut event) };
                from_libc(done).map_err(failed("epoll"))?;
            }
        }
    }
    Ok(())
}

/// A socket of the guest's, above the floor: it must not lie where a later descriptor belongs.
fn socket(family: i32, kind: i32) -> Result<OwnedFd, Errno> {
    let made = crate::fs::descriptors::raise(host::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC)?)?;
    host::set_mark(made.as_raw_fd(), Mark::of_family(family))?;
    host::bound_buffer(made.as_raw_fd(), kind)?;
    Ok(made)
}

/// Makes the connections inside again, before any socket has its name: one end listens under its own for a moment.
fn link(list: &[Descriptor], sockets: &Sockets) -> Result<HashMap<[String; 2], OwnedFd>, Errno> {
    let mut made: HashMap<[String; 2], OwnedFd> = HashMap::new();
    let ends = list.iter().filter_map(|descriptor| match &descriptor.what {
        What::Linked {
            family,
            keys,
            content,
            ..
        } => Some((*family, keys, content)),
        _ => None,
    });
    for (family, keys, content) in ends {
        let [own, other] = keys;
        keys::check(own).and_then(|()| keys::check(other))?;
        let turned = [other.clone(), own.clone()];
        if !made.contains_key(keys) {
            let (near, far) = connected(sockets, own, other)?;
            made.insert(keys.clone(), near);
            made.insert(turned.clone(), far);
        }
        if let (Some(near), Some(far)) = (made.get(keys), made.get(&turned)) {
            host::set_mark(near.as_raw_fd(), Mark::of_family(family))?;
            // What it has not read was sent by the other.
            if !content.is_empty() {
                sys::send(far, content, libc::MSG_DONTWAIT)?;
            }
            host::bound_buffer(near.as_raw_fd(), libc::SOCK_STREAM)?;
        }
    }
    Ok(made)
}

/// Two sockets with these names, connected.
fn connected(sockets: &Sockets, own: &str, other: &str) -> Result<(OwnedFd, OwnedFd), Errno> {
    let listener = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
    sockets.place.bind(listener.as_raw_fd(), other)?;
    sys::listen(&listener, 1)?;
    let near = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
    sockets.place.bind(near.as_raw_fd(), own)?;
    sockets.place.connect(near.as_raw_fd(), other)?;
    let far = crate::fs::descriptors::raise(host::accept(listener.as_raw_fd())?)?;
    sockets.place.remove(own);
    sockets.place.remove(other);
    Ok((near, far))
}

fn own(fd: i32) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Two ends, raised: they must not lie where a later descriptor belongs.
fn two(make: impl FnOnce(&mut [i32; 2]) -> i32) -> Result<[OwnedFd; 2], Errno> {
    let mut ends = [0i32; 2];
    from_libc(make(&mut ends))?;
    let [one, two] = ends;
    Ok([
        crate::fs::descriptors::raise(own(one)?)?,
        crate::fs::descriptors::raise(own(two)?)?,
    ])
}

fn set_nonblocking(fd: &OwnedFd, nonblocking: bool) -> Result<(), Errno> {
    let flags = sys::flags(fd)? & !libc::O_NONBLOCK;
    sys::set_flags(fd, flags | if nonblocking { libc::O_NONBLOCK } else { 0 })
}

fn end(fd: &OwnedFd, nonblocking: bool) -> Result<OwnedFd, Errno> {
    set_nonblocking(fd, nonblocking)?;
    sys::duplicate(fd, MONITOR_FD_FLOOR)
}

fn open(files: Files<'_>, path: &[u8], flags: i32, offset: i64) -> Result<OwnedFd, Errno> {
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let file = files
        .open(At::cwd(&path), OpenRequest::lenient(flags | libc::O_CLOEXEC, 0)?)?
        .make_private()?;
    move_to(&file, offset)?;
    Ok(file)
}

fn move_to(file: &OwnedFd, offset: i64) -> Result<(), Errno> {
    if offset > 0 {
        // SAFETY: no pointers.
        from_libc(unsafe { libc::lseek(file.as_raw_fd(), offset, libc::SEEK_SET) })?;
    }
    Ok(())
}

fn put(made: OwnedFd, number: i32, close_on_exec: bool) -> Result<(), Errno> {
    place(made, number)?;
    let flags = if close_on_exec { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: no pointers.
    from_libc(unsafe { libc::fcntl(number, libc::F_SETFD, flags) }).map(|_| ())
}
