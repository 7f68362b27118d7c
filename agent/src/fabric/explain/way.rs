//! By which links packets go: out of the source, and into the destination and back.

use std::net::IpAddr;

use capsule_fabric::policy::Flow;
use capsule_proto::{
    reference::End,
    v1::{FabricHop, FabricHopKind as Kind},
};

use super::{Case, Party, hop};
use crate::{fabric::link_name, network::Place, status::chain};

/// What is wrong with a way, and what mends it.
type Broken = (String, String);

/// From the source to where packets leave the capsule.
pub(super) async fn route(case: &Case<'_>) -> FabricHop {
    if case.is_itself() {
        return hop::ok(Kind::Route, format!("nothing leaves {}", case.source.end));
    }
    let mut told = Vec::new();
    for flow in &case.flows {
        match leaves(case, &case.source, flow.source, flow.destination).await {
            Ok(way) => told = way,
            Err(broken) => return verdict(Kind::Route, Err(broken)),
        }
    }
    if told.is_empty() {
        return hop::unknown(Kind::Route, format!("it is not known where {} is", case.destination.end));
    }
    verdict(Kind::Route, Ok(told.join(" → ")))
}

/// From where packets come in to the destination, and where answers leave.
pub(super) async fn delivery(case: &Case<'_>) -> FabricHop {
    if case.is_itself() {
        return hop::ok(Kind::Delivery, format!("nothing leaves {}", case.source.end));
    }
    let mut told = Vec::new();
    for flow in &case.flows {
        let arrived = arrives(case, flow).await;
        let left = leaves(case, &case.destination, flow.destination, flow.source).await;
        match (arrived, left) {
            (Ok(way), Ok(_)) => told = way,
            (Err(broken), _) => return verdict(Kind::Delivery, Err(broken)),
            (_, Err(Some((why, remedy)))) => {
                return hop::fails(Kind::Delivery, format!("answers do not leave: {why}"), remedy);
            }
            (_, Err(None)) => return verdict(Kind::Delivery, Err(None)),
        }
    }
    if told.is_empty() {
        return hop::unknown(Kind::Delivery, format!("it is not known where {} is", case.source.end));
    }
    verdict(Kind::Delivery, Ok(format!("{}, and back", told.join(" → "))))
}

/// `None` stands for a workload that does not run.
fn verdict(kind: Kind, way: Result<String, Option<Broken>>) -> FabricHop {
    match way {
        Ok(way) => hop::ok(kind, way),
        Err(Some((why, remedy))) => hop::fails(kind, why, remedy),
        Err(None) => hop::unknown(kind, "the workload does not run, so it has no links"),
    }
}

/// The links by which packets of an end of this capsule leave.
async fn leaves(
    case: &Case<'_>,
    party: &Party,
    from: IpAddr,
    to: IpAddr,
) -> Result<Vec<String>, Option<Broken>> {
    let wanted = outer(case);
    if let End::Host(_) = party.end {
        let link = step(case, Place::Own, to, None, &wanted).await?;
        return Ok(vec![link]);
    }
    let pid = case.pid(party).ok_or(None)?;
    let remedy = || format!("fleetctl workload restart {}", party.end);
    let inside = case.network.next(Place::Inside(pid), to, Some(from)).await;
    let inside = inside.map_err(|error| Some((chain(&error), remedy())))?;
    let Some(inside) = inside else {
        return Err(Some((format!("inside {} there is no route to {to}", party.end), remedy())));
    };
    if inside.gateway.is_none() {
        let why =
            format!("inside {} packets to {to} leave by {} without the capsule", party.end, inside.link);
        return Err(Some((why, remedy())));
    }
    let bridge = case.network.bridge().to_owned();
    let own = case.map.plan().own(case.me.slot);
    if to == own.ipv4 || to == own.ipv6 {
        return Ok(vec![inside.link, bridge]);
    }
    let link = step(case, Place::CameBy(bridge.clone()), to, Some(from), &wanted).await?;
    Ok(vec![inside.link, bridge, link])
}

/// The links by which packets reach the destination.
async fn arrives(case: &Case<'_>, flow: &Flow) -> Result<Vec<String>, Option<Broken>> {
    let by = outer(case);
    if let End::Host(_) = case.destination.end {
        return Ok(vec![by]);
    }
    case.pid(&case.destination).ok_or(None)?;
    let from_host = case.is_local() && matches!(case.source.end, End::Host(_));
    let (place, from) =
        if from_host { (Place::Own, None) } else { (Place::CameBy(by.clone()), Some(flow.source)) };
    let link = step(case, place, flow.destination, from, case.network.bridge()).await?;
    Ok(vec![by, link])
}

/// The link between the two ends, seen from the capsule.
fn outer(case: &Case<'_>) -> String {
    if case.is_local() { case.network.bridge().to_owned() } else { link_name(case.me.capsule) }
}

/// The link by which the capsule sends on, which must be `wanted`.
async fn step(
    case: &Case<'_>,
    place: Place,
    to: IpAddr,
    from: Option<IpAddr>,
    wanted: &str,
) -> Result<String, Option<Broken>> {
    let me = &case.me.name;
    let remedy =
        || format!("see what changed its routes: ip route get {to} on {me}; fleetctl -c {me} events");
    let next = case.network.next(place, to, from).await;
    match next.map_err(|error| Some((chain(&error), remedy())))? {
        Some(leg) if leg.link == wanted => Ok(leg.link),
        Some(leg) => {
            let why = format!("{me} sends packets to {to} by {}, not by {wanted}", leg.link);
            Err(Some((why, remedy())))
        }
        None => Err(Some((format!("{me} has no route to {to}"), remedy()))),
    }
}
