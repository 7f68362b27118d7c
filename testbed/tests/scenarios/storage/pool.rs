//! A pool that fills.

use std::path::Path;

use anyhow::{Result, ensure};
use capsuled::volume::group::ensure_group;
use testbed::{
    scenario::{Capsule, FOREVER, Fleet, eventually, shell},
    sys,
};

use super::disk::{Disk, expect_sound};

/// Room for `/perm` and a pool of a quarter of a GiB.
const DISK: u64 = 1360 << 20;
const WRITES: &str = "  stopGraceSeconds: 5\n  mounts: [{ volumeName: data, mountPath: /data }]\n";
const BALLAST: &str = "  restartPolicy: never\n  mounts: [{ volumeName: ballast, mountPath: /data }]\n";
const VOLUMES: &str =
    "kind: Volume\nname: data\nsize: 512M\n---\nkind: Volume\nname: ballast\nsize: 80M\n---\n";
/// Slower than the agent looks: it is to be paused with room left.
const WRITER: &str = "i=0; while :; do i=$((i+1)); dd if=/dev/zero of=/data/$i bs=1M count=1 conv=fsync 2>/dev/null; \
                      echo wrote $i; sleep 0.2; done";

async fn written(capsule: &Capsule<'_>) -> Result<usize> {
    Ok(capsule.logs("writer").await?.lines().count())
}

async fn refused(capsule: &Capsule<'_>, words: &[&str], why: &str) -> Result<()> {
    let output = capsule.fleetctl(words).await?;
    ensure!(
        output.code != 0 && output.stderr.contains(why),
        "{words:?}: {} {}",
        output.stdout,
        output.stderr
    );
    Ok(())
}

#[tokio::test]
#[ignore = "needs a kernel with device-mapper"]
async fn who_writes_is_paused_before_the_pool_is_full_and_goes_on_once_there_is_room() -> Result<()> {
    let disk = Disk::new(DISK)?;
    ensure_group(&disk.partition()).await?;
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    refused(&a, &["capsule", "grow-disk"], "host that somebody else booted").await?;
    a.restart_agent_with(&["--volume-group", &disk.partition().to_string_lossy()]).await?;

    let ballast = shell("filler", "dd if=/dev/zero of=/data/x bs=1M count=60 2>/dev/null; sync", BALLAST);
    a.apply(&format!("{VOLUMES}{ballast}---\n{}", shell("other", FOREVER, ""))).await?;
    a.wait_phase("filler", "PHASE_COMPLETED").await?;
    let other = a.pid("other").await?;
    a.apply(&shell("writer", WRITER, WRITES)).await?;
    let writer = a.pid("writer").await?;
    let limit = std::time::Duration::from_mins(4);
    let paused = eventually(limit, async || {
        let workload = a.workload("writer").await?;
        ensure!(workload["status"]["phase"] == "PHASE_PAUSED", "{workload}");
        Ok(workload)
    })
    .await?;
    ensure!(paused["status"]["reason"].as_str().is_some_and(|why| why.contains("grow-disk")), "{paused}");
    let info = a.fleetctl(&["capsule", "info"]).await?.ok()?;
    ensure!(info.stderr.contains("the pool of volumes is 9") && info.stdout.contains(" %)"), "{info:?}");
    let status = sys::run(std::process::Command::new("dmsetup").args(["status", "capsule-pool-tpool"]), "")?;
    ensure!(status.contains(" rw "), "it was full before: {status}");
    let events = a.events().await?;
    for (reason, times) in [("Filling", 1), ("Extended", 1), ("Full", 1), ("Paused", 1), ("Resumed", 0)] {
        let found = events.lines().filter(|line| line.split_whitespace().any(|word| word == reason)).count();
        ensure!(found == times, "{reason} was told {found} times:\n{events}");
    }
    refused(&a, &["volume", "create", "more", "16M"], "grow-disk").await?;
    refused(&a, &["volume", "resize", "data", "600M"], "grow-disk").await?;
    refused(&a, &["exec", "writer", "--", "true"], "is paused").await?;

    // Another agent finds it so, and leaves it so.
    let lines = written(&a).await?;
    a.restart_agent().await?;
    a.wait_phase("writer", "PHASE_PAUSED").await?;
    ensure!(written(&a).await? == lines, "it went on");
    ensure!(a.pid("other").await? == other && a.pid("writer").await? == writer, "they were started anew");

    a.delete("filler").await?;
    a.fleetctl(&["volume", "delete", "ballast"]).await?.ok()?;
    eventually(limit, async || {
        ensure!(written(&a).await? > lines, "it does not go on");
        Ok(())
    })
    .await?;
    ensure!(a.pid("writer").await? == writer, "it was started anew");
    a.fleetctl(&["workload", "stop", "writer"]).await?.ok()?;
    a.wait_phase("writer", "PHASE_STOPPED").await?;
    expect_sound(Path::new("/dev/mapper/capsule-vol--data"))?;
    ensure!(a.events().await?.contains("HasRoom"), "that there is room again was not told");
    fleet.passed();
    Ok(())
}
