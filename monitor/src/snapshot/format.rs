//! The form of a snapshot, in memory and on disk (`docs/snapshot.md`).
//!
//! ```text
//! head    0  header, 256 bytes
//!       256  state (postcard), extents (16 bytes each), digests of the image (32 bytes each), zeroes to a whole page
//! image      the extents' pages, one extent after the other
//! ```
//!
//! Numbers are little-endian. Every byte is under a digest: the header's first 224 under the header's own, the rest of the head under the
//! one in the header, the image under those in the head. So the header's digest names the whole snapshot.

use sha2::{Digest, Sha256};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::features::{FEATURES, Features, first_difference};
use crate::vm::layout::{LOW_END, PAGE, WINDOW};

pub const MAGIC: [u8; 8] = *b"MAYFLYSN";
/// Raised whenever something else is to be understood by the same bytes.
pub const VERSION: u32 = 2;

/// Bytes of the image under one digest.
pub const CHUNK: u64 = 1 << 20;
/// Largest state, bytes: hundreds of threads, thousands of mappings and descriptors, carried files.
pub const STATE_MAX: u64 = 64 << 20;
/// Most extents.
pub const EXTENTS_MAX: u64 = 1 << 20;

/// A digest, SHA-256.
pub type Sum = [u8; 32];

#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    pub magic: [u8; 8],
    pub version: U32,
    pub zero: U32,
    pub state_length: U64,
    pub extent_count: U64,
    pub chunk_count: U64,
    pub image_length: U64,
    /// Unix time, seconds.
    pub created: U64,
    pub zero_too: U64,
    /// Of the monitor's program.
    pub build: Sum,
    /// Of the bundle's two files.
    pub function: Sum,
    pub features: [U32; FEATURES],
    /// Of the rest of the head.
    pub tables: Sum,
    /// Of what comes before it.
    pub header: Sum,
}

pub const HEADER: usize = 256;
const _: () = assert!(size_of::<Header>() == HEADER);
const _: () = assert!(std::mem::offset_of!(Header, state_length) == 16);
const _: () = assert!(std::mem::offset_of!(Header, build) == 64);
const _: () = assert!(std::mem::offset_of!(Header, features) == 128);
const _: () = assert!(std::mem::offset_of!(Header, tables) == 192);
const _: () = assert!(std::mem::offset_of!(Header, header) == 224);

/// Pages of the guest that the image holds, from the first address to behind the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Extent {
    pub start: U64,
    pub end: U64,
}
const _: () = assert!(size_of::<Extent>() == 16);

impl Extent {
    pub fn length(&self) -> u64 {
        self.end.get().saturating_sub(self.start.get())
    }
}

/// What a snapshot must agree with to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    pub build: Sum,
    pub function: Sum,
    pub features: Features,
}

/// Why a snapshot is not used. The program is booted instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("it is no snapshot: it does not begin with {:?}", String::from_utf8_lossy(&MAGIC))]
    Magic,
    #[error("its format is version {0}, this monitor's is {VERSION}")]
    Version(u32),
    #[error("it is {found} bytes long and should be {wanted}: cut short, or longer than it was written")]
    Length { found: u64, wanted: u64 },
    #[error("{0} is damaged: its SHA-256 is another")]
    Damaged(&'static str),
    #[error("chunk {chunk} of its memory image is damaged: its SHA-256 is another")]
    DamagedImage { chunk: usize },
    #[error("{what} is {found}, and may be {most} at most")]
    TooLarge {
        what: &'static str,
        found: u64,
        most: u64,
    },
    #[error("another build of the monitor made it")]
    Build,
    #[error("it is of another function or revision")]
    Function,
    #[error("it was made on another kind of CPU: {what} is {found:#x} there, {here:#x} here")]
    Processor {
        what: &'static str,
        found: u32,
        here: u32,
    },
    #[error("it is {age} s old, and may be {most} s at most")]
    Old { age: u64, most: u64 },
    #[error("its extents are not pages of the guest in ascending order")]
    Extents,
    #[error("its state is unreadable: {0}")]
    State(String),
}

pub fn sum(bytes: &[u8]) -> Sum {
    Sha256::digest(bytes).into()
}

/// Digits of a digest, as events and receipts name it.
pub fn name(sum: &Sum) -> String {
    let digits: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn capped(what: &'static str, found: u64, most: u64) -> Result<u64, FormatError> {
    if found > most {
        return Err(FormatError::TooLarge { what, found, most });
    }
    Ok(found)
}

impl Header {
    /// Reads a header and finds whether it is one of ours. Nothing is said yet of what follows it.
    pub fn parse(bytes: &[u8; HEADER]) -> Result<Self, FormatError> {
        let header = Self::read_from_bytes(bytes).map_err(|_| FormatError::Magic)?;
        if header.magic != MAGIC {
            return Err(FormatError::Magic);
        }
        if header.version.get() != VERSION {
            return Err(FormatError::Version(header.version.get()));
        }
        if header.own_sum() != header.header {
            return Err(FormatError::Damaged("its header"));
        }
        capped("its state, in bytes,", header.state_length.get(), STATE_MAX)?;
        capped("its number of extents", header.extent_count.get(), EXTENTS_MAX)?;
        capped("its image, in bytes,", header.image_length.get(), WINDOW)?;
        if header.chunk_count.get() != header.image_length.get().div_ceil(CHUNK) {
            return Err(FormatError::Extents);
        }
        Ok(header)
    }

    fn own_sum(&self) -> Sum {
        sum(&self.as_bytes()[..HEADER - size_of::<Sum>()])
    }

    /// Whether this monitor, on this machine, may make this function's instances from it. `age` and its limit in seconds.
    pub fn check(&self, stamp: &Stamp, age: Option<(u64, u64)>) -> Result<(), FormatError> {
        if self.build != stamp.build {
            return Err(FormatError::Build);
        }
        if self.function != stamp.function {
            return Err(FormatError::Function);
        }
        if let Some((what, found, here)) = first_difference(&self.features.map(U32::get), &stamp.features) {
            return Err(FormatError::Processor { what, found, here });
        }
        match age {
            Some((age, most)) if age > most => Err(FormatError::Old { age, most }),
            _ => Ok(()),
        }
    }

    /// Bytes before the image.
    ///
    /// Preconditions: the header was parsed, so the caps hold.
    pub fn head_length(&self) -> u64 {
        let extents = self.extent_count.get() * size_of::<Extent>() as u64;
        let digests = self.chunk_count.get() * size_of::<Sum>() as u64;
        (HEADER as u64 + self.state_length.get() + extents + digests).next_multiple_of(PAGE)
    }

    /// Bytes of the whole file.
    pub fn file_length(&self) -> u64 {
        self.head_length() + self.image_length.get()
    }
}

/// A head: what comes before the image, verified.
pub struct Head {
    pub header: Header,
    pub state: Vec<u8>,
    pub extents: Vec<Extent>,
    pub digests: Vec<Sum>,
}

impl Head {
    /// Puts a head together.
    pub fn seal(
        stamp: &Stamp,
        created: u64,
        state: Vec<u8>,
        extents: Vec<Extent>,
        digests: Vec<Sum>,
    ) -> Self {
        let mut head = Self {
            header: Header {
                magic: MAGIC,
                version: VERSION.into(),
                zero: 0.into(),
                state_length: (state.len() as u64).into(),
                extent_count: (extents.len() as u64).into(),
                chunk_count: (digests.len() as u64).into(),
                image_length: extents.iter().map(Extent::length).sum::<u64>().into(),
                created: created.into(),
                zero_too: 0.into(),
                build: stamp.build,
                function: stamp.function,
                features: stamp.features.map(U32::new),
                tables: Sum::default(),
                header: Sum::default(),
            },
            state,
            extents,
            digests,
        };
        head.header.tables = sum(&head.tables());
        head.header.header = head.header.own_sum();
        head
    }

    fn tables(&self) -> Vec<u8> {
        let mut tables = self.state.clone();
        tables.extend_from_slice(self.extents.as_bytes());
        tables.extend_from_slice(self.digests.as_bytes());
        let length = self.header.head_length() - HEADER as u64;
        tables.resize(usize::try_from(length).unwrap_or(tables.len()), 0);
        tables
    }

    /// As it lies in a file.
    pub fn bytes(&self) -> Vec<u8> {
        [self.header.as_bytes(), &self.tables()].concat()
    }

    /// Reads what follows a header in the head.
    pub fn parse(header: Header, tables: &[u8]) -> Result<Self, FormatError> {
        let damaged = FormatError::Damaged("its table of contents or its state");
        if sum(tables) != header.tables {
            return Err(damaged);
        }
        let number = |value: U64| usize::try_from(value.get()).map_err(|_| FormatError::Extents);
        let (state, rest) = tables
            .split_at_checked(number(header.state_length)?)
            .ok_or(FormatError::Extents)?;
        let (extents, rest) = <[Extent]>::ref_from_prefix_with_elems(rest, number(header.extent_count)?)
            .map_err(|_| FormatError::Extents)?;
        let (digests, _) = <[Sum]>::ref_from_prefix_with_elems(rest, number(header.chunk_count)?)
            .map_err(|_| FormatError::Extents)?;
        let mut end = LOW_END;
        let mut length = 0u64;
        for extent in extents {
            let (from, to) = (extent.start.get(), extent.end.get());
            if from < end
                || to <= from
                || to > WINDOW
                || !from.is_multiple_of(PAGE)
                || !to.is_multiple_of(PAGE)
            {
                return Err(FormatError::Extents);
            }
            end = to;
            length += to - from;
        }
        if length != header.image_length.get() {
            return Err(FormatError::Extents);
        }
        Ok(Self {
            header,
            state: state.to_vec(),
            extents: extents.to_vec(),
            digests: digests.to_vec(),
        })
    }

    /// Names the snapshot: depends on each of its bytes.
    pub fn name(&self) -> String {
        name(&self.header.header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        let mut features = [0; FEATURES];
        for (feature, value) in features.iter_mut().zip(1..) {
            *feature = value;
        }
        Stamp {
            build: [0xb1; 32],
            function: [0xf2; 32],
            features,
        }
    }

    fn head() -> Head {
        let extents = vec![Extent {
            start: LOW_END.into(),
            end: (LOW_END + PAGE).into(),
        }];
        Head::seal(
            &stamp(),
            1_700_000_000,
            b"state".to_vec(),
            extents,
            vec![[0xd3; 32]],
        )
    }

    fn header_of(bytes: &[u8]) -> [u8; HEADER] {
        bytes[..HEADER].try_into().unwrap()
    }

    fn parse(bytes: &[u8]) -> Result<Head, FormatError> {
        let header = Header::parse(&header_of(bytes))?;
        Head::parse(header, &bytes[HEADER..])
    }

    /// Whoever changes a byte of this has made another version of the format.
    #[test]
    fn the_header_has_the_documented_bytes() {
        let bytes = head().bytes();
        let shown: String = bytes[..HEADER - 64]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let golden = [
            "4d4159464c59534e",
            "02000000",
            "00000000",
            "0500000000000000",
            "0100000000000000",
            "0100000000000000",
            "0010000000000000",
            "00f1536500000000",
            "0000000000000000",
            &"b1".repeat(32),
            &"f2".repeat(32),
            "01000000020000000300000004000000050000000600000007000000080000000900000\
             00a0000000b0000000c0000000d0000000e0000000f00000010000000",
        ]
        .concat();
        assert_eq!(shown, golden);
        assert_eq!(bytes.len(), 4096);
        assert_eq!(head().header.file_length(), 8192);
    }

    #[test]
    fn a_head_reads_back() {
        let read = parse(&head().bytes()).unwrap();
        assert_eq!((read.state, read.extents), (b"state".to_vec(), head().extents));
        assert_eq!(read.digests, head().digests);
        assert_eq!(read.header.check(&stamp(), Some((5, 5))), Ok(()));
    }

    #[test]
    fn every_flipped_bit_of_the_head_is_found() {
        let whole = head().bytes();
        for place in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[place] ^= 1 << bit;
                assert!(parse(&bytes).is_err(), "bit {bit} of byte {place}");
            }
        }
    }

    #[test]
    fn what_it_must_agree_with_is_named() {
        let head = head();
        let check = |change: fn(&mut Stamp)| {
            let mut other = stamp();
            change(&mut other);
            head.header.check(&other, None).unwrap_err()
        };
        assert_eq!(check(|stamp| stamp.build[0] ^= 1), FormatError::Build);
        assert_eq!(check(|stamp| stamp.function[0] ^= 1), FormatError::Function);
        let told = check(|stamp| stamp.features[6] ^= 1).to_string();
        assert_eq!(
            told,
            "it was made on another kind of CPU: leaf 7 ebx is 0x7 there, 0x6 here"
        );
        let old = head.header.check(&stamp(), Some((11, 10))).unwrap_err();
        assert_eq!(old.to_string(), "it is 11 s old, and may be 10 s at most");
    }

    #[test]
    fn sizes_and_extents_are_judged_before_they_are_used() {
        let resealed = |change: fn(&mut Header)| {
            let mut header = head().header;
            change(&mut header);
            header.header = header.own_sum();
            Header::parse(&header_of(header.as_bytes()))
        };
        for (change, what) in [
            (
                (|header| header.state_length = u64::MAX.into()) as fn(&mut Header),
                "state",
            ),
            (|header| header.extent_count = u64::MAX.into(), "extents"),
            (|header| header.image_length = u64::MAX.into(), "image"),
        ] {
            assert!(resealed(change).unwrap_err().to_string().contains(what));
        }
        assert_eq!(
            resealed(|header| header.chunk_count = 9.into()),
            Err(FormatError::Extents)
        );
        for (start, end) in [
            (0, PAGE),
            (LOW_END, LOW_END),
            (LOW_END + 1, LOW_END + PAGE),
            (WINDOW, WINDOW + PAGE),
        ] {
            let extents = vec![Extent {
                start: start.into(),
                end: end.into(),
            }];
            let length = extents[0].length();
            let digests = vec![[0; 32]; usize::try_from(length.div_ceil(CHUNK)).unwrap()];
            let bytes = Head::seal(&stamp(), 0, Vec::new(), extents, digests).bytes();
            assert!(
                matches!(parse(&bytes), Err(FormatError::Extents)),
                "{start:#x}-{end:#x}"
            );
        }
    }
}
