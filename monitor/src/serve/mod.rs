//! `mayfly-monitor serve`: one function revision on this node.
//!
//! One small process, one thread: it boots the program once in a child (`boot`), keeps clones of it parked (`instance`), watches
//! them, and reports (`parent`). It never holds a guest's memory, so a fork of it is cheap, and it reads of a guest only
//! bounded log bytes and the numbers of the ledger.

mod boot;
pub mod channel;
mod checking;
mod child;
mod ends;
#[cfg(any(fuzzing, test))]
pub mod hostile;
mod instance;
mod keeping;
mod kontain;
mod network;
mod offspring;
mod orphans;
mod parent;
mod pool;
mod rehearsal;
mod watching;
mod yielding;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::bundle::{Bundle, BundleError};
use crate::errno::Errno;
use crate::fs::descriptors::raise;
use crate::fs::{Access, Builder, Namespace};
use crate::jail::{self, Enclosed, Enclosure};
use crate::memory::prepared::Prepared;
use crate::network::place::Place;
use crate::network::policy::Policy;
use crate::network::request::Broker;
use crate::ready::Ready;
use crate::snapshot::Snapshot;
use crate::snapshot::format::Stamp;
use crate::sys;
use crate::vm::kvm::{Device, KvmError};
use crate::working_set::{Warmth, WorkingSet};

pub use child::set_name;
pub use parent::serve;
pub use rehearsal::example;

/// Longest socket path, with its NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 108;
/// Connections that wait for an instance.
const BACKLOG: i32 = 4096;

/// What threads that wait are in a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Threads like the others.
    Threads,
    /// Records, until something wakes them.
    Records,
    /// Records; those that the rehearsal saw woken have a host thread and a vCPU.
    Hybrid,
}

/// How clones are made.
#[derive(Clone, Copy, Debug)]
pub struct Clones {
    pub warmth: Warmth,
    pub waiting: Waiting,
}

impl Clones {
    pub const DEFAULT: Self = Self {
        warmth: Warmth::Touched,
        waiting: Waiting::Hybrid,
    };

    /// Changes what `name` is about; false if it is no name.
    pub fn set(&mut self, name: &str) -> bool {
        match name {
            "cold" => self.warmth = Warmth::Cold,
            "populated" => self.warmth = Warmth::Populated,
            "touched" => self.warmth = Warmth::Touched,
            "threads" => self.waiting = Waiting::Threads,
            "records" => self.waiting = Waiting::Records,
            "hybrid" => self.waiting = Waiting::Hybrid,
            _ => return false,
        }
        true
    }
}

/// The command line.
pub struct Options {
    pub bundle: PathBuf,
    pub socket: PathBuf,
    /// Instances kept parked, and alive at most.
    pub pool: u32,
    pub instances: u32,
    pub clones: Clones,
    pub ready_timeout: Duration,
    /// Bytes of log an instance may write, bytes of response where the monitor makes it.
    pub log_limit: u64,
    pub output_limit: usize,
    /// Seconds of processor time that an instance may use.
    pub cpu_limit: Option<u64>,
    /// Layers of the jail without which nothing runs.
    pub require: Vec<String>,
    pub device: String,
    /// Where private directories of instances are made; this process's own, emptied when it starts.
    pub scratch: PathBuf,
    /// Where the snapshot is kept for the next `serve`; and after how many seconds it is not used any more.
    pub snapshot: Option<PathBuf>,
    pub snapshot_age: Option<u64>,
    /// For `used_by`: system calls are counted one by one, and there is no network.
    pub probe: bool,
}

impl Options {
    /// The directory of the snapshot, if it is kept.
    fn kept_in(&self) -> Option<PathBuf> {
        let directory = self.snapshot.as_ref()?.parent()?;
        Some(if directory.as_os_str().is_empty() {
            ".".into()
        } else {
            directory.to_owned()
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Jail(#[from] jail::JailError),
    #[error("this node requires layers of the jail that it does not have: {0}")]
    Layers(String),
    #[error("{what}: {source}")]
    Host { what: String, source: Errno },
}

fn host_error(what: impl Into<String>) -> impl FnOnce(Errno) -> ServeError {
    let what = what.into();
    move |source| ServeError::Host { what, source }
}

/// What every child of `serve` inherits. A child owns its copy.
pub struct World {
    pub options: Options,
    pub bundle: Bundle,
    pub device: Arc<Device>,
    pub listener: OwnedFd,
    pub files: Namespace,
    pub ready: Arc<Ready>,
    pub kontain: Arc<kontain::Files>,
    /// The memory image, empty until the program was booted.
    pub image: OwnedFd,
    /// The snapshot's head.
    pub head: OwnedFd,
    /// What a snapshot must agree with.
    pub stamp: Stamp,
    /// What the rehearsal touched, empty until then.
    pub rehearsed: OwnedFd,
    /// Copies of the pages that clones keep apart, empty until they are chosen.
    pub apart: OwnedFd,
    /// What clones begin with, once there is a snapshot.
    pub prepared: Option<Prepared>,
    /// Where the sockets of a child have their names: made by the child.
    pub place: Option<Place>,
    pub enclosed: Enclosed,
    /// For `serve` alone.
    orphans: Option<orphans::Orphans>,
    /// The way of `serve` to the network broker, if the function has any network.
    pub link: Option<network::Link>,
    /// A child's way to the network, if the function has one.
    pub broker: Option<Arc<Broker>>,
}

/// How an instance begins.
#[derive(Clone)]
pub enum Launch {
    /// From the snapshot, made warm for what a call touches.
    Clone(Arc<Snapshot>, Arc<WorkingSet>),
    /// From the snapshot, to learn what a call touches: an example call by its number, and no other.
    Rehearsal(Arc<Snapshot>, usize),
    /// By booting to readiness; the snapshot was refused.
    Boot,
    /// At the first instruction: the program ends without reading its input.
    Start,
}

impl World {
    /// Lays out what clones begin with.
    pub(super) fn prepare(&mut self, snapshot: &Snapshot, set: &WorkingSet) -> Result<(), Errno> {
        let warmth = self.options.clones.warmth;
        let warmth = match snapshot.threads.iter().any(|thread| thread.main) {
            true => warmth,
            // The first thread is the one that is warmed.
            false => warmth.min(Warmth::Populated),
        };
        let limit = self.bundle.function.memory_bytes;
        let image = self.image.as_raw_fd();
        self.prepared = Some(Prepared::new(limit, &snapshot.space, image, set, warmth)?);
        Ok(())
    }

    /// Opens everything. The directory of `socket` must exist; an old socket is replaced.
    ///
    /// Preconditions: one thread, no child yet.
    pub fn open(mut options: Options) -> Result<Self, ServeError> {
        let mut bundle = Bundle::read(&options.bundle)?;
        if options.probe {
            bundle.function.network = Policy::default();
        }
        let device = Arc::new(Device::open(&options.device)?);
        crate::clock::observe();
        let listener = listen(&options.socket)?;
        empty_directory(&options.scratch)?;
        let stamp = keeping::stamp(&options, &device)?;
        let link = network::start(&bundle).map_err(host_error("network broker"))?;
        let enclosure = enclose(&bundle, &options)?;
        bundle.root.clone_from(&enclosure.root);
        options.scratch.clone_from(&enclosure.scratch);
        let orphans = orphans::Orphans::adopt(
            enclosure.proc.as_fd(),
            enclosure.enclosed.init.as_ref().map(|init| init.pid),
        )
        .map_err(host_error("/proc/thread-self/children"))?;
        if let Some(link) = &link {
            link.enclose(&options.scratch)
                .map_err(host_error("network broker"))?;
        }
        let ready = Arc::new(Ready::new(Some(bundle.function.contract)));
        let kontain = Arc::new(kontain::Files::new(ready.clone()));
        let files = namespace(&bundle, &enclosure, &kontain)?;
        let image = crate::snapshot::image::create(c"mayfly-image").map_err(host_error("memory image"))?;
        let head =
            crate::snapshot::image::create_empty(c"mayfly-snapshot").map_err(host_error("snapshot"))?;
        let rehearsed =
            crate::snapshot::image::create_empty(c"mayfly-rehearsed").map_err(host_error("working set"))?;
        let apart =
            crate::snapshot::image::create_empty(c"mayfly-apart").map_err(host_error("pages apart"))?;
        Ok(Self {
            options,
            bundle,
            device,
            listener,
            files,
            ready,
            kontain,
            image,
            head,
            stamp,
            rehearsed,
            apart,
            prepared: None,
            place: None,
            enclosed: enclosure.enclosed,
            orphans: Some(orphans),
            link,
            broker: None,
        })
    }
}

/// Leaves the node's namespaces and users behind, as far as that is possible here.
fn enclose(bundle: &Bundle, options: &Options) -> Result<Enclosure, ServeError> {
    let function = &bundle.function;
    let kept = options.kept_in();
    let wanted = jail::Wanted {
        root: &bundle.root,
        scratch: &options.scratch,
        keep: kept.as_deref(),
        network: false,
        name: &format!("{}/{}", function.namespace, function.name),
        user: (bundle.program.uid, bundle.program.gid),
    };
    Ok(Enclosure::enter(&wanted).map_err(jail::JailError::from)?)
}

/// Makes the directory, without what a killed predecessor left in it.
fn empty_directory(path: &Path) -> Result<(), ServeError> {
    use std::os::unix::fs::DirBuilderExt;
    let problem = |error: std::io::Error| host_error(path.display().to_string())(error.into());
    match crate::fs::remove_tree(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(problem(error)),
        _ => {}
    }
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(problem)
}

/// The guest's tree: the image read-only, private /tmp, /dev/shm and /var/tmp, a /proc, /sys and /dev of its own.
fn namespace(
    bundle: &Bundle,
    enclosure: &Enclosure,
    kontain: &Arc<kontain::Files>,
) -> Result<Namespace, ServeError> {
    let build = || -> Result<Namespace, Errno> {
        let mut builder = Builder::with_proc(&enclosure.proc, &bundle.root, Access::ReadOnly)?
            .owners(enclosure.first_user)
            .instance("unnamed")
            .proc()?
            .sys()?
            .dev()?;
        for path in ["/tmp", "/dev/shm", "/var/tmp"] {
            builder = builder.scratch(path, &enclosure.scratch)?;
        }
        for (path, file) in network::files(bundle) {
            builder = builder.special(path, Access::ReadOnly, Box::new(file))?;
        }
        if bundle.function.contract == crate::bundle::Contract::Kontain {
            builder = builder
                .special(
                    "/.request",
                    Access::ReadOnly,
                    Box::new(kontain::Request(kontain.clone())),
                )?
                .special(
                    "/.reply",
                    Access::ReadWrite,
                    Box::new(kontain::Reply(kontain.clone())),
                )?;
        }
        Ok(builder.build())
    };
    build().map_err(host_error(bundle.root.display().to_string()))
}

/// The socket that calls come to.
fn listen(path: &Path) -> Result<OwnedFd, ServeError> {
    let name = path.as_os_str().as_bytes();
    let problem = || host_error(path.display().to_string());
    if name.len() >= SOCKET_PATH_MAX {
        return Err(problem()(Errno::NAMETOOLONG));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(problem()(error.into())),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(|error| problem()(error.into()))?;
    let listener = raise(listener.into()).map_err(problem())?;
    // The standard library's backlog of 128 would refuse a burst.
    sys::listen(&listener, BACKLOG).map_err(problem())?;
    Ok(listener)
}

/// What an instance says to `serve`, for the fuzzers.
#[cfg(any(fuzzing, test))]
pub fn fuzz(bytes: &[u8]) {
    let _ = postcard::from_bytes::<channel::Message>(bytes);
}
