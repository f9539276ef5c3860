//! Calls that name files: opening, attributes, names, the working directory. `crate::fs` has the rules; here are the
//! copies in and out.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use super::descriptors::register;
use super::memory::int;
use super::{Args, Entry, Level, entry, limits};
use crate::errno::{Errno, SysResult};
use crate::fs::{self, At, Files, OpenRequest, bytes_of_stat, bytes_of_statx};
use crate::memory::access;
use crate::task::Task;
use crate::{rlimits, sys};

const AREA: &str = "paths";

pub const ENTRIES: &[Entry] = &[
    entry(libc::SYS_open, AREA, Level::Emulated, open, ""),
    entry(libc::SYS_openat, AREA, Level::Emulated, openat, ""),
    entry(libc::SYS_openat2, AREA, Level::Emulated, openat2, ""),
    entry(libc::SYS_creat, AREA, Level::Emulated, creat, ""),
    entry(libc::SYS_stat, AREA, Level::Emulated, stat, ""),
    entry(libc::SYS_lstat, AREA, Level::Emulated, lstat, ""),
    entry(libc::SYS_fstat, AREA, Level::Emulated, fstat, ""),
    entry(libc::SYS_newfstatat, AREA, Level::Emulated, newfstatat, ""),
    entry(libc::SYS_statx, AREA, Level::Emulated, statx, ""),
    entry(libc::SYS_statfs, AREA, Level::Emulated, statfs, ""),
    entry(libc::SYS_fstatfs, AREA, Level::Emulated, fstatfs, ""),
    entry(libc::SYS_access, AREA, Level::Emulated, access_, ""),
    entry(libc::SYS_faccessat, AREA, Level::Emulated, faccessat, ""),
    entry(libc::SYS_faccessat2, AREA, Level::Emulated, faccessat2, ""),
    entry(libc::SYS_readlink, AREA, Level::Emulated, readlink, ""),
    entry(libc::SYS_readlinkat, AREA, Level::Emulated, readlinkat, ""),
    entry(libc::SYS_getcwd, AREA, Level::Emulated, getcwd, ""),
    entry(libc::SYS_chdir, AREA, Level::Emulated, chdir, ""),
    entry(libc::SYS_fchdir, AREA, Level::Emulated, fchdir, ""),
    entry(libc::SYS_mkdir, AREA, Level::Emulated, mkdir, ""),
    entry(libc::SYS_mkdirat, AREA, Level::Emulated, mkdirat, ""),
    entry(libc::SYS_mknod, AREA, Level::Emulated, mknod, "no devices"),
    entry(libc::SYS_mknodat, AREA, Level::Emulated, mknodat, "no devices"),
    entry(libc::SYS_rmdir, AREA, Level::Emulated, rmdir, ""),
    entry(libc::SYS_unlink, AREA, Level::Emulated, unlink, ""),
    entry(libc::SYS_unlinkat, AREA, Level::Emulated, unlinkat, ""),
    entry(libc::SYS_rename, AREA, Level::Emulated, rename, ""),
    entry(libc::SYS_renameat, AREA, Level::Emulated, renameat, ""),
    entry(
        libc::SYS_renameat2,
        AREA,
        Level::Emulated,
        renameat2,
        "no RENAME_WHITEOUT",
    ),
    entry(libc::SYS_link, AREA, Level::Emulated, link, ""),
    entry(libc::SYS_linkat, AREA, Level::Emulated, linkat, ""),
    entry(libc::SYS_symlink, AREA, Level::Emulated, symlink, ""),
    entry(libc::SYS_symlinkat, AREA, Level::Emulated, symlinkat, ""),
    entry(libc::SYS_truncate, AREA, Level::Emulated, truncate, ""),
    entry(libc::SYS_umask, AREA, Level::Forwarded, umask, ""),
];

pub(super) const HERE: u64 = i64::cast_unsigned(libc::AT_FDCWD as i64);
pub(super) const NOFOLLOW: u64 = libc::AT_SYMLINK_NOFOLLOW.unsigned_abs() as u64;
const REMOVEDIR: u64 = libc::AT_REMOVEDIR.unsigned_abs() as u64;

/// The guest's view of files, for one call.
pub fn files(task: &Task) -> Files<'_> {
    Files::new(&task.process.files, &*task.process)
}

pub(super) fn path(address: u64) -> Result<CString, Errno> {
    access::read_path(address)
}

pub(super) fn unsigned(value: u64) -> u32 {
    int(value).cast_unsigned()
}

pub(super) fn done(result: Result<(), Errno>) -> SysResult {
    result.map(|()| 0)
}

/// Makes a name, within what the instance may have.
fn add_name(task: &Task, make: impl FnOnce() -> Result<(), Errno>) -> SysResult {
    done(match &task.process.storage {
        Some(storage) => storage.add_name(make),
        None => make(),
    })
}

/// Takes a name away from what `make` gives.
fn remove_name(task: &Task, make: impl FnOnce() -> Result<Option<libc::stat>, Errno>) -> SysResult {
    done(match &task.process.storage {
        Some(storage) => storage.remove_name(make),
        None => make().map(|_| ()),
    })
}

fn make_open(task: &Task, at: At<'_>, request: OpenRequest) -> SysResult {
    let mut call = files(task).open(at, request)?;
    if call.makes()
        && let Some(storage) = &task.process.storage
    {
        // Once more, now that no other thread can make the name.
        let names = storage.names();
        call = files(task).open(at, request)?;
        if call.makes() {
            let (number, args) = call.system_call();
            let made = names.add(|| task.call(number, args));
            return call.admit(made).map(register);
        }
    }
    let (number, args) = call.system_call();
    call.admit(task.call(number, args)).map(register)
}

/// Implements open(2).
fn open(task: &mut Task, [name, flags, mode, ..]: Args) -> SysResult {
    make_open(
        task,
        At::cwd(&path(name)?),
        OpenRequest::lenient(int(flags), unsigned(mode))?,
    )
}

/// Implements openat(2).
fn openat(task: &mut Task, [directory, name, flags, mode, ..]: Args) -> SysResult {
    let request = OpenRequest::lenient(int(flags), unsigned(mode))?;
    make_open(task, At::new(int(directory), &path(name)?), request)
}

/// Implements creat(2).
fn creat(task: &mut Task, [name, mode, ..]: Args) -> SysResult {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    make_open(
        task,
        At::cwd(&path(name)?),
        OpenRequest::lenient(flags, unsigned(mode))?,
    )
}

/// Implements openat2(2).
fn openat2(task: &mut Task, [directory, name, how, size, ..]: Args) -> SysResult {
    const KNOWN: usize = 24;
    let size = usize::try_from(size).map_err(|_| Errno(libc::E2BIG))?;
    if size < KNOWN {
        return Err(Errno::INVAL);
    }
    if size > 4096 {
        return Err(Errno(libc::E2BIG));
    }
    let mut given = vec![0; size];
    access::read_bytes(how, &mut given)?;
    // A longer structure is one of a newer kernel; what it adds must not be used.
    if given[KNOWN..].iter().any(|byte| *byte != 0) {
        return Err(Errno(libc::E2BIG));
    }
    let [flags, mode, resolve]: [u64; 3] = access::read(how)?;
    let request = OpenRequest::strict(flags, mode, resolve)?;
    make_open(task, At::new(int(directory), &path(name)?), request)
}

fn put_stat(address: u64, stat: &libc::stat) -> SysResult {
    access::write_bytes(address, &bytes_of_stat(stat))?;
    Ok(0)
}

/// Implements stat(2).
fn stat(task: &mut Task, [name, result, ..]: Args) -> SysResult {
    put_stat(result, &files(task).stat(At::cwd(&path(name)?), 0)?)
}

/// Implements lstat(2).
fn lstat(task: &mut Task, [name, result, ..]: Args) -> SysResult {
    put_stat(
        result,
        &files(task).stat(At::cwd(&path(name)?), libc::AT_SYMLINK_NOFOLLOW)?,
    )
}

/// Implements fstat(2).
fn fstat(task: &mut Task, [fd, result, ..]: Args) -> SysResult {
    put_stat(result, &files(task).stat_descriptor(int(fd))?)
}

/// Implements fstatat(2).
fn newfstatat(task: &mut Task, [directory, name, result, flags, ..]: Args) -> SysResult {
    let name = path_or_none(name, int(flags))?;
    put_stat(
        result,
        &files(task).stat(At::new(int(directory), &name), int(flags))?,
    )
}

/// A path that may be NULL where AT_EMPTY_PATH says that it may be empty.
fn path_or_none(address: u64, flags: i32) -> Result<CString, Errno> {
    if address == 0 && flags & libc::AT_EMPTY_PATH != 0 {
        Ok(CString::default())
    } else {
        path(address)
    }
}

/// Implements statx(2).
fn statx(task: &mut Task, [directory, name, flags, mask, result, _]: Args) -> SysResult {
    let name = path_or_none(name, int(flags))?;
    let statx = files(task).statx(At::new(int(directory), &name), int(flags), unsigned(mask))?;
    access::write_bytes(result, &bytes_of_statx(&statx))?;
    Ok(0)
}

/// Implements statfs(2).
fn statfs(task: &mut Task, [name, result, ..]: Args) -> SysResult {
    access::write(result, &files(task).statfs(At::cwd(&path(name)?))?)?;
    Ok(0)
}

/// Implements fstatfs(2).
fn fstatfs(task: &mut Task, [fd, result, ..]: Args) -> SysResult {
    access::write(result, &files(task).statfs_descriptor(int(fd))?)?;
    Ok(0)
}

/// Implements access(2).
fn access_(task: &mut Task, [name, mode, ..]: Args) -> SysResult {
    faccessat2(task, [HERE, name, mode, 0, 0, 0])
}

/// Implements faccessat(2), which has no flags in the kernel.
fn faccessat(task: &mut Task, [directory, name, mode, ..]: Args) -> SysResult {
    faccessat2(task, [directory, name, mode, 0, 0, 0])
}

/// Implements faccessat2(2).
fn faccessat2(task: &mut Task, [directory, name, mode, flags, ..]: Args) -> SysResult {
    done(files(task).access(At::new(int(directory), &path(name)?), int(mode), int(flags)))
}

/// Implements readlink(2).
fn readlink(task: &mut Task, [name, buffer, size, ..]: Args) -> SysResult {
    let name = path(name)?;
    if name.is_empty() {
        return Err(Errno::NOENT);
    }
    put_link(task, At::cwd(&name), buffer, size)
}

/// Implements readlinkat(2).
fn readlinkat(task: &mut Task, [directory, name, buffer, size, ..]: Args) -> SysResult {
    put_link(task, At::new(int(directory), &path(name)?), buffer, size)
}

fn put_link(task: &Task, at: At<'_>, buffer: u64, size: u64) -> SysResult {
    let size = usize::try_from(int(size))
        .ok()
        .filter(|size| *size > 0)
        .ok_or(Errno::INVAL)?;
    let mut target = files(task).read_link(at)?;
    target.truncate(size);
    access::write_bytes(buffer, &target)?;
    Ok(target.len() as u64)
}

/// Implements getcwd(2).
fn getcwd(task: &mut Task, [buffer, size, ..]: Args) -> SysResult {
    let mut here = files(task).current_directory()?;
    here.push(0);
    if here.len() as u64 > size {
        return Err(Errno::RANGE);
    }
    access::write_bytes(buffer, &here)?;
    Ok(here.len() as u64)
}

/// Implements chdir(2).
fn chdir(task: &mut Task, [name, ..]: Args) -> SysResult {
    done(files(task).change_directory(At::cwd(&path(name)?)))
}

/// Implements fchdir(2).
fn fchdir(task: &mut Task, [fd, ..]: Args) -> SysResult {
    done(files(task).change_to_descriptor(int(fd)))
}

/// Implements mkdir(2).
fn mkdir(task: &mut Task, [name, mode, ..]: Args) -> SysResult {
    mkdirat(task, [HERE, name, mode, 0, 0, 0])
}

/// Implements mkdirat(2).
fn mkdirat(task: &mut Task, [directory, name, mode, ..]: Args) -> SysResult {
    let name = path(name)?;
    add_name(task, || {
        files(task).make_directory(At::new(int(directory), &name), unsigned(mode))
    })
}

/// Implements mknod(2).
fn mknod(task: &mut Task, [name, mode, ..]: Args) -> SysResult {
    mknodat(task, [HERE, name, mode, 0, 0, 0])
}

/// Implements mknodat(2).
fn mknodat(task: &mut Task, [directory, name, mode, ..]: Args) -> SysResult {
    let name = path(name)?;
    add_name(task, || {
        files(task).make_node(At::new(int(directory), &name), unsigned(mode))
    })
}

/// Makes the file that a unix socket is bound to, and gives the key by which it is known (`network::keys`).
pub fn make_socket_file(task: &Task, name: &CStr) -> Result<String, Errno> {
    add_name(task, || {
        files(task).make_node(At::cwd(name), libc::S_IFSOCK | 0o777)
    })?;
    let made = files(task).stat(At::cwd(name), libc::AT_SYMLINK_NOFOLLOW)?;
    Ok(crate::network::keys::file(made.st_dev, made.st_ino))
}

/// Takes it away again.
pub fn remove_socket_file(task: &Task, name: &CStr) {
    // If another thread was faster, the name is not the socket's any more.
    let _ = remove_name(task, || files(task).unlink(At::cwd(name), 0));
}

/// Implements rmdir(2).
fn rmdir(task: &mut Task, [name, ..]: Args) -> SysResult {
    unlinkat(task, [HERE, name, REMOVEDIR, 0, 0, 0])
}

/// Implements unlink(2).
fn unlink(task: &mut Task, [name, ..]: Args) -> SysResult {
    unlinkat(task, [HERE, name, 0, 0, 0, 0])
}

/// Implements unlinkat(2).
fn unlinkat(task: &mut Task, [directory, name, flags, ..]: Args) -> SysResult {
    let name = path(name)?;
    remove_name(task, || {
        files(task).unlink(At::new(int(directory), &name), int(flags))
    })
}

/// Implements rename(2).
fn rename(task: &mut Task, [from, to, ..]: Args) -> SysResult {
    renameat2(task, [HERE, from, HERE, to, 0, 0])
}

/// Implements renameat(2).
fn renameat(task: &mut Task, [from_directory, from, to_directory, to, ..]: Args) -> SysResult {
    renameat2(task, [from_directory, from, to_directory, to, 0, 0])
}

/// Implements renameat2(2).
fn renameat2(task: &mut Task, [from_directory, from, to_directory, to, flags, _]: Args) -> SysResult {
    let (from, to) = (path(from)?, path(to)?);
    let (from, to) = (
        At::new(int(from_directory), &from),
        At::new(int(to_directory), &to),
    );
    remove_name(task, || files(task).rename(from, to, unsigned(flags)))
}

/// Implements link(2).
fn link(task: &mut Task, [from, to, ..]: Args) -> SysResult {
    linkat(task, [HERE, from, HERE, to, 0, 0])
}

/// Implements linkat(2).
fn linkat(task: &mut Task, [from_directory, from, to_directory, to, flags, _]: Args) -> SysResult {
    let (from, to) = (path(from)?, path(to)?);
    let (from, to) = (
        At::new(int(from_directory), &from),
        At::new(int(to_directory), &to),
    );
    let link = || files(task).link(from, to, int(flags));
    done(match &task.process.storage {
        Some(storage) => storage.add_link(link),
        None => link().map(|_| ()),
    })
}

/// Implements symlink(2).
fn symlink(task: &mut Task, [target, name, ..]: Args) -> SysResult {
    symlinkat(task, [target, HERE, name, 0, 0, 0])
}

/// Implements symlinkat(2).
fn symlinkat(task: &mut Task, [target, directory, name, ..]: Args) -> SysResult {
    let (target, name) = (path(target)?, path(name)?);
    add_name(task, || {
        files(task).symlink(&target, At::new(int(directory), &name))
    })
}

/// Implements truncate(2).
fn truncate(task: &mut Task, [name, length, ..]: Args) -> SysResult {
    let file = files(task).truncatable(At::cwd(&path(name)?), length.cast_signed())?;
    if length > rlimits::soft(libc::RLIMIT_FSIZE) && length > sys::stat(&file)?.st_size.unsigned_abs() {
        limits::check_size_of_file(task, length)?;
    }
    let truncate = || done(fs::truncate(&file, length.cast_signed()));
    match &task.process.storage {
        Some(storage) => storage.resize(file.as_fd(), |_| Ok(length), truncate),
        None => truncate(),
    }
}

/// Implements umask(2): the host process's is the guest's.
fn umask(task: &mut Task, [mask, ..]: Args) -> SysResult {
    task.plain(libc::SYS_umask, [mask, 0, 0, 0, 0, 0])
}
