//! What an agent's memory grows by where the fabric is large.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    bench::{
        Effort,
        report::{Limit, Row},
        stats::Samples,
    },
    scenario::{Capsule, Fleet, eventually},
};

const CAPSULES: usize = 33;
/// Spread over the peers.
const WORKLOADS: usize = 1000;
const ROUNDS: usize = 6;
const LIMIT_MIB: f64 = 4.0;
/// Until the agent has given back what it needed for a moment.
const SETTLE: Duration = Duration::from_secs(15);
/// Until every peer was heard of.
const HEARD: Duration = Duration::from_mins(1);
/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::builder(CAPSULES).without_images().start().await?;
    let names = fleet.names();
    let one = fleet.capsule(&names[0]);
    let agent = one.agent()?;
    let look = async || -> Result<[Samples; 2]> {
        tokio::time::sleep(SETTLE).await;
        let mut samples = [Samples::default(), Samples::default()];
        for _ in 0..effort.rounds(ROUNDS) {
            tokio::time::sleep(INTERVAL).await;
            for (samples, bytes) in samples.iter_mut().zip([agent.private_bytes()?, agent.resident_bytes()?])
            {
                samples.push(bytes as f64 / f64::from(1 << 20));
            }
        }
        Ok(samples)
    };
    let before = look().await?;
    fleet.enroll_all().await?;
    let each = WORKLOADS.div_ceil(names.len() - 1);
    let known: Vec<String> = (0..each).map(|at| idle(&format!("w{at}"), "allowFrom", &[])).collect();
    for peer in &names[1..] {
        declare(&fleet.capsule(peer), &known.join("---\n")).await?;
    }
    // What a policy names waits until it is known.
    let last: Vec<String> = names[1..].iter().map(|peer| format!("w{}@{peer}:80", each - 1)).collect();
    declare(&one, &idle("asker", "allowTo", &last)).await?;
    eventually(HEARD, async || {
        let waiting = one.workload("asker").await?["status"]["fabric"]["waiting"].clone();
        ensure!(waiting.as_array().is_none_or(Vec::is_empty), "not known yet: {waiting}");
        Ok(())
    })
    .await?;
    let after = look().await?;
    fleet.passed();
    let (peers, theirs) = (names.len() - 1, each * (names.len() - 1));
    let what = format!("agent with {peers} peers and {theirs} workloads of theirs");
    let grown = Samples::from_iter([after[0].median() - before[0].median()]);
    let row = |kind: &str, at: usize| {
        let peer = ("without".to_owned(), before[at].clone());
        Row::against(&format!("{what}, {kind}"), "MiB", &after[at], &peer, Limit::None)
    };
    let (private, resident) = (row("memory of its own", 0), row("with the code that is mapped", 1));
    Ok(vec![
        private,
        Row::alone("… more of its own than before", "MiB", &grown, Limit::Own(LIMIT_MIB)),
        resident,
    ])
}

/// Applies manifests without waiting for them.
async fn declare(capsule: &Capsule<'_>, manifests: &str) -> Result<()> {
    capsule.fleetctl_with(&["apply", "-f", "-"], manifests.as_bytes()).await?.ok().map(drop)
}

/// A workload that has a place in the fabric and never runs: there is no such image.
fn idle(name: &str, field: &str, references: &[String]) -> String {
    let references = serde_json::json!(references);
    format!(
        "kind: Container\nname: {name}\ncontainer:\n  image: localhost/none:1\n  fabric: {{ {field}: {references} }}\n"
    )
}
