//! What an agent costs that has nothing to do: resident memory and CPU, with 10 workloads.

use std::time::Duration;

use anyhow::Result;

use super::{
    Effort,
    report::{Limit, Row},
    stats::Samples,
};
use crate::{fixtures, scenario::Fleet};

const WORKLOADS: usize = 10;
/// After the last of them runs.
const SETTLE: Duration = Duration::from_secs(10);
/// Of one look at the CPU.
const WINDOW: Duration = Duration::from_secs(10);
const ROUNDS: usize = 6;
const RSS_LIMIT_MIB: f64 = 20.0;
const CPU_LIMIT_PERCENT: f64 = 0.2;

pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::netns(1).await?;
    let capsule = fleet.capsule("a");
    let manifest =
        |at| format!("kind: Container\nname: idle-{at}\ncontainer: {{ image: {} }}\n", fixtures::ECHO);
    let manifests: Vec<String> = (0..WORKLOADS).map(manifest).collect();
    capsule.apply(&manifests.join("---\n")).await?;
    tokio::time::sleep(SETTLE).await;
    let (agent, containerd) = (capsule.agent()?, capsule.containerd()?);
    let (mut rss, mut cpu, mut engine) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..effort.rounds(ROUNDS) {
        let before = agent.cpu_time()?;
        tokio::time::sleep(WINDOW).await;
        let used = agent.cpu_time()?.saturating_sub(before);
        cpu.push(used.as_secs_f64() / WINDOW.as_secs_f64() * 100.0);
        rss.push(mib(agent.resident_bytes()?));
        engine.push(mib(containerd.resident_bytes()?));
    }
    fleet.passed();
    Ok(vec![
        Row::against(
            "idle agent, resident",
            "MiB",
            &rss,
            &("its containerd".to_owned(), engine),
            Limit::Own(RSS_LIMIT_MIB),
        ),
        Row::alone("idle agent, CPU of one core", "%", &cpu, Limit::Own(CPU_LIMIT_PERCENT)),
    ])
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
