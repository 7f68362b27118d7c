//! Capsules that are found without an address, and what is not believed of what is said about them.
//!
//! `fleetctl` runs in the namespace of the testbed's bridge here: what it says by multicast reaches
//! the capsules and nobody else.

mod liar;

use std::{net::UdpSocket, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use capsule_proto::discovery::SERVICE;
use mdns_sd::{IfKind, MDNS_PORT, ServiceDaemon, ServiceEvent};
use serde_json::Value;
use testbed::{
    scenario::{Capsule, Fleet, Output, eventually, on_a_terminal},
    sys::{self, link, netns},
};
use tokio::process::Command;

use liar::{Liar, chatter, ghost, impostor, shout};

/// For a capsule that has moved or restarted to be heard of.
const HEARD_LIMIT: Duration = Duration::from_secs(30);
/// The bridge, where it is.
const BRIDGE: &str = "br0";

/// A program in the namespace of the bridge, as the fleet's operator runs it.
fn on_the_bridge(fleet: &Fleet, program: &str) -> Command {
    let mut command = netns::command(&fleet.testbed().plan().hub(), program);
    command.env_remove("FLEETCTL_CAPSULE").env("NO_COLOR", "1").stdin(Stdio::null());
    command.env("FLEETCTL_INTERFACES", BRIDGE).env("FLEETCTL_CONFIG", fleet.operator().config());
    command.into()
}

async fn finish(mut command: Command, shown: String) -> Result<Output> {
    let started = std::time::Instant::now();
    let output = command.kill_on_drop(true).output().await?;
    Ok(Output {
        command: shown,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        elapsed: started.elapsed(),
    })
}

/// `fleetctl` there.
async fn fleetctl(fleet: &Fleet, words: &[&str]) -> Result<Output> {
    let program = sys::program("fleetctl")?.display().to_string();
    let mut command = on_the_bridge(fleet, &program);
    command.args(words);
    finish(command, format!("fleetctl {}", words.join(" "))).await
}

/// The same on a terminal, where `typed` is typed.
async fn fleetctl_typing(fleet: &Fleet, words: &str, typed: &str) -> Result<Output> {
    let line = format!("{} {words}", sys::program("fleetctl")?.display());
    on_a_terminal(on_the_bridge(fleet, "script"), line, typed).await
}

/// What `fleetctl discover` finds with these words, as objects.
async fn discover(fleet: &Fleet, words: &[&str]) -> Result<Vec<Value>> {
    let words = [&["discover", "-o", "json", "--connect-timeout", "1s"], words].concat();
    let found = fleetctl(fleet, &words).await?.ok()?;
    found.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The same of a capsule by what its host is said to be called, once it is heard of.
async fn find(fleet: &Fleet, hostname: &str, words: &[&str]) -> Result<Value> {
    eventually(HEARD_LIMIT, async || {
        let found = discover(fleet, words).await?;
        let mut rows = found.iter().filter(|row| row["result"]["announced"]["hostname"] == hostname);
        rows.next().cloned().with_context(|| format!("{hostname} is not among {found:?}"))
    })
    .await
}

/// `capsule info` as an object.
async fn info(capsule: &Capsule<'_>) -> Result<Value> {
    capsule.shown(&["capsule", "info"]).await
}

/// What the operator remembers of a capsule.
async fn context(fleet: &Fleet, name: &str) -> Result<Value> {
    let listed = fleet.fleetctl(&["context", "list", "-o", "json"]).await?.ok()?.stdout;
    let rows: Vec<Value> = listed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let row = rows.into_iter().find(|row| row["capsule"] == name);
    Ok(row.with_context(|| format!("there is no context {name}: {listed}"))?["result"]["context"].take())
}

#[tokio::test]
async fn three_capsules_are_found_and_adopted_by_their_short_ids() -> Result<()> {
    let fleet = Fleet::builder(3).unadopted().start().await?;
    let found = discover(&fleet, &["--wait-for", "3"]).await?;
    ensure!(found.len() == 3, "{found:?}");
    ensure!(found.iter().all(|row| row["ok"] == true && row["result"]["announced"]["adopted"] == false));
    ensure!(found.iter().all(|row| row["result"]["standing"] == "unknown"), "{found:?}");
    let b = found.iter().find(|row| row["result"]["announced"]["hostname"] == "b").context("no b")?;

    // On an interface where nobody is, nobody is found; on one that is not there, nobody is looked for.
    let nobody = fleetctl(&fleet, &["discover", "--interface", "lo", "--timeout", "1s"]).await?.ok()?;
    ensure!(nobody.stderr.contains("no such capsule is heard here"), "{nobody:?}");
    let nowhere = fleetctl(&fleet, &["discover", "--interface", "eth9"]).await?.expect_code(2)?;
    ensure!(nowhere.stderr.contains("no network interface \"eth9\""), "{nowhere:?}");

    fleet.capsule("a").adopt().await?;
    let a = find(&fleet, "a", &[]).await?;
    ensure!(a["result"]["announced"]["adopted"] == true && a["result"]["standing"] == "known", "{a}");
    ensure!(a["result"]["context"] == "a");
    let really = info(&fleet.capsule("a")).await?;
    ensure!(a["result"]["fingerprint"] == really["fingerprint"], "{a}\n{really}");
    ensure!(a["result"]["capsuleId"] == really["capsuleId"]);

    let rest = fleetctl(&fleet, &["discover", "--unadopted", "-o", "name"]).await?.ok()?.stdout;
    ensure!(rest.lines().count() == 2 && !rest.contains(a["capsule"].as_str().unwrap_or("?")), "{rest}");
    let none = fleetctl(&fleet, &["discover", "--installers"]).await?.ok()?;
    ensure!(none.stdout.lines().count() == 1, "{none:?}");
    let few = fleetctl(&fleet, &["discover", "--wait-for", "4", "--timeout", "2s"]).await?.expect_code(1)?;
    ensure!(few.stdout.lines().count() == 4 && few.elapsed < Duration::from_secs(6), "{few:?}");

    let deaf = fleetctl(&fleet, &["discover", "--adopt"]).await?.expect_code(2)?.stderr;
    ensure!(deaf.contains("nobody is here to answer") && deaf.contains("fleetctl adopt SHORT-ID"), "{deaf}");
    let short_id = b["capsule"].as_str().context("no short id")?;
    let fingerprint = b["result"]["fingerprint"].as_str().context("no fingerprint")?;
    fleetctl(&fleet, &["adopt", short_id, "--fingerprint", fingerprint]).await?.ok()?;
    ensure!(context(&fleet, "b").await?["fingerprint"] == fingerprint);
    let missing = fleetctl(&fleet, &["adopt", "capsule-0000", "--yes"]).await?.expect_code(1)?.stderr;
    ensure!(missing.contains("announces itself"), "{missing}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn the_unadopted_are_adopted_one_by_one_by_hand() -> Result<()> {
    let fleet = Fleet::builder(2).unadopted().start().await?;
    discover(&fleet, &["--wait-for", "2"]).await?;
    // The first by its usual name, the second not.
    let walked = fleetctl_typing(&fleet, "discover --unadopted --adopt", "\ny\n-\n").await?.ok()?;
    ensure!(walked.stdout.matches("Is it the same on the capsule's banner?").count() == 1, "{walked:?}");
    let names = fleet.fleetctl(&["context", "list", "-o", "name"]).await?.ok()?.stdout;
    ensure!(names == "a\n" || names == "b\n", "{names}");
    // Who does not confirm adopts nothing.
    let refused =
        fleetctl_typing(&fleet, "discover --unadopted --adopt", "attic\nn\n").await?.expect_code(1)?;
    ensure!(refused.stdout.contains("not confirmed: nothing was sent"), "{refused:?}");
    let adopted = fleetctl_typing(&fleet, "discover --adopt", "attic\ny\n").await?.ok()?;
    ensure!(adopted.stdout.contains("attic: adopted"), "{adopted:?}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_host_keeps_the_name_it_was_given_and_its_pin() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    let before = info(&a).await?;
    for wrong in ["Kitchen", "a.b", "a-", ""] {
        let said = a.fleetctl(&["capsule", "set-hostname", wrong]).await?.expect_code(2)?.stderr;
        ensure!(said.contains("1 to 63 of a-z"), "{said}");
    }
    let set = a.fleetctl(&["capsule", "set-hostname", "kitchen", "-o", "json"]).await?.ok()?.json()?;
    ensure!(set["result"]["hostname"] == "kitchen" && set["result"]["previous"] == "a", "{set}");
    let row = find(&fleet, "kitchen", &[]).await?;
    ensure!(row["result"]["standing"] == "known" && row["result"]["context"] == "a", "{row}");
    a.restart_agent().await?;
    let after = info(&a).await?;
    ensure!(after["hostname"] == "kitchen" && after["fingerprint"] == before["fingerprint"], "{after}");
    find(&fleet, "kitchen", &[]).await?;
    let told = a.events().await?;
    ensure!(told.contains("HostnameSet") && told.contains("the host is called kitchen now"), "{told}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_moved_capsule_is_told_of_and_its_context_moves_when_asked() -> Result<()> {
    let fleet = Fleet::builder(2).without_images().start().await?;
    let b = fleet.capsule("b");
    let (old, before) = (b.api()?.ip(), context(&fleet, "b").await?);
    let new = old.to_string().replace(".12", ".150");
    let namespace = b.namespace();
    link::batch_in(
        &namespace,
        &format!(
            "address delete {old}/24 dev eth0\naddress add {new}/24 dev eth0\nroute add default via {}\n",
            fleet.operator_address()
        ),
    )?;
    let moved = eventually(HEARD_LIMIT, async || {
        let row = find(&fleet, "b", &[]).await?;
        ensure!(row["result"]["address"] == format!("{new}:50000"), "{row}");
        Ok(row)
    })
    .await?;
    ensure!(moved["result"]["standing"] == "moved", "{moved}");
    ensure!(context(&fleet, "b").await? == before, "a context moved unasked");
    let hint = fleetctl(&fleet, &["discover"]).await?.ok()?;
    ensure!(hint.stderr.contains("fleetctl discover --refresh"), "{hint:?}");
    ensure!(hint.stdout.contains("b (moved)") && !hint.stdout.contains("a (moved)"), "{hint:?}");
    let refreshed = fleetctl(&fleet, &["discover", "--refresh"]).await?.ok()?;
    ensure!(refreshed.stderr.contains("b moved from"), "{refreshed:?}");
    let after = context(&fleet, "b").await?;
    ensure!(after["address"] == format!("{new}:50000") && after["fingerprint"] == before["fingerprint"]);
    b.fleetctl(&["whoami"]).await?.ok()?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn who_is_announced_and_does_not_answer_is_marked_and_who_says_goodbye_is_gone() -> Result<()> {
    let fleet = Fleet::builder(2).without_images().start().await?;
    let b = fleet.capsule("b");
    link::nft_in(
        &b.namespace(),
        "table inet deaf {\nchain input {\ntype filter hook input priority 0\ntcp dport 50000 drop\n}\n}\n",
    )?;
    let shown = discover(&fleet, &[]).await?;
    let of = |name: &str| shown.iter().find(|row| row["result"]["announced"]["hostname"] == name).cloned();
    let (a, dead) = (of("a").context("no a")?, of("b").context("no b")?);
    ensure!(a["ok"] == true && dead["ok"] == false, "{shown:?}");
    ensure!(dead["error"]["code"] == "timed-out" && dead["result"]["fingerprint"].is_null(), "{dead}");
    let table = fleetctl(&fleet, &["discover", "--connect-timeout", "1s"]).await?.ok()?.stdout;
    let line = table.lines().find(|line| line.contains(" b ")).context("no line")?;
    ensure!(line.ends_with("timed-out"), "{table}");

    let hub = fleet.testbed().plan().hub();
    let listener = netns::inside(&hub, ServiceDaemon::new)??;
    listener.disable_interface(IfKind::All)?;
    listener.enable_interface(BRIDGE)?;
    let events = listener.browse(SERVICE)?;
    a_event(&events, |event| matches!(event, ServiceEvent::ServiceResolved(_))).await?;
    fleet.capsule("a").stop_agent()?;
    a_event(&events, |event| matches!(event, ServiceEvent::ServiceRemoved(..))).await?;
    listener.shutdown()?;
    let left = discover(&fleet, &[]).await?;
    ensure!(left.iter().all(|row| row["result"]["announced"]["hostname"] != "a"), "{left:?}");
    fleet.passed();
    Ok(())
}

/// Waits for an event.
async fn a_event(
    events: &mdns_sd::Receiver<ServiceEvent>,
    is_meant: impl Fn(&ServiceEvent) -> bool,
) -> Result<()> {
    let wait = async {
        while !is_meant(&events.recv_async().await?) {}
        Ok(())
    };
    tokio::time::timeout(HEARD_LIMIT, wait).await.context("nothing of it was heard")?
}

#[tokio::test]
async fn what_a_stranger_announces_of_a_known_capsule_changes_no_context() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    let (really, before) = (info(&a).await?, context(&fleet, "a").await?);
    let id = really["capsuleId"].as_str().context("no id")?;
    let stranger = impostor(&fleet, id)?;
    let _liar = Liar::start(&fleet, id, stranger)?;
    let found = eventually(HEARD_LIMIT, async || {
        let found = discover(&fleet, &["--refresh"]).await?;
        ensure!(found.len() == 2, "{found:?}");
        Ok(found)
    })
    .await?;
    let by_standing = |standing: &str| found.iter().find(|row| row["result"]["standing"] == standing);
    let known = by_standing("known").context("the capsule itself is not found")?;
    ensure!(known["result"]["fingerprint"] == really["fingerprint"], "{known}");
    let forged = by_standing("pin-differs").context("the stranger is not marked")?;
    ensure!(forged["result"]["address"] == stranger.to_string(), "{forged}");
    ensure!(forged["result"]["fingerprint"] != really["fingerprint"]);
    ensure!(context(&fleet, "a").await? == before, "a stranger changed a context");

    // Also where the capsule itself is silent.
    a.stop_agent()?;
    let alone = fleetctl(&fleet, &["discover", "--refresh"]).await?.ok()?;
    ensure!(alone.stdout.contains("NOT a: ITS PIN DIFFERS"), "{alone:?}");
    ensure!(!alone.stdout.contains('\u{202e}') && alone.stdout.contains("nuc\\u{202e}-666"), "{alone:?}");
    ensure!(context(&fleet, "a").await? == before, "a stranger changed a context");
    fleet.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_made_up_capsules_cost_neither_side_its_memory() -> Result<()> {
    /// For whole `fleetctl`, in bytes.
    const MEMORY: u64 = 256 << 20;
    /// For the agent's own pages.
    const AGENT_MEMORY: u64 = 64 << 20;
    let fleet = Fleet::builder(1).without_images().start().await?;
    find(&fleet, "a", &[]).await?;
    let program = sys::program("fleetctl")?.display().to_string();
    let mut bounded = on_the_bridge(&fleet, "prlimit");
    bounded.arg(format!("--data={MEMORY}")).arg(program).args(["discover", "--connect-timeout", "1s"]);
    // Nobody tells when it begins to listen.
    let shouts = async {
        for _ in 0..100 {
            tokio::task::block_in_place(|| shout(&fleet, (0..8000).map(ghost)))?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bail!("fleetctl does not end")
    };
    let found = tokio::select! {
        found = finish(bounded, "fleetctl discover".into()) => found?.ok()?,
        loud = shouts => return loud,
    };
    ensure!(found.stderr.contains("somebody must be making it up"), "{}", found.stderr);
    ensure!(found.stdout.lines().count() < 1100 && found.elapsed < Duration::from_mins(1), "{found:?}");
    let a = fleet.capsule("a");
    tokio::task::block_in_place(|| shout(&fleet, (0..40_000).map(chatter)))?;
    eventually(HEARD_LIMIT, async || {
        let log = a.fleetctl(&["capsule", "logs"]).await?.ok()?.stdout;
        ensure!(log.contains("the mDNS responder is started anew"), "{log}");
        let has = a.agent()?.private_bytes()?;
        ensure!(has < AGENT_MEMORY, "the agent has {has} bytes");
        Ok(())
    })
    .await?;
    find(&fleet, "a", &[]).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn an_agent_starts_without_the_port_and_is_silent_where_it_shall_be() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    find(&fleet, "a", &[]).await?;
    a.stop_agent()?;
    let holder = fleet.from_capsule("a", || Ok(UdpSocket::bind(("0.0.0.0", MDNS_PORT))?)).await?;
    a.start_agent().await?;
    a.fleetctl(&["whoami"]).await?.ok()?;
    eventually(HEARD_LIMIT, async || {
        let log = a.fleetctl(&["capsule", "logs", "-n", "20"]).await?.ok()?.stdout;
        ensure!(log.contains("UDP port 5353 cannot be shared"), "{log}");
        Ok(())
    })
    .await?;
    drop(holder);
    find(&fleet, "a", &[]).await?;
    a.stop_agent()?;
    fleet.testbed().set_options("a", &["--mdns", "off"])?;
    a.start_agent().await?;
    let found = discover(&fleet, &[]).await?;
    ensure!(found.is_empty(), "{found:?}");
    fleet.passed();
    Ok(())
}
