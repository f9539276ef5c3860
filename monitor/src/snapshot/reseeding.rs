//! Which mapped files hold a generator of random numbers that takes fresh randomness when the process id changes.
//!
//! OpenSSL's does, in libcrypto or linked into a program (Node). In a clone it must: its state is the boot's, so its next numbers would be
//! the same in all clones.

use crate::errno::Errno;
use crate::memory::access;
use crate::memory::space::Space;

/// The personalization string of OpenSSL's generator, in 1.1.1 and all of 3.
const MARK: &[u8] = b"OpenSSL NIST SP 800-90A DRBG";
/// A byte of the mark that is rare in machine code and tables, and where it is.
const RARE: (u8, usize) = (b'-', 19);
/// Bytes looked at in one go.
const BATCH: usize = 1 << 20;

/// Keys of the files (`Origin::object`) whose mapped content holds the mark.
///
/// Preconditions: all threads rest.
pub fn find(space: &Space) -> Vec<u64> {
    let mut found = Vec::new();
    for (start, mapping) in space.mappings() {
        let Some(origin) = mapping.origin.filter(|_| mapping.protection.any()) else {
            continue;
        };
        if space.file(mapping).is_some()
            && !found.contains(&origin.object)
            && holds_mark(start, mapping.end) == Ok(true)
        {
            found.push(origin.object);
        }
    }
    found
}

fn holds_mark(start: u64, end: u64) -> Result<bool, Errno> {
    let mut buffer = vec![0; BATCH];
    let mut at = start;
    while at < end {
        let length = usize::try_from(end - at).map_or(BATCH, |left| left.min(BATCH));
        let piece = &mut buffer[..length];
        // Beyond the end of a file nothing can be read, and there is nothing.
        access::read_bytes(at, piece)?;
        if contains_mark(piece) {
            return Ok(true);
        }
        // The mark may lie across two pieces.
        let step = if length == BATCH {
            length - MARK.len()
        } else {
            length
        };
        at += step as u64;
    }
    Ok(false)
}

fn contains_mark(piece: &[u8]) -> bool {
    piece
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == RARE.0)
        .any(|(at, _)| {
            at.checked_sub(RARE.1)
                .is_some_and(|from| piece[from..].starts_with(MARK))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_found_wherever_it_lies() {
        assert_eq!(MARK[RARE.1], RARE.0);
        for before in [0, 1, 4095] {
            let mut piece = vec![b'-'; before];
            piece.extend_from_slice(MARK);
            assert!(contains_mark(&piece));
            piece.pop();
            assert!(!contains_mark(&piece));
        }
        assert!(!contains_mark(b"OpenSSL NIST SP 800-90B DRBG"));
    }
}
