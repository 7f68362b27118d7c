//! Whether the other capsule answers, and whether the largest packets get through.

use std::time::Duration;

use capsule_proto::{
    system_time,
    v1::{FabricHop, FabricHopKind as Kind, FabricMembership, FabricPeer},
};

use super::{Case, Party, echo::Echo, hop};
use crate::status::chain;

/// What WireGuard adds to a packet over IPv4: IP, UDP, its own header and tag; bytes.
const OVERHEAD: u32 = 60;

/// Path and MTU to the capsule where the other end is.
pub(super) async fn probe(case: &Case<'_>, other: &Party) -> [FabricHop; 2] {
    let neither = |why: &str| [hop::unknown(Kind::Path, why), hop::unknown(Kind::Mtu, why)];
    let me = &case.me.name;
    if case.is_local() {
        return [
            hop::ok(Kind::Path, format!("both are on {me}")),
            hop::ok(Kind::Mtu, format!("nothing leaves {me}")),
        ];
    }
    let member = other.member().and_then(|member| case.map.member(member.as_str()));
    let Some(member) = member else { return neither("it is not known which member that is") };
    let status = match case.fabric.status().await {
        Ok(status) => status,
        Err(error) => return neither(&chain(&error)),
    };
    let Some(membership) = status.membership.filter(|membership| membership.mtu > 0) else {
        let why = format!("{me} has no WireGuard link just now");
        let path = hop::fails(Kind::Path, why.clone(), format!("fleetctl -c {me} events"));
        return [path, hop::unknown(Kind::Mtu, why)];
    };
    let peer = membership.peers.iter().find(|peer| peer.name == member.name.as_str());
    let peer = peer.cloned().unwrap_or_default();
    let (own, to) = (case.map.plan().own(case.me.slot).ipv4, case.map.plan().own(member.slot).ipv4);
    let echo = match Echo::to(own, to) {
        Ok(echo) => echo,
        Err(error) => return neither(&format!("{me} cannot probe from {own}: {error}")),
    };
    match echo.ask(0).await {
        Some(taken) => {
            let path = hop::ok(Kind::Path, answers(&peer, taken));
            [path, mtu(case, &echo, &membership, &peer).await]
        }
        None => [silent(case, &peer), hop::unknown(Kind::Mtu, format!("{} does not answer", peer.name))],
    }
}

/// `b answers in 0.4 ms, directly at 10.99.0.12:51820`.
fn answers(peer: &FabricPeer, taken: Duration) -> String {
    let path = peer.path.clone().unwrap_or_default();
    let way = match (path.relay.as_str(), peer.endpoint.as_str()) {
        ("", "") => String::new(),
        ("", endpoint) => format!(", directly at {endpoint}"),
        (relay, _) => format!(", by way of the relay {relay}"),
    };
    let lost = match path.lost {
        0 => String::new(),
        lost => format!("; {lost} of the last {} probes had no answer", path.asked),
    };
    format!("{} answers in {:.1} ms{way}{lost}", peer.name, taken.as_secs_f64() * 1000.0)
}

fn silent(case: &Case<'_>, peer: &FabricPeer) -> FabricHop {
    let name = &peer.name;
    let tried = match peer.endpoint.as_str() {
        "" => "no address is known where it may be met".to_owned(),
        endpoint => format!("packets go to {endpoint}"),
    };
    let age = peer.last_handshake.as_ref().and_then(|at| system_time(at).elapsed().ok());
    let handshake = age.map_or_else(
        || "there never was a handshake".to_owned(),
        |age| format!("the last handshake was {} s ago", age.as_secs()),
    );
    let why = format!("{name} does not answer {}: {tried}, and {handshake}", case.me.name);
    let remedy = format!(
        "see that {name} is up and that UDP reaches it; if it is met elsewhere: fleetctl fabric set-endpoint {name} \
         HOST:PORT; if these two cannot meet: fleetctl fabric set-relay MEMBER on"
    );
    hop::fails(Kind::Path, why, remedy)
}

async fn mtu(case: &Case<'_>, echo: &Echo, membership: &FabricMembership, peer: &FabricPeer) -> FabricHop {
    let largest = membership.mtu;
    if echo.ask(largest).await.is_some() {
        return hop::ok(Kind::Mtu, format!("packets of {largest} bytes, the link's largest, pass both ways"));
    }
    let passes = echo.largest(largest).await;
    let why =
        format!("packets of {largest} bytes, the link's largest, are lost on the way; of {passes} they pass");
    let needed = passes + OVERHEAD;
    let remedy = format!(
        "let UDP packets of {} bytes through between {me} and {}, or set the MTU of the uplink of {me} to {needed} and \
         restart its agent",
        largest + OVERHEAD,
        peer.name,
        me = case.me.name,
    );
    hop::fails(Kind::Mtu, why, remedy)
}
