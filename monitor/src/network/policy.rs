//! What a function may reach: `network.allow` of its bundle.
//!
//! | Address | Allowed by |
//! |---|---|
//! | of this machine, its link, a cloud's metadata, translated or reserved ranges | a rule that names it exactly |
//! | private (10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7) | a network that holds it, or an exact name that led to it |
//! | any other | a network that holds it, or a name that led to it |
//!
//! A name leads to an address only if the instance's own resolver said so a short time ago.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Deserialize;

use super::keys::Protocol;

/// Addresses at which clouds tell secrets, beyond the link-local ones: Alibaba, Azure, Oracle; Amazon over IPv6.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// IPv6 networks that are no network of their own or lead elsewhere: IPv4-compatible, NAT64 (two), Teredo, 6to4, site-local.
const SPECIAL_V6: [(Ipv6Addr, u32); 6] = [
    (Ipv6Addr::UNSPECIFIED, 96),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
];

/// A rule as the bundle has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    host: Option<String>,
    cidr: Option<String>,
    ports: Vec<(u16, u16)>,
    protocol: Spoken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Spoken {
    Tcp,
    Udp,
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Name(String),
    /// Every name that ends with this, which begins with a dot.
    Below(String),
    Network(IpAddr, u32),
}

#[derive(Clone, Debug)]
struct Rule {
    target: Target,
    ports: Vec<(u16, u16)>,
    spoken: Spoken,
}

#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

fn bits(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    }
}

fn holds(network: IpAddr, prefix: u32, ip: IpAddr) -> bool {
    let ((network, width), (ip, other)) = (bits(network), bits(ip));
    width == other && (prefix == 0 || (network ^ ip) >> (128 - prefix) == 0)
}

/// Refused unless it is named exactly; the machine's own addresses are the caller's to know.
fn is_special(ip: IpAddr) -> bool {
    if METADATA.contains(&ip) || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return true;
    }
    match ip {
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            ip.is_link_local() || first == 0 || first >= 240
        }
        IpAddr::V6(v6) => {
            let special = |(network, prefix): &(Ipv6Addr, u32)| holds((*network).into(), *prefix, ip);
            v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some() || SPECIAL_V6.iter().any(special)
        }
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            ip.is_private() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

impl Policy {
    /// Checks the rules; an error is for people.
    pub fn new(given: &[Given]) -> Result<Self, String> {
        let rules = given.iter().map(rule).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// Whether there is any network.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a name may be asked for; it is in lower case, without a dot at its end.
    pub fn allows_name(&self, name: &str) -> bool {
        self.rules.iter().any(|rule| rule.target.is_name(name))
    }

    /// Whether an answer for a name may hold an address: whether anything could then be reached there.
    pub fn may_lead(&self, name: &str, ip: IpAddr, own: &[IpAddr]) -> bool {
        let ip = ip.to_canonical();
        let special = is_special(ip) || own.contains(&ip);
        self.rules.iter().any(|rule| match &rule.target {
            Target::Network(network, prefix) => {
                rule.target.is_exactly(ip) || (!special && holds(*network, *prefix, ip))
            }
            Target::Name(_) => !special && rule.target.is_name(name),
            Target::Below(_) => !special && !is_private(ip) && rule.target.is_name(name),
        })
    }

    /// Whether the address may be connected to. `names` led to it; `own` are the machine's addresses.
    pub fn allows(&self, protocol: Protocol, address: SocketAddr, names: &[String], own: &[IpAddr]) -> bool {
        let ip = address.ip().to_canonical();
        let matching = || {
            self.rules
                .iter()
                .filter(|rule| rule.speaks(protocol, address.port()))
        };
        if matching().any(|rule| rule.target.is_exactly(ip)) {
            return true;
        }
        if is_special(ip) || own.contains(&ip) {
            return false;
        }
        matching().any(|rule| match &rule.target {
            Target::Network(network, prefix) => holds(*network, *prefix, ip),
            Target::Name(_) => names.iter().any(|name| rule.target.is_name(name)),
            Target::Below(_) => !is_private(ip) && names.iter().any(|name| rule.target.is_name(name)),
        })
    }
}

fn rule(given: &Given) -> Result<Rule, String> {
    let target = match (&given.host, &given.cidr) {
        (Some(host), None) => name(host)?,
        (None, Some(cidr)) => network(cidr)?,
        _ => return Err("needs host or cidr, and not both".to_owned()),
    };
    if let Some((first, last)) = given
        .ports
        .iter()
        .find(|(first, last)| *first == 0 || first > last)
    {
        return Err(format!("{first}-{last} is not a range of ports"));
    }
    Ok(Rule {
        target,
        ports: given.ports.clone(),
        spoken: given.protocol,
    })
}

fn name(host: &str) -> Result<Target, String> {
    let (below, bare) = match host.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, host),
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if bare.len() > 253 || !bare.split('.').all(label) {
        return Err(format!("{host:?} is not a host name in lower case"));
    }
    Ok(if below {
        Target::Below(format!(".{bare}"))
    } else {
        Target::Name(bare.to_owned())
    })
}

fn network(cidr: &str) -> Result<Target, String> {
    let wrong = || format!("{cidr:?} is not an address or a network");
    let (ip, prefix) = match cidr.split_once('/') {
        Some((ip, prefix)) => (ip, Some(prefix.parse::<u32>().map_err(|_| wrong())?)),
        None => (cidr, None),
    };
    let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
    let width = bits(ip).1;
    let prefix = prefix.unwrap_or(width);
    if prefix > width {
        return Err(wrong());
    }
    Ok(Target::Network(ip, prefix))
}

impl Target {
    fn is_name(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Below(end) => name.len() > end.len() && name.ends_with(end.as_str()),
            Self::Network(..) => false,
        }
    }

    fn is_exactly(&self, ip: IpAddr) -> bool {
        matches!(self, Self::Network(own, prefix) if *own == ip && *prefix == bits(ip).1)
    }
}

impl Rule {
    fn speaks(&self, protocol: Protocol, port: u16) -> bool {
        let spoken = match self.spoken {
            Spoken::Any => true,
            Spoken::Tcp => protocol == Protocol::Tcp,
            Spoken::Udp => protocol == Protocol::Udp,
        };
        let within = |(first, last): &(u16, u16)| (*first..=*last).contains(&port);
        spoken && (self.ports.is_empty() || self.ports.iter().any(within))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: serde_json::Value) -> Policy {
        let given: Vec<Given> = serde_json::from_value(rules).unwrap();
        Policy::new(&given).unwrap()
    }

    fn wide() -> Policy {
        policy(serde_json::json!([
            {"host": null, "cidr": "0.0.0.0/0", "ports": [], "protocol": "any"},
            {"host": null, "cidr": "::/0", "ports": [], "protocol": "any"},
        ]))
    }

    fn allows(policy: &Policy, address: &str, names: &[&str]) -> bool {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let own = ["198.51.100.1".parse().unwrap()];
        policy.allows(Protocol::Tcp, address.parse().unwrap(), &names, &own)
    }

    #[test]
    fn a_wide_rule_reaches_no_address_of_this_machine_its_link_or_a_clouds_metadata() {
        let policy = wide();
        for address in [
            "127.0.0.1:80",
            "127.1.2.3:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "169.254.169.254:80",
            "169.254.0.1:80",
            "100.100.100.200:80",
            "168.63.129.16:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "240.0.0.1:80",
            "198.51.100.1:80",
            "[::1]:80",
            "[::]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "[fd00:ec2::254]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:169.254.169.254]:80",
            "[::ffff:198.51.100.1]:80",
            "[::127.0.0.1]:80",
            "[64:ff9b::169.254.169.254]:80",
            "[64:ff9b:1::1]:80",
            "[2002:a9fe:a9fe::]:80",
            "[2001::1]:80",
            "[fec0::1]:80",
        ] {
            assert!(!allows(&policy, address, &["any.example"]), "{address}");
        }
        for address in [
            "93.184.216.34:80",
            "10.0.0.1:80",
            "[2606:2800::1]:443",
            "[::ffff:93.184.216.34]:80",
        ] {
            assert!(allows(&policy, address, &[]), "{address}");
        }
    }

    #[test]
    fn what_is_named_exactly_is_reached() {
        let policy = policy(serde_json::json!([
            {"host": null, "cidr": "169.254.169.254", "ports": [[80, 80]], "protocol": "tcp"},
            {"host": null, "cidr": "198.51.100.1/32", "ports": [], "protocol": "udp"},
        ]));
        assert!(allows(&policy, "169.254.169.254:80", &[]));
        assert!(allows(&policy, "[::ffff:169.254.169.254]:80", &[]));
        assert!(!allows(&policy, "169.254.169.254:81", &[]));
        assert!(!allows(&policy, "198.51.100.1:80", &[]));
    }

    #[test]
    fn names_reach_what_they_led_to() {
        let policy = policy(serde_json::json!([
            {"host": "*.example.com", "cidr": null, "ports": [[443, 443]], "protocol": "tcp"},
            {"host": "db.internal", "cidr": null, "ports": [], "protocol": "any"},
        ]));
        assert!(policy.allows_name("a.example.com") && policy.allows_name("a.b.example.com"));
        assert!(!policy.allows_name("example.com") && !policy.allows_name("xexample.com"));
        assert!(allows(&policy, "93.184.216.34:443", &["a.example.com"]));
        assert!(!allows(&policy, "93.184.216.34:80", &["a.example.com"]));
        assert!(!allows(&policy, "93.184.216.34:443", &[]));
        // Rebinding: a name of somebody else's leads to the inside.
        assert!(!allows(&policy, "10.0.0.7:443", &["a.example.com"]));
        assert!(allows(&policy, "10.0.0.7:5432", &["db.internal"]));
        assert!(!allows(&policy, "127.0.0.1:5432", &["db.internal"]));
        assert!(!allows(&policy, "198.51.100.1:5432", &["db.internal"]));
    }

    #[test]
    fn wrong_rules_are_refused() {
        for rule in [
            serde_json::json!({"host": "a", "cidr": "10.0.0.0/8", "ports": [], "protocol": "tcp"}),
            serde_json::json!({"host": null, "cidr": null, "ports": [], "protocol": "tcp"}),
            serde_json::json!({"host": "UPPER", "cidr": null, "ports": [], "protocol": "tcp"}),
            serde_json::json!({"host": null, "cidr": "10.0.0.0/33", "ports": [], "protocol": "tcp"}),
            serde_json::json!({"host": "a", "cidr": null, "ports": [[2, 1]], "protocol": "tcp"}),
        ] {
            let given: Given = serde_json::from_value(rule.clone()).unwrap();
            assert!(Policy::new(&[given]).is_err(), "{rule}");
        }
    }
}
