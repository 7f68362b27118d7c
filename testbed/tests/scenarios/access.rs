//! Calls that must be refused, and with which words.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use capsule_proto::token::Claims;
use testbed::{
    fixtures,
    scenario::{Capsule, FOREVER, Fleet, Operator, eventually, shell},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::timeout,
};
use tonic::{Code, Status};

const LIMIT: Duration = Duration::from_secs(20);

fn refused(outcome: Result<(), Status>, codes: &[Code], words: &[&str]) -> Result<()> {
    let Err(status) = outcome else { anyhow::bail!("the call was accepted; expected {codes:?}") };
    ensure!(codes.contains(&status.code()), "expected {codes:?}: {status}");
    let message = status.message().to_lowercase();
    ensure!(words.iter().all(|word| message.contains(word)), "no word of {words:?}: {message}");
    Ok(())
}

const UNKNOWN: &[Code] = &[Code::Unauthenticated];

#[tokio::test]
async fn a_token_is_good_for_one_call_of_one_method_on_one_capsule() -> Result<()> {
    let fleet = Fleet::builder(2).without_images().start().await?;
    let (a, b) = (fleet.capsule("a").forger().await?, fleet.capsule("b").forger().await?);
    let token = a.sign(&a.claims()?)?;
    a.whoami(&token).await?;
    refused(a.whoami(&token).await, UNKNOWN, &[])?;
    refused(a.whoami(&b.sign(&b.claims()?)?).await, UNKNOWN, &[])?;
    refused(a.events(&a.sign(&a.claims()?)?).await, UNKNOWN, &[])?;
    refused(a.whoami("").await, UNKNOWN, &[])?;
    refused(a.whoami("not.a.token").await, UNKNOWN, &[])?;
    a.whoami_claiming(&a.claims()?).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_token_that_ended_or_lasts_too_long_is_refused() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a").forger().await?;
    let honest = a.claims()?;
    let ended = Claims { iat: honest.iat - 20, exp: honest.iat - 10, ..a.claims()? };
    refused(a.whoami_claiming(&ended).await, UNKNOWN, &[])?;
    let endless = Claims { exp: honest.iat + 3600, ..a.claims()? };
    refused(a.whoami_claiming(&endless).await, UNKNOWN, &[])?;
    let foreign = Claims { iss: "0123456789abcdef".to_owned(), ..a.claims()? };
    refused(a.whoami_claiming(&foreign).await, UNKNOWN, &[])?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn clocks_may_differ_by_half_a_minute_and_the_refusal_says_by_how_much() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a").forger().await?;
    for seconds in [-15, 15] {
        a.whoami_claiming(&a.skewed(seconds)?).await?;
    }
    for seconds in [-120, 120] {
        refused(a.whoami_claiming(&a.skewed(seconds)?).await, UNKNOWN, &["clock", "s"])?;
    }
    fleet.passed();
    Ok(())
}

/// Another operator whose key the capsule knows with this role, with the contexts of the first.
pub async fn enrolled(fleet: &Fleet, capsule: &Capsule<'_>, role: &str) -> Result<Operator> {
    let other = fleet.other_operator(role);
    let key = other.run(&["key", "show"]).await?.ok()?.stdout;
    capsule.fleetctl(&["key", "add", key.trim(), "--role", role]).await?.ok()?;
    std::fs::copy(fleet.operator().config().join("contexts.toml"), other.config().join("contexts.toml"))?;
    Ok(other)
}

#[tokio::test]
async fn a_viewer_may_look_but_not_touch() -> Result<()> {
    let fleet = Fleet::builder(1).start().await?;
    let a = fleet.capsule("a");
    let viewer = enrolled(&fleet, &a, "viewer").await?;
    viewer.run(&["-c", "a", "capsule", "info"]).await?.ok()?;
    let manifest = format!("kind: Container\nname: w\ncontainer: {{ image: '{}' }}\n", fixtures::ECHO);
    let refused = viewer.run_with(&["-c", "a", "apply", "-f", "-"], manifest.as_bytes()).await?;
    ensure!(refused.code == 1, "{refused:?}");
    for words in ["role viewer", "to apply manifests it needs role operator", "fleetctl key add"] {
        ensure!(refused.stderr.contains(words), "the refusal does not say {words:?}: {}", refused.stderr);
    }
    ensure!(!refused.stderr.contains("capsule.v1"), "{}", refused.stderr);
    let look =
        async |words: &[&str]| viewer.run_with(&[&["-c", "a"], words].concat(), manifest.as_bytes()).await;
    let foreseen = look(&["apply", "-f", "-", "--dry-run"]).await?.ok()?.stdout;
    ensure!(foreseen == "would create w\n", "{foreseen}");
    look(&["diff", "-f", "-", "--exit-code"]).await?.expect_code(4)?;
    ensure!(a.fleetctl(&["ps", "-o", "name"]).await?.ok()?.stdout.is_empty(), "a viewer changed something");
    a.apply(&manifest).await?;
    look(&["diff", "-f", "-", "--exit-code"]).await?.ok()?;
    let last = a.fleetctl(&["whoami", "-o", "json"]).await?.ok()?.json()?["result"]["key"]["keyId"].clone();
    let last = last.as_str().unwrap_or_default().to_owned();
    ensure!(!last.is_empty(), "whoami shows no key");
    ensure!(a.fleetctl(&["key", "remove", &last]).await?.code == 1, "the last admin was removed");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_removed_loses_what_it_has_open() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    let second = enrolled(&fleet, &a, "operator").await?;
    let whoami = second.run(&["-c", "a", "whoami", "-o", "json"]).await?.ok()?.json()?;
    let id = whoami["result"]["key"]["keyId"].as_str().unwrap_or_default();

    let mut open = Vec::new();
    for words in [&["exec", "w", "--", "sh", "-c", "echo there; sleep 1000"][..], &["events", "-f"]] {
        let mut command = second.command(&[&["-c", "a"], words].concat())?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        ensure!(timeout(LIMIT, lines.next_line()).await??.is_some(), "{words:?} says nothing");
        open.push((words, child, lines));
    }
    a.fleetctl(&["key", "remove", id]).await?.ok()?;
    for (words, child, lines) in open {
        let ended = timeout(LIMIT, child.wait_with_output()).await;
        let ended = ended.with_context(|| format!("{words:?} goes on"))??;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(!ended.status.success() && said.contains("was removed"), "{words:?}: {said}");
        drop(lines);
    }
    eventually(LIMIT, async || {
        let running = a.exec("w", &["ps"]).await?.ok()?.stdout;
        ensure!(!running.contains("sleep 1000"), "{running}");
        Ok(())
    })
    .await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_capsule_with_another_certificate_is_not_talked_to() -> Result<()> {
    let fleet = Fleet::builder(2).without_images().start().await?;
    let contexts = fleet.operator().config().join("contexts.toml");
    let (a, b) = (fleet.capsule("a").api()?.to_string(), fleet.capsule("b").api()?.to_string());
    let text = std::fs::read_to_string(&contexts)?;
    ensure!(text.contains(&a) && text.contains(&b), "{text}");
    std::fs::write(&contexts, text.replace(&a, "@").replace(&b, &a).replace('@', &b))?;
    let refused = fleet.fleetctl(&["-c", "a", "whoami"]).await?;
    ensure!(refused.code == 1, "{refused:?}");
    ensure!((refused.stderr + &refused.stdout).contains("fingerprint"), "the refusal does not say why");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_rotation_cut_short_goes_on_later_and_refused_calls_are_told() -> Result<()> {
    let fleet = Fleet::builder(2).without_images().start().await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    let key = || std::fs::read(fleet.operator().config().join("key.pem"));
    let old = key()?;
    b.kill_agent()?;
    fleet.fleetctl(&["key", "rotate"]).await?.expect_code(3)?;
    ensure!(key()? == old, "the key was replaced although a capsule does not know the new one");
    // It took the next key and refuses the present one: meanwhile each is used where it is known.
    a.fleetctl(&["whoami"]).await?.ok()?;
    b.start_agent().await?;
    fleet.fleetctl(&["--all", "whoami"]).await?.ok()?;
    fleet.fleetctl(&["key", "rotate"]).await?.ok()?;
    ensure!(key()? != old, "the key was not replaced");
    fleet.fleetctl(&["--all", "whoami"]).await?.ok()?;
    let info = a.fleetctl(&["capsule", "info", "-o", "json"]).await?.ok()?.json()?;
    ensure!(info["result"]["refusedCalls"].as_str().is_some_and(|count| count != "0"), "{info}");
    ensure!(a.events().await?.contains("CallRefused"), "no event tells of the refusals");
    fleet.passed();
    Ok(())
}
