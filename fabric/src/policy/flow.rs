//! One flow before the policies: where the packet filter looks it up, and which reference is for it.

use std::{net::IpAddr, str::FromStr};

use capsule_proto::reference::{Reference, Request};

use super::{
    Subject, World,
    compile::{Compiled, Direction, Element, Family, Protocol, Set, Shape},
};
use crate::map::{Addresses, Prefix};

/// The packets of who asks, as far as policies look at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who asks.
    pub source: IpAddr,
    /// Who is asked, of the same family.
    pub destination: IpAddr,
    /// What is spoken.
    pub protocol: Protocol,
    /// Of who is asked; 0 where the protocol has none.
    pub port: u16,
}

impl Flow {
    /// `None` with addresses of two families.
    pub fn new(source: IpAddr, destination: IpAddr, request: Request) -> Option<Self> {
        let family = Family::of(source);
        let protocol = match request {
            Request::Tcp(_) => Protocol::TCP,
            Request::Udp(_) => Protocol::UDP,
            Request::Icmp => Protocol::ping(family),
        };
        let flow = Self { source, destination, protocol, port: request.port() };
        (family == Family::of(destination)).then_some(flow)
    }

    /// Of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.source)
    }

    /// The end whose policy is meant, and the other one.
    fn ends(&self, direction: Direction) -> (IpAddr, IpAddr) {
        match direction {
            Direction::Out => (self.source, self.destination),
            Direction::In => (self.destination, self.source),
        }
    }

    /// The end that the policy is not of.
    pub fn peer(&self, direction: Direction) -> IpAddr {
        self.ends(direction).1
    }

    /// What the set has where it allows this flow; `None` of a set of other addresses.
    pub fn element(&self, set: &Set) -> Option<Element> {
        let (own, peer) = self.ends(set.direction);
        let mask = u16::MAX.checked_shl(16 - u32::from(set.shape.port)).unwrap_or(0);
        let peer = Prefix::around(peer, set.shape.address).address();
        let element = Element { own, peer, protocol: self.protocol, port: self.port & mask };
        (set.family == self.family()).then_some(element)
    }
}

/// Of the subject's references, the first that allows the flow.
pub fn allowing<'a>(
    world: &World<'_>,
    subject: &'a Subject,
    direction: Direction,
    flow: &Flow,
) -> Option<&'a Reference> {
    let peer = flow.peer(direction);
    let is_peer = |addresses: Addresses| peer == addresses.ipv4 || peer == addresses.ipv6;
    let is_singular = world.singular().any(is_peer);
    subject.references(direction).iter().find(|reference| {
        let mut compiled = Compiled::default();
        compiled.allow(world, subject, direction, reference);
        compiled.sets.iter().any(|(set, elements)| {
            let is_wide = set.shape.address < set.family.width();
            let element = flow.element(set);
            !(is_singular && is_wide) && element.is_some_and(|element| elements.contains(&element))
        })
    })
}

impl Set {
    /// Whether it is looked up for peers that no rule of a whole slice is for.
    pub fn is_for_singular(&self) -> bool {
        self.shape.address == self.family.width()
    }

    /// Whether each of its elements is of one pair and port alone.
    pub fn is_exact(&self) -> bool {
        self.is_for_singular() && self.shape.port == 16
    }
}

/// Why a set is none of the policies'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not the name of a set of policies")]
pub struct SetError;

impl FromStr for Set {
    type Err = SetError;

    /// As it is written: `out4_32_16`.
    fn from_str(text: &str) -> Result<Self, SetError> {
        let (direction, rest) = match (text.strip_prefix("out"), text.strip_prefix("in")) {
            (Some(rest), _) => (Direction::Out, rest),
            (None, Some(rest)) => (Direction::In, rest),
            (None, None) => return Err(SetError),
        };
        let mut parts = rest.split('_');
        let mut number = || parts.next().and_then(|part| part.parse::<u8>().ok()).ok_or(SetError);
        let family = match number()? {
            4 => Family::V4,
            6 => Family::V6,
            _ => return Err(SetError),
        };
        let shape = Shape { address: number()?, port: number()? };
        let is_shape = shape.address <= family.width() && shape.port <= 16 && parts.next().is_none();
        is_shape.then_some(Self { direction, family, shape }).ok_or(SetError)
    }
}
