//! What the sockets of an instance are called in its private directory.
//!
//! | Key | Socket |
//! |---|---|
//! | `t8080.7f000001` | TCP port 8080 of 127.0.0.1; `u…` is UDP, 32 digits are IPv6 |
//! | `t8080.000…0o` | of all IPv6 addresses and no IPv4 one (IPV6_V6ONLY) |
//! | `t8080.00000000+1` | a second one on the same port (SO_REUSEPORT) |
//! | `a1.6e616d65` | the abstract name `name` of stream sockets (type 1) |
//! | `n17.0` | port 17 of netlink |
//! | `p2a.11f` | the socket file that is inode 0x11f of device 0x2a |
//!
//! Keys are text without `/`, at most 80 bytes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::address::UnixName;
use crate::errno::Errno;

/// Abstract names that are longer are known by their digest: they fit no address with the directory before them.
const PLAIN_MAX: usize = 34;

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn of_type(kind: i32) -> Self {
        if kind == libc::SOCK_STREAM {
            Self::Tcp
        } else {
            Self::Udp
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Tcp => 't',
            Self::Udp => 'u',
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok())
        .collect()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The key of a port of an address.
pub fn port(protocol: Protocol, address: SocketAddr) -> String {
    format!(
        "{}{}.{}",
        protocol.letter(),
        address.port(),
        hex(&octets(address.ip()))
    )
}

/// The key of all IPv6 addresses' port that takes no IPv4.
pub fn port_v6_only(protocol: Protocol, port: u16) -> String {
    self::port(protocol, (Ipv6Addr::UNSPECIFIED, port).into()) + "o"
}

/// The address that a key stands for.
pub fn address(key: &str) -> Option<SocketAddr> {
    let rest = key.strip_prefix(['t', 'u'])?;
    let (port, ip) = rest.split_once('.')?;
    let ip = ip.split(['o', '+']).next()?;
    let bytes = unhex(ip)?;
    let ip: IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        16 => <[u8; 16]>::try_from(bytes).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port.parse().ok()?))
}

/// Keys that may answer for an address inside the instance, in the order in which they are asked.
pub fn answering(protocol: Protocol, address: SocketAddr) -> Vec<String> {
    let wild = |ip: IpAddr| port(protocol, SocketAddr::new(ip, address.port()));
    let mut keys = vec![port(protocol, address)];
    if address.is_ipv4() {
        keys.push(wild(Ipv4Addr::UNSPECIFIED.into()));
    } else {
        keys.push(port_v6_only(protocol, address.port()));
    }
    keys.push(wild(Ipv6Addr::UNSPECIFIED.into()));
    keys
}

/// Keys that must be free for a socket to be bound to `address`, its own first.
pub fn conflicting(protocol: Protocol, address: SocketAddr, v6_only: bool) -> Vec<String> {
    let any4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let any6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let at = |ip: IpAddr| port(protocol, SocketAddr::new(ip, address.port()));
    let v6only = || port_v6_only(protocol, address.port());
    let (local4, local6) = (at(Ipv4Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into()));
    match address.ip() {
        ip if ip == any4 => vec![at(any4), at(any6), local4],
        ip if ip == any6 && v6_only => vec![v6only(), at(any6), local6],
        ip if ip == any6 => vec![at(any6), v6only(), at(any4), local6, local4],
        ip @ IpAddr::V4(_) => vec![at(ip), at(any4), at(any6)],
        ip @ IpAddr::V6(_) => vec![at(ip), at(any6), v6only()],
    }
}

/// The key of a socket file.
pub fn file(device: u64, inode: u64) -> String {
    format!("p{device:x}.{inode:x}")
}

/// The key of an abstract name; the kernel keeps the types apart.
pub fn abstract_name(kind: i32, name: &[u8]) -> String {
    if name.len() <= PLAIN_MAX {
        return format!("a{kind}.{}", hex(name));
    }
    let digest = <sha2::Sha256 as sha2::Digest>::digest(name);
    format!("a{kind}.x{}", hex(&digest[..24]))
}

/// What another process may be told of a unix socket's key: the name itself, or one that leads back to the key.
pub fn unix_name(key: &str) -> UnixName {
    if let Some(rest) = key.strip_prefix('a')
        && let Some((_, name)) = rest.split_once('.')
        && let Some(name) = unhex(name)
    {
        return UnixName::Abstract(name);
    }
    UnixName::Abstract(format!("{BACK}{key}").into_bytes())
}

/// Begins an abstract name that stands for a key.
const BACK: &str = "mayfly:";

/// The key that an abstract name of this form leads back to.
pub fn leading_back(name: &[u8]) -> Option<String> {
    let key = std::str::from_utf8(name).ok()?.strip_prefix(BACK)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    (key.starts_with(['a', 'p']) && key.len() <= 80 && key.bytes().all(plain)).then(|| key.to_owned())
}

/// A key that comes from a snapshot must be one.
pub fn check(key: &str) -> Result<(), Errno> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'+';
    if key.starts_with(['t', 'u', 'a', 'p', 'n']) && key.len() <= 80 && key.bytes().all(plain) {
        Ok(())
    } else {
        Err(Errno::INVAL)
    }
}

/// Whether an address is the instance's own.
pub fn is_inside(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

/// Where a packet to `address` goes: "any" means this machine.
pub fn destination(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_addresses_are_one() {
        for text in ["127.0.0.1:80", "0.0.0.0:1", "[::1]:65535", "[2001:db8::1]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(self::address(&port(Protocol::Tcp, address)), Some(address));
        }
        assert_eq!(
            address(&port_v6_only(Protocol::Udp, 9)),
            Some("[::]:9".parse().unwrap())
        );
        assert_eq!(address("t80.00000000+3"), Some("0.0.0.0:80".parse().unwrap()));
        assert_eq!(address("a1.00"), None);
        assert_eq!(address("t80.0"), None);
    }

    #[test]
    fn an_abstract_name_is_itself_or_leads_back() {
        for name in [&b""[..], b"x", b"\0\xff", &[7; PLAIN_MAX]] {
            let key = abstract_name(1, name);
            assert_eq!(unix_name(&key), UnixName::Abstract(name.to_vec()));
        }
        let key = abstract_name(2, &[9; 107]);
        assert!(key.len() <= 80);
        let UnixName::Abstract(name) = unix_name(&key) else {
            panic!("{key}")
        };
        assert_eq!(leading_back(&name), Some(key));
        assert_eq!(leading_back(b"mayfly:../../etc"), None);
        assert_eq!(leading_back(b"mayfly:t80.7f000001"), None);
    }

    #[test]
    fn a_dual_socket_answers_for_both_families() {
        let answers = answering(Protocol::Tcp, "127.0.0.1:80".parse().unwrap());
        assert!(answers.contains(&port(Protocol::Tcp, "[::]:80".parse().unwrap())));
        assert!(!answers.contains(&port_v6_only(Protocol::Tcp, 80)));
    }
}
