//! What the kernel answers on a netlink socket (netlink(7), rtnetlink(7)): of NETLINK_ROUTE what asks for interfaces, addresses and
//! routes, which no host is asked for ([`super::interfaces`]). What would change anything is refused with EPERM.
//!
//! Such a socket is a datagram socket like the others inside, with a name of its own in the private directory. What answers a request is
//! put into its queue by the monitor, under that name; so waiting, receiving and passing it on are the kernel's.

use std::net::Ipv6Addr;

use super::interfaces;
use crate::errno::Errno;

/// Largest request, bytes.
pub const REQUEST_MAX: u64 = 16 << 10;
/// Bytes of a `struct sockaddr_nl`.
pub const ADDRESS: usize = 12;
/// Bytes of a `struct nlmsghdr`.
const HEADER: usize = 16;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// What is below means the transport, not a request.
const FIRST_REQUEST: u16 = 16;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTM_GETRULE: u16 = 34;
/// The last request that rtnetlink knows.
const RTM_MAX: u16 = 123;

const IFLA_ADDRESS: u16 = 1;
const IFLA_BROADCAST: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_QDISC: u16 = 6;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKMODE: u16 = 17;
/// Bytes of a `struct ifinfomsg`.
const LINK: usize = 16;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u8 = 0x80;
const RT_SCOPE_HOST: u8 = 254;

/// The family in the bytes of an address, of which there must be that many: the port and the groups.
pub fn address(bytes: &[u8]) -> Result<(u32, u32), Errno> {
    if bytes.len() < ADDRESS || super::address::family(bytes)? != libc::AF_NETLINK {
        return Err(Errno::INVAL);
    }
    Ok((word(bytes, 4).unwrap_or(0), word(bytes, 8).unwrap_or(0)))
}

/// A `struct sockaddr_nl` without groups; the kernel's port is 0.
pub fn address_bytes(port: u32) -> Vec<u8> {
    let family = u16::try_from(libc::AF_NETLINK).unwrap_or(0);
    [&family.to_ne_bytes()[..], &[0; 2], &port.to_ne_bytes(), &[0; 4]].concat()
}

/// The key of a socket's name.
pub fn key(port: u32) -> String {
    format!("n{port}.0")
}

/// The port in a key.
pub fn port(key: &str) -> Option<u32> {
    key.strip_prefix('n')?.strip_suffix(".0")?.parse().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// One request of the guest.
struct Request<'a> {
    kind: u16,
    flags: u16,
    /// Told again in what answers it, with the port of the socket.
    sequence: u32,
    port: u32,
    body: &'a [u8],
    whole: &'a [u8],
}

/// The datagrams that answer the requests in one of the guest's. What is no whole message ends it, as the kernel has it.
pub fn answers(datagram: &[u8], port: u32) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    let mut rest = datagram;
    while let (Some(length), Some(kind), Some(flags), Some(sequence)) =
        (word(rest, 0), half(rest, 4), half(rest, 6), word(rest, 8))
    {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(whole) = rest.get(..length).filter(|whole| whole.len() >= HEADER) else {
            break;
        };
        let request = Request {
            kind,
            flags,
            sequence,
            port,
            body: &whole[HEADER..],
            whole,
        };
        answers.extend(request.answer());
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

impl Request<'_> {
    fn answer(&self) -> Option<Vec<u8>> {
        let asks = self.flags & NLM_F_REQUEST != 0 && self.kind >= FIRST_REQUEST;
        let found = if asks { self.found() } else { Ok(None) };
        match found {
            Ok(Some(messages)) => Some(messages),
            Ok(None) if self.flags & NLM_F_ACK != 0 => Some(self.error(0)),
            Ok(None) => None,
            Err(errno) => Some(self.error(errno.0)),
        }
    }

    fn found(&self) -> Result<Option<Vec<u8>>, Errno> {
        if self.kind > RTM_MAX {
            return Err(Errno::OPNOTSUPP);
        }
        let Some(family) = self.body.first().copied().map(i32::from) else {
            return Ok(None);
        };
        // Of four requests each, the third asks; the others change something.
        if self.kind % 4 != RTM_GETLINK % 4 {
            return Err(Errno::PERM);
        }
        let all = self.flags & NLM_F_DUMP != 0;
        let mut messages = Vec::new();
        match self.kind {
            RTM_GETLINK if all => {
                if family != libc::AF_BRIDGE {
                    messages = self.link(NLM_F_MULTI);
                }
            }
            RTM_GETLINK => {
                self.wanted_link()?;
                let mut messages = self.link(0);
                if self.flags & NLM_F_ACK != 0 {
                    messages.extend(self.error(0));
                }
                return Ok(Some(messages));
            }
            RTM_GETADDR if all => messages = self.addresses(family),
            RTM_GETROUTE | RTM_GETNEIGH | RTM_GETRULE if all => {}
            RTM_GETROUTE => return Err(Errno(libc::ENETUNREACH)),
            _ => return Err(Errno::OPNOTSUPP),
        }
        messages.extend(self.message(NLMSG_DONE, NLM_F_MULTI, &[0; 4]));
        Ok(Some(messages))
    }

    /// Whether the link that is asked for, by its index or its name, is there.
    fn wanted_link(&self) -> Result<(), Errno> {
        let index = word(self.body, 4).ok_or(Errno::INVAL)?;
        if index != 0 {
            return match index {
                interfaces::INDEX => Ok(()),
                _ => Err(Errno(libc::ENODEV)),
            };
        }
        let mut rest = self.body.get(LINK..).unwrap_or_default();
        while let (Some(length), Some(kind)) = (half(rest, 0), half(rest, 2)) {
            let length = usize::from(length);
            let value = rest.get(4..length).ok_or(Errno::INVAL)?;
            if kind == IFLA_IFNAME {
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                return if name == interfaces::NAME.as_bytes() {
                    Ok(())
                } else {
                    Err(Errno(libc::ENODEV))
                };
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Err(Errno::INVAL)
    }

    /// One message: header, body, padded.
    fn message(&self, kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap_or(0);
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(self.port.to_ne_bytes());
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    /// What became of it: 0, or an error, which comes with the whole request.
    fn error(&self, errno: i32) -> Vec<u8> {
        let told = if errno == 0 {
            &self.whole[..HEADER]
        } else {
            self.whole
        };
        self.message(NLMSG_ERROR, 0, &[&(-errno).to_ne_bytes()[..], told].concat())
    }

    fn link(&self, flags: u16) -> Vec<u8> {
        let mut body = vec![0; 2];
        body.extend(interfaces::HARDWARE.to_ne_bytes());
        body.extend(interfaces::INDEX.to_ne_bytes());
        body.extend((u32::from(interfaces::FLAGS) | interfaces::LOWER_UP).to_ne_bytes());
        body.extend([0; 4]);
        attribute(&mut body, IFLA_IFNAME, &terminated(interfaces::NAME));
        attribute(&mut body, IFLA_TXQLEN, &interfaces::QUEUE_LENGTH.to_ne_bytes());
        attribute(&mut body, IFLA_OPERSTATE, &[0]);
        attribute(&mut body, IFLA_LINKMODE, &[0]);
        attribute(&mut body, IFLA_MTU, &interfaces::MTU.to_ne_bytes());
        attribute(&mut body, IFLA_QDISC, &terminated("noqueue"));
        attribute(&mut body, IFLA_ADDRESS, &[0; 6]);
        attribute(&mut body, IFLA_BROADCAST, &[0; 6]);
        self.message(RTM_NEWLINK, flags, &body)
    }

    /// The addresses of a family, or all.
    fn addresses(&self, family: i32) -> Vec<u8> {
        let mut messages = Vec::new();
        if matches!(family, libc::AF_UNSPEC | libc::AF_INET) {
            let own = interfaces::ADDRESS.octets();
            let mut body = address_head(libc::AF_INET, interfaces::PREFIX);
            attribute(&mut body, IFA_ADDRESS, &own);
            attribute(&mut body, IFA_LOCAL, &own);
            attribute(&mut body, IFA_LABEL, &terminated(interfaces::NAME));
            attribute(&mut body, IFA_FLAGS, &u32::from(IFA_F_PERMANENT).to_ne_bytes());
            messages.extend(self.message(RTM_NEWADDR, NLM_F_MULTI, &body));
        }
        if matches!(family, libc::AF_UNSPEC | libc::AF_INET6) {
            let mut body = address_head(libc::AF_INET6, interfaces::PREFIX6);
            attribute(&mut body, IFA_ADDRESS, &Ipv6Addr::LOCALHOST.octets());
            attribute(&mut body, IFA_FLAGS, &u32::from(IFA_F_PERMANENT).to_ne_bytes());
            messages.extend(self.message(RTM_NEWADDR, NLM_F_MULTI, &body));
        }
        messages
    }
}

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// Adds a `struct rtattr` with its value, padded.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// A `struct ifaddrmsg`.
fn address_head(family: i32, prefix: u8) -> Vec<u8> {
    let family = u8::try_from(family).unwrap_or(0);
    let mut body = vec![family, prefix, IFA_F_PERMANENT, RT_SCOPE_HOST];
    body.extend(interfaces::INDEX.to_ne_bytes());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u32 = 77;

    fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let sender = Request {
            kind,
            flags,
            sequence: 5,
            port: 0,
            body,
            whole: &[],
        };
        sender.message(kind, flags, body)
    }

    fn kinds(mut datagram: &[u8]) -> Vec<u16> {
        let mut kinds = Vec::new();
        while let Some(length) = word(datagram, 0) {
            assert_eq!((word(datagram, 8), word(datagram, 12)), (Some(5), Some(PORT)));
            kinds.extend(half(datagram, 4));
            datagram = &datagram[usize::try_from(length).unwrap().next_multiple_of(4)..];
        }
        kinds
    }

    fn error_of(datagram: &[u8]) -> i32 {
        assert_eq!(half(datagram, 4), Some(NLMSG_ERROR));
        word(datagram, HEADER).unwrap().cast_signed()
    }

    #[test]
    fn lo_is_all_there_is() {
        let asked = request(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, &[0; 16]);
        assert_eq!(kinds(&answers(&asked, PORT)[0]), [RTM_NEWLINK, NLMSG_DONE]);
        for (family, count) in [(0, 2), (2, 1), (10, 1), (7, 0)] {
            let asked = request(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, &[family; 8]);
            let found = kinds(&answers(&asked, PORT)[0]);
            assert_eq!(found.len(), count + 1);
            assert_eq!(found.last(), Some(&NLMSG_DONE));
        }
        let asked = request(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, &[0; 12]);
        assert_eq!(kinds(&answers(&asked, PORT)[0]), [NLMSG_DONE]);
    }

    #[test]
    fn what_changes_something_is_refused() {
        for kind in (FIRST_REQUEST..=RTM_MAX).filter(|kind| kind % 4 != 2) {
            let asked = request(kind, NLM_F_REQUEST | NLM_F_ACK, &[0; 32]);
            let answered = answers(&asked, PORT);
            assert_eq!(answered.len(), 1);
            assert_eq!(error_of(&answered[0]), -libc::EPERM, "{kind}");
            assert_eq!(answered[0][HEADER + 4..], asked);
        }
        let asked = request(RTM_MAX + 1, NLM_F_REQUEST, &[0; 4]);
        assert_eq!(error_of(&answers(&asked, PORT)[0]), -libc::EOPNOTSUPP);
    }

    #[test]
    fn one_link_is_asked_for_by_its_index_or_its_name() {
        let by_index = |index: u32| [&[0; 4][..], &index.to_ne_bytes(), &[0; 8]].concat();
        let by_name = |name: &str| {
            let mut body = by_index(0);
            attribute(&mut body, IFLA_IFNAME, &terminated(name));
            body
        };
        let answer = |body: &[u8]| answers(&request(RTM_GETLINK, NLM_F_REQUEST, body), PORT).remove(0);
        assert_eq!(kinds(&answer(&by_index(1))), [RTM_NEWLINK]);
        assert_eq!(kinds(&answer(&by_name("lo"))), [RTM_NEWLINK]);
        assert_eq!(error_of(&answer(&by_index(2))), -libc::ENODEV);
        assert_eq!(error_of(&answer(&by_name("eth0"))), -libc::ENODEV);
        assert_eq!(error_of(&answer(&by_index(0))), -libc::EINVAL);
        assert_eq!(error_of(&answer(&[0; 2])), -libc::EINVAL);
        let mut cut = by_name("lo");
        cut[16] = 200;
        assert_eq!(error_of(&answer(&cut)), -libc::EINVAL);
        cut[16] = 0;
        assert_eq!(error_of(&answer(&cut)), -libc::EINVAL);
    }

    #[test]
    fn what_is_no_message_is_not_answered() {
        let whole = request(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, &[0; 16]);
        for length in 0..whole.len() {
            assert!(answers(&whole[..length], PORT).is_empty(), "{length}");
        }
        for length in [0u32, 1, 15, u32::MAX] {
            let mut wrong = whole.clone();
            wrong[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(answers(&wrong, PORT).is_empty(), "{length}");
        }
        // Two in one datagram, of which the first wants no more than to be acknowledged.
        let two = [request(1, NLM_F_ACK, &[]), whole].concat();
        let answered = answers(&two, PORT);
        assert_eq!(answered.len(), 2);
        assert_eq!(error_of(&answered[0]), 0);
    }

    #[test]
    fn a_key_has_its_port() {
        assert_eq!(port(&key(u32::MAX)), Some(u32::MAX));
        assert_eq!(port("n.0"), None);
        assert_eq!(port("t80.7f000001"), None);
        assert_eq!(address(&address_bytes(9)), Ok((9, 0)));
        assert_eq!(address(&address_bytes(9)[..11]), Err(Errno::INVAL));
    }
}
