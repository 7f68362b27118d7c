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

/// Capsules and installers are heard as what they are, and neither is taken for the other.
async fn are_told_apart(fleet: &Fleet) -> Result<()> {
    let heard = discovered(fleet, &["--wait-for", "5"]).await?;
    let count = |mode: &str| heard.iter().filter(|row| row["result"]["announced"]["mode"] == mode).count();
    ensure!(count("appliance") == 3 && count("installer") == 2, "{heard:?}");
    ensure!(discovered(fleet, &["--installers", "--wait-for", "2"]).await?.len() == 2);
    let (a, d) = (fleet.capsule("a").api()?.to_string(), fleet.capsule("d").api()?.to_string());
    let refusal = fleet.fleetctl(&["adopt", &d, "--yes"]).await?.expect_code(1)?.stderr;
    ensure!(refusal.contains("fleetctl install"), "{refusal}");
    let refusal = fleet.fleetctl(&["install", &a, "--name", "f", "--yes"]).await?.expect_code(1)?.stderr;
    ensure!(refusal.contains("is no installer"), "{refusal}");
    Ok(())
}

/// It comes up from the disk that it was installed to, without the stick, and is whom it was taken for.
async fn starts_from_its_disk(capsule: &Capsule<'_>) -> Result<()> {
    let machine = capsule.vm();
    let pin = fingerprint(capsule).await?;
    machine.pull_disk("system").await?;
    machine.power_cycle().await?;
    capsule.wait_answers().await?;
    capsule.wait_healthy().await?;
    ensure!(fingerprint(capsule).await? == pin);
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
    let stick = Hardware::built()?.without_tpm().stick(&[16 * GIB, 8 * GIB]);
    let fleet = Fleet::builder(1).qemu(stick.clone()).machine("a", stick).without_images().start().await?;
    let (a, machine) = (fleet.capsule("a"), fleet.vm("a"));
    a.wait_answers().await?;
    eprintln!("an installer: {:.1} s", started.elapsed().as_secs_f64());

    refuses(&fleet, &a).await?;

    let before = machine.console()?;
    let (cut, first) = tokio::join!(
        async {
            machine.wait_console(&before, "copying (").await?;
            machine.cut_power().await
        },
        install(&fleet, &a, &["--yes", "--target", "data-1"])
    );
    cut?;
    first?.expect_code(1)?;
    machine.power_on().await?;
    a.wait_answers().await?;
    let again = install_typing(&fleet, &a, "y\ndata-1\n").await?;
    ensure!(again.code == 0 && again.stdout.contains("cut short"), "{}", again.stdout);
    eprintln!("installed: {:.1} s", again.elapsed.as_secs_f64());

    let info = a.shown(&["capsule", "info"]).await?;
    ensure!(info["mode"] == "MODE_APPLIANCE" && info["hostname"] == "a", "{info}");
    starts_from_its_disk(&a).await?;
    for archive in fixtures::ensure_archives(&fleet.dir().join("images"))? {
        let archive = archive.display().to_string();
        a.fleetctl(&["image", "push", &archive]).await?.ok()?;
    }
    a.apply(&echo("web", WEB)).await?;
    fleet.expect_reachable("web@a", 8080).await?;

    machine.cut_power().await?;
    let other = std::fs::metadata(machine.disk("data-2").await?.path())?;
    ensure!(other.blocks() == 0, "the other disk was written: {} blocks", other.blocks());
    eprintln!("all of it: {:.1} s", started.elapsed().as_secs_f64());
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn two_installers_beside_three_capsules_are_heard_and_install_at_once_and_once_more() -> Result<()> {
    let started = Instant::now();
    let took = |what: &str| eprintln!("{what}: {:.1} s", started.elapsed().as_secs_f64());
    let (disk, stick) =
        (Hardware::built()?.without_tpm(), Hardware::built()?.without_tpm().stick(&[8 * GIB]));
    let builder = Fleet::builder(5).qemu(disk.clone()).machine("c", disk.fixed_address());
    let fleet = builder.machine("d", stick.clone()).machine("e", stick).without_images().start().await?;
    let (d, e) = (fleet.capsule("d"), fleet.capsule("e"));
    tokio::try_join!(d.wait_answers(), e.wait_answers())?;
    took("three capsules and two installers");
    let running = ["debug", "--", "sh", "-c", "cat /proc/cmdline /proc/[0-9]*/comm"];
    let told = fleet.capsule("c").fleetctl(&running).await?.ok()?.stdout;
    ensure!(
        told.contains("capsule.net=static") && !told.contains("dhcpcd"),
        "c asks for its address: {told}"
    );
    are_told_apart(&fleet).await?;
    for name in ["a", "b", "c"] {
        fleet.vm(name).cut_power().await?;
    }

    let (first, second) = tokio::try_join!(install(&fleet, &d, &["--yes"]), install(&fleet, &e, &["--yes"]))?;
    first.ok()?;
    second.ok()?;
    took("both are installed");
    tokio::try_join!(starts_from_its_disk(&d), starts_from_its_disk(&e))?;
    took("and have started from their disks");

    // The stick comes back, to begin anew on what it has installed.
    fleet.vm("e").cut_power().await?;
    let (machine, pin) = (fleet.vm("d"), fingerprint(&d).await?);
    machine.cut_power().await?;
    machine.plug_disk("system").await?;
    machine.power_on().await?;
    d.wait_answers().await?;
    let words = ["install", &d.api()?.to_string(), "--name", "f", "--yes", "--target", "data-1"];
    let refusal = fleet.fleetctl(&words).await?.expect_code(2)?.stderr;
    ensure!(refusal.contains("--reinstall erases"), "{refusal}");
    install(&fleet, &d, &["--yes", "--target", "data-1", "--reinstall"]).await?.ok()?;
    took("d is installed once more");
    ensure!(fingerprint(&d).await? != pin, "it is the same capsule still");
    fleet.passed();
    Ok(())
}
