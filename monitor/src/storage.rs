//! What an instance may store: the files of its private directories and its files in memory, under one limit.
//!
//! The sum of the *sizes* of all regular files that a guest can write is kept below the limit, in pages, with one page more
//! for each name. A size is what every way to store bytes must first raise (a mapping cannot reach behind it), so only what
//! makes a file larger, or makes a name, is watched: write(2) and relatives, truncate, fallocate, and the copies between
//! descriptors. A sparse file counts whole.
//!
//! The true size is read again after every such call, all of which are made one at a time under one lock: what was foreseen
//! only decides whether the call is made. Meanwhile no descriptor of the guest's is closed or replaced (`Steady`). What is no
//! file may wait as long as it likes, and is written to by a private copy of the descriptor, so no other thread can exchange
//! it for a file between the look and the call. Sockets need no copy: send(2) fails on everything else.
//!
//! Locks are taken in this order: the account, the address space, the numbers (`Steady`).
//!
//! A name that goes gives its page back at once. The bytes of a file without a name come back when room is short and no
//! descriptor of the process leads to it. What was ever mapped is kept on the account, because a mapping holds a file as well;
//! and once a descriptor was sent through a socket, where it can hide, nothing without a name comes back.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::errno::{Errno, SysResult};
use crate::fs::Account;
use crate::fs::descriptors::{self, MONITOR_FD_FLOOR, Steady, guest_fd};
use crate::sys;

/// The unit of account, bytes.
const PAGE: u64 = 4096;
/// No function has less than this, bytes.
const LEAST: u64 = 64 << 20;
/// Names that may exist at a time: they take inodes of the host.
const NAMES_MAX: u64 = 64 << 10;
/// Mapped files that are remembered.
const MAPPED_MAX: usize = 64 << 10;
/// What a number may be: not looked at, or a file; a pipe or the like; a socket.
const UNKNOWN: u8 = 0;
const PLAIN: u8 = 1;
const SOCKET: u8 = 2;
const NO_SPACE: Errno = Errno(libc::ENOSPC);

fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE)
}

/// Where a write begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the position of the open file.
    Position,
    At(i64),
    End,
}

type Key = (u64, u64);

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
struct File {
    key: Key,
    kind: u32,
    size: u64,
    names: u64,
}

impl File {
    fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        Ok(Self::from(&sys::stat(&fd)?))
    }

    fn is_regular(&self) -> bool {
        self.kind == libc::S_IFREG
    }
}

impl From<&libc::stat> for File {
    fn from(stat: &libc::stat) -> Self {
        Self {
            key: (stat.st_dev, stat.st_ino),
            kind: stat.st_mode & libc::S_IFMT,
            size: stat.st_size.unsigned_abs(),
            names: stat.st_nlink,
        }
    }
}

/// A number of the guest's for one system call, which says EBADF when it is not open.
pub fn descriptor(fd: RawFd) -> Result<BorrowedFd<'static>, Errno> {
    Ok(descriptors::passing(guest_fd(fd)?))
}

/// The size of what the guest's `fd` is, if it is a regular file.
pub fn size(fd: RawFd) -> Result<Option<u64>, Errno> {
    let file = File::of(descriptor(fd)?)?;
    Ok(file.is_regular().then_some(file.size))
}

/// Where a write to what the guest's `fd` is would begin, if that is a regular file.
pub fn start_of(fd: RawFd, start: Start) -> Result<Option<u64>, Errno> {
    let descriptor = descriptor(fd)?;
    let file = File::of(descriptor)?;
    if !file.is_regular() {
        return Ok(None);
    }
    position(descriptor, start, file.size).map(Some)
}

/// The account of one instance.
pub struct Storage {
    state: Mutex<State>,
    /// What the numbers were when they were last looked at: `UNKNOWN`, `PLAIN`, `SOCKET`.
    kinds: Box<[AtomicU8]>,
}

struct State {
    /// In pages: the most, and what is in use.
    limit: u64,
    used: u64,
    /// Names that exist.
    names: u64,
    /// Pages by file.
    files: HashMap<Key, u64>,
    /// Those of them that had no name when they were last looked at.
    unnamed: HashSet<Key>,
    /// Files that were mapped at some time.
    mapped: HashSet<Key>,
    /// Whether a descriptor may be out of sight.
    hidden: bool,
    /// How many files without a name may pile up before they are looked through.
    patience: usize,
}

impl Storage {
    /// `bytes` is what the function may store; there is a least.
    pub fn new(bytes: u64) -> Self {
        Self::with_limit(bytes.max(LEAST))
    }

    fn with_limit(bytes: u64) -> Self {
        let numbers = usize::try_from(MONITOR_FD_FLOOR).unwrap_or(0);
        Self {
            state: Mutex::new(State {
                limit: bytes / PAGE,
                used: 0,
                names: 0,
                files: HashMap::new(),
                unnamed: HashSet::new(),
                mapped: HashSet::new(),
                hidden: false,
                patience: 1024,
            }),
            kinds: (0..numbers).map(|_| AtomicU8::new(UNKNOWN)).collect(),
        }
    }

    /// What may be stored, and what is.
    pub fn account(&self) -> Account {
        let state = self.lock();
        Account {
            blocks: (state.limit, state.used),
            names: (NAMES_MAX, state.names),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kind(&self, fd: RawFd) -> u8 {
        let known = usize::try_from(fd).ok().and_then(|fd| self.kinds.get(fd));
        known.map_or(UNKNOWN, |kind| kind.load(Ordering::Relaxed))
    }

    fn set_kind(&self, fd: RawFd, kind: u8) {
        if let Some(known) = usize::try_from(fd).ok().and_then(|fd| self.kinds.get(fd)) {
            known.store(kind, Ordering::Relaxed);
        }
    }

    /// Whether a number of the guest's is probably a socket: send(2) proves or refutes it.
    pub fn is_likely_socket(&self, fd: RawFd) -> bool {
        self.kind(fd) == SOCKET
    }

    /// The guest is about to close or replace a number.
    pub fn closing(&self, fd: RawFd) {
        self.set_kind(fd, UNKNOWN);
    }

    /// Makes a call that writes at most `length` bytes to what the guest's `fd` is; `make` gets the descriptor to use.
    /// `alone`: the guest has only ever had this thread, so what a number was it still is.
    pub fn write(
        &self,
        fd: RawFd,
        start: Start,
        length: u64,
        alone: bool,
        make: impl Fn(RawFd) -> SysResult,
    ) -> SysResult {
        self.to(fd, alone, &make, |file| {
            self.change(
                file,
                |_, _, found| end_of_write(file, start, length, found.size),
                || make(fd),
            )
        })
    }

    /// The same for a copy from elsewhere, which may be shorter than asked: `make` gets the length that there is room for.
    pub fn copy(
        &self,
        fd: RawFd,
        start: Start,
        length: u64,
        make: impl Fn(RawFd, u64) -> SysResult,
    ) -> SysResult {
        self.to(
            fd,
            false,
            |fd| make(fd, length),
            |file| {
                let fits = Cell::new(length);
                self.change(
                    file,
                    |state, steady, found| {
                        let wanted = end_of_write(file, start, length, found.size)?;
                        if state.make_room(found.growth(wanted), steady) {
                            return Ok(wanted);
                        }
                        let end = (pages(found.size) + state.room()) * PAGE;
                        fits.set(length.saturating_sub(wanted.saturating_sub(end)));
                        if fits.get() == 0 {
                            return Err(NO_SPACE);
                        }
                        Ok(wanted - (length - fits.get()))
                    },
                    || make(fd, fits.get()),
                )
            },
        )
    }

    /// Makes a call after which the file ends where `end` says, given its size.
    pub fn resize(
        &self,
        file: BorrowedFd<'_>,
        end: impl FnOnce(u64) -> Result<u64, Errno>,
        make: impl Fn() -> SysResult,
    ) -> SysResult {
        match self.change(file, |_, _, found| end(found.size), &make)? {
            Some(result) => Ok(result),
            // The kernel refuses what has no size.
            None => make(),
        }
    }

    /// Takes what was made before the guest runs into the account: so many names, and these files.
    pub fn adopt(&self, names: u64, files: &[OwnedFd]) -> Result<(), Errno> {
        let mut state = self.lock();
        let steady = descriptors::steady();
        state.names += names;
        state.used += names;
        for file in files {
            let file = File::of(file.as_fd())?;
            state.note(&file, &steady);
            // Whether it is mapped, the snapshot knows and this account does not.
            state.mapped.insert(file.key);
        }
        Ok(())
    }

    /// The guest is about to send descriptors through a socket.
    pub fn hides(&self) {
        self.lock().hidden = true;
    }

    /// For a call that maps files; to be taken before the lock of the address space.
    pub fn mappings(&self) -> Mappings<'_> {
        Mappings(self.lock())
    }

    /// What the guest's `fd` is decides who makes the call: `count`, which says if it is no file, or else `plain`, with a
    /// copy of the descriptor, that no other thread can exchange. No copy is made of a file: closing it would end the
    /// process's locks on it (fcntl(2)).
    fn to(
        &self,
        fd: RawFd,
        alone: bool,
        plain: impl Fn(RawFd) -> SysResult,
        count: impl Fn(BorrowedFd<'_>) -> Result<Option<u64>, Errno>,
    ) -> SysResult {
        loop {
            match self.kind(fd) {
                PLAIN if alone => return plain(fd),
                PLAIN | SOCKET => {
                    let copy = descriptors::copy(descriptor(fd)?)?;
                    if !File::of(copy.as_fd())?.is_regular() {
                        return plain(copy.as_raw_fd());
                    }
                }
                _ => {
                    let file = descriptor(fd)?;
                    if let Some(result) = count(file)? {
                        return Ok(result);
                    }
                    let is_socket = File::of(file)?.kind == libc::S_IFSOCK;
                    self.set_kind(fd, if is_socket { SOCKET } else { PLAIN });
                    continue;
                }
            }
            self.set_kind(fd, UNKNOWN);
        }
    }

    /// Makes a call that may change the size of a file; nothing if it is no regular file.
    fn change(
        &self,
        file: BorrowedFd<'_>,
        end: impl FnOnce(&mut State, &Steady, &File) -> Result<u64, Errno>,
        make: impl FnOnce() -> SysResult,
    ) -> Result<Option<u64>, Errno> {
        let mut state = self.lock();
        let steady = descriptors::steady();
        let before = File::of(file)?;
        if !before.is_regular() {
            return Ok(None);
        }
        state.note(&before, &steady);
        let end = end(&mut state, &steady, &before)?;
        if !state.make_room(before.growth(end), &steady) {
            return Err(NO_SPACE);
        }
        let result = make();
        state.note(&File::of(file)?, &steady);
        if state.used <= state.limit {
            return result.map(Some);
        }
        // Another thread moved the position of the open file in between: the file becomes what it was. Should even that
        // be prevented, nothing grows any more.
        let _ = sys::set_length(&file, before.size);
        state.note(&File::of(file)?, &steady);
        Err(NO_SPACE)
    }

    // ------------------------------------------------------------------ names

    /// Makes a name, by a call that does nothing else.
    pub fn add_name<T>(&self, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        self.names().add(make)
    }

    /// As long as it is held no name comes or goes.
    pub fn names(&self) -> Names<'_> {
        Names(self.lock())
    }

    /// Makes another name of a file, by a call that gives the file.
    pub fn add_link(&self, make: impl FnOnce() -> Result<libc::stat, Errno>) -> Result<(), Errno> {
        let mut state = self.lock();
        state.check_name()?;
        let file = File::from(&make()?);
        state.add_name();
        state.unnamed.remove(&file.key);
        Ok(())
    }

    /// Removes a name, or replaces one, by a call that gives what the file was before that lost it.
    pub fn remove_name(&self, make: impl FnOnce() -> Result<Option<libc::stat>, Errno>) -> Result<(), Errno> {
        let mut state = self.lock();
        if let Some(lost) = make()? {
            let file = File::from(&lost);
            state.names = state.names.saturating_sub(1);
            state.used = state.used.saturating_sub(1);
            if file.names == 1 && state.files.contains_key(&file.key) {
                state.unnamed.insert(file.key);
                state.look_through(&descriptors::steady());
            }
        }
        Ok(())
    }
}

/// The mappings of an instance's files, held.
pub struct Mappings<'a>(MutexGuard<'a, State>);

impl Mappings<'_> {
    /// The guest is about to map what its `fd` is.
    pub fn add(&mut self, fd: RawFd, _steady: &Steady) -> Result<(), Errno> {
        let found = File::of(descriptor(fd)?)?;
        if found.is_regular() {
            self.0.mapped.insert(found.key);
        }
        if self.0.mapped.len() > MAPPED_MAX {
            self.0.mapped.clear();
            self.0.hidden = true;
        }
        Ok(())
    }
}

/// The names of an instance, held.
pub struct Names<'a>(MutexGuard<'a, State>);

impl Names<'_> {
    /// Makes a name, by a call that does nothing else.
    pub fn add<T>(mut self, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        self.0.check_name()?;
        let made = make()?;
        self.0.add_name();
        Ok(made)
    }
}

/// Where a write to a regular file of this size ends.
fn end_of_write(file: BorrowedFd<'_>, start: Start, length: u64, size: u64) -> Result<u64, Errno> {
    if length == 0 {
        return Ok(size);
    }
    Ok(position(file, start, size)?.saturating_add(length))
}

fn position(file: BorrowedFd<'_>, start: Start, size: u64) -> Result<u64, Errno> {
    if sys::flags(&file)? & libc::O_APPEND != 0 {
        return Ok(size);
    }
    match start {
        Start::End => Ok(size),
        // The kernel refuses what is negative.
        Start::At(offset) => Ok(u64::try_from(offset).unwrap_or(0)),
        Start::Position => sys::position(&file),
    }
}

impl File {
    /// How many pages more the file has when it ends at `end`.
    fn growth(&self, end: u64) -> u64 {
        pages(end).saturating_sub(pages(self.size))
    }
}

impl State {
    fn room(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    fn fits(&self, more: u64) -> bool {
        self.used.saturating_add(more) <= self.limit
    }

    /// Whether there is room for so many pages, when all that is gone is given back.
    fn make_room(&mut self, more: u64, steady: &Steady) -> bool {
        if !self.fits(more) {
            self.collect(steady);
        }
        self.fits(more)
    }

    fn check_name(&mut self) -> Result<(), Errno> {
        if self.names < NAMES_MAX && self.make_room(1, &descriptors::steady()) {
            Ok(())
        } else {
            Err(NO_SPACE)
        }
    }

    fn add_name(&mut self) {
        self.names += 1;
        self.used += 1;
    }

    /// Takes a file's true size into the account.
    fn note(&mut self, file: &File, steady: &Steady) {
        let now = pages(file.size);
        let before = if now == 0 {
            self.unnamed.remove(&file.key);
            self.files.remove(&file.key)
        } else {
            if file.names == 0 {
                self.unnamed.insert(file.key);
            } else {
                self.unnamed.remove(&file.key);
            }
            self.files.insert(file.key, now)
        };
        self.used = self.used - before.unwrap_or(0) + now;
        self.look_through(steady);
    }

    fn look_through(&mut self, steady: &Steady) {
        if self.unnamed.len() > self.patience {
            self.collect(steady);
            self.patience = 2 * self.unnamed.len() + 1024;
        }
    }

    /// Gives back what has neither a name nor anything that leads to it.
    fn collect(&mut self, steady: &Steady) {
        if self.hidden || self.unnamed.is_empty() {
            return;
        }
        let mut open = HashSet::new();
        descriptors::each(steady, |fd| {
            if let Ok(file) = File::of(fd)
                && file.is_regular()
            {
                open.insert(file.key);
            }
        });
        let gone: Vec<Key> = self
            .unnamed
            .iter()
            .filter(|key| !open.contains(*key) && !self.mapped.contains(*key))
            .copied()
            .collect();
        for key in gone {
            self.unnamed.remove(&key);
            self.used -= self.files.remove(&key).unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests;
