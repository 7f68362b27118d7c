//! The packet filter as it shall be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Subject, World,
    compile::{Compiled, Element, Family, Set},
};
use crate::map::{Addresses, Prefix};

/// What of the filter is not a matter of policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Name of the table, of family `inet`.
    pub table: String,
    /// Name of the WireGuard link.
    pub link: String,
    /// Name of the workloads' bridge.
    pub bridge: String,
    /// All addresses of the fabric, IPv4 and IPv6.
    pub ranges: [Prefix; 2],
    /// TCP ports of the capsule itself that other members' own addresses may connect to.
    pub open_ports: Vec<u16>,
}

/// Who somebody with an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// The capsule or one of its workloads.
    Own,
    /// One of its workloads.
    Workload,
    /// A member.
    Capsule,
    /// Somebody for whom no rule of a whole slice holds.
    Singular,
}

impl Who {
    pub(super) const ALL: [(Self, &'static str); 4] = [
        (Self::Own, "own"),
        (Self::Workload, "workload"),
        (Self::Capsule, "capsule"),
        (Self::Singular, "singular"),
    ];
}

/// Everything that the packet filter holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub(super) frame: Frame,
    pub(super) known: BTreeMap<(Who, Family), BTreeSet<IpAddr>>,
    pub(super) sets: BTreeMap<Set, BTreeSet<Element>>,
}

impl Filter {
    /// Of compiled policies and those that they are of.
    pub fn new(frame: Frame, world: &World<'_>, subjects: &[Subject], compiled: Compiled) -> Self {
        let mut known: BTreeMap<(Who, Family), BTreeSet<IpAddr>> = BTreeMap::new();
        let mut know = |who: Who, addresses: Addresses| {
            known.entry((who, Family::V4)).or_default().insert(addresses.ipv4.into());
            known.entry((who, Family::V6)).or_default().insert(addresses.ipv6.into());
        };
        if let Some(me) = world.map.member(world.me.as_str()) {
            know(Who::Own, world.map.plan().own(me.slot));
        }
        for subject in subjects {
            know(Who::Own, subject.addresses);
            know(Who::Workload, subject.addresses);
        }
        world.capsules().for_each(|own| know(Who::Capsule, own));
        world.singular().for_each(|addresses| know(Who::Singular, addresses));
        Self { frame, known, sets: compiled.sets }
    }
}
