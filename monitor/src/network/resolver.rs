//! Names for an instance: questions are answered for names that the policy allows, by the node's /etc/hosts and its name servers, and
//! what was answered is remembered, because only that makes an address reachable by a name.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::dns::{self, Code, Question, Wrong};
use super::host;
use super::policy::Policy;

/// Where an instance finds its resolver.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
pub const PORT: u16 = 53;
/// How long a program may keep an answer, seconds, and how long the address stays reachable by the name.
const TTL: u32 = 30;
const PINNED: Duration = Duration::from_secs(600);
const PINS_MAX: usize = 4096;
/// How long a name server has, and how often each is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: usize = 2;
const SERVERS_MAX: usize = 3;
const TCP_MAX: usize = 16 << 10;

/// Which names led to which addresses, and until when they count.
#[derive(Default)]
pub struct Pins(Mutex<HashMap<IpAddr, Vec<(String, Instant)>>>);

impl Pins {
    /// Names that led to an address a short time ago.
    pub fn names(&self, ip: IpAddr) -> Vec<String> {
        let now = Instant::now();
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pins.get(&ip.to_canonical()).into_iter().flatten();
        known
            .filter(|(_, until)| *until > now)
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn add(&self, ip: IpAddr, name: &str) {
        let now = Instant::now();
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pins.len() >= PINS_MAX {
            pins.retain(|_, names| names.iter().any(|(_, until)| *until > now));
            if pins.len() >= PINS_MAX {
                return;
            }
        }
        let names = pins.entry(ip.to_canonical()).or_default();
        names.retain(|(other, until)| other != name && *until > now);
        names.push((name.to_owned(), now + PINNED));
    }
}

/// Answers one message of a guest; nothing to what deserves none. `refused` is told of a name that the policy keeps from the guest, and why.
pub fn respond(
    policy: &Policy,
    pins: &Pins,
    message: &[u8],
    room: usize,
    refused: impl FnOnce(&str, &str),
) -> Option<Vec<u8>> {
    let question = match dns::question(message) {
        Ok(question) => question,
        Err(Wrong::Silence) => return None,
        Err(Wrong::Answer(id, code)) => return Some(dns::bare(id, code)),
    };
    let (code, addresses) = decide(policy, &question, refused);
    for address in &addresses {
        pins.add(*address, &question.name);
    }
    Some(dns::answer(&question, code, &addresses, TTL, room))
}

fn decide(policy: &Policy, question: &Question, refused: impl FnOnce(&str, &str)) -> (Code, Vec<IpAddr>) {
    if question.class != dns::INTERNET {
        return (Code::Refused, Vec::new());
    }
    if !policy.allows_name(&question.name) {
        refused(&question.name, "network.allow has no rule for the name");
        return (Code::NoSuchName, Vec::new());
    }
    if question.kind != dns::A && question.kind != dns::AAAA {
        return (Code::Fine, Vec::new());
    }
    let Some((code, found)) = look_up(&question.name, question.kind) else {
        return (Code::Failed, Vec::new());
    };
    let own = host::own_addresses();
    let reachable: Vec<IpAddr> = found
        .iter()
        .copied()
        .filter(|ip| policy.may_lead(&question.name, *ip, &own))
        .collect();
    if reachable.is_empty() && !found.is_empty() {
        // It leads to the inside: a name that is not what it says.
        refused(
            &question.name,
            "network.allow has a rule for the name, but it leads to private addresses, which must be named themselves:",
        );
        return (Code::NoSuchName, Vec::new());
    }
    (code, reachable)
}

/// What the node says of a name; nothing if no name server answers.
fn look_up(name: &str, kind: u16) -> Option<(Code, Vec<IpAddr>)> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    if let Some(known) = in_hosts(&hosts, name) {
        let wanted = known
            .into_iter()
            .filter(|ip| ip.is_ipv4() == (kind == dns::A))
            .collect();
        return Some((Code::Fine, wanted));
    }
    let servers = servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    for _ in 0..TRIES {
        for server in &servers {
            if let Some(said) = ask(*server, name, kind) {
                let code = match said.code {
                    0 => Code::Fine,
                    3 => Code::NoSuchName,
                    _ => continue,
                };
                return Some((code, said.addresses));
            }
        }
    }
    None
}

/// The addresses of a name in a hosts file, if it is there.
fn in_hosts(text: &str, name: &str) -> Option<Vec<IpAddr>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        if words.any(|word| word.eq_ignore_ascii_case(name)) {
            found.push(ip);
        }
    }
    (!found.is_empty()).then_some(found)
}

/// The name servers of a resolv.conf.
fn servers(text: &str) -> Vec<IpAddr> {
    let named = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver"))
            .then(|| words.next()?.parse().ok())
            .flatten()
    };
    let found: Vec<IpAddr> = text.lines().filter_map(named).take(SERVERS_MAX).collect();
    if found.is_empty() {
        vec![Ipv4Addr::LOCALHOST.into()]
    } else {
        found
    }
}

fn ask(server: IpAddr, name: &str, kind: u16) -> Option<dns::Said> {
    let mut id = [0; 2];
    crate::sys::random(&mut id).ok()?;
    let id = u16::from_ne_bytes(id);
    let message = dns::ask(id, name, kind)?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((server, PORT)).ok()?;
    socket.send(&message).ok()?;
    let until = Instant::now() + PATIENCE;
    let mut buffer = [0; 4096];
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        socket.set_read_timeout(Some(left)).ok()?;
        let length = socket.recv(&mut buffer).ok()?;
        // What is no answer to this question is somebody else's.
        if let Some(said) = dns::said(&buffer[..length], id, name, kind) {
            return if said.truncated {
                ask_by_tcp(server, &message, id, name, kind)
            } else {
                Some(said)
            };
        }
    }
    None
}

fn ask_by_tcp(server: IpAddr, message: &[u8], id: u16, name: &str, kind: u16) -> Option<dns::Said> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, PORT), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    write_message(&mut stream, message)?;
    let answer = read_message(&mut stream)?;
    dns::said(&answer, id, name, kind)
}

/// Messages over a stream have their length before them.
pub fn read_message(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > TCP_MAX {
        return None;
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

pub fn write_message(stream: &mut impl Write, message: &[u8]) -> Option<()> {
    let length = u16::try_from(message.len()).ok()?;
    stream
        .write_all(&[&length.to_be_bytes()[..], message].concat())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_is_read() {
        let text = "# comment\n192.0.2.1 a.example A2.example # b.example\n2001:db8::1 a.example\nnonsense a.example\n";
        let found = in_hosts(text, "a.example").unwrap();
        assert_eq!(
            found,
            [
                "192.0.2.1".parse::<IpAddr>().unwrap(),
                "2001:db8::1".parse().unwrap()
            ]
        );
        assert_eq!(in_hosts(text, "a2.example").unwrap().len(), 1);
        assert_eq!(in_hosts(text, "b.example"), None);
    }

    #[test]
    fn name_servers_are_read() {
        let text = "search x\nnameserver 192.0.2.53\n nameserver ::1\nnameserver nonsense\n";
        assert_eq!(
            servers(text),
            ["192.0.2.53".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]
        );
        assert_eq!(servers(""), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_pin_is_of_the_address_that_was_answered() {
        let pins = Pins::default();
        pins.add("192.0.2.1".parse().unwrap(), "a.example");
        assert_eq!(pins.names("::ffff:192.0.2.1".parse().unwrap()), ["a.example"]);
        assert!(pins.names("192.0.2.2".parse().unwrap()).is_empty());
    }

    #[test]
    fn names_outside_of_the_policy_do_not_exist() {
        let question = dns::ask(5, "secret.example", dns::A).unwrap();
        let mut told = String::new();
        let refused = |name: &str, _why: &str| told.push_str(name);
        let answer = respond(&Policy::default(), &Pins::default(), &question, 512, refused).unwrap();
        assert_eq!(dns::said(&answer, 5, "secret.example", dns::A).unwrap().code, 3);
        assert_eq!(told, "secret.example");
    }
}
