//! The appliance's image from packages that are fetched and programs that are built.

use std::{path::Path, process::Stdio, time::Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use super::{
    Effort,
    report::{Limit, Row},
    stats::Samples,
};
use crate::sys;

const ROUNDS: usize = 2;
const LIMIT_SECONDS: f64 = 180.0;
/// Builds as this program was built.
const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "release" };

pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    let top = sys::target_dir().join("..");
    // The first fills the cache, and builds what no other bench needs.
    make(&top).await?;
    let mut samples = Samples::default();
    for _ in 0..effort.rounds(ROUNDS) {
        let started = Instant::now();
        make(&top).await?;
        samples.push(started.elapsed().as_secs_f64());
    }
    Ok(vec![Row::alone("`make image` from a warm cache", "s", &samples, Limit::Own(LIMIT_SECONDS))])
}

async fn make(top: &Path) -> Result<()> {
    let mut make = Command::new("make");
    make.args(["-s", "image", &format!("PROFILE={PROFILE}")]).current_dir(top).kill_on_drop(true);
    let made = make.stdout(Stdio::null()).output().await.context("cannot run make")?;
    ensure!(made.status.success(), "`make image` failed: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}
