//! How members meet: behind routers, by a relay, and again when an address changes.

use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::scenario::{Fleet, eventually};

use crate::mesh::{addresses, enroll, flood, lost, mesh, peer, ping, reaches};

/// For a way to be found on a machine that has much else to do.
const MEET_LIMIT: Duration = Duration::from_mins(1);
/// A direct path is taken back within 30 s; the rest is the machine's.
const RETURN_LIMIT: Duration = Duration::from_mins(1);

/// Echo requests of a flood that may be lost while a direct way is tried: two seconds' worth.
const TRIED_DIRECTLY: u64 = 100;

/// The WireGuard port that agents listen on.
const PORT: u16 = 51820;

#[tokio::test]
async fn two_members_behind_routers_meet_by_a_relay_and_then_directly() -> Result<()> {
    let fleet = Fleet::builder(3).behind_nat("a").behind_nat("b").without_images().start().await?;
    let fleet = enroll(fleet).await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    fleet.fleetctl(&["fabric", "set-relay", "c", "on"]).await?.ok()?;
    let to_b = addresses(&b).await?[0];
    eventually(MEET_LIMIT, async || ping(&a, to_b).await).await?;
    eventually(MEET_LIMIT, async || {
        let by_relay = peer(&a, "b").await?["path"].clone();
        ensure!(by_relay["relay"] == "c" && by_relay["answers"] == true, "{by_relay}");
        Ok(())
    })
    .await?;
    // A map that changes nothing between them leaves them where they are; the relay is told where it is.
    let traffic = flood(&a, to_b)?;
    let relay = format!("{}:{PORT}", fleet.capsule("c").api()?.ip());
    fleet.fleetctl(&["fabric", "set-endpoint", "c", &relay]).await?.ok()?;
    let traffic = tokio::task::spawn_blocking(move || traffic.wait_with_output()).await??;
    ensure!(lost(&traffic)? <= TRIED_DIRECTLY, "{}", String::from_utf8_lossy(&traffic.stdout));
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

#[tokio::test]
async fn a_member_whose_agent_is_away_keeps_its_path() -> Result<()> {
    let fleet = mesh(2).await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    let of_b = addresses(&b).await?[0];
    reaches(&a, of_b).await?;
    let works = async || {
        let peer = peer(&a, "b").await?;
        ensure!(peer["path"]["answers"] == true, "{peer}");
        Ok(peer["endpoint"].clone())
    };
    let before = eventually(MEET_LIMIT, works).await?;
    b.kill_agent()?;
    // For longer than a path may be silent.
    let traffic = flood(&a, of_b)?;
    let traffic = tokio::task::spawn_blocking(move || traffic.wait_with_output()).await??;
    ensure!(lost(&traffic)? == 0, "{}", String::from_utf8_lossy(&traffic.stdout));
    ensure!(works().await? == before, "a path that works was left");
    b.start_agent().await?;
    fleet.passed();
    Ok(())
}
