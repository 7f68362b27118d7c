//! Who is in the fabric, and what becomes of who was.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use capsule_client::Home;
use capsule_proto::v1::SignedMap;
use serde_json::Value;
use testbed::{
    scenario::eventually,
    sys::{link, netns},
};

use crate::{
    maps,
    mesh::{
        FLOOD_INTERVAL, addresses, device, fleet, flood, generation, lost, membership, mesh, number, peer,
        ping, reaches, status,
    },
};

/// For both keys to have had a turn on a machine that has much else to do.
const HEAL_LIMIT: Duration = Duration::from_mins(2);

#[tokio::test]
async fn eight_capsules_become_one_network_and_repeating_it_changes_nothing() -> Result<()> {
    let fleet = mesh(8).await?;
    let names = fleet.names();
    let mut own = Vec::new();
    for name in &names {
        own.push(addresses(&fleet.capsule(name)).await?);
    }
    for name in &names {
        for address in own.iter().flatten() {
            reaches(&fleet.capsule(name), *address).await?;
        }
    }
    let a = fleet.capsule("a");
    let before = membership(&a).await?;
    ensure!(before["peers"].as_array().is_some_and(|peers| peers.len() == 7), "{before}");
    let again = fleet.fleetctl(&["--all", "fabric", "enroll", "--yes"]).await?.ok()?;
    ensure!(again.stderr.contains("nothing to do"), "{}{}", again.stdout, again.stderr);
    let again = fleet.fleetctl(&["--all", "fabric", "enroll", "--yes", "-o", "json"]).await?.ok()?;
    let unchanged = again.stdout.lines().filter(|line| line.contains("\"changed\":false")).count();
    ensure!(unchanged == 8, "programs are told of each that there was nothing to do: {}", again.stdout);
    let after = membership(&a).await?;
    ensure!(before["generation"] == after["generation"], "{before} {after}");
    // A change of one peer leaves the others' sessions and counters alone.
    fleet.fleetctl(&["fabric", "set-endpoint", "h", "10.99.99.99:1"]).await?.ok()?;
    let changed = membership(&a).await?;
    let peers = |of: &Value| of["peers"].as_array().cloned().unwrap_or_default();
    for (was, is) in peers(&after).iter().zip(peers(&changed)).filter(|(_, is)| is["name"] != "h") {
        ensure!(was["lastHandshake"] == is["lastHandshake"], "{was} {is}");
        ensure!(
            number(&was["rxBytes"])? <= number(&is["rxBytes"])? && number(&is["rxBytes"])? > 0,
            "{was} {is}"
        );
    }
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn an_enrolment_that_is_cut_short_anywhere_goes_on_when_it_is_repeated() -> Result<()> {
    let fleet = fleet(3).await?;
    fleet.fleetctl(&["fabric", "init"]).await?.ok()?;
    let mut ended = false;
    for step in 0..60 {
        let mut run = fleet.operator().command(&["--all", "-q", "fabric", "enroll", "--yes"])?;
        let mut child =
            run.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
        // Each run gets a little further before it is killed.
        let end = tokio::time::timeout(Duration::from_millis(10 * step), child.wait()).await;
        child.kill().await?;
        if end.is_ok() {
            ended = true;
            break;
        }
    }
    ensure!(ended, "no run came to its end");
    let b = fleet.capsule("b");
    b.kill_agent()?;
    let partly = fleet.fleetctl(&["--all", "fabric", "enroll", "--yes"]).await?.expect_code(3)?;
    ensure!(partly.stderr.contains("error: b:") && partly.stderr.contains("repeat"), "{}", partly.stderr);
    b.start_agent().await?;
    fleet.fleetctl(&["--all", "fabric", "enroll", "--yes"]).await?.ok()?;
    let mut slots = Vec::new();
    for name in fleet.names() {
        slots.push(membership(&fleet.capsule(&name)).await?["slot"].as_u64().unwrap_or(0));
    }
    ensure!(slots == [0, 1, 2], "{slots:?}");
    for name in fleet.names() {
        for other in fleet.names() {
            reaches(&fleet.capsule(&name), addresses(&fleet.capsule(&other)).await?[0]).await?;
        }
    }
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn maps_that_are_forged_replayed_or_older_change_nothing() -> Result<()> {
    let fleet = mesh(2).await?;
    let old = maps::export(&fleet).await?;
    fleet.fleetctl(&["fabric", "set-relay", "b", "on"]).await?.ok()?;
    let present = maps::export(&fleet).await?;
    let a = fleet.capsule("a");
    let before = generation(&a).await?;
    let stranger = Home::at(fleet.dir().join("stranger")).ensure_key()?;
    let mut flipped = present.clone();
    flipped.map.push(0);
    let made_up = {
        let signature = stranger.sign(&present.map);
        SignedMap { key_id: stranger.key_id().to_string(), signature, ..present.clone() }
    };
    let posing = SignedMap { key_id: present.key_id.clone(), ..made_up.clone() };
    for (map, part) in
        [(old, "generation"), (made_up, "not enrolled"), (posing, "made up"), (flipped, "cannot be used")]
    {
        let refused = maps::put(&fleet, "a", map).await.unwrap_err().to_string();
        ensure!(refused.contains(part), "{part}: {refused}");
    }
    maps::put(&fleet, "a", present).await.context("the present map is no error")?;
    ensure!(generation(&a).await? == before);
    let events = a.events().await?;
    ensure!(events.matches("MapRefused").count() == 4, "{events}");
    reaches(&a, addresses(&fleet.capsule("b")).await?[0]).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_removed_member_is_cut_off_at_once_and_its_slot_is_given_to_the_next() -> Result<()> {
    let fleet = fleet(4).await?;
    let (a, b, c) = (fleet.capsule("a"), fleet.capsule("b"), fleet.capsule("c"));
    fleet.fleetctl(&["fabric", "init"]).await?.ok()?;
    fleet.fleetctl(&["fabric", "enroll", "a", "b", "c", "--yes"]).await?.ok()?;
    let (of_a, of_b, of_c) = (addresses(&a).await?[0], addresses(&b).await?[0], addresses(&c).await?[0]);
    reaches(&c, of_a).await?;
    reaches(&b, of_c).await?;
    // It hears nothing of its removal: what counts is that the others know.
    c.pause()?;
    let removed =
        fleet.fleetctl(&["--timeout", "3s", "fabric", "remove", "c", "--yes"]).await?.expect_code(3)?;
    ensure!(removed.stderr.contains("repeat `fleetctl fabric remove c`"), "{}", removed.stderr);
    for to in [of_a, of_b] {
        ensure!(ping(&c, to).await.is_err(), "{to} still answers the removed member");
    }
    reaches(&a, of_b).await?;
    c.resume()?;
    fleet.fleetctl(&["fabric", "remove", "c", "--yes"]).await?.ok()?;
    ensure!(status(&c).await?["membership"].is_null(), "it is still a member");
    ensure!(device(&c)?.is_none(), "its device still runs");
    fleet.fleetctl(&["fabric", "enroll", "d", "--yes"]).await?.ok()?;
    let d = fleet.capsule("d");
    ensure!(addresses(&d).await?[0] == of_c, "the lowest free slot is another");
    reaches(&a, of_c).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_rotated_key_costs_other_pairs_no_packet_and_its_own_one_handshake() -> Result<()> {
    let fleet = mesh(3).await?;
    let (a, b, c) = (fleet.capsule("a"), fleet.capsule("b"), fleet.capsule("c"));
    let (of_b, of_c) = (addresses(&b).await?[0], addresses(&c).await?[0]);
    reaches(&a, of_b).await?;
    reaches(&a, of_c).await?;
    let before = status(&b).await?["publicKey"].clone();
    let others = flood(&a, of_c)?;
    let rotated = flood(&a, of_b)?;
    fleet.fleetctl(&["fabric", "rotate-key", "b"]).await?.ok()?;
    let (others, rotated) =
        tokio::task::spawn_blocking(move || (others.wait_with_output(), rotated.wait_with_output())).await?;
    let others = others?;
    let said = String::from_utf8_lossy(&others.stdout);
    ensure!(lost(&others)? == 0, "packets of another pair were lost: {said}");
    let gap = f64::from(u32::try_from(lost(&rotated?)?)?) * FLOOD_INTERVAL.as_secs_f64();
    eprintln!("the rotated pair was apart for {gap:.2} s");
    reaches(&a, of_b).await?;
    ensure!(status(&b).await?["publicKey"] != before, "the key is the same");
    // WireGuard waits 5 s before it tries a handshake again: it was not needed.
    ensure!(gap < 4.0, "the rotated pair was apart for {gap} s");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_rotation_that_its_member_was_never_told_of_ends_well() -> Result<()> {
    let fleet = mesh(3).await?;
    let (a, c) = (fleet.capsule("a"), fleet.capsule("c"));
    reaches(&a, addresses(&c).await?[0]).await?;
    // As an operator leaves it whose machine dies once the others are told.
    let key = maps::next_key(&fleet, "c").await?;
    let map = maps::next(&fleet, &maps::export(&fleet).await?, |map| map.members[2].public_key = key)?;
    for told in ["a", "b"] {
        maps::put(&fleet, told, map.clone()).await?;
    }
    let newest = generation(&a).await?;
    ensure!(generation(&c).await? < newest, "c knows of it");
    eventually(HEAL_LIMIT, async || {
        ensure!(generation(&c).await? == newest, "c goes by an older map");
        Ok(())
    })
    .await?;
    reaches(&a, addresses(&c).await?[0]).await?;
    ensure!(c.events().await?.contains("NextKeyTried"));
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_killed_agent_loses_no_packet_of_the_fabric() -> Result<()> {
    let fleet = mesh(2).await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    let of_b = addresses(&b).await?[0];
    reaches(&a, of_b).await?;
    let devices = [device(&a)?.context("a has no device")?, device(&b)?.context("b has no device")?];
    let before = peer(&a, "b").await?;
    let traffic = flood(&a, of_b)?;
    for capsule in [&a, &b] {
        capsule.kill_agent()?;
    }
    for capsule in [&a, &b] {
        capsule.start_agent().await?;
    }
    let traffic = tokio::task::spawn_blocking(move || traffic.wait_with_output()).await??;
    ensure!(lost(&traffic)? == 0, "{}", String::from_utf8_lossy(&traffic.stdout));
    ensure!(devices == [device(&a)?.context("a has no device")?, device(&b)?.context("b has no device")?]);
    let after = peer(&a, "b").await?;
    ensure!(
        before["lastHandshake"] == after["lastHandshake"],
        "there was another handshake: {before} {after}"
    );
    // A map that comes next finds everything in its place.
    fleet.fleetctl(&["fabric", "set-relay", "b", "on"]).await?.ok()?;
    reaches(&b, addresses(&a).await?[1]).await?;
    // The process of the device itself may die as well; the kernel's has none.
    if let Some(process) = devices[0].process {
        process.signal(nix::sys::signal::Signal::SIGKILL);
        reaches(&a, of_b).await?;
        ensure!(a.events().await?.contains("LinkDied"));
    }
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_member_whose_address_changes_is_found_again() -> Result<()> {
    let fleet = mesh(2).await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    let (of_a, of_b) = (addresses(&a).await?[0], addresses(&b).await?[0]);
    reaches(&a, of_b).await?;
    let old = b.api()?.ip();
    let IpAddr::V4(four) = old else { bail!("{old} is not IPv4") };
    let new = std::net::Ipv4Addr::from(four.to_bits() + 100);
    let gateway = fleet.operator_address();
    link::batch_in(
        &b.namespace(),
        &format!(
            "address delete {old}/24 dev eth0\naddress add {new}/24 dev eth0\nroute replace default via {gateway}\n"
        ),
    )?;
    // It is heard from, so it is found.
    reaches(&b, of_a).await?;
    reaches(&a, of_b).await?;
    let endpoint = format!("{new}:51820");
    ensure!(peer(&a, "b").await?["endpoint"] == endpoint, "{}", peer(&a, "b").await?);
    // What the operator says counts where nobody was heard.
    fleet.fleetctl(&["context", "add", &new.to_string(), "--yes"]).await?.ok()?;
    fleet.fleetctl(&["fabric", "set-endpoint", "b", &endpoint]).await?.ok()?;
    reaches(&a, of_b).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_range_in_use_is_refused_and_a_capsule_taken_down_leaves_no_link() -> Result<()> {
    let fleet = fleet(2).await?;
    let refused = fleet.fleetctl(&["fabric", "init", "--range", "10.96.0.0/12"]).await?.expect_code(2)?;
    ensure!(refused.stderr.contains("10.99.") && refused.stderr.contains("--range"), "{}", refused.stderr);
    let none = fleet.fleetctl(&["fabric", "enroll", "a", "--yes"]).await?;
    ensure!(none.code != 0 && none.stderr.contains("fabric init"), "{}", none.stderr);
    fleet.fleetctl(&["fabric", "init", "--range", "10.200.0.0/16", "--slice", "24"]).await?.ok()?;
    let unasked = fleet.fleetctl(&["fabric", "enroll", "a", "b"]).await?.expect_code(2)?;
    ensure!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    fleet.fleetctl(&["fabric", "enroll", "a", "b", "--yes", "--slot", "b=9"]).await?.ok()?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    let of_b = addresses(&b).await?[0];
    ensure!(of_b.to_string() == "10.200.9.1", "{of_b}");
    reaches(&a, of_b).await?;
    let again = fleet.fleetctl(&["fabric", "init"]).await?.expect_code(1)?;
    ensure!(again.stderr.contains("there is a fabric already"), "{}", again.stderr);
    let mut down = netns::command(&b.namespace(), testbed::sys::program("capsuled")?);
    down.arg("down").arg("--state-dir").arg(b.state_dir());
    let output = tokio::task::spawn_blocking(move || down.output()).await??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(device(&b)?.is_none(), "the device still runs");
    let links =
        testbed::sys::run(std::process::Command::new("ip").args(["-n", &b.namespace(), "-br", "link"]), "")?;
    ensure!(!links.contains("cw-"), "{links}");
    b.start_agent().await?;
    reaches(&a, of_b).await?;
    fleet.passed();
    Ok(())
}
