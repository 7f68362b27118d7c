//! One question to 32 capsules, a fresh process each time, beside pdsh over ssh.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{
    Effort,
    peer::ssh::{Connections, Ssh},
    race::{Contestant, race},
    report::{Limit, Row},
};
use crate::scenario::Fleet;

const ROUNDS: usize = 10;
const CAPSULES: usize = 32;
/// How many of them are cut off in the last part.
const DEAD: usize = 4;

pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::builder(CAPSULES).without_images().start().await?;
    let ssh = Ssh::start(&fleet).await?;
    let rounds = effort.rounds(ROUNDS);
    let mut contestants = [
        Contestant::new("ours", |_| live_rows(&fleet, CAPSULES)),
        Contestant::new("pdsh, new connections", |_| ssh.pdsh(Connections::New)),
        Contestant::new("pdsh, open connections", |_| ssh.pdsh(Connections::Open)),
    ];
    let all = race(rounds, &mut contestants).await?;
    drop(contestants);
    ssh.close().await?;

    for name in fleet.names().iter().rev().take(DEAD) {
        fleet.capsule(name).partition()?;
    }
    let mut contestants = [Contestant::new("ours", |_| live_rows(&fleet, CAPSULES - DEAD))];
    let some = race(rounds, &mut contestants).await?;
    drop(contestants);
    fleet.passed();
    let alive = ("the same with all alive".to_owned(), all[0].1.clone());
    let what = format!("capsule info on {CAPSULES}");
    Ok(vec![
        Row::against(&what, "ms", &all[0].1, &all[1], Limit::Ratio(0.1)),
        Row::against(&what, "ms", &all[0].1, &all[2], Limit::Ratio(1.0)),
        Row::against(
            &format!("live rows, {DEAD} of {CAPSULES} dead"),
            "ms",
            &some[0].1,
            &alive,
            Limit::Ratio(1.2),
        ),
    ])
}

/// From the start of fleetctl until this many answers are on its stdout.
async fn live_rows(fleet: &Fleet, rows: usize) -> Result<Duration> {
    let started = Instant::now();
    let mut command = fleet.operator().command(&["--all", "capsule", "info"])?;
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("fleetctl has no stdout")?).lines();
    let mut seen = 0;
    while seen < rows {
        let line = lines.next_line().await?;
        let Some(line) = line else { break };
        seen += usize::from(line.starts_with("nuc-") && !line.contains("error:"));
    }
    let took = started.elapsed();
    ensure!(seen == rows, "fleetctl showed {seen} of {rows} live capsules");
    child.kill().await?;
    Ok(took)
}
