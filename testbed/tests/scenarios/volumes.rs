//! Volumes: what they keep, who may have them, and how they end.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::{
    fixtures,
    scenario::{Capsule, Fleet, eventually, http_get},
    sys,
};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(20);

fn volume(name: &str, size: &str) -> String {
    format!("kind: Volume\nname: {name}\nsize: {size}\n---\n")
}

/// The echo program, which counts visits in a volume.
fn counter(name: &str, port: u16, volume: &str, rest: &str) -> String {
    format!(
        "kind: Container\nname: {name}\ncontainer:\n  image: {}\n  stopGraceSeconds: 2\n  \
         ports: [{{ containerPort: 8080, hostPort: {port} }}]\n  \
         mounts: [{{ volumeName: {volume}, mountPath: /data }}]\n{rest}",
        fixtures::ECHO
    )
}

fn shell(name: &str, volumes: &[&str]) -> String {
    let mount = |volume: &&str| format!("    - {{ volumeName: {volume}, mountPath: /mnt/{volume} }}\n");
    let mounts: String = volumes.iter().map(mount).collect();
    format!(
        "kind: Container\nname: {name}\ncontainer:\n  image: {}\n  command: [sleep, '1000']\n  \
         stopGraceSeconds: 1\n  mounts:\n{mounts}",
        fixtures::BUSYBOX
    )
}

async fn shown(capsule: &Capsule<'_>, name: &str) -> Result<Value> {
    let mut rows = capsule.fleetctl(&["volume", "get", name, "-o", "json"]).await?.ok()?.json()?;
    let row = if rows.is_array() { rows[0].take() } else { rows };
    Ok(row.get("result").cloned().unwrap_or(row))
}

fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

fn file_of(capsule: &Capsule<'_>, volume: &str) -> PathBuf {
    capsule.state_dir().join(format!("volumes/{volume}.img"))
}

/// Loop devices over files of this capsule.
fn loops(capsule: &Capsule<'_>) -> Result<Vec<String>> {
    let devices = fs::read_dir("/sys/block")?.flatten();
    let files = devices.filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok());
    let dir = capsule.state_dir().display().to_string();
    Ok(files.filter(|file| file.starts_with(&dir)).collect())
}

/// Holds that nothing mounts the volume, no loop device has it, and its file system needs no check.
fn expect_put_away(capsule: &Capsule<'_>, volume: &str) -> Result<()> {
    let mounts = sys::disk::mounts_below(&capsule.state_dir().join("volumes"))?;
    ensure!(mounts.is_empty(), "still mounted: {mounts:?}");
    let loops = loops(capsule)?;
    ensure!(loops.is_empty(), "loop devices are left: {loops:?}");
    let file = file_of(capsule, volume);
    let header = sys::run(std::process::Command::new("dumpe2fs").arg("-h").arg(&file), "")?;
    let state = header.lines().find(|line| line.starts_with("Filesystem state:")).context("no state")?;
    ensure!(state.ends_with(" clean") && !header.contains("needs_recovery"), "{header}");
    sys::run(std::process::Command::new("e2fsck").args(["-fn"]).arg(&file), "").map(drop)
}

#[tokio::test]
async fn a_volume_outlives_workload_agent_and_containerd_and_is_put_away_cleanly() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let address = fleet.address("a", 8080)?;
    let visits = async |expected: u32| {
        let visit = tokio::task::spawn_blocking(move || http_get(address, "/visits")).await??;
        ensure!(visit.trim() == expected.to_string(), "visit {expected} was counted as {visit}");
        Ok(())
    };
    a.apply(&(volume("data", "64M") + &counter("w", 8080, "data", ""))).await?;
    visits(1).await?;
    a.apply(&(volume("data", "64M") + &counter("w", 8080, "data", "  env: { NEW: yes }\n"))).await?;
    visits(2).await?;
    a.restart_agent().await?;
    a.wait_healthy().await?;
    visits(3).await?;
    a.kill_containerd()?;
    visits(4).await?;
    eventually(LIMIT, async || a.fleetctl(&["workload", "restart", "w"]).await?.ok().map(drop)).await?;
    eventually(LIMIT, async || {
        a.wait_running("w").await?;
        visits(5).await
    })
    .await?;

    let data = shown(&a, "data").await?;
    ensure!(data["mountedBy"] == serde_json::json!(["w"]), "{data}");
    ensure!(number(&data["sizeBytes"]) == 64 * MIB, "{data}");
    let used = number(&data["usedBytes"]);
    ensure!(used > 0 && used < 32 * MIB, "{data}");
    let table = a.fleetctl(&["volume", "list"]).await?.ok()?.stdout;
    ensure!(table.contains("MOUNTED BY") && table.contains('w'), "{table}");

    let second = a.apply_err(&counter("x", 8081, "data", "")).await?;
    ensure!(second.contains("workload w") && second.contains("read-write"), "{second}");
    let mounted = a.fleetctl(&["volume", "delete", "data", "--force"]).await?;
    ensure!(mounted.code != 0 && mounted.stderr.contains("mounted by w"), "{mounted:?}");

    a.kill_agent()?;
    a.start_agent().await?;
    a.fleetctl(&["workload", "stop", "w"]).await?.ok()?;
    a.wait_phase("w", "PHASE_STOPPED").await?;
    eventually(LIMIT, async || expect_put_away(&a, "data")).await?;
    let named = a.fleetctl(&["volume", "delete", "data"]).await?;
    ensure!(
        named.code != 0 && named.stderr.contains("workload w") && named.stderr.contains("--force"),
        "{named:?}"
    );
    a.fleetctl(&["workload", "start", "w"]).await?.ok()?;
    a.wait_running("w").await?;
    visits(6).await?;
    a.delete("w").await?;
    eventually(LIMIT, async || expect_put_away(&a, "data")).await?;
    a.fleetctl(&["volume", "delete", "data"]).await?.ok()?;
    ensure!(!file_of(&a, "data").exists());
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_full_volume_hurts_nobody_else_and_grows_but_never_shrinks() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&(volume("small", "32M") + &volume("other", "32M") + &shell("w", &["small", "other"]))).await?;
    let fill = a.exec("w", &["dd", "if=/dev/zero", "of=/mnt/small/fill", "bs=1M", "count=64"]).await?;
    ensure!(fill.code != 0 && fill.stderr.contains("No space left"), "{fill:?}");
    a.exec("w", &["sh", "-c", "echo fine > /mnt/other/file && sync"]).await?.ok()?;
    a.wait_running("w").await?;
    let full = shown(&a, "small").await?;
    ensure!(number(&full["usedBytes"]) > 20 * MIB, "{full}");

    let shrink = a.fleetctl(&["volume", "resize", "small", "16M"]).await?;
    ensure!(
        shrink.code != 0 && shrink.stderr.contains("a volume never shrinks: small has 32MiB, and 16MiB"),
        "{shrink:?}"
    );
    let said = "15MiB is too small for a volume, which has 16MiB to 15TiB";
    let created = a.fleetctl(&["volume", "create", "tiny", "15M"]).await?.expect_code(2)?;
    let declared = a.apply_err(&volume("tiny", "15M")).await?;
    ensure!(created.stderr.contains(said) && declared.contains(said), "{created:?}\n{declared}");
    let resized = a.fleetctl(&["volume", "resize", "small", "96M"]).await?.ok()?;
    let now = shown(&a, "small").await?;
    // Without CAP_SYS_RESOURCE the kernel grows no mounted file system; then it must say so.
    if now["error"].as_str().is_some_and(|error| !error.is_empty()) {
        ensure!(resized.stdout.contains("stop the workload"), "{resized:?}");
        ensure!(a.events().await?.contains("ResizeDeferred"));
        a.fleetctl(&["workload", "stop", "w"]).await?.ok()?;
        a.wait_phase("w", "PHASE_STOPPED").await?;
        a.fleetctl(&["workload", "start", "w"]).await?.ok()?;
        a.wait_running("w").await?;
    }
    eventually(LIMIT, async || {
        let room = ["sh", "-c", "df -k /mnt/small | tail -n 1 | awk '{print $2}'"];
        let blocks = a.exec("w", &room).await?.ok()?.stdout;
        ensure!(blocks.trim().parse::<u64>()? > 64 * 1024, "it still has {blocks} KiB");
        Ok(())
    })
    .await?;
    let grown = shown(&a, "small").await?;
    ensure!(grown["error"].as_str().unwrap_or_default().is_empty(), "{grown}");
    ensure!(a.exec("w", &["cat", "/mnt/other/file"]).await?.ok()?.stdout == "fine\n");
    ensure!(a.exec("w", &["ls", "/mnt/small"]).await?.ok()?.stdout.contains("fill"), "growing lost a file");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn twenty_volumes_at_once_are_mounted_and_put_away() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let names: Vec<String> = (0..20).map(|at| format!("v{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let volumes: String = names.iter().map(|name| volume(name, "16M")).collect();
    a.apply(&(volumes + &shell("w", &names))).await?;
    ensure!(loops(&a)?.len() == 20, "{:?}", loops(&a)?);
    let write = "for v in /mnt/*; do echo $v > $v/own || exit 1; done; cat /mnt/*/own | sort | uniq | wc -l";
    let written = a.exec("w", &["sh", "-c", write]).await?.ok()?;
    ensure!(written.stdout.trim() == "20", "volumes are mixed up: {written:?}");
    a.fleetctl(&["workload", "delete", "w"]).await?.ok()?;
    eventually(LIMIT, async || expect_put_away(&a, "v19")).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn kill_9_while_volumes_are_made_and_grown_leaves_none_half_done() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    for (round, pause) in [0_u64, 10, 25, 50, 80, 120].into_iter().enumerate() {
        let name = format!("v{round}");
        let verbs: [&[&str]; 2] = [
            &["volume", "create", &name, "64M"],
            &["volume", "resize", "grows", &format!("{}M", 64 + 16 * round)],
        ];
        if round == 0 {
            a.fleetctl(&["volume", "create", "grows", "32M"]).await?.ok()?;
        }
        let calls = verbs.map(|words| a.fleetctl(words));
        let kill = async {
            tokio::time::sleep(Duration::from_millis(60 + pause)).await;
            a.kill_agent()
        };
        let [create, resize] = calls;
        let (_, _, killed) = tokio::join!(create, resize, kill);
        killed?;
        a.start_agent().await?;
        a.wait_healthy().await?;
        expect_sane(&a).await?;
    }
    let grows = shown(&a, "grows").await?;
    ensure!(number(&grows["sizeBytes"]) >= 32 * MIB, "{grows}");
    a.fleetctl(&["volume", "create", "v5", "64M"]).await?.ok()?;
    fleet.passed();
    Ok(())
}

/// Every volume is whole, every file is a volume's, and no loop device is left.
async fn expect_sane(capsule: &Capsule<'_>) -> Result<()> {
    let rows = capsule.fleetctl(&["volume", "list", "-o", "name"]).await?.ok()?.stdout;
    let known: BTreeSet<String> = rows.lines().map(|name| format!("{name}.img")).collect();
    let files: BTreeSet<String> = fs::read_dir(capsule.state_dir().join("volumes"))?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.strip_suffix(".img").is_some())
        .collect();
    ensure!(known == files, "volumes {known:?}, files {files:?}");
    for name in rows.lines() {
        let one = shown(capsule, name).await?;
        ensure!(one["error"].as_str().unwrap_or_default().is_empty(), "{one}");
        let file = file_of(capsule, name);
        ensure!(
            fs::metadata(&file)?.len() == number(&one["sizeBytes"]),
            "{one} has another size on the disk"
        );
        eventually(LIMIT, async || expect_put_away(capsule, name)).await?;
    }
    Ok(())
}
