//! A fleet becomes a fabric.

use std::time::Instant;

use anyhow::Result;

use crate::{
    bench::{
        Effort,
        report::{Limit, Row},
        stats::Samples,
    },
    scenario::Fleet,
};

const CAPSULES: usize = 32;
const ROUNDS: usize = 5;
const LIMIT_MS: f64 = 3000.0;

/// The whole command: keys fetched, map signed, sent to everybody, applied by everybody.
pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::builder(CAPSULES).without_images().start().await?;
    let mut samples = Samples::default();
    for round in 0..effort.rounds(ROUNDS) {
        if round > 0 {
            fleet.fleetctl(&["--all", "fabric", "reset", "--yes"]).await?.ok()?;
        }
        fleet.fleetctl(&["fabric", "init", "--forget"]).await?.ok()?;
        let since = Instant::now();
        fleet.fleetctl(&["--all", "fabric", "enroll", "--yes"]).await?.ok()?;
        samples.push(since.elapsed().as_secs_f64() * 1000.0);
    }
    fleet.passed();
    let what = format!("fabric enroll of {CAPSULES}");
    Ok(vec![Row::alone(&what, "ms", &samples, Limit::Own(LIMIT_MS))])
}
