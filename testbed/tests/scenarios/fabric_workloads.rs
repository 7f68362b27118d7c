//! Workloads of different capsules: names, addresses, and who may talk to whom.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testbed::scenario::{Fleet, eventually};

use crate::mesh::{client, enroll, fabric_of, fetch, is_refused, server};

/// For a first connection: handshake, link and policy on a machine that has much else to do.
const LIMIT: Duration = Duration::from_mins(1);
/// What a policy takes away is gone in this time.
const CUT_LIMIT: Duration = Duration::from_secs(10);

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

#[tokio::test]
async fn a_reference_that_makes_no_sense_is_refused_and_one_to_a_stranger_waits_until_it_joins() -> Result<()>
{
    let fleet = Fleet::netns(2).await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    fleet.fleetctl(&["fabric", "init"]).await?.ok()?;
    fleet.fleetctl(&["fabric", "enroll", "a", "--yes"]).await?.ok()?;
    for (list, place, reason) in [
        ("'db@b:8080', 'db@b:70000'", "allowTo[1]", "wrong at character 6: \"70000\" is not a port"),
        ("'db@b:0'", "allowTo[0]", "wrong at character 6"),
        ("'db@b:9-8'", "allowTo[0]", "wrong at character 6"),
        ("'db@b:80/sctp'", "allowTo[0]", "wrong at character 9"),
        ("'db:80'", "allowTo[0]", "wrong at character 3"),
        ("'d b@b:80'", "allowTo[0]", "wrong at character 1"),
        ("'cidr:100.64.0.0/33:80'", "allowTo[0]", "wrong at character 6"),
        ("'host@b:80'", "allowTo[0]", "takes no connections"),
    ] {
        let refused = a.apply_err(&client("web", list)).await?;
        let place = format!("container.fabric.{place}");
        ensure!(refused.contains(&place) && refused.contains(reason), "{list}: {refused}");
    }
    ensure!(a.fleetctl(&["workload", "get", "web"]).await?.code != 0, "it was made all the same");

    a.apply(&client("web", "'db@b:8080'")).await?;
    let waiting = fabric_of(&a, "web").await?["waiting"].to_string();
    ensure!(waiting.contains("db@b:8080") && waiting.contains("member"), "{waiting}");
    // The other side may wait as well: it is in no fabric yet.
    b.apply(&server("'web@a:8080'")).await?;
    let problem = fabric_of(&b, "db").await?["problem"].clone();
    ensure!(problem.as_str().is_some_and(|text| text.contains("in no fabric yet")), "{problem}");
    fleet.fleetctl(&["fabric", "enroll", "b", "--yes"]).await?.ok()?;
    eventually(LIMIT, async || fetch(&a, "web", "http://db.b.fabric:8080/").await).await?;
    ensure!(fabric_of(&a, "web").await?["waiting"].is_null(), "it still waits");
    fleet.passed();
    Ok(())
}
