//! A guest that changes names and descriptors while the monitor looks at them.
#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Guest, Temporary, c, in_child};
use crate::errno::Errno;
use crate::fs::descriptors::exclusive;
use crate::fs::{Access, At, Builder, Files, OpenRequest};

const ROUNDS: usize = 8_000;

/// Runs `flip` in another thread as long as `work` runs.
fn while_flipping(flip: impl Fn() + Send + Sync, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                flip();
            }
        });
        work();
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn names_that_change_never_lead_out() {
    let base = Temporary::new();
    fs::create_dir_all(base.0.join("root/etc")).unwrap();
    fs::create_dir_all(base.0.join("private/one/tmp/real")).unwrap();
    fs::create_dir_all(base.0.join("outside")).unwrap();
    fs::write(base.0.join("outside/secret"), "secret").unwrap();
    fs::write(base.0.join("private/one/tmp/real/secret"), "mine").unwrap();
    let tmp = base.0.join("private/one/tmp");
    symlink(base.0.join("outside"), tmp.join("link")).unwrap();
    symlink("../../../outside", tmp.join("up")).unwrap();
    in_child(|| {
        let builder = Builder::new(&base.0.join("root"), Access::ReadOnly)
            .unwrap()
            .instance("one");
        let namespace = builder.scratch("/tmp", &base.0.join("private")).unwrap().build();
        let files = Files::new(&namespace, &Guest);
        let [d, real, link, up] = ["d", "real", "link", "up"].map(|name| c(tmp.join(name).to_str().unwrap()));
        let swap = |other: &std::ffi::CStr| unsafe {
            libc::rename(other.as_ptr(), d.as_ptr());
            libc::rename(d.as_ptr(), other.as_ptr());
        };
        let flip = || {
            swap(&real);
            swap(&link);
            swap(&up);
        };
        while_flipping(flip, || {
            for _ in 0..ROUNDS {
                for path in [
                    c"/tmp/d/secret",
                    c"/tmp/d/../secret",
                    c"/tmp/d/../../outside/secret",
                ] {
                    let request = OpenRequest::lenient(libc::O_RDONLY, 0).unwrap();
                    if let Ok(fd) = files.open(At::cwd(path), request).and_then(|call| call.make()) {
                        let file = unsafe { OwnedFd::from_raw_fd(fd) };
                        let mut content = [0; 8];
                        let length = unsafe { libc::read(file.as_raw_fd(), content.as_mut_ptr().cast(), 8) };
                        assert_eq!((&content[..4], length), (b"mine".as_slice(), 4));
                    }
                    if let Ok(stat) = files.stat(At::cwd(path), 0) {
                        assert_eq!(stat.st_size, 4);
                    }
                }
                for error in [
                    files.unlink(At::cwd(c"/tmp/d/nothing"), 0).unwrap_err(),
                    files
                        .unlink(At::cwd(c"/tmp/d/../../etc"), libc::AT_REMOVEDIR)
                        .unwrap_err(),
                ] {
                    assert!(
                        [
                            Errno::NOENT,
                            Errno::NOTDIR,
                            Errno::LOOP,
                            Errno::ROFS,
                            Errno(libc::EBUSY)
                        ]
                        .contains(&error),
                        "{error}"
                    );
                }
            }
        });
        assert!(base.0.join("root/etc").exists());
        String::new()
    });
}

#[test]
fn numbers_that_are_replaced_are_never_used_by_the_monitor() {
    let base = Temporary::new();
    fs::create_dir_all(base.0.join("root/keep")).unwrap();
    fs::create_dir_all(base.0.join("private/one/tmp/keep")).unwrap();
    in_child(|| {
        let builder = Builder::new(&base.0.join("root"), Access::ReadOnly)
            .unwrap()
            .instance("one");
        let namespace = builder.scratch("/tmp", &base.0.join("private")).unwrap().build();
        let files = Files::new(&namespace, &Guest);
        let request = OpenRequest::lenient(libc::O_RDONLY, 0).unwrap();
        let root = files.open(At::cwd(c"/"), request).unwrap().make().unwrap();
        let next = unsafe { libc::dup(root) };
        unsafe { libc::close(next) };
        // As dup2 and close of the guest do it: on the number that the monitor's next descriptor will have for a moment.
        let flip = || {
            let _alone = exclusive();
            unsafe {
                libc::dup2(root, next);
                libc::close(next);
            }
        };
        while_flipping(flip, || {
            for _ in 0..ROUNDS {
                files.unlink(At::cwd(c"/tmp/keep"), libc::AT_REMOVEDIR).unwrap();
                files.make_directory(At::cwd(c"/tmp/keep"), 0o700).unwrap();
            }
        });
        assert!(base.0.join("root/keep").exists());
        String::new()
    });
}

#[test]
fn forged_files_gain_nothing() {
    let base = Temporary::new();
    fs::create_dir_all(base.0.join("root/etc")).unwrap();
    in_child(|| {
        let namespace = Builder::new(&base.0.join("root"), Access::ReadOnly)
            .unwrap()
            .proc()
            .unwrap()
            .build();
        let files = Files::new(&namespace, &Guest);
        files.change_directory(At::cwd(c"/")).unwrap();
        for (name, mode) in [
            (c"mayfly:/proc/self", 0o1555),
            (c"mayfly:/etc", 0o1555),
            (c"mayfly:../../..", 0o1444),
            (c"mayfly:", 0o1555),
            (c"mayfly:/proc/self/fd/2050", 0o1444),
        ] {
            let fd = unsafe { libc::memfd_create(name.as_ptr(), 0) };
            let records = [0xff_u8; 64];
            unsafe {
                libc::fchmod(fd, mode);
                libc::write(fd, records.as_ptr().cast(), records.len());
                libc::lseek(fd, 0, libc::SEEK_SET);
            }
            let mut buffer = [0; 4096];
            for length in [0, 10, 19, 4096] {
                // Whatever it gives, it gives the guest's own bytes.
                let _ = files.read_directory(fd, &mut buffer[..length]);
            }
            let _ = files.stat_descriptor(fd);
            let _ = files.change_to_descriptor(fd);
            let _ = files.descriptor_path(fd);
            assert!(files.current_directory().unwrap().starts_with(b"/"));
            let request = OpenRequest::lenient(libc::O_RDONLY, 0).unwrap();
            for path in [
                c"passwd",
                c"../etc/passwd",
                c"../../../../../../etc/passwd",
                c"mem",
            ] {
                assert!(
                    files.open(At::new(fd, path), request).is_err(),
                    "{name:?} {path:?}"
                );
            }
            unsafe { libc::close(fd) };
        }
        String::new()
    });
}
