//! From a message to a map that makes sense, and back.

use std::collections::BTreeSet;

use capsule_proto::{Name, NameError, v1};
use prost::Message as _;

use super::{
    AddressPlan, Addresses, EndpointError, FabricId, Generation, IdError, KeyError, Member, MemberMap,
    Override, PlanError, PrefixError, PublicKey, Slot,
};

/// The largest map that is looked at: room for every slot of the default range.
const MAX_BYTES: usize = 4 << 20;
/// So that there always is a next one, and every store holds it.
const MAX_GENERATION: u64 = i64::MAX as u64 / 2;
/// Candidates of one member.
const MAX_ENDPOINTS: usize = 16;

/// Why a message is no map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Not even a message.
    #[error("it cannot be read: {0}")]
    Encoding(String),
    /// More than any fabric needs.
    #[error("it has {0} bytes, more than {MAX_BYTES}")]
    Size(usize),
    /// Its fabric's id.
    #[error("its fabric id is wrong")]
    Fabric(#[source] IdError),
    /// No such one.
    #[error("its generation is {0}: the first one is 1, and none is beyond any that could be reached")]
    Generation(u64),
    /// Its addresses.
    #[error("its address plan is wrong")]
    Plan(#[from] PlanError),
    /// One member.
    #[error("its member {name:?} is wrong")]
    Member {
        /// As written.
        name: String,
        /// What is wrong.
        #[source]
        flaw: Flaw,
    },
    /// One override.
    #[error("its override of workload {workload:?} is wrong")]
    Override {
        /// As written.
        workload: String,
        /// What is wrong.
        #[source]
        flaw: Flaw,
    },
}

/// What is wrong with one entry of a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Its name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its capsule.
    #[error(transparent)]
    Id(#[from] IdError),
    /// Its key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Where it may be met.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Too many of them.
    #[error("it has more than {MAX_ENDPOINTS} endpoints")]
    Endpoints,
    /// Its interval.
    #[error("its keep-alive of {0} s is more than 65535 s")]
    Keepalive(u32),
    /// No such slot.
    #[error("there is no slot {slot}: the range has {slots}, from 0")]
    Slot {
        /// As written.
        slot: u32,
        /// As many as there are.
        slots: u32,
    },
    /// Not after the one before.
    #[error("slot {0} does not come after the one before it: members stand by slot, and each has its own")]
    Order(u32),
    /// What only one may have.
    #[error("another one has its {0} as well")]
    Twice(&'static str),
    /// An address that no workload can have.
    #[error("{0} is no workload's address in this fabric")]
    Address(String),
    /// Addresses that do not belong together.
    #[error("its addresses are not of the same slot and offset")]
    Pair,
    /// It is nowhere.
    #[error("there is no member {0:?}")]
    Nowhere(String),
}

impl MemberMap {
    /// Reads what [`Self::encode`] wrote; anything that does not make sense is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, MapError> {
        if bytes.len() > MAX_BYTES {
            return Err(MapError::Size(bytes.len()));
        }
        let wire = v1::MemberMap::decode(bytes).map_err(|error| MapError::Encoding(error.to_string()))?;
        Self::try_from(wire)
    }

    /// As bytes; those of the same map are the same.
    pub fn encode(&self) -> Vec<u8> {
        v1::MemberMap::from(self).encode_to_vec()
    }
}

impl TryFrom<v1::MemberMap> for MemberMap {
    type Error = MapError;

    fn try_from(wire: v1::MemberMap) -> Result<Self, MapError> {
        let fabric: FabricId = wire.fabric_id.parse().map_err(MapError::Fabric)?;
        if !(Generation::FIRST.0..=MAX_GENERATION).contains(&wire.generation) {
            return Err(MapError::Generation(wire.generation));
        }
        let prefix = |text: &str| text.parse().map_err(|error: PrefixError| MapError::Plan(error.into()));
        let plan =
            AddressPlan::new(prefix(&wire.ipv4_range)?, wire.slice_prefix, prefix(&wire.ipv6_prefix)?)?;
        let members = members(&plan, wire.members)?;
        let overrides = overrides(&plan, &members, wire.overrides)?;
        Ok(Self { fabric, generation: Generation(wire.generation), plan, members, overrides })
    }
}

fn members(plan: &AddressPlan, wire: Vec<v1::Member>) -> Result<Vec<Member>, MapError> {
    let mut members: Vec<Member> = Vec::with_capacity(wire.len());
    let (mut names, mut capsules, mut keys) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for wire in wire {
        let name = shown(&wire.name);
        let slot = wire.slot;
        let checked = member(plan, wire).and_then(|member| match () {
            () if members.last().is_some_and(|before| before.slot >= member.slot) => Err(Flaw::Order(slot)),
            () if !names.insert(member.name.clone()) => Err(Flaw::Twice("name")),
            () if !capsules.insert(member.capsule) => Err(Flaw::Twice("capsule id")),
            () if !keys.insert(member.public_key) => Err(Flaw::Twice("key")),
            () => Ok(member),
        });
        members.push(checked.map_err(|flaw| MapError::Member { name, flaw })?);
    }
    Ok(members)
}

fn member(plan: &AddressPlan, wire: v1::Member) -> Result<Member, Flaw> {
    let slots = plan.slots();
    let slot = u16::try_from(wire.slot).ok().map(Slot).filter(|slot| plan.has(*slot));
    if wire.endpoints.len() > MAX_ENDPOINTS {
        return Err(Flaw::Endpoints);
    }
    Ok(Member {
        name: wire.name.parse()?,
        capsule: wire.capsule_id.parse()?,
        public_key: PublicKey::try_from(wire.public_key.as_slice())?,
        slot: slot.ok_or(Flaw::Slot { slot: wire.slot, slots })?,
        endpoints: wire.endpoints.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
        keepalive: u16::try_from(wire.keepalive_seconds)
            .map_err(|_| Flaw::Keepalive(wire.keepalive_seconds))?,
        relay: wire.relay,
    })
}

fn overrides(
    plan: &AddressPlan,
    members: &[Member],
    wire: Vec<v1::AddressOverride>,
) -> Result<Vec<Override>, MapError> {
    let (mut workloads, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let checked = wire.into_iter().map(|wire| {
        let workload = shown(&wire.workload);
        let checked = moved(plan, members, &wire).and_then(|moved| match () {
            () if !workloads.insert((moved.member.clone(), moved.workload.clone())) => {
                Err(Flaw::Twice("name on that member"))
            }
            () if !taken.insert(moved.addresses) => Err(Flaw::Twice("addresses")),
            () => Ok(moved),
        });
        checked.map_err(|flaw| MapError::Override { workload, flaw })
    });
    checked.collect()
}

fn moved(plan: &AddressPlan, members: &[Member], wire: &v1::AddressOverride) -> Result<Override, Flaw> {
    let member: Name = wire.member.parse()?;
    if !members.iter().any(|known| known.name == member) {
        return Err(Flaw::Nowhere(wire.member.clone()));
    }
    let refuse = |text: &str| Flaw::Address(shown(text));
    let ipv4: std::net::Ipv4Addr = wire.ipv4.parse().map_err(|_| refuse(&wire.ipv4))?;
    let ipv6: std::net::Ipv6Addr = wire.ipv6.parse().map_err(|_| refuse(&wire.ipv6))?;
    let (slot, offset) = plan.place(ipv4.into()).ok_or_else(|| refuse(&wire.ipv4))?;
    let addresses = plan.workload(slot, offset).ok_or_else(|| refuse(&wire.ipv4))?;
    if addresses != (Addresses { ipv4, ipv6 }) {
        return Err(Flaw::Pair);
    }
    Ok(Override { workload: wire.workload.parse()?, addresses, member })
}

/// Enough of a text from elsewhere to know it again.
fn shown(text: &str) -> String {
    text.chars().take(Name::MAX_LEN).collect()
}

impl From<&MemberMap> for v1::MemberMap {
    fn from(map: &MemberMap) -> Self {
        Self {
            fabric_id: map.fabric.to_string(),
            generation: map.generation.0,
            ipv4_range: map.plan.range().to_string(),
            slice_prefix: map.plan.slice_length().into(),
            ipv6_prefix: map.plan.ipv6().to_string(),
            members: map.members.iter().map(Into::into).collect(),
            overrides: map.overrides.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Member> for v1::Member {
    fn from(member: &Member) -> Self {
        Self {
            name: member.name.to_string(),
            capsule_id: member.capsule.to_string(),
            public_key: member.public_key.bytes().to_vec(),
            slot: member.slot.0.into(),
            endpoints: member.endpoints.iter().map(ToString::to_string).collect(),
            keepalive_seconds: member.keepalive.into(),
            relay: member.relay,
        }
    }
}

impl From<&Override> for v1::AddressOverride {
    fn from(moved: &Override) -> Self {
        Self {
            workload: moved.workload.to_string(),
            ipv4: moved.addresses.ipv4.to_string(),
            ipv6: moved.addresses.ipv6.to_string(),
            member: moved.member.to_string(),
        }
    }
}
