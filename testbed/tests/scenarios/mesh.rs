//! Fleets that are a fabric, and what stories ask of it.

use std::{net::IpAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::{
    scenario::{Capsule, FOREVER, Fleet, Output, echo, eventually, shell},
    sys::{self, netns, process::Process},
};

/// For a handshake on a machine that has much else to do: WireGuard tries again after 5 seconds.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// Capsules that are adopted and have no images: members need none.
pub async fn fleet(nodes: usize) -> Result<Fleet> {
    Fleet::builder(nodes).without_images().start().await
}

/// The same, all of them members of one fabric.
pub async fn mesh(nodes: usize) -> Result<Fleet> {
    enroll(fleet(nodes).await?).await
}

/// Makes all capsules of a fleet members of one fabric.
pub async fn enroll(fleet: Fleet) -> Result<Fleet> {
    fleet.enroll_all().await?;
    Ok(fleet)
}

/// What a capsule says of the fabric.
pub async fn status(capsule: &Capsule<'_>) -> Result<Value> {
    Ok(capsule.fleetctl(&["fabric", "status", "-o", "json"]).await?.ok()?.json()?["result"].clone())
}

/// What it says of its part in it.
pub async fn membership(capsule: &Capsule<'_>) -> Result<Value> {
    let status = status(capsule).await?;
    ensure!(status["membership"].is_object(), "{} is in no fabric: {status}", capsule.name());
    Ok(status["membership"].clone())
}

/// Of the map that it goes by.
pub async fn generation(capsule: &Capsule<'_>) -> Result<u64> {
    number(&membership(capsule).await?["generation"])
}

/// proto3-JSON writes 64-bit numbers as text.
pub fn number(value: &Value) -> Result<u64> {
    value.as_str().unwrap_or("0").parse().with_context(|| format!("{value} is no number"))
}

/// A capsule's own addresses in the fabric.
pub async fn addresses(capsule: &Capsule<'_>) -> Result<[IpAddr; 2]> {
    let membership = membership(capsule).await?;
    let address = |key: &str| Ok::<IpAddr, anyhow::Error>(membership[key].as_str().unwrap_or("").parse()?);
    Ok([address("ipv4")?, address("ipv6")?])
}

/// What a capsule says of one peer.
pub async fn peer(capsule: &Capsule<'_>, name: &str) -> Result<Value> {
    let membership = membership(capsule).await?;
    let peers = membership["peers"].as_array().into_iter().flatten();
    peers
        .into_iter()
        .find(|peer| peer["name"] == name)
        .cloned()
        .with_context(|| format!("no peer {name}: {membership}"))
}

/// What a capsule says of a workload's part in the fabric.
pub async fn fabric_of(capsule: &Capsule<'_>, workload: &str) -> Result<Value> {
    Ok(capsule.workload(workload).await?["status"]["fabric"].clone())
}

/// A container that may ask these.
pub fn client(name: &str, to: &str) -> String {
    shell(name, FOREVER, &format!("  fabric: {{ allowTo: [{to}] }}\n"))
}

/// An echo server called `db` that these may ask.
pub fn server(from: &str) -> String {
    echo("db", &format!("  fabric: {{ allowFrom: [{from}] }}\n"))
}

async fn wget(from: &Capsule<'_>, workload: &str, url: &str) -> Result<Output> {
    from.exec(workload, &["busybox", "timeout", "3", "wget", "-q", "-O", "-", url]).await
}

/// Fetches a page from inside a workload.
pub async fn fetch(from: &Capsule<'_>, workload: &str, url: &str) -> Result<String> {
    Ok(wget(from, workload, url).await?.ok()?.stdout)
}

/// Holds that there is none for it.
pub async fn is_refused(from: &Capsule<'_>, workload: &str, url: &str) -> Result<()> {
    ensure!(wget(from, workload, url).await?.ok().is_err(), "{workload} reaches {url}");
    Ok(())
}

/// Where a workload is in the fabric.
pub async fn place(capsule: &Capsule<'_>, workload: &str) -> Result<[IpAddr; 2]> {
    let fabric = fabric_of(capsule, workload).await?;
    let address = |key: &str| Ok::<IpAddr, anyhow::Error>(fabric[key].as_str().unwrap_or("").parse()?);
    Ok([address("ipv4")?, address("ipv6")?])
}

/// Sends one echo request from a capsule's host.
pub async fn ping(from: &Capsule<'_>, to: IpAddr) -> Result<()> {
    let mut command = netns::command(&from.namespace(), "ping");
    command.args(["-n", "-c", "1", "-W", "1", &to.to_string()]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{to} does not answer {}: {text}", from.name());
    Ok(())
}

/// Waits until it is answered.
pub async fn reaches(from: &Capsule<'_>, to: IpAddr) -> Result<()> {
    eventually(HANDSHAKE_LIMIT, async || ping(from, to).await).await
}

/// What holds a capsule's sessions: none of them outlives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Index and name.
    pub link: String,
    /// Of a userspace one.
    pub process: Option<Process>,
}

/// A capsule's device, if there is one.
pub fn device(capsule: &Capsule<'_>) -> Result<Option<Device>> {
    let links = sys::run(Command::new("ip").args(["-n", &capsule.namespace(), "-o", "link"]), "")?;
    let process = capsule.device();
    let link = links.lines().find(|line| line.contains(": cw-")).and_then(|line| line.split(": <").next());
    ensure!(link.is_some() || process.is_none(), "a device without a link: {process:?}");
    Ok(link.map(|link| Device { link: link.to_owned(), process }))
}

/// Between the echo requests of a flood.
pub const FLOOD_INTERVAL: Duration = Duration::from_millis(20);
const FLOOD_COUNT: u64 = 300;

/// Sends echo requests for six seconds.
pub fn flood(from: &Capsule<'_>, to: IpAddr) -> Result<std::process::Child> {
    let mut command = netns::command(&from.namespace(), "ping");
    let (interval, count) = (FLOOD_INTERVAL.as_secs_f64().to_string(), FLOOD_COUNT.to_string());
    command.args(["-n", "-q", "-i", &interval, "-c", &count, "-W", "2", &to.to_string()]);
    Ok(command.stdout(std::process::Stdio::piped()).spawn()?)
}

/// From ping's summary: "300 packets transmitted, 298 received, …".
pub fn lost(output: &std::process::Output) -> Result<u64> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("packets transmitted")).context("no summary")?;
    let received = line.split(", ").nth(1).and_then(|part| part.split(' ').next()).context("no count")?;
    Ok(FLOOD_COUNT - received.parse::<u64>()?)
}
