//! From power-on to a capsule that runs what it ran before.

use std::time::Instant;

use anyhow::{Result, ensure};
use testbed::{scenario::Fleet, substrate::Hardware};

use crate::keeper::{fill, is_as_before, write};

#[tokio::test]
async fn three_capsules_are_adopted_and_what_they_run_survives_reboot_and_power_cut() -> Result<()> {
    let started = Instant::now();
    let fleet = Fleet::builder(3).qemu(Hardware::built()?).start().await?;
    eprintln!("three capsules, adopted and with images: {:.1} s", started.elapsed().as_secs_f64());
    for name in fleet.names() {
        fill(&fleet.capsule(&name)).await?;
        fleet.expect_reachable(&format!("web@{name}"), 8080).await?;
    }
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    for capsule in [&a, &b] {
        write(capsule, "first").await?;
    }

    fleet.vm("a").power_cycle().await?;
    fleet.vm("b").power_down().await?;
    fleet.vm("b").power_on().await?;
    for capsule in [&a, &b] {
        is_as_before(capsule, "first\n").await?;
        write(capsule, "second").await?;
    }
    fleet.expect_reachable("web@a", 8080).await?;
    fleet.expect_reachable("web@b", 8080).await?;

    // The third has seen nothing of it.
    ensure!(fleet.vm("c").look().await?.resets.is_empty());
    fleet.expect_reachable("web@c", 8080).await?;
    fleet.passed();
    Ok(())
}
