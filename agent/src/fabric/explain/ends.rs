//! Who is at the ends, and what the name service answers.

use capsule_fabric::policy::Direction;
use capsule_proto::{
    Name,
    reference::End,
    v1::{FabricHop, FabricHopKind as Kind, Phase, Workload},
};

use super::{Case, Party, Question, hop};

/// Of a capsule that is in no fabric.
pub(super) fn outside(question: &Question) -> FabricHop {
    let (kind, end) = match question.side {
        Direction::In => (Kind::Destination, &question.destination),
        Direction::Out => (Kind::Source, &question.source),
    };
    let remedy = match end {
        End::Workload(_, member) | End::Host(member) => format!("fleetctl fabric enroll {member}"),
        End::Address(_) => "fleetctl fabric enroll CAPSULE".to_owned(),
    };
    hop::fails(kind, "this capsule is in no fabric", remedy)
}

/// An end that should be on this capsule.
pub(super) fn there(case: &Case<'_>, kind: Kind, party: &Party) -> FabricHop {
    let (me, end) = (&case.me.name, &party.end);
    if let End::Address(address) = end {
        let remedy = format!("name a workload with an address in the fabric: fleetctl -c {me} workload list");
        return hop::fails(kind, format!("nobody whom {me} knows has the address {address}"), remedy);
    }
    if party.member() != Some(me) {
        let generation = case.map.generation();
        let why =
            format!("{end} is not on this capsule, which is {me} in its map of generation {generation}");
        return hop::fails(kind, why, format!("fleetctl fabric enroll {me}"));
    }
    let End::Workload(name, _) = end else {
        return hop::ok(kind, format!("{end} is {}", party.told()));
    };
    if let Some(workload) = case.workloads.find(name) {
        return workload_there(case, kind, party, &workload);
    }
    let known = case.workloads.names().iter().map(|name| format!("{name}@{me}")).collect();
    let remedy = format!("apply it, or name one that is there: fleetctl -c {me} workload list");
    FabricHop { known, ..hop::fails(kind, format!("{me} has no workload {name}"), remedy) }
}

fn workload_there(case: &Case<'_>, kind: Kind, party: &Party, workload: &Workload) -> FabricHop {
    let end = &party.end;
    let status = workload.status.clone().unwrap_or_default();
    let Some(fabric) = status.fabric.as_ref() else {
        let block = match kind {
            Kind::Source => format!("allowTo: [\"{}\"]", case.asked()),
            _ => format!("allowFrom: [\"{}\"]", case.asking()),
        };
        let why = format!("{end} has no fabric block, and so no address in the fabric");
        return hop::fails(kind, why, format!("add to the manifest of {end}: fabric: {{ {block} }}"));
    };
    if party.addresses.is_empty() {
        let reason =
            if fabric.problem.is_empty() { "it is being dealt one" } else { fabric.problem.as_str() };
        let why = format!("{end} has no address in the fabric: {reason}");
        return hop::fails(kind, why, format!("fleetctl -c {} events", case.me.name));
    }
    if status.pid == 0 {
        let reason = if status.reason.is_empty() { "it is on its way" } else { status.reason.as_str() };
        let remedy = match status.phase() {
            Phase::Stopped | Phase::Stopping | Phase::Completed => format!("fleetctl workload start {end}"),
            _ => format!("fleetctl workload get {end}, and fleetctl logs {end}"),
        };
        return hop::fails(kind, format!("{end} does not run: {reason}"), remedy);
    }
    hop::ok(kind, format!("{end} is {}", party.told()))
}

/// What whoever asks on this capsule is answered.
pub(super) fn name(case: &Case<'_>) -> FabricHop {
    let kind = Kind::Name;
    let (name, member) = match (&case.question.destination, &case.destination.end) {
        (End::Workload(name, member), _) => (name, member),
        (_, End::Address(address)) => {
            let why = format!("nobody whom {} knows has the address {address}", case.me.name);
            return hop::unknown(kind, why);
        }
        (_, End::Host(member)) if case.destination.addresses.is_empty() => return no_member(case, member),
        _ => return hop::ok(kind, format!("{} needs no name", case.destination.told())),
    };
    let dns = format!("{name}.{member}.fabric");
    match case.network.answer(&dns) {
        Some(at) => {
            let whom = match case.source.end {
                End::Host(_) => "; workloads are, the capsule's own processes use the address",
                _ => "",
            };
            hop::ok(kind, format!("{dns} is answered with {} and {}{whom}", at.ipv4, at.ipv6))
        }
        None => no_name(case, name, member, &dns),
    }
}

fn no_member(case: &Case<'_>, member: &Name) -> FabricHop {
    let why = format!("the map of {} has no member {member}", case.me.name);
    let remedy = format!("name one of its members, or make it one: fleetctl fabric enroll {member}");
    hop::fails(Kind::Name, why, remedy)
}

fn no_name(case: &Case<'_>, name: &Name, member: &Name, dns: &str) -> FabricHop {
    let known = case.network.known();
    let Some(workloads) = known.get(member) else { return no_member(case, member) };
    let me = &case.me.name;
    let (why, remedy) = if workloads.is_empty() {
        let why = format!("{dns} has no answer: {me} has heard of no workload of {member}");
        (
            why,
            format!(
                "apply {name} with a fabric block on {member}; where it has one: fleetctl fabric status {me}"
            ),
        )
    } else {
        let why = format!("{dns} has no answer: {member} told {me} of no workload {name} in the fabric");
        (why, format!("apply {name} with a fabric block on {member}, or name one that is there"))
    };
    let known = workloads.keys().map(|name| format!("{name}@{member}")).collect();
    FabricHop { known, ..hop::fails(Kind::Name, why, remedy) }
}
