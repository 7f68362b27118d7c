//! The fabric's userspace WireGuard device beside others, over a wire of MTU 1500.
//!
//! [`tool`] drives iperf3 and ping; contestants take turns at each thing that is measured.

pub mod tool;

use anyhow::{Context as _, Result};

use self::tool::Server;
use super::{
    Effort,
    fabric::pair::Pair,
    peer,
    race::turns,
    report::{Limit, Row},
    stats::Samples,
};
use crate::{
    scenario::Fleet,
    sys::process::Process,
    wireguard::{Family, Mesh, behind::Behind, device::Make, underlay::Underlay},
};

const ROUNDS: usize = 5;
/// Of ours to wireguard-go's.
const TCP: Limit = Limit::AtLeast(1.6);
const BOTH_WAYS: Limit = Limit::AtLeast(1.5);
const UDP: Limit = Limit::AtLeast(2.0);
const CPU: Limit = Limit::Ratio(0.7);
/// Of ours to boringtun-cli's.
const PING: Limit = Limit::Ratio(1.3);
const RSS: Limit = Limit::Own(24.0);
/// Of eight peers' sum to one's.
const EIGHT: Limit = Limit::AtLeast(0.9);
const EIGHT_PEERS: usize = 8;

/// Two ends with something between them.
struct Contestant {
    name: &'static str,
    between: Between,
    server: Server,
    figures: Figures,
}

enum Between {
    Wire(Underlay),
    Tunnel(Mesh),
    /// The same with a bridge and a veth at each end, as workloads have them.
    Behind([Behind; 2], Mesh),
    /// Workloads of two capsules, with their policies.
    Fabric(Pair),
}

#[derive(Default)]
struct Figures {
    one: Samples,
    four: Samples,
    both: Samples,
    udp: Samples,
    ping: Samples,
    cpu: Samples,
    resident: Samples,
}

impl Contestant {
    async fn device(name: &'static str, make: Make) -> Result<Self> {
        Self::new(name, Between::Tunnel(Mesh::start(&[make.clone(), make], Family::V4)?)).await
    }

    async fn behind(name: &'static str, make: Make) -> Result<Self> {
        let mesh = Mesh::start(&[make.clone(), make], Family::V4)?;
        let ends = [Behind::new(&mesh, 0)?, Behind::new(&mesh, 1)?];
        Self::new(name, Between::Behind(ends, mesh)).await
    }

    async fn new(name: &'static str, between: Between) -> Result<Self> {
        let (namespace, address) = match &between {
            Between::Wire(wire) => (wire.namespace(1), wire.addresses(1)[0]),
            Between::Tunnel(mesh) => (mesh.node(1).namespace.clone(), mesh.node(1).inside[0]),
            Between::Behind(ends, _) => (ends[1].namespace.clone(), ends[1].address),
            Between::Fabric(pair) => (pair.namespaces[1].clone(), pair.address),
        };
        let server = Server::start(&namespace, address).await?;
        Ok(Self { name, between, server, figures: Figures::default() })
    }

    fn from(&self) -> String {
        match &self.between {
            Between::Wire(wire) => wire.namespace(0),
            Between::Tunnel(mesh) => mesh.node(0).namespace.clone(),
            Between::Behind(ends, _) => ends[0].namespace.clone(),
            Between::Fabric(pair) => pair.namespaces[0].clone(),
        }
    }

    fn devices(&self) -> Result<Vec<Process>> {
        match &self.between {
            Between::Wire(_) => Ok(Vec::new()),
            Between::Tunnel(mesh) | Between::Behind(_, mesh) => {
                mesh.nodes.iter().map(|node| node.device.process()).collect()
            }
            Between::Fabric(pair) => Ok(pair.devices.clone()),
        }
    }

    fn cpu_seconds(&self) -> Result<f64> {
        self.devices()?.into_iter().map(|device| Ok(device.cpu_time()?.as_secs_f64())).sum()
    }

    /// Everything that is measured of TCP, once.
    async fn tcp(&mut self, counts: bool) -> Result<()> {
        let from = self.from();
        let before = self.cpu_seconds()?;
        let one = self.server.tcp(&from, &[]).await?;
        let used = self.cpu_seconds()? - before;
        let four = self.server.tcp(&from, &["-P", "4"]).await?;
        let both = self.server.tcp(&from, &["--bidir"]).await?;
        if counts {
            self.figures.one.push(one.megabits);
            self.figures.four.push(four.megabits);
            self.figures.both.push(both.megabits);
            if !self.devices()?.is_empty() {
                self.figures.cpu.push(used / one.gigabytes);
            }
        }
        Ok(())
    }

    /// A flood of datagrams, and pings once it is over.
    async fn udp(&mut self, counts: bool) -> Result<()> {
        let from = self.from();
        let udp = self.server.udp_flood(&from).await?;
        let ping = self.server.ping(&from).await?;
        if counts {
            self.figures.udp.push(udp.megabits);
            self.figures.ping.push(ping);
            for device in self.devices()? {
                self.figures.resident.push(device.peak_bytes()? as f64 / f64::from(1 << 20));
            }
        }
        Ok(())
    }
}

/// TCP, one stream and four and both ways at once, and what it costs.
pub async fn tcp(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::netns(2).await?;
    let mut contestants = contestants(&fleet).await?;
    for (round, at) in turns(effort.rounds(ROUNDS), contestants.len()) {
        let contestant = &mut contestants[at];
        contestant.tcp(round > 0).await.with_context(|| format!("{} failed", contestant.name))?;
    }
    fleet.passed();
    Ok([
        rows(&contestants, "one TCP stream", "Mbit/s", GO, TCP, |figures| &figures.one),
        rows(&contestants, "four TCP streams", "Mbit/s", GO, TCP, |figures| &figures.four),
        rows(&contestants, "TCP both ways at once", "Mbit/s", GO, BOTH_WAYS, |figures| &figures.both),
        rows(&contestants, "CPU of both devices, one stream", "s/GB", GO, CPU, |figures| &figures.cpu),
    ]
    .concat())
}

/// Datagrams, round trips and memory.
pub async fn udp(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::netns(2).await?;
    let mut contestants = contestants(&fleet).await?;
    contestants.push(Contestant::behind(GO_BEHIND, newest_go()).await?);
    if let Some(boringtun) = Make::boringtun() {
        contestants.push(Contestant::behind(BORINGTUN_BEHIND, boringtun).await?);
    }
    for (round, at) in turns(effort.rounds(ROUNDS), contestants.len()) {
        let contestant = &mut contestants[at];
        contestant.udp(round > 0).await.with_context(|| format!("{} failed", contestant.name))?;
    }
    fleet.passed();
    // Of packets that nobody joins, bridge and veth cost as much as a device: like beside like.
    let [flood, ping, resident] =
        ["flood of 1372-byte datagrams, received", "ping, average", "a device after a flood, resident"];
    let mut all = rows(&contestants, flood, "Mbit/s", GO_BEHIND, UDP, |figures| &figures.udp);
    all.extend(alone(&contestants, flood, "Mbit/s", GO, UDP, |figures| &figures.udp));
    all.extend(rows(&contestants, ping, "µs", BORINGTUN_BEHIND, PING, |figures| &figures.ping));
    all.extend(alone(&contestants, ping, "µs", BORINGTUN, PING, |figures| &figures.ping));
    all.extend(rows(&contestants, resident, "MiB", GO, RSS, |figures| &figures.resident));
    Ok(all)
}

/// Eight peers active at once beside one.
pub async fn eight(effort: Effort) -> Result<Vec<Row>> {
    peer::require(&["iperf3", "wg"])?;
    let mesh = Mesh::start(&vec![Make::ours(); EIGHT_PEERS + 1], Family::V4)?;
    let mut servers = Vec::new();
    for node in &mesh.nodes[1..] {
        servers.push(Server::start(&node.namespace, node.inside[0]).await?);
    }
    let from = &mesh.node(0).namespace;
    let (mut one, mut all) = (Samples::default(), Samples::default());
    for round in 0..=effort.rounds(ROUNDS) {
        let alone = servers[round % EIGHT_PEERS].tcp(from, &[]).await?.megabits;
        let together = servers.iter().map(|server| server.tcp(from, &[]));
        let together = futures_util::future::try_join_all(together).await?;
        if round > 0 {
            one.push(alone);
            all.push(together.iter().map(|run| run.megabits).sum());
        }
    }
    Ok(vec![Row::against(
        "TCP to eight peers at once, sum",
        "Mbit/s",
        &all,
        &("to one".to_owned(), one),
        EIGHT,
    )])
}

/// Rules of each policy between our workloads, so that sets of every shape are looked up.
const RULES: usize = 10;
const OURS: &str = "ours";
const ALONE: &str = "our device alone";
const GO: &str = "wireguard-go";
const GO_BEHIND: &str = "wireguard-go, bridge and veth";
const BORINGTUN: &str = "boringtun-cli";
const BORINGTUN_BEHIND: &str = "boringtun-cli, bridge and veth";

fn newest_go() -> Make {
    Make::newer_wireguard_go().unwrap_or_else(Make::wireguard_go)
}

/// Ours are workloads with their policies, beside devices that do nothing else.
async fn contestants(fleet: &Fleet) -> Result<Vec<Contestant>> {
    peer::require(&["iperf3", "ping", "wg"])?;
    fleet.enroll_all().await?;
    let pair = Pair::start(fleet, ["a", "b"], RULES).await?;
    let mut contestants = vec![
        Contestant::new("bare wire", Between::Wire(Underlay::new(2)?)).await?,
        Contestant::new(OURS, Between::Fabric(pair)).await?,
        Contestant::device(ALONE, Make::ours()).await?,
        Contestant::device(GO, newest_go()).await?,
    ];
    if let Some(boringtun) = Make::boringtun() {
        contestants.push(Contestant::device(BORINGTUN, boringtun).await?);
    }
    Ok(contestants)
}

/// Ours beside each other one; only the `judge` sets a limit.
fn rows(
    contestants: &[Contestant],
    what: &str,
    unit: &'static str,
    judge: &str,
    limit: Limit,
    of: impl Fn(&Figures) -> &Samples,
) -> Vec<Row> {
    let of = |contestant: &Contestant| of(&contestant.figures).clone();
    let Some(ours) = contestants.iter().find(|contestant| contestant.name == OURS) else { return Vec::new() };
    let others = contestants.iter().filter(|contestant| contestant.name != OURS);
    let others = others.filter(|contestant| !of(contestant).is_empty());
    let row = |other: &Contestant| {
        let limit = if other.name == judge { limit } else { Limit::None };
        Row::against(what, unit, &of(ours), &(other.name.to_owned(), of(other)), limit)
    };
    others.map(row).collect()
}

/// Our device with nothing else beside another that has nothing else.
fn alone(
    contestants: &[Contestant],
    what: &str,
    unit: &'static str,
    judge: &str,
    limit: Limit,
    of: impl Fn(&Figures) -> &Samples,
) -> Option<Row> {
    let find = |name: &str| contestants.iter().find(|contestant| contestant.name == name);
    let (ours, other) = (find(ALONE)?, find(judge)?);
    let peer = (judge.to_owned(), of(&other.figures).clone());
    Some(Row::against(&format!("{what}, {ALONE}"), unit, of(&ours.figures), &peer, limit))
}
