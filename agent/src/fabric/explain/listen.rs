//! Whether somebody takes what arrives.

use std::net::{IpAddr, SocketAddr};

use capsule_proto::{
    reference::{End, Request},
    v1::{FabricHop, FabricHopKind as Kind},
};

use super::{Case, hop};
use crate::sys::socket::{self, Protocol};

/// Ports that are named to who asked for another.
const SHOWN: usize = 5;

/// A socket at the destination, in whose network namespace it looks.
pub(super) fn socket(case: &Case<'_>) -> FabricHop {
    let (kind, party) = (Kind::Socket, &case.destination);
    let end = &party.end;
    let process = match (end, case.pid(party)) {
        (End::Workload(..), Some(pid)) => pid.to_string(),
        (End::Host(member), _) if *member == case.me.name => "self".to_owned(),
        (End::Workload(..), None) => return hop::unknown(kind, format!("{end} does not run")),
        _ => return hop::unknown(kind, format!("{end} is not on {}", case.me.name)),
    };
    let request = case.question.request;
    let protocol = match request {
        Request::Tcp(_) => Protocol::Tcp,
        Request::Udp(_) => Protocol::Udp,
        Request::Icmp => return hop::ok(kind, format!("the kernel answers echoes for {end}")),
    };
    let sockets = match socket::of(process, protocol) {
        Ok(sockets) => sockets,
        Err(error) => return hop::unknown(kind, format!("the sockets of {end} cannot be read: {error}")),
    };
    let waiting: Vec<SocketAddr> =
        sockets.iter().filter(|socket| socket.waits).map(|socket| socket.at).collect();
    judge(end, &party.addresses, request, &waiting)
}

fn judge(end: &End, addresses: &[IpAddr], request: Request, waiting: &[SocketAddr]) -> FabricHop {
    let kind = Kind::Socket;
    let hears = |socket: &SocketAddr, address: &IpAddr| match socket.ip() {
        any if any.is_unspecified() => any.is_ipv6() || address.is_ipv4(),
        at => at.to_canonical() == *address,
    };
    let is_heard = |socket: &&SocketAddr| addresses.iter().any(|address| hears(socket, address));
    let on_port: Vec<&SocketAddr> = waiting.iter().filter(|at| at.port() == request.port()).collect();
    if let Some(at) = on_port.iter().copied().find(is_heard) {
        let deaf = addresses.iter().find(|address| !on_port.iter().any(|at| hears(at, address)));
        let alone = deaf.map(|at| format!(", but not at {at}: who tries that address alone is refused"));
        let listens = format!("{end} listens at {at}/{}{}", request.protocol(), alone.unwrap_or_default());
        return hop::ok(kind, listens);
    }
    if let Some(at) = on_port.first() {
        let why = format!("{end} listens at {at} alone, where nobody in the fabric reaches it");
        return hop::fails(kind, why, format!("have {end} listen at [::] instead of {}", at.ip()));
    }
    let mut ports: Vec<u16> = waiting.iter().filter(is_heard).map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    let others: Vec<String> = ports.iter().take(SHOWN).map(u16::to_string).collect();
    let others = match others.as_slice() {
        [] => String::new(),
        ports => format!("; it does at {}", ports.join(", ")),
    };
    let why = format!("nothing in {end} listens at {request}{others}");
    hop::fails(
        kind,
        why,
        format!("have {end} listen at {request}, or ask for a port where it does: fleetctl logs {end}"),
    )
}

#[cfg(test)]
mod tests {
    use capsule_proto::v1::FabricVerdict as Verdict;

    use super::*;

    fn judged(request: Request, waiting: &[&str]) -> (Verdict, String) {
        let addresses = ["100.64.4.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let waiting: Vec<SocketAddr> = waiting.iter().map(|at| at.parse().unwrap()).collect();
        let hop = judge(&"db@b".parse().unwrap(), &addresses, request, &waiting);
        (hop.verdict(), hop.why)
    }

    #[test]
    fn who_listens_where_the_fabric_reaches_it_is_heard() {
        for at in ["0.0.0.0:80", "[::]:80", "100.64.4.2:80", "[::ffff:100.64.4.2]:80", "[fd00::2]:80"] {
            assert_eq!(judged(Request::Tcp(80), &["0.0.0.0:22", at]).0, Verdict::Ok, "{at}");
        }
        let (_, why) = judged(Request::Tcp(80), &["0.0.0.0:80"]);
        assert!(why.contains("but not at fd00::2"), "{why}");
        assert_eq!(
            judged(Request::Tcp(80), &["0.0.0.0:80", "[fd00::2]:80"]).1,
            "db@b listens at 0.0.0.0:80/tcp"
        );
        let (verdict, why) = judged(Request::Tcp(80), &["127.0.0.1:80", "[::1]:80", "10.88.0.2:80"]);
        assert_eq!(verdict, Verdict::Fails);
        assert!(why.contains("127.0.0.1:80 alone"), "{why}");
    }

    #[test]
    fn who_listens_elsewhere_is_told_where() {
        let (verdict, why) = judged(Request::Tcp(80), &["[::]:9000", "0.0.0.0:22", "127.0.0.1:1", "[::]:22"]);
        assert_eq!(verdict, Verdict::Fails);
        assert_eq!(why, "nothing in db@b listens at 80/tcp; it does at 22, 9000");
        assert_eq!(judged(Request::Udp(53), &[]).1, "nothing in db@b listens at 53/udp");
    }
}
