//! A workload that moves to another member takes its addresses along.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use capsule_proto::v1::AddressOverride;
use testbed::scenario::{Capsule, Fleet, echo, eventually};

use crate::{
    maps,
    mesh::{client, enroll, fabric_of, fetch, generation, is_refused, place},
};

/// For a first connection: handshake, link and policy on a machine that has much else to do.
const LIMIT: Duration = Duration::from_mins(1);

/// The server, which says by its environment on which capsule it was made.
fn db(at: &str) -> String {
    let policy = "  fabric: { allowFrom: ['web@a:8080', 'probe@b:8080'] }\n";
    echo("db", &format!("  env: {{ MADE_ON: {at} }}\n{policy}"))
}

/// Waits until these addresses answer from the capsule where the server was made.
async fn is_made_on(from: &Capsule<'_>, client: &str, hosts: &[String], capsule: &str) -> Result<()> {
    let wanted = format!("MADE_ON={capsule}\n");
    for host in hosts {
        eventually(LIMIT, async || {
            let answer = fetch(from, client, &format!("http://{host}:8080/env")).await?;
            ensure!(answer.contains(&wanted), "{host} answers {answer}");
            Ok(())
        })
        .await
        .with_context(|| format!("{client}@{} asks {host}", from.name()))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_moved_workload_is_reached_where_it_is_at_the_addresses_that_it_had() -> Result<()> {
    let fleet = enroll(Fleet::netns(3).await?).await?;
    let (a, b, c) = (fleet.capsule("a"), fleet.capsule("b"), fleet.capsule("c"));
    a.apply(&client("web", "'db@b:8080', 'db@c:8080'")).await?;
    b.apply(&client("probe", "'db@c:8080'")).await?;
    b.apply(&db("b")).await?;
    let had = place(&b, "db").await?;
    let hosts = [had[0].to_string(), format!("[{}]", had[1])];
    is_made_on(&a, "web", &hosts, "b").await?;

    // Its new home is in the map, which one member is told and all others hear of.
    b.delete("db").await?;
    let map = maps::export(&fleet).await?;
    let [ipv4, ipv6] = had.map(|address| address.to_string());
    let moved = AddressOverride { workload: "db".into(), ipv4, ipv6, member: "c".into() };
    maps::put(&fleet, "a", maps::next(&fleet, &map, |map| map.overrides.push(moved))?).await?;
    for capsule in [&b, &c] {
        eventually(LIMIT, async || {
            ensure!(generation(capsule).await? == 3, "{} has not heard", capsule.name());
            Ok(())
        })
        .await?;
    }
    c.apply(&db("c")).await?;
    ensure!(place(&c, "db").await? == had, "it is elsewhere: {:?}", place(&c, "db").await?);
    is_made_on(&a, "web", &hosts, "c").await?;
    is_made_on(&a, "web", &["db.c.fabric".into(), "db.fabric".into()], "c").await?;
    // Also where the addresses are of one's own slice.
    is_made_on(&b, "probe", &hosts, "c").await?;

    // The old member gives them to nobody, not even to the next one of that name.
    b.apply(&format!("{}---\n{}", db("b"), client("other", "'db@c:8081'"))).await?;
    for name in ["db", "other"] {
        let has = place(&b, name).await?;
        ensure!(has.iter().all(|address| !had.contains(address)), "{name}@b has {has:?}");
    }
    is_refused(&b, "other", &format!("http://{}/", SocketAddr::new(had[0], 8080))).await?;
    is_made_on(&a, "web", &hosts, "c").await?;
    is_made_on(&a, "web", &["db.b.fabric".into()], "b").await?;

    for capsule in [&b, &c] {
        capsule.power_cycle().await?;
        is_made_on(&a, "web", &hosts, "c").await?;
    }
    ensure!(place(&c, "db").await? == had, "{}", fabric_of(&c, "db").await?);
    fleet.passed();
    Ok(())
}
