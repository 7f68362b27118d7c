//! What workloads in the fabric keep when agents and machines die: their connections, their addresses.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    scenario::{Capsule, FOREVER, Fleet, eventually, shell},
    wireguard::stream::{Flow, Pair},
};

use crate::mesh::{client, device, enroll, fetch, place, server};

/// For a first connection: handshake, link and policy on a machine that has much else to do.
const LIMIT: Duration = Duration::from_mins(1);
/// Nothing may be silent for longer while an agent is away: it is not in the way of packets.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// What flows in about a second.
const SOME_BYTES: u64 = 3 << 20;
const PORT: u16 = 7000;

/// Bytes both ways between `web` and `db`, at this address of db.
async fn flow(web: &Capsule<'_>, db: &Capsule<'_>, to: IpAddr) -> Result<Flow> {
    let listener = db.inside("db", move || Ok(TcpListener::bind((to, PORT))?)).await?;
    let at = SocketAddr::new(to, PORT);
    let connect = async || {
        let stream = web.inside("web", move || Ok(TcpStream::connect_timeout(&at, SILENCE_LIMIT)?)).await;
        stream.with_context(|| format!("web cannot connect to {at}"))
    };
    let from = eventually(LIMIT, connect).await?;
    let (to, _) = listener.accept()?;
    Pair { from, to }.flow()
}

/// Holds that bytes get through, both ways each.
async fn go_on(flows: &[Flow; 2]) -> Result<()> {
    let came = || flows.each_ref().map(Flow::came);
    let before = came();
    eventually(SILENCE_LIMIT, async || {
        let now = came();
        let mut ways = now.as_flattened().iter().zip(before.as_flattened());
        ensure!(ways.all(|(now, before)| now - before > SOME_BYTES), "{before:?}, and then {now:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn connections_outlive_the_agents_of_both_their_ends() -> Result<()> {
    let fleet = enroll(Fleet::netns(2).await?).await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    a.apply(&client("web", "'db@b:7000'")).await?;
    b.apply(&shell("db", FOREVER, "  fabric: { allowFrom: ['web@a:7000'] }\n")).await?;
    let [four, six] = place(&b, "db").await?;
    let flows = [flow(&a, &b, four).await?, flow(&a, &b, six).await?];
    let devices = [device(&a)?, device(&b)?];
    a.restart_agent().await?;
    b.restart_agent().await?;
    a.kill_agent()?;
    b.kill_agent()?;
    go_on(&flows).await.context("without agents")?;
    // Either finds its own workload again and what that may do, with nobody to tell of the other.
    for (alone, workload) in [(&a, "web"), (&b, "db")] {
        alone.start_agent().await?;
        alone.wait_running(workload).await?;
        go_on(&flows).await.with_context(|| format!("with the agent of {} alone", alone.name()))?;
        alone.kill_agent()?;
    }
    a.start_agent().await?;
    b.start_agent().await?;
    b.wait_running("db").await?;
    ensure!(place(&b, "db").await? == [four, six], "db is elsewhere");
    for flow in flows {
        let silence = tokio::task::spawn_blocking(move || flow.finish()).await??;
        eprintln!("nothing came for {} ms at most", silence.as_millis());
        ensure!(silence < SILENCE_LIMIT, "nothing came for {silence:?}");
    }
    ensure!(devices == [device(&a)?, device(&b)?], "a device is another one: {devices:?}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn addresses_are_kept_over_restarts_and_power_failures_and_rest_after_a_deletion() -> Result<()> {
    let fleet = enroll(Fleet::netns(2).await?).await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    a.apply(&client("web", "'db@b:8080'")).await?;
    // What comes first has another address than what comes later, whoever starts first.
    b.apply(&client("first", "")).await?;
    b.apply(&server("'web@a:8080'")).await?;
    let (first, db) = (place(&b, "first").await?, place(&b, "db").await?);
    let works = async || {
        eventually(LIMIT, async || {
            ensure!(place(&b, "first").await? == first && place(&b, "db").await? == db, "they moved");
            for at in db.map(|address| SocketAddr::new(address, 8080)) {
                fetch(&a, "web", &format!("http://{at}/")).await?;
            }
            fetch(&a, "web", "http://db.b.fabric:8080/").await
        })
        .await
    };
    works().await.context("at first")?;
    b.fleetctl(&["workload", "restart", "db"]).await?.ok()?;
    works().await.context("after a restart of the workload")?;
    b.restart_agent().await?;
    works().await.context("after kill -9 of the agent")?;
    b.power_cycle().await?;
    works().await.context("after a power failure")?;
    a.power_cycle().await?;
    works().await.context("after a power failure of the other one")?;

    b.delete("first").await?;
    b.apply(&client("later", "")).await?;
    let later = place(&b, "later").await?;
    ensure!(later != first, "{later:?} did not rest");
    b.apply(&client("first", "")).await?;
    ensure!(place(&b, "first").await? == first, "it did not get back what was its own");
    works().await?;
    fleet.passed();
    Ok(())
}
