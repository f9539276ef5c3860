//! What the tests of the namespace share. Whatever touches the working directory, mounts or descriptor numbers runs in a
//! child process of its own, because these belong to a process.
#![allow(unsafe_code)]
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "plain calls of libc with locals throughout"
)]

mod against_kernel;
mod hostile;
mod synthetic_files;

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory that goes away with its owner.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mayfly-fs-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(fs::canonicalize(path).unwrap())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Guest;

impl GuestInfo for Guest {
    fn regions(&self) -> Vec<Region> {
        vec![Region {
            start: 0x40_0000,
            end: 0x40_1000,
            read: true,
            execute: true,
            file: crate::memory::mapping::MappedFile {
                name: b"[code]".to_vec(),
                ..Default::default()
            },
            ..Region::default()
        }]
    }
    fn executable(&self) -> Vec<u8> {
        b"/bin/program".to_vec()
    }
    fn arguments(&self) -> Vec<u8> {
        b"program\0-x\0".to_vec()
    }
    fn environment(&self) -> Vec<u8> {
        b"A=1\0".to_vec()
    }
    fn auxiliary_vector(&self) -> Vec<u8> {
        vec![0; 16]
    }
    fn threads(&self) -> Vec<i32> {
        vec![i32::try_from(std::process::id()).unwrap()]
    }
    fn thread_name(&self, _thread: i32) -> Option<Vec<u8>> {
        Some(b"program".to_vec())
    }
    fn memory_limit(&self) -> u64 {
        256 << 20
    }
    fn memory_used(&self) -> u64 {
        16 << 20
    }
    fn processors(&self) -> u32 {
        2
    }
    fn hostname(&self) -> Vec<u8> {
        b"function".to_vec()
    }
    fn user(&self) -> (u32, u32) {
        (1000, 1001)
    }
    fn limit(&self, resource: u32) -> [u64; 2] {
        [u64::from(resource), libc::RLIM_INFINITY]
    }
    fn parent(&self) -> i32 {
        1
    }
}

/// Runs `work` in a child process and gives what it returns.
fn in_child(work: impl FnOnce() -> String) -> String {
    let mut ends = [0; 2];
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // Other tests' descriptors must not show in the numbers that the guest gets.
        let reply = 1000;
        unsafe {
            libc::dup2(ends[1], reply);
            libc::syscall(libc::SYS_close_range, 3, 999, 0);
            libc::syscall(libc::SYS_close_range, 1001, u32::MAX, 0);
        }
        // The capture of the test's own process does not reach here.
        std::panic::set_hook(Box::new(|panic| {
            let text = format!("{panic}\n");
            unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        }));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let mut text = result.unwrap_or_else(|_| "panic".to_owned()).into_bytes();
        text.push(b'.');
        let mut rest = &text[..];
        while !rest.is_empty() {
            let written = unsafe { libc::write(reply, rest.as_ptr().cast(), rest.len()) };
            rest = &rest[usize::try_from(written).unwrap_or(rest.len())..];
        }
        unsafe { libc::_exit(0) };
    }
    unsafe { libc::close(ends[1]) };
    let mut text = String::new();
    unsafe { fs::File::from_raw_fd(ends[0]) }
        .read_to_string(&mut text)
        .unwrap();
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    assert!(
        text.ends_with('.') && text != "panic.",
        "the child failed: {text}"
    );
    text.pop();
    text
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}
