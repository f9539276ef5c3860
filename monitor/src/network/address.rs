//! Socket addresses as the guest lays them out. They are copied in once; what is checked is what is used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::memory::access;

/// The longest address that the kernel takes (`struct sockaddr_storage`).
const LONGEST: u64 = 128;
/// Offset of the name in `struct sockaddr_un`, and its room.
const UNIX_NAME: usize = 2;
pub const UNIX_NAME_MAX: usize = 108;

/// An address that the guest gave, copied.
pub fn read(address: u64, length: u64) -> Result<Vec<u8>, Errno> {
    // A negative int is as wrong as one that is too large.
    let length = length & u64::from(u32::MAX);
    if length > LONGEST {
        return Err(Errno::INVAL);
    }
    access::read_array(address, length)
}

/// The family of an address, of which there must be that much.
pub fn family(address: &[u8]) -> Result<i32, Errno> {
    match address {
        [low, high, ..] => Ok(i32::from(u16::from_ne_bytes([*low, *high]))),
        _ => Err(Errno::INVAL),
    }
}

/// The address and port of a `sockaddr_in` or `sockaddr_in6`. A mapped address (`::ffff:…`) is the one that it maps.
pub fn inet(address: &[u8]) -> Result<SocketAddr, Errno> {
    let family = family(address)?;
    let field = |from: usize, to: usize| address.get(from..to).ok_or(Errno::INVAL);
    let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    match family {
        libc::AF_INET => {
            // The last eight bytes mean nothing, but must be there.
            field(8, 16)?;
            let bytes: [u8; 4] = field(4, 8)?.try_into().map_err(|_| Errno::INVAL)?;
            Ok(SocketAddr::new(Ipv4Addr::from(bytes).into(), port(field(2, 4)?)))
        }
        libc::AF_INET6 => {
            // Without the scope id, as long ago.
            let bytes: [u8; 16] = field(8, 24)?.try_into().map_err(|_| Errno::INVAL)?;
            Ok(SocketAddr::new(
                Ipv6Addr::from(bytes).to_canonical(),
                port(field(2, 4)?),
            ))
        }
        _ => Err(Errno::AFNOSUPPORT),
    }
}

/// The bytes of a `sockaddr_in` or `sockaddr_in6`, as the family of the socket wants it.
pub fn inet_bytes(family: i32, address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    bytes.extend(u16::try_from(family).unwrap_or(0).to_ne_bytes());
    bytes.extend(address.port().to_be_bytes());
    match (family, address.ip()) {
        (libc::AF_INET6, ip) => {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            bytes.extend([0; 4]);
            bytes.extend(ip.octets());
            bytes.extend([0; 4]);
        }
        (_, IpAddr::V4(ip)) => {
            bytes.extend(ip.octets());
            bytes.extend([0; 8]);
        }
        // Nothing of the other family leads to such a socket.
        (_, IpAddr::V6(_)) => bytes.extend([0; 12]),
    }
    bytes
}

/// No address and no port.
pub fn unspecified(family: i32) -> SocketAddr {
    if family == libc::AF_INET6 {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    }
}

/// The same, of the family of another address.
pub fn unspecified_like(ip: IpAddr) -> SocketAddr {
    unspecified(if ip.is_ipv6() {
        libc::AF_INET6
    } else {
        libc::AF_INET
    })
}

/// The name in a `sockaddr_un` of the guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixName {
    /// The kernel chooses one, or there is none.
    Unnamed,
    Abstract(Vec<u8>),
    Path(Vec<u8>),
}

pub fn unix(address: &[u8]) -> Result<UnixName, Errno> {
    if family(address)? != libc::AF_UNIX || address.len() > UNIX_NAME + UNIX_NAME_MAX {
        return Err(Errno::INVAL);
    }
    let name = &address[UNIX_NAME..];
    Ok(match name {
        [] => UnixName::Unnamed,
        [0, rest @ ..] => UnixName::Abstract(rest.to_vec()),
        path => UnixName::Path(path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
    })
}

pub fn unix_bytes(name: &UnixName) -> Vec<u8> {
    let mut bytes = u16::try_from(libc::AF_UNIX).unwrap_or(0).to_ne_bytes().to_vec();
    match name {
        UnixName::Unnamed => {}
        UnixName::Abstract(name) => {
            bytes.push(0);
            bytes.extend(name);
        }
        UnixName::Path(path) => {
            bytes.extend(path);
            bytes.push(0);
        }
    }
    bytes
}

/// Writes an address where the guest wants it: cut to its room, with its whole length.
pub fn write(bytes: &[u8], address: u64, length: u64) -> Result<(), Errno> {
    let room: i32 = access::read(length)?;
    let room = usize::try_from(room).map_err(|_| Errno::INVAL)?;
    access::write_bytes(address, &bytes[..bytes.len().min(room)])?;
    access::write(length, &u32::try_from(bytes.len()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_the_one_it_maps() {
        let given = inet_bytes(libc::AF_INET6, "10.0.0.1:80".parse().unwrap());
        assert_eq!(given.len(), 28);
        assert_eq!(inet(&given), Ok("10.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn short_addresses_are_refused() {
        let whole = inet_bytes(libc::AF_INET, "127.0.0.1:1".parse().unwrap());
        for length in 0..16 {
            assert_eq!(inet(&whole[..length]), Err(Errno::INVAL), "{length}");
        }
        assert_eq!(unix(&[1]), Err(Errno::INVAL));
        assert_eq!(unix(&[1, 0]), Ok(UnixName::Unnamed));
        assert_eq!(unix(&[1, 0, 0]), Ok(UnixName::Abstract(vec![])));
        assert_eq!(unix(&[1, 0, b'a', 0, b'b']), Ok(UnixName::Path(b"a".to_vec())));
    }
}
