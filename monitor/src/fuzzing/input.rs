//! The bytes of a fuzzer as numbers: what lies behind the end is zero.

pub struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    /// A number of so many bytes.
    fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |value, at| value | u64::from(self.byte()) << (8 * at))
    }

    pub fn short(&mut self) -> u64 {
        self.number(2)
    }

    pub fn word(&mut self) -> u64 {
        self.number(4)
    }

    pub fn long(&mut self) -> u64 {
        self.number(8)
    }

    /// One of several, by a byte.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }
}
