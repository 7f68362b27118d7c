//! How containers end, start again, stand still and become ready, and what is told of it.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::scenario::{Capsule, FOREVER, Fleet, echo, eventually, shell};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};

const LIMIT: Duration = Duration::from_secs(30);

/// Has ended, or has been asked to, only by SIGKILL.
const STUBBORN: &str = "trap '' TERM; while :; do sleep 1; done";

fn policy(policy: &str) -> String {
    format!("  restartPolicy: {policy}\n")
}

#[tokio::test]
async fn every_policy_does_as_it_says_and_how_a_run_ended_is_told() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    // The second run of a container finds what the first one wrote.
    let second_succeeds = "test -e /tmp/been && exit 0; touch /tmp/been; exit 4";
    let manifests = [
        shell("fails", "exit 7", &policy("never")),
        shell("ends", "exit 0", &policy("never")),
        shell("dies", "kill -9 $$", "  restartPolicy: never\n  hostPid: true\n"),
        shell("retries", second_succeeds, &policy("on-failure")),
        shell("again", "exit 0", &policy("always")),
        shell("crashes", "echo cannot go on >&2; exit 3", ""),
        echo("eats", "  args: [eat, '200']\n  resources: { memoryMib: 32 }\n  restartPolicy: never\n"),
    ];
    a.fleetctl_with(&["apply", "-f", "-"], manifests.join("---\n").as_bytes()).await?.ok()?;
    let failed = a.wait_phase("fails", "PHASE_FAILED").await?;
    ensure!(failed["status"]["lastExit"]["code"] == 7, "{failed}");
    ensure!(failed["status"]["reason"] == "it ended with exit code 7", "{failed}");
    let ended = a.wait_phase("ends", "PHASE_COMPLETED").await?;
    ensure!(ended["status"]["lastExit"].get("code").is_none_or(|code| code == 0), "{ended}");
    let killed = a.wait_phase("dies", "PHASE_FAILED").await?;
    ensure!(killed["status"]["lastExit"]["signal"] == "SIGKILL", "{killed}");
    let eaten = a.wait_phase("eats", "PHASE_FAILED").await?;
    ensure!(eaten["status"]["lastExit"]["oomKilled"] == true, "{eaten}");
    ensure!(ended["status"].get("restarts").is_none(), "what ran once was not restarted: {ended}");
    let retried = a.wait_phase("retries", "PHASE_COMPLETED").await?;
    ensure!(retried["status"]["restarts"] == 1, "{retried}");
    let again = a.wait_phase("again", "PHASE_CRASH_LOOP").await?;
    ensure!(again["status"]["restarts"].as_u64() >= Some(2), "{again}");
    let looping = a.wait_phase("crashes", "PHASE_CRASH_LOOP").await?;
    ensure!(looping["status"]["reason"].as_str().is_some_and(|r| r.contains("exit code 3")), "{looping}");
    ensure!(looping["status"]["nextStartAt"].is_string(), "{looping}");

    let table = a.fleetctl(&["ps"]).await?.ok()?.stdout;
    for shown in
        ["CrashLoop (exit 3)", "Failed (exit 7)", "Failed (SIGKILL)", "Failed (out of memory)", "Completed"]
    {
        ensure!(table.contains(shown), "`fleetctl ps` does not show {shown:?}:\n{table}");
    }
    let events = a.fleetctl(&["events", "--subject", "crashes"]).await?.ok()?.stdout;
    let waits: Vec<u32> = events.lines().filter_map(wait_in).collect();
    ensure!(waits.starts_with(&[1, 2, 4]), "back-off does not double: {waits:?}\n{events}");

    // An agent that restarts neither runs again what is over nor counts an end twice.
    a.restart_agent().await?;
    a.wait_healthy().await?;
    let retried = a.wait_phase("retries", "PHASE_COMPLETED").await?;
    ensure!(retried["status"]["restarts"] == 1, "{retried}");
    let resumed = a.wait_phase("crashes", "PHASE_CRASH_LOOP").await?;
    ensure!(resumed["status"]["restarts"].as_u64() >= looping["status"]["restarts"].as_u64(), "{resumed}");
    a.wait_phase("fails", "PHASE_FAILED").await?;
    ensure!(a.logs("fails").await?.is_empty());
    fleet.passed();
    Ok(())
}

/// `… starts again in 2 s`
fn wait_in(line: &str) -> Option<u32> {
    line.split("starts again in ").nth(1)?.split(' ').next()?.parse().ok()
}

#[tokio::test]
async fn what_an_operator_wanted_outlives_agent_and_host() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let manifests = [
        echo("on", "  ports: [{ containerPort: 8080, hostPort: 8080 }]\n"),
        shell("off", FOREVER, ""),
        shell("retries", FOREVER, &policy("on-failure")),
        shell("once", FOREVER, &policy("never")),
        shell("done", "exit 0", &policy("on-failure")),
        shell("stubborn", STUBBORN, "  stopGraceSeconds: 4\n"),
    ];
    a.fleetctl_with(&["apply", "-f", "-"], manifests.join("---\n").as_bytes()).await?.ok()?;
    for name in ["on", "off", "retries", "once", "stubborn"] {
        a.wait_running(name).await?;
    }
    a.wait_phase("done", "PHASE_COMPLETED").await?;
    a.fleetctl(&["workload", "stop", "off"]).await?.ok()?;
    a.wait_phase("off", "PHASE_STOPPED").await?;

    let (stubborn, on) = (a.pid("stubborn").await?, a.pid("on").await?);
    a.fleetctl(&["workload", "restart", "stubborn"]).await?.ok()?;
    a.kill_agent()?;
    ensure!(std::path::Path::new(&format!("/proc/{stubborn}")).exists(), "it ended before the agent died");
    a.start_agent().await?;
    a.wait_healthy().await?;
    let restarted = eventually(LIMIT, async || {
        let pid = a.pid("stubborn").await?;
        ensure!(pid != stubborn, "the restart is forgotten: PID {pid} goes on");
        Ok(pid)
    });
    let restarted = restarted.await?;
    a.wait_phase("off", "PHASE_STOPPED").await?;
    ensure!(a.pid("on").await? == on, "the agent's death disturbed a workload");

    a.power_cycle().await?;
    a.wait_healthy().await?;
    for name in ["on", "retries", "stubborn"] {
        a.wait_running(name).await?;
    }
    ensure!(a.pid("stubborn").await? != restarted);
    fleet.expect_reachable("on@a", 8080).await?;
    let once = a.wait_phase("once", "PHASE_FAILED").await?;
    ensure!(once["status"]["reason"].as_str().is_some_and(|reason| reason.contains("lost")), "{once}");
    a.wait_phase("off", "PHASE_STOPPED").await?;
    a.wait_phase("done", "PHASE_COMPLETED").await?;
    ensure!(a.fleetctl(&["ps"]).await?.ok()?.stdout.contains("Failed (lost)"));

    a.restart_agent().await?;
    a.wait_healthy().await?;
    a.wait_phase("once", "PHASE_FAILED").await?;
    a.fleetctl(&["workload", "start", "once", "off"]).await?.ok()?;
    a.wait_running("once").await?;
    a.wait_running("off").await?;
    fleet.passed();
    Ok(())
}

async fn unready(a: &Capsule<'_>, name: &str, why: &str) -> Result<Value> {
    eventually(LIMIT, async || {
        let workload = a.workload(name).await?;
        let status = &workload["status"];
        let says = status["reason"].as_str().is_some_and(|reason| reason.contains(why));
        ensure!(says && status["ready"] != true, "{name} does not say {why:?}: {workload}");
        Ok(workload)
    })
    .await
}

async fn ready(a: &Capsule<'_>, name: &str) -> Result<()> {
    a.fleetctl(&["workload", "wait", name, "--for", "ready", "--timeout", "30s"]).await?.ok().map(drop)
}

#[tokio::test]
async fn readiness_is_probed_and_a_failing_probe_says_why() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let probe = |text: &str| format!("  readiness: {{ {text}, interval: 200ms, threshold: 2 }}\n");
    let listens = "trap 'exit 0' TERM; until test -e /tmp/go; do sleep 0.1; done; while :; do nc -l -p 7000 -e true & wait $!; done";
    let file = "exec: { command: [sh, -c, 'test -e /tmp/ok || { echo no file yet; exit 3; }'] }";
    let manifests = [
        shell("tcp", listens, &probe("tcp: { port: 7000 }")),
        echo("http", &probe("http: { port: 8080, path: /healthz }")),
        echo("gone", &probe("http: { port: 8080, path: /nowhere }")),
        echo("broken", &probe("http: { port: 8080, path: /visits }")),
        shell("exec", FOREVER, &probe(file)),
        shell("slow", FOREVER, &probe("exec: { command: [sleep, '100'] }, timeout: 300ms")),
        shell("wrong", FOREVER, &probe("exec: { command: [nothing-like-this] }")),
    ];
    a.fleetctl_with(&["apply", "-f", "-"], manifests.join("---\n").as_bytes()).await?.ok()?;
    unready(&a, "tcp", "TCP port 7000: connection refused").await?;
    unready(&a, "gone", "/nowhere answered status 404").await?;
    unready(&a, "broken", "/visits answered status 500").await?;
    unready(&a, "exec", "ended with exit code 3: no file yet").await?;
    // The reason is there from the first failure on, the event from the second.
    eventually(LIMIT, async || {
        let events = a.fleetctl(&["events", "--subject", "exec"]).await?.ok()?.stdout;
        ensure!(events.contains("NotReady"), "{events}");
        Ok(())
    })
    .await?;
    unready(&a, "slow", "`sleep 100` gave no answer within 300ms").await?;
    unready(&a, "wrong", "nothing-like-this").await?;
    ready(&a, "http").await?;
    ensure!(a.fleetctl(&["ps"]).await?.ok()?.stdout.contains("Running (not ready)"));

    a.exec("tcp", &["touch", "/tmp/go"]).await?.ok()?;
    a.exec("exec", &["touch", "/tmp/ok"]).await?.ok()?;
    ready(&a, "tcp").await?;
    ready(&a, "exec").await?;
    let was = a.pid("exec").await?;
    a.exec("exec", &["rm", "/tmp/ok"]).await?.ok()?;
    unready(&a, "exec", "exit code 3").await?;
    ensure!(a.pid("exec").await? == was, "a workload that is not ready is not restarted");
    let events = a.fleetctl(&["events", "--subject", "exec"]).await?.ok()?.stdout;
    let told: Vec<_> = events.lines().filter(|line| line.contains("Ready")).collect();
    ensure!(told.len() == 3 && told[0].contains("NotReady") && told[0].contains("no file yet"), "{events}");
    ensure!(!told[1].contains("NotReady") && told[2].contains("exit code 3"), "{events}");
    a.restart_agent().await?;
    ready(&a, "http").await?;
    let events = a.fleetctl(&["events", "--subject", "http"]).await?.ok()?.stdout;
    ensure!(events.matches(" Ready ").count() == 1, "another agent told of the same run again:\n{events}");
    let left = a.exec("slow", &["sh", "-c", "ps | grep -c '[s]leep 100' || true"]).await?.ok()?.stdout;
    ensure!(left.trim().parse::<u32>()? <= 1, "probes that were given up run on: {left}");
    fleet.passed();
    Ok(())
}

/// Reasons that `fleetctl events -f` prints about `subject`, up to the first `last`.
async fn reasons_until(
    lines: &mut (impl AsyncBufRead + Unpin),
    subject: &str,
    last: &str,
) -> Result<Vec<String>> {
    let (mut reasons, mut line) = (Vec::new(), String::new());
    loop {
        line.clear();
        let read = tokio::time::timeout(LIMIT, lines.read_line(&mut line)).await;
        let read = read.with_context(|| format!("no {last} after {reasons:?}"))??;
        ensure!(read > 0, "the stream ended before {last}: {reasons:?}");
        let mut words = line.split_whitespace().skip(2);
        if words.next() == Some(subject) {
            reasons.push(words.next().unwrap_or_default().to_owned());
        }
        if reasons.last().is_some_and(|reason| reason == last) {
            return Ok(reasons);
        }
    }
}

#[tokio::test]
async fn every_change_of_a_workload_is_an_event_as_it_happens() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let mut follower = fleet.operator().command(&["-c", "a", "events", "-f"])?;
    let mut follower = follower.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(follower.stdout.take().context("no stdout")?);
    // Every step waits for what the one before it told: nothing is missed, nothing is early.
    let mut expect = async |expected: &[&str]| {
        let last = expected.last().copied().unwrap_or_default();
        let reasons = reasons_until(&mut lines, "workload/w", last).await?;
        ensure!(reasons == expected, "told {reasons:?}, not {expected:?}");
        Ok(())
    };
    a.fleetctl_with(&["apply", "-f", "-"], shell("w", FOREVER, "").as_bytes()).await?.ok()?;
    expect(&["Created", "Started"]).await?;
    a.fleetctl(&["workload", "stop", "w"]).await?.ok()?;
    expect(&["Stopping", "Exited", "Stopped"]).await?;
    a.fleetctl(&["workload", "start", "w"]).await?.ok()?;
    expect(&["Started"]).await?;
    a.fleetctl(&["workload", "restart", "w"]).await?.ok()?;
    expect(&["Stopping", "Started"]).await?;
    a.apply_err(&shell("w", FOREVER, "  mounts: [{ volumeName: no, mountPath: /x }]\n")).await?;
    expect(&["ApplyRefused"]).await?;
    let stubborn = shell("w", STUBBORN, "  stopGraceSeconds: 1\n");
    a.fleetctl_with(&["apply", "-f", "-"], stubborn.as_bytes()).await?.ok()?;
    expect(&["Recreated", "Stopping", "Started"]).await?;
    a.fleetctl_with(&["apply", "-f", "-"], shell("w", "exit 9", "").as_bytes()).await?.ok()?;
    expect(&["Recreated", "Stopping", "Killed", "Started", "Exited", "BackOff"]).await?;
    expect(&["Started", "Exited", "BackOff", "Started", "Exited", "CrashLoop"]).await?;
    let none = "kind: Container\nname: w\ncontainer: { image: '127.0.0.1:1/none:1' }\n";
    a.fleetctl_with(&["apply", "-f", "-"], none.as_bytes()).await?.ok()?;
    expect(&["Recreated", "Pulling", "BackOff"]).await?;
    a.fleetctl(&["workload", "delete", "w"]).await?.ok()?;
    let rest = reasons_until(&mut lines, "workload/w", "Deleted").await?;
    ensure!(
        rest.iter().all(|reason| ["Pulling", "BackOff", "Deleting", "Deleted"].contains(&&**reason)),
        "{rest:?}"
    );
    follower.kill().await?;
    fleet.passed();
    Ok(())
}
