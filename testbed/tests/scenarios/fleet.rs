//! One command on many capsules, dead ones among them.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use capsule_client::{ConfigError, Home};
use serde_json::Value;
use testbed::{
    fixtures,
    scenario::{Fleet, Output},
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// More than are called at once.
const DEAD: usize = 100;
/// Within this a live capsule's row is on the screen, also on a busy machine; well below the 5 s
/// that a dead one is waited for.
const LIVE_LIMIT: Duration = Duration::from_secs(3);

/// `PREFIX-0`, `PREFIX-1`, …: contexts that lead to where `name`'s does, and are other capsules.
fn add_dead(fleet: &Fleet, name: &str, prefix: &str) -> Result<()> {
    let home = Home::at(fleet.operator().config());
    Ok(home.update(|contexts| {
        let like = contexts.get(name)?.clone();
        (0..DEAD).try_for_each(|at| {
            let context = capsule_client::Context { capsule_id: format!("dead-{at}"), ..like.clone() };
            contexts.insert(&format!("{prefix}-{at}"), context)
        })?;
        Ok::<_, ConfigError>(())
    })?)
}

#[tokio::test]
async fn a_crowd_of_dead_capsules_holds_up_no_live_one() -> Result<()> {
    let fleet = Fleet::builder(2).without_images().start().await?;
    // Last in the order, so that all the dead are begun with before it.
    fleet.fleetctl(&["context", "rename", "a", "z"]).await?.ok()?;
    add_dead(&fleet, "b", "dead")?;
    fleet.capsule("b").partition()?;
    let mut command = fleet.operator().command(&["--all", "capsule", "info"])?;
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let heading = lines.next_line().await?.unwrap_or_default();
    let first = lines.next_line().await?.unwrap_or_default();
    let waited = started.elapsed();
    ensure!(heading.starts_with("CAPSULE") && first.starts_with("z "), "{heading}\n{first}");
    ensure!(waited < LIVE_LIMIT, "the live row came after {waited:?}");
    let mut dead = 0;
    while let Some(line) = lines.next_line().await? {
        ensure!(line.contains("error: ") && line.contains("within 5 s"), "{line}");
        dead += 1;
    }
    ensure!(dead == DEAD + 1, "{dead} rows of {} dead capsules", DEAD + 1);
    ensure!(child.wait().await?.code() == Some(3), "some answered, some did not");
    fleet.capsule("b").heal()?;
    fleet.passed();
    Ok(())
}

/// The objects that `-o json` printed, held against docs/json.md.
fn envelopes(output: &Output) -> Result<Vec<Value>> {
    let parse = |line: &str| -> Result<Value> {
        let object: Value =
            serde_json::from_str(line).with_context(|| format!("{}: {line}", output.command))?;
        ensure!(object["capsule"].is_string(), "{line}");
        let (has_result, error) = (object.get("result").is_some(), &object["error"]);
        let is_ok = object["ok"].as_bool().with_context(|| format!("no `ok`: {line}"))?;
        let has_error = error["code"].is_string() && error["message"].is_string();
        ensure!(has_result == is_ok && has_error != is_ok, "{line}");
        Ok(object)
    };
    output.stdout.lines().map(parse).collect()
}

const LISTS: [&[&str]; 9] = [
    &["ps"],
    &["workload", "list"],
    &["image", "list"],
    &["volume", "list"],
    &["key", "list"],
    &["whoami"],
    &["capsule", "info"],
    &["version", "--capsules"],
    &["workload", "get", "w"],
];

#[tokio::test]
async fn every_verb_speaks_for_all_capsules_in_every_format() -> Result<()> {
    let fleet = Fleet::netns(2).await?;
    let script = "echo out; echo err >&2; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
    let image = fixtures::BUSYBOX;
    let manifests = format!(
        "kind: Container\nname: w\ncontainer:\n  image: {image}\n  command: [sh, -c, \"{script}\"]\n---\n\
         kind: Volume\nname: v\nsize: 16M\n"
    );
    let applied = fleet.operator().run_with(&["--all", "apply", "-f", "-", "--wait"], manifests.as_bytes());
    applied.await?.ok()?;
    for list in LISTS {
        let run = async |format: &str| fleet.fleetctl(&[&["--all", "-o", format], list].concat()).await?.ok();
        let objects = envelopes(&run("json").await?)?;
        ensure!(objects.len() == 2 && objects.iter().all(|o| o["ok"] == true), "{list:?}: {objects:?}");
        for format in ["table", "wide", "yaml", "name"] {
            let text = run(format).await?.stdout;
            ensure!(["a", "b"].iter().all(|name| text.contains(name)), "{list:?} -o {format}: {text}");
        }
    }
    let said = fleet.fleetctl(&["--all", "exec", "w", "--", "echo", "hi"]).await?.ok()?.stdout;
    ensure!(said.contains("[a] hi\n") && said.contains("[b] hi\n"), "{said}");
    let logs = fleet.fleetctl(&["--all", "logs", "w"]).await?.ok()?;
    ensure!(logs.stdout.contains("[a] out\n") && logs.stdout.contains("[b] out\n"), "{logs:?}");
    ensure!(logs.stderr.contains("[a] err\n") && logs.stderr.contains("[b] err\n"), "{logs:?}");
    for stream in [&["events", "-n", "1"][..], &["capsule", "logs", "-n", "1"]] {
        let lines = fleet.fleetctl(&[&["--all"], stream].concat()).await?.ok()?.stdout;
        let mut capsules: Vec<&str> = lines.lines().map(|line| &line[..4]).collect();
        capsules.sort_unstable();
        ensure!(capsules == ["[a] ", "[b] "], "{stream:?}: {lines}");
    }
    exit_codes(&fleet).await?;
    fleet.passed();
    Ok(())
}

/// 0 all, 3 some, 1 none, 2 wrong usage; `exec` passes the command's own.
async fn exit_codes(fleet: &Fleet) -> Result<()> {
    let exec = async |script: &str| fleet.fleetctl(&["-c", "a", "exec", "w", "--", "sh", "-c", script]).await;
    exec("exit 7").await?.expect_code(7)?;
    exec("kill -9 $$").await?.expect_code(137)?;
    fleet.fleetctl(&["--all", "ps"]).await?.expect_code(0)?;
    fleet.capsule("b").kill_agent()?;
    let some = fleet.fleetctl(&["--all", "ps", "-o", "json"]).await?.expect_code(3)?;
    let dead =
        envelopes(&some)?.into_iter().find(|object| object["ok"] == false).context("nobody is dead")?;
    ensure!(dead["capsule"] == "b" && dead["error"]["code"] == "unreachable", "{dead}");
    fleet.fleetctl(&["-c", "b", "ps"]).await?.expect_code(1)?;
    fleet.fleetctl(&["-c", "c", "ps"]).await?.expect_code(2)?;
    fleet.fleetctl(&["--all", "exec", "w", "--", "true"]).await?.expect_code(3)?;
    let paused = fleet.capsule("a");
    paused.pause()?;
    let late = fleet.fleetctl(&["-c", "a", "ps", "--timeout", "1s"]).await?.expect_code(1)?;
    ensure!(late.elapsed < Duration::from_secs(4), "--timeout 1s took {:?}", late.elapsed);
    paused.resume()
}
