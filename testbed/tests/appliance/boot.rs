//! From power-on to a capsule that runs what it ran before.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    scenario::{FOREVER, Fleet, echo, eventually, shell},
    substrate::Hardware,
};

use crate::keeper::{fill, is_as_before, write};

/// For workloads to start after a boot, emulated, and for a handshake.
const REACH_LIMIT: Duration = Duration::from_mins(2);

/// Over the kernel's WireGuard: a workload reaches one of another capsule. So it does when that has started
/// again, in a network where nobody gives out addresses any more.
async fn are_one_fabric(fleet: &Fleet) -> Result<()> {
    fleet.enroll_all().await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    a.apply(&shell("client", FOREVER, "  fabric: { allowTo: ['db@b:8080'] }\n")).await?;
    b.apply(&echo("db", "  fabric: { allowFrom: ['client@a:8080'] }\n")).await?;
    for name in fleet.names() {
        let status =
            fleet.capsule(&name).fleetctl(&["fabric", "status", "-o", "json"]).await?.ok()?.json()?;
        ensure!(status["result"]["membership"]["wireguard"] == "WIREGUARD_KIND_KERNEL", "{name}: {status}");
    }
    let fetch = ["busybox", "timeout", "5", "wget", "-q", "-O", "-", "http://db.b.fabric:8080/"];
    let reaches = || eventually(REACH_LIMIT, async || a.exec("client", &fetch).await?.ok().map(drop));
    reaches().await.context("no workload of a reaches one of b")?;

    fleet.stop_dhcp()?;
    fleet.vm("b").power_cycle().await?;
    b.wait_answers().await.context("it has lost its address")?;
    reaches().await.context("no workload of a reaches one of b since that started again")
}

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
    are_one_fabric(&fleet).await?;
    fleet.passed();
    Ok(())
}
