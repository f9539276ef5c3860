//! Where the sockets of an instance have their names: a directory that nobody but the monitor's own user can enter. Names are reached
//! through the directory's descriptor, so neither its path nor a root directory matters.
//!
//! In an instance it is the instance's own. Programs that are run by hand share one for each user, and end their names with a secret of
//! the run.
//!
//! A name outlives its socket. Whether one is behind it is asked with a datagram socket: the kernel says ECONNREFUSED if there is
//! none, and something else for a living one of any type (EPROTOTYPE, unix(7)).

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use super::host;
use crate::errno::Errno;
use crate::fs::descriptors::{private, take_up};

/// Names made after which dead ones are looked for.
const SWEEP_EVERY: u32 = 1024;
/// Names that may be alive in one process.
const NAMES_MAX: usize = 8192;

pub struct Place {
    directory: OwnedFd,
    /// What all names end with.
    suffix: String,
    /// Names made since dead ones were looked for.
    made: AtomicU32,
}

/// A place as it is passed on over an exec of the monitor.
#[derive(Serialize, Deserialize)]
pub struct PassedPlace {
    pub directory: RawFd,
    suffix: String,
}

impl PassedPlace {
    pub fn take_up(self) -> Place {
        Place {
            directory: take_up(self.directory),
            suffix: self.suffix,
            made: AtomicU32::new(0),
        }
    }
}

impl Place {
    pub fn pass(&self) -> PassedPlace {
        PassedPlace {
            directory: self.directory.as_raw_fd(),
            suffix: self.suffix.clone(),
        }
    }

    pub fn descriptor(&self) -> RawFd {
        self.directory.as_raw_fd()
    }

    /// The keys of all names.
    pub fn keys(&self) -> Result<Vec<String>, Errno> {
        let names = crate::fs::names_in(&self.directory)?;
        let texts = names.into_iter().filter_map(|name| String::from_utf8(name).ok());
        Ok(texts
            .filter_map(|name| Some(name.strip_suffix(&self.suffix)?.to_owned()))
            .collect())
    }

    /// The private directory of an instance.
    pub fn open(directory: &Path) -> Result<Self, Errno> {
        let open = || {
            let mut options = File::options();
            options
                .read(true)
                .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW);
            Ok(options.open(directory)?.into())
        };
        Ok(Self {
            directory: private(open)?,
            suffix: String::new(),
            made: AtomicU32::new(0),
        })
    }

    /// The directory of a user's own runs. What dead runs left there is removed.
    pub fn of_user(secret: u64) -> Result<Self, Errno> {
        let parent = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let user = host::user();
        let path = parent.join(format!("mayfly-{user}"));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let mut place = Self::open(&path)?;
        let found = crate::sys::stat(&place.directory)?;
        if found.st_uid != user || found.st_mode & 0o077 != 0 {
            // Somebody else made it, to have a look.
            return Err(Errno::PERM);
        }
        place.suffix = format!("~{secret:016x}");
        place.sweep()?;
        Ok(place)
    }

    /// The address of a key.
    pub fn address(&self, key: &str) -> Vec<u8> {
        self.address_of_name(&format!("{key}{}", self.suffix))
    }

    fn address_of_name(&self, name: &str) -> Vec<u8> {
        let mut bytes = u16::try_from(libc::AF_UNIX).unwrap_or(0).to_ne_bytes().to_vec();
        bytes.extend(format!("/proc/thread-self/fd/{}/{name}", self.directory.as_raw_fd()).into_bytes());
        bytes
    }

    /// The key in a raw address of a socket, if it has one.
    pub fn key(address: &[u8]) -> Option<&str> {
        let name = address.get(2..)?.split(|byte| *byte == 0).next()?;
        let at = name.iter().rposition(|byte| *byte == b'/')?;
        let key = std::str::from_utf8(&name[at + 1..]).ok()?;
        key.split('~').next()
    }

    /// Gives a socket its name. EADDRINUSE while another living socket has it.
    pub fn bind(&self, fd: RawFd, key: &str) -> Result<(), Errno> {
        let address = self.address(key);
        match host::bind(fd, &address) {
            Err(Errno::ADDRINUSE) if !self.is_alive(key)? => {
                self.remove(key);
                host::bind(fd, &address)?;
            }
            result => result?,
        }
        if self.made.fetch_add(1, Ordering::Relaxed) + 1 >= SWEEP_EVERY {
            self.sweep()?;
        }
        Ok(())
    }

    pub fn connect(&self, fd: RawFd, key: &str) -> Result<(), Errno> {
        match host::connect(fd, &self.address(key)) {
            Err(Errno::NOENT) => Err(Errno::CONNREFUSED),
            result => result,
        }
    }

    /// Whether a socket has this name.
    pub fn is_alive(&self, key: &str) -> Result<bool, Errno> {
        is_alive(&self.address(key))
    }

    /// Takes a name away; its socket keeps it without being reachable by it.
    pub fn remove(&self, key: &str) {
        if let Ok(name) = CString::new(format!("{key}{}", self.suffix)) {
            crate::fs::remove_name(&self.directory, &name);
            self.made.fetch_sub(
                u32::from(self.made.load(Ordering::Relaxed) > 0),
                Ordering::Relaxed,
            );
        }
    }

    /// Removes the names of sockets that are gone.
    fn sweep(&self) -> Result<(), Errno> {
        let mut alive = 0;
        for name in crate::fs::names_in(&self.directory)? {
            let is_key = name.first().is_some_and(|first| b"tuapn".contains(first)) && name.contains(&b'.');
            let (true, Ok(text), Ok(name)) = (is_key, std::str::from_utf8(&name), CString::new(name.clone()))
            else {
                continue;
            };
            if is_alive(&self.address_of_name(text))? {
                // The others are those of other runs.
                alive += usize::from(text.ends_with(&self.suffix));
            } else {
                crate::fs::remove_name(&self.directory, &name);
            }
        }
        self.made.store(0, Ordering::Relaxed);
        if alive > NAMES_MAX {
            return Err(Errno(libc::ENOBUFS));
        }
        Ok(())
    }
}

/// Whether there is a socket behind an address.
fn is_alive(address: &[u8]) -> Result<bool, Errno> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let probe = private(|| host::socket(libc::AF_UNIX, kind))?;
    Ok(!matches!(
        host::connect(probe.as_raw_fd(), address),
        Err(Errno::NOENT | Errno::CONNREFUSED)
    ))
}
