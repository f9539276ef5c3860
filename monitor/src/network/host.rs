//! System calls on sockets, with addresses that the monitor has made itself.
#![allow(unsafe_code)]

use std::net::IpAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::errno::{Errno, from_libc};

/// What one socket of an instance can hold in flight, bytes; the kernel doubles it for its own needs. A datagram must fit.
const STREAM_BUFFER: i32 = 32 << 10;
const DATAGRAM_BUFFER: i32 = 96 << 10;
/// Room for the largest address.
const ADDRESS_MAX: usize = 128;

/// The family that a unix socket pretends to be of. It is kept in SO_PRIORITY, which means nothing to a unix socket and which the
/// guest cannot set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Unix,
    Inet,
    Inet6,
    Netlink,
}

impl Mark {
    pub fn of_family(family: i32) -> Self {
        match family {
            libc::AF_INET => Self::Inet,
            libc::AF_INET6 => Self::Inet6,
            libc::AF_NETLINK => Self::Netlink,
            _ => Self::Unix,
        }
    }

    pub fn family(self) -> i32 {
        match self {
            Self::Unix => libc::AF_UNIX,
            Self::Inet => libc::AF_INET,
            Self::Inet6 => libc::AF_INET6,
            Self::Netlink => libc::AF_NETLINK,
        }
    }
}

/// An option of the kind that is an int.
pub fn option(fd: RawFd, level: i32, option: i32) -> Result<i32, Errno> {
    let mut value = 0i32;
    let mut length: libc::socklen_t = 4;
    // SAFETY: locals of the documented sizes.
    from_libc(unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut length) })?;
    Ok(value)
}

pub fn set_option(fd: RawFd, level: i32, option: i32, value: i32) -> Result<(), Errno> {
    // SAFETY: a local int.
    from_libc(unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), 4) })?;
    Ok(())
}

/// An option of SOL_SOCKET that is a time.
pub fn time_option(fd: RawFd, option: i32) -> Result<[i64; 2], Errno> {
    let mut value = [0i64; 2];
    let mut length: libc::socklen_t = 16;
    // SAFETY: locals of the documented sizes.
    from_libc(unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(value)
}

pub fn set_time_option(fd: RawFd, option: i32, value: [i64; 2]) -> Result<(), Errno> {
    // SAFETY: a local timeval.
    from_libc(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, value.as_ptr().cast(), 16) })?;
    Ok(())
}

/// The mark of a socket.
pub fn mark(fd: RawFd) -> Result<Mark, Errno> {
    Ok(match option(fd, libc::SOL_SOCKET, libc::SO_PRIORITY)? {
        1 => Mark::Inet,
        2 => Mark::Inet6,
        3 => Mark::Netlink,
        _ => Mark::Unix,
    })
}

pub fn set_mark(fd: RawFd, mark: Mark) -> Result<(), Errno> {
    let value = match mark {
        Mark::Unix => 0,
        Mark::Inet => 1,
        Mark::Inet6 => 2,
        Mark::Netlink => 3,
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_PRIORITY, value)
}

pub fn socket(family: i32, kind: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    let fd = from_libc(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(|_| Errno::MFILE)?) })
}

fn length_of(address: &[u8]) -> libc::socklen_t {
    libc::socklen_t::try_from(address.len()).unwrap_or(0)
}

pub fn bind(fd: RawFd, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: a live address with its length.
    from_libc(unsafe { libc::bind(fd, address.as_ptr().cast(), length_of(address)) })?;
    Ok(())
}

pub fn connect(fd: RawFd, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: a live address with its length.
    from_libc(unsafe { libc::connect(fd, address.as_ptr().cast(), length_of(address)) })?;
    Ok(())
}

/// getsockname(2): the raw address.
pub fn local(fd: RawFd) -> Result<Vec<u8>, Errno> {
    ask(|address, length| {
        // SAFETY: a local buffer with its length.
        unsafe { libc::getsockname(fd, address, length) }
    })
}

/// getpeername(2): the raw address.
pub fn peer(fd: RawFd) -> Result<Vec<u8>, Errno> {
    ask(|address, length| {
        // SAFETY: a local buffer with its length.
        unsafe { libc::getpeername(fd, address, length) }
    })
}

fn ask(call: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> i32) -> Result<Vec<u8>, Errno> {
    let mut bytes = [0u64; ADDRESS_MAX / 8];
    let mut length = libc::socklen_t::try_from(ADDRESS_MAX).map_err(|_| Errno::INVAL)?;
    from_libc(call(bytes.as_mut_ptr().cast(), &raw mut length))?;
    let mut found: Vec<u8> = bytes.iter().flat_map(|word| word.to_ne_bytes()).collect();
    found.truncate(usize::try_from(length).unwrap_or(0));
    Ok(found)
}

/// Whether there is something to read, or a connection to accept, now.
pub fn is_readable(fd: RawFd) -> bool {
    let mut polled = [libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }];
    crate::sys::poll(&mut polled, 0) == Ok(1)
}

/// The type of a socket (SOCK_STREAM and so on); ENOTSOCK, EBADF.
pub fn kind(fd: RawFd) -> Result<i32, Errno> {
    option(fd, libc::SOL_SOCKET, libc::SO_TYPE)
}

pub fn is_listening(fd: RawFd) -> bool {
    option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|value| value != 0)
}

/// Bounds what a socket of an instance can hold: it is memory of the node that no limit counts.
pub fn bound_buffer(fd: RawFd, kind: i32) -> Result<(), Errno> {
    let size = if kind == libc::SOCK_DGRAM {
        DATAGRAM_BUFFER
    } else {
        STREAM_BUFFER
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, size)
}

/// Whether one of the two sides has ended what it sends.
pub fn is_half_closed(fd: RawFd) -> bool {
    let mut polled = [libc::pollfd {
        fd,
        events: libc::POLLRDHUP,
        revents: 0,
    }];
    crate::sys::poll(&mut polled, 0) == Ok(1)
}

/// A waiting connection, closed on exec.
pub fn accept(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: no address is asked for.
    let made = from_libc(unsafe {
        libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
    })?;
    // SAFETY: a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(made).map_err(|_| Errno::MFILE)?) })
}

/// The user that the monitor runs as.
pub fn user() -> libc::uid_t {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() }
}

/// A datagram and the raw address of its sender, without waiting.
pub fn receive_from(fd: RawFd, to: &mut [u8]) -> Result<(usize, Vec<u8>), Errno> {
    let mut address = [0u8; ADDRESS_MAX];
    let mut length = length_of(&address);
    // SAFETY: local buffers with their lengths.
    let received = from_libc(unsafe {
        libc::recvfrom(
            fd,
            to.as_mut_ptr().cast(),
            to.len(),
            libc::MSG_DONTWAIT,
            address.as_mut_ptr().cast(),
            &raw mut length,
        )
    } as i64)?;
    let length = usize::try_from(length).unwrap_or(0).min(ADDRESS_MAX);
    Ok((usize::try_from(received).unwrap_or(0), address[..length].to_vec()))
}

/// A datagram to a raw address, without waiting.
pub fn send_to(fd: RawFd, bytes: &[u8], address: &[u8]) -> Result<(), Errno> {
    // SAFETY: live buffers with their lengths.
    from_libc(unsafe {
        libc::sendto(
            fd,
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            address.as_ptr().cast(),
            length_of(address),
        )
    } as i64)?;
    Ok(())
}

/// The addresses of this machine's interfaces.
pub fn own_addresses() -> Vec<IpAddr> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: a local pointer, which the call sets.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: an entry of the list that getifaddrs made, alive until freeifaddrs.
        let entry = unsafe { &*at };
        if !entry.ifa_addr.is_null() {
            // SAFETY: an address begins with its family, and is as large as its family says.
            match i32::from(unsafe { (*entry.ifa_addr).sa_family }) {
                libc::AF_INET => {
                    // SAFETY: as above; read without alignment.
                    let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
                    found.push(IpAddr::from(address.sin_addr.s_addr.to_ne_bytes()));
                }
                libc::AF_INET6 => {
                    // SAFETY: as above; read without alignment.
                    let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
                    found.push(IpAddr::from(address.sin6_addr.s6_addr).to_canonical());
                }
                _ => {}
            }
        }
        at = entry.ifa_next;
    }
    // SAFETY: the list that getifaddrs made, once.
    unsafe { libc::freeifaddrs(list) };
    found
}
