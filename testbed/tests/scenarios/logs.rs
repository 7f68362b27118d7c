//! What workloads write, and how it is read.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    fixtures,
    scenario::{Capsule, Fleet, eventually, shell},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};

/// For a line to come, or a process to end.
const LIMIT: Duration = Duration::from_secs(20);
/// Memory of its own that a log pump may take, one beside each container.
const PUMP_KIB: u64 = 512;

fn writer(name: &str, lines: u32, bytes: u32) -> String {
    format!(
        "kind: Container\nname: {name}\ncontainer:\n  image: {}\n  args: [lines, '{lines}', '{bytes}']\n  restartPolicy: never\n",
        fixtures::ECHO
    )
}

fn follow(fleet: &Fleet, words: &[&str]) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let mut command = fleet.operator().command(&[&["-c", "a", "logs", "-f"], words].concat())?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    Ok((child, lines))
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    let line = tokio::time::timeout(LIMIT, lines.next_line()).await.context("no line comes")??;
    line.context("the stream has ended")
}

/// What the log pumps of a capsule take for themselves, in KiB.
fn pump_memory(a: &Capsule<'_>) -> Result<Vec<u64>> {
    let of = |pid: u32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let pumps = a.processes().into_iter().filter(|process| of(process.pid, "cmdline").contains("log-pump"));
    pumps.map(|process| own_kib(&of(process.pid, "smaps"))).collect()
}

/// What is anonymous in a process' mappings (proc_pid_smaps(5)), without those of its program: the loader writes
/// addresses into them, twice as many in a program that is not optimised.
fn own_kib(smaps: &str) -> Result<u64> {
    let (mut own, mut is_program) = (0, false);
    for line in smaps.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [range, _, _, _, _, ref path @ ..] if range.contains('-') => {
                is_program = path.last().is_some_and(|path| path.ends_with("/capsuled"));
            }
            ["Anonymous:", kib, "kB"] if !is_program => own += kib.parse::<u64>().context("no number")?,
            _ => {}
        }
    }
    ensure!(own > 0, "no mapping in {smaps:?}");
    Ok(own)
}

#[tokio::test]
async fn lines_are_told_apart_and_found_by_number_time_and_run() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let script = "echo run $(cat /proc/sys/kernel/random/uuid); printf 'odd \\377\\n' >&2; \
                  head -c 100000 /dev/zero | tr '\\0' x; echo; for i in 1 2 3; do echo out $i; sleep 0.1; done; \
                  echo end >&2; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
    a.apply(&shell("w", script, "")).await?;
    eventually(LIMIT, async || {
        ensure!(a.logs("w").await?.contains("end\n"), "it has not written all");
        Ok(())
    })
    .await?;
    let none = a.fleetctl(&["logs", "w", "--previous"]).await?.expect_code(1)?;
    ensure!(none.stderr.contains("no run before"), "{none:?}");

    let logs = a.fleetctl(&["logs", "w"]).await?.ok()?;
    let lines: Vec<&str> = logs.stdout.lines().collect();
    ensure!(lines.len() == 5 && lines[1].len() == 100_000 && lines[4] == "out 3", "{lines:?}");
    ensure!(logs.stderr == "odd \u{fffd}\nend\n", "{:?}", logs.stderr);
    let tail = a.fleetctl(&["logs", "w", "-n", "2"]).await?.ok()?;
    ensure!(tail.stdout.lines().count() + tail.stderr.lines().count() == 2, "{tail:?}");

    let stamped = a.fleetctl(&["logs", "w", "-t"]).await?.ok()?.stdout;
    let time = stamped.lines().last().and_then(|line| line.strip_suffix(" out 3")).context("no time")?;
    ensure!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    let since = a.fleetctl(&["logs", "w", "--since", time]).await?.ok()?.stdout;
    ensure!(since == "out 3\n", "since {time}: {since:?}");
    ensure!(a.fleetctl(&["logs", "w", "--since", "0s"]).await?.ok()?.stdout.is_empty());

    let first = lines[0].to_owned();
    a.fleetctl(&["workload", "restart", "w"]).await?.ok()?;
    eventually(LIMIT, async || {
        let now = a.fleetctl(&["logs", "w"]).await?.ok()?.stdout;
        ensure!(now.starts_with("run ") && !now.contains(&first), "the new run has written nothing yet");
        Ok(())
    })
    .await?;
    let previous = a.fleetctl(&["logs", "w", "--previous"]).await?.ok()?.stdout;
    ensure!(previous.lines().next() == Some(&first), "{previous:.200}");

    let taken = pump_memory(&a)?;
    ensure!(taken.len() == 1 && taken[0] <= PUMP_KIB, "log pumps take {taken:?} KiB");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn logs_are_rotated_and_a_follower_misses_nothing() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    // Made before it runs, so that the follower is there from the first line on: 22 MiB.
    a.apply(&shell("w", "mkfifo /fifo; read go < /fifo; seq 460000; exec sleep 1000", "")).await?;
    let (mut child, mut lines) = follow(&fleet, &["w"])?;
    eventually(LIMIT, async || a.exec("w", &["test", "-p", "/fifo"]).await?.ok()).await?;
    a.exec("w", &["sh", "-c", "echo go > /fifo"]).await?.ok()?;
    for at in 1..=460_000 {
        let line = next(&mut lines).await?;
        ensure!(line == at.to_string(), "line {at} is {line}");
    }
    child.kill().await?;
    let dir = a.state_dir().join("logs/w");
    ensure!(segments(&dir)?.len() == 3, "{:?}", segments(&dir)?);

    // 52 MiB on two streams: only the end is kept.
    a.apply(&writer("much", 25_000, 1000)).await?;
    a.wait_phase("much", "PHASE_COMPLETED").await?;
    let dir = a.state_dir().join("logs/much");
    eventually(LIMIT, async || {
        // The streams are read by turns, a pipe's fill of each.
        let logs = a.fleetctl(&["logs", "much", "-n", "500"]).await?.ok()?;
        for (lines, last) in [(&logs.stdout, "out 25000 "), (&logs.stderr, "err 25000 ")] {
            ensure!(lines.lines().last().is_some_and(|line| line.starts_with(last)), "no {last}");
        }
        Ok(())
    })
    .await?;
    let sizes = segments(&dir)?;
    let largest = sizes.iter().max().copied().unwrap_or_default();
    ensure!(sizes.len() == 3 && largest <= 11 << 20, "{sizes:?}");
    let kept = a.fleetctl(&["logs", "much"]).await?.ok()?.stdout;
    let numbers: Vec<u32> = kept.lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect();
    ensure!(
        numbers.len() > 5_000 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "lines are missing"
    );
    fleet.passed();
    Ok(())
}

fn segments(dir: &Path) -> Result<Vec<u64>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len())).collect()
}

#[tokio::test]
async fn following_goes_on_over_restarts_of_agent_and_workload() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let script = "i=0; trap 'exit 0' TERM; while :; do i=$((i+1)); echo $i; echo $i >&2; sleep 0.02; done";
    a.apply(&shell("w", script, "")).await?;
    let (child, mut lines) = follow(&fleet, &["w"])?;
    let mut seen: Vec<u32> = Vec::new();
    while seen.len() < 20 {
        seen.push(next(&mut lines).await?.parse()?);
    }
    a.kill_agent()?;
    let until = seen.len() as u32 + 50;
    // It writes on while nobody reads: what it has written by then comes later.
    tokio::time::sleep(Duration::from_millis(500)).await;
    a.start_agent().await?;
    while seen.last().is_none_or(|last| *last < until) {
        seen.push(next(&mut lines).await?.parse()?);
    }
    a.wait_healthy().await?;
    a.fleetctl(&["workload", "restart", "w"]).await?.ok()?;
    loop {
        seen.push(next(&mut lines).await?.parse()?);
        if seen.last() == Some(&1) {
            break;
        }
    }
    for _ in 0..20 {
        seen.push(next(&mut lines).await?.parse()?);
    }
    let second = seen.iter().rposition(|number| *number == 1).context("no second run")?;
    for run in [&seen[..second], &seen[second..]] {
        let whole = run.iter().zip(1..).all(|(number, expected)| *number == expected);
        ensure!(whole, "lines were lost or doubled: {run:?}");
    }
    a.delete("w").await?;
    while tokio::time::timeout(LIMIT, lines.next_line()).await.context("it goes on")??.is_some() {}
    let ended = tokio::time::timeout(LIMIT, child.wait_with_output()).await??;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.code() == Some(1) && said.contains("the workload was deleted"), "{said}");
    ensure!(said.contains("a: going on"), "{said}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_full_disk_stops_no_workload_and_the_loss_is_told() -> Result<()> {
    let fleet = Fleet::builder(1).disk("a", 256 << 20).start().await?;
    let a = fleet.capsule("a");
    let script = "i=0; while :; do i=$((i+1)); echo line $i; echo $i > /dev/shm/n; sleep 0.005; done";
    a.apply(&shell("w", script, "")).await?;
    let pid = a.pid("w").await?;
    let counter = || -> Result<u64> {
        Ok(fs::read_to_string(format!("/proc/{pid}/root/dev/shm/n"))?.trim().parse().unwrap_or_default())
    };
    a.fill_disk(0)?;
    let full_at = counter()?;
    // A block of the segment may still have room for some.
    eventually(LIMIT, async || {
        ensure!(counter()? > full_at + 400, "the workload stands still on a full disk");
        Ok(())
    })
    .await?;
    a.free_disk()?;
    let freed_at = counter()?;
    eventually(LIMIT, async || {
        let logs = a.fleetctl(&["logs", "w", "-n", "2000"]).await?.ok()?;
        let last = logs.stdout.lines().last().and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok());
        ensure!(last.is_some_and(|last| last > freed_at), "nothing is written any more: {last:?}");
        ensure!(logs.stderr.contains("lines lost: the disk was full"), "the loss is not told");
        Ok(())
    })
    .await?;
    ensure!(a.pid("w").await? == pid, "the workload was restarted");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn the_agent_s_own_log_is_followed_over_its_restarts_and_no_line_is_doubled() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    let log = a.state_dir().join("agent.log");
    let follow = |tail: &[&str]| {
        let mut command =
            fleet.operator().command(&[&["-c", "a", "capsule", "logs", "-f"], tail].concat())?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        anyhow::Ok((child, lines))
    };
    let (mut all, mut last) = (follow(&[])?, follow(&["-n", "1"])?);
    let (first_of_all, first_of_last) = (next(&mut all.1).await?, next(&mut last.1).await?);
    // Killed, and ended by an init system.
    a.restart_agent().await?;
    a.wait_healthy().await?;
    a.stop_agent()?;
    a.start_agent().await?;
    a.wait_healthy().await?;

    let text = fs::read_to_string(&log)?;
    for (first, lines) in [(first_of_all, &mut all.1), (first_of_last, &mut last.1)] {
        let mut written = text.lines().skip_while(|line| **line != first);
        ensure!(written.next().is_some(), "{first:?} is not in {text}");
        for line in written {
            let got = next(lines).await?;
            ensure!(got == line, "{line:?} came as {got:?}");
        }
    }
    ensure!(text.matches("AgentStarted").count() == 3, "three starts are not in {text}");
    all.0.kill().await?;
    last.0.kill().await?;
    let said = String::from_utf8(last.0.wait_with_output().await?.stderr)?;
    ensure!(said.contains("Going on as soon as it is back") && !said.contains("https://"), "{said}");
    fleet.passed();
    Ok(())
}
