//! What the monitor can reach of the host, by landlock: the second wall behind `openat2`.
//!
//! A guest's paths are resolved inside its root by the monitor; should that fail, or should the monitor fall, the kernel still
//! refuses every file that is not in the `Space`, every TCP port, abstract sockets of others, and signals to processes
//! outside. What was opened before (the KVM device, the listening socket, the control stream) stays usable, and so do files
//! without a place in the tree (memory, pipes). Nothing may be executed but the monitor's own file: the host never executes
//! what a guest brings.
//!
//! Older kernels know fewer of these rules; then the rest is enforced, and `Layer::detail` says so.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    make_bitflags,
};

use super::Layer;
use crate::errno::Errno;
use crate::fs::descriptors::private;
use crate::sys;

/// The newest rules that this file was written for and tested with.
const NEWEST: ABI = ABI::V7;

/// The devices that a guest may have, and nothing else of /dev.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// What the monitor may reach, besides the five harmless devices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Space<'a> {
    /// Read below these: the root of the bundle.
    pub read: &'a [&'a Path],
    /// Read, write and make below these: where scratch directories are.
    pub write: &'a [&'a Path],
    /// The same, for `serve` and its children without a guest alone: where the snapshot is kept.
    pub keep: &'a [&'a Path],
    /// See the names below these: `/proc`, for the guest's own descriptors.
    pub list: &'a [&'a Path],
    /// The only file that may be executed: the monitor's own.
    pub execute: Option<BorrowedFd<'a>>,
}

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("landlock: {}: {source}", path.display())]
    Path { path: PathBuf, source: Errno },
    #[error("landlock: {0}")]
    Rules(#[from] RulesetError),
}

fn reading() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | ReadDir})
}

/// Not among them: device nodes, ioctls on devices.
fn writing() -> BitFlags<AccessFs> {
    reading()
        | make_bitflags!(AccessFs::{
            WriteFile | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeFifo | MakeSock | MakeSym | Refer | Truncate
        })
}

/// A place and what may be done there.
struct Rule {
    place: OwnedFd,
    access: BitFlags<AccessFs>,
}

/// The rules of a space, opened while it is in reach.
pub struct Rules {
    fixed: Vec<Rule>,
    write: Vec<Rule>,
    keep: Vec<Rule>,
}

impl Rules {
    pub fn open(space: &Space) -> Result<Self, FilesError> {
        let mut fixed = Vec::new();
        for (paths, access) in [(space.read, reading()), (space.list, AccessFs::ReadDir.into())] {
            for path in paths {
                fixed.push(Rule {
                    place: open(path)?,
                    access,
                });
            }
        }
        for path in DEVICES.map(Path::new) {
            match open(path) {
                Ok(place) => fixed.push(Rule {
                    place,
                    access: make_bitflags!(AccessFs::{ReadFile | WriteFile}),
                }),
                // A container may have fewer.
                Err(FilesError::Path {
                    source: Errno::NOENT, ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(file) = space.execute {
            let place = private(|| Ok(file.try_clone_to_owned()?)).map_err(|source| FilesError::Path {
                path: PathBuf::from("/proc/self/exe"),
                source,
            })?;
            fixed.push(Rule {
                place,
                access: make_bitflags!(AccessFs::{Execute | ReadFile}),
            });
        }
        let writable = |paths: &[&Path]| -> Result<Vec<Rule>, FilesError> {
            let rule = |path: &&Path| {
                Ok(Rule {
                    place: open(path)?,
                    access: writing(),
                })
            };
            paths.iter().map(rule).collect()
        };
        Ok(Self {
            fixed,
            write: writable(space.write)?,
            keep: writable(space.keep)?,
        })
    }

    /// Restricts the calling thread, and what it makes from then on, to the space.
    pub fn restrict(&self) -> Result<Layer, FilesError> {
        let rules = self.fixed.iter().chain(&self.write).chain(&self.keep);
        Ok(layer(&restrict(rules)?))
    }

    /// The same, and the process may read what /proc says of itself: a snapshot needs that.
    pub fn restrict_boot(&self) -> Result<(), FilesError> {
        let own = Rule {
            place: open(Path::new("/proc/self"))?,
            access: reading(),
        };
        restrict(self.fixed.iter().chain(&self.write).chain([&own]))?;
        // The rule is about an inode that exists as long as somebody holds it.
        std::mem::forget(own);
        Ok(())
    }

    /// Closes the places, in a child that has been restricted for the last time and never drops this.
    pub fn leave(&self) {
        for rule in self.fixed.iter().chain(&self.write).chain(&self.keep) {
            // The owner is never dropped in this process.
            sys::close(rule.place.as_raw_fd());
        }
    }

    /// The same with `scratch` as the only place to write. A child adds this to what it has inherited; signals to siblings
    /// and to the parent are refused from then on.
    pub fn restrict_to(&self, scratch: &Path) -> Result<(), FilesError> {
        let own = Rule {
            place: open(scratch)?,
            access: writing(),
        };
        restrict(self.fixed.iter().chain([&own]))?;
        Ok(())
    }
}

/// Restricts the calling thread: it may read below `read`, and write in the directory `write`. The network stays open.
pub fn restrict_broker(read: &Path, write: BorrowedFd<'_>) -> Result<(), FilesError> {
    let place = open(read)?;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?
        .add_rule(PathBeneath::new(place.as_fd(), reading()))?
        .add_rule(PathBeneath::new(write, writing()))?
        .restrict_self()?;
    Ok(())
}

fn restrict<'rules>(rules: impl Iterator<Item = &'rules Rule>) -> Result<RestrictionStatus, FilesError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for rule in rules {
        ruleset = ruleset.add_rule(PathBeneath::new(borrow(rule), rule.access))?;
    }
    Ok(ruleset.restrict_self()?)
}

fn borrow(rule: &Rule) -> BorrowedFd<'_> {
    rule.place.as_fd()
}

fn open(path: &Path) -> Result<OwnedFd, FilesError> {
    let error = |source| FilesError::Path {
        path: path.to_owned(),
        source,
    };
    let reference = || {
        Ok(OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path)?
            .into())
    };
    private(reference).map_err(error)
}

/// What the kernel has enforced, honestly.
fn layer(status: &RestrictionStatus) -> Layer {
    let kernel = describe(&status.landlock);
    let (in_force, detail) = match status.ruleset {
        RulesetStatus::FullyEnforced => (true, kernel),
        RulesetStatus::PartiallyEnforced => (true, format!("{kernel}: in part")),
        RulesetStatus::NotEnforced => (false, kernel),
    };
    Layer {
        name: "landlock",
        in_force,
        detail,
    }
}

fn describe(status: &LandlockStatus) -> String {
    match status {
        LandlockStatus::NotEnabled => {
            "built into the kernel but not enabled: boot with lsm=landlock,…".to_owned()
        }
        LandlockStatus::NotImplemented => "not in this kernel".to_owned(),
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } => {
            format!(
                "ABI {}",
                kernel_abi.map_or(effective_abi.to_string(), |abi| abi.to_string())
            )
        }
    }
}

/// What this kernel would enforce.
pub fn probe() -> Layer {
    // The version is asked of the kernel itself: rules are not made to be thrown away.
    let version = sys::landlock_version();
    let wanted = NEWEST as i64;
    let (in_force, detail) = match version {
        version if version >= wanted => (true, format!("ABI {version}")),
        version @ 1.. => (true, format!("ABI {version} of {wanted}: in part")),
        _ if Errno::last() == Errno::OPNOTSUPP => (false, describe(&LandlockStatus::NotEnabled)),
        _ => (false, describe(&LandlockStatus::NotImplemented)),
    };
    Layer {
        name: "landlock",
        in_force,
        detail,
    }
}
