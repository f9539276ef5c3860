//! Files that no disk holds: /proc, /sys and /dev of the guest.
//!
//! A tree answers one question, what is at a path ([`Tree::look`]); it makes content only when something is opened. What
//! the guest then gets is a sealed file in memory whose *name* is its path in the guest and whose mode marks it. So the
//! descriptor itself carries everything through dup, fork, exec and sockets, and the monitor keeps no table: fstat,
//! getdents64, fchdir and the `*at` calls find the mark and ask the tree again. A directory's content is its records, as
//! getdents64 gives them. A guest can forge such a file; it then reads its own bytes back.

mod dev;
mod net;
mod proc;
mod process;
mod sys;

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) use dev::Devices;
pub use proc::Machine;

use super::host;
use super::namespace::Files;
use crate::errno::Errno;

/// One of the synthetic trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Tree {
    Proc,
    Sys,
    Dev,
}

/// What kind of thing a name in a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    Link,
    Device,
}

/// Makes the content of a file; `i32` is the thread or descriptor it is about.
pub type Content = fn(&Files<'_>, i32) -> Vec<u8>;

/// What is at a path of a tree.
pub enum Node {
    Directory(BTreeMap<Vec<u8>, Kind>),
    File(Content, i32),
    Text(&'static str),
    Link(Vec<u8>),
    /// `/proc/self/fd/N`: what a descriptor of the guest stands for.
    Descriptor(RawFd),
    /// One of the host's devices, by its place in [`Devices`].
    Device(usize),
}

/// An entry of a table of fixed names; the names below a directory start with its path.
pub type Entry = (&'static str, Fixed);

/// What a table can hold.
#[derive(Clone, Copy)]
pub enum Fixed {
    File(Content),
    Text(&'static str),
    Link(&'static str),
    Directory,
}

/// The mode that marks a synthetic file, besides that it has no name on any disk.
const FILE_MARK: u32 = libc::S_ISVTX | 0o444;
const DIRECTORY_MARK: u32 = libc::S_ISVTX | 0o555;

const NAME: &[u8] = b"mayfly:";
const SHOWN: &[u8] = b"/memfd:mayfly:";
const DELETED: &[u8] = b" (deleted)";

/// The number of the device that a synthetic file pretends to be on; no real one has it.
const DEVICE: u64 = 0xffff_ff00;

/// The path in the guest of a synthetic file, from what the host's /proc shows of its descriptor.
pub fn path_of_name(shown: &[u8]) -> Option<&[u8]> {
    shown.strip_prefix(SHOWN)?.strip_suffix(DELETED)
}

/// Whether this process may have a synthetic directory open: only then reading asks what it reads.
static DIRECTORIES: AtomicBool = AtomicBool::new(false);

/// A program that was executed finds what the one before has left open.
pub fn expect_directories() {
    DIRECTORIES.store(true, Ordering::Relaxed);
}

/// EISDIR if a number of the guest's is a synthetic directory, whose content is read by getdents64(2) only.
pub fn check_readable(fd: RawFd) -> Result<(), Errno> {
    if DIRECTORIES.load(Ordering::Relaxed)
        && let Ok(stat) = crate::sys::stat(&fd)
        && is_marked(&stat)
        && stat.st_mode & !libc::S_IFMT == DIRECTORY_MARK
    {
        return Err(Errno(libc::EISDIR));
    }
    Ok(())
}

/// Whether the attributes are those of a synthetic file (or of a forged one).
pub fn is_marked(stat: &libc::stat) -> bool {
    let mark = stat.st_mode & !libc::S_IFMT;
    stat.st_nlink == 0
        && stat.st_mode & libc::S_IFMT == libc::S_IFREG
        && (mark == FILE_MARK || mark == DIRECTORY_MARK)
}

impl Tree {
    /// What is at `rest`, a path below the root of the tree: `""` or `/…`. A link before the last name is in the way
    /// (`ELOOP`), as for a kernel that may not follow any.
    pub fn look(self, files: &Files<'_>, rest: &[u8]) -> Result<Node, Errno> {
        let names: Vec<&str> = rest
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .map(|name| std::str::from_utf8(name).map_err(|_| Errno::NOENT))
            .collect::<Result<_, _>>()?;
        match self {
            Self::Proc => proc::look(files, &names),
            Self::Sys => sys::look(files, &names),
            Self::Dev => files.namespace.devices.look(&names),
        }
    }

    fn device(self) -> u64 {
        match self {
            Self::Proc => DEVICE,
            Self::Sys => DEVICE + 1,
            Self::Dev => DEVICE + 2,
        }
    }

    /// The magic number by which statfs(2) tells the file system.
    pub fn magic(self) -> i64 {
        match self {
            Self::Proc => libc::PROC_SUPER_MAGIC,
            Self::Sys => 0x6265_6572,
            Self::Dev => libc::TMPFS_MAGIC,
        }
    }
}

/// What a table of fixed names has at a path.
pub fn look_in_table(table: &[Entry], names: &[&str]) -> Result<Node, Errno> {
    let path = names.join("/");
    let mut inside = BTreeMap::new();
    for (name, fixed) in table {
        if *name == path {
            return Ok(match fixed {
                Fixed::File(content) => Node::File(*content, 0),
                Fixed::Text(text) => Node::Text(text),
                Fixed::Link(target) => Node::Link(target.as_bytes().to_vec()),
                Fixed::Directory => Node::Directory(BTreeMap::new()),
            });
        }
        if let Some(end) = path.strip_prefix(name)
            && end.starts_with('/')
        {
            return Err(if matches!(fixed, Fixed::Link(_)) {
                Errno::LOOP
            } else {
                Errno::NOTDIR
            });
        }
        let below = if path.is_empty() {
            Some(*name)
        } else {
            name.strip_prefix(&path).and_then(|n| n.strip_prefix('/'))
        };
        if let Some(below) = below {
            let (first, kind) = match below.split_once('/') {
                Some((first, _)) => (first, Kind::Directory),
                None => (below, fixed.kind()),
            };
            inside.insert(first.as_bytes().to_vec(), kind);
        }
    }
    if inside.is_empty() && !names.is_empty() {
        Err(Errno::NOENT)
    } else {
        Ok(Node::Directory(inside))
    }
}

impl Fixed {
    fn kind(self) -> Kind {
        match self {
            Self::File(_) | Self::Text(_) => Kind::File,
            Self::Link(_) => Kind::Link,
            Self::Directory => Kind::Directory,
        }
    }
}

impl Node {
    /// The attributes, which hold as long as the path does.
    pub fn stat(&self, files: &Files<'_>, tree: Tree, path: &[u8]) -> Result<libc::stat, Errno> {
        let mode = match self {
            Self::Directory(_) => libc::S_IFDIR | 0o555,
            Self::File(..) | Self::Text(_) => libc::S_IFREG | 0o444,
            Self::Link(_) => libc::S_IFLNK | 0o777,
            Self::Descriptor(_) => libc::S_IFLNK | 0o700,
            Self::Device(index) => return host::stat(files.namespace.devices.reference(*index)),
        };
        // The rest of the structure (sizes, times) is taken from a real file that nobody ever writes.
        let mut stat = host::stat(host::borrow(&files.namespace.proc))?;
        stat.st_dev = tree.device();
        stat.st_ino = inode(path);
        stat.st_mode = mode;
        stat.st_nlink = if matches!(self, Self::Directory(_)) { 2 } else { 1 };
        stat.st_size = 0;
        stat.st_blocks = 0;
        stat.st_blksize = 1024;
        (stat.st_uid, stat.st_gid) = files.guest.user();
        Ok(stat)
    }

    /// The file in memory that the guest gets for it.
    pub fn materialize(&self, files: &Files<'_>, tree: Tree, path: &[u8]) -> Result<OwnedFd, Errno> {
        let (content, mark) = match self {
            Self::Directory(names) => {
                expect_directories();
                (records(path, names), DIRECTORY_MARK)
            }
            Self::File(content, subject) => (content(files, *subject), FILE_MARK),
            Self::Text(text) => (text.as_bytes().to_vec(), FILE_MARK),
            Self::Link(_) | Self::Descriptor(_) => (Vec::new(), FILE_MARK),
            Self::Device(index) => {
                return super::descriptors::copy(files.namespace.devices.reference(*index));
            }
        };
        debug_assert!(tree != Tree::Dev || !matches!(self, Self::File(..)));
        host::sealed_file(&host::c_string(&[NAME, path].concat())?, &content, mark)
    }
}

/// A directory as getdents64 gives it.
fn records(path: &[u8], names: &BTreeMap<Vec<u8>, Kind>) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |name: &[u8], kind: Kind| {
        let whole = match name {
            b"." => path.to_vec(),
            b".." => path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)].to_vec(),
            name => [path, b"/", name].concat(),
        };
        let length = (host::RECORD_NAME + name.len() + 1).next_multiple_of(8);
        let end = records.len() + length;
        records.extend_from_slice(&inode(&whole).to_ne_bytes());
        records.extend_from_slice(&(end as u64).to_ne_bytes());
        records.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
        records.push(match kind {
            Kind::Directory => libc::DT_DIR,
            Kind::File => libc::DT_REG,
            Kind::Link => libc::DT_LNK,
            Kind::Device => libc::DT_CHR,
        });
        records.extend_from_slice(name);
        records.resize(end, 0);
    };
    add(b".", Kind::Directory);
    add(b"..", Kind::Directory);
    for (name, kind) in names {
        add(name, *kind);
    }
    records
}

/// How many whole directory records at the start of `records` fit into `room` bytes.
pub fn whole_records(records: &[u8], room: usize) -> usize {
    let mut end = 0;
    while let Some(length) = records.get(end + host::RECORD_LENGTH..end + host::RECORD_LENGTH + 2) {
        let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
        if length <= host::RECORD_NAME || end + length > records.len().min(room) {
            break;
        }
        end += length;
    }
    end
}

/// An inode number that a path always has (FNV-1a).
fn inode(path: &[u8]) -> u64 {
    path.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Entry] = &[
        ("a/b/file", Fixed::Text("x")),
        ("a/link", Fixed::Link("b/file")),
        ("empty", Fixed::Directory),
    ];

    #[test]
    fn a_table_has_the_directories_that_its_names_imply() {
        let Ok(Node::Directory(names)) = look_in_table(TABLE, &[]) else {
            panic!()
        };
        assert_eq!(names.keys().collect::<Vec<_>>(), [b"a".as_slice(), b"empty"]);
        assert!(matches!(
            look_in_table(TABLE, &["a", "b"]),
            Ok(Node::Directory(_))
        ));
        assert!(matches!(
            look_in_table(TABLE, &["a", "b", "file"]),
            Ok(Node::Text("x"))
        ));
        assert!(matches!(
            look_in_table(TABLE, &["a", "b", "file", "x"]),
            Err(Errno::NOTDIR)
        ));
        assert!(matches!(
            look_in_table(TABLE, &["a", "link", "x"]),
            Err(Errno::LOOP)
        ));
        assert!(matches!(look_in_table(TABLE, &["a", "fil"]), Err(Errno::NOENT)));
    }

    #[test]
    fn records_that_do_not_fit_are_left_for_the_next_call() {
        let records = records(b"/proc", &BTreeMap::from([(b"some".to_vec(), Kind::File)]));
        assert_eq!(whole_records(&records, 4096), records.len());
        assert_eq!(whole_records(&records, records.len() - 1), 48);
        assert_eq!(whole_records(&records, 10), 0);
        assert_eq!(whole_records(&[0; 64], 64), 0);
    }
}
