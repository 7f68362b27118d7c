//! Why one workload reaches another, or does not: what `fleetctl fabric explain` says of each.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::{
    scenario::{Capsule, FOREVER, Fleet, echo, eventually, shell},
    sys::link,
};

use crate::mesh::enroll;

/// For a first connection, and for what changes to be known: on a machine that has much else to do.
const LIMIT: Duration = Duration::from_mins(1);
/// Every hop in the order of the walk.
const HOPS: [&str; 10] =
    ["source", "destination", "name", "allowTo", "allowFrom", "route", "path", "mtu", "delivery", "socket"];

/// What one run said, with its exit code.
struct Told {
    code: i32,
    walk: Value,
}

impl Told {
    fn hop(&self, name: &str) -> &Value {
        let hops = self.walk["hops"].as_array().into_iter().flatten();
        hops.into_iter().find(|hop| hop["hop"] == name).unwrap_or(&Value::Null)
    }

    fn verdict(&self, name: &str) -> &str {
        self.hop(name)["verdict"].as_str().unwrap_or_default()
    }

    /// Holds that every hop passes.
    fn passes(&self) -> Result<()> {
        ensure!(self.code == 0 && self.walk["passes"] == true, "{} {}", self.code, self.walk);
        ensure!(HOPS.iter().all(|hop| self.verdict(hop) == "ok"), "{}", self.walk);
        Ok(())
    }

    /// Holds that this hop is the first that fails, for this reason, and that this mends it.
    fn fails(&self, hop: &str, why: &str, remedy: &str) -> Result<()> {
        ensure!(self.code == 1 && self.walk["firstFailure"] == hop, "not {hop}: {} {}", self.code, self.walk);
        let found = self.hop(hop);
        let says = |key: &str, text: &str| found[key].as_str().is_some_and(|said| said.contains(text));
        ensure!(says("why", why) && says("remedy", remedy), "not {why:?} and {remedy:?}: {found}");
        Ok(())
    }
}

async fn explain(fleet: &Fleet, from: &str, to: &str) -> Result<Told> {
    let output = fleet.fleetctl(&["fabric", "explain", from, to, "-o", "json"]).await?;
    let walk = output.json().with_context(|| format!("{} {}", output.code, output.stderr))?;
    Ok(Told { code: output.code, walk })
}

/// A client and a server that may talk, and a client that the server does not allow.
async fn story() -> Result<Fleet> {
    let fleet = enroll(Fleet::netns(2).await?).await?;
    let client = |name: &str| {
        shell(name, FOREVER, "  fabric: { allowTo: ['db@b:8080', 'db@b:8099', 'db@b:9000/udp'] }\n")
    };
    let clients = client("web") + "---\n" + &client("other") + "---\n" + &shell("plain", FOREVER, "");
    fleet.capsule("a").apply(&clients).await?;
    let allowed = "  fabric: { allowFrom: ['web@a:8080', 'web@a:8099', 'web@a:9000/udp'] }\n";
    fleet.capsule("b").apply(&echo("db", allowed)).await?;
    eventually(LIMIT, async || explain(&fleet, "web@a", "db@b:8080").await?.passes()).await?;
    Ok(fleet)
}

async fn wget(from: &Capsule<'_>, workload: &str, url: &str) -> Result<i32> {
    Ok(from.exec(workload, &["busybox", "timeout", "2", "wget", "-q", "-O", "-", url]).await?.code)
}

#[tokio::test]
async fn the_first_hop_that_fails_is_named_with_what_mends_it() -> Result<()> {
    let fleet = story().await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    let ask = async |from: &str, to: &str| explain(&fleet, from, to).await;

    let shown = fleet.fleetctl(&["fabric", "explain", "web@a", "db@b:8080"]).await?.ok()?.stdout;
    ensure!(shown.contains("every hop passes: web@a reaches db@b:8080/tcp"), "{shown}");
    let db = b.workload("db").await?["status"]["fabric"].clone();
    let address = |key: &str| db[key].as_str().with_context(|| format!("db has no address: {db}"));
    ask("web@a", &format!("{}:8080", address("ipv4")?)).await?.passes()?;
    ask("web@a", &format!("[{}]:8080", address("ipv6")?)).await?.passes()?;

    // Who is not there.
    ask("wbe@a", "db@b:8080").await?.fails("source", "did you mean web@a?", "workload list")?;
    ask("web@a", "dbb@b:8080").await?.fails("destination", "did you mean db@b?", "workload list")?;
    ask("web@a", "db@z:8080").await?.fails("destination", "no member z", "fleetctl fabric enroll z")?;
    ask("plain@a", "db@b:8080").await?.fails("source", "no fabric block", "allowTo: [\"db@b:8080/tcp\"]")?;
    ask("web@a", "192.0.2.1:80").await?.fails("destination", "no address of the fabric", "fabric status")?;

    // Who may not, on either side.
    ask("web@a", "db@b:9090").await?.fails(
        "allowTo",
        "db@b:8080/tcp",
        "add to allowTo of web@a: db@b:9090/tcp",
    )?;
    ask("web@a", "db@b/icmp").await?.fails("allowTo", "db@b/icmp", "add to allowTo of web@a: db@b/icmp")?;
    ensure!(wget(&a, "other", "http://db.b.fabric:8080/").await? != 0, "db does not allow it");
    let refused = ask("other@a", "db@b:8080").await?;
    refused.fails(
        "allowFrom",
        "packets were refused of late",
        "add to allowFrom of db@b: other@a:8080/tcp",
    )?;
    ensure!(
        refused.hop("allowFrom")["capsule"] == "b" && refused.verdict("allowTo") == "ok",
        "{}",
        refused.walk
    );
    ask("host@a", "db@b:8080").await?.fails(
        "allowFrom",
        "host@a:8080/tcp",
        "allowFrom of db@b: host@a:8080/tcp",
    )?;
    ask("web@a", "host@b:22").await?.fails("allowTo", "host@b:22/tcp", "takes no connections")?;

    // Only small packets pass, nobody listens, or nobody runs.
    let hub = fleet.testbed().plan().hub();
    link::batch_in(&hub, "link set p-b mtu 1380\n")?;
    let narrow = ask("web@a", "db@b:8080").await?;
    narrow.fails("mtu", "are lost on the way", "set the MTU of the uplink of a to")?;
    ensure!(narrow.verdict("path") == "ok", "{}", narrow.walk);
    link::batch_in(&hub, "link set p-b mtu 1500\n")?;
    ask("web@a", "db@b:8099").await?.fails(
        "socket",
        "it does at 7000, 8080",
        "have db@b listen at 8099/tcp",
    )?;
    b.fleetctl(&["workload", "stop", "db"]).await?.ok()?;
    b.wait_phase("db", "PHASE_STOPPED").await?;
    ask("web@a", "db@b:8080").await?.fails(
        "destination",
        "db@b does not run",
        "fleetctl workload start db@b",
    )?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn of_an_end_that_does_not_answer_the_other_tells() -> Result<()> {
    let fleet = story().await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    let ask = async |from: &str, to: &str| explain(&fleet, from, to).await;

    b.kill_agent()?;
    let told = ask("web@a", "db@b:8080").await?;
    told.passes()?;
    ensure!(
        told.hop("socket")["capsule"] == "a" && told.walk["notes"].to_string().contains("b did not answer")
    );
    ask("web@a", "db@b:8099").await?.fails("socket", "nothing listens", "have db@b listen at 8099/tcp")?;
    let blind = ask("web@a", "db@b:9000/udp").await?;
    ensure!(blind.code == 3 && blind.walk["firstFailure"].is_null(), "{} {}", blind.code, blind.walk);
    ensure!(blind.verdict("path") == "ok" && blind.verdict("allowFrom") == "unknown", "{}", blind.walk);
    b.start_agent().await?;
    // It hears from a again where web is.
    eventually(LIMIT, async || ask("web@a", "db@b:8080").await?.passes()).await?;
    ensure!(wget(&a, "web", "http://db.b.fabric:8080/").await? == 0, "web reaches db");

    a.kill_agent()?;
    let told = ask("web@a", "db@b:8080").await?;
    ensure!(told.code == 3 && told.verdict("name") == "unknown", "{} {}", told.code, told.walk);
    let by_b = ["source", "allowTo", "route", "path", "mtu"];
    ensure!(
        by_b.iter().all(|hop| told.verdict(hop) == "ok" && told.hop(hop)["capsule"] == "b"),
        "{}",
        told.walk
    );
    a.start_agent().await?;
    eventually(LIMIT, async || ask("web@a", "db@b:8080").await?.passes()).await?;

    b.partition()?;
    let cut = ask("web@a", "db@b:8080").await?;
    cut.fails("path", "b does not answer a", "fleetctl fabric set-endpoint b")?;
    ensure!(cut.verdict("name") == "ok" && cut.verdict("allowFrom") == "unknown", "{}", cut.walk);
    b.heal()?;
    fleet.passed();
    Ok(())
}
