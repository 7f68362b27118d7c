//! A pool that is filled to its brim, and the disk that becomes larger then.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::{
    scenario::{Capsule, Fleet, eventually, shell},
    substrate::Hardware,
};

const GIB: u64 = 1 << 30;
/// Room for `/perm` and a pool of half a GiB.
const SMALL: u64 = 3 * GIB;
const LARGE: u64 = 6 * GIB;
const VOLUME: &str = "kind: Volume\nname: data\nsize: 4G\n---\n";
const MOUNTS: &str = "  stopGraceSeconds: 2\n  mounts: [{ volumeName: data, mountPath: /data }]\n";
/// As fast as it can, more than the small pool has, and none of it twice.
const WRITER: &str = "cd /data; [ -f seed ] || { dd if=/dev/urandom of=new bs=1M count=16; sync; mv new seed; }; \
                      for i in $(seq 48); do cmp -s seed $i || cp seed $i; done; sync; echo all; \
                      trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
/// Emulated, with much else to do beside.
const LIMIT: Duration = Duration::from_mins(4);

fn bytes(of: &Value, name: &str) -> Result<u64> {
    let number = of[name].as_u64().or_else(|| of[name].as_str()?.parse().ok());
    number.with_context(|| format!("{name} is not in {of}"))
}

async fn until(capsule: &Capsule<'_>, phase: &str) -> Result<Value> {
    eventually(LIMIT, async || {
        let writer = capsule.workload("writer").await?;
        ensure!(writer["status"]["phase"] == phase, "{writer}");
        Ok(writer["status"].clone())
    })
    .await
}

#[tokio::test]
async fn a_pool_filled_to_its_brim_damages_nothing_and_grows_with_its_disk() -> Result<()> {
    let started = Instant::now();
    let took = |what: &str| eprintln!("{:5.1} s: {what}", started.elapsed().as_secs_f64());
    let hardware = Hardware { system_bytes: SMALL, ..Hardware::built()?.without_tpm() };
    let fleet = Fleet::builder(1).qemu(hardware).start().await?;
    let a = fleet.capsule("a");
    took("adopted");
    let info = a.shown(&["capsule", "info"]).await?;
    ensure!(info["capabilities"].to_string().contains("volume/lvm"), "{info}");
    let small = bytes(&info["pool"], "dataBytes")?;
    let idle = a.fleetctl(&["capsule", "grow-disk"]).await?.ok()?;
    ensure!(idle.stdout.contains("used whole already"), "{}", idle.stdout);

    a.apply(&format!("{VOLUME}{}", shell("writer", WRITER, MOUNTS))).await?;
    let volume = a.shown(&["volume", "get", "data"]).await?;
    ensure!(volume["backend"] == "lvm", "{volume}");
    let status = until(&a, "PHASE_PAUSED").await?;
    ensure!(status["reason"].to_string().contains("grow-disk"), "{status}");
    took("paused");
    let more = a.fleetctl(&["volume", "create", "more", "1G"]).await?;
    ensure!(more.code != 0 && more.stderr.contains("grow-disk"), "{} {}", more.stdout, more.stderr);

    // What is full stays so over a power failure, and nothing that writes is started.
    fleet.vm("a").power_cycle().await?;
    a.wait_answers().await?;
    a.wait_healthy().await?;
    until(&a, "PHASE_PENDING").await?;
    took("full after a power failure");

    fleet.vm("a").grow_disk("system", LARGE).await?;
    let grown = a.shown(&["capsule", "grow-disk"]).await?;
    took("grown");
    let (before, after) = (&grown["before"], &grown["after"]);
    ensure!(bytes(after, "diskBytes")? == LARGE, "{grown}");
    ensure!(bytes(after, "groupBytes")? > bytes(before, "groupBytes")? + 2 * GIB, "{grown}");
    ensure!(bytes(after, "poolBytes")? > small + GIB, "{grown}");
    let again = a.fleetctl(&["capsule", "grow-disk"]).await?.ok()?;
    ensure!(again.stdout.contains("used whole already"), "{}", again.stdout);

    until(&a, "PHASE_RUNNING").await?;
    eventually(LIMIT, async || {
        ensure!(a.logs("writer").await?.lines().any(|line| line == "all"), "it has not written all");
        Ok(())
    })
    .await?;
    took("all is written");
    let same = "cd /data; for i in $(seq 48); do cmp seed $i || exit 1; done; grep ' /data ' /proc/mounts";
    let mount = a.exec("writer", &["sh", "-c", same]).await?.ok()?.stdout;
    ensure!(mount.contains("rw,") && mount.contains("discard"), "{mount}");
    took("and whole");
    fleet.passed();
    Ok(())
}
