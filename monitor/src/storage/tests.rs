#![allow(unsafe_code)]

use std::fs::{File as StdFile, OpenOptions};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::*;
use crate::errno::from_libc;

/// An account of this many pages, over a directory of its own.
struct Instance {
    storage: Storage,
    directory: PathBuf,
}

impl Instance {
    fn new(name: &str, pages: u64) -> Self {
        let directory = std::env::temp_dir().join(format!("mayfly-storage-{}-{name}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        Self {
            storage: Storage::with_limit(pages * PAGE),
            directory,
        }
    }

    fn used(&self) -> u64 {
        self.storage.lock().used
    }

    fn create(&self, name: &str) -> Result<Open, Errno> {
        let make = || {
            let path = self.directory.join(name);
            Ok(OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)?)
        };
        Ok(Open(self.storage.add_name(make)?.into_raw_fd()))
    }

    fn remove(&self, name: &str) {
        let path = self.directory.join(name);
        let lost = path.metadata().unwrap();
        let remove = || {
            // SAFETY: all-zero is a valid stat.
            let mut stat: libc::stat = unsafe { std::mem::zeroed() };
            (stat.st_dev, stat.st_ino, stat.st_nlink) = (lost.dev(), lost.ino(), 1);
            stat.st_mode = lost.mode();
            std::fs::remove_file(&path)?;
            Ok(Some(stat))
        };
        self.storage.remove_name(remove).unwrap();
    }

    fn write(&self, fd: RawFd, start: Start, length: u64) -> SysResult {
        let bytes = vec![b'x'; usize::try_from(length).unwrap()];
        self.storage.write(fd, start, length, false, |fd| {
            // SAFETY: a local buffer with its length.
            from_libc(unsafe {
                match start {
                    Start::At(offset) => libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), offset),
                    _ => libc::write(fd, bytes.as_ptr().cast(), bytes.len()),
                }
            } as i64)
        })
    }

    fn truncate(&self, fd: RawFd, length: u64) -> SysResult {
        self.storage.resize(
            descriptor(fd)?,
            |_| Ok(length),
            // SAFETY: no pointers.
            || from_libc(unsafe { libc::ftruncate(fd, length.cast_signed()) }),
        )
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

/// A descriptor of the guest's.
struct Open(RawFd);

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: this test's own.
        unsafe { libc::close(self.0) };
    }
}

/// What keeps a file besides descriptors.
struct Mapping(*mut libc::c_void);

impl Mapping {
    fn new(fd: RawFd) -> Self {
        // SAFETY: a new mapping.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        Self(at)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        unsafe { libc::munmap(self.0, 4096) };
    }
}

#[test]
fn many_files_come_to_the_limit_together() {
    let instance = Instance::new("many", 100);
    let mut made = 0;
    loop {
        let Ok(file) = instance.create(&made.to_string()) else {
            break;
        };
        match instance.write(file.0, Start::Position, 1) {
            Ok(count) => assert_eq!(count, 1),
            Err(error) => {
                assert_eq!(error, NO_SPACE);
                break;
            }
        }
        made += 1;
    }
    assert_eq!(made, 50);
    assert_eq!(instance.used(), 100);
}

#[test]
fn what_does_not_grow_a_file_is_free() {
    let instance = Instance::new("inside", 10);
    let file = instance.create("a").unwrap();
    assert_eq!(instance.write(file.0, Start::Position, 9 * PAGE), Ok(9 * PAGE));
    for _ in 0..100 {
        assert_eq!(instance.write(file.0, Start::At(0), 9 * PAGE), Ok(9 * PAGE));
    }
    assert_eq!(instance.write(file.0, Start::At(9 * 4096), 1), Err(NO_SPACE));
    assert_eq!(instance.write(file.0, Start::Position, 1), Err(NO_SPACE));
    assert_eq!(
        instance.write(file.0, Start::Position, 0),
        Ok(0),
        "nothing is written behind the end"
    );
}

#[test]
fn a_hole_counts_and_a_shorter_file_gives_back() {
    let instance = Instance::new("holes", 10);
    let file = instance.create("a").unwrap();
    assert_eq!(instance.truncate(file.0, 9 * PAGE), Ok(0));
    assert_eq!(instance.truncate(file.0, 9 * PAGE + 1), Err(NO_SPACE));
    assert_eq!(instance.used(), 10);
    assert_eq!(instance.truncate(file.0, 0), Ok(0));
    assert_eq!(instance.used(), 1);
    assert_eq!(
        instance.write(file.0, Start::At(1 << 40), 1),
        Err(NO_SPACE),
        "a hole of 1 TiB"
    );
}

#[test]
fn an_appending_file_grows_wherever_it_stands() {
    let instance = Instance::new("append", 10);
    let file = instance.create("a").unwrap();
    assert_eq!(instance.write(file.0, Start::Position, 8 * PAGE), Ok(8 * PAGE));
    let path = instance.directory.join("a");
    let appending = Open(OpenOptions::new().append(true).open(path).unwrap().into_raw_fd());
    assert_eq!(instance.write(appending.0, Start::At(0), 2 * PAGE), Err(NO_SPACE));
    assert_eq!(instance.write(appending.0, Start::Position, PAGE), Ok(PAGE));
    assert_eq!(instance.used(), 10);
}

#[test]
fn a_removed_file_counts_as_long_as_a_descriptor_leads_to_it() {
    let instance = Instance::new("removed", 10);
    let file = instance.create("a").unwrap();
    assert_eq!(instance.write(file.0, Start::Position, 8 * PAGE), Ok(8 * PAGE));
    instance.remove("a");
    assert_eq!(instance.used(), 8, "the name is given back at once");
    let second = instance.create("b").unwrap();
    assert_eq!(instance.write(second.0, Start::Position, 2 * PAGE), Err(NO_SPACE));
    drop(file);
    assert_eq!(instance.write(second.0, Start::Position, 9 * PAGE), Ok(9 * PAGE));
}

#[test]
fn a_removed_file_that_was_mapped_stays_on_the_account() {
    let instance = Instance::new("mapped", 10);
    let file = instance.create("a").unwrap();
    assert_eq!(instance.write(file.0, Start::Position, 8 * PAGE), Ok(8 * PAGE));
    let mapping = Mapping::new(file.0);
    let mut mappings = instance.storage.mappings();
    mappings.add(file.0, &descriptors::steady()).unwrap();
    drop(mappings);
    instance.remove("a");
    drop(file);
    let second = instance.create("b").unwrap();
    assert_eq!(instance.write(second.0, Start::Position, 2 * PAGE), Err(NO_SPACE));
    drop(mapping);
}

#[test]
fn a_sent_descriptor_may_lead_to_a_removed_file() {
    let instance = Instance::new("sent", 10);
    let file = instance.create("a").unwrap();
    assert_eq!(instance.write(file.0, Start::Position, 8 * PAGE), Ok(8 * PAGE));
    // What stands for a message on its way: it keeps the file, and is no descriptor.
    let mapping = Mapping::new(file.0);
    instance.storage.hides();
    instance.remove("a");
    drop(file);
    let second = instance.create("b").unwrap();
    assert_eq!(instance.write(second.0, Start::Position, 2 * PAGE), Err(NO_SPACE));
    drop(mapping);
}

#[test]
fn files_in_memory_are_on_the_same_account() {
    let instance = Instance::new("memory", 10);
    let mut held = Vec::new();
    for _ in 0..5 {
        // SAFETY: a C string.
        let file = Open(unsafe { libc::memfd_create(c"test".as_ptr(), 0) });
        assert_eq!(instance.truncate(file.0, 2 * PAGE), Ok(0));
        held.push(file);
    }
    assert_eq!(instance.create("a").map(drop), Err(NO_SPACE));
    held.pop();
    assert!(instance.create("a").is_ok());
}

#[test]
fn a_file_that_had_no_name_and_got_one_stays() {
    let instance = Instance::new("linked", 10);
    let file = instance.create("a").unwrap();
    assert_eq!(instance.write(file.0, Start::Position, 8 * PAGE), Ok(8 * PAGE));
    let second = instance.directory.join("second");
    let link = || {
        std::fs::hard_link(instance.directory.join("a"), &second)?;
        instance.remove("a");
        // SAFETY: all-zero is a valid stat.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: a local of the documented type.
        from_libc(unsafe { libc::fstat(file.0, &raw mut stat) })?;
        Ok::<_, Errno>(stat)
    };
    let linked = link().unwrap();
    instance.storage.add_link(|| Ok(linked)).unwrap();
    drop(file);
    assert_eq!(instance.create("b").map(drop), Ok(()));
    assert_eq!(instance.used(), 10);
    assert_eq!(instance.create("c").map(drop), Err(NO_SPACE));
}

#[test]
fn a_copy_is_as_long_as_there_is_room() {
    let instance = Instance::new("copy", 10);
    let file = instance.create("a").unwrap();
    assert_eq!(instance.write(file.0, Start::Position, 100), Ok(100));
    let copy = |length: u64| {
        instance
            .storage
            .copy(file.0, Start::Position, length, |fd, length| {
                let bytes = vec![0_u8; usize::try_from(length).unwrap()];
                // SAFETY: a local buffer with its length.
                from_libc(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } as i64)
            })
    };
    assert_eq!(copy(1 << 30), Ok(9 * PAGE - 100));
    assert_eq!(copy(1 << 30), Err(NO_SPACE));
    assert_eq!(instance.used(), 10);
}

#[test]
fn a_position_that_moves_meanwhile_gains_nothing() {
    let instance = Instance::new("moved", 10);
    let file = instance.create("a").unwrap();
    let result = instance.storage.write(file.0, Start::Position, 1, false, |fd| {
        // SAFETY: a local buffer with its length; what another thread does to the open file.
        from_libc(unsafe {
            libc::lseek(file.0, 1 << 30, libc::SEEK_SET);
            libc::write(fd, b"x".as_ptr().cast(), 1)
        } as i64)
    });
    assert_eq!(result, Err(NO_SPACE));
    assert_eq!(std::fs::metadata(instance.directory.join("a")).unwrap().len(), 0);
    assert_eq!(instance.used(), 1);
}

#[test]
fn a_number_that_is_exchanged_meanwhile_gains_nothing() {
    let instance = Instance::new("exchanged", 10);
    let file = instance.create("a").unwrap();
    let null = Open(
        StdFile::options()
            .write(true)
            .open("/dev/null")
            .unwrap()
            .into_raw_fd(),
    );
    let result = instance
        .storage
        .write(null.0, Start::Position, 1 << 20, false, |fd| {
            // SAFETY: a local buffer with its length; what another thread does to the number.
            from_libc(unsafe {
                libc::dup2(file.0, null.0);
                let bytes = vec![0_u8; 1 << 20];
                libc::write(fd, bytes.as_ptr().cast(), bytes.len())
            } as i64)
        });
    assert_eq!(result, Ok(1 << 20), "to where it led at first");
    assert_eq!(std::fs::metadata(instance.directory.join("a")).unwrap().len(), 0);
}

#[test]
fn names_are_counted() {
    let instance = Instance::new("names", 3 * NAMES_MAX);
    for _ in 0..NAMES_MAX {
        instance.storage.add_name(|| Ok(())).unwrap();
    }
    assert_eq!(instance.storage.add_name(|| Ok(())), Err(NO_SPACE));
    assert_eq!(
        instance.storage.add_name(|| Err::<(), _>(Errno::EXIST)),
        Err(NO_SPACE)
    );
}

#[test]
fn what_is_no_file_is_no_affair_of_the_account() {
    let instance = Instance::new("others", 0);
    let (one, two) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(instance.write(one.as_raw_fd(), Start::Position, 10), Ok(10));
    assert!(instance.storage.is_likely_socket(one.as_raw_fd()));
    assert_eq!(instance.write(-1, Start::Position, 10), Err(Errno::BADF));
    assert_eq!(
        instance.write(MONITOR_FD_FLOOR, Start::Position, 10),
        Err(Errno::BADF)
    );
    drop(two);
}

#[test]
fn threads_that_grow_files_side_by_side_stay_below_the_limit() {
    const LIMIT: u64 = 256;
    let instance = Instance::new("threads", LIMIT);
    let files: Vec<_> = (0..8)
        .map(|name| instance.create(&name.to_string()).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for file in &files {
            for _ in 0..2 {
                scope.spawn(|| while instance.write(file.0, Start::Position, PAGE).is_ok() {});
            }
        }
    });
    let sum: u64 = std::fs::read_dir(&instance.directory)
        .unwrap()
        .map(|entry| pages(entry.unwrap().metadata().unwrap().len()))
        .sum();
    assert!(sum + 8 <= LIMIT && sum + 8 > LIMIT - 16, "{sum} pages");
}

#[test]
fn a_lone_thread_is_believed_until_it_closes_the_number() {
    let instance = Instance::new("alone", 10);
    let null = Open(
        StdFile::options()
            .write(true)
            .open("/dev/null")
            .unwrap()
            .into_raw_fd(),
    );
    let used = || {
        let seen = Cell::new(-1);
        let made = |fd| {
            seen.set(fd);
            Ok(0)
        };
        instance
            .storage
            .write(null.0, Start::Position, 1, true, made)
            .unwrap();
        seen.get()
    };
    assert_eq!(used(), null.0, "not copied");
    assert_eq!(used(), null.0);
    instance.storage.closing(null.0);
    let file = instance.create("a").unwrap();
    // SAFETY: numbers of this test.
    unsafe { libc::dup2(file.0, null.0) };
    assert_eq!(used(), null.0);
    assert_eq!(
        instance.storage.kind(null.0),
        UNKNOWN,
        "a file is looked at each time"
    );
}
