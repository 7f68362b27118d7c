//! A capsule behind a bad line.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use testbed::scenario::{FOREVER, Fleet, shell};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::{Instant, timeout, timeout_at},
};

/// Of the packets, each way.
const LOSS: u8 = 20;
/// For all of a story's lines from the capsule behind the bad line.
const LIMIT: Duration = Duration::from_mins(1);
/// For an answer from those that are near, with all that runs beside the test.
const PROMPT: Duration = Duration::from_secs(3);
/// Lines that each workload writes, and the time between two.
const LINES: usize = 40;
const PACE: Duration = Duration::from_millis(50);
/// Calls until one gets through.
const TRIES: usize = 10;

/// Whether the first lines of a command on all three capsules, `a` and `b` among them, come
/// promptly, and whether `c` answers at all.
async fn asked(fleet: &Fleet, words: &[&str], stdin: &'static str) -> Result<bool> {
    let mut command = fleet.operator().command(&[&["--all", "-o", "json"], words].concat())?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut input = child.stdin.take().context("no stdin")?;
    tokio::io::AsyncWriteExt::write_all(&mut input, stdin.as_bytes()).await?;
    drop(input);
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let (begun, mut near, mut far) = (Instant::now(), 0, false);
    while let Some(line) = timeout(LIMIT, lines.next_line()).await.context("it hangs")?? {
        let answer: serde_json::Value = serde_json::from_str(&line)?;
        if answer["capsule"] == "c" {
            far = answer["ok"] == true;
            continue;
        }
        ensure!(answer["ok"] == true, "{answer}");
        ensure!(begun.elapsed() < PROMPT, "{words:?}: one that is near came after {:?}", begun.elapsed());
        near += 1;
    }
    ensure!(near >= 2, "{words:?}: only {near} of those that are near");
    timeout(LIMIT, child.wait()).await??;
    Ok(far)
}

/// Now and then the bad line loses too much in a row; never may that cost the others.
async fn until_all_answer(fleet: &Fleet, words: &[&str], stdin: &'static str) -> Result<()> {
    for _ in 0..TRIES {
        if asked(fleet, words, stdin).await? {
            return Ok(());
        }
    }
    bail!("{words:?}: c did not answer {TRIES} times")
}

/// Which capsule wrote which of the lines.
fn numbered(line: &str) -> Result<(usize, usize)> {
    let prefixes = ["[a] ", "[b] ", "[c] "].into_iter().enumerate();
    let mut found = prefixes.filter_map(|(at, prefix)| Some((at, line.strip_prefix(prefix)?.parse().ok()?)));
    found.next().with_context(|| format!("an odd line: {line:?}"))
}

#[tokio::test]
async fn a_capsule_that_loses_packets_is_slow_and_delays_nobody_else() -> Result<()> {
    let fleet = Fleet::netns(3).await?;
    let script = format!(
        "mkfifo /go; read go < /go; for i in $(seq {LINES}); do echo $i; sleep 0.05; done; {FOREVER}"
    );
    let manifest = shell("w", &script, "");
    fleet.operator().run_with(&["--all", "apply", "-f", "-", "--wait"], manifest.as_bytes()).await?.ok()?;
    let mut command = fleet.operator().command(&["--all", "logs", "-f", "w"])?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut follower = command.spawn()?;
    let mut lines = BufReader::new(follower.stdout.take().context("no stdout")?).lines();
    for name in ["a", "b", "c"] {
        fleet.capsule(name).exec("w", &["sh", "-c", "echo > /go"]).await?.ok()?;
    }
    let (mut seen, mut done) = ([0; 3], [None; 3]);
    let (end, mut bad_since) = (Instant::now() + LIMIT, None);
    while seen != [LINES; 3] {
        let line = timeout_at(end, lines.next_line()).await.with_context(|| format!("only {seen:?}"))??;
        let (at, number) = numbered(&line.context("the stream has ended")?)?;
        ensure!(number == seen[at] + 1, "{number} came after {} from {at}", seen[at]);
        seen[at] = number;
        done[at] = Some(Instant::now());
        // Every stream is open before the line gets bad.
        if bad_since.is_none() && !seen.contains(&0) {
            fleet.capsule("c").packet_loss(LOSS)?;
            bad_since = Some(Instant::now());
        }
    }
    for near in &done[..2] {
        let took = near.context("no line")?.duration_since(bad_since.context("the line was never bad")?);
        ensure!(took < PROMPT + PACE * LINES as u32, "one that is near took {took:?}");
    }
    follower.kill().await?;

    until_all_answer(&fleet, &["ps"], "").await?;
    until_all_answer(&fleet, &["apply", "-f", "-"], "kind: Volume\nname: data\nsize: 16M\n").await?;
    fleet.capsule("c").heal()?;
    let volumes = fleet.fleetctl(&["--all", "volume", "list", "-o", "name"]).await?.ok()?;
    ensure!(volumes.stdout.lines().count() == 3, "{volumes:?}");
    fleet.passed();
    Ok(())
}
