//! From power-on to a capsule that runs what it ran before.

use std::time::Instant;

use anyhow::{Result, ensure};
use testbed::{
    scenario::{Capsule, FOREVER, Fleet, echo, shell},
    substrate::Hardware,
};

const WEB: &str = "  ports: [{ containerPort: 8080, hostPort: 8080 }]\n";
const KEPT: &str = "  mounts: [{ volumeName: data, mountPath: /data }]\n";
const VOLUME: &str = "kind: Volume\nname: data\nsize: 64M\n---\n";

/// Writes a line that must be there whatever happens to the power from now on.
async fn write(capsule: &Capsule<'_>, line: &str) -> Result<()> {
    let script = format!("echo {line} >>/data/lines; sync");
    capsule.exec("keeper", &["sh", "-c", &script]).await?.ok().map(drop)
}

/// It answers its operator, runs what it ran, and has kept `lines`.
async fn is_as_before(capsule: &Capsule<'_>, lines: &str) -> Result<()> {
    let started = Instant::now();
    capsule.wait_answers().await?;
    eprintln!(
        "{}: {:.1} s from its power or reset to its API",
        capsule.name(),
        started.elapsed().as_secs_f64()
    );
    capsule.wait_healthy().await?;
    for workload in ["web", "keeper"] {
        capsule.wait_running(workload).await?;
    }
    let kept = capsule.exec("keeper", &["cat", "/data/lines"]).await?.ok()?.stdout;
    ensure!(kept == lines, "{} has {kept:?}", capsule.name());
    Ok(())
}

#[tokio::test]
async fn three_capsules_are_adopted_and_what_they_run_survives_reboot_and_power_cut() -> Result<()> {
    let started = Instant::now();
    let fleet = Fleet::builder(3).qemu(Hardware::built()?).start().await?;
    eprintln!("three capsules, adopted and with images: {:.1} s", started.elapsed().as_secs_f64());
    for name in fleet.names() {
        fleet.capsule(&name).apply(&echo("web", WEB)).await?;
        fleet.expect_reachable(&format!("web@{name}"), 8080).await?;
    }
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    for capsule in [&a, &b] {
        capsule.apply(&format!("{VOLUME}{}", shell("keeper", FOREVER, KEPT))).await?;
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

    fleet.vm("a").panic().await?;
    fleet.vm("a").wait_resets(1).await?;
    is_as_before(&a, "first\nsecond\n").await?;
    // The third has seen nothing of it.
    ensure!(fleet.vm("c").look().await?.resets.is_empty());
    fleet.expect_reachable("web@c", 8080).await?;
    fleet.passed();
    Ok(())
}
