//! Hosts with a cgroup hierarchy for each controller, and hosts with one for all. The host of the
//! tests mostly has both, as all other stories see it.

use std::fs;

use anyhow::{Result, ensure};
use testbed::scenario::{Capsule, FOREVER, Fleet, shell};

const EACH: &str = "umount /sys/fs/cgroup/unified";
const ONE: &str = "umount --recursive /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup";

/// Kinds of hierarchies that a process sees.
fn kinds(pid: u32) -> Result<Vec<&'static str>> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
    let has = |kind: &&str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(*kind));
    Ok(["cgroup", "cgroup2"].into_iter().filter(has).collect())
}

/// A workload's life, with an agent that is killed in the midst of it.
async fn works(capsule: &Capsule<'_>, limits: &str) -> Result<()> {
    capsule.apply(&shell("w", FOREVER, limits)).await?;
    let pid = capsule.pid("w").await?;
    capsule.restart_agent().await?;
    capsule.wait_healthy().await?;
    ensure!(capsule.pid("w").await? == pid, "a restart of the agent disturbed the workload");
    ensure!(capsule.exec("w", &["echo", "there"]).await?.ok()?.stdout == "there\n");
    capsule.fleetctl(&["workload", "restart", "w"]).await?.ok()?;
    capsule.wait_running("w").await?;
    ensure!(capsule.pid("w").await? != pid, "it was not restarted");
    capsule.delete("w").await
}

#[tokio::test]
async fn a_capsule_works_on_a_host_with_either_kind_of_cgroup_hierarchy() -> Result<()> {
    if kinds(std::process::id())?.len() < 2 {
        eprintln!("this host has one kind alone: every other story is about it");
        return Ok(());
    }
    let fleet = Fleet::builder(2).mounts("a", EACH).mounts("b", ONE).start().await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    ensure!(kinds(a.agent()?.pid)? == ["cgroup"] && kinds(b.agent()?.pid)? == ["cgroup2"]);
    works(&a, "  resources: { memoryMib: 64, cpuMillis: 500, pidsMax: 50 }\n").await?;
    // Limits need controllers, and those of this host are with its other hierarchies.
    works(&b, "").await?;
    fleet.passed();
    Ok(())
}
