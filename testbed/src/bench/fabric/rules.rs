//! Ten thousand rules: how long until they are in force, and what a packet pays for them.

use std::time::Instant;

use anyhow::{Context as _, Result};
use capsule_fabric::{
    map::{AddressPlan, Change, MemberMap, NewMember, PublicKey},
    policy::{Directory, Filter, Frame, Subject, World, compile},
};
use capsule_proto::Name;

use super::pair::{Pair, others};
use crate::{
    bench::{
        Effort,
        mesh::tool::Server,
        race::turns,
        report::{Limit, Row},
        stats::Samples,
    },
    scenario::Fleet,
    sys::link,
    wireguard::underlay::Underlay,
};

const MANY: usize = 10_000;
const FEW: usize = 10;
const ROUNDS: usize = 10;
/// Of compiling and loading them.
const LOAD_LIMIT_MS: f64 = 300.0;
/// Of the throughput with many to that with few.
const COST: Limit = Limit::AtLeast(0.98);
/// Workloads of the other member that the named half of the rules is about.
const NAMED: u32 = 500;

/// From references to a loaded table, in a network namespace of its own.
pub fn load(effort: Effort) -> Result<Vec<Row>> {
    let place = Underlay::new(1)?;
    let world = Fabric::new()?;
    let mut samples = Samples::default();
    for round in 0..=effort.rounds(ROUNDS) {
        let since = Instant::now();
        let script = world.script();
        link::nft_in(&place.namespace(0), &script)?;
        if round > 0 {
            samples.push(since.elapsed().as_secs_f64() * 1000.0);
        }
    }
    let what = format!("{MANY} rules, compiled and loaded");
    Ok(vec![Row::alone(&what, "ms", &samples, Limit::Own(LOAD_LIMIT_MS))])
}

/// A fabric of two members: this one, and another with many workloads.
struct Fabric {
    map: MemberMap,
    me: Name,
    directory: Directory,
    subject: Subject,
}

impl Fabric {
    fn new() -> Result<Self> {
        let plan = AddressPlan::new("100.64.0.0/10".parse()?, 22, "fd12:3456:789a::/48".parse()?)?;
        let member = |at: u8, name: &str| -> Result<Change> {
            Ok(Change::Enroll(NewMember {
                name: name.parse()?,
                capsule: format!("00000000-0000-4000-8000-0000000000{at:02x}").parse()?,
                public_key: PublicKey::try_from([at + 1; 32].as_slice())?,
                slot: None,
                endpoints: Vec::new(),
                keepalive: 0,
            }))
        };
        let map = MemberMap::found(plan).with(&[member(0, "a")?, member(1, "b")?])?;
        let map = map.context("two new members change nothing")?;
        let (me, peer) = (map.members()[0].clone(), map.members()[1].clone());
        let place = |slot, at| map.plan().workload(slot, at).context("the slice is too small");
        let known = (0..NAMED).map(|at| Ok((format!("w{at}").parse()?, place(peer.slot, at + 2)?)));
        let known = known.collect::<Result<_>>()?;
        let named = (0..MANY as u32 / 2).map(|at| format!("w{}@b:{}", at % NAMED, 1000 + at / NAMED));
        let rules = named.chain(others().take(MANY / 2)).map(|rule| rule.parse());
        let subject = Subject {
            name: "web".parse()?,
            addresses: place(me.slot, 2)?,
            allow_to: Vec::new(),
            allow_from: rules.collect::<Result<_, _>>()?,
        };
        let directory = Directory::from([
            (me.name.clone(), [(subject.name.clone(), subject.addresses)].into()),
            (peer.name.clone(), known),
        ]);
        Ok(Self { me: me.name, map, directory, subject })
    }

    fn script(&self) -> String {
        let world = World { map: &self.map, me: &self.me, directory: &self.directory };
        let subjects = std::slice::from_ref(&self.subject);
        let frame = Frame {
            table: "rules".into(),
            link: "link".into(),
            bridge: "bridge".into(),
            ranges: [self.map.plan().range(), self.map.plan().ipv6()],
            open_ports: vec![capsule_fabric::MEMBER_PORT],
        };
        Filter::new(frame, &world, subjects, compile(&world, subjects)).whole()
    }
}

/// One TCP stream between workloads whose policies are long, beside one between others whose are not.
pub async fn cost(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::netns(4).await?;
    fleet.enroll_all().await?;
    let pairs = [Pair::start(&fleet, ["a", "b"], MANY).await?, Pair::start(&fleet, ["c", "d"], FEW).await?];
    let mut servers = Vec::new();
    for pair in &pairs {
        servers.push(Server::start(&pair.namespaces[1], pair.address).await?);
    }
    let mut samples = [Samples::default(), Samples::default()];
    let mut cpu = [Samples::default(), Samples::default()];
    for (round, at) in turns(effort.rounds(ROUNDS), pairs.len()) {
        let before = pairs[at].cpu_seconds()?;
        let run = servers[at].tcp(&pairs[at].namespaces[0], &[]).await?;
        if round > 0 {
            samples[at].push(run.megabits);
            cpu[at].push((pairs[at].cpu_seconds()? - before) / run.gigabytes);
        }
    }
    fleet.passed();
    let row = |what: &str, unit, [many, few]: [Samples; 2], limit| {
        let what = format!("{what}, {MANY} rules at both ends");
        Row::against(&what, unit, &many, &(format!("{FEW} rules"), few), limit)
    };
    Ok(vec![
        row("one TCP stream", "Mbit/s", samples, COST),
        row("CPU of both devices, which the filter is part of", "s/GB", cpu, Limit::None),
    ])
}
