//! Sending and receiving on sockets: every header, address and control message is copied, every buffer becomes pieces.
#![allow(unsafe_code)]

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Args;
use super::memory::int;
use super::sockets::Socket;
use crate::errno::{Errno, SysResult};
use crate::fs::descriptors::{MONITOR_FD_FLOOR, guest_fd};
use crate::memory::access::{self, Pieces};
use crate::task::Task;

/// `struct msghdr`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    name: u64,
    name_length: u32,
    padding: u32,
    vector: u64,
    count: u64,
    control: u64,
    control_length: u64,
    flags: i32,
    tail: u32,
}

const NAME_MAX: u32 = 128;
const CONTROL_MAX: u64 = 16 << 10;
const MESSAGES_MAX: u64 = 1024;

/// Counts what crosses the call's connection.
fn count(task: &Task, fd: i32, result: &SysResult, out: bool) {
    if let Ok(bytes) = result
        && task.process.contained
    {
        task.process.transferred(fd, *bytes, out);
    }
}

/// EPIPE or ENOTCONN for a virtual socket, nothing for the others.
fn check_connected(task: &Task, fd: i32, out: bool) -> Result<(), Errno> {
    match task.process.lock_sockets().get(fd) {
        Some(Socket::Virtual { .. }) => Err(if out { Errno::NETUNREACH } else { Errno::NOTCONN }),
        _ => Ok(()),
    }
}

/// Implements sendto(2). An address is of no use: there is no network.
pub fn sendto(task: &mut Task, [fd, buffer, length, flags, _, _]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    check_connected(task, fd, true)?;
    let pieces = access::pieces(buffer, length)?;
    let result = send(task, fd, &pieces, &[], flags);
    count(task, fd, &result, true);
    result
}

/// Implements recvfrom(2).
pub fn recvfrom(task: &mut Task, [fd, buffer, length, flags, address, address_length]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    check_connected(task, fd, false)?;
    let pieces = access::pieces(buffer, length)?;
    let (result, ..) = receive(task, fd, &pieces, &mut [], flags);
    if result.is_ok() && address != 0 && address_length != 0 {
        // A stream has no address.
        access::write(address_length, &0u32)?;
    }
    count(task, fd, &result, false);
    result
}

fn host_header(pieces: &Pieces, control: u64, control_length: usize) -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = pieces.as_ptr().cast_mut();
    header.msg_iovlen = pieces.count();
    if control_length > 0 {
        header.msg_control = control as *mut libc::c_void;
        header.msg_controllen = control_length;
    }
    header
}

/// A message of the guest's buffers to a socket.
pub fn send(task: &Task, fd: i32, pieces: &Pieces, control: &[u8], flags: u64) -> SysResult {
    let header = host_header(pieces, control.as_ptr() as u64, control.len());
    let at = (&raw const header) as u64;
    // SAFETY: a local header, checked guest ranges, a local copy of the control data.
    unsafe {
        task.host(
            libc::SYS_sendmsg,
            [u64::from(fd.unsigned_abs()), at, flags, 0, 0, 0],
        )
    }
}

/// Gives the result, the length of the control data, and the flags of the message.
fn receive(task: &Task, fd: i32, pieces: &Pieces, control: &mut [u8], flags: u64) -> (SysResult, usize, i32) {
    let mut header = host_header(pieces, control.as_mut_ptr() as u64, control.len());
    let at = (&raw mut header) as u64;
    // SAFETY: a local header, checked guest ranges, a local buffer for control data.
    let result = unsafe {
        task.host(
            libc::SYS_recvmsg,
            [u64::from(fd.unsigned_abs()), at, flags, 0, 0, 0],
        )
    };
    (result, header.msg_controllen.min(control.len()), header.msg_flags)
}

/// Descriptors that a control message carries must be the guest's; says whether there are any.
fn check_control(control: &[u8]) -> Result<bool, Errno> {
    const HEADER: usize = 16;
    let mut carries = false;
    let mut at = 0;
    while at + HEADER <= control.len() {
        let word = |from: usize, length: usize| &control[at + from..at + from + length];
        let length = word(0, 8)
            .try_into()
            .map(usize::from_ne_bytes)
            .map_err(|_| Errno::INVAL)?;
        let level = word(8, 4)
            .try_into()
            .map(i32::from_ne_bytes)
            .map_err(|_| Errno::INVAL)?;
        let kind = word(12, 4)
            .try_into()
            .map(i32::from_ne_bytes)
            .map_err(|_| Errno::INVAL)?;
        if length < HEADER || length > control.len() - at {
            return Err(Errno::INVAL);
        }
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            carries = true;
            for fd in control[at + HEADER..at + length].chunks_exact(4) {
                let fd = i32::from_ne_bytes([fd[0], fd[1], fd[2], fd[3]]);
                if !(0..MONITOR_FD_FLOOR).contains(&fd) {
                    return Err(Errno::BADF);
                }
            }
        }
        at += length.next_multiple_of(8);
    }
    Ok(carries)
}

fn read_header(address: u64) -> Result<(Header, Pieces), Errno> {
    let header: Header = access::read(address)?;
    if header.count > access::IOV_MAX {
        return Err(Errno::MSGSIZE);
    }
    if header.name != 0 && header.name_length > NAME_MAX && header.name_length > i32::MAX.unsigned_abs() {
        return Err(Errno::INVAL);
    }
    if header.control_length > CONTROL_MAX {
        return Err(Errno(libc::ENOBUFS));
    }
    let pieces = access::vector(header.vector, header.count)?;
    Ok((header, pieces))
}

/// Implements sendmsg(2).
pub fn sendmsg(task: &mut Task, [fd, message, flags, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    check_connected(task, fd, true)?;
    let (header, pieces) = read_header(message)?;
    let control: Vec<u8> = if header.control == 0 {
        Vec::new()
    } else {
        access::read_array(header.control, header.control_length)?
    };
    if check_control(&control)?
        && let Some(storage) = &task.process.storage
    {
        storage.hides();
    }
    let result = send(task, fd, &pieces, &control, flags);
    count(task, fd, &result, true);
    result
}

/// Implements recvmsg(2).
pub fn recvmsg(task: &mut Task, [fd, message, flags, ..]: Args) -> SysResult {
    let fd = guest_fd(int(fd))?;
    check_connected(task, fd, false)?;
    let (mut header, pieces) = read_header(message)?;
    let room = if header.control == 0 {
        0
    } else {
        usize::try_from(header.control_length).unwrap_or(0)
    };
    let mut control = vec![0u8; room];
    let (result, length, message_flags) = receive(task, fd, &pieces, &mut control, flags);
    count(task, fd, &result, false);
    let received = result?;
    access::write_bytes(header.control, &control[..length])?;
    header.name_length = 0;
    header.control_length = length as u64;
    header.flags = message_flags;
    access::write(message, &header)?;
    Ok(received)
}

/// Makes one call for each message of an array; stops at the first error, which counts only if it is the first message.
fn each_message(
    task: &mut Task,
    fd: u64,
    vector: u64,
    length: u64,
    flags: u64,
    one: fn(&mut Task, Args) -> SysResult,
) -> SysResult {
    const STEP: u64 = 64;
    let mut done = 0;
    while done < length.min(MESSAGES_MAX) {
        let at = vector.checked_add(done * STEP).ok_or(Errno::FAULT)?;
        match one(task, [fd, at, flags, 0, 0, 0]) {
            Ok(bytes) => access::write(at + 56, &u32::try_from(bytes).unwrap_or(u32::MAX))?,
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
        done += 1;
    }
    Ok(done)
}

/// Implements sendmmsg(2).
pub fn sendmmsg(task: &mut Task, [fd, vector, length, flags, ..]: Args) -> SysResult {
    each_message(task, fd, vector, length, flags, sendmsg)
}

/// Implements recvmmsg(2) with MSG_WAITFORONE's rule: only the first message is waited for.
pub fn recvmmsg(task: &mut Task, [fd, vector, length, flags, ..]: Args) -> SysResult {
    each_message(task, fd, vector, length, flags, recvmsg)
}
