//! /dev of the guest: five harmless devices of the host, the terminal if there is one, and the standard streams.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::{Kind, Node};
use crate::errno::Errno;
use crate::fs::host;

/// The devices that a guest may open, never others.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Directories that other mounts cover, or that programs expect to be there.
const DIRECTORIES: [&str; 2] = ["shm", "pts"];

/// References to the host's devices, taken while the host's /dev is in reach.
pub struct Devices(Vec<(&'static str, OwnedFd)>);

impl Devices {
    pub fn open() -> Result<Self, Errno> {
        let mut devices = Vec::new();
        for name in DEVICES {
            let path = host::c_string(format!("/dev/{name}").as_bytes())?;
            match host::open(host::working_directory(), &path, libc::O_PATH | libc::O_NOFOLLOW) {
                Ok(device) => devices.push((name, device)),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(devices))
    }

    /// The devices with the numbers of their descriptors.
    pub fn numbers(&self) -> Vec<(usize, RawFd)> {
        let place = |name: &str| DEVICES.iter().position(|known| *known == name);
        let known = self.0.iter();
        known
            .filter_map(|(name, fd)| Some((place(name)?, fd.as_raw_fd())))
            .collect()
    }

    /// The same in another process, which owns the descriptors now.
    pub fn take_up(devices: Vec<(usize, OwnedFd)>) -> Self {
        let known = devices.into_iter();
        Self(
            known
                .filter_map(|(place, fd)| Some((*DEVICES.get(place)?, fd)))
                .collect(),
        )
    }

    pub fn reference(&self, index: usize) -> BorrowedFd<'_> {
        host::borrow(&self.0[index].1)
    }

    /// Whether this is the terminal of whoever opens it.
    pub fn is_terminal(&self, index: usize) -> bool {
        self.0[index].0 == "tty"
    }

    /// The guest's path of a device of the host.
    pub fn guest_path(&self, host: &[u8]) -> Option<Vec<u8>> {
        let name = host.strip_prefix(b"/dev/")?;
        self.0
            .iter()
            .any(|(known, _)| known.as_bytes() == name)
            .then(|| host.to_vec())
    }

    pub fn look(&self, names: &[&str]) -> Result<Node, Errno> {
        let [name, rest @ ..] = names else {
            return Ok(Node::Directory(self.names()));
        };
        let last = rest.is_empty();
        if let Some(index) = self.0.iter().position(|(known, _)| known == name) {
            return if last {
                Ok(Node::Device(index))
            } else {
                Err(Errno::NOTDIR)
            };
        }
        if let Some((_, target)) = LINKS.iter().find(|(known, _)| known == name) {
            return if last {
                Ok(Node::Link(target.as_bytes().to_vec()))
            } else {
                Err(Errno::LOOP)
            };
        }
        if last && *name == "tty" {
            // No terminal, as the kernel says it of the device.
            return Err(Errno(libc::ENXIO));
        }
        if last && DIRECTORIES.contains(name) {
            return Ok(Node::Directory(BTreeMap::new()));
        }
        Err(Errno::NOENT)
    }

    fn names(&self) -> BTreeMap<Vec<u8>, Kind> {
        let devices = self.0.iter().map(|(name, _)| (*name, Kind::Device));
        let links = LINKS.iter().map(|(name, _)| (*name, Kind::Link));
        let directories = DIRECTORIES.iter().map(|name| (*name, Kind::Directory));
        devices
            .chain(links)
            .chain(directories)
            .map(|(name, kind)| (name.as_bytes().to_vec(), kind))
            .collect()
    }
}
