//! What this capsule can tell of the other end, whose own agent may not answer.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use capsule_proto::{
    reference::{End, Request},
    v1::{FabricHop, FabricHopKind as Kind},
};

use super::{Case, Party, consent::Said, hop};
use crate::sys::netlink::{in_netns, netns_of};

/// For a connection to be taken or refused.
const PATIENCE: Duration = Duration::from_secs(2);
/// Hops that a connection tells of beside the socket.
const BEFORE_SOCKET: [Kind; 2] = [Kind::AllowFrom, Kind::Delivery];

/// Of the receiver: what was heard of it, and what a real connection tells.
pub(super) async fn of_receiver(case: &Case<'_>) -> Vec<FabricHop> {
    let mut told: Vec<FabricHop> = heard(case, Kind::Destination, &case.destination).into_iter().collect();
    if case.question.attempt {
        told.extend(attempt(case).await);
    }
    told
}

/// Of the sender: what was heard of it, and what its packets tell.
pub(super) fn of_sender(case: &Case<'_>, consent: &Said) -> Vec<FabricHop> {
    let mut told: Vec<FabricHop> = heard(case, Kind::Source, &case.source).into_iter().collect();
    if consent.seen > 0 {
        let why = format!("{} packets of it came as far as {}", consent.seen, case.me.name);
        told.extend([Kind::AllowTo, Kind::Route].map(|kind| hop::ok(kind, why.clone())));
    }
    told
}

/// Of members' own addresses and of workloads that were heard of.
fn heard(case: &Case<'_>, kind: Kind, party: &Party) -> Option<FabricHop> {
    let is_known = !party.addresses.is_empty() && !matches!(party.end, End::Address(_));
    let why = || format!("{} has heard that {} is {}", case.me.name, party.end, party.told());
    is_known.then(|| hop::ok(kind, why()))
}

async fn attempt(case: &Case<'_>) -> Vec<FabricHop> {
    let nothing = |why: &str| {
        let all = BEFORE_SOCKET.into_iter().chain([Kind::Socket]);
        all.map(|kind| hop::unknown(kind, why)).collect::<Vec<_>>()
    };
    let Request::Tcp(port) = case.question.request else {
        return nothing("only a TCP connection would tell");
    };
    let pid = match (&case.source.end, case.pid(&case.source)) {
        (End::Workload(..), None) => return nothing("the source does not run, and so cannot try"),
        (_, pid) => pid,
    };
    let Some(flow) = case.flows.first().copied() else {
        return nothing("it is not known where the destination is");
    };
    let outcome = tokio::task::spawn_blocking(move || connect(pid, flow.destination, port)).await;
    let outcome = outcome.unwrap_or_else(|error| Err(io::Error::other(error)));
    let (from, to) = (&case.source.end, case.asked());
    match outcome {
        Ok(()) => {
            let why = format!("a connection from {from} to {to} was taken just now");
            let all = BEFORE_SOCKET.into_iter().chain([Kind::Socket]);
            all.map(|kind| hop::ok(kind, why.clone())).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let why =
                format!("a connection from {from} was refused by the kernel at {to}, not by its policy");
            let mut told: Vec<FabricHop> =
                BEFORE_SOCKET.into_iter().map(|kind| hop::ok(kind, why.clone())).collect();
            let remedy = format!("have {} listen at {}", to.end, to.request);
            told.push(hop::fails(Kind::Socket, format!("nothing listens at {to}"), remedy));
            told
        }
        Err(error) => nothing(&format!("a connection from {from} to {to} failed: {error}")),
    }
}

/// From inside a workload, or from the capsule itself.
fn connect(pid: Option<u32>, to: IpAddr, port: u16) -> io::Result<()> {
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE).map(drop);
    match pid {
        Some(pid) => in_netns(&netns_of(pid), connect),
        None => connect(),
    }
}
