//! Messages of the domain name system (RFC 1035), as far as addresses need them: one question, A and AAAA answers.
//!
//! Everything that is read comes from a guest or from a name server: nothing is taken for granted, and names are followed through at
//! most [`JUMPS`] pointers.

use std::net::IpAddr;

/// Largest message over UDP without agreement, bytes.
pub const UDP_MAX: usize = 512;
const HEADER: usize = 12;
const NAME_MAX: usize = 253;
const JUMPS: usize = 32;
const ANSWERS_MAX: usize = 64;

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const AAAA: u16 = 28;
pub const INTERNET: u16 = 1;

const RESPONSE: u16 = 0x8000;
const TRUNCATED: u16 = 0x0200;
const RECURSION: u16 = 0x0180;

/// What an answer says of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Fine = 0,
    Malformed = 1,
    Failed = 2,
    NoSuchName = 3,
    NotDone = 4,
    Refused = 5,
}

/// A question: the name in lower case without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub id: u16,
    pub name: String,
    pub kind: u16,
    pub class: u16,
    /// The bytes of the question as they came, for the answer.
    raw: Vec<u8>,
}

/// Why a message is no question.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nothing to be answered: too short, or an answer itself.
    Silence,
    /// To be answered with this code.
    Answer(u16, Code),
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Reads a name that begins at `at`; gives it with the place behind it.
fn name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut end = None;
    for _ in 0..JUMPS + NAME_MAX {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = bytes.get(at + 1..at + 1 + length)?;
                if !name.is_empty() {
                    name.push('.');
                }
                let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_';
                if !label.iter().all(plain) || name.len() + length > NAME_MAX {
                    return None;
                }
                name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
                at += 1 + length;
            }
            192.. => {
                let to = usize::from(word(bytes, at)? & 0x3fff);
                end.get_or_insert(at + 2);
                // Only backwards: no circle.
                if to >= at {
                    return None;
                }
                at = to;
            }
            _ => return None,
        }
    }
    None
}

/// Reads a question.
pub fn question(bytes: &[u8]) -> Result<Question, Wrong> {
    let (Some(id), Some(flags)) = (word(bytes, 0), word(bytes, 2)) else {
        return Err(Wrong::Silence);
    };
    if flags & RESPONSE != 0 {
        return Err(Wrong::Silence);
    }
    if bytes.len() < HEADER {
        return Err(Wrong::Answer(id, Code::Malformed));
    }
    if flags >> 11 & 0xf != 0 {
        return Err(Wrong::Answer(id, Code::NotDone));
    }
    let malformed = || Wrong::Answer(id, Code::Malformed);
    if word(bytes, 4) != Some(1) || word(bytes, 6) != Some(0) || word(bytes, 8) != Some(0) {
        return Err(malformed());
    }
    let (name, at) = name(bytes, HEADER).ok_or_else(malformed)?;
    let (kind, class) = word(bytes, at).zip(word(bytes, at + 2)).ok_or_else(malformed)?;
    Ok(Question {
        id,
        name,
        kind,
        class,
        raw: bytes[HEADER..at + 4].to_vec(),
    })
}

/// A message without any record.
pub fn bare(id: u16, code: Code) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER);
    for word in [id, RESPONSE | RECURSION | code as u16, 0, 0, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes
}

/// The answer to a question, at most `room` bytes: cut, and marked so, if there is more.
pub fn answer(question: &Question, code: Code, addresses: &[IpAddr], ttl: u32, room: usize) -> Vec<u8> {
    let mut bytes = bare(question.id, code);
    bytes[5] = 1;
    bytes.extend(&question.raw);
    let mut count = 0u16;
    for address in addresses {
        let (kind, data) = match address {
            IpAddr::V4(ip) => (A, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AAAA, ip.octets().to_vec()),
        };
        if bytes.len() + 12 + data.len() > room {
            bytes[2] |= TRUNCATED.to_be_bytes()[0];
            break;
        }
        // The name is the question's, which begins behind the header.
        for word in [0xc00c, kind, INTERNET] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(data);
        count += 1;
    }
    bytes[6..8].copy_from_slice(&count.to_be_bytes());
    bytes
}

/// A question to a name server.
pub fn ask(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=63).contains(length))?;
        bytes.push(length);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(INTERNET.to_be_bytes());
    Some(bytes)
}

/// What a name server said.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub code: u16,
    pub truncated: bool,
    pub addresses: Vec<IpAddr>,
}

/// Reads the answer to `ask(id, asked, kind)`: addresses of the name itself and of those that it is another name of.
pub fn said(bytes: &[u8], id: u16, asked: &str, kind: u16) -> Option<Said> {
    let flags = word(bytes, 2)?;
    if word(bytes, 0)? != id || flags & RESPONSE == 0 || word(bytes, 4)? != 1 {
        return None;
    }
    let (about, mut at) = name(bytes, HEADER)?;
    if about != asked || word(bytes, at)? != kind {
        return None;
    }
    at += 4;
    let mut names = vec![about];
    let mut addresses = Vec::new();
    for _ in 0..usize::from(word(bytes, 6)?).min(ANSWERS_MAX) {
        let (owner, behind) = name(bytes, at)?;
        let (found, class) = (word(bytes, behind)?, word(bytes, behind + 2)?);
        let length = usize::from(word(bytes, behind + 8)?);
        let from = behind + 10;
        let data = bytes.get(from..from + length)?;
        if class == INTERNET && names.contains(&owner) {
            match (found, length) {
                (CNAME, _) => names.push(name(bytes, from)?.0),
                (A, 4) if kind == A => addresses.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
                (AAAA, 16) if kind == AAAA => addresses.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
                _ => {}
            }
        }
        at = from + length;
    }
    Some(Said {
        code: flags & 0xf,
        truncated: flags & TRUNCATED != 0,
        addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_and_answered() {
        let bytes = ask(7, "Www.Example.com", A).unwrap();
        let question = question(&bytes).unwrap();
        assert_eq!(
            (question.id, question.name.as_str(), question.kind),
            (7, "www.example.com", A)
        );
        let addresses = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let answered = answer(&question, Code::Fine, &addresses, 30, UDP_MAX);
        let said = said(&answered, 7, "www.example.com", A).unwrap();
        assert_eq!(
            (said.code, said.truncated, said.addresses),
            (0, false, addresses.to_vec())
        );
    }

    #[test]
    fn what_has_no_room_is_cut_and_marked() {
        let question = question(&ask(7, "a.example", AAAA).unwrap()).unwrap();
        let many = vec!["2001:db8::1".parse().unwrap(); 40];
        let answered = answer(&question, Code::Fine, &many, 30, UDP_MAX);
        assert!(answered.len() <= UDP_MAX);
        let said = said(&answered, 7, "a.example", AAAA).unwrap();
        assert!(said.truncated && said.addresses.len() < 40);
    }

    #[test]
    fn malformed_messages_are_said_to_be() {
        let good = ask(9, "a.example", A).unwrap();
        for length in 0..good.len() {
            match question(&good[..length]) {
                Err(Wrong::Silence) => assert!(length < 4),
                Err(Wrong::Answer(9, Code::Malformed)) => {}
                other => panic!("{length}: {other:?}"),
            }
        }
        // A name that leads to itself, a label of a forbidden kind, two questions, another purpose.
        for (at, value, code) in [
            (12, 0xc0, Code::Malformed),
            (12, 0x80, Code::Malformed),
            (5, 2, Code::Malformed),
            (2, 0x28, Code::NotDone),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert_eq!(question(&bytes), Err(Wrong::Answer(9, code)), "{at}");
        }
    }

    #[test]
    fn no_bytes_harm_the_reader() {
        // A small generator: the same bytes each time.
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33).to_le_bytes()[0]
        };
        let good = answer(
            &question(&ask(9, "a.example", A).unwrap()).unwrap(),
            Code::Fine,
            &["192.0.2.1".parse().unwrap()],
            1,
            UDP_MAX,
        );
        for _ in 0..100_000 {
            let mut bytes = good.clone();
            for _ in 0..4 {
                let at = usize::from(random()) % bytes.len();
                bytes[at] = random();
            }
            bytes.truncate(usize::from(random()) % (good.len() + 1));
            let _ = question(&bytes);
            let _ = said(&bytes, 9, "a.example", A);
        }
    }

    #[test]
    fn a_foreign_record_is_no_answer() {
        let question = question(&ask(7, "a.example", A).unwrap()).unwrap();
        let mut bytes = answer(&question, Code::Fine, &["192.0.2.1".parse().unwrap()], 1, UDP_MAX);
        assert_eq!(said(&bytes, 8, "a.example", A), None);
        assert_eq!(said(&bytes, 7, "b.example", A), None);
        assert_eq!(said(&bytes, 7, "a.example", AAAA), None);
        // The record is about ".example".
        let at = bytes.len() - 15;
        bytes[at] = 14;
        assert_eq!(
            said(&bytes, 7, "a.example", A).unwrap().addresses,
            Vec::<IpAddr>::new()
        );
    }
}
