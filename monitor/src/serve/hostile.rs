//! For the fuzzer of system calls: a `serve` whose instances are given sequences of calls instead of a program's (`fuzzing::calls`).
//! All of it is the real one: the enclosure, the jail, each instance's filter, its private directories.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::child::{self, Setup, Streams};
use super::{Clones, Options, World, channel, parent};
use crate::bundle::Contract;
use crate::control::Cause;
use crate::errno::Errno;
use crate::fs::descriptors::{self, private};
use crate::jail::{Jail, Phase};
use crate::ledger::Ledger;
use crate::lifecycle::end_process;
use crate::sys;
use crate::task::Task;

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, or as its guest may.
    Fair,
    /// The wait status that a sound monitor does not end with.
    Failed(i32),
}

/// A `serve` of one function, in its jail.
pub struct Supervisor {
    world: Option<World>,
    jail: Jail,
    init: Option<i32>,
    scratch: PathBuf,
    next: u64,
}

impl Supervisor {
    /// Encloses the calling process, for good. `directory` holds the bundle, and gets all else.
    ///
    /// Preconditions: one thread.
    pub fn enter(directory: &Path) -> Result<Self, String> {
        crate::guest::prepare_process();
        descriptors::open_executable().map_err(|errno| format!("/proc/self/exe: {errno}"))?;
        crate::syscalls::prepare();
        let options = Options {
            bundle: directory.join("bundle"),
            socket: directory.join("socket"),
            pool: 1,
            instances: 1,
            clones: Clones::DEFAULT,
            ready_timeout: Duration::from_secs(10),
            log_limit: 0,
            output_limit: 0,
            cpu_limit: None,
            require: Vec::new(),
            device: "/dev/kvm".to_owned(),
            scratch: directory.join("scratch"),
            snapshot: None,
            snapshot_age: None,
            probe: false,
        };
        let world = World::open(options).map_err(|error| error.to_string())?;
        let mut jail = parent::enter_jail(&world).map_err(|error| error.to_string())?;
        jail.lock_files().map_err(|error| error.to_string())?;
        Ok(Self {
            init: world.enclosed.init.as_ref().map(|init| init.pid),
            scratch: world.options.scratch.clone(),
            world: Some(world),
            jail,
            next: 0,
        })
    }

    /// Makes an instance, in which `run` has the guest's thread, and waits for its end.
    pub fn instance(&mut self, log: BorrowedFd<'_>, run: impl FnOnce(Task)) -> Result<End, Errno> {
        self.next += 1;
        let name = format!("{:016x}", self.next);
        let (channel, child_channel) = channel::pair()?;
        let stream = || private(|| Ok(log.try_clone_to_owned()?));
        let (stdout, stderr) = (stream()?, stream()?);
        let (ledger, memory) = Ledger::allocate()?;
        // SAFETY: this process has one thread, so the child may go on as it was.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(Errno::last());
        }
        if pid == 0 {
            let Some(mut world) = self.world.take() else {
                end_process(70)
            };
            world.orphans = None;
            drop(world.enclosed.init.take().map(|init| init.life));
            drop(channel);
            let setup = Setup {
                name,
                channel: child_channel,
                stdout,
                stderr,
                ledger,
                memory: memory.into_raw_fd(),
            };
            begin(world, &setup, &self.jail, run);
        }
        drop((child_channel, stdout, stderr, memory));
        let status = self.wait(pid);
        let cause = ledger.cause();
        // SAFETY: nothing refers to it any more.
        unsafe { ledger.free() };
        // What cannot be removed now is removed with the directory.
        let _ = std::fs::remove_dir_all(self.scratch.join(&name));
        let fatal = [
            libc::SIGSYS,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGABRT,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGTRAP,
        ];
        Ok(match cause {
            Some((Cause::Internal, _)) => End::Failed(status),
            Some(_) => End::Fair,
            None if libc::WIFSIGNALED(status) && fatal.contains(&libc::WTERMSIG(status)) => {
                End::Failed(status)
            }
            None if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) != 0 => End::Failed(status),
            None => End::Fair,
        })
    }

    /// Waits for a child, and ends what it left behind. One that was stopped is killed.
    fn wait(&self, pid: i32) -> i32 {
        let orphans = self.world.as_ref().and_then(|world| world.orphans.as_ref());
        let known: HashSet<i32> = self.init.into_iter().chain([pid]).collect();
        let mut status = 0;
        loop {
            // SAFETY: a live status word.
            let found = unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) };
            if found == pid && libc::WIFSTOPPED(status) {
                let _ = sys::kill(pid, libc::SIGKILL);
            } else if found == pid {
                break;
            }
        }
        while orphans.is_some_and(|orphans| orphans.kill(&known)) {
            // SAFETY: no status is asked for.
            unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
        }
        status
    }
}

/// In the child: an instance as far as its first instruction.
fn begin(mut world: World, setup: &Setup, jail: &Jail, run: impl FnOnce(Task)) -> ! {
    child::begin(&mut world, setup, jail, Phase::Instance);
    if world.files.set_instance(&setup.name).is_err() {
        setup.fail("the private directories cannot be named");
    }
    let placed = Streams::new(Contract::Http, setup).and_then(|streams| child::place_streams(&streams.guest));
    if let Err(errno) = placed {
        setup.fail(&format!("standard streams: {errno}"));
    }
    let (process, task, remaining) = match child::load(world, setup) {
        Ok(loaded) => loaded,
        Err(problem) => setup.fail(&problem.message),
    };
    process.ready.pass();
    drop(remaining.take_written());
    run(task);
    end_process(0)
}
