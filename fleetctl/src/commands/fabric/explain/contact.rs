//! Which capsule to ask about an end.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use capsule_client::Target;
use capsule_fabric::map::{Member, MemberMap, SignedMap};
use capsule_proto::{
    Name,
    reference::End,
    v1::{FabricHop, FabricHopKind as Kind, FabricSide, FabricVerdict as Verdict},
};

use super::super::known::{self, Known};
use crate::session::Session;

/// Who is to be asked.
#[derive(Clone, Debug)]
pub(super) enum Contact {
    /// This capsule.
    Target(Box<Target>),
    /// A member that this operator has no context of.
    Stranger { capsule: String, why: String },
    /// There is no such end.
    Nobody(Missing),
}

/// Why there is none.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    why: String,
    remedy: String,
    known: Vec<String>,
}

impl Missing {
    /// The first hop of that side.
    pub(super) fn of(self, side: FabricSide) -> FabricHop {
        let kind = if side == FabricSide::Receiver { Kind::Destination } else { Kind::Source };
        let Self { why, remedy, known } = self;
        FabricHop { kind: kind.into(), verdict: Verdict::Fails.into(), why, remedy, known }
    }
}

impl Contact {
    /// By the map, and by the contexts of this operator.
    pub(super) fn of(session: &Session, map: &MemberMap, end: &End) -> Result<Self> {
        let member = match end {
            End::Workload(_, name) | End::Host(name) => {
                map.member(name.as_str()).ok_or_else(|| no_member(map, end, name))
            }
            End::Address(address) => map.holder(*address).ok_or_else(|| no_holder(map, *address)),
        };
        match member {
            Ok(member) => of_member(session, member),
            Err(missing) => Ok(Self::Nobody(missing)),
        }
    }
}

fn of_member(session: &Session, member: &Member) -> Result<Contact> {
    let (targets, _) = known::of_members(session, std::iter::once(member))?;
    let capsule = member.name.to_string();
    if let Some(target) = targets.into_iter().next() {
        return Ok(Contact::Target(Box::new(target)));
    }
    let why = format!("you have no context of {capsule}; fleetctl context add makes one");
    Ok(Contact::Stranger { capsule, why })
}

fn no_member(map: &MemberMap, end: &End, name: &Name) -> Missing {
    let alike = |member: &Member| match end {
        End::Workload(workload, _) => format!("{workload}@{}", member.name),
        End::Host(_) | End::Address(_) => End::Host(member.name.clone()).to_string(),
    };
    Missing {
        why: format!("the fabric has no member {name}"),
        remedy: format!("fleetctl fabric enroll {name}"),
        known: map.members().iter().map(alike).collect(),
    }
}

fn no_holder(map: &MemberMap, address: IpAddr) -> Missing {
    let (range, ipv6) = (map.plan().range(), map.plan().ipv6());
    let why = if map.plan().place(address).is_some() {
        format!("no member has the slice that {address} is of")
    } else {
        format!("{address} is no address of the fabric, which are those of {range} and {ipv6}")
    };
    let remedy = "name a workload or one of the addresses in: fleetctl fabric status".to_owned();
    Missing { why, remedy, known: Vec::new() }
}

/// A map that has both ends: the one that was seen last, or what the capsules have.
pub(super) async fn map(session: &Session, ends: [&End; 2]) -> Result<MemberMap> {
    let kept = session.fleet.home().fabric_map()?.map(SignedMap::try_from).transpose();
    let kept = kept.context("the member map kept beside the contexts")?;
    let has = |map: &MemberMap, end: &End| match end {
        End::Workload(_, member) | End::Host(member) => map.member(member.as_str()).is_some(),
        End::Address(address) => map.holder(*address).is_some(),
    };
    match kept {
        Some(kept) if ends.iter().all(|end| has(kept.map(), end)) => Ok(kept.map().clone()),
        _ => Known::ask(session).await?.map().cloned(),
    }
}
