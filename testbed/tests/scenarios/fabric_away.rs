//! Members that do not hear of each other for a while: they come back to one map and one network by
//! themselves.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::scenario::{Capsule, eventually};

use crate::{
    maps,
    mesh::{addresses, generation, mesh, peer, ping, reaches},
};

/// A path that is silent is shown so after 4 s; the rest is the machine's.
const NOTICE_LIMIT: Duration = Duration::from_secs(30);
/// Silent peers are tried every 15 s; the rest is the machine's.
const RETURN_LIMIT: Duration = Duration::from_mins(1);

async fn goes_by(capsule: &Capsule<'_>, wanted: u64) -> Result<()> {
    eventually(RETURN_LIMIT, async || {
        let has = generation(capsule).await?;
        ensure!(has == wanted, "{} goes by generation {has}, not {wanted}", capsule.name());
        Ok(())
    })
    .await
}

/// Waits until a capsule says of a peer that it answers, or that it does not.
async fn is_shown(capsule: &Capsule<'_>, name: &str, answers: bool) -> Result<()> {
    eventually(NOTICE_LIMIT, async || {
        let path = peer(capsule, name).await?["path"].clone();
        ensure!((path["answers"] == true) == answers, "{} says of {name}: {path}", capsule.name());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn who_was_away_during_three_changes_is_told_by_a_peer() -> Result<()> {
    let fleet = mesh(4).await?;
    let (a, b, c, d) = (fleet.capsule("a"), fleet.capsule("b"), fleet.capsule("c"), fleet.capsule("d"));
    reaches(&c, addresses(&a).await?[0]).await?;
    let before = generation(&a).await?;
    c.kill_agent()?;
    d.partition()?;
    // The second one makes a itself a stranger: what is left is b.
    let changes: [&[&str]; 3] =
        [&["set-relay", "b", "on"], &["rotate-key", "a"], &["set-endpoint", "c", "192.0.2.9:51820"]];
    for change in changes {
        let words = [&["--timeout", "2s", "fabric"], change].concat();
        let partly = fleet.fleetctl(&words).await?.expect_code(3)?;
        ensure!(partly.stderr.contains("not everybody got it"), "{}", partly.stderr);
    }
    // From here on no operator carries a map anywhere.
    c.start_agent().await?;
    d.heal()?;
    for back in [&c, &d] {
        goes_by(back, before + 3).await?;
        let events = back.events().await?;
        ensure!(events.contains("brought by member"), "{}: {events}", back.name());
    }
    for (from, to) in [(&c, &a), (&d, &a), (&d, &b), (&c, &d)] {
        let [four, six] = addresses(to).await?;
        reaches(from, four).await?;
        reaches(from, six).await?;
    }
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_split_network_works_in_its_halves_and_is_whole_again_after_it() -> Result<()> {
    let fleet = mesh(4).await?;
    let names = fleet.names();
    let capsules: Vec<Capsule<'_>> = names.iter().map(|name| fleet.capsule(name)).collect();
    let [a, b, c, d] = &capsules[..] else { unreachable!("a fleet of four") };
    let mut own = Vec::new();
    for capsule in &capsules {
        own.push(addresses(capsule).await?);
    }
    for (here, there) in [(a, "b"), (a, "c"), (a, "d"), (d, "a"), (d, "c")] {
        is_shown(here, there, true).await?;
    }
    fleet.split(&[&["a", "b"], &["c", "d"]])?;
    for (here, there) in [(a, "c"), (a, "d"), (d, "a")] {
        is_shown(here, there, false).await?;
    }
    let shown = a.fleetctl(&["fabric", "status"]).await?.ok()?.stdout;
    ensure!(shown.lines().any(|line| line.contains(" c ") && line.contains("silent")), "{shown}");
    ensure!(shown.lines().any(|line| line.contains(" b ") && line.contains("direct")), "{shown}");
    for (from, to) in [(a, 1), (b, 0), (c, 3), (d, 2)] {
        ping(from, own[to][0]).await?;
        ping(from, own[to][1]).await?;
    }
    for (from, to) in [(a, 2), (b, 3), (d, 0)] {
        ensure!(ping(from, own[to][0]).await.is_err(), "{} gets across", from.name());
    }

    // A change that one half hears of.
    let map = maps::export(&fleet).await?;
    let next = maps::next(&fleet, &map, |map| map.members[0].relay = true)?;
    let before = generation(a).await?;
    maps::put(&fleet, "a", next).await?;
    goes_by(b, before + 1).await?;
    ensure!(generation(c).await? == before && generation(d).await? == before, "it got across");

    fleet.join()?;
    let healed = Instant::now();
    for from in &capsules {
        for to in own.iter().flatten() {
            eventually(RETURN_LIMIT, async || ping(from, *to).await).await?;
        }
    }
    for capsule in [c, d] {
        goes_by(capsule, before + 1).await?;
    }
    eprintln!("whole again after {:.1} s", healed.elapsed().as_secs_f64());
    ensure!(healed.elapsed() < RETURN_LIMIT, "it took {:?}", healed.elapsed());
    fleet.passed();
    Ok(())
}
