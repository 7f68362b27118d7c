//! Agent and containerd are killed at random instants while operators work: what was promised is
//! there, once, and nothing else is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use testbed::{
    scenario::{Capsule, Fleet, echo, eventually, wait_listens},
    sys::{netns, run},
};

/// How often the agent dies.
const KILLS: u32 = 100;
/// How often containerd does: its supervisor waits longer each time.
const ENGINE_KILLS: u32 = 4;
/// For everything to be as wanted once nobody is killed any more.
const SETTLE: Duration = Duration::from_mins(1);

/// What an operator may be sure of about one workload: it is one of these.
type Possible = BTreeSet<State>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Absent,
    /// With this number in its spec.
    Runs(u32),
    Stopped(u32),
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Apply(u32),
    Delete,
    Stop,
    Start,
}

impl Wish {
    fn random(rng: &mut StdRng, number: u32) -> Self {
        match rng.random_range(0..10) {
            0..6 => Self::Apply(number),
            6..8 => Self::Delete,
            8 => Self::Stop,
            _ => Self::Start,
        }
    }

    /// What becomes of a workload where this is committed.
    fn on(self, state: State) -> State {
        match (self, state) {
            (Self::Apply(number), State::Stopped(_)) | (Self::Stop, State::Runs(number)) => {
                State::Stopped(number)
            }
            (Self::Apply(number), _) | (Self::Start, State::Stopped(number)) => State::Runs(number),
            (Self::Delete, _) | (_, State::Absent) => State::Absent,
            (_, state) => state,
        }
    }
}

/// A seed that a failed run prints, and `CAPSULE_SEED` repeats as far as timing allows.
fn seed() -> Result<u64> {
    let seed = match std::env::var("CAPSULE_SEED") {
        Ok(text) => text.parse().context("CAPSULE_SEED")?,
        Err(_) => rand::random(),
    };
    eprintln!("CAPSULE_SEED={seed}");
    Ok(seed)
}

fn numbered(name: &str, number: u32) -> String {
    echo(
        name,
        &format!(
            "  env: {{ NUMBER: '{number}' }}\n  ports: [{{ containerPort: 8080, hostPort: 0 }}]\n  stopGraceSeconds: 1\n"
        ),
    )
}

/// Tells the capsule one wish. `Some(true)` committed, `Some(false)` refused, `None` who knows.
async fn tell(a: &Capsule<'_>, name: &str, wish: Wish) -> Result<Option<bool>> {
    let json = ["-o", "json", "--timeout", "10s"];
    let manifest = match wish {
        Wish::Apply(number) => numbered(name, number),
        _ => String::new(),
    };
    let words: &[&str] = match wish {
        Wish::Apply(_) => &["apply", "-f", "-"],
        Wish::Delete => &["workload", "delete", name, "--no-wait"],
        Wish::Stop => &["workload", "stop", name, "--no-wait"],
        Wish::Start => &["workload", "start", name],
    };
    let output = a.fleetctl_with(&[words, &json].concat(), manifest.as_bytes()).await?;
    let answer: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    Ok(match answer["error"]["code"].as_str() {
        None if answer["ok"] == true => Some(true),
        Some("conflict" | "not-found") => Some(false),
        // An agent that dies within a handshake looks like no capsule.
        Some("unreachable" | "unavailable" | "timed-out" | "protocol" | "local") | None => None,
        Some(other) => bail!("{wish:?} of {name} ended with {other}: {}", output.stdout),
    })
}

/// Works on workloads of its own until told to end; what may have become of them.
async fn operate(
    a: &Capsule<'_>,
    names: &[&'static str],
    seed: u64,
    done: &AtomicBool,
) -> Result<(BTreeMap<&'static str, Possible>, u32)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut known: BTreeMap<_, Possible> = names.iter().map(|name| (*name, [State::Absent].into())).collect();
    let (mut number, mut committed) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        number += 1;
        let name = names[rng.random_range(0..names.len())];
        let wish = Wish::random(&mut rng, number);
        let before = known.remove(name).unwrap_or_default();
        let after: Possible = before.iter().map(|state| wish.on(*state)).collect();
        let now = match tell(a, name, wish).await? {
            Some(true) => {
                committed += 1;
                after
            }
            Some(false) => before,
            None => {
                // A dead agent is asked again in a moment; a storm of calls would prove nothing more.
                tokio::time::sleep(Duration::from_millis(30)).await;
                before.union(&after).copied().collect()
            }
        };
        known.insert(name, now);
    }
    Ok((known, committed))
}

/// Kills and starts the agent; every fourth time before it listens, and often before it serves.
async fn harm_agent(a: &Capsule<'_>, seed: u64) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    for at in 0..KILLS {
        a.spawn_agent()?;
        if at % 4 != 0 {
            wait_listens(a.api()?, SETTLE).await?;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..600))).await;
        a.kill_agent()?;
    }
    a.start_agent().await.map(drop)
}

async fn harm_engine(a: &Capsule<'_>, seed: u64) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..ENGINE_KILLS {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..1500))).await;
        let before = a.containerd()?;
        a.kill_containerd()?;
        eventually(SETTLE, async || {
            ensure!(a.containerd()? != before, "containerd is not started again");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn ctr(a: &Capsule<'_>, words: &[&str]) -> Result<BTreeSet<String>> {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(a.state_dir().join("containerd/containerd.sock"));
    command.args(["--namespace", "capsule"]).args(words);
    Ok(run(&mut command, "")?.lines().map(str::to_owned).collect())
}

/// Name to state and whole workload, of all there are.
async fn found(a: &Capsule<'_>) -> Result<BTreeMap<String, (State, Value)>> {
    let list = a.fleetctl(&["ps", "-o", "json"]).await?.ok()?.json()?;
    let workloads = list["result"]["workloads"].as_array().cloned().unwrap_or_default();
    let mut found = BTreeMap::new();
    for workload in workloads {
        let name = workload["manifest"]["name"].as_str().context("no name")?.to_owned();
        let number = workload["manifest"]["container"]["env"][0]["value"].as_str().unwrap_or("0").parse()?;
        let state = match workload["status"]["phase"].as_str() {
            Some("PHASE_RUNNING") => State::Runs(number),
            Some("PHASE_STOPPED") => State::Stopped(number),
            other => bail!("{name} is in {other:?}: {workload}"),
        };
        found.insert(name, (state, workload));
    }
    Ok(found)
}

/// Everything is as somebody may expect it, with one task for each that runs.
async fn check(a: &Capsule<'_>, known: &BTreeMap<&str, Possible>) -> Result<()> {
    let found = eventually(SETTLE, async || found(a).await).await?;
    for (name, possible) in known {
        let state = found.get(*name).map_or(State::Absent, |(state, _)| *state);
        ensure!(possible.contains(&state), "{name} is {state:?}, and only {possible:?} can be");
    }
    let running: BTreeSet<String> = found
        .iter()
        .filter(|(_, (state, _))| matches!(state, State::Runs(_)))
        .map(|(name, _)| name.clone())
        .collect();
    let tasks = ctr(a, &["tasks", "list", "--quiet"])?;
    ensure!(tasks == running, "tasks {tasks:?} of workloads {running:?}");
    let containers = ctr(a, &["containers", "list", "--quiet"])?;
    let all: BTreeSet<String> = found.keys().cloned().collect();
    ensure!(
        containers.is_subset(&all) && running.is_subset(&containers),
        "sandboxes {containers:?} of {all:?}"
    );
    let inits: BTreeSet<u64> = found.values().filter_map(|(_, w)| w["status"]["pid"].as_u64()).collect();
    ensure!(inits.len() == running.len(), "{inits:?} of {running:?}");
    // One program runs in each of them, and nowhere else: a doubled one would be one more.
    let echoes: Vec<String> = a
        .processes()
        .iter()
        .filter(|process| command_of(process.pid).contains("/echo"))
        .map(|process| format!("{} {} {}", process.pid, command_of(process.pid), cgroup_of(process.pid)))
        .collect();
    ensure!(echoes.len() == running.len(), "{echoes:#?} of {running:?} with {inits:?}");
    let addresses: BTreeSet<&str> =
        found.values().filter_map(|(_, w)| w["status"]["ipv4"].as_str()).collect();
    ensure!(addresses.len() == found.len(), "{} addresses of {} workloads", addresses.len(), found.len());
    ensure!(veths(a)?.len() == running.len(), "{:?} of {running:?}", veths(a)?);
    Ok(())
}

fn command_of(pid: u32) -> String {
    fs::read(format!("/proc/{pid}/cmdline"))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn cgroup_of(pid: u32) -> String {
    let all = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    all.lines().find(|line| line.contains("pids")).unwrap_or("in no cgroup of ours").to_owned()
}

fn veths(a: &Capsule<'_>) -> Result<Vec<String>> {
    let text = run(netns::command(&a.namespace(), "ip").args(["-br", "link", "show", "type", "veth"]), "")?;
    Ok(text.lines().filter(|line| line.starts_with("cv")).map(str::to_owned).collect())
}

fn mounts_below(dir: &Path) -> Result<Vec<String>> {
    let all = fs::read_to_string("/proc/self/mounts")?;
    let dir = dir.display().to_string();
    Ok(all.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect())
}

fn loops_below(dir: &Path) -> Vec<String> {
    let blocks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = blocks.filter_map(|block| fs::read_to_string(block.path().join("loop/backing_file")).ok());
    files.filter(|file| Path::new(file.trim()).starts_with(dir)).collect()
}

fn children(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// After everything was deleted: nothing but agent, engine and images is there.
fn check_empty(a: &Capsule<'_>, images: &BTreeSet<String>) -> Result<()> {
    let (state, none) = (a.state_dir(), BTreeSet::new());
    ensure!(ctr(a, &["containers", "list", "--quiet"])? == none);
    ensure!(ctr(a, &["tasks", "list", "--quiet"])? == none);
    ensure!(ctr(a, &["leases", "list", "--quiet"])? == none, "{:?}", ctr(a, &["leases", "list", "--quiet"])?);
    let snapshots = ctr(a, &["snapshots", "list"])?;
    ensure!(snapshots == *images, "snapshots leak: {snapshots:?}");
    ensure!(veths(a)?.is_empty(), "{:?}", veths(a)?);
    ensure!(mounts_below(&state)?.is_empty(), "{:?}", mounts_below(&state)?);
    ensure!(loops_below(&state).is_empty(), "{:?}", loops_below(&state));
    for dir in ["network", "logs", "tmp/exec"] {
        ensure!(children(&state.join(dir)).is_empty(), "{dir} holds {:?}", children(&state.join(dir)));
    }
    let shims = a.processes().iter().filter(|process| command_of(process.pid).contains("shim")).count();
    ensure!(shims == 0, "{shims} shims are left");
    let filter = run(netns::command(&a.namespace(), "nft").args(["list", "ruleset"]), "")?;
    ensure!(!filter.contains("elements"), "{filter}");
    Ok(())
}

const STILL: [&str; 2] = ["still", "keeps"];

/// Two workloads that nobody touches; their PIDs.
async fn still(a: &Capsule<'_>) -> Result<Vec<u64>> {
    let mounts = "  env: { NUMBER: '0' }\n  mounts: [{ volumeName: data, mountPath: /data }]\n";
    let ports = "  env: { NUMBER: '0' }\n  ports: [{ containerPort: 8080, hostPort: 8080 }]\n";
    let volume = "kind: Volume\nname: data\nsize: 16M\n";
    a.apply(&format!("{volume}---\n{}---\n{}", echo(STILL[0], mounts), echo(STILL[1], ports))).await?;
    pids(a).await
}

async fn pids(a: &Capsule<'_>) -> Result<Vec<u64>> {
    Ok(vec![a.pid(STILL[0]).await?, a.pid(STILL[1]).await?])
}

/// Two operators work while `harm` is done; then all is held against what they know.
async fn survive(harm: impl AsyncFnOnce(&Capsule<'_>, u64) -> Result<()>) -> Result<()> {
    let seed = seed()?;
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let images = ctr(&a, &["snapshots", "list"])?;
    let first = still(&a).await?;
    let done = AtomicBool::new(false);
    let harmed = async {
        let outcome = harm(&a, seed).await;
        done.store(true, Ordering::Relaxed);
        outcome
    };
    let (harmed, one, two) = tokio::join!(
        harmed,
        operate(&a, &["c1", "c2", "c3"], seed ^ 1, &done),
        operate(&a, &["d1", "d2", "d3"], seed ^ 2, &done),
    );
    harmed?;
    let ((mut known, one), (more, two)) = (one?, two?);
    known.extend(more);
    eprintln!("{one} + {two} wishes were committed; known: {known:?}");
    ensure!(one + two >= 100, "hardly anything was done between the kills");
    a.wait_healthy().await?;
    check(&a, &known).await?;
    ensure!(pids(&a).await? == first, "workloads that nobody touched were restarted");
    fleet.expect_reachable("keeps@a", 8080).await?;

    let names: Vec<String> = found(&a).await?.into_keys().collect();
    let delete: Vec<&str> =
        ["workload", "delete"].into_iter().chain(names.iter().map(String::as_str)).collect();
    a.fleetctl(&delete).await?.ok()?;
    eventually(SETTLE, async || check_empty(&a, &images)).await?;
    a.fleetctl(&["volume", "delete", "data"]).await?.ok()?;
    // The lowest free address is the one that was given first: none leaked.
    a.apply(&echo("last", "")).await?;
    let last = a.workload("last").await?["status"]["ipv4"].clone();
    ensure!(last.as_str().is_some_and(|address| address.ends_with(".2")), "addresses leak: {last}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_killed_a_hundred_times_loses_nothing_and_doubles_nothing() -> Result<()> {
    survive(harm_agent).await
}

#[tokio::test]
async fn a_containerd_that_is_killed_while_workloads_change_costs_none_of_them() -> Result<()> {
    survive(harm_engine).await
}
