//! `fleetctl fabric enroll`.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result};
use capsule_client::{Target, fan_out};
use capsule_fabric::map::{CapsuleId, Change, Endpoint, MemberMap, NewMember, PublicKey, Slot};
use capsule_proto::{
    Name,
    v1::{EnsureFabricKeyRequest, FabricStatus, GetFabricStatusRequest},
};
use clap::Args;
use clap_complete::ArgValueCompleter;
use futures_util::StreamExt as _;

use super::{ask::confirm, init::prefixes, known::Known};
use crate::{
    complete,
    exit::Exit,
    failure::{Failure, usage},
    session::{QUICK, Session},
};

/// How often a new member keeps its paths open, in seconds: routers forget one after 30 or more.
const KEEPALIVE: u16 = 25;

/// Make capsules members of the fabric
///
/// Each makes its WireGuard key, which never leaves it; you see the public keys and confirm them
/// once. Every member gets the lowest free slot, and with it its addresses. Repeating it is
/// harmless, and brings the newest map to members that missed it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl fabric enroll nuc-1 nuc-2 storage\n  \
                        fleetctl --all fabric enroll --yes\n  \
                        fleetctl fabric enroll edge --endpoint edge=edge.example.org:51820")]
pub struct Enroll {
    /// Capsules by context; or use -c, --group, -l, --all
    #[arg(value_name = "CAPSULE", add = ArgValueCompleter::new(complete::capsules))]
    names: Vec<String>,
    /// Where others meet a capsule, instead of its context's host and its own addresses; may be repeated
    #[arg(long = "endpoint", value_name = "CAPSULE=HOST:PORT", value_parser = pair::<Endpoint>)]
    endpoints: Vec<(String, Endpoint)>,
    /// The slot that a capsule is to have; may be repeated
    #[arg(long = "slot", value_name = "CAPSULE=N", value_parser = pair::<u16>)]
    slots: Vec<(String, u16)>,
    /// Trust the keys, whatever they are
    #[arg(long, short)]
    yes: bool,
}

/// A capsule as it answered.
struct Candidate {
    target: Target,
    key: PublicKey,
    status: FabricStatus,
}

impl Enroll {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let silent = || usage("name the capsules to enroll, or --all of them");
        let targets = session.named(&self.names)?.ok_or_else(silent)?;
        self.check_names(&targets)?;
        let mut known = Known::ask(session).await?;
        let map = known.map()?.clone();
        check_free_of_others(&known, &map, &targets)?;
        let (candidates, failed) = ask(session, targets).await?;
        let changes = self.changes(session, &map, &candidates)?;
        let next = map.with(&changes).map_err(|error| usage(error.to_string()))?;
        if let Some(next) = next.filter(|_| !self.yes) {
            let news = news(&map, &next);
            if !news.is_empty() {
                confirm(&news, "Enroll them with these keys?")?;
            }
        }
        // Of a member that is away, who brings it the map tells.
        let is_told = |target: &Target| {
            let capsule = target.capsule_id.parse().ok();
            !candidates.is_empty() && capsule.is_some_and(|capsule| map.of_capsule(capsule).is_some())
        };
        for (target, failure) in failed.iter().filter(|(target, _)| !is_told(target)) {
            crate::print_failure(&session.out, &target.name, failure.clone());
        }
        if candidates.is_empty() {
            return Ok(Exit::NONE);
        }
        let exit = known.change(session, &changes, &[], "enroll").await?;
        Ok(if failed.is_empty() || exit == Exit::NONE { exit } else { Exit::SOME })
    }

    fn check_names(&self, targets: &[Target]) -> Result<()> {
        let named =
            self.endpoints.iter().map(|(name, _)| name).chain(self.slots.iter().map(|(name, _)| name));
        for name in named {
            if !targets.iter().any(|target| target.name == *name) {
                return Err(usage(format!(
                    "{name:?} is given an endpoint or a slot, but is not to be enrolled"
                )));
            }
        }
        Ok(())
    }

    fn changes(&self, session: &Session, map: &MemberMap, candidates: &[Candidate]) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for candidate in candidates {
            let new = self.new_member(session, map, candidate)?;
            let asked = self.asked_endpoints(&candidate.target.name);
            let name = map.of_capsule(new.capsule).map_or(new.name.clone(), |member| member.name.clone());
            changes.push(Change::Enroll(new));
            if !asked.is_empty() {
                changes.push(Change::SetEndpoints(name, asked));
            }
        }
        Ok(changes)
    }

    fn asked_endpoints(&self, capsule: &str) -> Vec<Endpoint> {
        let asked = self.endpoints.iter().filter(|(name, _)| name == capsule);
        asked.map(|(_, endpoint)| endpoint.clone()).collect()
    }

    fn new_member(&self, session: &Session, map: &MemberMap, candidate: &Candidate) -> Result<NewMember> {
        let Candidate { target, key, status } = candidate;
        let capsule: CapsuleId = target.capsule_id.parse().context("the context has no capsule id")?;
        let known = session.fleet.contexts().of_capsule(&target.capsule_id);
        let called = known.map_or(target.name.as_str(), |(name, _)| name);
        let is_new = map.of_capsule(capsule).is_none();
        let name: Name = match map.of_capsule(capsule) {
            Some(member) => member.name.clone(),
            None => called.parse().map_err(|error| {
                usage(format!(
                    "{error}: members are called like their contexts; `fleetctl context rename {called} NAME`"
                ))
            })?,
        };
        if is_new {
            check_range(map, target, status)?;
        }
        let slot = self.slots.iter().find(|(name, _)| *name == target.name).map(|(_, slot)| Slot(*slot));
        Ok(NewMember {
            name,
            capsule,
            public_key: *key,
            slot,
            endpoints: guessed(target, status),
            keepalive: KEEPALIVE,
        })
    }
}

/// The host where the operator finds it, then the capsule's own addresses.
fn guessed(target: &Target, status: &FabricStatus) -> Vec<Endpoint> {
    /// As many as one member may have.
    const MOST: usize = 16;
    let port = u16::try_from(status.listen_port).unwrap_or(0);
    let is_elsewhere = |host: &str| {
        host != "localhost" && host.parse::<IpAddr>().map_or(true, |address| !address.is_loopback())
    };
    let hosts =
        std::iter::once(target.address.host()).chain(status.local_addresses.iter().map(String::as_str));
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for endpoint in hosts.filter(|host| is_elsewhere(host)).filter_map(|host| Endpoint::new(host, port).ok())
    {
        if !endpoints.contains(&endpoint) && endpoints.len() < MOST {
            endpoints.push(endpoint);
        }
    }
    endpoints
}

fn check_range(map: &MemberMap, target: &Target, status: &FabricStatus) -> Result<()> {
    let ranges = [map.plan().range(), map.plan().ipv6()];
    let in_the_way = prefixes(status).find(|used| ranges.iter().any(|range| used.overlaps(range)));
    match in_the_way {
        None => Ok(()),
        Some(used) => Err(usage(format!(
            "{} has {used} already, which overlaps the fabric's {}; take that away from it, or make a fabric with another \
             --range",
            target.name,
            map.plan().range()
        ))),
    }
}

fn check_free_of_others(known: &Known, map: &MemberMap, targets: &[Target]) -> Result<()> {
    for (target, answer) in &known.capsules {
        let other =
            answer.as_ref().ok().and_then(Option::as_ref).filter(|has| has.map().fabric() != map.fabric());
        if let Some(other) =
            other.filter(|_| targets.iter().any(|asked| asked.capsule_id == target.capsule_id))
        {
            return Err(usage(format!(
                "{} is in another fabric ({}); `fleetctl -c {} fabric reset` makes it leave",
                target.name,
                other.map().fabric(),
                target.name
            )));
        }
    }
    Ok(())
}

/// Key and addresses of each.
async fn ask(session: &Session, targets: Vec<Target>) -> Result<(Vec<Candidate>, Vec<(Target, Failure)>)> {
    let order: BTreeMap<String, usize> =
        targets.iter().enumerate().map(|(at, target)| (target.capsule_id.clone(), at)).collect();
    let options = session.fan_out(Some(session.timeout(QUICK)));
    let connector = session.connector()?;
    let mut answers = fan_out(&connector, targets, options, async |capsule| {
        let mut fabric = capsule.fabric();
        let key = fabric.ensure_key(EnsureFabricKeyRequest { next: false }).await?.into_inner().public_key;
        Ok((key, fabric.get_status(GetFabricStatusRequest {}).await?.into_inner()))
    });
    let (mut candidates, mut failed) = (Vec::new(), Vec::new());
    while let Some((target, answer)) = answers.next().await {
        let read = answer.map_err(Failure::from).and_then(|(key, status)| {
            let key =
                PublicKey::try_from(key.as_slice()).map_err(|error| Failure::local(error.to_string()))?;
            Ok((key, status))
        });
        match read {
            Ok((key, status)) => candidates.push(Candidate { target, key, status }),
            Err(failure) => failed.push((target, failure)),
        }
    }
    // Slots are given in the order of the names, whoever answers first.
    candidates.sort_by_key(|candidate| order.get(&candidate.target.capsule_id).copied());
    Ok((candidates, failed))
}

/// A line for each member whose key was not known before.
fn news(map: &MemberMap, next: &MemberMap) -> Vec<String> {
    let is_new = |member: &&capsule_fabric::map::Member| map.of_key(&member.public_key).is_none();
    let line = |member: &capsule_fabric::map::Member| {
        let own = next.plan().own(member.slot);
        format!("{:<20} {:<15} {}", member.name, own.ipv4, member.public_key)
    };
    next.members().iter().filter(is_new).map(line).collect()
}

/// `NAME=VALUE`.
fn pair<T>(text: &str) -> Result<(String, T), String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let (name, value) = text.split_once('=').ok_or("write CAPSULE=VALUE")?;
    let value = value.parse::<T>().map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_met_where_the_operator_finds_it_and_at_its_own_addresses_each_once() {
        let target = |host: &str| Target {
            name: "a".into(),
            address: format!("{host}:50000").parse().unwrap(),
            capsule_id: String::new(),
            fingerprint: capsule_proto::Fingerprint::of(b""),
        };
        let local_addresses = ["192.168.1.2", "fd00::2"].map(str::to_owned).to_vec();
        let status = FabricStatus { listen_port: 51820, local_addresses, ..FabricStatus::default() };
        let shown = |host: &str| {
            let found = guessed(&target(host), &status);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(shown("nuc.lan"), ["nuc.lan:51820", "192.168.1.2:51820", "[fd00::2]:51820"]);
        assert_eq!(shown("192.168.1.2"), ["192.168.1.2:51820", "[fd00::2]:51820"]);
        assert_eq!(shown("127.0.0.1"), ["192.168.1.2:51820", "[fd00::2]:51820"]);
    }

    #[test]
    fn pairs_are_read_at_the_first_equals_sign() {
        assert_eq!(pair::<u16>("a=7"), Ok(("a".into(), 7)));
        assert!(pair::<u16>("a").is_err() && pair::<Endpoint>("a=b").is_err());
    }
}
