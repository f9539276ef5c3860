//! The guest's descriptors as data, to be made again in a clone (`rebuilding`).
//!
//! What a descriptor is, the kernel says (/proc/self/fd and fdinfo), so nothing has to be tracked while the program boots,
//! but for which two ends make a socket pair. Files are opened again by path and put at their offset, or made again with their content
//! (`fs::carrying`), pipes and eventfds are made with theirs, epoll sets with their members. What cannot be carried refuses the snapshot, with the reason.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{SnapshotError, failed};
use crate::clock::{self, timers};
use crate::errno::{Errno, from_libc};
use crate::fs::carrying::Taking;
use crate::fs::descriptors::MONITOR_FD_FLOOR;
use crate::fs::{Files, Namespace};
use crate::network::host;
use crate::network::sockets::{Kind, Sockets};
use crate::process::Process;
use crate::sys;

/// Largest content of pipes that is carried, bytes.
const CONTENT_MAX: usize = 1 << 20;
/// Largest unread content of a connection that is carried, bytes: less than the buffer of a socket.
const LINK_CONTENT_MAX: usize = 16 << 10;

/// The three standard streams that the monitor gave the program: (device, inode) of each.
pub struct Streams {
    identities: [(u64, u64); 3],
}

impl Streams {
    /// Notes what stands behind 0, 1, 2 now.
    pub fn note() -> Result<Self, Errno> {
        Ok(Self {
            identities: [identity(0)?, identity(1)?, identity(2)?],
        })
    }
}

/// One descriptor of the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Descriptor {
    pub fd: i32,
    pub close_on_exec: bool,
    pub what: What,
    /// LOCK_SH or LOCK_EX of flock(2), if it holds a lock.
    pub lock: Option<i32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum What {
    /// A standard stream of the instance: 0, 1 or 2.
    Stream(u8),
    /// The same open file as a lower number.
    Same(i32),
    File {
        path: Vec<u8>,
        flags: i32,
        offset: i64,
    },
    /// A file without a name, or in memory: the number of its content among what is carried.
    Carried {
        content: u32,
        flags: i32,
        offset: i64,
    },
    /// An end of a pipe; pipes are numbered.
    Pipe {
        pipe: u32,
        write: bool,
        nonblocking: bool,
        content: Vec<u8>,
    },
    /// An end of a unix socket pair.
    Pair {
        pair: u32,
        end: u8,
        kind: i32,
        nonblocking: bool,
    },
    /// A socket without a peer, perhaps with a name, perhaps listening.
    Socket {
        family: i32,
        kind: i32,
        key: Option<String>,
        listening: bool,
        nonblocking: bool,
    },
    /// An end of a connection inside the instance, with what waits to be read from it.
    Linked {
        family: i32,
        /// The keys of this end and of the other.
        keys: [String; 2],
        nonblocking: bool,
        content: Vec<u8>,
    },
    Event {
        count: u64,
        semaphore: bool,
        nonblocking: bool,
    },
    Epoll {
        members: Vec<Member>,
    },
    Timer {
        timer: timers::Descriptor,
        nonblocking: bool,
    },
    Signals {
        mask: u64,
        nonblocking: bool,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    pub fd: i32,
    pub events: u32,
    pub data: u64,
}

fn stat(fd: i32) -> Result<libc::stat, Errno> {
    // SAFETY: all-zero is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a local of the documented type.
    from_libc(unsafe { libc::fstat(fd, &raw mut stat) })?;
    Ok(stat)
}

fn identity(fd: i32) -> Result<(u64, u64), Errno> {
    let stat = stat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

pub(super) fn fcntl(fd: i32, command: i32) -> Result<i32, Errno> {
    // SAFETY: commands without pointers.
    i32::try_from(from_libc(unsafe { libc::fcntl(fd, command) })?).map_err(|_| Errno::INVAL)
}

/// Fields of /proc/self/fdinfo: name → values, in order.
fn info(fd: i32) -> HashMap<String, Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let mut fields: HashMap<String, Vec<String>> = HashMap::new();
    for line in text.lines() {
        if let Some((name, value)) = line.split_once(':') {
            fields
                .entry(name.trim().to_owned())
                .or_default()
                .push(value.trim().to_owned());
        }
    }
    fields
}

/// Whether two numbers are one open file. Without kcmp(2) the answer is no, which costs a shared offset.
fn same_file(one: i32, two: i32) -> bool {
    // SAFETY: no pointers; KCMP_FILE is 0.
    unsafe {
        let pid = libc::getpid();
        libc::syscall(libc::SYS_kcmp, pid, pid, 0, one, two) == 0
    }
}

/// The locks of a kind that a descriptor holds: LOCK_SH or LOCK_EX.
fn locks(fd: i32, kind: &str) -> Vec<i32> {
    let fields = info(fd);
    let lines = fields.get("lock").map_or(&[][..], Vec::as_slice);
    lines
        .iter()
        .filter(|line| line.contains(kind))
        .map(|line| {
            if line.contains("WRITE") {
                libc::LOCK_EX
            } else {
                libc::LOCK_SH
            }
        })
        .collect()
}

/// Locks on parts of files belong to the process, or to one descriptor in a way that cannot be told. To be asked first: they end when any
/// descriptor of their file is closed.
pub fn refuse_record_locks(files: &Namespace) -> Result<(), SnapshotError> {
    for fd in files.open_descriptors() {
        if ["POSIX", "OFDLCK"].iter().any(|kind| !locks(fd, kind).is_empty()) {
            return Err(SnapshotError::Refused(format!(
                "descriptor {fd}: a lock on a part of a file (fcntl)"
            )));
        }
    }
    Ok(())
}

/// All descriptors of the guest.
pub fn capture(
    process: &Process,
    sockets: &Sockets,
    streams: &Streams,
    clocks: &clock::Frozen,
    taking: &mut Taking<'_>,
) -> Result<Vec<Descriptor>, SnapshotError> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").map_err(|error| failed("/proc/self/fd")(error.into()))? {
        let name = entry
            .map_err(|error| failed("/proc/self/fd")(error.into()))?
            .file_name();
        let Some(fd) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if fd >= MONITOR_FD_FLOOR {
            continue;
        }
        // The listing's own descriptor is gone by now.
        if let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{fd}")) {
            found.insert(fd, target.to_string_lossy().into_owned());
        }
    }
    let own_listing: Vec<i32> = found
        .iter()
        .filter(|(_, target)| target.starts_with("/proc/") && target.ends_with("/fd"))
        .map(|(fd, _)| *fd)
        .collect();
    for fd in own_listing {
        found.remove(&fd);
    }
    let mut capture = Capture {
        process,
        sockets,
        streams,
        clocks,
        taking,
        pipes: HashMap::new(),
        pairs: HashMap::new(),
    };
    let mut descriptors: Vec<Descriptor> = Vec::new();
    for (fd, target) in &found {
        let close_on_exec = fcntl(*fd, libc::F_GETFD).map_err(failed("fcntl"))? & libc::FD_CLOEXEC != 0;
        let earlier = descriptors
            .iter()
            .find(|known| !matches!(known.what, What::Same(_) | What::Stream(_)) && same_file(known.fd, *fd));
        let (what, lock) = match earlier {
            Some(earlier) => (What::Same(earlier.fd), None),
            None => {
                let what = capture.classify(*fd, target)?;
                let lock = locks(*fd, "FLOCK").first().copied();
                (what, lock)
            }
        };
        descriptors.push(Descriptor {
            fd: *fd,
            close_on_exec,
            what,
            lock,
        });
    }
    check_links(&descriptors)?;
    Ok(descriptors)
}

/// Both ends of a connection must be here.
fn check_links(descriptors: &[Descriptor]) -> Result<(), SnapshotError> {
    let ends: Vec<&[String; 2]> = descriptors
        .iter()
        .filter_map(|descriptor| match &descriptor.what {
            What::Linked { keys, .. } => Some(keys),
            _ => None,
        })
        .collect();
    for [own, other] in &ends {
        let others = ends.iter().filter(|[its, peer]| its == other && peer == own);
        if others.count() != 1 {
            return Err(SnapshotError::Refused(
                "a connection inside whose other end is not there".to_owned(),
            ));
        }
    }
    Ok(())
}

struct Capture<'a, 't> {
    process: &'a Process,
    sockets: &'a Sockets,
    streams: &'a Streams,
    /// When the clocks stood still.
    clocks: &'a clock::Frozen,
    taking: &'a mut Taking<'t>,
    /// Inode → number of the pipe.
    pipes: HashMap<u64, u32>,
    pairs: HashMap<u64, u32>,
}

impl Capture<'_, '_> {
    fn classify(&mut self, fd: i32, target: &str) -> Result<What, SnapshotError> {
        let refuse = |why: String| SnapshotError::Refused(format!("descriptor {fd}: {why}"));
        let flags = fcntl(fd, libc::F_GETFL).map_err(failed("fcntl"))?;
        let nonblocking = flags & libc::O_NONBLOCK != 0;
        let identity = identity(fd).map_err(failed("fstat"))?;
        if let Some(stream) = self
            .streams
            .identities
            .iter()
            .position(|known| *known == identity)
        {
            return Ok(What::Stream(u8::try_from(stream).unwrap_or(0)));
        }
        if target.starts_with("pipe:") {
            return self.pipe(fd, identity.1, flags);
        }
        if target.starts_with("socket:") {
            return self.socket(fd, identity.1, nonblocking).map_err(refuse);
        }
        let kind = target
            .strip_prefix("anon_inode:")
            .map(|kind| kind.trim_matches(['[', ']']));
        match kind {
            Some("eventfd") => {
                let fields = info(fd);
                let first = |name: &str| fields.get(name).and_then(|values| values.first());
                let count = first("eventfd-count").and_then(|text| u64::from_str_radix(text, 16).ok());
                let semaphore = first("eventfd-semaphore").is_some_and(|text| text != "0");
                let count = count.ok_or_else(|| refuse("an eventfd whose count is not known".to_owned()))?;
                Ok(What::Event {
                    count,
                    semaphore,
                    nonblocking,
                })
            }
            Some("eventpoll") => {
                let members = members(fd);
                for member in &members {
                    // A number that was closed while a copy of the file lives: the set still reports it, and cannot be made again.
                    if !is_member(fd, member.fd) {
                        return Err(refuse(format!(
                            "an epoll set that watches what was descriptor {}",
                            member.fd
                        )));
                    }
                }
                Ok(What::Epoll { members })
            }
            Some("timerfd") => {
                let timer = timers::Descriptor::observe(fd, self.clocks, |fd, name| {
                    info(fd).get(name)?.first().cloned()
                });
                Ok(What::Timer {
                    timer: timer.map_err(refuse)?,
                    nonblocking,
                })
            }
            Some("signalfd") => {
                let mask = info(fd)
                    .get("sigmask")
                    .and_then(|v| u64::from_str_radix(v.first()?, 16).ok());
                Ok(What::Signals {
                    mask: mask.unwrap_or(0),
                    nonblocking,
                })
            }
            Some(other) => Err(refuse(format!("{other} cannot be carried"))),
            None => self.file(fd, flags),
        }
    }

    fn file(&mut self, fd: i32, flags: i32) -> Result<What, SnapshotError> {
        let refuse = |why: String| SnapshotError::Refused(format!("descriptor {fd}: {why}"));
        let path = Files::new(&self.process.files, self.process)
            .descriptor_path(fd)
            .map_err(|errno| refuse(format!("an open file without a path: {errno}")))?;
        let shown = String::from_utf8_lossy(&path).into_owned();
        // SAFETY: no pointers; a descriptor without an offset answers with an error, and has none.
        let offset = unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) }.max(0);
        let flags = flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_TMPFILE)
            | flags & libc::O_DIRECTORY;
        if path.starts_with(b"/memfd:") || path.ends_with(b" (deleted)") {
            let content = self
                .taking
                .nameless(crate::fs::guest_descriptor(fd), &path)
                .map_err(|error| refuse(error.to_string()))?;
            if let Some(content) = content {
                return Ok(What::Carried {
                    content,
                    flags,
                    offset,
                });
            }
        }
        if !path.starts_with(b"/") || path.ends_with(b" (deleted)") {
            return Err(refuse(format!("{shown} has no path in a clone")));
        }
        let is_directory = stat(fd).map_err(failed("fstat"))?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if offset > 0 && is_directory && self.process.files.is_scratch(&path) {
            // Its position means something to this directory of the host alone.
            return Err(refuse(format!("the list of {shown} is half read")));
        }
        Ok(What::File { path, flags, offset })
    }

    fn pipe(&mut self, fd: i32, inode: u64, flags: i32) -> Result<What, SnapshotError> {
        let next = u32::try_from(self.pipes.len()).unwrap_or(u32::MAX);
        let pipe = *self.pipes.entry(inode).or_insert(next);
        let write = flags & libc::O_ACCMODE == libc::O_WRONLY;
        let mut content = Vec::new();
        if !write {
            let mut waiting = 0i32;
            // SAFETY: a local int.
            from_libc(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut waiting) })
                .map_err(failed("FIONREAD"))?;
            content = vec![0; usize::try_from(waiting).unwrap_or(0).min(CONTENT_MAX)];
            // The boot process ends after this: taking the bytes out harms nobody.
            // SAFETY: a local buffer with its length, of which that much is there.
            let got = unsafe { libc::read(fd, content.as_mut_ptr().cast(), content.len()) };
            content.truncate(usize::try_from(got).unwrap_or(0));
        }
        Ok(What::Pipe {
            pipe,
            write,
            nonblocking: flags & libc::O_NONBLOCK != 0,
            content,
        })
    }

    fn socket(&mut self, fd: i32, inode: u64, nonblocking: bool) -> Result<What, String> {
        let Some((id, end, kind)) = self.sockets.pair_of(inode) else {
            return self.named_socket(fd, nonblocking);
        };
        if waiting(fd).map_err(|errno| errno.to_string())? > 0 {
            return Err("a socket pair with data in it".to_owned());
        }
        let next = u32::try_from(self.pairs.len()).unwrap_or(u32::MAX);
        let pair = *self.pairs.entry(id).or_insert(next);
        Ok(What::Pair {
            pair,
            end,
            kind,
            nonblocking,
        })
    }

    fn named_socket(&mut self, fd: i32, nonblocking: bool) -> Result<What, String> {
        let text = |errno: Errno| errno.to_string();
        let (family, kind) = match self.sockets.kind(fd).map_err(text)? {
            Kind::Inside { family, kind } => (family, kind),
            Kind::Unix { kind } => (libc::AF_UNIX, kind),
            Kind::Netlink => (libc::AF_NETLINK, libc::SOCK_DGRAM),
            Kind::Outside { .. } | Kind::Call { .. } => return Err("a connection to the outside".to_owned()),
        };
        let key = Sockets::key_of(&host::local(fd));
        let peer = host::peer(fd);
        if peer.is_err() {
            let listening = host::is_listening(fd);
            if listening && host::is_readable(fd) {
                return Err("a connection that waits to be accepted".to_owned());
            }
            if !listening && kind == libc::SOCK_DGRAM && waiting(fd).map_err(text)? > 0 {
                return Err("a datagram socket with data in it".to_owned());
            }
            return Ok(What::Socket {
                family,
                kind,
                key,
                listening,
                nonblocking,
            });
        }
        let (Some(own), Some(other), libc::SOCK_STREAM) = (key, Sockets::key_of(&peer), kind) else {
            return Err("a connected unix or datagram socket".to_owned());
        };
        if host::is_half_closed(fd) {
            return Err("a connection that is half closed".to_owned());
        }
        let length = waiting(fd).map_err(text)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > LINK_CONTENT_MAX {
            return Err(format!("a connection with {length} unread bytes"));
        }
        let mut content = vec![0; length];
        let mut done = 0;
        // The boot process ends after this: taking the bytes out harms nobody.
        while done < length {
            match sys::receive(&fd, &mut content[done..], libc::MSG_DONTWAIT).map_err(text)? {
                0 => break,
                step => done += step,
            }
        }
        content.truncate(done);
        Ok(What::Linked {
            family,
            keys: [own, other],
            nonblocking,
            content,
        })
    }
}

/// Bytes that can be read from a socket.
fn waiting(fd: i32) -> Result<i32, Errno> {
    let mut waiting = 0i32;
    // SAFETY: a local int.
    from_libc(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut waiting) })?;
    Ok(waiting)
}

/// The members of an epoll set ("tfd: 5 events: 19 data: 5 …" lines of fdinfo).
fn members(fd: i32) -> Vec<Member> {
    let fields = info(fd);
    let lines = fields.get("tfd").map_or(&[][..], Vec::as_slice);
    lines
        .iter()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |name: &str| {
                words
                    .iter()
                    .position(|word| *word == name)
                    .and_then(|at| words.get(at + 1))
            };
            Some(Member {
                fd: words.first()?.parse().ok()?,
                events: u32::from_str_radix(after("events:")?, 16).ok()?,
                data: u64::from_str_radix(after("data:")?, 16).ok()?,
            })
        })
        .collect()
}

/// Whether a number is still what an epoll set watches under it, as far as the kernel tells.
fn is_member(set: i32, fd: i32) -> bool {
    let fields = info(set);
    let lines = fields.get("tfd").map_or(&[][..], Vec::as_slice);
    let Ok((_, inode)) = identity(fd) else {
        return false;
    };
    let (number, inode) = (fd.to_string(), format!("ino:{inode:x}"));
    lines.iter().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(&number) && words.any(|word| word == inode)
    })
}
