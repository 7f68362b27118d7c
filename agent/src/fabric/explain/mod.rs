//! Why one end of a flow reaches the other, or does not: every hop as this capsule really has it.
//!
//! - `ends.rs`: who is at the ends, and what the name service answers;
//! - `consent.rs`: policies, as the kernel has them; `way.rs`: routes; `path.rs`: the other capsule and
//!   the largest packet, by `echo.rs`; `listen.rs`: who listens;
//! - `hearsay.rs`: what can be told of the other end, should its own agent not answer.
//!
//! A capsule tells of its own end; `fleetctl fabric explain` asks both and puts the hops in order.

mod consent;
mod echo;
mod ends;
mod hearsay;
mod hop;
mod listen;
mod path;
mod way;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use capsule_fabric::{
    map::{Addresses, Member, MemberMap},
    policy::{Direction, Flow},
};
use capsule_proto::{
    Name,
    reference::{Asked, End, Request},
    v1::{self, FabricHop, FabricHopKind as Kind, FabricSide, FabricVerdict as Verdict},
};

use super::Fabric;
use crate::{network::Network, sys::has_ipv6, workload::Workloads};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Of the sender (`Out`) or of the receiver (`In`).
    side: Direction,
    source: End,
    destination: End,
    request: Request,
    attempt: bool,
}

impl TryFrom<v1::ExplainRequest> for Question {
    type Error = String;

    fn try_from(wire: v1::ExplainRequest) -> Result<Self, String> {
        let port = u16::try_from(wire.port).map_err(|_| format!("{} is no port", wire.port))?;
        let request = Request::new(&wire.protocol, port).ok_or_else(|| {
            format!("{:?} with port {port} is nothing that can be asked for", wire.protocol)
        })?;
        let end = |text: &str| text.parse().map_err(|error| format!("{error}"));
        let side = match wire.side() {
            FabricSide::Sender => Direction::Out,
            FabricSide::Receiver => Direction::In,
            FabricSide::Unspecified => return Err("of which side is not said".to_owned()),
        };
        Ok(Self {
            side,
            source: end(&wire.source)?,
            destination: end(&wire.destination)?,
            request,
            attempt: wire.attempt,
        })
    }
}

/// One end, as far as it is known here.
struct Party {
    end: End,
    addresses: Vec<IpAddr>,
}

impl Party {
    fn new(asked: &End, map: &MemberMap, network: &Network) -> Self {
        let both = |at: Addresses| vec![at.ipv4.into(), at.ipv6.into()];
        match asked {
            End::Workload(name, member) => {
                let known = network.known();
                let at = known.get(member).and_then(|workloads| workloads.get(name)).copied();
                Self { end: asked.clone(), addresses: at.map(both).unwrap_or_default() }
            }
            End::Host(member) => {
                let own = map.member(member.as_str()).map(|member| map.plan().own(member.slot));
                Self { end: asked.clone(), addresses: own.map(both).unwrap_or_default() }
            }
            End::Address(address) => {
                let named = network.name_of(*address).and_then(|name| name.parse().ok());
                Self { end: named.unwrap_or_else(|| asked.clone()), addresses: vec![*address] }
            }
        }
    }

    /// Where it is; `None` of an address that nobody known has.
    fn member(&self) -> Option<&Name> {
        match &self.end {
            End::Workload(_, member) | End::Host(member) => Some(member),
            End::Address(_) => None,
        }
    }

    /// `100.64.0.2 and fd00::2`.
    fn told(&self) -> String {
        let all: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        all.join(" and ")
    }
}

/// One question, with all that is needed to answer it.
struct Case<'a> {
    fabric: &'a Fabric,
    network: &'a Network,
    workloads: &'a Workloads,
    question: &'a Question,
    map: Arc<MemberMap>,
    me: Member,
    source: Party,
    destination: Party,
    /// Over both families of addresses, as far as both ends have them.
    flows: Vec<Flow>,
}

/// Every hop that this capsule can tell of.
pub async fn explain(
    fabric: &Fabric,
    network: &Network,
    workloads: &Workloads,
    question: &Question,
) -> v1::ExplainResponse {
    let map = fabric.map().borrow().clone();
    let inside = map.and_then(|map| Some((map.of_capsule(fabric.capsule())?.clone(), map)));
    let Some((me, map)) = inside else {
        return v1::ExplainResponse { hops: vec![ends::outside(question)], ..Default::default() };
    };
    let source = Party::new(&question.source, &map, network);
    let destination = Party::new(&question.destination, &map, network);
    let flows = flows(&source, &destination, question.request);
    let case = Case { fabric, network, workloads, question, map, me, source, destination, flows };
    let hops = match question.side {
        Direction::Out => case.sender().await,
        Direction::In => case.receiver().await,
    };
    v1::ExplainResponse { member: case.me.name.to_string(), generation: case.map.generation().0, hops }
}

fn flows(source: &Party, destination: &Party, request: Request) -> Vec<Flow> {
    let has_ipv6 = has_ipv6();
    let sources = source.addresses.iter().filter(|address| has_ipv6 || address.is_ipv4());
    let pairs = sources.flat_map(|source| destination.addresses.iter().map(move |to| (*source, *to)));
    pairs.filter_map(|(source, to)| Flow::new(source, to, request)).collect()
}

impl Case<'_> {
    async fn sender(&self) -> Vec<FabricHop> {
        let (consent, route, [path, mtu]) = tokio::join!(
            consent::of(self, Direction::Out),
            way::route(self),
            path::probe(self, &self.destination)
        );
        let source = ends::there(self, Kind::Source, &self.source);
        let name = self.excused(ends::name(self), &self.destination, &path);
        let mut hops = vec![source, name, consent.hop, route, path, mtu];
        hops.extend(hearsay::of_receiver(self).await);
        hops
    }

    async fn receiver(&self) -> Vec<FabricHop> {
        let (consent, delivery, [path, mtu]) = tokio::join!(
            consent::of(self, Direction::In),
            way::delivery(self),
            path::probe(self, &self.source)
        );
        let destination = ends::there(self, Kind::Destination, &self.destination);
        let heard = hearsay::of_sender(self, &consent);
        let consent = self.excused(consent.hop, &self.source, &path);
        let mut hops = vec![destination, consent, delivery, listen::socket(self)];
        hops.extend(heard);
        hops.extend([path, mtu]);
        hops
    }

    /// What fails because nothing was ever heard of the other capsule is no failure of its own where
    /// that does not even answer.
    fn excused(&self, hop: FabricHop, other: &Party, path: &FabricHop) -> FabricHop {
        let known = self.network.known();
        let workloads = other.member().and_then(|member| known.get(member));
        let is_unheard = other.addresses.is_empty() && workloads.is_none_or(BTreeMap::is_empty);
        if is_unheard && hop.verdict() == Verdict::Fails && path.verdict() == Verdict::Fails {
            hop::unknown(hop.kind(), hop.why)
        } else {
            hop
        }
    }

    /// The first process of a workload of this capsule that runs.
    fn pid(&self, party: &Party) -> Option<u32> {
        let End::Workload(name, _) = &party.end else { return None };
        let pid = self.workloads.find(name)?.status.as_ref()?.pid;
        (pid > 0 && party.member() == Some(&self.me.name)).then_some(pid)
    }

    /// Whether nothing leaves the workload, where no policy is asked.
    fn is_itself(&self) -> bool {
        self.source.end == self.destination.end && matches!(self.source.end, End::Workload(..))
    }

    /// Whether nothing leaves this capsule.
    fn is_local(&self) -> bool {
        self.source.member() == self.destination.member()
    }

    /// `db@b:5432/tcp`, as the sender's manifest has it.
    fn asked(&self) -> Asked {
        Asked { end: self.destination.end.clone(), request: self.question.request }
    }

    /// `web@a:5432/tcp`, as the receiver's has it.
    fn asking(&self) -> Asked {
        Asked { end: self.source.end.clone(), request: self.question.request }
    }
}
