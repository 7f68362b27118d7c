//! An update of the appliance: what of a bundle is sent, and how long nobody answers.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{net::TcpStream, process::Command, time};

use super::{
    Effort,
    appliance::{PROFILE, build_image, image, wait_called},
    race,
    report::{Limit, Row},
    stats::Samples,
};
use crate::{
    scenario::{Capsule, Fleet},
    substrate::{Hardware, qemu},
    sys,
};

const ROUNDS: usize = 3;
const SHARE_PERCENT: f64 = 25.0;
/// An update's boot does what any boot does, and looks into itself.
const RATIO: f64 = 1.2;
/// How often the capsule is tried, and how long each try may take.
const POLL: Duration = Duration::from_millis(100);
/// For an update to be written and begin its reboot, emulated; and for a boot.
const LIMIT: Duration = Duration::from_mins(5);

/// A bundle that differs in the agent only, in each of its functions: the same code, optimised otherwise.
async fn other_agent() -> Result<PathBuf> {
    let target = sys::target_dir();
    let (agent, output) = (target.join(PROFILE.1).join("capsuled"), target.join("image-other-agent"));
    fs::create_dir_all(&output)?;
    let copy = output.join("capsuled");
    compile(&["--config", &format!("profile.{}.package.capsuled.opt-level=1", PROFILE.2)]).await?;
    fs::copy(&agent, &copy).with_context(|| format!("cannot copy {}", agent.display()))?;
    compile(&[]).await?;
    build_image(&copy, "999.0.0", &output).await?;
    qemu::bundle_in(&output)
}

async fn compile(options: &[&str]) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--bins", "--profile", PROFILE.2]).args(options);
    cargo.current_dir(sys::target_dir().join("..")).kill_on_drop(true);
    let built = cargo.output().await.context("cannot run cargo")?;
    ensure!(built.status.success(), "`cargo build` failed: {}", String::from_utf8_lossy(&built.stderr));
    Ok(())
}

/// Bytes on the wire, and downtime beside that of a reboot that changes nothing.
pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    let (image, other) = (image()?, other_agent().await?);
    let first = qemu::bundle_in(&image.with_file_name(""))?;
    let fleet = Fleet::builder(1).qemu(Hardware::of(image)).without_images().start().await?;
    let capsule = fleet.capsule("a");
    let (mut updates, mut reboots, mut share) = (Samples::default(), Samples::default(), Samples::default());
    for (round, at) in race::turns(effort.rounds(ROUNDS), 2) {
        let took = if at == 0 {
            // Back and forth; from the second on, a capsule has both, and is sent next to nothing.
            let bundle = if round % 2 == 0 { &other } else { &first };
            let (sent, took) = tokio::try_join!(push(&capsule, bundle), downtime(&capsule))?;
            (round == 0).then(|| share.push(sent));
            took
        } else {
            let reboot = async { capsule.fleetctl(&["capsule", "reboot"]).await?.ok() };
            tokio::try_join!(reboot, downtime(&capsule))?.1
        };
        let samples = if at == 0 { &mut updates } else { &mut reboots };
        (round > 0).then(|| samples.push(took));
        capsule.wait_healthy().await?;
    }
    fleet.passed();
    let what = "update that differs in the agent only, of the bundle's bytes on the wire";
    let peer = ("a reboot".to_owned(), reboots);
    Ok(vec![
        Row::alone(what, "%", &share, Limit::Own(SHARE_PERCENT)),
        Row::against("downtime of an update", "s", &updates, &peer, Limit::Ratio(RATIO)),
    ])
}

/// One update that keeps itself, with one start of the machine; how much of the bundle was sent, in percent.
async fn push(capsule: &Capsule<'_>, bundle: &Path) -> Result<f64> {
    let starts = capsule.vm().look().await?.resets.len();
    let bundle = bundle.to_string_lossy();
    let words = ["update", "push", &bundle, "--force", "--allow-downgrade", "--auto-confirm", "1s"];
    let shown = capsule.shown(&words).await?;
    let bytes = |field: &str| shown[field].as_f64().with_context(|| format!("no {field} in {shown}"));
    let now = capsule.vm().look().await?.resets.len();
    ensure!(now == starts + 1, "an update started the machine {} times", now - starts);
    Ok(100.0 * bytes("sentBytes")? / bytes("bundleBytes")?)
}

/// Waits until nothing takes connections to the API any more, and until calls are answered again; seconds
/// from the last connection to the first answer.
async fn downtime(capsule: &Capsule<'_>) -> Result<f64> {
    let api = capsule.api()?;
    let answers = async || matches!(time::timeout(POLL, TcpStream::connect(api)).await, Ok(Ok(_)));
    let wait = async {
        let mut last = Instant::now();
        while answers().await {
            last = Instant::now();
            time::sleep(POLL).await;
        }
        wait_called(capsule).await?;
        anyhow::Ok(last.elapsed().as_secs_f64())
    };
    let waited = time::timeout(LIMIT, wait).await.map_err(anyhow::Error::from).flatten();
    waited.with_context(|| format!("{} was not away and back in time", capsule.name()))
}
