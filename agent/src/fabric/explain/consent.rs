//! Policies: whether the packet filter that is loaded lets a flow pass, and which reference is why.

use std::time::SystemTime;

use capsule_fabric::{
    MEMBER_PORT,
    policy::{Direction, Family},
};
use capsule_proto::{
    reference::{Asked, End, Request},
    v1::{FabricHop, FabricHopKind as Kind},
};

use super::{Case, Party, hop};
use crate::{
    network::{Allowance, Consent, Refused},
    status::chain,
};

/// References that are repeated to who asks for another.
const SHOWN: usize = 4;

/// What the policy of one end says.
pub(super) struct Said {
    pub(super) hop: FabricHop,
    /// Packets of the flow that came as far as this policy, as far as they were counted.
    pub(super) seen: u64,
}

impl From<FabricHop> for Said {
    fn from(hop: FabricHop) -> Self {
        Self { hop, seen: 0 }
    }
}

/// Of the sender's (`Out`) or the receiver's (`In`) policy, which is on this capsule.
pub(super) async fn of(case: &Case<'_>, direction: Direction) -> Said {
    let kind = kind(direction);
    let (own, peer) = match direction {
        Direction::Out => (&case.source, &case.destination),
        Direction::In => (&case.destination, &case.source),
    };
    if own.member() != Some(&case.me.name) {
        return hop::unknown(kind, format!("{} is not on {}", own.end, case.me.name)).into();
    }
    let End::Workload(name, _) = &own.end else { return of_host(case, direction).into() };
    if case.is_itself() {
        return hop::ok(kind, format!("{} needs no permission to ask itself", own.end)).into();
    }
    if case.flows.is_empty() {
        return unheard(case, direction, peer).into();
    }
    let told = tokio::try_join!(case.network.consent(name, direction, &case.flows), case.network.refused());
    let (consent, refused) = match told {
        Ok(told) => told,
        Err(error) => {
            return hop::unknown(kind, format!("the packet filter cannot be read: {}", chain(&error))).into();
        }
    };
    let refusals = Refusals::new(&refused, direction, case);
    let passed: u64 = consent.flows.iter().map(|allowance| allowance.passed).sum();
    Said { seen: passed + refusals.packets, hop: judge(case, direction, &consent, &refusals) }
}

fn kind(direction: Direction) -> Kind {
    match direction {
        Direction::Out => Kind::AllowTo,
        Direction::In => Kind::AllowFrom,
    }
}

fn list(direction: Direction) -> &'static str {
    match direction {
        Direction::Out => "allowTo",
        Direction::In => "allowFrom",
    }
}

/// A capsule's own processes.
fn of_host(case: &Case<'_>, direction: Direction) -> FabricHop {
    let kind = kind(direction);
    let from_member = matches!(case.source.end, End::Host(_));
    match (direction, case.question.request) {
        (Direction::Out, _) => hop::ok(kind, "a capsule's own processes need no allowTo"),
        (Direction::In, Request::Icmp | Request::Tcp(MEMBER_PORT)) if from_member => {
            hop::ok(kind, "members ask each other")
        }
        (Direction::In, request) => {
            let why = format!("a capsule itself takes no {request} from the fabric");
            hop::fails(kind, why, "run what is asked for as a workload with a fabric block")
        }
    }
}

/// The other end has no address that is known here.
fn unheard(case: &Case<'_>, direction: Direction, peer: &Party) -> FabricHop {
    let (me, peer) = (&case.me.name, &peer.end);
    let why = match peer {
        End::Workload(name, member) if member == me => {
            format!("{me} has no workload {name} with an address in the fabric")
        }
        _ => format!("{me} has not heard where {peer} is"),
    };
    match direction {
        Direction::Out => hop::unknown(Kind::AllowTo, why),
        Direction::In => {
            let why = format!("{why}, so that its policies allow nothing to it");
            hop::fails(Kind::AllowFrom, why, format!("fleetctl fabric status {me}"))
        }
    }
}

fn judge(case: &Case<'_>, direction: Direction, consent: &Consent, refusals: &Refusals) -> FabricHop {
    let kind = kind(direction);
    let (own, peer): (&End, Asked) = match direction {
        Direction::Out => (&case.source.end, case.asked()),
        Direction::In => (&case.destination.end, case.asking()),
    };
    let list = list(direction);
    let allowed: Vec<&Allowance> = consent.flows.iter().filter(|allowance| allowance.allowed).collect();
    if let Some(Allowance { flow, reference, .. }) = allowed.first() {
        let reference = reference.as_ref().map_or_else(|| peer.to_string(), ToString::to_string);
        let alone = match flow.family() {
            _ if allowed.len() == consent.flows.len() => "",
            Family::V4 => " over IPv4 alone",
            Family::V6 => " over IPv6 alone",
        };
        return hop::ok(kind, format!("{list} of {own} has {reference}{alone}{}", refusals.before()));
    }
    let Some(Allowance { flow, reference, .. }) = consent.flows.first() else {
        return hop::unknown(kind, "there is no flow");
    };
    if let Some(reference) = reference {
        let why = format!("{list} of {own} has {reference}, but the kernel's packet filter does not");
        return hop::fails(kind, why, format!("fleetctl -c {} events", case.me.name));
    }
    let why = format!("{list} of {own} has no {peer}{}{}", instead(&consent.references), refusals.told());
    let remedy = case.network.remedy(direction, flow, case.question.request);
    let remedy = if remedy.starts_with(list) { format!("add to {remedy}") } else { remedy };
    hop::fails(kind, why, remedy)
}

/// What the list has.
fn instead(references: &[String]) -> String {
    match references {
        [] => "; it is empty".to_owned(),
        few if few.len() <= SHOWN => format!("; it has {}", few.join(", ")),
        many => format!("; it has {} and {} more", many[..SHOWN].join(", "), many.len() - SHOWN),
    }
}

/// Packets of the flow that this policy refused of late.
#[derive(Default)]
struct Refusals {
    packets: u64,
    last: Option<SystemTime>,
}

impl Refusals {
    fn new(refused: &[Refused], direction: Direction, case: &Case<'_>) -> Self {
        let request = case.question.request;
        let meant = refused.iter().filter(|Refused { knock, .. }| {
            knock.side == direction
                && (knock.protocol.as_str(), knock.port) == (request.protocol(), request.port())
                && case
                    .flows
                    .iter()
                    .any(|flow| (knock.source, knock.destination) == (flow.source, flow.destination))
        });
        meant.fold(Self::default(), |all, refused| Self {
            packets: all.packets + refused.packets,
            last: all.last.max(Some(refused.last)),
        })
    }

    fn age(&self) -> String {
        let age = self.last.and_then(|last| last.elapsed().ok()).unwrap_or_default();
        format!("{} s ago", age.as_secs())
    }

    /// Of a flow that is refused.
    fn told(&self) -> String {
        match self.packets {
            0 => String::new(),
            packets => format!("; {packets} packets were refused of late, the last {}", self.age()),
        }
    }

    /// Of one that passes.
    fn before(&self) -> String {
        match self.packets {
            0 => String::new(),
            packets => format!("; before that {packets} packets were refused, the last {}", self.age()),
        }
    }
}
