//! Snapshots written and read: a head with its image, in memory and on disk.
//!
//! A file is written beside its place, made durable, and renamed: after a crash there is the old one or the new one. It is this user's
//! alone (0600), and is of one revision. What is read is verified before anything of it is used: the head at once, the image
//! chunk by chunk on its way to the memory file that instances map, so that nobody can change it afterwards.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::format::{CHUNK, Extent, FormatError, HEADER, Head, Header, Stamp, Sum};
use super::io::{clear, length, read_at, write_at};
use super::{Snapshot, SnapshotError, failed};
use crate::errno::Errno;
use crate::sys;
use crate::vm::layout::{LOW_END, PAGE, WINDOW};

const ZEROES: [u8; 4096] = [0; 4096];

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{0}")]
    Format(#[from] FormatError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Host(Errno),
    #[error("it belongs to user {owner} and its mode is {mode:o}: it must be this user's alone (mode 600)")]
    Foreign { owner: u32, mode: u32 },
    #[error("it is no regular file")]
    Kind,
}

impl From<Errno> for FileError {
    fn from(errno: Errno) -> Self {
        Self::Host(errno)
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// The image's pages that are not all zero, and their digests.
fn survey(image: BorrowedFd<'_>) -> Result<(Vec<Extent>, Vec<Sum>), Errno> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut digests = Digests::default();
    let mut buffer = vec![0u8; usize::try_from(CHUNK).map_err(|_| Errno::NOMEM)?];
    let mut at = LOW_END;
    while let Some((start, end)) = sys::next_content(&image, at)? {
        let end = end.next_multiple_of(PAGE).min(WINDOW);
        let mut from = start & !(PAGE - 1);
        while from < end {
            let step = usize::try_from((end - from).min(CHUNK)).map_err(|_| Errno::NOMEM)?;
            let piece = &mut buffer[..step];
            read_at(image, piece, from)?;
            for (address, page) in (from..)
                .step_by(ZEROES.len())
                .zip(piece.chunks_exact(ZEROES.len()))
            {
                if page == ZEROES {
                    continue;
                }
                digests.add(page);
                match extents.last_mut() {
                    Some(last) if last.end.get() == address => last.end = (address + PAGE).into(),
                    _ => extents.push(Extent {
                        start: address.into(),
                        end: (address + PAGE).into(),
                    }),
                }
            }
            from += step as u64;
        }
        at = end;
    }
    Ok((extents, digests.finish()))
}

/// Digests of a stream of pages, one a chunk.
#[derive(Default)]
struct Digests {
    done: Vec<Sum>,
    hash: Sha256,
    filled: u64,
}

impl Digests {
    fn add(&mut self, page: &[u8]) {
        self.hash.update(page);
        self.filled += page.len() as u64;
        if self.filled == CHUNK {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.done.push(self.hash.finalize_reset().into());
        self.filled = 0;
    }

    fn finish(mut self) -> Vec<Sum> {
        if self.filled > 0 {
            self.cut();
        }
        self.done
    }
}

/// Writes the head of a snapshot whose image is complete to the memory file `to`.
pub fn seal(
    snapshot: &Snapshot,
    image: BorrowedFd<'_>,
    stamp: &Stamp,
    to: BorrowedFd<'_>,
) -> Result<(), SnapshotError> {
    let state = postcard::to_stdvec(snapshot)
        .map_err(|error| SnapshotError::Refused(format!("its state cannot be written: {error}")))?;
    let (extents, digests) = survey(image).map_err(failed("the memory image"))?;
    let head = Head::seal(stamp, now(), state, extents, digests);
    // What could not be read back must not be written.
    Header::parse(&header_bytes(&head)).map_err(|error| SnapshotError::Refused(error.to_string()))?;
    write_at(to, &head.bytes(), 0).map_err(failed("the snapshot's head"))
}

fn header_bytes(head: &Head) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes.copy_from_slice(zerocopy::IntoBytes::as_bytes(&head.header));
    bytes
}

/// Reads and verifies a head. What a process wrote that ran a guest, or a disk kept, is bounded and checked.
pub fn read_head(from: BorrowedFd<'_>) -> Result<Head, FileError> {
    let found = length(from)?;
    let mut bytes = [0; HEADER];
    if found < HEADER as u64 {
        let wanted = HEADER as u64;
        return Err(FormatError::Length { found, wanted }.into());
    }
    read_at(from, &mut bytes, 0)?;
    let header = Header::parse(&bytes)?;
    let wanted = header.head_length();
    if found < wanted {
        return Err(FormatError::Length { found, wanted }.into());
    }
    let mut tables = vec![0; usize::try_from(wanted).map_err(|_| Errno::NOMEM)? - HEADER];
    read_at(from, &mut tables, HEADER as u64)?;
    Ok(Head::parse(header, &tables)?)
}

/// What a head says of the program.
pub fn state(head: &Head) -> Result<Snapshot, FileError> {
    postcard::from_bytes(&head.state).map_err(|error| FormatError::State(error.to_string()).into())
}

/// A snapshot file of a revision.
pub struct SnapshotFile {
    pub path: PathBuf,
    /// Seconds after which it is not used any more.
    pub age: Option<u64>,
}

impl SnapshotFile {
    /// Opens the file, if there is one, and finds whether it is this user's alone.
    pub fn open(&self) -> Result<Option<File>, FileError> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&self.path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(FileError::Kind);
        }
        if about.uid() != sys::ids().0 || about.mode() & 0o077 != 0 {
            return Err(FileError::Foreign {
                owner: about.uid(),
                mode: about.mode() & 0o7777,
            });
        }
        Ok(Some(file))
    }

    /// Verifies an open snapshot and fills the empty memory file `image` from it; on failure that is empty again.
    pub fn load(
        &self,
        file: &File,
        stamp: &Stamp,
        image: BorrowedFd<'_>,
    ) -> Result<(Head, Snapshot), FileError> {
        let head = read_head(file.as_fd())?;
        let age = self
            .age
            .map(|most| (now().saturating_sub(head.header.created.get()), most));
        head.header.check(stamp, age)?;
        let (found, wanted) = (length(file.as_fd())?, head.header.file_length());
        if found != wanted {
            return Err(FormatError::Length { found, wanted }.into());
        }
        let snapshot = state(&head)?;
        fill(&head, file.as_fd(), image).inspect_err(|_| {
            // A failure is told already; what cannot be emptied is written over by the boot.
            let _ = clear(image, WINDOW);
        })?;
        Ok((head, snapshot))
    }

    /// Writes the file: beside its place, durable, renamed. Gives its length.
    pub fn save(&self, head: BorrowedFd<'_>, image: BorrowedFd<'_>) -> Result<u64, FileError> {
        let beside = self.path.with_extension("new");
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let written = self.write(&beside, head, image);
        if written.is_err() {
            // It would be in the way of nobody, but takes room.
            let _ = std::fs::remove_file(&beside);
        }
        written
    }

    fn write(&self, beside: &Path, head: BorrowedFd<'_>, image: BorrowedFd<'_>) -> Result<u64, FileError> {
        let head = read_head(head)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(beside)?;
        file.write_all(&head.bytes())?;
        let mut buffer = vec![0u8; usize::try_from(CHUNK).map_err(|_| Errno::NOMEM)?];
        for extent in &head.extents {
            for (from, step) in steps(extent) {
                let piece = &mut buffer[..step];
                read_at(image, piece, from)?;
                file.write_all(piece)?;
            }
        }
        file.sync_all()?;
        std::fs::rename(beside, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(head.header.file_length())
    }
}

/// Addresses and lengths of at most a chunk that make up an extent.
fn steps(extent: &Extent) -> impl Iterator<Item = (u64, usize)> {
    let (start, end) = (extent.start.get(), extent.end.get());
    let chunk = usize::try_from(CHUNK).unwrap_or(usize::MAX);
    (start..end)
        .step_by(chunk)
        .map(move |from| (from, usize::try_from(end - from).unwrap_or(chunk).min(chunk)))
}

/// Copies the image of a file into the memory file, and verifies each chunk of it.
fn fill(head: &Head, file: BorrowedFd<'_>, image: BorrowedFd<'_>) -> Result<(), FileError> {
    let mut buffer = vec![0u8; usize::try_from(CHUNK).map_err(|_| Errno::NOMEM)?];
    let mut places = head.extents.iter().flat_map(|extent| {
        let (start, end) = (extent.start.get(), extent.end.get());
        (start..end).step_by(ZEROES.len())
    });
    let mut left = head.header.image_length.get();
    let mut at = head.header.head_length();
    for (chunk, digest) in head.digests.iter().enumerate() {
        let step = usize::try_from(left.min(CHUNK)).map_err(|_| Errno::NOMEM)?;
        let piece = &mut buffer[..step];
        read_at(file, piece, at)?;
        if Sum::from(Sha256::digest(&*piece)) != *digest {
            return Err(FormatError::DamagedImage { chunk }.into());
        }
        // Runs of pages that are neighbours in the guest, too.
        let mut run: Option<(u64, usize, usize)> = None;
        for offset in (0..step).step_by(ZEROES.len()) {
            let place = places.next().ok_or(FormatError::Extents)?;
            run = match run {
                Some((start, from, to)) if start + (to - from) as u64 == place => {
                    Some((start, from, to + ZEROES.len()))
                }
                other => {
                    if let Some((start, from, to)) = other {
                        write_at(image, &piece[from..to], start)?;
                    }
                    Some((place, offset, offset + ZEROES.len()))
                }
            };
        }
        if let Some((start, from, to)) = run {
            write_at(image, &piece[from..to], start)?;
        }
        left -= step as u64;
        at += step as u64;
    }
    Ok(())
}
