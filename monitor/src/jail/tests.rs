//! The jail as a whole, seen from inside and from outside. Each test forks: a jail is for good.
#![allow(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::testing::{Child, raw};
use super::*;

/// A root with a file, and scratch directories of two instances. Removed at the end of its test.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mayfly-jail-{}-{number}", std::process::id()));
        for directory in ["root/bin", "scratch/one", "scratch/two"] {
            fs::create_dir_all(path.join(directory)).unwrap();
        }
        fs::write(path.join("root/file"), "content").unwrap();
        for directory in ["", "root", "scratch", "scratch/one", "scratch/two"] {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            fs::set_permissions(path.join(directory), open).unwrap();
        }
        Self(path)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// Runs `act` in a child that has entered the jail of this tree.
    fn jailed(&self, act: impl FnOnce(&Jail)) -> Child {
        Child::run(|| {
            let (root, scratch) = (self.at("root"), self.at("scratch"));
            let space = Space {
                read: &[&root],
                write: &[&scratch],
                keep: &[],
                list: &[Path::new("/proc")],
                execute: None,
            };
            let mut jail = Jail::enter(&space, Mode::Enforce, &Enclosed::default()).unwrap();
            jail.lock_files().unwrap();
            act(&jail);
        })
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const INSTANCE: Confinement = Confinement {
    phase: Phase::Instance,
    file_bytes: None,
    data_bytes: None,
    cpu_seconds: None,
    scratch: None,
};

/// Runs `act` in a confined child of a jailed process, and says how that ended: 0, 101 for a panic, or 128 and a signal.
fn confined(jail: &Jail, confinement: &Confinement, act: impl FnOnce()) -> i32 {
    // SAFETY: fork in a process of one thread; the child ends by _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            jail.confine(confinement).unwrap();
            act();
        }));
        // SAFETY: does not return.
        unsafe { libc::_exit(if done.is_ok() { 0 } else { 101 }) };
    }
    let mut status = 0;
    // SAFETY: a live status word.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}

fn denied<T: std::fmt::Debug>(result: std::io::Result<T>) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EACCES));
}

#[test]
fn the_space_is_all_there_is() {
    let tree = Tree::new();
    let child = tree.jailed(|jail| {
        let ended = confined(jail, &INSTANCE, || {
            assert_eq!(fs::read_to_string(tree.at("root/file")).unwrap(), "content");
            denied(fs::read("/etc/shadow"));
            denied(fs::read("/etc/passwd"));
            denied(fs::read("/proc/1/environ"));
            denied(fs::read("/proc/self/environ"));
            denied(fs::File::open("/dev/kvm"));
            denied(fs::read_dir("/"));
            denied(fs::write(tree.at("root/file"), "x"));
            denied(fs::write(tree.at("root/new"), "x"));
            denied(remove(&tree.at("root/file")));
            denied(fs::write(tree.at("beside"), "x"));
            for device in files_devices() {
                fs::File::options().read(true).write(true).open(device).unwrap();
            }
            let one = tree.at("scratch/one/a");
            fs::write(&one, "x").unwrap();
            remove(&one).unwrap();
            denied(fs::write(tree.at("scratch/../beside"), "x"));
        });
        assert_eq!(ended, 0);
    });
    assert!(child.exited_with(0), "{child:?}");
}

/// As the monitor does it for a guest; `unlink` is for `serve` alone.
fn remove(path: &Path) -> std::io::Result<()> {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a C string.
    if unsafe { libc::unlinkat(libc::AT_FDCWD, path.as_ptr(), 0) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn files_devices() -> [&'static str; 5] {
    [
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
    ]
}

#[test]
fn serve_keeps_its_scratch_directories() {
    let tree = Tree::new();
    let child = tree.jailed(|_| {
        let three = tree.at("scratch/three");
        fs::create_dir_all(three.join("deep")).unwrap();
        fs::write(three.join("deep/file"), "x").unwrap();
        fs::rename(three.join("deep/file"), three.join("file")).unwrap();
        fs::remove_file(three.join("file")).unwrap();
        fs::remove_dir_all(&three).unwrap();
        denied(fs::create_dir(tree.at("beside")));
    });
    assert!(child.exited_with(0), "{child:?}");
}

#[test]
fn an_instance_may_have_one_scratch_directory_of_its_own() {
    let tree = Tree::new();
    let child = tree.jailed(|jail| {
        let own = tree.at("scratch/one");
        let ended = confined(
            jail,
            &Confinement {
                scratch: Some(&own),
                ..INSTANCE
            },
            || {
                fs::write(tree.at("scratch/one/a"), "x").unwrap();
                denied(fs::write(tree.at("scratch/two/a"), "x"));
                denied(fs::read_dir(tree.at("scratch/two")));
                assert_eq!(fs::read_to_string(tree.at("root/file")).unwrap(), "content");
            },
        );
        assert_eq!(ended, 0);
    });
    assert!(child.exited_with(0), "{child:?}");
}

#[test]
fn files_without_a_place_are_opened_again_through_proc() {
    let tree = Tree::new();
    let child = tree.jailed(|jail| {
        let ended = confined(jail, &INSTANCE, || {
            let (root, place) = (tree.at("root"), tree.at("root/file"));
            // SAFETY: a C string; the result is checked.
            let fd = unsafe { libc::memfd_create(c"m".as_ptr(), 0) };
            assert!(fd >= 0);
            let again = |fd: i32| {
                let path = format!("/proc/thread-self/fd/{fd}");
                fs::File::options().read(true).write(true).open(path)
            };
            again(fd).unwrap().write_all(b"x").unwrap();
            let names = fs::read_dir("/proc/thread-self/fd").unwrap().count();
            assert!(names > 3);
            let file = fs::File::open(&place).unwrap();
            denied(again(file.as_raw_fd()));
            fs::read_dir(root).unwrap();
        });
        assert_eq!(ended, 0);
    });
    assert!(child.exited_with(0), "{child:?}");
}

#[test]
fn the_jail_shows_from_outside() {
    let tree = Tree::new();
    let (mut told, tell) = std::io::pipe().unwrap();
    let (hold, mut release) = std::io::pipe().unwrap();
    let watcher = std::thread::spawn(move || {
        let mut pid = [0; 4];
        told.read_exact(&mut pid).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", u32::from_ne_bytes(pid))).unwrap();
        let limits = fs::read_to_string(format!("/proc/{}/limits", u32::from_ne_bytes(pid))).unwrap();
        release.write_all(b"x").unwrap();
        (status, limits)
    });
    let child = tree.jailed(|jail| {
        let limits = Confinement {
            file_bytes: Some(1000),
            data_bytes: Some(1 << 30),
            ..INSTANCE
        };
        let ended = confined(jail, &limits, || {
            (&tell).write_all(&std::process::id().to_ne_bytes()).unwrap();
            // Until the watcher has looked.
            (&hold).read_exact(&mut [0]).unwrap();
        });
        assert_eq!(ended, 0);
    });
    assert!(child.exited_with(0), "{child:?}");
    let (status, limits) = watcher.join().unwrap();
    for line in [
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Seccomp_filters:\t3",
        "Threads:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().rev().nth(2).unwrap().to_owned()
    };
    assert_eq!(limit("Max core file size"), "0");
    assert_eq!(limit("Max open files"), "4096");
    assert_eq!(limit("Max file size"), "1000");
    assert_eq!(limit("Max data size"), "1073741824");
}

#[test]
fn a_jailed_process_is_not_dumpable_and_neither_are_its_children() {
    let tree = Tree::new();
    let child = Child::run(|| {
        let root = tree.at("root");
        // SAFETY: a question.
        let dumpable = || unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
        prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 1).unwrap();
        assert_eq!(dumpable(), 1);
        // The filter forbids the question, so it is left out here.
        Rules::open(&Space {
            read: &[&root],
            ..Space::default()
        })
        .unwrap()
        .restrict()
        .unwrap();
        prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 0).unwrap();
        assert!(Child::run(|| assert_eq!(dumpable(), 0)).exited_with(0));
    });
    assert!(child.exited_with(0), "{child:?}");
    // And with the whole jail: /proc belongs to root then, which another user's processes show.
    if !as_nobody() {
        return;
    }
    let (mut told, tell) = std::io::pipe().unwrap();
    let child = Child::run(|| {
        become_nobody();
        // The change of user has made it undumpable already.
        prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 1).unwrap();
        let before = owner_of_self();
        tree.enter_alone();
        let after = owner_of_self();
        (&tell)
            .write_all(&[u8::from(before != 0), u8::from(after == 0)])
            .unwrap();
    });
    assert!(child.exited_with(0), "{child:?}");
    let mut seen = [0; 2];
    told.read_exact(&mut seen).unwrap();
    assert_eq!(seen, [1, 1]);
}

impl Tree {
    fn enter_alone(&self) {
        let root = self.at("root");
        Jail::enter(
            &Space {
                read: &[&root],
                ..Space::default()
            },
            Mode::Enforce,
            &Enclosed::default(),
        )
        .unwrap();
    }
}

fn owner_of_self() -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self/environ").unwrap().uid()
}

fn as_nobody() -> bool {
    // SAFETY: a question.
    unsafe { libc::geteuid() == 0 }
}

fn become_nobody() {
    // SAFETY: no groups are passed; only this forked child changes.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(65534, 65534, 65534), 0);
        assert_eq!(libc::setresuid(65534, 65534, 65534), 0);
    }
}

#[test]
fn no_privilege_is_needed() {
    if !as_nobody() {
        return;
    }
    let tree = Tree::new();
    let child = Child::run(|| {
        become_nobody();
        let (root, scratch) = (tree.at("root"), tree.at("scratch"));
        let space = Space {
            read: &[&root],
            write: &[&scratch],
            keep: &[],
            list: &[Path::new("/proc")],
            execute: None,
        };
        let mut jail = Jail::enter(&space, Mode::Enforce, &Enclosed::default()).unwrap();
        jail.lock_files().unwrap();
        let own = tree.at("scratch/two");
        let ended = confined(
            &jail,
            &Confinement {
                scratch: Some(&own),
                ..INSTANCE
            },
            || {
                let file = fs::File::open(tree.at("root/file")).unwrap();
                // Undumpable, its /proc belongs to root; its own descriptors are in reach all the same.
                let again = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
                assert_eq!(fs::read_to_string(again).unwrap(), "content");
                fs::write(tree.at("scratch/two/a"), "x").unwrap();
                assert!(fs::read_dir("/proc/thread-self/fd").unwrap().count() > 0);
            },
        );
        assert_eq!(ended, 0);
    });
    assert!(child.exited_with(0), "{child:?}");
}

#[test]
fn landlock_alone_refuses_ports_abstract_sockets_and_signals_to_others() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    let tree = Tree::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap();
    let name = format!("mayfly-jail-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let child = Child::run(|| {
        let root = tree.at("root");
        let rules = Rules::open(&Space {
            read: &[&root],
            ..Space::default()
        })
        .unwrap();
        let layer = rules.restrict().unwrap();
        assert!(layer.in_force, "{layer:?}");
        assert_eq!(layer, files::probe());
        denied(TcpStream::connect(port));
        denied(std::net::TcpListener::bind("127.0.0.1:0"));
        let refused = UnixStream::connect_addr(&address).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        // SAFETY: no pointers; signal 0 does nothing.
        assert_eq!(unsafe { libc::kill(libc::getppid(), 0) }, -1);
        assert_eq!(Errno::last(), Errno::PERM);
    });
    assert!(child.exited_with(0), "{child:?}");
}

#[test]
fn a_child_of_another_process_is_not_confined() {
    let tree = Tree::new();
    let child = tree.jailed(|jail| {
        let between = Child::run(|| {
            let orphan = Child::run(|| assert!(matches!(jail.confine(&INSTANCE), Err(JailError::Orphaned))));
            assert!(orphan.exited_with(0));
        });
        assert!(between.exited_with(0));
    });
    assert!(child.exited_with(0), "{child:?}");
}

#[test]
fn a_boot_reads_what_proc_says_of_itself_alone() {
    let tree = Tree::new();
    let child = Child::run(|| {
        let (root, scratch) = (tree.at("root"), tree.at("scratch"));
        let space = Space {
            read: &[&root],
            write: &[&scratch],
            keep: &[],
            list: &[Path::new("/proc")],
            execute: None,
        };
        let mut jail = Jail::enter(&space, Mode::Enforce, &Enclosed::default()).unwrap();
        let parent = std::process::id();
        let ended = confined(
            &jail,
            &Confinement {
                phase: Phase::Boot,
                ..INSTANCE
            },
            || {
                assert!(fs::read_to_string("/proc/self/maps").unwrap().contains("[heap]"));
                assert!(
                    fs::read_to_string("/proc/self/fdinfo/2")
                        .unwrap()
                        .contains("flags:")
                );
                fs::read_link("/proc/self/fd/2").unwrap();
                assert!(fs::read_dir("/proc/self/fd").unwrap().count() > 2);
                for file in ["maps", "environ", "cmdline"] {
                    denied(fs::read(format!("/proc/{parent}/{file}")));
                    denied(fs::read(format!("/proc/1/{file}")));
                }
                denied(fs::read("/etc/shadow"));
                fs::write(tree.at("scratch/one/a"), "x").unwrap();
            },
        );
        assert_eq!(ended, 0);
        jail.lock_files().unwrap();
        denied(fs::read("/proc/self/maps"));
    });
    assert!(child.exited_with(0), "{child:?}");
}

#[test]
fn an_instance_is_never_without_landlock() {
    let tree = Tree::new();
    let child = Child::run(|| {
        let root = tree.at("root");
        let jail = Jail::enter(
            &Space {
                read: &[&root],
                ..Space::default()
            },
            Mode::Enforce,
            &Enclosed::default(),
        )
        .unwrap();
        assert_eq!(confined(&jail, &INSTANCE, || denied(fs::read("/etc/shadow"))), 0);
    });
    assert!(child.exited_with(0), "{child:?}");
}

#[test]
fn children_die_with_serve() {
    let tree = Tree::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let child = tree.jailed(|jail| {
        // SAFETY: fork in a process of one thread.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            jail.confine(&INSTANCE).unwrap();
            (&writer).write_all(b"x").unwrap();
            loop {
                raw(libc::SYS_pause, [0; 6]);
            }
        }
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
    });
    assert!(child.exited_with(0), "{child:?}");
    drop(writer);
    // The pipe ends when its last writer, the orphan, is dead.
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
}

#[test]
fn layers_in_force_are_named() {
    let tree = Tree::new();
    let child = tree.jailed(|jail| {
        assert_eq!(
            jail.names(),
            [
                "openat2",
                "landlock",
                "seccomp",
                "no-new-privs",
                "undumpable",
                "rlimits"
            ]
        );
        assert_eq!(jail.layers.len(), 6);
    });
    assert!(child.exited_with(0), "{child:?}");
    let probed = probe();
    let names: Vec<_> = probed.iter().map(|layer| layer.name).collect();
    assert_eq!(
        names,
        [
            "openat2",
            "landlock",
            "seccomp",
            "no-new-privs",
            "undumpable",
            "rlimits",
            "mounts",
            "processes",
            "network",
            "names",
            "user",
            "capabilities"
        ]
    );
    assert!(probed[..6].iter().all(|layer| layer.in_force), "{probed:?}");
}

#[test]
fn a_space_that_is_not_there_is_named() {
    let missing = Path::new("/nonexistent/root");
    let error = Rules::open(&Space {
        read: &[missing],
        ..Space::default()
    })
    .err()
    .unwrap();
    assert_eq!(
        error.to_string(),
        "landlock: /nonexistent/root: No such file or directory (os error 2)"
    );
}

/// Prints what the jail costs; `cargo test --release -- --ignored --nocapture jail::tests::cost`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    use std::time::Instant;
    let tree = Tree::new();
    let rounds = |label: &str, act: &dyn Fn()| {
        let begun = Instant::now();
        for _ in 0..500 {
            act();
        }
        println!("{label}: {:.0} µs", begun.elapsed().as_secs_f64() * 2000.0);
    };
    Child::run(|| {
        rounds("fork + exit + wait, no jail", &|| {
            Child::run(|| {});
        });
        let (root, scratch) = (tree.at("root"), tree.at("scratch"));
        let space = Space {
            read: &[&root],
            write: &[&scratch],
            keep: &[],
            list: &[Path::new("/proc")],
            execute: None,
        };
        let begun = Instant::now();
        let mut jail = Jail::enter(&space, Mode::Enforce, &Enclosed::default()).unwrap();
        jail.lock_files().unwrap();
        println!("enter and lock_files: {:?}", begun.elapsed());
        rounds("fork + exit + wait, jailed", &|| {
            Child::run(|| {});
        });
        rounds("the same, confined", &|| {
            confined(&jail, &INSTANCE, || {});
        });
        let own = tree.at("scratch/one");
        rounds("the same, with a scratch directory of its own", &|| {
            confined(
                &jail,
                &Confinement {
                    scratch: Some(&own),
                    ..INSTANCE
                },
                || {},
            );
        });
    });
}
