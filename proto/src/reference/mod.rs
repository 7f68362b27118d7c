//! Who may talk to whom, as a policy names them: `db@storage:5432/tcp`.
//!
//! - [`Reference`]: a [`Peer`] and a [`Service`]; `parse.rs` reads what people write;
//! - [`Cidr`], [`Ports`]: prefixes and port ranges;
//! - [`End`], [`Asked`]: one flow of those that a policy may allow.

mod cidr;
mod flow;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;

pub use cidr::Cidr;
pub use flow::{Asked, End, FlowError, Request};
pub use parse::ReferenceError;

use crate::Name;

/// What stands before `@` for a capsule's own processes; no workload in the fabric has this name.
pub const HOST: &str = "host";

/// What stands before `@` for operators who come by way of a capsule; no workload in the fabric has
/// this name.
pub const OPERATOR: &str = "operator";

/// One entry of a policy: `db@storage:5432/tcp`, `*@build:8080-8090/tcp`, `web@*:53/udp`,
/// `web@nuc-1/icmp`, `cidr:100.64.16.0/24:9000/tcp`, `cidr:[fd00::/48]:9000/tcp`, `host@edge`.
///
/// Written back, it always names its protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The other side of the flow.
    pub peer: Peer,
    /// What is asked for: always the receiver's port.
    pub service: Service,
}

/// The other side of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Workloads of that name on capsules of that name.
    Workload(Pick, Pick),
    /// Processes of capsules of that name.
    Host(Pick),
    /// Operators, by way of capsules of that name.
    Operator(Pick),
    /// Workloads with an address in that prefix.
    Cidr(Cidr),
}

/// One name, or each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pick {
    /// `*`.
    Any,
    /// This one.
    Named(Name),
}

impl Pick {
    /// Whether `name` is meant too.
    pub fn takes(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(named) => named.as_str() == name,
        }
    }
}

/// A protocol and, where it has ports, the receiver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Everything; only a capsule's own processes and operators are referred to in this way.
    Any,
    /// TCP.
    Tcp(Ports),
    /// UDP.
    Udp(Ports),
    /// Ping: ICMP's and ICMPv6's echo. Errors of allowed flows need no permission.
    Icmp,
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// From `first` to `last`; `None` with 0 or with the ends exchanged.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// The lowest.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest.
    pub fn last(self) -> u16 {
        self.last
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{}", self.peer, self.service))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(workload, capsule) => write!(f, "{workload}@{capsule}"),
            Self::Host(capsule) => write!(f, "{HOST}@{capsule}"),
            Self::Operator(capsule) => write!(f, "{OPERATOR}@{capsule}"),
            Self::Cidr(cidr) if cidr.address().is_ipv6() => write!(f, "cidr:[{cidr}]"),
            Self::Cidr(cidr) => write!(f, "cidr:{cidr}"),
        }
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Named(name) => f.write_str(name.as_str()),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Tcp(ports) => write!(f, ":{ports}/tcp"),
            Self::Udp(ports) => write!(f, ":{ports}/udp"),
            Self::Icmp => f.write_str("/icmp"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}
