//! What ioctl(2) takes with each request that is harmless on any file.

/// The third argument of a request.
#[derive(Clone, Copy)]
pub enum Content {
    /// Nothing, or a number.
    Number,
    /// A structure of so many bytes that the kernel reads.
    In(usize),
    /// One that it fills.
    Out(usize),
}

/// `struct termios` and `struct termios2` as the kernel has them.
const TERMIOS: usize = 36;
const TERMIOS2: usize = 44;
/// The largest of all structures.
pub const LARGEST: usize = 64;

const TCGETS2: u64 = 0x802c_542a;
const TCSETS2: u64 = 0x402c_542b;
const TCSETSW2: u64 = 0x402c_542c;
const TCSETSF2: u64 = 0x402c_542d;
const FIGETBSZ: u64 = 2;

pub fn content(request: u64) -> Option<Content> {
    use Content::{In, Number, Out};
    Some(match request {
        libc::FIOCLEX | libc::FIONCLEX => Number,
        libc::FIONBIO => In(4),
        libc::FIONREAD | libc::TIOCOUTQ | FIGETBSZ => Out(4),
        libc::TCGETS => Out(TERMIOS),
        libc::TCSETS | libc::TCSETSW | libc::TCSETSF => In(TERMIOS),
        TCGETS2 => Out(TERMIOS2),
        TCSETS2 | TCSETSW2 | TCSETSF2 => In(TERMIOS2),
        libc::TIOCGWINSZ => Out(8),
        libc::TIOCSWINSZ => In(8),
        libc::TIOCGPGRP | libc::TIOCGSID => Out(4),
        libc::TIOCSPGRP => In(4),
        libc::TCSBRK | libc::TCXONC | libc::TCFLSH | libc::TIOCNOTTY | libc::TIOCSCTTY => Number,
        _ => return None,
    })
}
