//! The fabric over the kernel's WireGuard, with ten thousand rules, beside the same WireGuard that is
//! set up by hand.
//!
//! Where this host's kernel has none, a guest whose kernel has it measures: there everything takes
//! ten times as long, and what the packet filter costs weighs as much beside the cipher as it does
//! elsewhere.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::pair::Pair;
use crate::{
    bench::{
        Effort,
        mesh::tool::Server,
        peer,
        race::turns,
        report::{Limit, Row},
        stats::Samples,
    },
    guest::Guest,
    scenario::Fleet,
    sys::{self, link},
    wireguard::{Family, Mesh, behind::Behind, device::Make, underlay::Underlay},
};

const RULES: usize = 10_000;
const ROUNDS: usize = 6;
/// Of ours to what is set up by hand.
const LIMIT: Limit = Limit::AtLeast(0.97);
/// For a guest.
const GUEST_LIMIT: Duration = Duration::from_secs(230);

/// Mbit/s of one TCP stream, by contestant.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Figures {
    fabric: Vec<f64>,
    by_hand: Vec<f64>,
    hosts: Vec<f64>,
}

/// One TCP stream between workloads.
pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    let rounds = effort.rounds(ROUNDS);
    let (figures, place) = if has_wireguard()? {
        (measure(rounds).await?, "")
    } else {
        (tokio::task::spawn_blocking(move || in_guest(rounds)).await??, ", emulated")
    };
    let [fabric, by_hand, hosts] = [figures.fabric, figures.by_hand, figures.hosts].map(Samples::from_iter);
    let what = format!("one TCP stream, kernel WireGuard, {RULES} rules at both ends{place}");
    let row = |peer: &str, samples, limit| {
        Row::against(&what, "Mbit/s", &fabric, &(peer.to_owned(), samples), limit)
    };
    Ok(vec![row("by hand", by_hand, LIMIT), row("by hand, between hosts", hosts, Limit::None)])
}

/// What [`run`] measures in a guest, in JSON.
pub async fn figures(rounds: usize) -> Result<String> {
    serde_json::to_string(&measure(rounds).await?).context("the figures cannot be written")
}

/// Whether this kernel has WireGuard.
fn has_wireguard() -> Result<bool> {
    let place = Underlay::new(1)?;
    Ok(link::batch_in(&place.namespace(0), "link add probe type wireguard\n").is_ok())
}

fn in_guest(rounds: usize) -> Result<Figures> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["kernel-figures", &rounds.to_string()]);
    let outcome = Guest::find()?.run(&sys::show(&command), GUEST_LIMIT)?;
    let figures = outcome.output.lines().rfind(|line| line.starts_with('{'));
    ensure!(outcome.code == 0, "it failed in the guest:\n{}", outcome.output);
    let figures = figures.with_context(|| format!("the guest tells no figures:\n{}", outcome.output))?;
    serde_json::from_str(figures).context("the guest's figures cannot be read")
}

async fn measure(rounds: usize) -> Result<Figures> {
    peer::require(&["iperf3", "wg"])?;
    let fleet = Fleet::netns(2).await?;
    fleet.enroll_all().await?;
    let pair = Pair::start(&fleet, ["a", "b"], RULES).await?;
    ensure!(pair.devices.is_empty(), "the agents do not use the kernel's WireGuard: {:?}", pair.devices);
    let mesh = Mesh::start(&[Make::Kernel, Make::Kernel], Family::V4)?;
    let behind = [Behind::new(&mesh, 0)?, Behind::new(&mesh, 1)?];
    let (near, far) = (mesh.node(0), mesh.node(1));
    let contestants = [
        (pair.namespaces[0].clone(), Server::start(&pair.namespaces[1], pair.address).await?),
        (behind[0].namespace.clone(), Server::start(&behind[1].namespace, behind[1].address).await?),
        (near.namespace.clone(), Server::start(&far.namespace, far.inside[0]).await?),
    ];
    let mut figures = <[Vec<f64>; 3]>::default();
    for (round, at) in turns(rounds, contestants.len()) {
        let (from, server) = &contestants[at];
        let run = server.tcp(from, &[]).await?;
        if round > 0 {
            figures[at].push(run.megabits);
        }
    }
    fleet.passed();
    let [fabric, by_hand, hosts] = figures;
    Ok(Figures { fabric, by_hand, hosts })
}
