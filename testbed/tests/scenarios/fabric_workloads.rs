//! Workloads of different capsules: names, addresses, and who may talk to whom.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testbed::scenario::{Capsule, FOREVER, Fleet, Output, echo, eventually, shell};

use crate::mesh::{enroll, fabric_of};

/// For a first connection: handshake, link and policy on a machine that has much else to do.
const LIMIT: Duration = Duration::from_mins(1);
/// What a policy takes away is gone in this time.
const CUT_LIMIT: Duration = Duration::from_secs(10);

/// A client that may ask `db` of capsule b.
fn client(name: &str, to: &str) -> String {
    shell(name, FOREVER, &format!("  fabric: {{ allowTo: [{to}] }}\n"))
}

/// A server that these may ask.
fn server(from: &str) -> String {
    echo("db", &format!("  fabric: {{ allowFrom: [{from}] }}\n"))
}

async fn wget(from: &Capsule<'_>, workload: &str, url: &str) -> Result<Output> {
    from.exec(workload, &["busybox", "timeout", "3", "wget", "-q", "-O", "-", url]).await
}

/// Fetches a page from inside a workload.
async fn fetch(from: &Capsule<'_>, workload: &str, url: &str) -> Result<String> {
    Ok(wget(from, workload, url).await?.ok()?.stdout)
}

async fn is_refused(from: &Capsule<'_>, workload: &str, url: &str) -> Result<()> {
    ensure!(wget(from, workload, url).await?.ok().is_err(), "{workload} reaches {url}");
    Ok(())
}

#[tokio::test]
async fn a_workload_reaches_another_by_name_only_where_both_ends_allow_it() -> Result<()> {
    let fleet = enroll(Fleet::netns(3).await?).await?;
    let (a, b, c) = (fleet.capsule("a"), fleet.capsule("b"), fleet.capsule("c"));
    let url = "http://db.b.fabric:8080/";
    // What a policy names need not be there yet: it opens by itself.
    a.apply(&client("web", "'db@b:8080'")).await?;
    let waiting = fabric_of(&a, "web").await?["waiting"].clone();
    ensure!(waiting.to_string().contains("db@b:8080"), "{waiting}");
    b.apply(&server("'web@a:8080'")).await?;
    eventually(LIMIT, async || fetch(&a, "web", url).await).await?;
    fetch(&a, "web", "http://db.fabric:8080/").await?;
    let six = fabric_of(&b, "db").await?["ipv6"].as_str().context("no IPv6 address")?.to_owned();
    fetch(&a, "web", &format!("http://[{six}]:8080/")).await?;

    // One end is not enough, and one name is not another.
    a.apply(&client("other", "'db@b:8080'")).await?;
    c.apply(&client("web", "'db@b:8080'")).await?;
    let address = fabric_of(&b, "db").await?["ipv4"].as_str().context("no address")?.to_owned();
    let by_address = format!("http://{address}:8080/");
    is_refused(&a, "other", &by_address).await?;
    is_refused(&c, "web", &by_address).await?;
    is_refused(&a, "web", &format!("http://{address}:8081/")).await?;
    let drops = b.fleetctl(&["fabric", "drops"]).await?.ok()?.stdout;
    ensure!(drops.contains("other@a") && drops.contains("web@c"), "{drops}");

    // Addresses stay where agents die and workloads start anew; what is taken back is cut.
    b.restart_agent().await?;
    b.fleetctl(&["workload", "restart", "db"]).await?.ok()?;
    ensure!(fabric_of(&b, "db").await?["ipv4"] == address.as_str());
    eventually(LIMIT, async || fetch(&a, "web", url).await).await?;
    b.apply(&server("'web@c:8080'")).await?;
    eventually(CUT_LIMIT, async || is_refused(&a, "web", &by_address).await).await?;
    eventually(LIMIT, async || fetch(&c, "web", &by_address).await).await?;
    fleet.passed();
    Ok(())
}
