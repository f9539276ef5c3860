//! The interfaces of an instance: `lo` alone. Told by netlink ([`super::netlink`]), by ioctl(2) (netdevice(7)), and in /proc/net and
//! /sys/class/net, always the same.

use std::net::Ipv4Addr;

use crate::errno::Errno;

pub const NAME: &str = "lo";
pub const INDEX: u32 = 1;
pub const MTU: u32 = 65_536;
/// IFF_UP, IFF_LOOPBACK, IFF_RUNNING; netlink says IFF_LOWER_UP, too.
pub const FLAGS: u16 = 0x49;
pub const LOWER_UP: u32 = 1 << 16;
/// ARPHRD_LOOPBACK.
pub const HARDWARE: u16 = 772;
pub const QUEUE_LENGTH: u32 = 1000;
pub const ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;
pub const PREFIX: u8 = 8;
pub const PREFIX6: u8 = 128;
const MASK: Ipv4Addr = Ipv4Addr::new(255, 0, 0, 0);

/// /proc/net/dev.
pub const DEVICES: &str = "Inter-|   Receive                                                |  Transmit\n \
face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n";
/// /proc/net/if_inet6: `::1`, index, prefix, scope, flags.
pub const ADDRESSES6: &str = "00000000000000000000000000000001 01 80 10 80       lo\n";

/// Bytes of a `struct ifreq`: a name and a union.
pub const REQUEST: usize = 40;
const NAMED: usize = 16;

const SIOCGIFNAME: u64 = 0x8910;
pub const SIOCGIFCONF: u64 = 0x8912;
const SIOCGIFFLAGS: u64 = 0x8913;
const SIOCGIFADDR: u64 = 0x8915;
const SIOCGIFDSTADDR: u64 = 0x8917;
const SIOCGIFBRDADDR: u64 = 0x8919;
const SIOCGIFNETMASK: u64 = 0x891b;
const SIOCGIFMETRIC: u64 = 0x891d;
const SIOCGIFMTU: u64 = 0x8921;
const SIOCGIFHWADDR: u64 = 0x8927;
const SIOCGIFINDEX: u64 = 0x8933;
const SIOCGIFTXQLEN: u64 = 0x8942;
const SIOCETHTOOL: u64 = 0x8946;
const SIOCGIFMAP: u64 = 0x8970;

/// Whether an ioctl asks about one interface, with a `struct ifreq`.
pub fn asks(request: u64) -> bool {
    matches!(
        request,
        SIOCGIFNAME
            | SIOCGIFFLAGS
            | SIOCGIFADDR
            | SIOCGIFDSTADDR
            | SIOCGIFBRDADDR
            | SIOCGIFNETMASK
            | SIOCGIFMETRIC
            | SIOCGIFMTU
            | SIOCGIFHWADDR
            | SIOCGIFINDEX
            | SIOCGIFTXQLEN
            | SIOCETHTOOL
            | SIOCGIFMAP
    )
}

/// A `sockaddr_in` without a port, with what follows in the union.
fn address(ip: Ipv4Addr) -> Vec<u8> {
    let bytes = super::address::inet_bytes(libc::AF_INET, (ip, 0).into());
    [bytes, vec![0; REQUEST - NAMED - 16]].concat()
}

fn named() -> [u8; NAMED] {
    let mut name = [0; NAMED];
    name[..NAME.len()].copy_from_slice(NAME.as_bytes());
    name
}

/// What SIOCGIFCONF lists.
pub fn listed() -> Vec<u8> {
    [named().to_vec(), address(ADDRESS)].concat()
}

/// Answers a request about one interface in its own bytes: ENODEV if it is not there.
pub fn answer(request: u64, asked: &mut [u8; REQUEST]) -> Result<(), Errno> {
    let (name, value) = asked.split_at_mut(NAMED);
    if request == SIOCGIFNAME {
        if !value.starts_with(&INDEX.to_ne_bytes()) {
            return Err(Errno(libc::ENODEV));
        }
        name.copy_from_slice(&named());
        return Ok(());
    }
    // The last byte is not the guest's to give: a name ends.
    let given = name[..NAMED - 1]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    if given != NAME.as_bytes() {
        return Err(Errno(libc::ENODEV));
    }
    let found = match request {
        SIOCGIFFLAGS => FLAGS.to_ne_bytes().to_vec(),
        SIOCGIFADDR | SIOCGIFDSTADDR => address(ADDRESS),
        SIOCGIFBRDADDR => address(Ipv4Addr::UNSPECIFIED),
        SIOCGIFNETMASK => address(MASK),
        SIOCGIFMETRIC => vec![0; 4],
        SIOCGIFMTU => MTU.to_ne_bytes().to_vec(),
        SIOCGIFHWADDR => [&HARDWARE.to_ne_bytes()[..], &[0; 14]].concat(),
        SIOCGIFINDEX => INDEX.to_ne_bytes().to_vec(),
        SIOCGIFTXQLEN => QUEUE_LENGTH.to_ne_bytes().to_vec(),
        SIOCGIFMAP => vec![0; REQUEST - NAMED],
        // There is no driver to ask.
        _ => return Err(Errno::OPNOTSUPP),
    };
    value[..found.len()].copy_from_slice(&found);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes
    }

    #[test]
    fn only_lo_is_there() {
        for name in ["", "l", "lo1", "lo:0", "eth0", "aaaaaaaaaaaaaaaa"] {
            assert_eq!(
                answer(SIOCGIFFLAGS, &mut request(name)),
                Err(Errno(libc::ENODEV)),
                "{name}"
            );
        }
        let mut asked = request("lo");
        assert_eq!(answer(SIOCGIFINDEX, &mut asked), Ok(()));
        assert_eq!(asked[16..20], INDEX.to_ne_bytes());
        assert_eq!(answer(SIOCGIFADDR, &mut asked), Ok(()));
        assert_eq!(asked.to_vec(), listed());
    }

    #[test]
    fn an_index_has_a_name() {
        let mut asked = [0; REQUEST];
        assert_eq!(answer(SIOCGIFNAME, &mut asked), Err(Errno(libc::ENODEV)));
        asked[16] = 1;
        assert_eq!(answer(SIOCGIFNAME, &mut asked), Ok(()));
        assert_eq!(&asked[..3], b"lo\0");
    }
}
