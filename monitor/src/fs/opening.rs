//! open, openat, openat2, creat: from a path to the one system call that gives the guest its descriptor.
//!
//! The file is found and judged first. What is left is a single call of the host, an [`OpenCall`], which the caller makes
//! itself, because it may wait (a FIFO) and must then be open to signals.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::descriptors;
use super::host::{self, OpenHow};
use super::mounts::{Mount, Purpose, fd_path};
use super::namespace::{Described, Files};
use super::resolve::{At, Ending, Last, Location, Rules, Target};
use super::synthetic::{Node, Tree};
use crate::errno::{Errno, SysResult};
use crate::sys::calls::{self, Arg, input, value};

/// The kernel's O_LARGEFILE, which libc has as zero on this architecture.
const LARGEFILE: i32 = 0o100_000;

/// The bit of O_TMPFILE that is its own.
const TMPFILE: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;

const KNOWN: i32 = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_ASYNC
    | libc::O_DIRECT
    | LARGEFILE
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_CLOEXEC
    | libc::O_PATH
    | TMPFILE;

/// All that means something together with O_PATH.
const WITH_PATH: i32 = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_PATH | libc::O_CLOEXEC;

/// What the guest asks of an opening call, checked.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest {
    flags: i32,
    mode: u32,
    rules: Rules,
}

impl OpenRequest {
    /// As open(2) takes it: what it does not know, or does not need, is ignored.
    pub fn lenient(flags: i32, mode: u32) -> Result<Self, Errno> {
        let mut flags = flags & KNOWN;
        if flags & libc::O_PATH != 0 {
            flags &= WITH_PATH;
        }
        let makes = flags & (libc::O_CREAT | TMPFILE) != 0;
        Self::checked(flags, if makes { mode & 0o7777 } else { 0 }, Rules::default())
    }

    /// As openat2(2) takes it: what it does not know is an error.
    pub fn strict(flags: u64, mode: u64, resolve: u64) -> Result<Self, Errno> {
        let flags = i32::try_from(flags).map_err(|_| Errno::INVAL)?;
        let mode = u32::try_from(mode).map_err(|_| Errno::INVAL)?;
        let makes = flags & (libc::O_CREAT | TMPFILE) != 0;
        if flags & !KNOWN != 0 || mode & !(if makes { 0o7777 } else { 0 }) != 0 {
            return Err(Errno::INVAL);
        }
        if flags & libc::O_PATH != 0 && flags & !WITH_PATH != 0 {
            return Err(Errno::INVAL);
        }
        Self::checked(flags, mode, Rules::from_resolve(resolve)?)
    }

    fn checked(flags: i32, mode: u32, rules: Rules) -> Result<Self, Errno> {
        let request = Self { flags, mode, rules };
        let both = libc::O_CREAT | libc::O_DIRECTORY;
        if flags & both == both {
            return Err(Errno::INVAL);
        }
        if request.has(TMPFILE)
            && (!request.has(libc::O_DIRECTORY) || flags & libc::O_ACCMODE == libc::O_RDONLY)
        {
            return Err(Errno::INVAL);
        }
        Ok(request)
    }

    fn has(self, flag: i32) -> bool {
        self.flags & flag != 0
    }

    /// Whether the file's content may change by it.
    fn writes(self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY || self.has(libc::O_TRUNC)
    }

    fn must_be_new(self) -> bool {
        self.has(libc::O_CREAT) && self.has(libc::O_EXCL)
    }

    fn last(self) -> Last {
        if self.has(libc::O_NOFOLLOW) || self.must_be_new() {
            Last::Keep
        } else {
            Last::Follow
        }
    }
}

/// The call that remains to be made. It may wait, so it is the caller's to make and to interrupt.
#[must_use]
pub struct OpenCall<'a> {
    /// It is the terminal: to whom the host refuses it, there is none.
    terminal: bool,
    path: CString,
    step: Step<'a>,
}

enum Step<'a> {
    /// Opens what a reference stands for, through the host's /proc.
    Existing {
        proc: BorrowedFd<'a>,
        flags: i32,
        mode: u32,
        _file: OwnedFd,
    },
    /// Makes a file below the root of a writable mount.
    New { root: BorrowedFd<'a>, how: OpenHow },
    /// Gives the guest a copy of a reference.
    Copy { file: OwnedFd, command: i32 },
}

impl OpenCall<'_> {
    /// The number and the arguments of the call.
    pub fn system_call(&self) -> (i64, [Arg<'_>; 4]) {
        let fd = |fd: RawFd| value(i64::from(fd).cast_unsigned());
        let flag = |flags: i32| value(flags.cast_unsigned().into());
        let path = Arg::Name(&self.path);
        match &self.step {
            Step::Existing {
                proc, flags, mode, ..
            } => (
                libc::SYS_openat,
                [fd(proc.as_raw_fd()), path, flag(*flags), value((*mode).into())],
            ),
            Step::New { root, how } => (
                libc::SYS_openat2,
                [
                    fd(root.as_raw_fd()),
                    path,
                    input(how),
                    value(size_of::<OpenHow>() as u64),
                ],
            ),
            Step::Copy { file, command } => (
                libc::SYS_fcntl,
                [fd(file.as_raw_fd()), flag(*command), value(0), value(0)],
            ),
        }
    }

    /// Whether the call makes a file that was not there.
    pub fn makes(&self) -> bool {
        matches!(self.step, Step::New { .. })
    }

    /// What the call gave, as the guest's.
    pub fn admit(&self, result: SysResult) -> Result<RawFd, Errno> {
        let result = match result {
            Err(Errno::ACCES) if self.terminal => Err(Errno(libc::ENXIO)),
            result => result,
        };
        let fd = RawFd::try_from(result?).map_err(|_| Errno::IO)?;
        descriptors::admit(descriptors::take_up(fd))
    }

    /// Makes the call here and now, deaf to signals: where there is no guest to interrupt, or nothing that can wait.
    #[cfg(test)]
    pub fn make(&self) -> Result<RawFd, Errno> {
        self.admit(self.perform())
    }

    fn perform(&self) -> SysResult {
        let (number, mut args) = self.system_call();
        calls::direct(number, &mut args)
    }

    /// The same for the monitor itself: above the floor.
    pub fn make_private(&self) -> Result<OwnedFd, Errno> {
        descriptors::private(|| {
            let fd = RawFd::try_from(self.perform()?).map_err(|_| Errno::IO)?;
            Ok(descriptors::take_up(fd))
        })
    }
}

/// What a file's place allows.
struct Place {
    writable: bool,
    devices: bool,
}

impl From<&Mount> for Place {
    fn from(mount: &Mount) -> Self {
        Self {
            writable: mount.check_writable().is_ok(),
            devices: mount.devices,
        }
    }
}

impl<'a> Files<'a> {
    /// Finds the file, or the place for a new one, and says how to open it.
    pub fn open(&self, at: At<'_>, request: OpenRequest) -> Result<OpenCall<'a>, Errno> {
        self.reach(at, request.last(), request.rules, |location| {
            self.open_at(location, request)
        })
    }

    fn open_at(&self, location: &Location, request: OpenRequest) -> Result<OpenCall<'a>, Errno> {
        if request.has(libc::O_CREAT) && location.ending == Ending::Slash {
            self.check_parent(location)?;
            return Err(Errno(libc::EISDIR));
        }
        let nofollow = if request.last() == Last::Keep {
            libc::O_NOFOLLOW
        } else {
            0
        };
        match self.reference(location, nofollow) {
            Ok(Target::Host { file, mount }) => self.open_existing(file, &mount.into(), request),
            Ok(Target::Descriptor(file)) => {
                let place = self.place_of(&file)?;
                self.open_existing(file, &place, request)
            }
            Ok(Target::Special { file, mount }) => {
                let purpose = if request.has(libc::O_PATH) {
                    Purpose::Look
                } else {
                    Purpose::Open
                };
                let file = file.file(purpose)?;
                self.open_existing(file, &mount.into(), request)
            }
            Ok(Target::Node { node, tree, path }) => self.open_node(node, tree, &path, request),
            Err(Errno::NOENT) if request.has(libc::O_CREAT) && location.ending == Ending::Name => {
                self.open_new(location, request)
            }
            Err(error) => Err(error),
        }
    }

    /// Judges what was found, by its type and its place.
    fn open_existing(
        &self,
        file: OwnedFd,
        place: &Place,
        request: OpenRequest,
    ) -> Result<OpenCall<'a>, Errno> {
        let kind = host::stat(host::borrow(&file))?.st_mode & libc::S_IFMT;
        let is_directory = kind == libc::S_IFDIR;
        if request.must_be_new() {
            return Err(Errno::EXIST);
        }
        if request.has(libc::O_DIRECTORY) && !is_directory {
            return Err(Errno::NOTDIR);
        }
        if request.has(libc::O_PATH) {
            let command = if request.has(libc::O_CLOEXEC) {
                libc::F_DUPFD_CLOEXEC
            } else {
                libc::F_DUPFD
            };
            return Ok(OpenCall {
                terminal: false,
                path: CString::default(),
                step: Step::Copy { file, command },
            });
        }
        if request.has(TMPFILE) {
            return if place.writable {
                self.existing(file, request)
            } else {
                Err(Errno::ROFS)
            };
        }
        match kind {
            libc::S_IFLNK => return Err(Errno::LOOP),
            libc::S_IFDIR if request.has(libc::O_CREAT) || request.writes() => {
                return Err(Errno(libc::EISDIR));
            }
            libc::S_IFREG if request.writes() && !place.writable => return Err(Errno::ROFS),
            libc::S_IFCHR | libc::S_IFBLK if !place.devices => return Err(Errno::ACCES),
            _ => {}
        }
        self.existing(file, request)
    }

    /// Opens what was judged, through its reference.
    fn existing(&self, file: OwnedFd, request: OpenRequest) -> Result<OpenCall<'a>, Errno> {
        let flags = request.flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW);
        let path = fd_path(file.as_raw_fd())?;
        let proc = host::borrow(&self.namespace.proc);
        Ok(OpenCall {
            terminal: false,
            path,
            step: Step::Existing {
                proc,
                flags,
                mode: request.mode,
                _file: file,
            },
        })
    }

    fn open_new(&self, location: &Location, request: OpenRequest) -> Result<OpenCall<'a>, Errno> {
        let mount = self.namespace.mounts.of(&location.path)?;
        if !mount.is_on_host() {
            return Err(Errno::ROFS);
        }
        if let Err(error) = mount.check_writable() {
            self.check_parent(location)?;
            return Err(error);
        }
        let how = OpenHow {
            flags: u64::from(request.flags.cast_unsigned()),
            mode: u64::from(request.mode),
            resolve: host::CONTAINED,
        };
        Ok(OpenCall {
            terminal: false,
            path: location.below(mount)?,
            step: Step::New {
                root: mount.root()?,
                how,
            },
        })
    }

    fn open_node(
        &self,
        node: Node,
        tree: Tree,
        path: &[u8],
        request: OpenRequest,
    ) -> Result<OpenCall<'a>, Errno> {
        if request.must_be_new() {
            return Err(Errno::EXIST);
        }
        let is_directory = matches!(node, Node::Directory(_));
        if request.has(libc::O_DIRECTORY) && !is_directory {
            return Err(Errno::NOTDIR);
        }
        match node {
            Node::Device(index) => {
                let device = descriptors::copy(self.namespace.devices.reference(index))?;
                let place = Place {
                    writable: true,
                    devices: true,
                };
                Ok(OpenCall {
                    terminal: self.namespace.devices.is_terminal(index),
                    ..self.open_existing(device, &place, request)?
                })
            }
            Node::Link(_) | Node::Descriptor(_) if !request.has(libc::O_PATH) => Err(Errno::LOOP),
            _ if request.has(TMPFILE) => Err(Errno::OPNOTSUPP),
            _ if is_directory && (request.writes() || request.has(libc::O_CREAT)) => Err(Errno(libc::EISDIR)),
            _ if request.writes() => Err(Errno::ACCES),
            node => {
                // What stands for a directory in memory is a file to the host.
                let flags = request.flags & !libc::O_DIRECTORY;
                self.existing(
                    node.materialize(self, tree, path)?,
                    OpenRequest { flags, ..request },
                )
            }
        }
    }

    /// What may be done with a file that the guest has open already.
    fn place_of(&self, file: &OwnedFd) -> Result<Place, Errno> {
        match self.namespace.describe(host::borrow(file))? {
            Described::Path { path, .. } => Ok(self.namespace.mounts.of(&path)?.into()),
            Described::Unnamed(_) => Ok(Place {
                writable: true,
                devices: true,
            }),
            Described::Foreign => {
                let kind = host::stat(host::borrow(file))?.st_mode & libc::S_IFMT;
                let harmless = matches!(kind, libc::S_IFIFO | libc::S_IFCHR | libc::S_IFSOCK);
                if harmless {
                    Ok(Place {
                        writable: true,
                        devices: true,
                    })
                } else {
                    Err(Errno::ACCES)
                }
            }
        }
    }

    /// That the directory is there in which a missing name would be.
    fn check_parent(&self, location: &Location) -> Result<(), Errno> {
        let end = location.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let parent = Location {
            path: location.path[..end].to_vec(),
            ending: Ending::Slash,
            descriptor: None,
        };
        self.reference(&parent, libc::O_DIRECTORY).map(|_| ())
    }
}
