//! Arguments and results as strace(1) shows them. What lies in guest memory is read here once more, by the checked accessor: it is
//! shown, never used.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::sets::{self, Set};
use crate::errno::{Errno, SysResult};
use crate::memory::access;
use crate::syscalls::Args;
use crate::syscalls::memory::int;

/// Most bytes of a buffer, and items of a list, that are shown.
const SHOWN: usize = 32;
/// Letters of what the call fills.
const FILLED: &str = "bTQkWF";

/// The letters of this very call: some calls take fewer arguments, or others, as one of them says.
pub fn letters(number: i64, kinds: &'static str, args: Args) -> &'static str {
    let [_, second, third, fourth, ..] = args.map(int);
    let creates = |flags: i32| flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE;
    match number {
        libc::SYS_open if !creates(second) => "pO",
        libc::SYS_openat if !creates(third) => "dpO",
        libc::SYS_mremap if fourth & libc::MREMAP_FIXED == 0 => "xzzn",
        libc::SYS_fcntl => match second {
            libc::F_GETFD | libc::F_GETFL | libc::F_GETOWN | libc::F_GETPIPE_SZ | libc::F_GET_SEALS => "dc",
            libc::F_SETFL => "dcO",
            libc::F_SETFD => "dcy",
            libc::F_ADD_SEALS => "dcX",
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC | libc::F_SETOWN | libc::F_SETPIPE_SZ => "dci",
            _ => "dcx",
        },
        libc::SYS_futex => match second & 0x7f {
            libc::FUTEX_WAIT | libc::FUTEX_LOCK_PI | libc::FUTEX_LOCK_PI2 => "xfit",
            libc::FUTEX_WAKE => "xfi",
            libc::FUTEX_UNLOCK_PI | libc::FUTEX_TRYLOCK_PI => "xf",
            libc::FUTEX_REQUEUE => "xfiix",
            libc::FUTEX_CMP_REQUEUE | libc::FUTEX_CMP_REQUEUE_PI => "xfiixi",
            libc::FUTEX_WAKE_OP => "xfiixX",
            _ => kinds,
        },
        libc::SYS_prctl => match args.map(int)[0] {
            libc::PR_SET_NAME => "Lp",
            libc::PR_GET_NAME => "Lx",
            _ => kinds,
        },
        _ => kinds,
    }
}

/// The arguments up to the first that the call fills: what is known before it.
pub fn before(number: i64, letters: &str, args: Args) -> String {
    let end = letters.find(|letter| FILLED.contains(letter));
    let mut shown = list(number, letters, args, 0..end.unwrap_or(letters.len()), None);
    if end.is_some_and(|end| end > 0) {
        shown.push_str(", ");
    }
    shown
}

/// The others.
pub fn after(number: i64, letters: &str, args: Args, result: &SysResult) -> String {
    match letters.find(|letter| FILLED.contains(letter)) {
        Some(start) => list(number, letters, args, start..letters.len(), Some(result)),
        None => String::new(),
    }
}

fn list(
    number: i64,
    letters: &str,
    args: Args,
    range: std::ops::Range<usize>,
    result: Option<&SysResult>,
) -> String {
    let shown = letters
        .bytes()
        .enumerate()
        .skip(range.start)
        .take(range.len())
        .filter(|(_, letter)| *letter != b'.')
        .map(|(index, letter)| {
            let value = args.get(index).copied().unwrap_or(0);
            let next = args.get(index + 1).copied().unwrap_or(0);
            argument(number, letter, value, next, result)
        });
    shown.collect::<Vec<_>>().join(", ")
}

fn argument(number: i64, letter: u8, value: u64, next: u64, result: Option<&SysResult>) -> String {
    let word = i64::from(int(value));
    let bits = i64::from(int(value).cast_unsigned());
    let known = |set: Set| sets::name(set, word).map_or_else(|| format!("{word:#x}"), str::to_owned);
    let flags = |set: Set| sets::flags(set, bits, "0");
    // What a call that failed would have filled is not worth reading.
    let filled = match result {
        Some(Ok(value)) => Some(*value),
        _ => None,
    };
    match letter {
        b'd' if int(value) == libc::AT_FDCWD => "AT_FDCWD".to_owned(),
        b'd' | b'i' => int(value).to_string(),
        b'l' => value.cast_signed().to_string(),
        b'z' => value.to_string(),
        b'o' => octal(value & 0o177_777),
        b'X' if value == 0 => "0".to_owned(),
        b'X' => format!("{value:#x}"),
        b'p' => path(value),
        b's' => bytes(value, next),
        b'b' => filled.map_or_else(|| pointer(value), |length| bytes(value, length)),
        b'v' => buffers(value, next),
        b'A' => strings(value),
        b'E' => environment(value),
        b't' => time(value),
        b'T' if filled.is_some() => time(value),
        b'q' => signal_set(value),
        b'Q' if filled.is_some() => signal_set(value),
        b'a' => address(value, next),
        b'k' if filled.is_some() => filled_address(value, next),
        b'g' => sets::signal(word),
        b'j' => action(value),
        b'u' => event(value),
        b'Y' => clone_args(value),
        b'W' if filled.is_some_and(|child| child != 0) => status(value),
        b'F' if filled.is_some() => read::<[i32; 2]>(value, |[one, other]| format!("[{one}, {other}]")),
        b'O' => open_flags(bits),
        b'N' => flags(sets::OPEN),
        b'y' => flags(sets::DESCRIPTOR),
        b'P' => sets::flags(sets::PROTECTION, bits, "PROT_NONE"),
        b'M' => flags(sets::MAPPING),
        b'n' => flags(sets::REMAPPING),
        b'C' => clone_flags(number, bits),
        b'D' => known(sets::FAMILY),
        b'S' => socket_type(bits),
        b'V' => known(sets::LEVEL),
        b'G' => flags(sets::MESSAGE),
        b'f' => futex(bits),
        b'c' => known(sets::FCNTL),
        b'I' => sets::name(sets::IOCTL, bits).map_or_else(|| format!("{bits:#x}"), str::to_owned),
        b'e' => known(sets::EPOLL_OPERATION),
        b'L' => known(sets::PRCTL),
        b'B' => known(sets::ARCH_PRCTL),
        b'U' => flags(sets::LOCK),
        b'h' => known(sets::WHENCE),
        b'K' => known(sets::CLOCK),
        b'@' => flags(sets::AT),
        b'r' => sets::flags(sets::ACCESS, bits, "F_OK"),
        b'm' => known(sets::ADVICE),
        b'w' => flags(sets::WAIT),
        b'H' => known(sets::MASK),
        b'R' => known(sets::RESOURCE),
        b'1' => flags(sets::EPOLL),
        b'2' => flags(sets::EVENTFD),
        b'3' => flags(sets::SOCKET),
        b'4' => flags(sets::TIMERFD),
        b'5' => flags(sets::SIGNALFD),
        b'6' => flags(sets::INOTIFY),
        b'7' => flags(sets::RANDOM),
        b'8' => flags(sets::MEMFD),
        _ => pointer(value),
    }
}

/// Whether a letter is one of those above.
#[cfg(test)]
pub fn is_known(letter: char) -> bool {
    "dilzoXxpsbvAEtTqQakgjuYWFONyPMnCDSVGfcIeLBUhK@rmwHR12345678.".contains(letter)
}

/// What the call gave: `3`, `0x7f0000`, `-1 ENOENT (No such file or directory)`.
pub fn outcome(number: i64, args: Args, result: &SysResult) -> String {
    let value = match result {
        Err(Errno::RESTART) => return "? ERESTARTSYS (To be restarted)".to_owned(),
        Err(errno) => return format!("-1 {}", error(*errno)),
        Ok(value) => *value,
    };
    match (number, int(args[1])) {
        (libc::SYS_mmap | libc::SYS_mremap | libc::SYS_brk, _) => format!("{value:#x}"),
        (libc::SYS_umask, _) => octal(value),
        (libc::SYS_fcntl, libc::F_GETFL) => {
            format!("{value:#x} (flags {})", open_flags(value.cast_signed()))
        }
        (libc::SYS_fcntl, libc::F_GETFD) if value == 1 => "0x1 (flags FD_CLOEXEC)".to_owned(),
        (libc::SYS_poll | libc::SYS_ppoll | libc::SYS_select | libc::SYS_pselect6, _) if value == 0 => {
            "0 (Timeout)".to_owned()
        }
        _ => value.cast_signed().to_string(),
    }
}

/// `ENOENT (No such file or directory)`.
fn error(errno: Errno) -> String {
    let text = errno.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    match sets::name(sets::ERROR, i64::from(errno.0)) {
        Some(name) => format!("{name} ({text})"),
        None => format!("{} ({text})", errno.0),
    }
}

/// An address; NULL is none.
pub fn pointer(value: u64) -> String {
    if value == 0 {
        "NULL".to_owned()
    } else {
        format!("{value:#x}")
    }
}

fn octal(value: u64) -> String {
    format!("0{value:02o}")
}

/// A structure of guest memory, or its address where it cannot be read.
fn read<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
    address: u64,
    show: impl FnOnce(T) -> String,
) -> String {
    if address == 0 {
        return pointer(0);
    }
    access::read(address).map_or_else(|_| pointer(address), show)
}

/// Bytes as a C string; `whole` is false where more follows.
pub fn quoted(bytes: &[u8], whole: bool) -> String {
    let mut shown = String::from("\"");
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => shown.push_str("\\\""),
            b'\\' => shown.push_str("\\\\"),
            b'\n' => shown.push_str("\\n"),
            b'\t' => shown.push_str("\\t"),
            b'\r' => shown.push_str("\\r"),
            0x0b => shown.push_str("\\v"),
            0x0c => shown.push_str("\\f"),
            0x20..=0x7e => shown.push(char::from(*byte)),
            _ => {
                let digit_follows = bytes.get(index + 1).is_some_and(u8::is_ascii_digit);
                let _ = if digit_follows {
                    write!(shown, "\\{byte:03o}")
                } else {
                    write!(shown, "\\{byte:o}")
                };
            }
        }
    }
    shown.push_str(if whole { "\"" } else { "\"..." });
    shown
}

fn path(address: u64) -> String {
    match access::read_path(address) {
        _ if address == 0 => pointer(0),
        Ok(path) => quoted(path.as_bytes(), true),
        Err(_) => pointer(address),
    }
}

fn bytes(address: u64, length: u64) -> String {
    if address == 0 {
        return pointer(0);
    }
    let shown = length.min(SHOWN as u64);
    match access::read_array::<u8>(address, shown) {
        Ok(bytes) => quoted(&bytes, shown == length),
        Err(_) => pointer(address),
    }
}

fn buffers(address: u64, count: u64) -> String {
    let Ok(list) = access::read_array::<[u64; 2]>(address, count.min(SHOWN as u64)) else {
        return pointer(address);
    };
    let more = if count > SHOWN as u64 { ", ..." } else { "" };
    let each =
        |[base, length]: &[u64; 2]| format!("{{iov_base={}, iov_len={length}}}", bytes(*base, *length));
    format!("[{}{more}]", list.iter().map(each).collect::<Vec<_>>().join(", "))
}

/// The pointers of a list of strings, as far as they can be read.
fn pointers(address: u64, most: u64) -> Vec<u64> {
    let at = |index: u64| access::read::<u64>(address.checked_add(index * 8)?).ok();
    (0..most)
        .map_while(at)
        .take_while(|pointer| *pointer != 0)
        .collect()
}

fn strings(address: u64) -> String {
    if address == 0 || access::read::<u64>(address).is_err() {
        return pointer(address);
    }
    let list = pointers(address, SHOWN as u64 + 1);
    let more = if list.len() > SHOWN { ", ..." } else { "" };
    let shown: Vec<_> = list.iter().take(SHOWN).map(|pointer| path(*pointer)).collect();
    format!("[{}{more}]", shown.join(", "))
}

fn environment(address: u64) -> String {
    if address == 0 {
        return pointer(0);
    }
    let count = pointers(address, 4096).len();
    let plural = if count == 1 { "" } else { "s" };
    format!("{address:#x} /* {count} var{plural} */")
}

fn time(address: u64) -> String {
    read::<[i64; 2]>(address, |[seconds, nanoseconds]| {
        format!("{{tv_sec={seconds}, tv_nsec={nanoseconds}}}")
    })
}

fn signal_set(address: u64) -> String {
    read(address, signals)
}

fn signals(set: u64) -> String {
    let (set, complement) = if set.count_ones() > 32 {
        (!set, "~")
    } else {
        (set, "")
    };
    let named = (1..=64)
        .filter(|signal| set >> (signal - 1) & 1 != 0)
        .map(|signal| sets::signal(signal).trim_start_matches("SIG").to_owned());
    format!("{complement}[{}]", named.collect::<Vec<_>>().join(" "))
}

/// `struct sigaction` of the kernel.
fn action(address: u64) -> String {
    read::<[u64; 4]>(address, |[handler, flags, _, mask]| {
        let handler = match handler {
            0 => "SIG_DFL".to_owned(),
            1 => "SIG_IGN".to_owned(),
            _ => pointer(handler),
        };
        let flags = sets::flags(sets::ACTION, flags.cast_signed(), "0");
        format!(
            "{{sa_handler={handler}, sa_mask={}, sa_flags={flags}}}",
            signals(mask)
        )
    })
}

/// `struct epoll_event`, which is packed.
fn event(address: u64) -> String {
    read::<[u32; 3]>(address, |[events, low, high]| {
        let events = sets::flags(sets::EVENTS, i64::from(events), "0");
        let data = u64::from(high) << 32 | u64::from(low);
        format!("{{events={events}, data={{u32={low}, u64={data}}}}}")
    })
}

/// `struct clone_args`, its first version.
fn clone_args(address: u64) -> String {
    read::<[u64; 8]>(address, |[flags, _, child, parent, signal, stack, size, tls]| {
        let flags = sets::flags(sets::CLONE, flags.cast_signed(), "0");
        let mut shown = format!("{{flags={flags}");
        for (name, value) in [("child_tid", child), ("parent_tid", parent)] {
            if value != 0 {
                let _ = write!(shown, ", {name}={value:#x}");
            }
        }
        let signal = if signal == 0 {
            "0".to_owned()
        } else {
            sets::signal(signal.cast_signed())
        };
        let _ = write!(
            shown,
            ", exit_signal={signal}, stack={}, stack_size={size:#x}",
            pointer(stack)
        );
        if tls != 0 {
            let _ = write!(shown, ", tls={tls:#x}");
        }
        shown + "}"
    })
}

/// What wait4(2) says of a child.
fn status(address: u64) -> String {
    read::<i32>(address, |status| {
        let told = if libc::WIFEXITED(status) {
            format!("WIFEXITED(s) && WEXITSTATUS(s) == {}", libc::WEXITSTATUS(status))
        } else if libc::WIFSIGNALED(status) {
            let signal = sets::signal(i64::from(libc::WTERMSIG(status)));
            format!("WIFSIGNALED(s) && WTERMSIG(s) == {signal}")
        } else if libc::WIFSTOPPED(status) {
            let signal = sets::signal(i64::from(libc::WSTOPSIG(status)));
            format!("WIFSTOPPED(s) && WSTOPSIG(s) == {signal}")
        } else {
            "WIFCONTINUED(s)".to_owned()
        };
        format!("[{{{told}}}]")
    })
}

fn open_flags(bits: i64) -> String {
    let mode = match bits & 3 {
        0 => "O_RDONLY",
        1 => "O_WRONLY",
        2 => "O_RDWR",
        _ => "O_ACCMODE",
    };
    match bits & !3 {
        0 => mode.to_owned(),
        rest => format!("{mode}|{}", sets::flags(sets::OPEN, rest, "0")),
    }
}

/// The low byte of clone(2) is the signal of the child's end.
fn clone_flags(number: i64, bits: i64) -> String {
    let signal = if number == libc::SYS_clone { bits & 0xff } else { 0 };
    let flags = sets::flags(sets::CLONE, bits & !signal, "");
    match (flags.is_empty(), signal) {
        (true, 0) => "0".to_owned(),
        (_, 0) => flags,
        (true, _) => sets::signal(signal),
        (false, _) => format!("{flags}|{}", sets::signal(signal)),
    }
}

fn socket_type(bits: i64) -> String {
    let kind = bits & 0xf;
    let name = sets::name(sets::SOCKET_TYPE, kind).map_or_else(|| format!("{kind:#x}"), str::to_owned);
    match bits & !0xf {
        0 => name,
        rest => format!("{name}|{}", sets::flags(sets::SOCKET, rest, "0")),
    }
}

fn futex(bits: i64) -> String {
    const PRIVATE: i64 = 0x80;
    const REALTIME: i64 = 0x100;
    let operation = bits & !PRIVATE & !REALTIME;
    let name = sets::name(sets::FUTEX, operation).map_or_else(|| format!("{operation:#x}"), str::to_owned);
    let private = if bits & PRIVATE != 0 { "_PRIVATE" } else { "" };
    let realtime = if bits & REALTIME != 0 {
        "|FUTEX_CLOCK_REALTIME"
    } else {
        ""
    };
    format!("{name}{private}{realtime}")
}

fn filled_address(pointed: u64, length: u64) -> String {
    match access::read::<u32>(length) {
        Ok(length) if pointed != 0 => address(pointed, u64::from(length)),
        _ => pointer(pointed),
    }
}

/// `struct sockaddr`.
fn address(pointed: u64, length: u64) -> String {
    let Ok(bytes) = access::read_array::<u8>(pointed, length.min(128)) else {
        return pointer(pointed);
    };
    let family = match bytes.as_slice() {
        _ if pointed == 0 => return pointer(0),
        [low, high, ..] => i64::from(u16::from_ne_bytes([*low, *high])),
        _ => return pointer(pointed),
    };
    let named = sets::name(sets::FAMILY, family).map_or_else(|| family.to_string(), str::to_owned);
    let port = |bytes: &[u8]| {
        bytes
            .get(2..4)
            .map_or(0, |port| u16::from_be_bytes([port[0], port[1]]))
    };
    let rest = match i32::try_from(family) {
        Ok(libc::AF_UNIX) => match &bytes[2..] {
            [] => return format!("{{sa_family={named}}}"),
            [0, name @ ..] => format!("sun_path=@{}", quoted(name, true)),
            name => {
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                format!("sun_path={}", quoted(&name[..end], true))
            }
        },
        Ok(libc::AF_INET) if bytes.len() >= 8 => {
            let host = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
            format!("sin_port=htons({}), sin_addr=inet_addr(\"{host}\")", port(&bytes))
        }
        Ok(libc::AF_INET6) if bytes.len() >= 24 => {
            let host = <[u8; 16]>::try_from(&bytes[8..24]).map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from);
            format!(
                "sin6_port=htons({}), inet_pton(AF_INET6, \"{host}\", &sin6_addr)",
                port(&bytes)
            )
        }
        _ => format!("sa_data={}", quoted(&bytes[2..], true)),
    };
    format!("{{sa_family={named}, {rest}}}")
}
