//! Where hostile bytes first arrive, one function for each fuzzer of `fuzz/`. Built only for them and for tests.
//!
//! A fuzzer finds a crash or a hang; what an input means is for other tests to say. `fuzz/seeds` are what fuzzers begin with,
//! `fuzz/findings` what once went wrong: a test runs all of them, but for `program`, whose one address space each process has once.

mod calls;
mod hostile;
mod input;
pub mod signatures;

use std::cell::RefCell;
use std::ffi::CString;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::contracts;
use crate::control::InstanceId;
use crate::loader::{self, Opened, Request};
use crate::memory::mapping::MappedFile;
use crate::memory::space::Space;
use crate::snapshot::{Snapshot, file};
use crate::vm::kvm::Device;
use crate::{guest, serve, sys};

const MEMORY: u64 = 64 << 20;
/// The fuzzer of system calls says after so many how many there were.
const REPORTED: u64 = 1_000_000;

thread_local! {
    /// One machine for all programs: what one has mapped is unmapped before the next.
    static SPACE: RefCell<Option<Space>> = const { RefCell::new(None) };
}

/// Unmaps all that is mapped: by what there is, since the whole window takes long.
fn empty(space: &mut Space) {
    let mapped: Vec<(u64, u64)> = space
        .mappings()
        .map(|(start, mapping)| (start, mapping.end))
        .collect();
    for (start, end) in mapped {
        assert!(
            space.unmap(start, end - start).is_ok(),
            "memory that cannot be unmapped"
        );
    }
}

fn memory_file(bytes: &[u8]) -> Option<OwnedFd> {
    let mut file = std::fs::File::from(sys::memory_file(c"input").ok()?);
    file.write_all(bytes).ok()?;
    Some(file.into())
}

/// An executable from an image: read, mapped, its stack built. It is its own interpreter, if it asks for one.
pub fn program(bytes: &[u8]) {
    let Some(content) = memory_file(bytes) else { return };
    SPACE.with_borrow_mut(|space| {
        let space = space.get_or_insert_with(|| {
            guest::prepare_process();
            let vm = Device::open("/dev/kvm").and_then(|device| device.create_vm());
            match vm
                .map_err(|error| error.to_string())
                .map(|vm| Space::new(vm, MEMORY))
            {
                Ok(Ok(space)) => space,
                Ok(Err(errno)) => panic!("memory: {errno}"),
                Err(error) => panic!("KVM: {error}"),
            }
        });
        let request = Request {
            path: c"/program",
            args: vec![CString::from(c"program")],
            env: Vec::new(),
            uid: 0,
            gid: 0,
        };
        let _ = loader::load(space, &request, &|_| {
            Ok(Opened {
                fd: content.try_clone()?,
                shown: MappedFile::default(),
            })
        });
        assert!(space.committed() <= MEMORY, "more memory than the limit");
        empty(space);
    });
}

thread_local! {
    static CALLS: RefCell<Option<calls::Fuzzer>> = const { RefCell::new(None) };
}

/// System calls of a guest that means harm, with a second thread that changes the memory under them. Says now and then how many.
pub fn calls(bytes: &[u8]) {
    CALLS.with_borrow_mut(|fuzzer| {
        let fuzzer = fuzzer.get_or_insert_with(calls::Fuzzer::start);
        let before = fuzzer.calls();
        fuzzer.play(bytes);
        let now = fuzzer.calls();
        if before / REPORTED != now / REPORTED {
            eprintln!("system calls made: {now}");
        }
    });
}

/// A snapshot's file, as a disk or another process of the node's user may have left it; and, once digests are right, its parts.
pub fn snapshot(bytes: &[u8]) {
    if let Some(content) = memory_file(bytes)
        && let Ok(head) = file::read_head(content.as_fd())
    {
        let _ = file::state(&head);
    }
    let _ = postcard::from_bytes::<Snapshot>(bytes);
}

/// What a caller sends: the envelope, then a request with its body, then a reply as a program writes it.
pub fn call(bytes: &[u8]) {
    let Ok((near, far)) = UnixStream::pair() else {
        return;
    };
    // As much as fits the socket, then the end.
    let sent = (&far).write_all(&bytes[..bytes.len().min(32 << 10)]);
    if sent.is_ok() && far.shutdown(Shutdown::Write).is_ok() {
        let _ = contracts::envelope::exchange(near.as_fd(), InstanceId(0));
    }
    contracts::fuzz(bytes);
}

/// What the server writes to a monitor's stdin, and what a compromised instance says to `serve`.
pub fn control(bytes: &[u8]) {
    let cut = bytes
        .first()
        .map_or(0, |byte| usize::from(*byte).min(bytes.len()));
    let (mut commands, mut inputs) = (crate::control::Commands::default(), Vec::new());
    commands.feed(&bytes[..cut], &mut inputs);
    commands.feed(&bytes[cut..], &mut inputs);
    serve::fuzz(bytes);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    fn each_file(target: &str, run: fn(&[u8])) {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let mut count = 0;
        for kind in ["seeds", "findings"] {
            let Ok(entries) = fs::read_dir(fuzz.join(kind).join(target)) else {
                continue;
            };
            for entry in entries {
                run(&fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
        }
        assert!(count > 0, "no seeds for {target}");
    }

    #[test]
    fn what_the_fuzzers_have_found_stays_mended() {
        each_file("snapshot", super::snapshot);
        each_file("call", super::call);
        each_file("control", super::control);
    }

    #[test]
    #[ignore = "forks, so it is run by the next one, in a process of its own"]
    fn hostile_calls() {
        each_file("calls", super::calls);
    }

    #[test]
    fn hostile_calls_harm_nobody_but_the_guest() {
        let tests = std::env::current_exe().unwrap();
        let alone = [
            "--exact",
            "fuzzing::tests::hostile_calls",
            "--ignored",
            "--test-threads=1",
        ];
        let output = std::process::Command::new(tests).args(alone).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
    }
}
