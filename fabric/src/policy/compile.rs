//! From policies to elements of sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use capsule_proto::{Name, reference::Reference};

use super::{
    Subject, World, ports,
    resolve::{self, Wait},
};

/// Whose permission a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Of workloads here that ask others.
    Out,
    /// Of workloads here that others ask.
    In,
}

/// Version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Bits of an address.
    pub fn width(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V4 { "4" } else { "6" })
    }
}

/// Number of a protocol, as IANA gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);

    /// ICMP or ICMPv6.
    pub const fn ping(family: Family) -> Self {
        match family {
            Family::V4 => Self(1),
            Family::V6 => Self(58),
        }
    }
}

/// How many bits of the peer's address and of the port count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Of the peer's address.
    pub address: u8,
    /// Of the receiver's port; 0 for protocols without ports.
    pub port: u8,
}

/// What one set of the packet filter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set {
    /// Whose permission.
    pub direction: Direction,
    /// Of which addresses.
    pub family: Family,
    /// Of how much of them.
    pub shape: Shape,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.direction == Direction::Out { "out" } else { "in" };
        let Self { family, shape, .. } = self;
        write!(f, "{direction}{family}_{}_{}", shape.address, shape.port)
    }
}

/// One permission: peer and port are what is left of them under the set's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The workload here.
    pub own: IpAddr,
    /// The other side.
    pub peer: IpAddr,
    /// What is spoken.
    pub protocol: Protocol,
    /// The receiver's port.
    pub port: u16,
}

/// The policies of a capsule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Everything that is allowed.
    pub sets: BTreeMap<Set, BTreeSet<Element>>,
    /// References that allow nothing now, by workload.
    pub waiting: BTreeMap<Name, Vec<(Reference, Wait)>>,
}

/// What these policies allow, in this world.
pub fn compile(world: &World<'_>, subjects: &[Subject]) -> Compiled {
    let mut compiled = Compiled::default();
    for subject in subjects {
        for direction in [Direction::Out, Direction::In] {
            for reference in subject.references(direction) {
                compiled.allow(world, subject, direction, reference);
            }
        }
    }
    compiled
}

impl Compiled {
    /// Adds what one reference of a subject allows.
    pub(super) fn allow(
        &mut self,
        world: &World<'_>,
        subject: &Subject,
        direction: Direction,
        reference: &Reference,
    ) {
        let prefixes = match resolve::resolve(world, &reference.peer) {
            Ok(prefixes) => prefixes,
            Err(wait) => {
                let waiting = self.waiting.entry(subject.name.clone()).or_default();
                return waiting.push((reference.clone(), wait));
            }
        };
        for prefix in prefixes {
            let family = Family::of(prefix.address());
            let own = match family {
                Family::V4 => subject.addresses.ipv4.into(),
                Family::V6 => subject.addresses.ipv6.into(),
            };
            for (protocol, port) in ports::of(reference.service, family) {
                let shape = Shape { address: prefix.length(), port: port.length };
                let element = Element { own, peer: prefix.address(), protocol, port: port.port };
                self.sets.entry(Set { direction, family, shape }).or_default().insert(element);
            }
        }
    }
}
