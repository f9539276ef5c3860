//! The host's file system calls, one safe function each. The only module of `fs`, besides `descriptors`, with `unsafe` code.
//!
//! Nothing here knows the guest. Every function takes descriptors and paths of the monitor, and whatever opens one for the
//! monitor gives it back above the floor.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::descriptors::private;
use crate::errno::{Errno, SysResult, from_libc};

/// `struct open_how` of openat2(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, zerocopy::IntoBytes, zerocopy::Immutable)]
pub struct OpenHow {
    pub flags: u64,
    pub mode: u64,
    pub resolve: u64,
}

/// How every path of the guest is resolved: below one root, by plain directories only.
pub const CONTAINED: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;

/// openat2 gives EAGAIN when a directory was moved while it looked at `..`; another process can do that for ever.
const ATTEMPTS: u32 = 128;

/// Opens `path` below `root` for the monitor, without following any link, as a mere reference (`O_PATH`).
pub fn reference(root: BorrowedFd<'_>, path: &CStr, flags: i32) -> Result<OwnedFd, Errno> {
    let how = OpenHow {
        flags: u64::from((libc::O_PATH | libc::O_CLOEXEC | flags).cast_unsigned()),
        mode: 0,
        resolve: CONTAINED,
    };
    private(|| openat2(root, path, how))
}

/// Opens a path of the host for the monitor.
pub fn open(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> Result<OwnedFd, Errno> {
    private(|| {
        // SAFETY: the path is a C string; without O_CREAT there is no third argument.
        owned(unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC) })
    })
}

fn openat2(dir: BorrowedFd<'_>, path: &CStr, how: OpenHow) -> Result<OwnedFd, Errno> {
    let mut attempt = 0;
    loop {
        // SAFETY: the path is a C string, `how` a struct open_how of the given size; both are only read.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        };
        attempt += 1;
        match owned(RawFd::try_from(fd).unwrap_or(-1)) {
            Err(Errno::AGAIN) if attempt < ATTEMPTS => {}
            result => return result,
        }
    }
}

/// Takes ownership of what an opening call gave.
fn owned(fd: RawFd) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the caller passes the fresh result of a call that makes a descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The file that `fd` stands for.
pub fn stat(fd: BorrowedFd<'_>) -> Result<libc::stat, Errno> {
    let mut stat = MaybeUninit::uninit();
    // SAFETY: the buffer is a struct stat, which fstat fills when it succeeds.
    from_libc(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: filled above.
    Ok(unsafe { stat.assume_init() })
}

/// The file of this name in a directory, itself if it is a link.
pub fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<libc::stat, Errno> {
    let mut stat = MaybeUninit::uninit();
    // SAFETY: the name is a C string, the buffer a struct stat that fstatat fills when it succeeds.
    from_libc(unsafe {
        libc::fstatat(
            dir.as_raw_fd(),
            name.as_ptr(),
            stat.as_mut_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    })?;
    // SAFETY: filled above.
    Ok(unsafe { stat.assume_init() })
}

/// The working directory of the process.
pub fn stat_here() -> Result<libc::stat, Errno> {
    let mut stat = MaybeUninit::uninit();
    // SAFETY: the path is a C string, the buffer a struct stat that stat fills when it succeeds.
    from_libc(unsafe { libc::stat(c".".as_ptr(), stat.as_mut_ptr()) })?;
    // SAFETY: filled above.
    Ok(unsafe { stat.assume_init() })
}

/// The same in the form of statx(2).
pub fn statx(fd: BorrowedFd<'_>, flags: i32, mask: u32) -> Result<libc::statx, Errno> {
    let mut statx = MaybeUninit::zeroed();
    // SAFETY: the path is an empty C string, the buffer a struct statx that the kernel fills.
    from_libc(unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH,
            mask,
            statx.as_mut_ptr(),
        )
    })?;
    // SAFETY: filled above, and zeroed before.
    Ok(unsafe { statx.assume_init() })
}

/// A struct stat as it goes to the guest.
pub fn bytes_of_stat(stat: &libc::stat) -> [u8; size_of::<libc::stat>()] {
    // SAFETY: the structure consists of integers that fill it, what is called padding included; any bytes are an array.
    unsafe { std::mem::transmute_copy(stat) }
}

/// A struct statx as it goes to the guest.
pub fn bytes_of_statx(statx: &libc::statx) -> [u8; size_of::<libc::statx>()] {
    // SAFETY: as for struct stat.
    unsafe { std::mem::transmute_copy(statx) }
}

const _: () = assert!(size_of::<libc::stat>() == 144 && size_of::<libc::statx>() == 256);

/// A struct statx that says nothing.
pub fn zeroed_statx() -> libc::statx {
    // SAFETY: it consists of integers only.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// `struct statfs` as the kernel has it; libc hides the flags.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub struct Statfs {
    pub kind: i64,
    pub block_size: i64,
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub free_files: u64,
    pub id: [i32; 2],
    pub name_length: i64,
    pub fragment_size: i64,
    pub flags: i64,
    pub spare: [i64; 4],
}

const _: () = assert!(size_of::<Statfs>() == size_of::<libc::statfs>());

pub fn statfs(fd: BorrowedFd<'_>) -> Result<Statfs, Errno> {
    let mut statfs = MaybeUninit::<Statfs>::uninit();
    // SAFETY: the buffer has the layout of the kernel's struct statfs, which fstatfs fills when it succeeds.
    done(unsafe { libc::syscall(libc::SYS_fstatfs, fd.as_raw_fd(), statfs.as_mut_ptr()) })?;
    // SAFETY: filled above.
    Ok(unsafe { statfs.assume_init() })
}

/// Where a link points to. An empty `path` means the link that `dir` itself is.
pub fn read_link(dir: BorrowedFd<'_>, path: &CStr) -> Result<Vec<u8>, Errno> {
    let mut target = vec![0_u8; path_max()];
    // SAFETY: the path is a C string; the kernel writes at most the buffer's length.
    let length = from_libc(unsafe {
        i64::try_from(libc::readlinkat(
            dir.as_raw_fd(),
            path.as_ptr(),
            target.as_mut_ptr().cast(),
            target.len(),
        ))
        .unwrap_or(-1)
    })?;
    target.truncate(usize::try_from(length).unwrap_or(0));
    Ok(target)
}

/// PATH_MAX, the closing NUL included.
pub fn path_max() -> usize {
    usize::try_from(libc::PATH_MAX).unwrap_or(4096)
}

pub fn access(fd: BorrowedFd<'_>, mode: i32, flags: i32) -> Result<(), Errno> {
    // SAFETY: the path is an empty C string, nothing is written.
    done(unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            fd.as_raw_fd(),
            c"".as_ptr(),
            mode,
            flags | libc::AT_EMPTY_PATH,
        )
    })
}

pub fn chmod(dir: BorrowedFd<'_>, path: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the path is a C string.
    done(unsafe { libc::fchmodat(dir.as_raw_fd(), path.as_ptr(), mode, 0) })
}

pub fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    done(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })
}

pub fn chown(fd: BorrowedFd<'_>, user: u32, group: u32) -> Result<(), Errno> {
    // SAFETY: the path is an empty C string.
    done(unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), user, group, libc::AT_EMPTY_PATH) })
}

pub fn set_times(dir: BorrowedFd<'_>, path: &CStr, times: Option<&[libc::timespec; 2]>) -> Result<(), Errno> {
    let times = times.map_or(std::ptr::null(), |times| times.as_ptr());
    // SAFETY: the path is a C string; `times` is null or two timespecs.
    done(unsafe { libc::utimensat(dir.as_raw_fd(), path.as_ptr(), times, 0) })
}

/// By an absolute path of the host: opening the file for it, and closing it, would end the process's locks on it (fcntl(2)).
pub fn truncate(path: &CStr, length: i64) -> Result<(), Errno> {
    // SAFETY: the path is a C string.
    done(unsafe { libc::truncate(path.as_ptr(), length) })
}

pub fn make_directory(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the name is a C string.
    done(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) })
}

pub fn unlink(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> Result<(), Errno> {
    // SAFETY: the name is a C string.
    done(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) })
}

pub fn rename(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    new_name: &CStr,
    flags: u32,
) -> Result<(), Errno> {
    // SAFETY: both names are C strings.
    done(unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            from.as_raw_fd(),
            name.as_ptr(),
            to.as_raw_fd(),
            new_name.as_ptr(),
            flags,
        )
    })
}

/// Makes a name for the file that the last part of `path` leads to.
pub fn link(from: BorrowedFd<'_>, path: &CStr, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: both are C strings.
    done(unsafe {
        libc::linkat(
            from.as_raw_fd(),
            path.as_ptr(),
            to.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    })
}

pub fn symlink(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: both are C strings.
    done(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) })
}

pub fn make_node(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the name is a C string.
    done(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, 0) })
}

/// Adds a watch on the file that an absolute `path` of the host leads to.
pub fn watch(inotify: BorrowedFd<'_>, path: &CStr, mask: u32) -> Result<i32, Errno> {
    // SAFETY: the path is a C string.
    let watch = unsafe { libc::inotify_add_watch(inotify.as_raw_fd(), path.as_ptr(), mask) };
    if watch < 0 { Err(Errno::last()) } else { Ok(watch) }
}

/// Makes `fd` the working directory of the process.
pub fn change_directory(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    done(unsafe { libc::fchdir(fd.as_raw_fd()) })
}

/// An unnamed file in memory with this content, which nobody can change any more. `name` is what /proc shows of it.
pub fn sealed_file(name: &CStr, content: &[u8], mode: u32) -> Result<OwnedFd, Errno> {
    let file = private(|| {
        // SAFETY: the name is a C string.
        owned(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) })
    })?;
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, content)?;
    let file = OwnedFd::from(file);
    fchmod(borrow(&file), mode)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: no memory is passed.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file)
}

/// Reads directory records into `buffer`.
pub fn directory_records(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> SysResult {
    // SAFETY: the kernel writes at most the buffer's length.
    from_libc(unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            fd.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    })
}

/// The content of a small file.
pub fn content(dir: BorrowedFd<'_>, path: &CStr) -> Result<Vec<u8>, Errno> {
    let mut content = Vec::new();
    let mut file = std::fs::File::from(open(dir, path, libc::O_RDONLY)?);
    std::io::Read::read_to_end(&mut file, &mut content)?;
    Ok(content)
}

pub fn read_at(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: i64) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most the buffer's length.
    let length = unsafe { libc::pread(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), offset) };
    usize::try_from(length).map_err(|_| Errno::last())
}

pub fn seek(fd: BorrowedFd<'_>, offset: i64, whence: i32) -> Result<i64, Errno> {
    // SAFETY: no memory is passed.
    let offset = unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) };
    if offset < 0 {
        Err(Errno::last())
    } else {
        Ok(offset)
    }
}

/// The names in a directory of the host, `.` and `..` left out.
pub fn names(dir: OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    let mut buffer = [0_u8; 8192];
    loop {
        let length = usize::try_from(directory_records(borrow(&dir), &mut buffer)?).unwrap_or(0);
        if length == 0 {
            return Ok(names);
        }
        let mut rest = &buffer[..length];
        while rest.len() > RECORD_NAME {
            let size = usize::from(u16::from_ne_bytes([rest[RECORD_LENGTH], rest[RECORD_LENGTH + 1]]));
            let record = rest.get(RECORD_NAME..size).ok_or(Errno::IO)?;
            let name = record.split(|byte| *byte == 0).next().unwrap_or_default();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
            rest = &rest[size..];
        }
    }
}

/// Offsets in `struct linux_dirent64`: inode 8 bytes, position 8, length 2, type 1, name.
pub const RECORD_LENGTH: usize = 16;
pub const RECORD_NAME: usize = 19;

/// What uname(2) says of the host: release, version.
pub fn kernel() -> (Vec<u8>, Vec<u8>) {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the buffer is a struct utsname; should the call fail it stays zero, which is valid too.
    let name = unsafe {
        libc::uname(name.as_mut_ptr());
        name.assume_init()
    };
    let text = |field: &[libc::c_char]| {
        field
            .iter()
            .take_while(|c| **c != 0)
            .map(|c| c.cast_unsigned())
            .collect()
    };
    (text(&name.release), text(&name.version))
}

/// The ids of the process, its group and its session, and of the calling thread.
pub fn process_ids() -> ProcessIds {
    // SAFETY: these cannot fail for the calling process and touch no memory.
    unsafe {
        ProcessIds {
            process: crate::pids::pid(),
            group: libc::getpgrp(),
            session: libc::getsid(0),
            thread: crate::pids::tid(),
        }
    }
}

pub struct ProcessIds {
    pub process: i32,
    pub group: i32,
    pub session: i32,
    pub thread: i32,
}

/// What the process has used of the host's time.
pub fn usage() -> libc::rusage {
    let mut usage = MaybeUninit::zeroed();
    // SAFETY: the buffer is a struct rusage; should the call fail it stays zero, which is valid too.
    unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    }
}

/// The position of a descriptor of the guest and its flags, close-on-exec among them, as `/proc/self/fdinfo` has them.
pub fn position_and_flags(fd: RawFd) -> (i64, i32) {
    // SAFETY: no memory is passed; a descriptor without a position, or one that is gone, answers with -1.
    let (position, flags, close_on_exec) = unsafe {
        (
            libc::lseek(fd, 0, libc::SEEK_CUR),
            libc::fcntl(fd, libc::F_GETFL),
            libc::fcntl(fd, libc::F_GETFD),
        )
    };
    (
        position.max(0),
        flags.max(0) | if close_on_exec > 0 { libc::O_CLOEXEC } else { 0 },
    )
}

/// The signals of the calling thread, as sets of bits; they are the guest's (`crate::signals`).
#[derive(Default)]
pub struct Signals {
    pub pending: u64,
    pub blocked: u64,
    pub ignored: u64,
    pub caught: u64,
}

pub fn signals() -> Signals {
    const COUNT: u32 = 64;
    let mut signals = Signals::default();
    // SAFETY: each buffer is a set of 8 bytes, as the size says.
    unsafe {
        let none = std::ptr::null::<u64>();
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_BLOCK,
            none,
            &raw mut signals.blocked,
            8,
        );
        libc::syscall(libc::SYS_rt_sigpending, &raw mut signals.pending, 8);
    }
    for signal in 1..=COUNT {
        // The kernel's structure: handler, flags, restorer, mask.
        let mut action = [0_u64; 4];
        // SAFETY: the buffer is a kernel_sigaction with a set of 8 bytes; nothing is changed.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                std::ptr::null::<u64>(),
                action.as_mut_ptr(),
                8,
            );
        }
        let bit = 1 << (signal - 1);
        match usize::try_from(action[0]) {
            Ok(libc::SIG_DFL) => {}
            Ok(libc::SIG_IGN) => signals.ignored |= bit,
            _ => signals.caught |= bit,
        }
    }
    signals
}

/// Fresh random bytes.
pub fn random() -> Result<[u8; 16], Errno> {
    let mut bytes = [0; 16];
    // SAFETY: the kernel writes at most the buffer's length.
    done(unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0) })?;
    Ok(bytes)
}

/// The working directory of the process, wherever it is at the time of each call.
pub fn working_directory() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is not a descriptor but is valid for ever where a directory descriptor is asked for.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

/// A descriptor of the guest, named by its number. It may change or vanish at any time; the kernel then says EBADF.
pub fn guest_descriptor(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: `fd` is only passed to system calls of this module, never closed and never kept; a number is not -1 here
    // because `descriptors::guest_fd` has accepted it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

pub fn borrow(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

/// A C string of bytes that hold no NUL.
pub fn c_string(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

fn done(result: impl Into<i64>) -> Result<(), Errno> {
    from_libc(result).map(|_| ())
}
