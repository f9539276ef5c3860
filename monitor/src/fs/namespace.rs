//! The namespace itself: how it is put together, and what it knows about descriptors and the working directory.

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use serde::{Deserialize, Serialize};

use super::capacity::Account;
use super::descriptors::{guest_fd, take_up};
use super::host;
use super::mounts::{Access, Directory, Mount, Mounts, PassedMount, Scratch, Source, SpecialFile, fd_path};
use super::owners::Owners;
use super::resolve::{At, Last, Rules};
use super::synthetic::{self, Devices, Machine, Tree};
use crate::errno::Errno;
use crate::memory::mapping::MappedFile;

/// What the synthetic files tell about the guest; implemented by whoever runs it.
pub trait GuestInfo: Send + Sync {
    /// The guest's mappings, lowest first.
    fn regions(&self) -> Vec<Region>;
    /// The guest's path of the program that runs.
    fn executable(&self) -> Vec<u8>;
    /// The arguments, each ended by a NUL.
    fn arguments(&self) -> Vec<u8>;
    /// The environment at the start, each entry ended by a NUL.
    fn environment(&self) -> Vec<u8>;
    /// The auxiliary vector, as it lies on the stack.
    fn auxiliary_vector(&self) -> Vec<u8>;
    /// The guest's threads by their host ids.
    fn threads(&self) -> Vec<i32>;
    /// The name of one of them, without a newline.
    fn thread_name(&self, thread: i32) -> Option<Vec<u8>>;
    /// What the guest may use, in bytes.
    fn memory_limit(&self) -> u64;
    /// What it has mapped writable, in bytes.
    fn memory_used(&self) -> u64;
    /// How many processors it sees.
    fn processors(&self) -> u32;
    /// What uname(2) says.
    fn hostname(&self) -> Vec<u8>;
    /// The user and the group that it runs as.
    fn user(&self) -> (u32, u32);
    /// A resource limit (`RLIMIT_…`), soft and hard.
    fn limit(&self, resource: u32) -> [u64; 2];
    /// Its parent process; 0 for none that it could know.
    fn parent(&self) -> i32;
    /// The groups that it is told besides.
    fn groups(&self) -> Vec<u32> {
        Vec::new()
    }
    /// What it may store and what of that it has; `None` where only the host's disks are the limit.
    fn account(&self) -> Option<Account> {
        None
    }
}

/// One mapping of the guest.
#[derive(Clone, Debug, Default)]
pub struct Region {
    pub start: u64,
    pub end: u64,
    pub read: bool,
    pub write: bool,
    pub execute: bool,
    pub shared: bool,
    pub offset: u64,
    /// The file, or a name such as `[stack]`.
    pub file: MappedFile,
}

/// The mounts of a guest, and its working directory where the host process cannot have it.
pub struct Namespace {
    /// The host's /proc: where a descriptor leads, and how a reference is opened.
    pub(super) proc: OwnedFd,
    pub(super) mounts: Mounts,
    pub(super) machine: Machine,
    pub(super) devices: Devices,
    pub(super) owners: Owners,
    /// The descriptor of a synthetic directory (see `synthetic`) that the guest works in, or -1: then the host process's own
    /// working directory is the guest's. No lock, because fork may happen at any time.
    synthetic_directory: AtomicI32,
}

/// Puts a namespace together. The guest does not run yet, and the process has the root that it will keep.
pub struct Builder {
    namespace: Namespace,
    instance: Vec<u8>,
    /// The /proc that knows the guest's process, if another one knows this.
    guests_proc: Option<OwnedFd>,
}

impl Builder {
    /// Starts with the root, a directory of the host.
    pub fn new(root: &Path, access: Access) -> Result<Self, Errno> {
        Self::start(open_directory(Path::new("/proc"))?, root, access)
    }

    /// The same for a guest in another process namespace than the calling process, which `proc` knows; `/proc` knows the
    /// guest's.
    pub fn with_proc(proc: &OwnedFd, root: &Path, access: Access) -> Result<Self, Errno> {
        let mut builder = Self::start(super::descriptors::copy(host::borrow(proc))?, root, access)?;
        builder.guests_proc = Some(open_directory(Path::new("/proc"))?);
        Ok(builder)
    }

    fn start(proc: OwnedFd, root: &Path, access: Access) -> Result<Self, Errno> {
        let namespace = Namespace {
            machine: Machine::observe(host::borrow(&proc)),
            devices: Devices::open()?,
            proc,
            mounts: Mounts::new(),
            owners: Owners::default(),
            synthetic_directory: AtomicI32::new(-1),
        };
        let mut builder = Self {
            namespace,
            instance: Vec::new(),
            guests_proc: None,
        };
        builder.insert_directory(b"/", root, access, false)?;
        Ok(builder)
    }

    /// Device files of the root may be opened: for a guest that is run on the machine's own tree.
    #[must_use]
    pub fn with_devices(mut self) -> Self {
        self.namespace.mounts.allow_devices();
        self
    }

    /// The instance's own directory below `parent`, which [`Builder::scratch`] uses. Nothing is made yet.
    #[must_use]
    pub fn instance(mut self, name: &str) -> Self {
        self.instance = name.as_bytes().to_vec();
        self
    }

    /// Gives the guest an empty private directory at `path`: `<parent>/<instance>/<path with dashes>`.
    pub fn scratch(mut self, path: &str, parent: &Path) -> Result<Self, Errno> {
        let parent = open_directory(parent)?;
        let name = path.trim_matches('/').replace('/', "-");
        let scratch = Scratch::new(
            host::borrow(&self.namespace.proc),
            parent,
            &self.instance,
            name.as_bytes(),
        )?;
        self.insert(
            path.as_bytes(),
            Access::ReadWrite,
            false,
            Source::Scratch(scratch),
        )?;
        Ok(self)
    }

    /// Shows /proc of the guest.
    pub fn proc(mut self) -> Result<Self, Errno> {
        self.insert(b"/proc", Access::ReadOnly, false, Source::Tree(Tree::Proc))?;
        Ok(self)
    }

    /// Shows /sys of the guest.
    pub fn sys(mut self) -> Result<Self, Errno> {
        self.insert(b"/sys", Access::ReadOnly, false, Source::Tree(Tree::Sys))?;
        Ok(self)
    }

    /// Shows /dev with null, zero, full, random, urandom and the standard streams.
    pub fn dev(mut self) -> Result<Self, Errno> {
        self.insert(b"/dev", Access::ReadOnly, true, Source::Tree(Tree::Dev))?;
        Ok(self)
    }

    /// Shows one file at `path`.
    pub fn special(mut self, path: &str, access: Access, file: Box<dyn SpecialFile>) -> Result<Self, Errno> {
        self.insert(path.as_bytes(), access, false, Source::Special(file))?;
        Ok(self)
    }

    /// Shows the process's own user as the guest's; and, from `first` on, the image's users as what they are in the image.
    #[must_use]
    pub fn owners(mut self, first: Option<u32>) -> Self {
        self.namespace.owners = Owners::of_process(first);
        self
    }

    pub fn build(mut self) -> Namespace {
        if let Some(proc) = self.guests_proc {
            self.namespace.proc = proc;
        }
        self.namespace
    }

    fn insert_directory(
        &mut self,
        path: &[u8],
        directory: &Path,
        access: Access,
        devices: bool,
    ) -> Result<(), Errno> {
        let directory = Directory::new(host::borrow(&self.namespace.proc), open_directory(directory)?)?;
        self.insert(path, access, devices, Source::Directory(directory))
    }

    /// Mount paths must be canonical: where the root has a link on the way, the mount goes to where that link leads. When
    /// that is another mount's place the other one serves both.
    fn insert(&mut self, path: &[u8], access: Access, devices: bool, source: Source) -> Result<(), Errno> {
        let path = if path == b"/" {
            Vec::new()
        } else {
            self.canonical(path)?
        };
        if path.is_empty() || !self.namespace.mounts.is_mount_point(&path) {
            self.namespace.mounts.insert(Mount {
                path,
                access,
                devices,
                source,
            });
        }
        Ok(())
    }

    fn canonical(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let files = Files {
            namespace: &self.namespace,
            guest: &NoGuest,
        };
        let mut place = Vec::new();
        files.reach(
            At::cwd(&host::c_string(path)?),
            Last::Follow,
            Rules::default(),
            |location| {
                place = location.path.clone();
                // A private directory is not made by looking for it; it holds no links yet either.
                if self.namespace.is_scratch(&place) {
                    return Ok(());
                }
                match files.reference(location, 0) {
                    Err(Errno::LOOP) => Err(Errno::LOOP),
                    // It need not exist: what is mounted exists by being mounted.
                    _ => Ok(()),
                }
            },
        )?;
        Ok(place)
    }
}

/// Opens a path of the host below a directory of it, for the monitor.
pub fn open_below(directory: BorrowedFd<'_>, path: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    host::open(directory, path, libc::O_RDONLY)
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let path = host::c_string(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))?;
    host::open(host::working_directory(), &path, libc::O_PATH | libc::O_DIRECTORY)
}

/// Before there is a guest.
pub struct NoGuest;

impl GuestInfo for NoGuest {
    fn regions(&self) -> Vec<Region> {
        Vec::new()
    }
    fn executable(&self) -> Vec<u8> {
        Vec::new()
    }
    fn arguments(&self) -> Vec<u8> {
        Vec::new()
    }
    fn environment(&self) -> Vec<u8> {
        Vec::new()
    }
    fn auxiliary_vector(&self) -> Vec<u8> {
        Vec::new()
    }
    fn threads(&self) -> Vec<i32> {
        Vec::new()
    }
    fn thread_name(&self, _thread: i32) -> Option<Vec<u8>> {
        None
    }
    fn memory_limit(&self) -> u64 {
        0
    }
    fn memory_used(&self) -> u64 {
        0
    }
    fn processors(&self) -> u32 {
        1
    }
    fn hostname(&self) -> Vec<u8> {
        Vec::new()
    }
    fn user(&self) -> (u32, u32) {
        (0, 0)
    }
    fn limit(&self, _resource: u32) -> [u64; 2] {
        [libc::RLIM_INFINITY; 2]
    }
    fn parent(&self) -> i32 {
        0
    }
}

/// Where a descriptor leads, in the guest's terms.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Described {
    /// A path; `deleted` when no name of it is left.
    Path { path: Vec<u8>, deleted: bool },
    /// Something without a path: a pipe, a socket, memory.
    Unnamed(Vec<u8>),
    /// A file of the host that the guest has no path to.
    Foreign,
}

const DELETED: &[u8] = b" (deleted)";

impl Namespace {
    /// Where a descriptor leads.
    pub(super) fn describe(&self, fd: BorrowedFd<'_>) -> Result<Described, Errno> {
        let link = fd_path(fd.as_raw_fd())?;
        let shown = host::read_link(host::borrow(&self.proc), &link).map_err(|error| match error {
            Errno::NOENT => Errno::BADF,
            other => other,
        })?;
        self.translate(shown, || Ok(host::stat(fd)?.st_nlink == 0))
    }

    /// A reference to what a number of the guest's stands for now, whatever the guest then does to that number.
    ///
    /// Not a copy of the descriptor: closing that would end the guest's locks on the file (fcntl(2)).
    pub(super) fn pin(&self, fd: RawFd) -> Result<OwnedFd, Errno> {
        match host::open(host::borrow(&self.proc), &fd_path(guest_fd(fd)?)?, libc::O_PATH) {
            Err(Errno::NOENT) => Err(Errno::BADF),
            result => result,
        }
    }

    /// What the host's /proc shows of a file, in the guest's terms.
    fn translate(
        &self,
        shown: Vec<u8>,
        is_gone: impl FnOnce() -> Result<bool, Errno>,
    ) -> Result<Described, Errno> {
        if let Some(path) = synthetic::path_of_name(&shown) {
            return Ok(Described::Path {
                path: path.to_vec(),
                deleted: false,
            });
        }
        if !shown.starts_with(b"/") || shown.starts_with(b"/memfd:") {
            return Ok(Described::Unnamed(shown));
        }
        let deleted = shown.ends_with(DELETED) && is_gone()?;
        let named = if deleted {
            &shown[..shown.len() - DELETED.len()]
        } else {
            &shown[..]
        };
        if let Some(path) = self.mounts.guest_path(named) {
            return Ok(Described::Path { path, deleted });
        }
        if let Some(path) = self.devices.guest_path(named) {
            return Ok(Described::Path { path, deleted: false });
        }
        if named.starts_with(b"/dev/pts/") {
            return Ok(Described::Unnamed(named.to_vec()));
        }
        Ok(Described::Foreign)
    }

    /// The guest's working directory.
    pub(super) fn working_directory(&self) -> Result<Vec<u8>, Errno> {
        let synthetic = self.synthetic_directory.load(Ordering::Acquire);
        let described = if synthetic >= 0 {
            self.describe(host::guest_descriptor(synthetic))?
        } else {
            let shown = host::read_link(host::borrow(&self.proc), c"thread-self/cwd")?;
            self.translate(shown, || Ok(host::stat_here()?.st_nlink == 0))?
        };
        match described {
            Described::Path { path, deleted: false } => Ok(path),
            _ => Err(Errno::NOENT),
        }
    }

    /// Makes this the namespace of another instance: gives the private directories its name. None of them exists yet.
    pub fn set_instance(&mut self, name: &str) -> Result<(), Errno> {
        self.machine.renew();
        self.mounts.set_instance(name.as_bytes())
    }

    /// Whether a canonical path of the guest lies in a private directory.
    pub fn is_scratch(&self, path: &[u8]) -> bool {
        self.mounts.of(path).is_ok_and(Mount::is_scratch)
    }

    /// Moves the guest into a directory of the host.
    pub(super) fn enter(&self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        host::change_directory(directory)?;
        self.set_synthetic_directory(None);
        Ok(())
    }

    /// Moves the guest into a synthetic directory.
    pub(super) fn set_synthetic_directory(&self, directory: Option<OwnedFd>) {
        let new = directory.map_or(-1, IntoRawFd::into_raw_fd);
        let old = self.synthetic_directory.swap(new, Ordering::AcqRel);
        if old >= 0 {
            drop(take_up(old));
        }
    }

    /// The directory that a call names as its base, as a canonical path.
    pub(super) fn base(&self, directory: RawFd) -> Result<Vec<u8>, Errno> {
        if directory == libc::AT_FDCWD {
            return self.working_directory();
        }
        match self.describe(host::guest_descriptor(guest_fd(directory)?))? {
            Described::Path { path, deleted: false } => Ok(path),
            Described::Path { deleted: true, .. } => Err(Errno::NOENT),
            Described::Unnamed(_) => Err(Errno::NOTDIR),
            Described::Foreign => Err(Errno::ACCES),
        }
    }

    /// The guest's open descriptors.
    pub fn open_descriptors(&self) -> Vec<RawFd> {
        let mut numbers = self.descriptors_of_process();
        numbers.retain(|number| guest_fd(*number).is_ok());
        numbers
    }

    /// The monitor's open descriptors.
    pub fn monitor_descriptors(&self) -> Vec<RawFd> {
        let mut numbers = self.descriptors_of_process();
        numbers.retain(|number| guest_fd(*number).is_err());
        numbers
    }

    fn descriptors_of_process(&self) -> Vec<RawFd> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let Ok(directory) = host::open(host::borrow(&self.proc), c"thread-self/fd", flags) else {
            return Vec::new();
        };
        let names = host::names(directory).unwrap_or_default();
        let number = |name: &Vec<u8>| std::str::from_utf8(name).ok()?.parse::<RawFd>().ok();
        let mut numbers: Vec<_> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// A namespace as it is passed on over an exec of the monitor. Its descriptors must stay open over it.
#[derive(Serialize, Deserialize)]
pub struct PassedNamespace {
    proc: RawFd,
    mounts: Vec<PassedMount>,
    machine: Machine,
    devices: Vec<(usize, RawFd)>,
    owners: Owners,
    synthetic_directory: RawFd,
}

impl PassedNamespace {
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut known = vec![self.proc];
        known.extend(self.mounts.iter().flat_map(PassedMount::descriptors));
        known.extend(self.devices.iter().map(|(_, fd)| fd));
        known.extend((self.synthetic_directory >= 0).then_some(self.synthetic_directory));
        known
    }

    /// The namespace, in the process that the descriptors were passed on to.
    pub fn take_up(self) -> Namespace {
        let owned = take_up;
        synthetic::expect_directories();
        let mut mounts = Mounts::new();
        for mount in self.mounts {
            mounts.insert(mount.take_up());
        }
        let devices = self.devices.into_iter();
        Namespace {
            proc: owned(self.proc),
            mounts,
            machine: self.machine,
            devices: Devices::take_up(devices.map(|(place, fd)| (place, owned(fd))).collect()),
            owners: self.owners,
            synthetic_directory: AtomicI32::new(self.synthetic_directory),
        }
    }
}

impl Namespace {
    /// The descriptors that the namespace consists of.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut known = vec![self.proc.as_raw_fd()];
        known.extend(self.mounts.iter().flat_map(Mount::descriptors));
        known.extend(self.devices.numbers().iter().map(|(_, fd)| fd));
        let synthetic = self.synthetic_directory.load(Ordering::Acquire);
        known.extend((synthetic >= 0).then_some(synthetic));
        known
    }

    /// What a process needs that goes on as another program.
    pub fn pass(&self) -> Result<PassedNamespace, Errno> {
        Ok(PassedNamespace {
            proc: self.proc.as_raw_fd(),
            mounts: self.mounts.iter().map(Mount::pass).collect::<Result<_, _>>()?,
            machine: self.machine.clone(),
            devices: self.devices.numbers(),
            owners: self.owners,
            synthetic_directory: self.synthetic_directory.load(Ordering::Acquire),
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.set_synthetic_directory(None);
    }
}

/// The namespace for the length of one system call, together with what it must ask about the guest.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) guest: &'a dyn GuestInfo,
}

impl<'a> Files<'a> {
    pub fn new(namespace: &'a Namespace, guest: &'a dyn GuestInfo) -> Self {
        Self { namespace, guest }
    }

    /// What a file is that the guest maps.
    pub fn mapped_file(&self, fd: BorrowedFd<'_>) -> Result<MappedFile, Errno> {
        let stat = host::stat(fd)?;
        let name = match self.namespace.describe(fd)? {
            Described::Path { path, deleted: false } => path,
            Described::Path { path, deleted: true } => [&path, DELETED].concat(),
            Described::Unnamed(name) => name,
            Described::Foreign => Vec::new(),
        };
        Ok(MappedFile {
            name,
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// Where a descriptor of the guest leads, as `/proc/self/fd` shows it.
    pub fn descriptor_path(&self, fd: RawFd) -> Result<Vec<u8>, Errno> {
        Ok(
            match self.namespace.describe(host::guest_descriptor(guest_fd(fd)?))? {
                Described::Path { mut path, deleted } => {
                    if path.is_empty() {
                        path.push(b'/');
                    }
                    if deleted {
                        path.extend_from_slice(DELETED);
                    }
                    path
                }
                Described::Unnamed(name) => name,
                Described::Foreign => b"anon_inode:[host]".to_vec(),
            },
        )
    }
}
