//! The appliance as a machine: from its power to its API, and what it takes of memory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use capsuled::agent::ANSWERS;
use tokio::process::Command;

use super::{
    Effort, race,
    report::{Limit, Row},
    stats::Samples,
};
use crate::{
    scenario::{Capsule, Fleet, Machine, eventually},
    substrate::Hardware,
    sys,
};

const ROUNDS: usize = 5;
const RATIO: f64 = 1.35;
const USED_MIB: f64 = 150.0;
const RESIDENT_MIB: f64 = 25.0;
/// For calls to be answered once something listens.
const CALL_LIMIT: Duration = Duration::from_mins(1);
/// After the API answers, for what a start does beside it.
const SETTLE: Duration = Duration::from_secs(30);
/// Where images and programs of the profile that this program is of are, and what that is called.
pub(super) const PROFILE: (&str, &str, &str) =
    if cfg!(debug_assertions) { ("image-dev", "debug", "dev") } else { ("image", "release", "release") };
/// What the firmware says when it hands over to the boot loader.
const LOADER: &str = "BdsDxe: starting";
/// What `testbed/bare` says.
const BARE: &str = "a bare system runs";
/// Seconds since the kernel's start, and the time, as a second of it begins; seconds when the kernel ran the
/// initramfs, when that had opened the root, and when the agent was started.
const STAGES: &str = "now=$(date +%s); while [ $(date +%s) = $now ]; do :; done; cut -d' ' -f1 /proc/uptime; \
                      date +%s; dmesg | grep -m1 'Run /init'; dmesg | grep -m1 'erofs: (device dm-'; \
                      for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$p/cmdline)\" in \
                      '/usr/sbin/capsuled agent '*) cut -d' ' -f22 $p/stat;; esac; done";
/// Kernel ticks of a process' start in a second (`USER_HZ`).
const TICKS: f64 = 100.0;
/// Resident, and of that its own, in KiB, of init and of the agent, which have forgotten by then that they
/// were asked.
const RESIDENT: &str = "sleep 25; for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$p/cmdline)\" in \
                        '/usr/sbin/capsuled init '|'/usr/sbin/capsuled agent '*) grep -E '^(VmRSS|RssAnon):' \
                        $p/status;; esac; done";

/// The image that `make image` has built.
pub(super) fn image() -> Result<PathBuf> {
    let image = sys::target_dir().join(PROFILE.0).join("capsule.img");
    ensure!(image.exists(), "there is no {}; `make image` builds it", image.display());
    Ok(image)
}

/// The same image with a program in the place of init that only says that it runs.
async fn bare_image() -> Result<PathBuf> {
    let output = sys::target_dir().join("image-bare");
    fs::create_dir_all(&output)?;
    build_image(&sys::program("bare")?, "0.0.1", &output).await?;
    Ok(output.join("capsule.img"))
}

/// The same image with another agent, and its bundle.
pub(super) async fn build_image(agent: &Path, version: &str, output: &Path) -> Result<()> {
    let target = sys::target_dir();
    let initramfs = target.join("static/x86_64-unknown-linux-gnu").join(PROFILE.1).join("capsule-initramfs");
    let mut build = Command::new(sys::program("capsule-images")?);
    build.arg("--agent").arg(agent).arg("--initramfs").arg(initramfs);
    build.args(["--image-version", version]).arg("--output").arg(output);
    build.arg("--cache").arg(target.join("image-cache")).kill_on_drop(true);
    let built = build.stdout(Stdio::null()).output().await.context("cannot run capsule-images")?;
    ensure!(built.status.success(), "no image: {}", String::from_utf8_lossy(&built.stderr));
    Ok(())
}

/// Power-on to API, beside the same kernel and initramfs with a bare system.
pub async fn boot(effort: Effort) -> Result<Vec<Row>> {
    let hardware = Hardware::of(image()?);
    let bare = Fleet::builder(1).qemu(Hardware::of(bare_image().await?)).unattended().start().await?;
    bare.vm("a").wait_console("", BARE).await?;
    bare.vm("a").cut_power().await?;
    // Its first boot makes the volume group, once.
    let fleet = Fleet::builder(1).qemu(hardware).without_images().start().await?;
    fleet.vm("a").power_down().await?;
    ask_often(&fleet)?;
    let (mut ours, mut peer, mut stages) = (Samples::default(), Samples::default(), Stages::default());
    for (round, at) in race::turns(effort.rounds(ROUNDS), 2) {
        if at == 0 {
            let took = start(&fleet, &mut stages, round > 0).await?;
            fleet.vm("a").power_down().await?;
            (round > 0).then(|| ours.push(took));
        } else {
            let vm = bare.vm("a");
            let (before, began) = (vm.console()?, Instant::now());
            vm.power_on().await?;
            vm.wait_console(&before, BARE).await?;
            (round > 0).then(|| peer.push(began.elapsed().as_secs_f64()));
            vm.cut_power().await?;
        }
    }
    fleet.passed();
    bare.passed();
    let peer = ("its kernel and initramfs, to a bare init".to_owned(), peer);
    let whole = Row::against("power-on to API of a capsule", "s", &ours, &peer, Limit::Ratio(RATIO));
    Ok(std::iter::once(whole).chain(stages.rows()).collect())
}

/// A host asks once a second who has an address, so that what is measured would be up to a second more than
/// what it took.
fn ask_often(fleet: &Fleet) -> Result<()> {
    let link = fleet.testbed().plan().operator_link();
    let file = format!("/proc/sys/net/ipv4/neigh/{link}/retrans_time_ms");
    fs::write(&file, "50").with_context(|| format!("cannot write {file}"))
}

/// One boot; seconds until its API answers.
async fn start(fleet: &Fleet, stages: &mut Stages, counts: bool) -> Result<f64> {
    let (vm, capsule) = (fleet.vm("a"), fleet.capsule("a"));
    let before = vm.console()?;
    let began = Instant::now();
    vm.power_on().await?;
    let (loader, answers) = tokio::join!(loaded(&vm, &before, began), async {
        wait_called(&capsule).await?;
        anyhow::Ok(began.elapsed().as_secs_f64())
    });
    let (loader, answers) = (loader?, answers?);
    if counts {
        let told = capsule.fleetctl(&["debug", "--", "sh", "-c", STAGES]).await?.ok()?.stdout;
        let log = capsule.fleetctl(&["capsule", "logs"]).await?.ok()?.stdout;
        stages.take(loader, answers, &told, &log)?;
    }
    Ok(answers)
}

/// Waits until a call of the operator is answered.
pub(super) async fn wait_called(capsule: &Capsule<'_>) -> Result<()> {
    capsule.wait_answers().await?;
    eventually(CALL_LIMIT, async || capsule.fleetctl(&["--timeout", "2s", "whoami"]).await?.ok().map(drop))
        .await
}

async fn loaded(vm: &Machine<'_>, before: &str, began: Instant) -> Result<f64> {
    vm.wait_console(before, LOADER).await?;
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds of each part of a boot.
#[derive(Default)]
struct Stages([Samples; 6]);

const STAGE_NAMES: [&str; 6] = [
    "firmware",
    "boot loader, and loading the kernel",
    "kernel",
    "initramfs",
    "init, to the agent's start",
    "agent, to an answered call",
];

impl Stages {
    fn take(&mut self, loader: f64, answers: f64, told: &str, log: &str) -> Result<()> {
        let lines: Vec<&str> = told.lines().collect();
        let [uptime, time, run, root, agent] = lines[..] else {
            anyhow::bail!("a capsule tells of its boot: {told}")
        };
        let stamp = |line: &str| -> Result<f64> {
            let time = line.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
            Ok(time.with_context(|| format!("no time in {line:?}"))?.0.trim().parse()?)
        };
        let (run, root, agent) = (stamp(run)?, stamp(root)?, agent.trim().parse::<f64>()? / TICKS);
        let said = log.lines().rfind(|line| line.contains(ANSWERS));
        let said =
            said.and_then(|line| line.split_whitespace().next()).context("the log has no such line")?;
        let started = time.trim().parse::<f64>()? - uptime.trim().parse::<f64>()?;
        let called = said.parse::<jiff::Timestamp>()?.as_duration().as_secs_f64() - started;
        let parts = [loader, answers - called - loader, run, root - run, agent - root, called - agent];
        self.0.iter_mut().zip(parts).for_each(|(samples, part)| samples.push(part));
        Ok(())
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        let row = |(name, samples): (&str, &Samples)| {
            Row::alone(&format!("of that, {name}"), "s", samples, Limit::None)
        };
        STAGE_NAMES.into_iter().zip(&self.0).map(row)
    }
}

/// What a capsule without workloads takes.
pub async fn memory(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::builder(1).qemu(Hardware::of(image()?)).without_images().start().await?;
    let capsule = fleet.capsule("a");
    let (mut used, mut resident, mut own) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..effort.rounds(ROUNDS) {
        fleet.vm("a").power_down().await?;
        fleet.vm("a").power_on().await?;
        capsule.wait_answers().await?;
        tokio::time::sleep(SETTLE).await;
        used.push(used_mib(&capsule).await?);
        let told = capsule.fleetctl(&["debug", "--", "sh", "-c", RESIDENT]).await?.ok()?.stdout;
        let sum = |field: &str| -> f64 {
            let lines = told.lines().filter_map(|line| line.strip_prefix(field));
            lines.filter_map(|line| line.split_whitespace().next()?.parse::<f64>().ok()).sum::<f64>() / 1024.0
        };
        resident.push(sum("VmRSS:"));
        own.push(sum("RssAnon:"));
    }
    fleet.passed();
    Ok(vec![
        Row::alone("memory of a capsule without workloads", "MiB", &used, Limit::Own(USED_MIB)),
        Row::alone("of that, init and agent, resident", "MiB", &resident, Limit::Own(RESIDENT_MIB)),
        Row::alone("of that, their own (anonymous)", "MiB", &own, Limit::None),
    ])
}

async fn used_mib(capsule: &Capsule<'_>) -> Result<f64> {
    let info = capsule.shown(&["capsule", "info"]).await?;
    let bytes = |field: &str| -> Result<f64> {
        let text = info[field].as_str().with_context(|| format!("no {field} in {info}"))?;
        Ok(text.parse()?)
    };
    Ok((bytes("memoryTotalBytes")? - bytes("memoryAvailableBytes")?) / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_boot_are_its_whole() {
        let mut stages = Stages::default();
        let told = "11.50\n1000\n[    2.500000] Run /init as init process\n\
                    [    5.25] erofs: (device dm-0): mounted\n700\n";
        let log = "1970-01-01T00:00:01Z INFO calls are answered\n1970-01-01T00:16:38.500Z INFO calls are answered\n";
        stages.take(6.0, 20.0, told, log).unwrap();
        let parts: Vec<f64> = stages.0.iter().map(Samples::median).collect();
        assert_eq!(parts, [6.0, 4.0, 2.5, 2.75, 1.75, 3.0]);
        assert!(stages.take(6.0, 20.0, "11.50\n", log).is_err());
        assert!(stages.take(6.0, 20.0, told, "").is_err());
    }
}
