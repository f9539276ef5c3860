//! From a path of the guest to the file that a kernel would find there.
//!
//! A [`Route`] is a path as text: names that may be links, and `..`. Two rules bring it to a place:
//!
//! 1. `..` goes away together with the name before it, once the kernel has said that everything before it is a directory
//!    reached without any link.
//! 2. A route without `..` is tried: the longest mount is taken, and the rest is given to the kernel, which refuses to pass
//!    a link (`ELOOP`). Only then the first link is looked for and replaced by its target, and the route is tried again.
//!
//! So the usual path costs one call, and the last call, the one whose result counts, is atomic and stays in its mount
//! whatever is renamed meanwhile.

use std::ffi::{CStr, CString};
use std::os::fd::{OwnedFd, RawFd};

use super::descriptors;
use super::host;
use super::mounts::{Mount, Source, SpecialFile};
use super::namespace::{Described, Files};
use super::synthetic::{Node, Tree};
use crate::errno::Errno;

/// A path as a system call names it.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// A descriptor of the guest, or `AT_FDCWD`.
    pub directory: RawFd,
    pub path: &'a CStr,
}

impl<'a> At<'a> {
    pub fn new(directory: RawFd, path: &'a CStr) -> Self {
        Self { directory, path }
    }

    /// A path from the working directory.
    pub fn cwd(path: &'a CStr) -> Self {
        Self {
            directory: libc::AT_FDCWD,
            path,
        }
    }
}

/// Where a path may lead; what openat2(2) calls `resolve`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules(u64);

impl Rules {
    /// Checks the `resolve` field of openat2(2).
    pub fn from_resolve(resolve: u64) -> Result<Self, Errno> {
        let known = libc::RESOLVE_NO_XDEV
            | libc::RESOLVE_NO_MAGICLINKS
            | libc::RESOLVE_NO_SYMLINKS
            | libc::RESOLVE_BENEATH
            | libc::RESOLVE_IN_ROOT
            | libc::RESOLVE_CACHED;
        let both = libc::RESOLVE_BENEATH | libc::RESOLVE_IN_ROOT;
        if resolve & !known != 0 || resolve & both == both {
            return Err(Errno::INVAL);
        }
        // Whether something is cached is never known here, so the honest answer is the one for "not cached".
        if resolve & libc::RESOLVE_CACHED != 0 {
            return Err(Errno::AGAIN);
        }
        Ok(Self(resolve))
    }

    fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    fn is_scoped(self) -> bool {
        self.has(libc::RESOLVE_BENEATH | libc::RESOLVE_IN_ROOT)
    }
}

/// Whether a link at the end of the path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Follow,
    Keep,
}

/// As many links as a kernel follows in one path.
const MAX_LINKS: u32 = 40;

/// How a path ends, apart from its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a name.
    Name,
    /// With a slash after it: it must be a directory, and a link there is followed.
    Slash,
    /// With `.` or `..`: the same, but for calls that would make a file there.
    Dots,
}

/// A route that is ready to be tried.
pub(super) struct Location {
    /// Canonical but for the last name, `""` for the root.
    pub(super) path: Vec<u8>,
    pub(super) ending: Ending,
    /// The path ended in `/proc/self/fd/N`: the file is this one.
    pub(super) descriptor: Option<OwnedFd>,
}

impl Location {
    /// The path below the root of its mount, as the kernel wants it.
    pub(super) fn below(&self, mount: &Mount) -> Result<CString, Errno> {
        let rest = mount.below(&self.path).ok_or(Errno::NOENT)?;
        let mut text = match rest {
            [] => b".".to_vec(),
            [_, rest @ ..] => rest.to_vec(),
        };
        if self.ending != Ending::Name {
            text.push(b'/');
        }
        host::c_string(&text)
    }
}

/// What was found at the end of a path.
pub(super) enum Target<'a> {
    /// A file of the host, as a reference.
    Host { file: OwnedFd, mount: &'a Mount },
    /// A synthetic file.
    Node { node: Node, tree: Tree, path: Vec<u8> },
    /// A file that the owner provides.
    Special {
        file: &'a dyn SpecialFile,
        mount: &'a Mount,
    },
    /// What a descriptor of the guest stands for, reached through `/proc/self/fd`.
    Descriptor(OwnedFd),
}

/// The place where a name is to be made or removed.
pub(super) struct Parent<'a> {
    pub(super) directory: OwnedFd,
    pub(super) mount: &'a Mount,
    /// The last name, with a slash at its end if the path had one.
    pub(super) name: CString,
    /// The canonical path that the name makes.
    pub(super) path: Vec<u8>,
    /// The path was the root itself; the name is then `.`.
    pub(super) is_root: bool,
}

impl Parent<'_> {
    /// Whether the last name is `.` or `..`, which can be neither made nor removed.
    pub(super) fn is_dots(&self) -> bool {
        matches!(self.name.to_bytes(), b"." | b".." | b"./" | b"../")
    }
}

struct Route {
    names: Vec<Vec<u8>>,
    ending: Ending,
    last: Last,
    rules: Rules,
    /// So many names at the start are the directory that a scoped path may not leave.
    scope: usize,
    /// So many names at the start are known to be no links.
    plain: usize,
    links: u32,
    descriptor: Option<OwnedFd>,
}

impl<'a> Files<'a> {
    /// Tries `attempt` on the places that the path may mean, until it gives something else than "a link is in the way".
    pub(super) fn reach<T>(
        &self,
        at: At<'_>,
        last: Last,
        rules: Rules,
        mut attempt: impl FnMut(&Location) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (mut route, start) = self.route(at, last, rules)?;
        loop {
            self.climb(&mut route)?;
            let location = route.location(route.names.len());
            if rules.has(libc::RESOLVE_NO_XDEV) && !self.same_mount(&start, &location.path)? {
                return Err(Errno(libc::EXDEV));
            }
            match attempt(&location) {
                Err(Errno::LOOP) if location.descriptor.is_none() => {
                    let end = route.names.len();
                    if !self.substitute(&mut route, end)? {
                        return Err(Errno::LOOP);
                    }
                }
                result => return result,
            }
        }
    }

    /// What is at the end of a path.
    pub(super) fn find(&self, at: At<'_>, last: Last) -> Result<Target<'a>, Errno> {
        let flags = if last == Last::Keep { libc::O_NOFOLLOW } else { 0 };
        self.reach(at, last, Rules::default(), |location| {
            self.reference(location, flags)
        })
    }

    /// What is at a location. With `O_NOFOLLOW` a link itself is found, else it is in the way.
    pub(super) fn reference(&self, location: &Location, flags: i32) -> Result<Target<'a>, Errno> {
        if let Some(descriptor) = &location.descriptor {
            return Ok(Target::Descriptor(descriptors::copy(host::borrow(descriptor))?));
        }
        let mount = self.namespace.mounts.of(&location.path)?;
        match &mount.source {
            Source::Directory(_) | Source::Scratch(_) => {
                let file = host::reference(mount.root()?, &location.below(mount)?, flags)?;
                Ok(Target::Host { file, mount })
            }
            Source::Special(_) if location.path != mount.path || location.ending != Ending::Name => {
                Err(Errno::NOTDIR)
            }
            Source::Special(file) => Ok(Target::Special {
                file: file.as_ref(),
                mount,
            }),
            Source::Tree(tree) => {
                let rest = mount.below(&location.path).ok_or(Errno::NOENT)?;
                let node = tree.look(self, rest)?;
                let follows = flags & libc::O_NOFOLLOW == 0 || location.ending != Ending::Name;
                match node {
                    Node::Link(_) | Node::Descriptor(_) if follows => Err(Errno::LOOP),
                    Node::Directory(_) => Ok(Target::Node {
                        node,
                        tree: *tree,
                        path: location.path.clone(),
                    }),
                    _ if location.ending != Ending::Name => Err(Errno::NOTDIR),
                    node => Ok(Target::Node {
                        node,
                        tree: *tree,
                        path: location.path.clone(),
                    }),
                }
            }
        }
    }

    /// The directory that the last name of a path is in, and that name.
    pub(super) fn parent(&self, at: At<'_>) -> Result<Parent<'a>, Errno> {
        let text = at.path.to_bytes();
        if text.is_empty() {
            return Err(Errno::NOENT);
        }
        let end = text
            .iter()
            .rposition(|byte| *byte != b'/')
            .map_or(0, |last| last + 1);
        let start = text[..end]
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |slash| slash + 1);
        let mut name = text[start..end].to_vec();
        let directory = match (&text[..start], end) {
            (_, 0) => {
                name = b".".to_vec();
                c"/".into()
            }
            ([], _) => c".".into(),
            (directory, _) => host::c_string(directory)?,
        };
        let flags = libc::O_DIRECTORY;
        let (target, mut path) = self.reach(
            At::new(at.directory, &directory),
            Last::Follow,
            Rules::default(),
            |location| Ok((self.reference(location, flags)?, location.path.clone())),
        )?;
        path.push(b'/');
        path.extend_from_slice(&name);
        if end != 0 && end < text.len() {
            name.push(b'/');
        }
        match target {
            Target::Host { file, mount } => Ok(Parent {
                directory: file,
                mount,
                name: host::c_string(&name)?,
                path,
                is_root: end == 0,
            }),
            Target::Node {
                node: Node::Directory(_),
                ..
            } => Err(Errno::ROFS),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn same_mount(&self, one: &[u8], other: &[u8]) -> Result<bool, Errno> {
        Ok(self.namespace.mounts.of(one)?.path == self.namespace.mounts.of(other)?.path)
    }

    /// The route at its start, and the canonical path of its base.
    fn route(&self, at: At<'_>, last: Last, rules: Rules) -> Result<(Route, Vec<u8>), Errno> {
        let text = at.path.to_bytes();
        if text.is_empty() {
            return Err(Errno::NOENT);
        }
        if text.len() >= host::path_max() {
            return Err(Errno::NAMETOOLONG);
        }
        let absolute = text.starts_with(b"/");
        if absolute && rules.has(libc::RESOLVE_BENEATH) {
            return Err(Errno(libc::EXDEV));
        }
        let base = if absolute && !rules.is_scoped() {
            Vec::new()
        } else {
            self.namespace.base(at.directory)?
        };
        let mut names: Vec<Vec<u8>> = split(&base).collect();
        let known = names.len();
        names.extend(split(text));
        let route = Route {
            names,
            ending: ending(text),
            last,
            rules,
            scope: if rules.is_scoped() { known } else { 0 },
            plain: known,
            links: 0,
            descriptor: None,
        };
        Ok((route, base))
    }

    /// Takes every `..` out of a route.
    fn climb(&self, route: &mut Route) -> Result<(), Errno> {
        while let Some(index) = route.names.iter().position(|name| name == b"..") {
            if index == route.scope {
                if route.rules.has(libc::RESOLVE_BENEATH) {
                    return Err(Errno(libc::EXDEV));
                }
                route.names.remove(index);
                continue;
            }
            let mut above = route.location(index);
            above.ending = Ending::Slash;
            match self.reference(&above, libc::O_DIRECTORY) {
                Ok(_) => {
                    route.names.drain(index - 1..=index);
                    route.plain = route.plain.min(index - 1);
                }
                Err(Errno::LOOP) => {
                    if !self.substitute(route, index)? {
                        return Err(Errno::LOOP);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Replaces the first link among the first `end` names by what it points to; false if there is none.
    fn substitute(&self, route: &mut Route, end: usize) -> Result<bool, Errno> {
        for index in route.plain..end {
            let is_last = index + 1 == route.names.len();
            if is_last && route.last == Last::Keep && route.ending == Ending::Name {
                return Ok(false);
            }
            match self.link_at(&route.location(index + 1).path)? {
                None => route.plain = index + 1,
                Some(Link::Text(target)) => {
                    route.follow(index, &target)?;
                    return Ok(true);
                }
                Some(Link::Descriptor(fd)) => {
                    self.jump(route, index, fd)?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The link at a path without links before its last name.
    fn link_at(&self, path: &[u8]) -> Result<Option<Link>, Errno> {
        if self.namespace.mounts.is_mount_point(path) {
            return Ok(None);
        }
        let place = Location {
            path: path.to_vec(),
            ending: Ending::Name,
            descriptor: None,
        };
        Ok(match self.reference(&place, libc::O_NOFOLLOW)? {
            Target::Host { file, .. } if is_link(&host::stat(host::borrow(&file))?) => {
                Some(Link::Text(host::read_link(host::borrow(&file), c"")?))
            }
            Target::Node {
                node: Node::Link(target),
                ..
            } => Some(Link::Text(target)),
            Target::Node {
                node: Node::Descriptor(fd),
                ..
            } => Some(Link::Descriptor(fd)),
            _ => None,
        })
    }

    /// Follows `/proc/self/fd/N`, the name at `index`.
    fn jump(&self, route: &mut Route, index: usize, fd: RawFd) -> Result<(), Errno> {
        if route.rules.has(libc::RESOLVE_NO_MAGICLINKS) {
            return Err(Errno::LOOP);
        }
        let file = self.namespace.pin(fd)?;
        let is_last = index + 1 == route.names.len();
        if is_directory(&host::stat(host::borrow(&file))?) {
            return match self.namespace.describe(host::borrow(&file))? {
                Described::Path { path, deleted: false } => route.follow(index, &[b"/", &path[..]].concat()),
                Described::Path { deleted: true, .. } => Err(Errno::NOENT),
                Described::Unnamed(_) | Described::Foreign => Err(Errno::ACCES),
            };
        }
        if let Described::Path { path, .. } = self.namespace.describe(host::borrow(&file))?
            && self
                .namespace
                .mounts
                .of(&path)
                .is_ok_and(|mount| matches!(mount.source, Source::Tree(_)))
        {
            // A synthetic file is made anew by its path.
            return route.follow(index, &path);
        }
        if !is_last || route.ending != Ending::Name {
            return Err(Errno::NOTDIR);
        }
        route.count_link()?;
        route.descriptor = Some(file);
        Ok(())
    }
}

enum Link {
    Text(Vec<u8>),
    Descriptor(RawFd),
}

impl Route {
    /// The place that the first `end` names make.
    fn location(&mut self, end: usize) -> Location {
        let whole = end == self.names.len();
        let path = self.names[..end]
            .iter()
            .flat_map(|name| [b"/", &name[..]].concat())
            .collect();
        Location {
            path,
            ending: if whole { self.ending } else { Ending::Name },
            descriptor: if whole { self.descriptor.take() } else { None },
        }
    }

    fn count_link(&mut self) -> Result<(), Errno> {
        self.links += 1;
        if self.links > MAX_LINKS || self.rules.has(libc::RESOLVE_NO_SYMLINKS) {
            return Err(Errno::LOOP);
        }
        Ok(())
    }

    /// Replaces the name at `index`, a link, by its target.
    fn follow(&mut self, index: usize, target: &[u8]) -> Result<(), Errno> {
        self.count_link()?;
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        let mut start = index;
        if target.starts_with(b"/") {
            if self.rules.has(libc::RESOLVE_BENEATH) {
                return Err(Errno(libc::EXDEV));
            }
            start = self.scope;
        }
        let rest = self.names.split_off(index + 1);
        if rest.is_empty() && self.ending == Ending::Name {
            self.ending = ending(target);
        }
        self.names.truncate(start);
        self.names.extend(split(target));
        self.names.extend(rest);
        self.plain = start;
        Ok(())
    }
}

/// The names of a path that mean something.
fn split(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
}

/// How a path ends.
fn ending(path: &[u8]) -> Ending {
    match path.rsplit(|byte| *byte == b'/').find(|name| !name.is_empty()) {
        Some(b"." | b"..") => Ending::Dots,
        _ if path.ends_with(b"/") => Ending::Slash,
        _ => Ending::Name,
    }
}

pub(super) fn is_link(stat: &libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFLNK
}

pub(super) fn is_directory(stat: &libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_path_is_seen() {
        for (path, expected) in [
            ("/", Ending::Slash),
            ("a/", Ending::Slash),
            ("a/.", Ending::Dots),
            ("a/.//", Ending::Dots),
            ("..", Ending::Dots),
            ("a", Ending::Name),
            ("a/...", Ending::Name),
            ("a/.b", Ending::Name),
        ] {
            assert_eq!(ending(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn contradictory_or_unknown_rules_are_refused() {
        assert_eq!(
            Rules::from_resolve(libc::RESOLVE_BENEATH | libc::RESOLVE_IN_ROOT),
            Err(Errno::INVAL)
        );
        assert_eq!(Rules::from_resolve(1 << 40), Err(Errno::INVAL));
    }
}
