//! The member map: one document, signed by an operator, that only moves forward.
//!
//! ```text
//!   bytes ── signed (who says so) ── decode (does it make sense) ── MemberMap ── accept (is it the next one)
//!                                                                   │    │
//!                                          change: map n → map n+1 ─┘    └─ diff: what changed for a member
//! ```
//!
//! `plan` says which address is whose; `id`, `prefix` and `endpoint` are the words of all of it.

mod accept;
mod change;
mod decode;
mod diff;
mod endpoint;
mod id;
mod plan;
mod prefix;
mod signed;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use capsule_proto::Name;

pub use self::{
    accept::{Held, Refusal, Verdict, judge},
    change::{Change, ChangeError, NewMember},
    decode::MapError,
    diff::{Diff, diff},
    endpoint::{Endpoint, EndpointError},
    id::{CapsuleId, FabricId, Generation, IdError, KeyError, PublicKey, Slot},
    plan::{AddressPlan, Addresses, IPV6_LENGTH, PlanError},
    prefix::{Prefix, PrefixError},
    signed::{SignedMap, message},
};

/// A capsule in the fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What operators and policies call it.
    pub name: Name,
    /// Who it is.
    pub capsule: CapsuleId,
    /// Its WireGuard key.
    pub public_key: PublicKey,
    /// Which slice is its own.
    pub slot: Slot,
    /// Where it may be met, the likeliest first.
    pub endpoints: Vec<Endpoint>,
    /// It keeps paths open at this interval, in seconds; 0 for never.
    pub keepalive: u16,
    /// Forwards between members that cannot reach each other.
    pub relay: bool,
}

/// A workload that lives elsewhere than where it got its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// What it is called where it lives now.
    pub workload: Name,
    /// What it took with it.
    pub addresses: Addresses,
    /// Where it lives now.
    pub member: Name,
}

/// A map that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberMap {
    fabric: FabricId,
    generation: Generation,
    plan: AddressPlan,
    /// By slot.
    members: Vec<Member>,
    overrides: Vec<Override>,
}

impl MemberMap {
    /// The first map of a new fabric: no members yet.
    pub fn found(plan: AddressPlan) -> Self {
        let (fabric, generation) = (FabricId::random(), Generation::FIRST);
        Self { fabric, generation, plan, members: Vec::new(), overrides: Vec::new() }
    }

    /// Which fabric it is of.
    pub fn fabric(&self) -> FabricId {
        self.fabric
    }

    /// How often it was changed.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Which address is whose.
    pub fn plan(&self) -> &AddressPlan {
        &self.plan
    }

    /// Every member, by slot.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Workloads that live elsewhere than where they got their addresses.
    pub fn overrides(&self) -> &[Override] {
        &self.overrides
    }

    /// The member of this name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name.as_str() == name)
    }

    /// The member that is this capsule.
    pub fn of_capsule(&self, capsule: CapsuleId) -> Option<&Member> {
        self.members.iter().find(|member| member.capsule == capsule)
    }

    /// The member with this key.
    pub fn of_key(&self, key: &PublicKey) -> Option<&Member> {
        self.members.iter().find(|member| member.public_key == *key)
    }

    /// The member with this slot.
    pub fn of_slot(&self, slot: Slot) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&slot, |member| member.slot).ok()?;
        self.members.get(at)
    }

    /// The member behind which an address of the fabric is.
    pub fn holder(&self, address: IpAddr) -> Option<&Member> {
        let is_meant = |addresses: &Addresses| address == addresses.ipv4 || address == addresses.ipv6;
        match self.overrides.iter().find(|moved| is_meant(&moved.addresses)) {
            Some(moved) => self.member(moved.member.as_str()),
            None => self.of_slot(self.plan.place(address)?.0),
        }
    }

    /// What WireGuard lets this member send, and what is sent to it.
    pub fn allowed_ips(&self, member: &Member) -> Vec<Prefix> {
        let slices = [self.plan.slice(member.slot), self.plan.ipv6_slice(member.slot)];
        let moved = self.overrides.iter().filter(|moved| moved.member == member.name);
        let moved =
            moved.flat_map(|moved| [Prefix::host(moved.addresses.ipv4), Prefix::host(moved.addresses.ipv6)]);
        slices.into_iter().chain(moved).collect()
    }

    /// The lowest slot that no member has and no moved workload's address is of.
    pub fn lowest_free_slot(&self) -> Option<Slot> {
        let slots = (0..self.plan.slots()).map(|slot| Slot(slot as u16));
        slots.into_iter().find(|slot| self.is_free(*slot))
    }

    fn is_free(&self, slot: Slot) -> bool {
        let is_of_slot =
            |moved: &Override| self.plan.place(moved.addresses.ipv4.into()).is_some_and(|(of, _)| of == slot);
        self.plan.has(slot) && self.of_slot(slot).is_none() && !self.overrides.iter().any(is_of_slot)
    }
}
