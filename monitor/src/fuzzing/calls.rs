//! The fuzzer of the system call layer: sequences of hostile calls (`hostile`) in an instance that wears the whole jail.
//!
//! ```text
//! fuzzer ──fork──▶ supervisor: a `serve` in its enclosure ──fork──▶ instance: plays sequence after sequence, until it dies or is old
//!    └───────────────── one page of shared memory: whose turn it is, and the sequence ─────────────────┘
//! ```
//!
//! An instance's death by its guest's doing is fair, and another takes its place. What has been covered is counted in memory that all
//! of them share, so the fuzzer learns from instances as from itself.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::hostile::Hostile;
use crate::serve::hostile::{End, Supervisor};
use crate::sys;

/// Longest sequence, bytes.
const LONGEST: usize = 8192;
/// Sequences that an instance plays.
const LIFE: u32 = 500;
/// A sequence that takes longer has found a call that does not end.
const PATIENCE: Duration = Duration::from_secs(60);

const PLAY: u32 = 1;
const PLAYED: u32 = 2;
const DIED: u32 = 3;
const FAILED: u32 = 4;

/// What the processes share.
#[repr(C)]
struct Page {
    /// Whose turn it is; a futex.
    turn: AtomicU32,
    length: AtomicU32,
    status: AtomicI32,
    calls: AtomicU64,
    sequence: [AtomicU64; LONGEST / 8],
}

impl Page {
    fn new() -> &'static Self {
        // SAFETY: a fresh mapping.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Self>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(at != libc::MAP_FAILED, "no shared memory");
        // SAFETY: page-aligned, large enough, never unmapped; all fields are atomics, for which any content is valid.
        unsafe { &*at.cast::<Self>() }
    }

    fn pass(&self, turn: u32) {
        self.turn.store(turn, Ordering::Release);
        // SAFETY: wakes waiters on a live word.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.turn.as_ptr(),
                libc::FUTEX_WAKE,
                i32::MAX,
                0,
                0,
                0,
            )
        };
    }

    /// Waits a while for the turn to change.
    fn wait(&self, while_it_is: u32) -> u32 {
        let most = libc::timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let turn = self.turn.load(Ordering::Acquire);
        if turn == while_it_is {
            // SAFETY: waits on a live word, with a local time.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.turn.as_ptr(),
                    libc::FUTEX_WAIT,
                    turn,
                    &raw const most,
                    0,
                    0,
                )
            };
        }
        self.turn.load(Ordering::Acquire)
    }

    fn put(&self, bytes: &[u8]) {
        for (to, from) in self.sequence.iter().zip(bytes.chunks(8)) {
            let word = from
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
            to.store(word, Ordering::Relaxed);
        }
        self.length
            .store(u32::try_from(bytes.len()).unwrap_or(0), Ordering::Relaxed);
    }

    fn get(&self) -> Vec<u8> {
        let length = self.length.load(Ordering::Relaxed) as usize;
        let words = self.sequence.iter().take(length.div_ceil(8));
        let mut bytes: Vec<u8> = words
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        bytes.truncate(length);
        bytes
    }
}

/// The fuzzer's own part.
pub struct Fuzzer {
    page: &'static Page,
    supervisor: i32,
    directory: PathBuf,
    log: File,
}

impl Fuzzer {
    pub fn start() -> Self {
        let directory = std::env::temp_dir().join(format!(
            "mayfly-calls-{}-{}",
            std::process::id(),
            sys::thread_id()
        ));
        let made = lay_out(&directory);
        assert!(made.is_ok(), "{}: {made:?}", directory.display());
        let page = Page::new();
        #[cfg(fuzzing)]
        share_counters();
        let Ok(log) = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(directory.join("log"))
        else {
            panic!("no log in {}", directory.display());
        };
        let own = sys::process_id();
        // SAFETY: the child has one thread, and never returns.
        let supervisor = unsafe { libc::fork() };
        assert!(supervisor >= 0, "no supervisor");
        if supervisor == 0 {
            supervise(&directory, &log, page, own);
        }
        Self {
            page,
            supervisor,
            directory,
            log,
        }
    }

    /// Plays a sequence; panics if a monitor fails by it.
    pub fn play(&mut self, bytes: &[u8]) {
        self.page.put(&bytes[..bytes.len().min(LONGEST)]);
        self.page.pass(PLAY);
        let begun = Instant::now();
        loop {
            match self.page.wait(PLAY) {
                PLAYED | DIED => break,
                FAILED => self.fail("the monitor failed"),
                _ if begun.elapsed() > PATIENCE => self.fail("a call does not end"),
                _ => {}
            }
            let mut status = 0;
            // SAFETY: a live status word.
            if unsafe { libc::waitpid(self.supervisor, &raw mut status, libc::WNOHANG) } == self.supervisor {
                self.fail("the supervisor failed");
            }
        }
    }

    /// How many calls were made.
    pub fn calls(&self) -> u64 {
        self.page.calls.load(Ordering::Relaxed)
    }

    fn fail(&mut self, what: &str) -> ! {
        let mut text = Vec::new();
        let _ = self.log.rewind();
        let _ = self.log.read_to_end(&mut text);
        // The guest writes there, too.
        text.retain(|byte| byte.is_ascii_graphic() || b" \n".contains(byte));
        let end = text.len().saturating_sub(4096);
        let status = self.page.status.load(Ordering::Relaxed);
        panic!(
            "{what}; wait status {status:#x}, its log ends:\n{}",
            String::from_utf8_lossy(&text[end..])
        );
    }
}

impl Drop for Fuzzer {
    fn drop(&mut self) {
        let _ = sys::kill(self.supervisor, libc::SIGKILL);
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(self.supervisor, std::ptr::null_mut(), 0) };
        // Only temporary files: what cannot be removed is in nobody's way.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A bundle whose image has a few files, for the paths of `hostile`.
fn lay_out(directory: &Path) -> std::io::Result<()> {
    let root = directory.join("root");
    let bundle = directory.join("bundle");
    for made in [
        &bundle,
        &root.join("directory"),
        &root.join("tmp"),
        &root.join("dev"),
        &root.join("proc"),
    ] {
        std::fs::create_dir_all(made)?;
    }
    let program = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/program/static"));
    std::fs::write(root.join("program"), program)?;
    std::fs::set_permissions(
        root.join("program"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    std::fs::write(root.join("data"), [7; 3000])?;
    std::fs::write(root.join("directory/file"), "file")?;
    std::os::unix::fs::symlink("data", root.join("link"))?;
    std::os::unix::fs::symlink("loop", root.join("loop"))?;
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["/program"], "env": ["PORT=8080"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": root, "readonly": true},
    });
    let function = serde_json::json!({
        "version": 1, "namespace": "default", "name": "calls", "revision": "0123456789abcdef",
        "image": format!("sha256:{}", "0".repeat(64)), "reference": "oci:calls", "contract": "http", "port": 8080,
        "timeout_ms": 10_000, "memory_bytes": 64 << 20, "concurrency": 1, "pool": 1,
    });
    std::fs::write(bundle.join("config.json"), config.to_string())?;
    std::fs::write(bundle.join("function.json"), function.to_string())
}

/// In the child: makes instances, as long as the fuzzer lives.
fn supervise(directory: &Path, log: &File, page: &'static Page, fuzzer: i32) -> ! {
    let fail = |what: &str| -> ! {
        use std::io::Write;
        let mut log = log;
        let _ = writeln!(log, "{what}");
        page.pass(FAILED);
        crate::lifecycle::end_process(70)
    };
    std::panic::set_hook(Box::new(|failure| {
        eprintln!("mayfly-monitor: {failure}");
        crate::lifecycle::end_process(70);
    }));
    let mut supervisor = match Supervisor::enter(directory) {
        Ok(supervisor) => supervisor,
        Err(error) => fail(&error),
    };
    // Forgotten by the kernel when the user changes.
    let _ = sys::set_parent_death_signal(libc::SIGKILL);
    while sys::parent_id() == fuzzer {
        match page.turn.load(Ordering::Acquire) {
            PLAY => {}
            FAILED => break,
            turn => {
                page.wait(turn);
                continue;
            }
        }
        let _ = log.set_len(0);
        let end = supervisor.instance(log.as_fd(), |task| {
            let mut hostile = Hostile::new(task);
            for _ in 0..LIFE {
                while page.wait(PLAYED) != PLAY {}
                let made = hostile.play(&page.get());
                page.calls.fetch_add(made, Ordering::Relaxed);
                page.pass(PLAYED);
            }
        });
        match end {
            Ok(End::Fair) if page.turn.load(Ordering::Acquire) == PLAY => page.pass(DIED),
            Ok(End::Fair) => {}
            Ok(End::Failed(status)) => {
                page.status.store(status, Ordering::Relaxed);
                page.pass(FAILED);
            }
            Err(errno) => fail(&errno.to_string()),
        }
    }
    crate::lifecycle::end_process(0)
}

/// Puts the counters of coverage into memory that child processes share: whole pages of them.
#[cfg(fuzzing)]
fn share_counters() {
    unsafe extern "C" {
        static __start___sancov_cntrs: u8;
        static __stop___sancov_cntrs: u8;
    }
    let page = 4096;
    let start = (&raw const __start___sancov_cntrs as usize).next_multiple_of(page);
    let end = &raw const __stop___sancov_cntrs as usize & !(page - 1);
    let length = end.saturating_sub(start);
    // SAFETY: the pages hold counters only, which are bytes; their content is carried over.
    unsafe {
        let kept = std::slice::from_raw_parts(start as *const u8, length).to_vec();
        let at = libc::mmap(
            start as *mut libc::c_void,
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
        assert!(at != libc::MAP_FAILED, "no shared memory for the counters");
        std::ptr::copy_nonoverlapping(kept.as_ptr(), start as *mut u8, length);
    }
}
