//! Several operators and one member map: nobody's change is lost, and none is taken from a stranger.

use std::fs;

use anyhow::{Result, ensure};
use capsule_client::Home;
use capsule_fabric::map::{AddressPlan, MemberMap};
use capsule_proto::v1::SignedMap;
use testbed::scenario::{Fleet, Operator};

use crate::{
    maps,
    mesh::{generation, mesh},
};

/// Rounds until two commands really meet.
const ROUNDS: u32 = 10;

/// Another operator whom all capsules know, and who knows none of them yet.
async fn colleague(fleet: &Fleet) -> Result<Operator> {
    let other = fleet.other_operator("colleague");
    let key = other.run(&["key", "show"]).await?.ok()?.stdout;
    fleet.fleetctl(&["--all", "key", "add", key.trim(), "--role", "operator"]).await?.ok()?;
    Ok(other)
}

/// The one map that all capsules go by.
async fn agreed(fleet: &Fleet) -> Result<SignedMap> {
    let first = maps::of(fleet, "a").await?;
    for name in fleet.names() {
        let held = maps::of(fleet, &name).await?;
        ensure!(held == first, "{name} goes by another map than a");
    }
    Ok(first)
}

#[tokio::test]
async fn of_two_operators_at_once_neither_loses_a_change() -> Result<()> {
    let fleet = mesh(3).await?;
    let (own, other) = (fleet.operator(), colleague(&fleet).await?);
    fs::copy(own.config().join("contexts.toml"), other.config().join("contexts.toml"))?;
    let mut refused = 0;
    for round in 1..=ROUNDS {
        let (relay, endpoint) = (if round % 2 == 1 { "on" } else { "off" }, format!("192.0.2.1:{round}"));
        let (mine, theirs) =
            (["fabric", "set-relay", "a", relay], ["fabric", "set-endpoint", "c", &endpoint]);
        let (first, second) = tokio::try_join!(own.run(&mine), other.run(&theirs))?;
        for (operator, words, output) in [(own, mine, first), (&other, theirs, second)] {
            if output.code == 0 {
                continue;
            }
            refused += 1;
            ensure!(output.stderr.contains(&format!("repeat `fleetctl {}", words.join(" "))), "{output:?}");
            operator.run(&words).await?.ok()?;
        }
        let map = capsule_fabric::map::SignedMap::try_from(agreed(&fleet).await?)?;
        let (a, c) = (&map.map().members()[0], &map.map().members()[2]);
        let endpoints: Vec<String> = c.endpoints.iter().map(ToString::to_string).collect();
        ensure!(a.relay == (relay == "on"), "round {round}: the relay is forgotten");
        ensure!(endpoints == [endpoint], "round {round}: the endpoint is forgotten: {endpoints:?}");
        if refused > 1 {
            break;
        }
    }
    ensure!(refused > 0, "they never met");

    // Halves that were told different things, and nobody who repeats his own: any next change makes
    // them one.
    let map = agreed(&fleet).await?;
    fleet.split(&[&["a", "b"], &["c"]])?;
    for (capsule, member) in [("a", 1), ("c", 2)] {
        let half = maps::next(&fleet, &map, |map| map.members[member].keepalive_seconds += 1)?;
        maps::put(&fleet, capsule, half).await?;
    }
    fleet.join()?;
    ensure!(agreed(&fleet).await.is_err(), "there is but one map");
    fleet.fleetctl(&["--all", "fabric", "enroll", "--yes"]).await?.ok()?;
    agreed(&fleet).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_map_travels_as_a_file_where_no_network_leads() -> Result<()> {
    let fleet = mesh(2).await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    let other = colleague(&fleet).await?;
    b.kill_agent()?;
    fleet.fleetctl(&["--timeout", "2s", "fabric", "set-relay", "a", "on"]).await?.expect_code(3)?;
    let (before, file) = (generation(&a).await?, fleet.dir().join("fabric.json"));
    let exported = fleet.fleetctl(&["--timeout", "2s", "fabric", "map", "export"]).await?.ok()?.stdout;
    fs::write(&file, &exported)?;
    a.kill_agent()?;
    b.start_agent().await?;
    ensure!(generation(&b).await? == before - 1, "it was told by somebody");

    // The other operator is where b is, and nothing else.
    other.run(&["context", "add", &b.api()?.to_string(), "--name", "b", "--yes"]).await?.ok()?;
    let file = file.display().to_string();
    let taken = other.run(&["fabric", "map", "import", &file]).await?.ok()?;
    ensure!(taken.stdout.contains(&format!("goes by generation {before}")), "{taken:?}");
    ensure!(taken.stderr.contains("no context of a"), "{taken:?}");
    ensure!(generation(&b).await? == before);
    let again = other.run(&["fabric", "map", "import", &file]).await?.ok()?;
    ensure!(again.stderr.contains("nothing to do"), "{again:?}");
    ensure!(other.run(&["fabric", "map", "export"]).await?.ok()?.stdout == exported, "it is another map");
    let shown = other.run(&["fabric", "map", "show"]).await?.ok()?;
    let rows: Vec<&str> = shown.stdout.lines().skip(1).collect();
    ensure!(shown.stderr.contains(&format!("generation {before} signed by")), "{}", shown.stderr);
    ensure!(rows.len() == 2 && rows[0].starts_with("a ") && rows[0].contains(" yes "), "{}", shown.stdout);

    // Its next change is on top of that one.
    other.run(&["fabric", "set-relay", "b", "on"]).await?.ok()?;
    a.start_agent().await?;
    fleet.fleetctl(&["fabric", "map", "show"]).await?.ok()?;
    agreed_soon(&fleet).await?;
    fleet.passed();
    Ok(())
}

/// Peers tell each other.
async fn agreed_soon(fleet: &Fleet) -> Result<()> {
    let limit = std::time::Duration::from_mins(1);
    testbed::scenario::eventually(limit, async || agreed(fleet).await.map(drop)).await
}

#[tokio::test]
async fn a_map_from_a_file_that_is_old_or_of_somebody_else_is_refused_and_not_kept() -> Result<()> {
    let fleet = mesh(2).await?;
    let old = maps::export(&fleet).await?;
    fleet.fleetctl(&["fabric", "set-relay", "b", "on"]).await?.ok()?;
    let present = maps::export(&fleet).await?;
    let next = maps::next(&fleet, &present, |map| map.members[0].relay = true)?;
    let rival = maps::next(&fleet, &old, |map| map.members[0].relay = true)?;
    let stranger = Home::at(fleet.dir().join("stranger"));
    let plan = AddressPlan::new("10.200.0.0/16".parse()?, 24, AddressPlan::random_ipv6())?;
    let foreign = maps::sign(&stranger, MemberMap::found(plan))?;
    let theirs = maps::sign(&stranger, MemberMap::decode(&next.map)?)?;
    // Their content with the signature of what the operator did sign.
    let tampered = SignedMap { map: next.map.clone(), ..present.clone() };
    let cut = SignedMap { map: next.map[..next.map.len() - 1].to_vec(), ..next.clone() };
    for (map, code, reason) in [
        (old, 2, "generation 2, and generation 3 is known"),
        (rival, 2, "another member map of generation 3"),
        (foreign, 2, "of fabric"),
        (theirs, 1, "most capsules do not know that key"),
        (tampered, 1, "did not sign it"),
        (cut, 2, "cannot be used"),
    ] {
        let file = serde_json::to_string(&map)?;
        let import = ["fabric", "map", "import", "-"];
        let refused = fleet.operator().run_with(&import, file.as_bytes()).await?.expect_code(code)?;
        ensure!(refused.stderr.contains(reason), "{reason}: {}", refused.stderr);
        ensure!(maps::export(&fleet).await? == present, "{reason}: it was kept");
    }
    let text = fleet.operator().run_with(&["fabric", "map", "import", "-"], b"{]").await?.expect_code(2)?;
    ensure!(text.stderr.contains("holds no signed member map"), "{}", text.stderr);
    ensure!(agreed(&fleet).await? == present);

    // Another fabric of one's own: not while capsules are in the first, nor without saying so.
    let another = maps::sign(&Home::at(fleet.operator().config()), MemberMap::found(plan))?;
    let file = serde_json::to_string(&another)?;
    let import = async |words: &[&str]| {
        let words = [&["fabric", "map", "import", "-"], words].concat();
        fleet.operator().run_with(&words, file.as_bytes()).await
    };
    let in_use = import(&["--forget"]).await?.expect_code(2)?;
    ensure!(in_use.stderr.contains("capsules are in yours"), "{}", in_use.stderr);
    fleet.fleetctl(&["--all", "fabric", "reset", "--yes"]).await?.ok()?;
    let unasked = import(&[]).await?.expect_code(2)?;
    ensure!(unasked.stderr.contains("--forget"), "{}", unasked.stderr);
    import(&["--forget"]).await?.ok()?;
    ensure!(maps::export(&fleet).await? == another);
    fleet.passed();
    Ok(())
}
