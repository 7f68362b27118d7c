//! From a USB stick to a capsule on an internal disk.

use std::{os::unix::fs::MetadataExt as _, process::Stdio, time::Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::{
    fixtures,
    scenario::{Capsule, Fleet, Output, echo, on_a_terminal},
    substrate::Hardware,
    sys::{self, netns},
};
use tokio::process::Command;

const GIB: u64 = 1 << 30;
const WEB: &str = "  ports: [{ containerPort: 8080, hostPort: 8080 }]\n";
/// Where the capsules' bridge is, in the namespace of their hub.
const BRIDGE: &str = "br0";

/// Mode and standing of everybody who is heard of, as `fleetctl discover` tells it there.
async fn discovered(fleet: &Fleet, words: &[&str]) -> Result<Vec<Value>> {
    let mut command = netns::command(&fleet.testbed().plan().hub(), sys::program("fleetctl")?);
    command.env("FLEETCTL_CONFIG", fleet.operator().config());
    command.args(["discover", "--interface", BRIDGE, "--timeout", "2m", "-o", "json"]).args(words);
    let output = Command::from(command).stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// `fleetctl install` of the machine of `capsule`, which is called the same.
async fn install(fleet: &Fleet, capsule: &Capsule<'_>, words: &[&str]) -> Result<Output> {
    let api = capsule.api()?.to_string();
    let words: Vec<&str> = ["install", &api, "--name", capsule.name()].iter().chain(words).copied().collect();
    fleet.fleetctl(&words).await
}

/// The same on a terminal, where `typed` is typed.
async fn install_typing(fleet: &Fleet, capsule: &Capsule<'_>, typed: &str) -> Result<Output> {
    let program = sys::program("fleetctl")?;
    let line =
        format!("{} install {} --name {} --target data-1", program.display(), capsule.api()?, capsule.name());
    let mut script = Command::new("script");
    script.env("FLEETCTL_CONFIG", fleet.operator().config());
    on_a_terminal(script, line, typed).await
}

async fn fingerprint(capsule: &Capsule<'_>) -> Result<String> {
    let shown = capsule.shown(&["capsule", "info"]).await?;
    Ok(shown["fingerprint"].as_str().with_context(|| format!("{shown}"))?.to_owned())
}

/// A capsule and an installer are heard as what they are, and neither is taken for the other.
async fn are_told_apart(fleet: &Fleet) -> Result<()> {
    let heard = discovered(fleet, &["--wait-for", "2"]).await?;
    let modes: Vec<_> = heard.iter().filter_map(|row| row["result"]["announced"]["mode"].as_str()).collect();
    ensure!(modes.contains(&"appliance") && modes.contains(&"installer"), "{heard:?}");
    ensure!(discovered(fleet, &["--installers", "--wait-for", "1"]).await?.len() == 1);
    let (a, b) = (fleet.capsule("a").api()?.to_string(), fleet.capsule("b").api()?.to_string());
    let refusal = fleet.fleetctl(&["adopt", &b, "--yes"]).await?.expect_code(1)?.stderr;
    ensure!(refusal.contains("fleetctl install"), "{refusal}");
    let refusal = fleet.fleetctl(&["install", &a, "--name", "c", "--yes"]).await?.expect_code(1)?.stderr;
    ensure!(refusal.contains("is no installer"), "{refusal}");
    Ok(())
}

/// What it runs from, what cannot be chosen, and what nobody confirmed.
async fn refuses(fleet: &Fleet, installer: &Capsule<'_>) -> Result<()> {
    for (words, why) in [
        (&["--yes", "--target", "system"][..], "the installer runs from it"),
        (&["--yes"], "choose one with --target"),
        (&["--target", "data-1"], "--fingerprint"),
    ] {
        let refusal = install(fleet, installer, words).await?.expect_code(2)?.stderr;
        ensure!(refusal.contains(why), "{refusal}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stick_installs_a_capsule_that_comes_up_adopted_also_after_a_power_cut() -> Result<()> {
    let started = Instant::now();
    let stick = Hardware::built()?.stick(&[16 * GIB, 8 * GIB]);
    let fleet = Fleet::builder(2).qemu(Hardware::built()?).machine("b", stick).start().await?;
    let (b, machine) = (fleet.capsule("b"), fleet.vm("b"));
    b.wait_answers().await?;
    eprintln!("a capsule and an installer: {:.1} s", started.elapsed().as_secs_f64());

    are_told_apart(&fleet).await?;
    refuses(&fleet, &b).await?;

    let before = machine.console()?;
    let (cut, first) = tokio::join!(
        async {
            machine.wait_console(&before, "copying (").await?;
            machine.cut_power().await
        },
        install(&fleet, &b, &["--yes", "--target", "data-1"])
    );
    cut?;
    first?.expect_code(1)?;
    machine.power_on().await?;
    b.wait_answers().await?;
    let again = install_typing(&fleet, &b, "y\ndata-1\n").await?;
    ensure!(again.code == 0 && again.stdout.contains("cut short"), "{}", again.stdout);
    eprintln!("installed: {:.1} s", again.elapsed.as_secs_f64());

    let info = b.shown(&["capsule", "info"]).await?;
    ensure!(info["mode"] == "MODE_APPLIANCE" && info["hostname"] == "b", "{info}");
    let pin = fingerprint(&b).await?;
    machine.pull_disk("system").await?;
    machine.power_cycle().await?;
    b.wait_answers().await?;
    b.wait_healthy().await?;
    ensure!(fingerprint(&b).await? == pin);
    for archive in fixtures::ensure_archives(&fleet.dir().join("images"))? {
        let archive = archive.display().to_string();
        b.fleetctl(&["image", "push", &archive]).await?.ok()?;
    }
    b.apply(&echo("web", WEB)).await?;
    fleet.expect_reachable("web@b", 8080).await?;

    // The stick comes back beside what it has installed.
    machine.cut_power().await?;
    let other = std::fs::metadata(machine.disk("data-2").await?.path())?;
    ensure!(other.blocks() == 0, "the other disk was written: {} blocks", other.blocks());
    machine.plug_disk("system").await?;
    machine.power_on().await?;
    b.wait_answers().await?;
    let words = ["install", &b.api()?.to_string(), "--name", "c", "--yes", "--target", "data-1"];
    let refusal = fleet.fleetctl(&words).await?.expect_code(2)?.stderr;
    ensure!(refusal.contains("--reinstall erases"), "{refusal}");
    eprintln!("all of it: {:.1} s", started.elapsed().as_secs_f64());
    fleet.passed();
    Ok(())
}
