//! Who may talk to whom: from references in manifests to what the packet filter holds.
//!
//! - [`World`], [`Subject`]: what is known, and whose policies are to be compiled;
//! - `resolve.rs`: references as prefixes of addresses, or why they wait;
//! - `ports.rs`: services as prefixes of ports; `compile.rs`: both as elements of sets;
//! - `flow.rs`: one flow, where it is looked up and what allows it;
//! - `filter.rs`: the packet filter as it shall be; `chains.rs` and `script.rs`: its rules, and the
//!   nftables transaction that makes it so.
//!
//! Everything is a prefix, of addresses as of ports, and each pair of lengths has a set of its own: a
//! [`Shape`]. So every set is a hash of whole keys, and a packet costs one look-up for each shape in
//! use, however many rules there are. Nothing has to be disjoint, since rules only allow.

mod chains;
mod compile;
mod filter;
mod flow;
mod ports;
mod resolve;
mod script;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use capsule_proto::{Name, reference::Reference};

pub use self::{
    compile::{Compiled, Direction, Element, Family, Protocol, Set, Shape, compile},
    filter::{Filter, Frame},
    flow::{Flow, allowing},
    resolve::{Wait, is_theirs},
    script::removal,
};
use crate::map::{Addresses, MemberMap};

/// Workloads with addresses in the fabric, by member and name.
pub type Directory = BTreeMap<Name, BTreeMap<Name, Addresses>>;

/// What references are resolved with.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// Who the members are.
    pub map: &'a MemberMap,
    /// What the map calls this capsule.
    pub me: &'a Name,
    /// What other members say of their workloads; an address that is not theirs does not count.
    pub directory: &'a Directory,
}

/// A workload of this capsule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its name here.
    pub name: Name,
    /// Where it is in the fabric.
    pub addresses: Addresses,
    /// Whom it may ask.
    pub allow_to: Vec<Reference>,
    /// Who may ask it.
    pub allow_from: Vec<Reference>,
}

impl Subject {
    /// Its policy of one direction.
    pub fn references(&self, direction: Direction) -> &[Reference] {
        match direction {
            Direction::Out => &self.allow_to,
            Direction::In => &self.allow_from,
        }
    }
}
