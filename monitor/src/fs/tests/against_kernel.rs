//! The namespace against a kernel: the same calls on two equal trees, once through [`Files`], once natively after chroot
//! with real mounts, must give the same answers and leave the same trees.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{Guest, Temporary, c, in_child};
use crate::errno::{Errno, from_libc};
use crate::fs::{Access, At, Builder, Files, Namespace, OpenRequest, truncate};

/// Makes the tree of every test: `root`, and `private/instance/tmp` to be seen at its /tmp.
fn make_tree(base: &Path) {
    let root = base.join("root");
    let tmp = base.join("private/instance/tmp");
    let directories = [
        "tmp",
        "run",
        "run/lock",
        "var",
        "etc",
        "usr",
        "usr/lib",
        "usr/lib/deep",
        "usr/bin",
        "home",
        "proc",
        "dev",
    ];
    fs::create_dir(&root).unwrap();
    fs::create_dir_all(&tmp).unwrap();
    for (number, name) in directories.iter().enumerate() {
        fs::create_dir(root.join(name)).unwrap();
        let mode = 0o700 + u32::try_from(number).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(tmp.join("inside")).unwrap();
    fs::set_permissions(tmp.join("inside"), fs::Permissions::from_mode(0o740)).unwrap();
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).unwrap();
    let files = [
        "etc/a",
        "usr/lib/a",
        "usr/lib/deep/b",
        "run/c",
        "home/b",
        "a",
        "tmp/shadowed",
    ];
    for (size, name) in (1..).zip(files) {
        fs::write(root.join(name), vec![b'x'; size]).unwrap();
    }
    fs::write(tmp.join("a"), [b'x'; 100]).unwrap();
    fs::write(tmp.join("inside/b"), [b'x'; 101]).unwrap();
    let links = [
        ("lib", "usr/lib"),
        ("bin", "/usr/bin"),
        ("var/run", "/run"),
        ("var/tmp", "../tmp"),
        ("var/lib", "../lib/../lib"),
        ("etc/l", "/tmp/a"),
        ("etc/up", ".."),
        ("etc/out", "../../../../../tmp/inside/"),
        ("etc/loop", "pool"),
        ("etc/pool", "loop"),
        ("home/l", "nothing"),
        ("home/new", "/tmp/new"),
        ("home/dir", "/usr/lib/deep/."),
        ("home/file", "/etc/a/"),
        ("usr/lib/deep/l", "/var/tmp/inside/../a"),
        ("l", "etc/l"),
    ];
    for (name, target) in links {
        symlink(target, root.join(name)).unwrap();
    }
    symlink("/etc", tmp.join("l")).unwrap();
    symlink("../usr/lib", tmp.join("inside/l")).unwrap();
    symlink("../../..", tmp.join("inside/up")).unwrap();
}

fn namespace(base: &Path, access: Access) -> Namespace {
    Builder::new(&base.join("root"), access)
        .unwrap()
        .instance("instance")
        .scratch("/tmp", &base.join("private"))
        .unwrap()
        .build()
}

/// Goes into the tree as a container would; false where that needs rights that are missing.
fn enter_natively(base: &Path, access: Access) -> bool {
    let root = c(base.join("root").to_str().unwrap());
    let private = c(base.join("private/instance/tmp").to_str().unwrap());
    let tmp = c(base.join("root/tmp").to_str().unwrap());
    let none = std::ptr::null();
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) < 0 {
            return false;
        }
        libc::mount(
            none,
            c"/".as_ptr(),
            none,
            libc::MS_REC | libc::MS_PRIVATE,
            none.cast(),
        );
        libc::mount(root.as_ptr(), root.as_ptr(), none, libc::MS_BIND, none.cast());
        if access == Access::ReadOnly {
            let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
            libc::mount(none, root.as_ptr(), none, flags, none.cast());
        }
        libc::mount(private.as_ptr(), tmp.as_ptr(), none, libc::MS_BIND, none.cast());
        libc::chroot(root.as_ptr()) == 0 && libc::chdir(c"/".as_ptr()) == 0
    }
}

/// xorshift, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(sides).unwrap()).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }

    fn path(&mut self) -> String {
        let names = [
            "a", "b", "l", "..", "..", ".", "tmp", "inside", "var", "run", "lib", "etc", "usr", "deep",
            "home", "dir", "new", "up", "out", "loop", "file", "c", "bin", "lock", "nothing", "shadowed",
        ];
        let mut path = if self.roll(3) > 0 {
            "/".to_owned()
        } else {
            String::new()
        };
        for number in 0..=self.roll(5) {
            if number > 0 {
                path += self.pick(&["/", "/", "/", "//"]);
            }
            path += self.pick(&names);
        }
        path + self.pick(&["", "", "", "", "/", "/."])
    }
}

#[derive(Debug)]
enum Call {
    Stat(String, i32),
    Open(String, i32),
    ReadLink(String),
    Mkdir(String),
    Unlink(String, i32),
    Rename(String, String, u32),
    Link(String, String, i32),
    Symlink(String, String),
    Truncate(String),
    Chmod(String),
    Chdir(String),
    Access(String, i32),
    Fifo(String),
    Getcwd,
}

fn calls(seed: u64, count: usize) -> Vec<Call> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut one = || match dice.roll(22) {
        0..=4 => Call::Stat(dice.path(), [0, libc::AT_SYMLINK_NOFOLLOW][dice.roll(2)]),
        5..=9 => {
            let mut flags = [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR][dice.roll(3)] | libc::O_NONBLOCK;
            for flag in [
                libc::O_CREAT,
                libc::O_EXCL,
                libc::O_TRUNC,
                libc::O_NOFOLLOW,
                libc::O_DIRECTORY,
            ] {
                if dice.roll(4) == 0 {
                    flags |= flag;
                }
            }
            if dice.roll(8) == 0 {
                flags = libc::O_PATH | [0, libc::O_NOFOLLOW][dice.roll(2)];
            }
            Call::Open(dice.path(), flags)
        }
        10 | 11 => Call::ReadLink(dice.path()),
        12 => Call::Mkdir(dice.path()),
        13 => Call::Unlink(dice.path(), [0, libc::AT_REMOVEDIR][dice.roll(2)]),
        14 => Call::Rename(
            dice.path(),
            dice.path(),
            [0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE][dice.roll(4)],
        ),
        15 => Call::Link(
            dice.path(),
            dice.path(),
            [0, libc::AT_SYMLINK_FOLLOW][dice.roll(2)],
        ),
        16 => Call::Symlink(dice.path(), dice.path()),
        17 => Call::Truncate(dice.path()),
        18 => Call::Chmod(dice.path()),
        19 => Call::Chdir(dice.path()),
        20 => Call::Access(dice.path(), [libc::R_OK, libc::W_OK, libc::X_OK][dice.roll(3)]),
        _ => match dice.roll(3) {
            0 => Call::Fifo(dice.path()),
            _ => Call::Getcwd,
        },
    };
    (0..count).map(|_| one()).collect()
}

/// What tells one file of the tree from another in both trees.
fn identity(stat: &libc::stat) -> String {
    let size = if stat.st_mode & libc::S_IFMT == libc::S_IFREG {
        stat.st_size
    } else {
        0
    };
    format!("{:o} {size}", stat.st_mode)
}

fn shown<T>(result: Result<T, Errno>, show: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(value) => format!("ok {}", show(value)),
        Err(error) => format!("{error:?}"),
    }
}

fn stat_number(fd: i32) -> String {
    let mut stat = std::mem::MaybeUninit::uninit();
    assert_eq!(unsafe { libc::fstat(fd, stat.as_mut_ptr()) }, 0);
    let text = format!("{fd} {}", identity(&unsafe { stat.assume_init() }));
    unsafe { libc::close(fd) };
    text
}

fn make_call(files: &Files<'_>, call: &Call) -> String {
    let at = |path: &'static CStr| At::cwd(path);
    let leak = |path: &str| -> &'static CStr { Box::leak(c(path).into_boxed_c_str()) };
    let at = |path: &str| at(leak(path));
    match call {
        Call::Stat(path, flags) => shown(files.stat(at(path), *flags), |stat| identity(&stat)),
        Call::Open(path, flags) => {
            let request = OpenRequest::lenient(*flags, 0o640);
            let opened = request.and_then(|request| files.open(at(path), request)?.make());
            shown(opened, stat_number)
        }
        Call::ReadLink(path) => shown(files.read_link(at(path)), |link| String::from_utf8(link).unwrap()),
        Call::Mkdir(path) => shown(files.make_directory(at(path), 0o755), |()| String::new()),
        Call::Unlink(path, flags) => shown(files.unlink(at(path), *flags), |_| String::new()),
        Call::Rename(from, to, flags) => shown(files.rename(at(from), at(to), *flags), |_| String::new()),
        Call::Link(from, to, flags) => shown(files.link(at(from), at(to), *flags), |_| String::new()),
        Call::Symlink(target, path) => shown(files.symlink(leak(target), at(path)), |()| String::new()),
        Call::Truncate(path) => {
            let found = files.truncatable(at(path), 7);
            shown(found.and_then(|file| truncate(&file, 7)), |()| String::new())
        }
        Call::Chmod(path) => shown(files.chmod(at(path), 0o711, 0), |()| String::new()),
        Call::Chdir(path) => shown(files.change_directory(at(path)), |()| String::new()),
        Call::Access(path, mode) => shown(files.access(at(path), *mode, 0), |()| String::new()),
        Call::Fifo(path) => shown(files.make_node(at(path), libc::S_IFIFO | 0o600), |()| {
            String::new()
        }),
        Call::Getcwd => shown(files.current_directory(), |path| String::from_utf8(path).unwrap()),
    }
}

fn make_native_call(call: &Call) -> String {
    let here = libc::AT_FDCWD;
    let none = |result: i32| shown(from_libc(result), |_| String::new());
    let bytes = |length: isize, buffer: &[u8]| match usize::try_from(length) {
        Ok(length) => format!("ok {}", std::str::from_utf8(&buffer[..length]).unwrap()),
        Err(_) => format!("{:?}", Errno::last()),
    };
    let mut buffer = [0_u8; 4096];
    unsafe {
        match call {
            Call::Stat(path, flags) => {
                let mut stat = std::mem::MaybeUninit::uninit();
                let result = libc::fstatat(here, c(path).as_ptr(), stat.as_mut_ptr(), *flags);
                shown(from_libc(result), |_| identity(&stat.assume_init()))
            }
            Call::Open(path, flags) => {
                let fd = libc::openat(here, c(path).as_ptr(), *flags, 0o640);
                shown(from_libc(fd), |fd| stat_number(i32::try_from(fd).unwrap()))
            }
            Call::ReadLink(path) => bytes(
                libc::readlink(c(path).as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()),
                &buffer,
            ),
            Call::Mkdir(path) => none(libc::mkdir(c(path).as_ptr(), 0o755)),
            Call::Unlink(path, flags) => none(libc::unlinkat(here, c(path).as_ptr(), *flags)),
            Call::Rename(from, to, flags) => {
                let (from, to) = (c(from), c(to));
                let result = libc::syscall(
                    libc::SYS_renameat2,
                    here,
                    from.as_ptr(),
                    here,
                    to.as_ptr(),
                    *flags,
                );
                shown(from_libc(result), |_| String::new())
            }
            Call::Link(from, to, flags) => {
                none(libc::linkat(here, c(from).as_ptr(), here, c(to).as_ptr(), *flags))
            }
            Call::Symlink(target, path) => none(libc::symlink(c(target).as_ptr(), c(path).as_ptr())),
            Call::Truncate(path) => none(libc::truncate(c(path).as_ptr(), 7)),
            Call::Chmod(path) => none(libc::chmod(c(path).as_ptr(), 0o711)),
            Call::Chdir(path) => none(libc::chdir(c(path).as_ptr())),
            Call::Access(path, mode) => none(libc::faccessat(here, c(path).as_ptr(), *mode, 0)),
            Call::Fifo(path) => none(libc::mkfifo(c(path).as_ptr(), 0o600)),
            Call::Getcwd => {
                let length = libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len());
                bytes(isize::try_from(length - 1).unwrap().max(-1), &buffer)
            }
        }
    }
}

/// Every name of a tree with its identity.
fn listing(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::symlink_metadata(&path).unwrap();
        let link = fs::read_link(&path).unwrap_or_default();
        names.insert(
            path.clone(),
            format!("{:o} {} {}", data.mode(), data.nlink(), link.display()),
        );
        if data.is_dir() {
            names.extend(listing(&path));
        }
    }
    names
}

fn relative_listing(base: &Path) -> BTreeMap<PathBuf, String> {
    listing(base)
        .into_iter()
        .map(|(path, text)| (path.strip_prefix(base).unwrap().to_owned(), text))
        .collect()
}

fn compare(seed: u64, count: usize, access: Access) {
    let (ours, native) = (Temporary::new(), Temporary::new());
    make_tree(&ours.0);
    make_tree(&native.0);
    let calls = calls(seed, count);
    let theirs = in_child(|| {
        if !enter_natively(&native.0, access) {
            return String::new();
        }
        unsafe { libc::umask(0o022) };
        let one = |call| {
            // Where a removed directory is left by `..` is not followed: the paths of the guest say it is nowhere.
            if make_native_call(&Call::Getcwd).starts_with("No such") {
                make_native_call(&Call::Chdir("/".to_owned()));
            }
            make_native_call(call) + "\n"
        };
        calls.iter().map(one).collect()
    });
    if theirs.is_empty() {
        eprintln!("not compared: chroot and mounts need root");
        return;
    }
    let answers = in_child(|| {
        let namespace = namespace(&ours.0, access);
        let files = Files::new(&namespace, &Guest);
        unsafe { libc::umask(0o022) };
        files.change_directory(At::cwd(c"/")).unwrap();
        let one = |call| {
            if files.current_directory() == Err(Errno::NOENT) {
                files.change_directory(At::cwd(c"/")).unwrap();
            }
            make_call(&files, call) + "\n"
        };
        calls.iter().map(one).collect()
    });
    for (number, (call, (answer, expected))) in
        calls.iter().zip(answers.lines().zip(theirs.lines())).enumerate()
    {
        assert_eq!(answer, expected, "seed {seed}, call {number}: {call:?}");
    }
    assert_eq!(answers.lines().count(), count);
    assert_eq!(
        relative_listing(&ours.0),
        relative_listing(&native.0),
        "seed {seed}"
    );
}

#[test]
fn a_writable_tree_behaves_as_under_chroot() {
    for seed in 1..=25 {
        compare(seed, 400, Access::ReadWrite);
    }
}

#[test]
fn a_read_only_tree_behaves_as_a_read_only_mount() {
    for seed in 1001..=1025 {
        compare(seed, 400, Access::ReadOnly);
    }
}
