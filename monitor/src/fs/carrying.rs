//! What a program stored before it was ready, as data, and made again in a clone: the names in private directories with their files, files
//! that have lost their name, and files in memory.
//!
//! It is taken from a guest at rest. Making it again goes the guest's own way, by paths inside its namespace, so what a snapshot says can
//! reach nothing else.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::host;
use super::mounts::fd_path;
use super::namespace::{Files, Namespace};
use super::opening::OpenRequest;
use super::resolve::At;
use crate::errno::Errno;
use crate::sys;

/// Most bytes of content, and most names: each clone writes them before its call.
const BYTES_MAX: u64 = 32 << 20;
const NAMES_MAX: usize = 4096;
/// Deepest directory.
const DEPTH_MAX: usize = 64;
/// Bytes read at a time.
const STEP: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    #[error(
        "the program has stored more than {} MiB in private directories and memory files",
        BYTES_MAX >> 20
    )]
    Bytes,
    #[error("the program has made more than {NAMES_MAX} names in private directories")]
    Names,
    #[error("{path} is nested more than {DEPTH_MAX} directories deep")]
    Depth { path: String },
    #[error("{path} is a socket")]
    Socket { path: String },
    #[error("{path}: {source}")]
    Host { path: String, source: Errno },
}

/// All of it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Carried {
    pub contents: Vec<Content>,
    names: Vec<Name>,
}

/// One file.
#[derive(Clone, Serialize, Deserialize)]
pub struct Content {
    home: Home,
    mode: u32,
    length: u64,
    /// What is there, by offset; the rest is holes.
    pieces: Vec<(u64, Vec<u8>)>,
    /// When it was last changed: seconds, nanoseconds.
    modified: (i64, i64),
}

#[derive(Clone, Serialize, Deserialize)]
enum Home {
    /// Under one of the names.
    Named,
    /// In this private directory, where its name was removed.
    Nameless(Vec<u8>),
    /// In memory: its name for /proc, its seals.
    Memory(Vec<u8>, i32),
}

#[derive(Clone, Serialize, Deserialize)]
struct Name {
    /// The guest's path.
    path: Vec<u8>,
    mode: u32,
    what: What,
}

#[derive(Clone, Serialize, Deserialize)]
enum What {
    Directory,
    /// The number of its content.
    File(u32),
    Link(Vec<u8>),
    Fifo,
}

/// Files made again, by the number of their content: open for reading and writing.
pub type Remade = Vec<OwnedFd>;

/// Takes what there is.
///
/// Preconditions: the guest rests.
pub struct Taking<'a> {
    namespace: &'a Namespace,
    carried: Carried,
    /// Contents by device and inode.
    known: HashMap<(u64, u64), u32>,
    bytes: u64,
}

impl<'a> Taking<'a> {
    /// Begins with the private directories.
    pub fn begin(namespace: &'a Namespace) -> Result<Self, CarryError> {
        let mut taking = Self {
            namespace,
            carried: Carried::default(),
            known: HashMap::new(),
            bytes: 0,
        };
        for (path, directory) in namespace.private_directories() {
            taking.directory(&path, directory, 0)?;
        }
        Ok(taking)
    }

    pub fn finish(self) -> Carried {
        self.carried
    }

    /// The number of a file's content if it is carried already.
    pub fn known(&self, device: u64, inode: u64) -> Option<u32> {
        self.known.get(&(device, inode)).copied()
    }

    fn directory(&mut self, path: &[u8], directory: BorrowedFd<'_>, depth: usize) -> Result<(), CarryError> {
        let problem = |source| problem(path, source);
        if depth > DEPTH_MAX {
            return Err(CarryError::Depth { path: shown(path) });
        }
        let list = host::open(directory, c".", libc::O_RDONLY | libc::O_DIRECTORY).map_err(problem)?;
        let mut names = host::names(list).map_err(problem)?;
        names.sort();
        for name in names {
            let path = [path, b"/", &name].concat();
            self.name(&path, directory, &name, depth)?;
        }
        Ok(())
    }

    fn name(
        &mut self,
        path: &[u8],
        directory: BorrowedFd<'_>,
        name: &[u8],
        depth: usize,
    ) -> Result<(), CarryError> {
        let problem = |source| problem(path, source);
        if self.carried.names.len() >= NAMES_MAX {
            return Err(CarryError::Names);
        }
        let name = host::c_string(name).map_err(problem)?;
        let stat = host::stat_at(directory, &name).map_err(problem)?;
        let open = |flags| host::open(directory, &name, flags | libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let what = match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => What::Directory,
            libc::S_IFLNK => What::Link(host::read_link(directory, &name).map_err(problem)?),
            libc::S_IFIFO => What::Fifo,
            libc::S_IFREG => {
                let content = match self.known(stat.st_dev, stat.st_ino) {
                    Some(content) => content,
                    None => {
                        let file = open(libc::O_RDONLY).map_err(problem)?;
                        self.content(path, &file, Home::Named)?
                    }
                };
                What::File(content)
            }
            _ => return Err(CarryError::Socket { path: shown(path) }),
        };
        let is_directory = matches!(what, What::Directory);
        self.carried.names.push(Name {
            path: path.to_vec(),
            mode: stat.st_mode & 0o7777,
            what,
        });
        if is_directory {
            let inner = open(libc::O_RDONLY | libc::O_DIRECTORY).map_err(problem)?;
            self.directory(path, host::borrow(&inner), depth + 1)?;
        }
        Ok(())
    }

    /// A file without a name that a descriptor of the guest stands for, `shown` so by /proc; none if it is no file of the guest's own.
    pub fn nameless(&mut self, fd: BorrowedFd<'_>, shown: &[u8]) -> Result<Option<u32>, CarryError> {
        let problem = |source| problem(shown, source);
        let stat = host::stat(fd).map_err(problem)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Ok(None);
        }
        if let Some(content) = self.known(stat.st_dev, stat.st_ino) {
            return Ok(Some(content));
        }
        let bare = shown.strip_suffix(b" (deleted)").unwrap_or(shown);
        let home = if let Some(name) = bare.strip_prefix(b"/memfd:") {
            let seals = sys::seals(&fd).map_err(problem)?;
            Home::Memory(name.to_vec(), seals)
        } else if let Some(directory) = self.namespace.private_directory_of(bare) {
            Home::Nameless(directory)
        } else {
            return Ok(None);
        };
        let file = self.namespace.reopen(fd, libc::O_RDONLY).map_err(problem)?;
        self.content(shown, &file, home).map(Some)
    }

    fn content(&mut self, path: &[u8], file: &OwnedFd, home: Home) -> Result<u32, CarryError> {
        let problem = |source| problem(path, source);
        let file = host::borrow(file);
        let stat = host::stat(file).map_err(problem)?;
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let mut pieces = Vec::new();
        let mut at = 0;
        while let Some((start, end)) = sys::next_content(&file, at).map_err(problem)? {
            at = start;
            while at < end {
                let step = (end - at).min(STEP);
                self.bytes += step;
                if self.bytes > BYTES_MAX {
                    return Err(CarryError::Bytes);
                }
                let mut piece = vec![0; usize::try_from(step).unwrap_or(0)];
                let got = sys::read_at(&file, &mut piece, at).map_err(problem)?;
                if got == 0 {
                    break;
                }
                piece.truncate(got);
                pieces.push((at, piece));
                at += got as u64;
            }
            at = at.max(end);
        }
        let number = u32::try_from(self.carried.contents.len()).map_err(|_| CarryError::Names)?;
        self.carried.contents.push(Content {
            home,
            mode: stat.st_mode & 0o7777,
            length,
            pieces,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
        });
        self.known.insert((stat.st_dev, stat.st_ino), number);
        Ok(number)
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn problem(path: &[u8], source: Errno) -> CarryError {
    CarryError::Host {
        path: shown(path),
        source,
    }
}

impl Carried {
    /// How many names there are.
    pub fn names(&self) -> u64 {
        self.names.len() as u64
    }

    /// Makes all of it again.
    ///
    /// Preconditions: the private directories are empty; no code of the guest runs.
    pub fn remake(&self, files: Files<'_>) -> Result<Remade, CarryError> {
        let mut made: Vec<Option<(OwnedFd, CString)>> = Vec::new();
        made.resize_with(self.contents.len(), || None);
        for name in &self.names {
            self.make_name(files, name, &mut made)
                .map_err(|source| problem(&name.path, source))?;
        }
        // Not before: a directory that nobody may write to can have names, too.
        for name in self.names.iter().rev() {
            if matches!(name.what, What::Directory) {
                let path = host::c_string(&name.path).map_err(|source| problem(&name.path, source))?;
                files
                    .chmod(At::cwd(&path), name.mode, 0)
                    .map_err(|source| problem(&name.path, source))?;
            }
        }
        let mut remade = Vec::new();
        for (number, (content, made)) in self.contents.iter().zip(made).enumerate() {
            let file = match made {
                Some((file, _)) => Ok(file),
                None => content.make(files, number),
            };
            remade.push(file.map_err(|source| problem(b"a file without a name", source))?);
        }
        Ok(remade)
    }

    fn make_name(
        &self,
        files: Files<'_>,
        name: &Name,
        made: &mut [Option<(OwnedFd, CString)>],
    ) -> Result<(), Errno> {
        let path = host::c_string(&name.path)?;
        let at = At::cwd(&path);
        match &name.what {
            What::Directory => files.make_directory(at, 0o700),
            What::Link(target) => files.symlink(&host::c_string(target)?, at),
            What::Fifo => {
                files.make_node(at, libc::S_IFIFO | 0o600)?;
                files.chmod(at, name.mode, 0)
            }
            What::File(number) => {
                let number = usize::try_from(*number).map_err(|_| Errno::INVAL)?;
                let content = self.contents.get(number).ok_or(Errno::INVAL)?;
                match made.get_mut(number).ok_or(Errno::INVAL)? {
                    Some((_, first)) => files.link(At::cwd(first), at, 0).map(|_| ()),
                    none => {
                        let file = create(files, at)?;
                        content.fill(host::borrow(&file))?;
                        *none = Some((file, path));
                        Ok(())
                    }
                }
            }
        }
    }
}

fn create(files: Files<'_>, at: At<'_>) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
    files
        .open(at, OpenRequest::lenient(flags, 0o600)?)?
        .make_private()
}

impl Content {
    /// Makes a file that has no name.
    fn make(&self, files: Files<'_>, number: usize) -> Result<OwnedFd, Errno> {
        match &self.home {
            Home::Named => Err(Errno::INVAL),
            Home::Nameless(directory) => {
                let path = host::c_string(&[directory, format!("/.nameless-{number}").as_bytes()].concat())?;
                let file = create(files, At::cwd(&path))?;
                files.unlink(At::cwd(&path), 0)?;
                self.fill(host::borrow(&file))?;
                Ok(file)
            }
            Home::Memory(name, seals) => {
                let file = super::descriptors::private(|| sys::sealable_file(&host::c_string(name)?))?;
                self.fill(host::borrow(&file))?;
                sys::add_seals(&file, *seals)?;
                Ok(file)
            }
        }
    }

    fn fill(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        sys::set_length(&file, self.length)?;
        for (offset, piece) in &self.pieces {
            let mut done = 0;
            while done < piece.len() {
                done += sys::write_at(&file, &piece[done..], offset + done as u64)?;
            }
        }
        host::fchmod(file, self.mode)?;
        let modified = libc::timespec {
            tv_sec: self.modified.0,
            tv_nsec: self.modified.1,
        };
        sys::set_times(&file, modified)
    }
}

impl Files<'_> {
    /// Another open file of what a descriptor of the monitor stands for.
    pub fn reopen(&self, fd: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd, Errno> {
        self.namespace.reopen(fd, flags)
    }
}

impl Namespace {
    /// Another open file of what a descriptor stands for.
    fn reopen(&self, fd: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd, Errno> {
        host::open(host::borrow(&self.proc), &fd_path(fd.as_raw_fd())?, flags)
    }

    /// The private directories that were made: the guest's path of each, and it.
    fn private_directories(&self) -> Vec<(Vec<u8>, BorrowedFd<'_>)> {
        let made = self.mounts.iter();
        made.filter_map(|mount| Some((mount.path.clone(), mount.made_scratch()?)))
            .collect()
    }

    /// The private directory that a path of the guest lies in.
    fn private_directory_of(&self, path: &[u8]) -> Option<Vec<u8>> {
        let mount = self.mounts.of(path).ok()?;
        mount.is_scratch().then(|| mount.path.clone())
    }
}
