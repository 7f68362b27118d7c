//! From `apply` of a workload on one capsule to its first connection to another's.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    bench::{
        Effort,
        report::{Limit, Row},
        stats::Samples,
    },
    scenario::{FOREVER, Fleet, shell},
    sys::netns,
};

const MEMBERS: usize = 8;
const ROUNDS: usize = 20;
const PORT: u16 = 7000;
/// Of the 95th percentile.
const LIMIT_MS: f64 = 1000.0;
/// Until a connection is given up.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Between two looks at who has connected.
const POLL: Duration = Duration::from_millis(1);

pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::netns(MEMBERS).await?;
    fleet.enroll_all().await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    b.apply(&shell("asked", FOREVER, &format!("  fabric: {{ allowFrom: ['caller@a:{PORT}'] }}\n"))).await?;
    b.wait_running("asked").await?;
    let listener = netns::inside_of(b.pid("asked").await?, || TcpListener::bind(("::", PORT)))??;
    listener.set_nonblocking(true)?;
    let calls = format!("until nc -w 1 asked.b.fabric {PORT} </dev/null; do :; done; {FOREVER}");
    let manifest = shell("caller", &calls, &format!("  fabric: {{ allowTo: ['asked@b:{PORT}'] }}\n"));
    let mut samples = Samples::default();
    for round in 0..=effort.rounds(ROUNDS) {
        let since = Instant::now();
        let (applied, met) = tokio::join!(a.apply(&manifest), connection(&listener));
        applied?;
        met?;
        if round > 0 {
            samples.push(since.elapsed().as_secs_f64() * 1000.0);
        }
        a.delete("caller").await?;
    }
    fleet.passed();
    let what = format!("apply to a first connection, {MEMBERS} members");
    Ok(vec![Row::alone(&what, "ms", &samples, Limit::OwnP95(LIMIT_MS))])
}

/// Waits for somebody to connect.
async fn connection(listener: &TcpListener) -> Result<()> {
    let since = Instant::now();
    while listener.accept().is_err() {
        (since.elapsed() < GIVE_UP).then_some(()).context("nobody connected")?;
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
