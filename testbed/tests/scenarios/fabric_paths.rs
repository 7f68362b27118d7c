//! How members meet: behind routers, by a relay, and again when an address changes.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::{
    scenario::{Capsule, Fleet, eventually},
    sys::netns,
};

/// For a way to be found on a machine that has much else to do.
const MEET_LIMIT: Duration = Duration::from_mins(1);
/// A direct path is taken back within 30 s; the rest is the machine's.
const RETURN_LIMIT: Duration = Duration::from_mins(1);

/// The WireGuard port that agents listen on.
const PORT: u16 = 51820;

async fn membership(capsule: &Capsule<'_>) -> Result<Value> {
    let status = capsule.fleetctl(&["fabric", "status", "-o", "json"]).await?.ok()?.json()?;
    Ok(status["result"]["membership"].clone())
}

async fn peer(capsule: &Capsule<'_>, name: &str) -> Result<Value> {
    let membership = membership(capsule).await?;
    let mut peers = membership["peers"].as_array().into_iter().flatten();
    peers.find(|peer| peer["name"] == name).cloned().with_context(|| format!("no {name}: {membership}"))
}

async fn own_address(capsule: &Capsule<'_>) -> Result<IpAddr> {
    let membership = membership(capsule).await?;
    membership["ipv4"].as_str().unwrap_or_default().parse().context("no address in the fabric")
}

async fn ping(from: &Capsule<'_>, to: IpAddr) -> Result<()> {
    let mut command = netns::command(&from.namespace(), "ping");
    command.args(["-n", "-c", "1", "-W", "1", &to.to_string()]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{to} does not answer {}", from.name());
    Ok(())
}

#[tokio::test]
async fn two_members_behind_routers_meet_by_a_relay_and_then_directly() -> Result<()> {
    let fleet = Fleet::builder(3).behind_nat("a").behind_nat("b").without_images().start().await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    fleet.fleetctl(&["fabric", "init"]).await?.ok()?;
    fleet.fleetctl(&["--all", "fabric", "enroll", "--yes"]).await?.ok()?;
    fleet.fleetctl(&["fabric", "set-relay", "c", "on"]).await?.ok()?;
    let to_b = own_address(&b).await?;
    eventually(MEET_LIMIT, async || ping(&a, to_b).await).await?;
    eventually(MEET_LIMIT, async || {
        let by_relay = peer(&a, "b").await?["path"].clone();
        ensure!(by_relay["relay"] == "c" && by_relay["answers"] == true, "{by_relay}");
        Ok(())
    })
    .await?;
    // Its router lets one of them be called: both find out by themselves.
    fleet.testbed().forward_udp("b", PORT)?;
    eventually(RETURN_LIMIT, async || {
        let direct = peer(&a, "b").await?["path"].clone();
        ensure!(direct["relay"].is_null() && direct["answers"] == true, "{direct}");
        ping(&a, to_b).await
    })
    .await?;
    fleet.passed();
    Ok(())
}
