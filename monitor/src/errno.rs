//! Error numbers of Linux, as the guest sees them.

use std::fmt;

/// An `errno` value, positive. Handlers return it; the dispatcher negates it for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

/// What a system call gives: the value for `rax`, or an error number.
pub type SysResult = Result<u64, Errno>;

impl Errno {
    pub const PERM: Self = Self(libc::EPERM);
    pub const NOENT: Self = Self(libc::ENOENT);
    pub const SRCH: Self = Self(libc::ESRCH);
    pub const INTR: Self = Self(libc::EINTR);
    pub const IO: Self = Self(libc::EIO);
    pub const BADF: Self = Self(libc::EBADF);
    pub const CHILD: Self = Self(libc::ECHILD);
    pub const AGAIN: Self = Self(libc::EAGAIN);
    pub const NOMEM: Self = Self(libc::ENOMEM);
    pub const ACCES: Self = Self(libc::EACCES);
    pub const FAULT: Self = Self(libc::EFAULT);
    pub const EXIST: Self = Self(libc::EEXIST);
    pub const NOTDIR: Self = Self(libc::ENOTDIR);
    pub const INVAL: Self = Self(libc::EINVAL);
    pub const MFILE: Self = Self(libc::EMFILE);
    pub const NOTTY: Self = Self(libc::ENOTTY);
    pub const ROFS: Self = Self(libc::EROFS);
    pub const RANGE: Self = Self(libc::ERANGE);
    pub const NAMETOOLONG: Self = Self(libc::ENAMETOOLONG);
    pub const NOSYS: Self = Self(libc::ENOSYS);
    pub const LOOP: Self = Self(libc::ELOOP);
    pub const OPNOTSUPP: Self = Self(libc::EOPNOTSUPP);
    pub const AFNOSUPPORT: Self = Self(libc::EAFNOSUPPORT);
    pub const ADDRINUSE: Self = Self(libc::EADDRINUSE);
    pub const ADDRNOTAVAIL: Self = Self(libc::EADDRNOTAVAIL);
    pub const CONNREFUSED: Self = Self(libc::ECONNREFUSED);
    pub const ISCONN: Self = Self(libc::EISCONN);
    pub const NETUNREACH: Self = Self(libc::ENETUNREACH);
    pub const NOTCONN: Self = Self(libc::ENOTCONN);
    pub const MSGSIZE: Self = Self(libc::EMSGSIZE);

    /// The kernel's ERESTARTSYS: the call was not started because a signal is pending. Never reaches the guest.
    pub const RESTART: Self = Self(512);

    /// The calling thread's `errno`.
    pub fn last() -> Self {
        Self(
            std::io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        )
    }
}

/// The result of a raw system call (`-4095..=-1` are errors) as a `SysResult`.
pub fn from_raw(value: i64) -> SysResult {
    match value {
        -4095..=-1 => Err(Errno(i32::try_from(-value).unwrap_or(libc::EIO))),
        _ => Ok(value.cast_unsigned()),
    }
}

/// The result of a libc call (`-1` and `errno`) as a `SysResult`.
pub fn from_libc(value: impl Into<i64>) -> SysResult {
    let value: i64 = value.into();
    if value < 0 {
        Err(Errno::last())
    } else {
        Ok(value.cast_unsigned())
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Errno {}
