//! The enclosure from inside, entered by forked children: as root, where the tests are root, and as an ordinary user.
#![allow(unsafe_code)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::testing::Child;
use super::*;

/// An image with a file that only its owner may read, and a directory for private ones. Removed at the end of its test.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mayfly-enclosure-{}-{number}", std::process::id()));
        for directory in ["image", "scratch"] {
            fs::create_dir_all(path.join(directory)).unwrap();
            fs::set_permissions(path.join(directory), fs::Permissions::from_mode(0o700)).unwrap();
        }
        let file = path.join("image/file");
        fs::write(&file, "content").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        Self(path)
    }

    /// Gives all of it to a user and becomes that user.
    fn become_user(&self, user: u32) {
        for path in ["image/file", "image", "scratch", ""] {
            std::os::unix::fs::chown(self.0.join(path), Some(user), Some(user)).unwrap();
        }
        // SAFETY: no groups are passed; only this forked child changes.
        unsafe {
            assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
            assert_eq!(libc::setresgid(user, user, user), 0);
            assert_eq!(libc::setresuid(user, user, user), 0);
            // As after an exec: else /proc/self is root's.
            assert_eq!(libc::prctl(libc::PR_SET_DUMPABLE, 1), 0);
        }
    }

    fn enter(&self) -> Enclosure {
        Enclosure::enter(&Wanted {
            root: &self.0.join("image"),
            scratch: &self.0.join("scratch"),
            keep: None,
            network: false,
            name: "default/test",
            user: (0, 0),
        })
        .unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_root() -> bool {
    namespaces::is_superuser()
}

fn status(name: &str) -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

/// What holds whoever entered: seen from a child, as an instance is.
fn looks_around(enclosure: &Enclosure) {
    assert_eq!(fs::read_to_string("/.image/file").unwrap(), "content");
    let refused = fs::write("/.image/file", "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    fs::write("/.private/file", "x").unwrap();
    let mut names: Vec<_> = fs::read_dir("/")
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, [".image", ".private", "dev", "proc"]);
    assert_eq!(fs::read_dir("/dev").unwrap().count(), 5);
    fs::write("/dev/null", "x").unwrap();
    assert!(fs::create_dir("/new").is_err());
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(set), "0000000000000000", "{set}");
    }
    // Only itself, by a number of the namespace; nothing of the kernel's.
    let seen: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().ok())
        .collect();
    assert_eq!(seen, [std::process::id()]);
    assert!(!Path::new("/proc/sys").exists() && !Path::new("/proc/1").exists());
    // SAFETY: questions; `enclosure.proc` is a reference to a directory.
    unsafe {
        assert_eq!(libc::getppid(), 0);
        assert_eq!(libc::kill(i32::MAX - 1, 0), -1);
    }
    assert!(enclosure.enclosed.init.is_some());
    // No network but an interface that is down.
    assert!(std::net::TcpStream::connect("127.0.0.1:1").is_err_and(|error| {
        [libc::ENETUNREACH, libc::EADDRNOTAVAIL].contains(&error.raw_os_error().unwrap())
    }));
}

fn all_in_force(enclosure: &Enclosure) {
    for layer in &enclosure.enclosed.layers {
        assert!(layer.in_force, "{layer:?}");
    }
}

#[test]
fn root_becomes_a_user_who_has_the_images_files() {
    if !is_root() {
        return;
    }
    let tree = Tree::new();
    let child = Child::run(|| {
        let enclosure = tree.enter();
        all_in_force(&enclosure);
        let first = enclosure.first_user.unwrap();
        let seen = Child::run(|| {
            looks_around(&enclosure);
            assert_eq!(status("Uid"), format!("{first} {first} {first} {first}"));
            assert_eq!(status("Groups"), "");
            assert_eq!(fs::metadata("/.image/file").unwrap().uid(), first);
            assert_eq!(fs::metadata("/.private/file").unwrap().uid(), first);
        });
        assert!(seen.exited_with(0), "{seen:?}");
    });
    assert!(child.exited_with(0), "{child:?}");
    // Nothing of it shows outside.
    assert_eq!(fs::metadata(tree.0.join("image/file")).unwrap().uid(), 0);
}

#[test]
fn an_ordinary_user_has_the_same_in_a_user_namespace() {
    let tree = Tree::new();
    let child = Child::run(|| {
        if is_root() {
            tree.become_user(65534);
        }
        let own = privileges::user();
        let enclosure = tree.enter();
        all_in_force(&enclosure);
        assert_eq!(enclosure.first_user, None);
        let seen = Child::run(|| {
            looks_around(&enclosure);
            assert_eq!(privileges::user(), own);
        });
        assert!(seen.exited_with(0), "{seen:?}");
    });
    assert!(child.exited_with(0), "{child:?}");
}

#[test]
fn without_means_the_layers_are_missing_with_the_reason() {
    let tree = Tree::new();
    let child = Child::run(|| {
        if is_root() {
            tree.become_user(65534);
        }
        // What a node without user namespaces says, and one without rights.
        let findings = Findings {
            means: None,
            refused: vec!["unshare of a user namespace: Operation not permitted".to_owned()],
            unmapped: None,
        };
        let (root, scratch) = (tree.0.join("image"), tree.0.join("scratch"));
        let wanted = Wanted {
            root: &root,
            scratch: &scratch,
            keep: None,
            network: false,
            name: "default/test",
            user: (0, 0),
        };
        let enclosure = findings.enter(&wanted).unwrap();
        assert_eq!((&enclosure.root, &enclosure.scratch), (&root, &scratch));
        let missing: Vec<_> = enclosure
            .enclosed
            .layers
            .iter()
            .filter(|layer| !layer.in_force)
            .map(|layer| {
                assert!(layer.detail.contains("user namespaces"), "{layer:?}");
                layer.name
            })
            .collect();
        assert_eq!(
            missing,
            ["mounts", "processes", "network", "names", "capabilities"]
        );
        assert!(
            enclosure.enclosed.layers[0]
                .detail
                .contains("Operation not permitted")
        );
    });
    assert!(child.exited_with(0), "{child:?}");
}

#[test]
fn a_function_with_destinations_keeps_the_nodes_network() {
    let tree = Tree::new();
    let child = Child::run(|| {
        if is_root() {
            tree.become_user(65534);
        }
        let before = fs::read_link("/proc/self/ns/net").unwrap();
        let enclosure = Enclosure::enter(&Wanted {
            root: &tree.0.join("image"),
            scratch: &tree.0.join("scratch"),
            keep: None,
            network: true,
            name: "default/test",
            user: (0, 0),
        })
        .unwrap();
        let seen = Child::run(|| assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), before));
        assert!(seen.exited_with(0), "{seen:?}");
        let network = &enclosure.enclosed.layers[2];
        assert_eq!((network.name, network.in_force), ("network", false));
        assert!(network.detail.contains("grants"), "{network:?}");
    });
    assert!(child.exited_with(0), "{child:?}");
}

#[test]
fn all_of_it_ends_with_serve() {
    let tree = Tree::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let child = Child::run(|| {
        if is_root() {
            tree.become_user(65534);
        }
        let enclosure = tree.enter();
        let Init { pid, life } = enclosure.enclosed.init.unwrap();
        // As `serve` is: its signals reach nobody who is not confined, init neither.
        let space = super::super::Space::default();
        super::super::files::Rules::open(&space)
            .unwrap()
            .restrict()
            .unwrap();
        // SAFETY: no pointers; signal 0 does nothing.
        assert_eq!(unsafe { libc::kill(pid, 0) }, -1);
        // SAFETY: fork in a process of one thread.
        if unsafe { libc::fork() } == 0 {
            drop(life);
            (&writer).write_all(b"x").unwrap();
            loop {
                // SAFETY: no arguments.
                unsafe { libc::pause() };
            }
        }
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
    });
    assert!(child.exited_with(0), "{child:?}");
    drop(writer);
    // The pipe ends when its last writer, whom only the end of init can have killed, is dead.
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
}
