//! Arguments of a hostile call: what is meant there, broken in some way, or something else altogether.

use super::super::input::Input;
use super::{CODE, DATA, DATA_SIZE, Hostile, RACE, RECENT, SCRATCH, STACK};
use crate::memory::access;
use crate::vm::layout::PAGE;

const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    16,
    255,
    1023,
    1024,
    1025,
    4095,
    4096,
    4097,
    65_535,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_f000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
    u64::MAX - 1,
    u64::MAX - 99,
    2047,
    2048,
    2049,
    4 << 20,
    1 << 44,
];

const PATHS: &[&str] = &[
    "/tmp/a",
    "/tmp/b",
    "/tmp/a/../b",
    "/data",
    "/link",
    "/loop",
    "/directory/file",
    "/directory",
    "/",
    "",
    ".",
    "..",
    "../../../../etc/passwd",
    "/proc/self/maps",
    "/proc/self/fd/3",
    "/proc/self/fd",
    "/proc/self/exe",
    "/proc/1/root",
    "/proc/self/task/1/../../status",
    "/dev/null",
    "/dev/urandom",
    "/dev/zero",
    "/dev/full",
    "/dev/shm/x",
    "/sys/fs/cgroup/memory.max",
    "/tmp/",
    "/tmp/directory",
    "/tmp/directory/deep",
    "a",
    "/var/tmp/z",
    "/program",
    "/dev/kvm",
];

impl Hostile {
    /// Whatever may be where something else is expected.
    pub(super) fn anything(&mut self, input: &mut Input<'_>) -> u64 {
        match input.byte() {
            0..48 => input.pick(NUMBERS),
            48..96 => self.recent(input),
            96..192 => self.pointer(input),
            192..208 => input.long(),
            208..224 => input.word(),
            kind @ 224..=255 => {
                let letters = b"pvmMatTssSeEPhqALuy";
                let letter = letters[usize::from(kind) % letters.len()];
                self.meant(letter, kind, input)
            }
        }
    }

    /// What a call of before gave.
    pub(super) fn recent(&self, input: &mut Input<'_>) -> u64 {
        input.pick(&self.recent)
    }

    /// Somewhere at the beginning or the end of a region, or a little before.
    pub(super) fn pointer(&self, input: &mut Input<'_>) -> u64 {
        let region = input.pick(&self.regions);
        match input.byte() {
            0 => region,
            near @ 1..128 => region.wrapping_add(u64::from(near)),
            near @ 128..=255 => region.wrapping_sub(256 - u64::from(near)),
        }
    }

    /// A value of the kind that the letter stands for (`signatures`).
    pub(super) fn meant(&mut self, letter: u8, kind: u8, input: &mut Input<'_>) -> u64 {
        let small = u64::from(kind);
        match letter {
            b'd' => match kind {
                0..160 => self.recent[usize::from(kind) % RECENT],
                160..192 => small % 16,
                _ => (-100i64).cast_unsigned(),
            },
            b'p' => self.path(input),
            b'b' | b'x' => match kind {
                0..64 => self.lay(&[0; 64], kind & 1 != 0),
                64..160 => DATA + small * 8,
                _ => self.pointer(input),
            },
            b'l' | b'n' => match kind {
                0..128 => small % 64,
                128..192 => input.pick(&[16, 110, 28, 4096, 8192, 65_536, 1 << 20]),
                _ => input.pick(NUMBERS),
            },
            b'f' => match kind {
                0..64 => 1 << (small % 32),
                64..96 => input.word(),
                96..128 => input.short(),
                _ => 0,
            },
            b'i' => small % 48,
            b'g' => small % 66,
            b'o' => match kind {
                0..128 => small * 64,
                128..192 => input.pick(NUMBERS),
                _ => input.long(),
            },
            b'c' => match kind {
                0..192 => small % 6,
                _ => input.pick(&[1023, 1024, 1025, u64::MAX, 0x8000_0000]),
            },
            b'z' => {
                if kind < 200 {
                    8
                } else {
                    input.pick(NUMBERS)
                }
            }
            b'r' => match kind {
                0..64 => 0,
                64..128 => DATA + 0x10_0000 + (small % 16) * PAGE,
                128..160 => DATA + (small % 16) * PAGE,
                _ => self.pointer(input),
            },
            b'R' => match kind {
                0..160 => (small % 32) * PAGE,
                160..192 => (small % 32) << 20,
                _ => input.pick(NUMBERS),
            },
            _ => self.structure(letter, kind, input),
        }
    }

    pub(super) fn path(&mut self, input: &mut Input<'_>) -> u64 {
        let path = input.pick(PATHS);
        let mut bytes = path.as_bytes().to_vec();
        let other = input.byte();
        if other == 255 {
            bytes.resize(4090 + usize::from(input.byte()) % 16, b'/');
        }
        bytes.push(0);
        let at = self.lay(&bytes, other & 1 != 0);
        if other & 2 != 0 {
            // The same length, another meaning.
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(&bytes) {
                *to = *from;
            }
            let flip = input.pick(&[
                *b"/data\0\0\0",
                *b"/loop/..",
                *b"/../../.",
                *b"/proc/1/",
                *b"////////",
            ]);
            RACE.add(at, u64::from_le_bytes(word), u64::from_le_bytes(flip));
        }
        at
    }

    /// A list of words in memory, of which one may change while it is read.
    pub(super) fn words(&mut self, kind: u8, words: &[u64], input: &mut Input<'_>) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = self.lay(&bytes, kind & 1 != 0);
        if kind & 2 != 0 && !words.is_empty() {
            let chosen = usize::from(input.byte()) % words.len();
            let other = match kind >> 2 & 3 {
                0 => self.pointer(input),
                1 => input.pick(NUMBERS),
                2 => words[chosen] ^ 1 << (input.byte() & 63),
                _ => u64::MAX,
            };
            RACE.add(at + chosen as u64 * 8, words[chosen], other);
        }
        at
    }

    pub(super) fn structure(&mut self, letter: u8, kind: u8, input: &mut Input<'_>) -> u64 {
        let short = |input: &mut Input<'_>| u64::from(input.byte());
        match letter {
            b'v' => {
                let list = self.vectors(usize::from(kind) % 5, input);
                self.words(kind, &list, input)
            }
            b'm' => {
                let header = self.message(kind, input);
                self.words(kind, &header, input)
            }
            b'M' => {
                let mut list = Vec::new();
                for _ in 0..=kind % 3 {
                    list.extend(self.message(kind, input));
                    list.push(0);
                }
                self.words(kind, &list, input)
            }
            b'a' => self.address(kind, input),
            b'N' => {
                let length = if kind < 160 { 110 } else { input.pick(NUMBERS) };
                self.words(kind, &[length], input)
            }
            b't' => {
                let time = self.time(kind, input);
                self.words(kind, &time, input)
            }
            b'T' => {
                let (first, second) = (self.time(kind >> 1, input), self.time(kind, input));
                self.words(kind, &[first[0], first[1], second[0], second[1]], input)
            }
            b's' => {
                let set = if kind < 100 { 0 } else { input.long() };
                self.words(kind, &[set], input)
            }
            b'S' => {
                let handler = input.pick(&[0, 1, CODE, u64::MAX, DATA]);
                let flags = 0x0400_0000 | input.word();
                self.words(kind, &[handler, flags, CODE, input.long()], input)
            }
            b'E' => {
                // A signal that ends nothing, if any.
                let signal = 32 + short(input) % 30;
                let how = short(input) % 6;
                let event = [input.long(), signal | how << 32, short(input), 0, 0, 0, 0, 0];
                self.words(kind & !2, &event, input)
            }
            b'e' => {
                let word = input.word() | self.recent(input) << 32;
                self.words(kind, &[word, input.long()], input)
            }
            b'P' => {
                let list: Vec<u64> = (0..4)
                    .map(|_| self.recent(input) & 0xffff_ffff | input.short() << 32)
                    .collect();
                self.words(kind, &list, input)
            }
            b'w' => self.words(kind & !1, &[short(input) % 3], input),
            b'h' => {
                let how = [input.word(), short(input), short(input) & 0x3f, 0];
                self.words(kind, &how, input)
            }
            b'q' => {
                let flags = input.pick(&[0, 0x4100, 0x100, 0x0001_0f00, 0x003d_0f00, 0x5000, 0x2_0000])
                    ^ (short(input) << 8);
                let args = [
                    flags,
                    self.pointer(input),
                    self.pointer(input),
                    self.pointer(input),
                    17,
                    STACK,
                    4096,
                    0,
                ];
                self.words(kind, &args, input)
            }
            b'A' => {
                let list = [self.path(input), self.path(input), 0];
                self.words(kind, &list, input)
            }
            b'L' => {
                let limit = [input.pick(NUMBERS), input.pick(NUMBERS)];
                self.words(kind, &limit, input)
            }
            b'u' => {
                let (kind_of_lock, whence) = (short(input) % 3, short(input) % 3);
                let word = kind_of_lock | whence << 16;
                let lock = [word, input.pick(NUMBERS), input.pick(NUMBERS), 0];
                if kind < 100 {
                    short(input)
                } else {
                    self.words(kind, &lock, input)
                }
            }
            b'y' => {
                let stack = [self.pointer(input), short(input) % 3, input.pick(NUMBERS)];
                self.words(kind, &stack, input)
            }
            _ => 0,
        }
    }

    pub(super) fn vectors(&mut self, count: usize, input: &mut Input<'_>) -> Vec<u64> {
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(self.pointer(input));
            list.push(match input.byte() {
                length @ 0..192 => u64::from(length),
                _ => input.pick(NUMBERS),
            });
        }
        list
    }

    /// A msghdr: seven words.
    pub(super) fn message(&mut self, kind: u8, input: &mut Input<'_>) -> Vec<u64> {
        let vectors = self.vectors(2, input);
        let list = self.words(kind, &vectors, input);
        let name = if kind & 16 == 0 {
            0
        } else {
            self.address(kind, input)
        };
        let length = u64::from(input.byte() % 128);
        let (control, control_length) = match kind & 96 {
            0 => (0, 0),
            32 => {
                // cmsghdr: SCM_RIGHTS with a descriptor, or something else.
                let size = if kind & 4 == 0 { 20 } else { input.pick(NUMBERS) };
                let header = [
                    size,
                    1 | u64::from(input.byte() % 4) << 32,
                    self.recent(input) & 0xffff_ffff,
                ];
                (self.words(kind, &header, input), 24)
            }
            _ => (self.pointer(input), input.pick(NUMBERS)),
        };
        let count = if kind & 64 == 0 {
            2
        } else {
            u64::from(input.byte()) * 8
        };
        vec![name, length, list, count, control, control_length, 0]
    }

    pub(super) fn address(&mut self, kind: u8, input: &mut Input<'_>) -> u64 {
        let mut bytes = match kind % 6 {
            0 => b"\x01\0/tmp/socket\0".to_vec(),
            1 => b"\x01\0\0abstract".to_vec(),
            2 => b"\x02\0\x1f\x90\x7f\0\0\x01\0\0\0\0\0\0\0\0".to_vec(),
            3 => b"\x02\0\0\x50\xa9\xfe\xa9\xfe\0\0\0\0\0\0\0\0".to_vec(),
            4 => b"\x0a\0\x1f\x90\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0".to_vec(),
            _ => input.long().to_le_bytes().to_vec(),
        };
        if kind & 8 != 0 {
            bytes[0] = input.byte();
        }
        bytes.resize(112, 0);
        let words: Vec<u64> = bytes
            .chunks(8)
            .map(|chunk| {
                chunk
                    .iter()
                    .rev()
                    .fold(0, |word, byte| word << 8 | u64::from(*byte))
            })
            .collect();
        self.words(kind, &words, input)
    }

    pub(super) fn time(&mut self, kind: u8, input: &mut Input<'_>) -> [u64; 2] {
        match kind % 8 {
            0..5 => [0, u64::from(input.byte()) * 256],
            5 => [0, input.pick(NUMBERS)],
            6 => [input.pick(NUMBERS), 0],
            _ => [input.pick(NUMBERS), input.pick(NUMBERS)],
        }
    }

    /// Lays bytes into memory, at the very end of it if `edge`.
    pub(super) fn lay(&mut self, bytes: &[u8], edge: bool) -> u64 {
        let length = bytes.len() as u64;
        if self.next + length + PAGE >= DATA + DATA_SIZE {
            self.next = SCRATCH;
        }
        let at = if edge {
            DATA + DATA_SIZE - length
        } else {
            self.next = (self.next + length).next_multiple_of(8);
            self.next - length.next_multiple_of(8)
        };
        let _ = access::write_bytes(at, bytes);
        at
    }
}
