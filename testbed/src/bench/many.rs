//! 50 containers at once.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Effort,
    peer::ctr::Ctr,
    race::{Contestant, race},
    report::{Limit, Row},
};
use crate::{fixtures, scenario::Fleet};

const ROUNDS: usize = 5;
const COUNT: usize = 50;
/// What the agent does at once; `ctr` gets the same.
const AT_ONCE: usize = 4;

pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::netns(1).await?;
    let ctr = Ctr::start(&fleet).await?;
    let [_, echo] = fixtures::ensure_archives(&fleet.dir().join("images"))?;
    ctr.import(&echo).await?;
    let mut contestants =
        [Contestant::new("ours", |_| ours(&fleet)), Contestant::new("50 × ctr run --rm", |_| with_ctr(&ctr))];
    let results = race(effort.rounds(ROUNDS), &mut contestants).await?;
    drop(contestants);
    fleet.passed();
    let what = format!("{COUNT} applied at once, to all Running");
    Ok(vec![Row::against(&what, "ms", &results[0].1, &results[1], Limit::Ratio(1.3))])
}

async fn ours(fleet: &Fleet) -> Result<Duration> {
    let capsule = fleet.capsule("a");
    let manifest =
        |at| format!("kind: Container\nname: many-{at}\ncontainer: {{ image: {} }}\n", fixtures::ECHO);
    let manifests: Vec<String> = (0..COUNT).map(manifest).collect();
    let applied = capsule.apply(&manifests.join("---\n")).await?;
    let names: Vec<String> = (0..COUNT).map(|at| format!("many-{at}")).collect();
    let words: Vec<&str> =
        ["workload", "delete"].into_iter().chain(names.iter().map(String::as_str)).collect();
    capsule.fleetctl(&words).await?.ok()?;
    Ok(applied.elapsed)
}

async fn with_ctr(ctr: &Ctr) -> Result<Duration> {
    let started = Instant::now();
    let run = |at: usize| async move {
        ctr.run(fixtures::ECHO, &format!("many-{at}"), &["/echo", "exit", "0"]).await
    };
    stream::iter((0..COUNT).map(run)).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
    Ok(started.elapsed())
}
