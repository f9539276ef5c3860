//! The jail: what the monitor takes away from itself.
//!
//! ```text
//! serve      opens what it needs · enclosure: namespaces, a root, a user (where the node allows it)
//!   │        enter: limits, undumpable, no new privileges, seccomp for all phases
//!   ├ boot   confine: landlock, seccomp of its phase · the program, its snapshot
//!   │        lock_files: landlock
//!   └ instance   inherits all of it, for nothing · memory, descriptors · confine: limits, seccomp of its phase · the call
//! ```
//!
//! The boot comes before `lock_files` because it reads in /proc what its descriptors are, which no instance may.
//!
//! Invariants: a layer is only ever added; a process with a guest can make no filter and no rule any more, executes nothing but the
//! monitor's own file, signals the processes of its instance alone (by landlock's scope, where the kernel has it), and dies with `serve`. What a kernel does not offer is reported as not in force, never passed over;
//! seccomp and openat2 must be there.
#![allow(unsafe_code)]

mod broker;
mod enclosure;
mod files;
mod limits;
mod program;
mod seccomp;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::os::fd::RawFd;
use std::path::Path;

use seccompiler::SeccompAction;
use serde::Serialize;

pub use broker::confine as confine_broker;
pub use enclosure::{Enclosed, Enclosure, EnclosureError, Wanted};
pub use files::{FilesError, Space};
pub use limits::{LimitError, enough_descriptors};
pub use seccomp::{Mode, SeccompError};

use crate::errno::Errno;
use files::Rules;
use seccomp::OwnFilter;
use table::Phases;

/// One thing that stands between a guest and the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub name: &'static str,
    pub in_force: bool,
    pub detail: String,
}

impl Layer {
    fn new(name: &'static str, detail: &str) -> Self {
        Self {
            name,
            in_force: true,
            detail: detail.to_owned(),
        }
    }

    fn missing(name: &'static str, why: String) -> Self {
        Self {
            name,
            in_force: false,
            detail: why,
        }
    }
}

/// A layer that is not in force, as the event `ready` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Missing<'a> {
    pub name: &'static str,
    pub reason: &'a str,
}

#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error(transparent)]
    Enclosure(#[from] EnclosureError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("prctl({option}): {source}")]
    Prctl { option: &'static str, source: Errno },
    #[error("openat2 with RESOLVE_IN_ROOT: {0}: Linux 5.6 or newer is needed")]
    OpenAt2(Errno),
    #[error("serve ended before its child was confined")]
    Orphaned,
}

/// What a child of `serve` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Brings the program to the point where it is ready.
    Boot,
    /// Answers one call.
    Instance,
}

/// What a child may have, beyond what it inherits.
#[derive(Clone, Copy, Debug)]
pub struct Confinement<'a> {
    pub phase: Phase,
    /// The largest file that it may write, bytes. Counts for files in memory, too.
    pub file_bytes: Option<u64>,
    /// Its private writable memory, bytes: the guest's and the monitor's own. A backstop for the monitor's count.
    pub data_bytes: Option<u64>,
    /// Its processor time, seconds.
    pub cpu_seconds: Option<u64>,
    /// The only directory that an instance may write to, which must exist; else what `Space::write` says.
    pub scratch: Option<&'a Path>,
}

/// The jail of `serve`, inherited by its children.
pub struct Jail {
    layers: Vec<Layer>,
    rules: Rules,
    locked: bool,
    mode: Mode,
    boot: OwnFilter,
    instance: OwnFilter,
    /// Who the parent of its children is, in their numbers: 0 for one outside of their process namespace.
    serve: i32,
}

impl Jail {
    /// Puts `serve` into its jail, for good; files follow with `lock_files`.
    ///
    /// Preconditions: one thread, no child yet but the init of `enclosed`, if there is one.
    pub fn enter(space: &Space, mode: Mode, enclosed: &Enclosed) -> Result<Self, JailError> {
        let filters = seccomp::inherited(mode)?;
        let compile = |phase| OwnFilter::compile(phase, mode);
        let (boot, instance) = (compile(Phases::BOOT)?, compile(Phases::INSTANCE)?);
        let rules = Rules::open(space)?;
        open_in_root().map_err(JailError::OpenAt2)?;
        limits::common()?;
        prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 0)?;
        prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1)?;
        if mode == Mode::Explain {
            seccomp::explain()?;
        }
        for filter in &filters {
            seccomp::install(filter)?;
        }
        let mut layers = vec![
            Layer::new("openat2", OPENAT2),
            files::probe(),
            Layer::new("seccomp", SECCOMP),
            Layer::new("no-new-privs", NO_NEW_PRIVS),
            Layer::new("undumpable", UNDUMPABLE),
            Layer::new("rlimits", RLIMITS),
        ];
        layers.extend(enclosed.layers.iter().cloned());
        let serve = match &enclosed.init {
            Some(_) => 0,
            // SAFETY: getpid has no preconditions.
            None => unsafe { libc::getpid() },
        };
        Ok(Self {
            layers,
            rules,
            locked: false,
            mode,
            boot,
            instance,
            serve,
        })
    }

    /// Restricts `serve` and the children it makes from now on to its space.
    ///
    /// Preconditions: one thread; the KVM device, the listening socket and all else outside the space are open; the boot has
    /// been forked.
    pub fn lock_files(&mut self) -> Result<(), JailError> {
        let landlock = self.rules.restrict()?;
        self.layers
            .iter_mut()
            .filter(|layer| layer.name == landlock.name)
            .for_each(|layer| *layer = landlock.clone());
        self.locked = true;
        Ok(())
    }

    /// What getppid(2) says in a child of `serve` as long as that lives.
    pub fn parent(&self) -> i32 {
        self.serve
    }

    /// Those of the layers named that are not in force, each with the reason; empty if there is none.
    pub fn lacking(&self, required: &[String]) -> String {
        let lacking = |name: &String| match self.layers.iter().find(|layer| layer.name == name) {
            Some(layer) if layer.in_force => None,
            Some(layer) => Some(format!("{name} ({})", layer.detail)),
            None => {
                let known: Vec<_> = self.layers.iter().map(|layer| layer.name).collect();
                Some(format!("{name} (unknown; there are {})", known.join(", ")))
            }
        };
        required.iter().filter_map(lacking).collect::<Vec<_>>().join("; ")
    }

    /// The names of the layers in force, as the event `ready` has them.
    pub fn names(&self) -> Vec<&'static str> {
        self.layers
            .iter()
            .filter(|layer| layer.in_force)
            .map(|layer| layer.name)
            .collect()
    }

    /// The layers that are not in force, with the reason of each.
    pub fn missing(&self) -> Vec<Missing<'_>> {
        self.layers
            .iter()
            .filter(|layer| !layer.in_force)
            .map(|layer| Missing {
                name: layer.name,
                reason: &layer.detail,
            })
            .collect()
    }

    /// Puts a child of `serve` into its own jail, for good.
    ///
    /// Preconditions: in the child, which has one thread; no code of the guest has run; it was forked by the thread that
    /// called `enter`, whose end ends it; it never drops this.
    pub fn confine(&self, confinement: &Confinement) -> Result<(), JailError> {
        prctl("PR_SET_PDEATHSIG", libc::PR_SET_PDEATHSIG, libc::SIGKILL)?;
        // SAFETY: getppid has no preconditions.
        if unsafe { libc::getppid() } != self.serve {
            return Err(JailError::Orphaned);
        }
        limits::guest(
            confinement.file_bytes,
            confinement.data_bytes,
            confinement.cpu_seconds,
        )?;
        match (confinement.phase, confinement.scratch) {
            (Phase::Boot, _) => self.rules.restrict_boot()?,
            (Phase::Instance, Some(scratch)) => self.rules.restrict_to(scratch)?,
            (Phase::Instance, None) if !self.locked => drop(self.rules.restrict()?),
            (Phase::Instance, None) => {}
        }
        if self.mode == Mode::Explain {
            // The child may have put its own handlers in place.
            seccomp::explain()?;
        }
        match confinement.phase {
            Phase::Boot => self.boot.install()?,
            Phase::Instance => self.instance.install()?,
        }
        self.rules.leave();
        Ok(())
    }
}

/// What a receipt says of an instance that ended by SIGSYS, the signal of a forbidden system call. (A program that sends
/// itself that signal ends the same way.)
pub const VIOLATION: &str = "the instance was killed at a system call that its jail forbids (SIGSYS)";

const OPENAT2: &str = "guest paths are resolved inside the root by the kernel";
const SECCOMP: &str = "system calls of the monitor by an allowlist with arguments; a violation kills";
const NO_NEW_PRIVS: &str = "no setuid, no file capabilities";
const UNDUMPABLE: &str = "no core, no tracing by the same user";
const RLIMITS: &str = "core size, open files; in a guest also file size, data and processor time";

/// What this machine offers, without changing anything.
pub fn probe() -> Vec<Layer> {
    let open = open_in_root();
    let seccomp = seccomp_available();
    let offered = |name, result: &Result<(), Errno>, detail: &str| Layer {
        name,
        in_force: result.is_ok(),
        detail: result.map_or_else(|error| error.to_string(), |()| detail.to_owned()),
    };
    let mut layers = vec![
        offered("openat2", &open, OPENAT2),
        files::probe(),
        offered("seccomp", &seccomp, SECCOMP),
        Layer::new("no-new-privs", NO_NEW_PRIVS),
        Layer::new("undumpable", UNDUMPABLE),
        Layer::new("rlimits", RLIMITS),
    ];
    layers.extend(enclosure::probe());
    layers
}

fn prctl(name: &'static str, option: i32, value: i32) -> Result<(), JailError> {
    let value = libc::c_long::from(value);
    // SAFETY: options that take a number.
    if unsafe { libc::prctl(option, value, 0_i64, 0_i64, 0_i64) } < 0 {
        return Err(JailError::Prctl {
            option: name,
            source: Errno::last(),
        });
    }
    Ok(())
}

/// Whether the kernel resolves paths inside a root.
fn open_in_root() -> Result<(), Errno> {
    let how = [
        u64::from((libc::O_PATH | libc::O_CLOEXEC).unsigned_abs()),
        0,
        libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS,
    ];
    // SAFETY: a C string and a struct open_how (three words) of the size given.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            libc::AT_FDCWD,
            c"/".as_ptr(),
            how.as_ptr(),
            size_of_val(&how),
        )
    };
    let fd = RawFd::try_from(fd).map_err(|_| Errno::IO)?;
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the descriptor that was just made.
    unsafe { libc::close(fd) };
    Ok(())
}

/// Whether the kernel has filters that can kill a process.
fn seccomp_available() -> Result<(), Errno> {
    let action = u32::from(SeccompAction::KillProcess);
    // SAFETY: asks about one action, a live word.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    if answer < 0 { Err(Errno::last()) } else { Ok(()) }
}
