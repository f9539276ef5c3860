//! What a guest process needs around it: the host process made ready, the way to its program, what /proc says of it.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use crate::errno::Errno;
use crate::fs::descriptors::MONITOR_FD_FLOOR;
use crate::fs::{Account, At, Files, GuestInfo, Namespace, NoGuest, OpenRequest, Region};
use crate::loader::Opened;
use crate::memory::mapping::{MappedFile, Mapping};
use crate::process::Process;
use crate::signals::host;
use crate::storage::Storage;
use crate::sys;
use crate::sys::processes;
use crate::vm::layout::{CLOCK_PAGE, PAGE, VDSO};

/// The monitor's own descriptors above the floor: VM, vCPUs, roots, pipes.
const OWN_DESCRIPTORS: u64 = 2048;

/// Descriptors of an instance: with 64 KiB in each pipe or socket pair they hold little memory of the node.
pub const CONTAINED_FILES: u64 = 1024;
/// What an instance calls its machine, whose own name it is not told.
pub const HOST_NAME: &str = "mayfly";

/// Makes the host process fit for a guest: room for descriptors, signals as a fresh program finds them. Gives the soft limit
/// of descriptors that the guest has.
pub fn prepare_process() -> i32 {
    let floor = u64::from(MONITOR_FD_FLOOR.unsigned_abs());
    if let Ok([now, most]) = processes::limit(libc::RLIMIT_NOFILE) {
        crate::fs::descriptors::set_limit(now);
        let _ = processes::set_limit(libc::RLIMIT_NOFILE, [most.min(floor + OWN_DESCRIPTORS), most]);
    }
    prepare_signals();
    crate::fs::descriptors::limit()
}

/// Signals as a fresh program finds them.
pub fn prepare_signals() {
    // Rust ignores SIGPIPE at the start; the guest decides for itself.
    processes::reset_signal(libc::SIGPIPE, false);
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        if let Ok(index) = usize::try_from(signal) {
            // Only fails for numbers that are no signals.
            let _ = host::install(index, 0);
        }
    }
}

/// Opens a program for the loader: it must be a regular file that may be executed.
pub fn open_program(files: Files<'_>, path: &CStr) -> Result<Opened, Errno> {
    let fd = files
        .open(
            At::cwd(path),
            OpenRequest::lenient(libc::O_RDONLY | libc::O_CLOEXEC, 0)?,
        )?
        .make_private()?;
    let stat = sys::stat(&fd)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG || stat.st_mode & 0o111 == 0 {
        return Err(Errno::ACCES);
    }
    let shown = files.mapped_file(fd.as_fd())?;
    Ok(Opened { fd, shown })
}

/// Strings one after the other, each with its NUL.
fn joined(strings: &[CString]) -> Vec<u8> {
    strings
        .iter()
        .flat_map(|string| string.to_bytes_with_nul().iter().copied())
        .collect()
}

impl GuestInfo for Process {
    fn regions(&self) -> Vec<Region> {
        let space = self.lock_space();
        let clock = Region {
            start: CLOCK_PAGE,
            end: CLOCK_PAGE + PAGE,
            read: true,
            file: MappedFile {
                name: b"[vvar]".to_vec(),
                ..MappedFile::default()
            },
            ..Region::default()
        };
        let mapped = space.mappings().map(|(start, mapping)| Region {
            start,
            end: mapping.end,
            read: mapping.protection.read,
            write: mapping.protection.write,
            execute: mapping.protection.execute,
            shared: mapping.shared,
            offset: mapping.origin.map_or(0, |origin| origin.offset),
            file: match space.file(mapping) {
                Some(file) => file.clone(),
                None => MappedFile {
                    name: match mapping {
                        Mapping { stack: true, .. } => b"[stack]".to_vec(),
                        Mapping { origin: Some(_), .. } => b"/dev/zero (deleted)".to_vec(),
                        _ if start == VDSO => b"[vdso]".to_vec(),
                        _ if space.is_heap(start) => b"[heap]".to_vec(),
                        _ => Vec::new(),
                    },
                    ..MappedFile::default()
                },
            },
        });
        std::iter::once(clock).chain(mapped).collect()
    }

    fn executable(&self) -> Vec<u8> {
        self.identity().exe.to_bytes().to_vec()
    }

    fn arguments(&self) -> Vec<u8> {
        joined(&self.identity().args)
    }

    fn environment(&self) -> Vec<u8> {
        joined(&self.identity().env)
    }

    fn auxiliary_vector(&self) -> Vec<u8> {
        self.identity().auxiliary.clone()
    }

    fn threads(&self) -> Vec<i32> {
        self.lock_threads().iter().map(|thread| thread.tid).collect()
    }

    fn thread_name(&self, thread: i32) -> Option<Vec<u8>> {
        let host = self
            .lock_threads()
            .iter()
            .find(|known| known.tid == thread)?
            .host_tid;
        if host == 0 {
            // It has no thread of the host yet.
            return Some(program_name(&self.identity().named));
        }
        let mut name = std::fs::read(format!("/proc/self/task/{host}/comm")).ok()?;
        name.pop();
        Some(name)
    }

    fn account(&self) -> Option<Account> {
        self.storage.as_ref().map(Storage::account)
    }

    fn memory_limit(&self) -> u64 {
        self.memory_limit
    }

    fn memory_used(&self) -> u64 {
        self.lock_space().committed()
    }

    fn processors(&self) -> u32 {
        std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
    }

    fn hostname(&self) -> Vec<u8> {
        if self.contained {
            HOST_NAME.as_bytes().to_vec()
        } else {
            processes::host_name()
        }
    }

    fn user(&self) -> (u32, u32) {
        (self.identity().uid, self.identity().gid)
    }

    fn groups(&self) -> Vec<u32> {
        self.identity().groups.clone()
    }

    fn limit(&self, resource: u32) -> [u64; 2] {
        crate::syscalls::limits::limit(self, resource).unwrap_or([libc::RLIM_INFINITY; 2])
    }

    fn parent(&self) -> i32 {
        if self.contained {
            0
        } else {
            i32::try_from(std::os::unix::process::parent_id()).unwrap_or(0)
        }
    }
}

/// What the kernel calls a process that executes `path`.
fn program_name(path: &CStr) -> Vec<u8> {
    let name = path
        .to_bytes()
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    name[..name.len().min(15)].to_vec()
}

/// The namespace as seen before the process exists.
pub fn early(files: &Namespace) -> Files<'_> {
    Files::new(files, &NoGuest)
}
