//! Reads references; says where one is wrong and why.

use std::str::FromStr;

use super::{Cidr, HOST, OPERATOR, Peer, Pick, Ports, Reference, Service};

/// What a reference looks like, for errors.
const EXAMPLES: &str = "db@storage:5432/tcp, *@build:8080-8090/tcp or cidr:100.64.16.0/24:9000/udp";

/// Longest part of a wrong text that is repeated to who wrote it, in characters.
const SHOWN: usize = 80;

/// Why a text is not a [`Reference`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is wrong at character {at}: {reason}")]
pub struct ReferenceError {
    text: String,
    at: usize,
    reason: String,
}

impl ReferenceError {
    /// Where, in characters from 1.
    pub fn at(&self) -> usize {
        self.at
    }
}

/// A problem and the byte where it begins.
type Wrong = (usize, String);

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        read(text).map_err(|(byte, reason)| ReferenceError {
            text: text.chars().take(SHOWN).collect(),
            at: text.get(..byte).map_or(0, |before| before.chars().count()) + 1,
            reason,
        })
    }
}

fn read(text: &str) -> Result<Reference, Wrong> {
    let (peer, end) = match text.strip_prefix("cidr:") {
        Some(rest) => prefix(rest, "cidr:".len())?,
        None => names(text)?,
    };
    let service = service(&text[end..], end, &peer)?;
    Ok(Reference { peer, service })
}

/// `workload@capsule`, up to the port or the protocol; and where it ends.
fn names(text: &str) -> Result<(Peer, usize), Wrong> {
    let end = text.find([':', '/']).unwrap_or(text.len());
    let Some(at) = text[..end].find('@') else {
        return Err((end, format!("a workload is named with its capsule, as in {EXAMPLES}")));
    };
    let capsule = pick(&text[at + 1..end]).map_err(|reason| (at + 1, reason))?;
    let peer = match &text[..at] {
        HOST => Peer::Host(capsule),
        OPERATOR => Peer::Operator(capsule),
        workload => Peer::Workload(pick(workload).map_err(|reason| (0, reason))?, capsule),
    };
    Ok((peer, end))
}

fn pick(text: &str) -> Result<Pick, String> {
    if text == "*" {
        return Ok(Pick::Any);
    }
    text.parse().map(Pick::Named).map_err(|error| format!("{error}, or * for each"))
}

/// `100.64.16.0/24` or `[fd00::/48]`, which begins at `begin` of the whole; and where it ends there.
fn prefix(rest: &str, begin: usize) -> Result<(Peer, usize), Wrong> {
    let (inner, skipped, end) = if let Some(inner) = rest.strip_prefix('[') {
        let length = inner.find(']').ok_or((begin, "the bracket is not closed".to_owned()))?;
        (&inner[..length], 1, length + 2)
    } else {
        let end = end_of_ipv4(rest);
        (&rest[..end], 0, end)
    };
    let wrong = |reason: String| (begin + skipped, reason);
    let cidr: Cidr = inner.parse().map_err(|error: super::cidr::CidrError| wrong(error.to_string()))?;
    if cidr.address().is_ipv6() != (skipped == 1) {
        return Err(wrong("brackets stand around IPv6 prefixes, and only there".to_owned()));
    }
    Ok((Peer::Cidr(cidr), begin + end))
}

/// Where an IPv4 prefix ends: at its port, or at the `/` that is not its own. Other prefixes without
/// brackets are taken whole, to be refused for that.
fn end_of_ipv4(text: &str) -> usize {
    let slash = text.find('/').unwrap_or(text.len());
    if text[..slash].matches(':').count() > 1 {
        return text.len();
    }
    match text[..slash].find(':') {
        Some(colon) => colon,
        None => text[slash..]
            .get(1..)
            .and_then(|rest| rest.find([':', '/']))
            .map_or(text.len(), |end| slash + 1 + end),
    }
}

/// What follows the peer, which ends at `begin`.
fn service(text: &str, begin: usize, peer: &Peer) -> Result<Service, Wrong> {
    if text.is_empty() {
        return match peer {
            Peer::Host(_) | Peer::Operator(_) => Ok(Service::Any),
            _ => Err((begin, "it has no port; write one, as in :5432, or /icmp".to_owned())),
        };
    }
    if let Some(protocol) = text.strip_prefix('/') {
        return match protocol {
            "icmp" => Ok(Service::Icmp),
            "tcp" | "udp" => {
                Err((begin, format!("{protocol} needs a port before it, as in :5432/{protocol}")))
            }
            other => Err((begin + 1, unknown(other))),
        };
    }
    let text = text.strip_prefix(':').ok_or((begin, "a port is expected here, as in :5432".to_owned()))?;
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let ports = ports(numbers).map_err(|(at, reason)| (begin + 1 + at, reason))?;
    match protocol {
        "tcp" => Ok(Service::Tcp(ports)),
        "udp" => Ok(Service::Udp(ports)),
        "icmp" => Err((begin, "icmp has no ports; leave the port out".to_owned())),
        other => Err((begin + 2 + numbers.len(), unknown(other))),
    }
}

fn unknown(protocol: &str) -> String {
    format!("{:?} is not a protocol; write tcp, udp or icmp", shortened(protocol))
}

fn ports(text: &str) -> Result<Ports, Wrong> {
    let Some((first, last)) = text.split_once('-') else {
        let port = port(text).map_err(|reason| (0, reason))?;
        return Ok(Ports { first: port, last: port });
    };
    let at = first.len() + 1;
    let first = port(first).map_err(|reason| (0, reason))?;
    let last = port(last).map_err(|reason| (at, reason))?;
    Ports::new(first, last)
        .ok_or_else(|| (0, format!("the range {first}-{last} is empty; write {last}-{first}")))
}

fn port(text: &str) -> Result<u16, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u16>().ok().filter(|port| is_number && *port > 0);
    number.ok_or_else(|| format!("{:?} is not a port from 1 to 65535", shortened(text)))
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
