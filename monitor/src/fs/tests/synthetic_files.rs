//! /proc, /sys, /dev, special files and private directories.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Guest, Temporary, c, in_child};
use crate::errno::Errno;
use crate::fs::descriptors::{MONITOR_FD_FLOOR, private};
use crate::fs::{Access, At, Builder, Files, Namespace, OpenRequest, Purpose, SpecialFile};

/// A namespace as `serve` makes one.
fn confined(base: &Path) -> Builder {
    fs::create_dir_all(base.join("root/etc")).unwrap();
    fs::create_dir_all(base.join("private")).unwrap();
    fs::write(base.join("root/etc/file"), "content").unwrap();
    let builder = Builder::new(&base.join("root"), Access::ReadOnly)
        .unwrap()
        .instance("one");
    let builder = builder.proc().unwrap().sys().unwrap().dev().unwrap();
    builder
        .scratch("/tmp", &base.join("private"))
        .unwrap()
        .scratch("/dev/shm", &base.join("private"))
        .unwrap()
}

fn open(files: &Files<'_>, path: &CStr, flags: i32) -> Result<RawFd, Errno> {
    files
        .open(At::cwd(path), OpenRequest::lenient(flags, 0o600)?)?
        .make()
}

fn read(files: &Files<'_>, path: &CStr) -> Result<String, Errno> {
    let mut text = String::new();
    let fd = open(files, path, libc::O_RDONLY)?;
    unsafe { fs::File::from_raw_fd(fd) }.read_to_string(&mut text)?;
    Ok(text)
}

fn names(files: &Files<'_>, path: &CStr) -> Result<Vec<String>, Errno> {
    let fd = open(files, path, libc::O_RDONLY | libc::O_DIRECTORY)?;
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut names = Vec::new();
    let mut buffer = [0; 100];
    loop {
        let length = files.read_directory(owned.as_raw_fd(), &mut buffer)?;
        if length == 0 {
            return Ok(names);
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let size = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
            let name = rest[19..size].split(|byte| *byte == 0).next().unwrap();
            names.push(String::from_utf8(name.to_vec()).unwrap());
            rest = &rest[size..];
        }
    }
}

/// Runs a test in a child with a namespace as `serve` makes one, at its root.
fn within(test: impl FnOnce(&Files<'_>, &Namespace)) {
    let base = Temporary::new();
    in_child(|| {
        let namespace = confined(&base.0).build();
        let files = Files::new(&namespace, &Guest);
        files.change_directory(At::cwd(c"/")).unwrap();
        test(&files, &namespace);
        String::new()
    });
}

#[test]
fn directories_list_what_is_in_them() {
    within(|files, _| {
        let shown = names(files, c"/proc/self").unwrap();
        for name in [".", "..", "maps", "status", "fd", "exe", "task"] {
            assert!(shown.iter().any(|known| known == name), "{name} in {shown:?}");
        }
        assert!(
            !shown
                .iter()
                .any(|name| ["mem", "pagemap", "map_files", "ns"].contains(&name.as_str()))
        );
        assert_eq!(
            names(files, c"/proc/self/fd").unwrap(),
            [".", "..", "0", "1", "1000", "2", "3"]
        );
        assert!(
            names(files, c"/sys/devices/system/cpu")
                .unwrap()
                .contains(&"cpu1".to_owned())
        );
        assert_eq!(
            names(files, c"/sys/devices/system/cpu/cpu1/topology")
                .unwrap()
                .len(),
            8
        );
        assert!(names(files, c"/dev").unwrap().contains(&"null".to_owned()));
        assert_eq!(names(files, c"/proc/self/maps"), Err(Errno::NOTDIR));
        assert_eq!(names(files, c"/proc/self/nothing"), Err(Errno::NOENT));
    });
}

#[test]
fn contents_are_the_functions_not_the_hosts() {
    within(|files, _| {
        assert_eq!(read(files, c"/proc/self/cmdline").unwrap(), "program\0-x\0");
        assert_eq!(read(files, c"/proc/self/comm").unwrap(), "program\n");
        assert_eq!(
            read(files, c"/proc/thread-self/maps").unwrap(),
            "00400000-00401000 r-xp 00000000 00:00 0                                  [code]\n"
        );
        assert!(
            read(files, c"/proc/meminfo")
                .unwrap()
                .starts_with("MemTotal:         262144 kB\nMemFree:          245760 kB\n")
        );
        assert_eq!(
            read(files, c"/proc/cpuinfo")
                .unwrap()
                .matches("processor\t: ")
                .count(),
            2
        );
        assert_eq!(read(files, c"/sys/fs/cgroup/memory.max").unwrap(), "268435456\n");
        assert_eq!(read(files, c"/sys/devices/system/cpu/online").unwrap(), "0-1\n");
        assert_eq!(read(files, c"/proc/sys/kernel/hostname").unwrap(), "function\n");
        let status = read(files, c"/proc/self/status").unwrap();
        assert!(
            status.contains("\nUid:\t1000\t1000\t1000\t1000\nGid:\t1001\t"),
            "{status}"
        );
        assert!(status.starts_with("Name:\tprogram\n"));
        let stat = read(files, c"/proc/self/stat").unwrap();
        assert_eq!(stat.split_whitespace().count(), 52);
        assert!(stat.contains(" (program) R "));
        let one = read(files, c"/proc/sys/kernel/random/uuid").unwrap();
        assert_ne!(one, read(files, c"/proc/sys/kernel/random/uuid").unwrap());
        assert_eq!((one.len(), one.as_bytes()[14]), (37, b'4'));
        assert_eq!(
            read(files, c"/proc/sys/kernel/random/boot_id").unwrap(),
            read(files, c"/proc/sys/kernel/random/boot_id").unwrap()
        );
    });
}

#[test]
fn what_would_lead_out_is_not_there() {
    within(|files, _| {
        for path in [
            c"/proc/self/mem",
            c"/proc/1",
            c"/proc/self/ns/mnt",
            c"/proc/kcore",
            c"/dev/kvm",
            c"/dev/vda",
            c"/sys/kernel/debug",
            c"/proc/self/fd/2048",
            c"/proc/self/fd/2050",
            c"/proc/self/fd/+1",
            c"/proc/self/fd/01",
            c"/proc/self/task/1/status",
            c"/proc/self/root/../../etc/passwd",
            c"/proc/self/cwd/../../../etc/passwd",
        ] {
            assert_eq!(open(files, path, libc::O_RDONLY), Err(Errno::NOENT), "{path:?}");
        }
        assert_eq!(open(files, c"/proc/self/status", libc::O_RDWR), Err(Errno::ACCES));
        assert_eq!(open(files, c"/proc/self", libc::O_RDWR), Err(Errno(libc::EISDIR)));
        assert_eq!(
            open(files, c"/proc/new", libc::O_RDWR | libc::O_CREAT),
            Err(Errno::ROFS)
        );
        assert_eq!(
            files.unlink(At::cwd(c"/proc/self/status"), 0).map(drop),
            Err(Errno::ROFS)
        );
        assert_eq!(files.chmod(At::cwd(c"/dev/null"), 0o600, 0), Err(Errno::ROFS));
    });
}

#[test]
fn a_device_in_the_image_cannot_be_opened() {
    let base = Temporary::new();
    let path = base.0.join("root/etc");
    fs::create_dir_all(&path).unwrap();
    if unsafe {
        libc::mknod(
            c(path.join("null").to_str().unwrap()).as_ptr(),
            libc::S_IFCHR | 0o666,
            libc::makedev(1, 3),
        )
    } < 0
    {
        eprintln!("not tried: making a device needs root");
        return;
    }
    in_child(|| {
        let namespace = confined(&base.0).build();
        let files = Files::new(&namespace, &Guest);
        for flags in [libc::O_RDONLY, libc::O_RDWR] {
            assert_eq!(open(&files, c"/etc/null", flags), Err(Errno::ACCES));
            assert!(open(&files, c"/dev/null", flags).is_ok());
        }
        assert!(files.stat(At::cwd(c"/etc/null"), 0).is_ok());
        String::new()
    });
}

#[test]
fn a_descriptor_of_a_synthetic_file_knows_what_it_is() {
    within(|files, _| {
        let file = open(files, c"/proc/self/status", libc::O_RDONLY).unwrap();
        let directory = open(files, c"/proc/self", libc::O_RDONLY).unwrap();
        let by_path = files.stat(At::cwd(c"/proc/self/status"), 0).unwrap();
        let by_descriptor = files.stat_descriptor(file).unwrap();
        assert_eq!(
            (by_path.st_ino, by_path.st_mode, by_path.st_size),
            (by_descriptor.st_ino, by_descriptor.st_mode, by_descriptor.st_size)
        );
        assert_eq!((by_path.st_mode, by_path.st_uid), (libc::S_IFREG | 0o444, 1000));
        assert_eq!(
            files.stat_descriptor(directory).unwrap().st_mode,
            libc::S_IFDIR | 0o555
        );
        let process = std::process::id();
        assert_eq!(
            files.descriptor_path(directory).unwrap(),
            format!("/proc/{process}").into_bytes()
        );
        assert_eq!(
            files.statfs_descriptor(file).unwrap().kind,
            libc::PROC_SUPER_MAGIC
        );
        let below = files.open(
            At::new(directory, c"fd/../comm"),
            OpenRequest::lenient(libc::O_RDONLY, 0).unwrap(),
        );
        assert!(below.unwrap().make().is_ok());
        let through = c(&format!("/proc/self/fd/{directory}/comm"));
        assert_eq!(read(files, &through).unwrap(), "program\n");
        files.change_to_descriptor(directory).unwrap();
        assert_eq!(
            files.current_directory().unwrap(),
            format!("/proc/{process}").into_bytes()
        );
        assert_eq!(read(files, c"comm").unwrap(), "program\n");
        files.change_directory(At::cwd(c"../..")).unwrap();
        assert_eq!(files.current_directory().unwrap(), b"/");
        assert_eq!(unsafe { libc::write(file, b"x".as_ptr().cast(), 1) }, -1);
        let link = open(files, c"/proc/self/exe", libc::O_PATH | libc::O_NOFOLLOW).unwrap();
        assert_eq!(files.read_link(At::new(link, c"")).unwrap(), b"/bin/program");
    });
}

#[test]
fn the_standard_streams_are_opened_anew() {
    within(|files, _| {
        let mut ends = [0; 2];
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        unsafe { libc::dup2(ends[1], 1) };
        let fd = open(files, c"/dev/stdout", libc::O_WRONLY).unwrap();
        assert_eq!(unsafe { libc::write(fd, b"out".as_ptr().cast(), 3) }, 3);
        let mut buffer = [0_u8; 8];
        assert_eq!(unsafe { libc::read(ends[0], buffer.as_mut_ptr().cast(), 8) }, 3);
        let shown = files.read_link(At::cwd(c"/dev/stdout")).unwrap();
        assert_eq!(shown, b"/proc/self/fd/1");
        assert!(
            files
                .read_link(At::cwd(c"/proc/self/fd/1"))
                .unwrap()
                .starts_with(b"pipe:[")
        );
        // A file of the host that the guest was started with: usable, but with no path, and not to be opened again.
        let host = fs::File::open("/etc/passwd").unwrap();
        unsafe { libc::dup2(host.as_raw_fd(), 0) };
        assert_eq!(open(files, c"/dev/stdin", libc::O_RDONLY), Err(Errno::ACCES));
        assert_eq!(
            files.read_link(At::cwd(c"/proc/self/fd/0")).unwrap(),
            b"anon_inode:[host]"
        );
        assert!(files.stat(At::cwd(c"/dev/stdin"), 0).is_ok());
        assert_eq!(files.chmod_descriptor(0, 0o777), Err(Errno::ROFS));
        let host = fs::File::open("/etc").unwrap();
        unsafe { libc::dup2(host.as_raw_fd(), 0) };
        assert_eq!(
            open(files, c"/dev/stdin/passwd", libc::O_RDONLY),
            Err(Errno::ACCES)
        );
        assert_eq!(files.change_to_descriptor(0), Err(Errno::ACCES));
        let passwd = files.open(
            At::new(0, c"passwd"),
            OpenRequest::lenient(libc::O_RDONLY, 0).unwrap(),
        );
        assert_eq!(passwd.map(|_| ()), Err(Errno::ACCES));
    });
}

#[test]
fn private_directories_are_made_when_they_are_touched() {
    let base = Temporary::new();
    in_child(|| {
        let namespace = confined(&base.0).build();
        let files = Files::new(&namespace, &Guest);
        assert_eq!(fs::read_dir(base.0.join("private")).unwrap().count(), 0);
        unsafe { libc::umask(0o077) };
        assert!(open(&files, c"/dev/shm/x", libc::O_RDWR | libc::O_CREAT).is_ok());
        assert_eq!(
            files.stat(At::cwd(c"/dev/shm"), 0).unwrap().st_mode,
            libc::S_IFDIR | 0o1777
        );
        assert!(base.0.join("private/one/dev-shm/x").exists());
        assert!(!base.0.join("private/one/tmp").exists());
        assert_eq!(
            files
                .rename(At::cwd(c"/dev/shm/x"), At::cwd(c"/tmp/x"), 0)
                .map(drop),
            Err(Errno(libc::EXDEV))
        );
        files.change_directory(At::cwd(c"/tmp")).unwrap();
        assert_eq!(files.current_directory().unwrap(), b"/tmp");
        assert_eq!(
            files.unlink(At::cwd(c"/tmp"), libc::AT_REMOVEDIR).map(drop),
            Err(Errno::ROFS)
        );
        // Nothing of the host's path is to be seen.
        let fd = open(&files, c"/dev/shm/x", libc::O_RDONLY).unwrap();
        assert_eq!(files.descriptor_path(fd).unwrap(), b"/dev/shm/x");
        String::new()
    });
}

struct Counted(AtomicU32);

impl SpecialFile for Arc<Counted> {
    fn file(&self, purpose: Purpose) -> Result<OwnedFd, Errno> {
        if purpose == Purpose::Open {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        private(|| Ok(fs::File::open("/etc/passwd")?.into()))
    }
}

#[test]
fn a_special_file_is_asked_of_its_owner() {
    let base = Temporary::new();
    in_child(|| {
        let counted = Arc::new(Counted(AtomicU32::new(0)));
        let special = Box::new(counted.clone());
        let namespace = confined(&base.0)
            .special("/.request", Access::ReadOnly, special)
            .unwrap()
            .build();
        let files = Files::new(&namespace, &Guest);
        assert!(files.stat(At::cwd(c"/.request"), 0).is_ok());
        assert_eq!(counted.0.load(Ordering::Relaxed), 0);
        assert!(!read(&files, c"/etc/../.request").unwrap().is_empty());
        assert_eq!(counted.0.load(Ordering::Relaxed), 1);
        assert_eq!(open(&files, c"/.request", libc::O_RDWR), Err(Errno::ROFS));
        assert_eq!(open(&files, c"/.request/x", libc::O_RDONLY), Err(Errno::NOTDIR));
        assert_eq!(open(&files, c"/.request/", libc::O_RDONLY), Err(Errno::NOTDIR));
        assert_eq!(files.unlink(At::cwd(c"/.request"), 0).map(drop), Err(Errno::ROFS));
        assert_eq!(files.chmod(At::cwd(c"/.request"), 0o777, 0), Err(Errno::ROFS));
        String::new()
    });
}

#[test]
fn a_full_table_is_the_guests_not_the_monitors() {
    within(|files, _| {
        let mut last = 0;
        crate::fs::descriptors::set_limit(64);
        let full = loop {
            match open(files, c"/etc/file", libc::O_RDONLY) {
                Ok(fd) => last = fd,
                Err(error) => break error,
            }
        };
        assert_eq!((full, last), (Errno::MFILE, 63));
        assert!(files.stat(At::cwd(c"/etc/file"), 0).is_ok());
        crate::fs::descriptors::set_limit(u64::MAX);
        assert_eq!(crate::fs::descriptors::limit(), MONITOR_FD_FLOOR);
    });
}
