//! One flow between two ends, as people ask about it: from `web@a` to `db@b:5432`.

use std::{fmt, net::IpAddr, str::FromStr};

use super::{HOST, Peer, Pick, Reference, ReferenceError, Service};
use crate::Name;

/// Why a text names no end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// It is no reference at all.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// It names several.
    #[error("{0:?} means several workloads; name one of them, such as db@storage")]
    Several(String),
    /// It names a range of ports, or none.
    #[error("{0:?} does not name one port; write one, as in :5432, or /icmp")]
    Port(String),
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// A workload on a member.
    Workload(Name, Name),
    /// A member's own processes.
    Host(Name),
    /// Whoever has this address.
    Address(IpAddr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(workload, member) => write!(f, "{workload}@{member}"),
            Self::Host(member) => write!(f, "{HOST}@{member}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

impl FromStr for End {
    type Err = FlowError;

    /// As in a policy, or a bare address.
    fn from_str(text: &str) -> Result<Self, FlowError> {
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Self::Address(address));
        }
        // Any service will do: who is named is all that counts.
        end(&format!("{text}/icmp").parse::<Reference>()?.peer)
    }
}

fn end(peer: &Peer) -> Result<End, FlowError> {
    let several = || FlowError::Several(peer.to_string());
    match peer {
        Peer::Workload(Pick::Named(workload), Pick::Named(member)) => {
            Ok(End::Workload(workload.clone(), member.clone()))
        }
        Peer::Host(Pick::Named(member)) | Peer::Operator(Pick::Named(member)) => {
            Ok(End::Host(member.clone()))
        }
        Peer::Cidr(cidr) if cidr.address() == cidr.last() => Ok(End::Address(cidr.address())),
        _ => Err(several()),
    }
}

/// What one end asks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// An echo.
    Icmp,
}

impl Request {
    /// `tcp`, `udp` or `icmp`.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Icmp => "icmp",
        }
    }

    /// 0 where the protocol has none.
    pub fn port(self) -> u16 {
        match self {
            Self::Tcp(port) | Self::Udp(port) => port,
            Self::Icmp => 0,
        }
    }

    /// The other way.
    pub fn new(protocol: &str, port: u16) -> Option<Self> {
        match (protocol, port) {
            ("tcp", 1..) => Some(Self::Tcp(port)),
            ("udp", 1..) => Some(Self::Udp(port)),
            ("icmp", 0) => Some(Self::Icmp),
            _ => None,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp => f.write_str("icmp"),
            _ => write!(f, "{}/{}", self.port(), self.protocol()),
        }
    }
}

/// Who is asked, and for what: `db@storage:5432/tcp`, `host@edge:9100`, `100.64.4.2/icmp`,
/// `[fd00::2]:53/udp`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Who.
    pub end: End,
    /// For what.
    pub request: Request,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.end, self.request) {
            (end, Request::Icmp) => write!(f, "{end}/icmp"),
            (End::Address(IpAddr::V6(six)), request) => write!(f, "[{six}]:{request}"),
            (end, request) => write!(f, "{end}:{request}"),
        }
    }
}

impl FromStr for Asked {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let Reference { peer, service } = with_prefix(text).as_deref().unwrap_or(text).parse()?;
        let port = |ports: super::Ports| {
            let only = (ports.first() == ports.last()).then_some(ports.first());
            only.ok_or_else(|| FlowError::Port(text.to_owned()))
        };
        let request = match service {
            Service::Any => return Err(FlowError::Port(text.to_owned())),
            Service::Tcp(ports) => Request::Tcp(port(ports)?),
            Service::Udp(ports) => Request::Udp(port(ports)?),
            Service::Icmp => Request::Icmp,
        };
        Ok(Self { end: end(&peer)?, request })
    }
}

/// A text that begins with a bare address, as a policy would write it.
fn with_prefix(text: &str) -> Option<String> {
    if let Some((six, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let six: std::net::Ipv6Addr = six.parse().ok()?;
        return Some(format!("cidr:[{six}/128]{rest}"));
    }
    let ends = [text.find('/'), text.find(':'), Some(text.len())];
    let end = ends.into_iter().flatten().min()?;
    if let Ok(four) = text[..end].parse::<std::net::Ipv4Addr>() {
        return Some(format!("cidr:{four}/32{}", &text[end..]));
    }
    // Without brackets there is no telling its port.
    let (six, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
    let six: std::net::Ipv6Addr = six.parse().ok()?;
    Some(format!("cidr:[{six}/128]{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_read_as_policies_write_them_and_as_bare_addresses() {
        for (text, written) in [
            ("db@b:5432", "db@b:5432/tcp"),
            ("db@b:53/udp", "db@b:53/udp"),
            ("db@b/icmp", "db@b/icmp"),
            ("host@b:22", "host@b:22/tcp"),
            ("100.64.4.2:80", "100.64.4.2:80/tcp"),
            ("100.64.4.2/icmp", "100.64.4.2/icmp"),
            ("[fd00::2]:53/udp", "[fd00::2]:53/udp"),
            ("fd00::2/icmp", "fd00::2/icmp"),
            ("cidr:100.64.4.2/32:80/tcp", "100.64.4.2:80/tcp"),
            ("cidr:[fd00::2/128]:80", "[fd00::2]:80/tcp"),
        ] {
            let asked: Asked = text.parse().unwrap();
            assert_eq!(asked.to_string(), written);
            assert_eq!(written.parse::<Asked>().unwrap(), asked);
            assert_eq!(asked.end.to_string().parse::<End>().unwrap(), asked.end);
        }
        assert_eq!("operator@a".parse::<End>().unwrap(), End::Host("a".parse().unwrap()));
        assert_eq!("[fd00::2]".parse::<End>().unwrap(), End::Address("fd00::2".parse().unwrap()));
    }

    #[test]
    fn what_is_no_one_flow_says_why() {
        let refused = |text: &str| text.parse::<Asked>().unwrap_err().to_string();
        assert!(refused("*@b:80").contains("several"));
        assert!(refused("db@*:80").contains("several"));
        assert!(refused("cidr:100.64.0.0/24:80").contains("several"));
        assert!(refused("db@b:80-90").contains("one port"));
        assert!(refused("host@b").contains("one port"));
        assert!(refused("db@b").contains("port"));
        assert!(refused("100.64.4.2").contains("port"));
        assert!(refused("db:80").contains("with its capsule"));
        assert!("web@a:80".parse::<End>().unwrap_err().to_string().contains("leave the port out"));
        assert!("web".parse::<End>().is_err());
    }

    #[test]
    fn a_request_is_read_back_from_its_parts() {
        for request in [Request::Tcp(80), Request::Udp(53), Request::Icmp] {
            assert_eq!(Request::new(request.protocol(), request.port()), Some(request));
        }
        assert_eq!(Request::new("tcp", 0), None);
        assert_eq!(Request::new("icmp", 8), None);
        assert_eq!(Request::new("sctp", 80), None);
    }
}
