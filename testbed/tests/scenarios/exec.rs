//! Commands inside workloads.

use std::{
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testbed::{
    fixtures,
    scenario::{Capsule, FOREVER, Fleet, eventually, shell},
};
use tokio::process::Child;

/// For a process to end that should.
const END: Duration = Duration::from_secs(15);

/// `fleetctl exec` in the background.
fn spawn(fleet: &Fleet, words: &[&str]) -> Result<Child> {
    let mut command = fleet.operator().command(&[&["-c", "a", "exec"], words].concat())?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = child.id().context("fleetctl has ended")?;
    Ok(kill(Pid::from_raw(pid as i32), signal)?)
}

/// How many processes of the workload have `word` in their command line.
async fn count(a: &Capsule<'_>, word: &str) -> Result<usize> {
    let processes = a.exec("w", &["ps", "-o", "args"]).await?.ok()?.stdout;
    Ok(processes.lines().filter(|line| line.contains(word)).count())
}

async fn expect_count(a: &Capsule<'_>, word: &str, expected: usize) -> Result<()> {
    eventually(END, async || {
        let found = count(a, word).await?;
        ensure!(found == expected, "{found} processes, not {expected}, have {word} in their command line");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn exec_passes_streams_and_exit_codes_through() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    a.apply(&format!("kind: Container\nname: bare\ncontainer:\n  image: {}\n", fixtures::ECHO)).await?;

    let output = a.exec("w", &["sh", "-c", "echo out; echo err >&2; exit 42"]).await?.expect_code(42)?;
    ensure!(output.stdout == "out\n" && output.stderr == "err\n", "{output:?}");
    for (command, code, word) in [
        (&["nope"][..], 127, "not found"),
        (&["/no/such"], 127, "no such file"),
        (&["/etc/passwd"], 126, "permission denied"),
        (&["sh", "-c", "kill -9 $$"], 137, ""),
        (&["sh", "-c", "kill -15 $$"], 143, ""),
    ] {
        let output = a.exec("w", command).await?.expect_code(code)?;
        ensure!(output.stderr.contains(word), "{output:?}");
    }
    a.exec("bare", &["/echo", "exit", "9"]).await?.expect_code(9)?;

    let words = ["exec", "-e", "A=b c", "-w", "/tmp", "-u", "1000:1000", "w", "--", "sh", "-c"];
    let said = a.fleetctl(&[&words[..], &["pwd; id -u; echo $A"]].concat()).await?.ok()?.stdout;
    ensure!(said == "/tmp\n1000\nb c\n", "{said}");

    let noise = fixtures::noise(8 << 20, 1);
    let sum = a.fleetctl_with(&["exec", "-i", "w", "--", "sha256sum"], &noise).await?.ok()?;
    let sum = format!("sha256:{}", sum.stdout.trim_end_matches("  -\n"));
    ensure!(sum == fixtures::image::digest(&noise), "{sum}");
    let nothing = a.fleetctl(&["exec", "-i", "w", "--", "cat"]).await?.ok()?;
    ensure!(nothing.stdout.is_empty(), "{nothing:?}");
    let numbers = a.exec("w", &["seq", "4000000"]).await?.ok()?.stdout;
    ensure!(numbers.ends_with("\n4000000\n") && numbers.lines().count() == 4_000_000, "output was lost");

    let calls = (0..20).map(|at| {
        let a = a.clone();
        async move { a.exec("w", &["echo", &at.to_string()]).await?.ok().map(|output| output.stdout) }
    });
    let said = futures_util::future::try_join_all(calls).await?;
    ensure!(said == (0..20).map(|at| format!("{at}\n")).collect::<Vec<_>>(), "{said:?}");

    a.fleetctl(&["workload", "stop", "w"]).await?.ok()?;
    a.wait_phase("w", "PHASE_STOPPED").await?;
    let refused = a.exec("w", &["true"]).await?.expect_code(1)?.stderr;
    ensure!(refused.contains("is stopped") && refused.contains("workload start"), "{refused}");
    let unknown = a.exec("ww", &["true"]).await?.expect_code(1)?.stderr;
    ensure!(unknown.contains("Did you mean \"w\"?"), "{unknown}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_command_ends_with_its_client_and_with_its_agent() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    let pid = a.pid("w").await?;
    // A pipeline, whose parts outlive their shell unless they are killed with it.
    let pipeline = ["w", "--", "sh", "-c", "sleep 7777 | sleep 7778"];

    let mut client = spawn(&fleet, &pipeline)?;
    expect_count(&a, "sleep 777", 3).await?;
    signal(&client, Signal::SIGKILL)?;
    client.wait().await?;
    expect_count(&a, "sleep 777", 0).await?;

    let client = spawn(&fleet, &pipeline)?;
    expect_count(&a, "sleep 777", 3).await?;
    a.kill_agent()?;
    let ended = client.wait_with_output().await?;
    ensure!(ended.status.code() == Some(1) && !ended.stderr.is_empty(), "{ended:?}");
    a.start_agent().await?;
    a.wait_healthy().await?;
    expect_count(&a, "sleep 777", 0).await?;
    ensure!(a.pid("w").await? == pid, "the workload was restarted");
    ensure!(a.exec("w", &["echo", "again"]).await?.ok()?.stdout == "again\n");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn signals_reach_the_command_and_a_second_one_ends_the_call() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    for (sent, name, code) in [(Signal::SIGTERM, "TERM", 3), (Signal::SIGINT, "INT", 4)] {
        let script =
            format!("trap 'echo got; exit {code}' {name}; touch /tmp/{name}; while :; do sleep 0.1; done");
        let client = spawn(&fleet, &["w", "--", "sh", "-c", &script])?;
        eventually(END, async || a.exec("w", &["test", "-e", &format!("/tmp/{name}")]).await?.ok()).await?;
        signal(&client, sent)?;
        let ended = client.wait_with_output().await?;
        ensure!(ended.status.code() == Some(code) && ended.stdout == b"got\n", "{ended:?}");
    }
    // It ignores the signal and reads nothing of its input, which is stuck.
    let script = "trap '' INT; sleep 7777; true";
    let mut client = spawn(&fleet, &["-i", "w", "--", "sh", "-c", script])?;
    let mut stdin = client.stdin.take().context("no stdin")?;
    let feed = tokio::spawn(async move {
        let piece = vec![0; 1 << 20];
        while tokio::io::AsyncWriteExt::write_all(&mut stdin, &piece).await.is_ok() {}
    });
    expect_count(&a, "sleep 7777", 2).await?;
    signal(&client, Signal::SIGINT)?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    signal(&client, Signal::SIGINT)?;
    let ended = tokio::time::timeout(END, client.wait()).await.context("two interrupts do not end it")??;
    ensure!(ended.code() == Some(130), "{ended}");
    feed.abort();
    expect_count(&a, "sleep 7777", 0).await?;
    fleet.passed();
    Ok(())
}

/// What a terminal shows until `until` is among it.
fn read_until(terminal: &mut std::fs::File, seen: &mut String, until: &str) -> Result<()> {
    let mut buffer = [0; 4096];
    while !seen.contains(until) {
        let count = terminal.read(&mut buffer).with_context(|| format!("no {until:?} in {seen:?}"))?;
        let piece = String::from_utf8_lossy(&buffer[..count]);
        eprint!("{piece}");
        seen.push_str(&piece);
    }
    Ok(())
}

/// What a person does there.
fn at_the_terminal(mut terminal: std::fs::File, slave: &OwnedFd, pid: u32) -> Result<()> {
    let mut seen = String::new();
    terminal.write_all(b"test -t 0 && stty size; echo en''d\n")?;
    read_until(&mut terminal, &mut seen, "end\r\n")?;
    ensure!(seen.contains("33 111"), "{seen}");
    resize(slave, "44", "122", pid)?;
    terminal.write_all(b"until stty size | grep '44 122'; do sleep 0.1; done; echo resi''zed\n")?;
    read_until(&mut terminal, &mut seen, "resized\r\n")?;
    terminal.write_all(b"echo slee''ping; sleep 1000\n")?;
    read_until(&mut terminal, &mut seen, "sleeping\r\n")?;
    // Ctrl-C, as a key.
    terminal.write_all(b"\x03")?;
    Ok(terminal.write_all(b"exit 7\n")?)
}

#[tokio::test]
async fn a_terminal_has_its_size_its_resizes_and_its_keys() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    let size = Winsize { ws_row: 33, ws_col: 111, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None)?;
    let ends = || Ok::<_, std::io::Error>(Stdio::from(pty.slave.try_clone()?));
    let mut command = fleet.operator().command(&["-c", "a", "exec", "-t", "w", "--", "sh"])?;
    command.stdin(ends()?).stdout(ends()?).stderr(ends()?);
    let mut client = command.spawn()?;
    let master: OwnedFd = pty.master;
    let pid = client.id().context("fleetctl has ended")?;
    let slave = pty.slave;
    let (done, story) = tokio::sync::oneshot::channel();
    // On a thread that nobody waits for: a terminal that says nothing more would hold it for ever.
    let terminal = std::fs::File::from(master);
    std::thread::spawn(move || done.send(at_the_terminal(terminal, &slave, pid)));
    tokio::time::timeout(END, story).await.context("the terminal says nothing more")???;
    let ended = tokio::time::timeout(END, client.wait()).await.context("the shell does not end")??;
    ensure!(ended.code() == Some(7), "{ended}");
    fleet.passed();
    Ok(())
}

/// As a terminal emulator does it, which is nobody's parent here and so must signal itself.
fn resize(terminal: &OwnedFd, rows: &str, columns: &str, pid: u32) -> Result<()> {
    let mut stty = std::process::Command::new("stty");
    stty.args(["rows", rows, "cols", columns]).stdin(Stdio::from(terminal.try_clone()?));
    ensure!(stty.status()?.success(), "stty cannot resize the terminal");
    Ok(kill(Pid::from_raw(pid as i32), Signal::SIGWINCH)?)
}

#[tokio::test]
async fn exec_on_all_prefixes_lines_and_counts_who_succeeded() -> Result<()> {
    let fleet = Fleet::netns(2).await?;
    for name in ["a", "b"] {
        fleet.capsule(name).apply(&shell("w", FOREVER, "")).await?;
    }
    fleet.capsule("b").exec("w", &["touch", "/only-here"]).await?.ok()?;
    let all =
        fleet.fleetctl(&["--all", "exec", "w", "--", "sh", "-c", "echo out; echo err >&2"]).await?.ok()?;
    let mut lines: Vec<&str> = all.stdout.lines().chain(all.stderr.lines()).collect();
    lines.sort_unstable();
    ensure!(lines == ["[a] err", "[a] out", "[b] err", "[b] out"], "{all:?}");
    let some =
        fleet.fleetctl(&["--all", "exec", "w", "--", "test", "-e", "/only-here"]).await?.expect_code(3)?;
    ensure!(some.stderr.contains("a: the command ended with exit 1"), "{some:?}");
    let none = fleet.fleetctl(&["--all", "exec", "w", "--", "nope"]).await?.expect_code(1)?;
    ensure!(none.stderr.matches("not found").count() == 2, "{none:?}");
    fleet.passed();
    Ok(())
}
