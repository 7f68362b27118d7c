//! References as prefixes of addresses.

use std::fmt;

use capsule_proto::{
    Name,
    reference::{Cidr, Peer, Pick},
};

use super::World;
use crate::map::{Addresses, Member, MemberMap, Prefix};

/// Why a reference allows nothing now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// The map has no such member.
    Member(Name),
    /// The member has no such workload in the fabric, as far as is known here.
    Workload(Name, Name),
    /// No member has such a workload, as far as is known here.
    Anywhere(Name),
    /// No address of the fabric is in the prefix.
    Outside,
    /// The only address in the prefix is a member's own.
    Capsule(Name),
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(member) => write!(f, "the fabric has no member {member}"),
            Self::Workload(workload, member) => {
                write!(f, "{member} has no workload {workload} in the fabric")
            }
            Self::Anywhere(workload) => write!(f, "no member has a workload {workload} in the fabric"),
            Self::Outside => f.write_str("it is outside the fabric's addresses"),
            Self::Capsule(member) => write!(f, "it is the address of {member} itself; write host@{member}"),
        }
    }
}

/// Whether a member may speak for these addresses: they are a workload's, behind it.
pub fn is_theirs(map: &MemberMap, member: &Name, addresses: &Addresses) -> bool {
    [addresses.ipv4.into(), addresses.ipv6.into()].into_iter().all(|address| {
        let is_workload = map.plan().place(address).is_some_and(|(_, offset)| offset > 1);
        is_workload && map.holder(address).is_some_and(|holder| holder.name == *member)
    })
}

/// The prefixes that a peer has. Those of whole slices and wider ones stand for none of
/// [`World::singular`]: these are named one by one.
pub(super) fn resolve(world: &World<'_>, peer: &Peer) -> Result<Vec<Prefix>, Wait> {
    match peer {
        Peer::Workload(Pick::Any, capsule) => every(world, capsule),
        Peer::Workload(Pick::Named(workload), capsule) => named(world, workload, capsule),
        Peer::Host(capsule) | Peer::Operator(capsule) => {
            let own = members(world, capsule)?.into_iter().map(|member| world.map.plan().own(member.slot));
            Ok(own.flat_map(both).collect())
        }
        Peer::Cidr(cidr) => within(world, *cidr),
    }
}

impl World<'_> {
    /// Addresses that are not what the slice they are of says: members' own, and those of workloads
    /// that moved.
    pub(super) fn singular(&self) -> impl Iterator<Item = Addresses> {
        let moved = self.map.overrides().iter().map(|moved| moved.addresses);
        self.capsules().chain(moved)
    }

    /// Members' own addresses.
    pub(super) fn capsules(&self) -> impl Iterator<Item = Addresses> {
        self.map.members().iter().map(|member| self.map.plan().own(member.slot))
    }
}

fn both(addresses: Addresses) -> [Prefix; 2] {
    [Prefix::host(addresses.ipv4), Prefix::host(addresses.ipv6)]
}

fn members<'a>(world: &World<'a>, capsule: &Pick) -> Result<Vec<&'a Member>, Wait> {
    match capsule {
        Pick::Any => Ok(world.map.members().iter().collect()),
        Pick::Named(name) => match world.map.member(name.as_str()) {
            Some(member) => Ok(vec![member]),
            None => Err(Wait::Member(name.clone())),
        },
    }
}

/// Every workload of some members.
fn every(world: &World<'_>, capsule: &Pick) -> Result<Vec<Prefix>, Wait> {
    let plan = world.map.plan();
    let mut found = match capsule {
        Pick::Any => vec![plan.range(), plan.ipv6()],
        Pick::Named(_) => members(world, capsule)?
            .into_iter()
            .flat_map(|member| [plan.slice(member.slot), plan.ipv6_slice(member.slot)])
            .collect(),
    };
    let moved = world.map.overrides().iter().filter(|moved| capsule.takes(moved.member.as_str()));
    found.extend(moved.flat_map(|moved| both(moved.addresses)));
    Ok(found)
}

/// The workloads of one name.
fn named(world: &World<'_>, workload: &Name, capsule: &Pick) -> Result<Vec<Prefix>, Wait> {
    let mut found = Vec::new();
    for member in members(world, capsule)? {
        let told = world.directory.get(&member.name).and_then(|workloads| workloads.get(workload));
        let told = told.filter(|addresses| is_theirs(world.map, &member.name, addresses));
        found.extend(told.copied().map(both).into_iter().flatten());
    }
    let moved = world.map.overrides().iter();
    let moved = moved.filter(|moved| moved.workload == *workload && capsule.takes(moved.member.as_str()));
    found.extend(moved.flat_map(|moved| both(moved.addresses)));
    match capsule {
        _ if !found.is_empty() => Ok(found),
        Pick::Any => Err(Wait::Anywhere(workload.clone())),
        Pick::Named(member) => Err(Wait::Workload(workload.clone(), member.clone())),
    }
}

/// The workloads with an address in a prefix.
fn within(world: &World<'_>, cidr: Cidr) -> Result<Vec<Prefix>, Wait> {
    let plan = world.map.plan();
    let wanted = Prefix::around(cidr.address(), cidr.prefix());
    let whole = if cidr.address().is_ipv4() { plan.range() } else { plan.ipv6() };
    if !wanted.overlaps(&whole) {
        return Err(Wait::Outside);
    }
    let narrower = if wanted.length() > whole.length() { wanted } else { whole };
    let own = world.map.members().iter().find(|member| both(plan.own(member.slot)).contains(&narrower));
    if let Some(member) = own {
        return Err(Wait::Capsule(member.name.clone()));
    }
    let moved = world.map.overrides().iter().flat_map(|moved| both(moved.addresses));
    Ok(std::iter::once(narrower).chain(moved.filter(|host| narrower.contains(host.address()))).collect())
}
