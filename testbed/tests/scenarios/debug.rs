//! Debug shells on ordinary hosts; those of appliances are in `tests/appliance`.

use std::{fs::File, io::Read as _, os::unix::fs::MetadataExt as _, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::pty::{Winsize, openpty};
use testbed::{
    fixtures,
    scenario::{Capsule, FOREVER, Fleet, Output, eventually, shell},
};
use tokio::process::Child;

use crate::access::enrolled;

/// For a shell to come or go.
const LIMIT: Duration = Duration::from_secs(20);

async fn debug(capsule: &Capsule<'_>, words: &[&str]) -> Result<Output> {
    capsule.fleetctl(&[&["debug", "--image", fixtures::BUSYBOX][..], words].concat()).await
}

/// Names of the shells that there are.
async fn shells(capsule: &Capsule<'_>) -> Result<String> {
    Ok(capsule.fleetctl(&["debug", "--list", "-o", "name"]).await?.ok()?.stdout)
}

async fn expect_none(capsule: &Capsule<'_>) -> Result<()> {
    eventually(LIMIT, async || {
        let left = shells(capsule).await?;
        ensure!(left.is_empty(), "there is still {left}");
        Ok(())
    })
    .await
}

/// Processes of this host with `word` in their command line, in a container with the host's PIDs.
fn processes(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|found| found == word.as_bytes())).count()
}

async fn expect_processes(word: &str, expected: usize) -> Result<()> {
    eventually(LIMIT, async || {
        let found = processes(word);
        ensure!(found == expected, "{found} processes, not {expected}, have {word}");
        Ok(())
    })
    .await
}

/// A command in a debug shell, in the background.
fn spawn(fleet: &Fleet, words: &[&str]) -> Result<Child> {
    let words = [&["-c", "a", "debug", "--image", fixtures::BUSYBOX][..], words].concat();
    let mut command = fleet.operator().command(&words)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

#[tokio::test]
async fn a_debug_shell_sees_the_machine_with_all_rights_and_is_gone_at_its_end() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let refused = a.fleetctl(&["debug", "--", "true"]).await?.expect_code(1)?.stderr;
    ensure!(refused.contains("no debug image on board") && refused.contains("--image"), "{refused}");

    let script = "readlink /proc/self/ns/pid; stat -Lc %i /proc/self/ns/net; grep CapEff /proc/self/status; \
                  grep -c . /host/etc/passwd; echo x >/host/etc/x || echo read-only; stat -c %D /dev /sys; exit 7";
    let output = debug(&a, &["--", "sh", "-c", script]).await?.expect_code(7)?;
    let lines: Vec<&str> = output.stdout.lines().collect();
    let [pid, net, rights, accounts, read_only, devices, system] = lines[..] else {
        anyhow::bail!("{output:?}");
    };
    ensure!(pid == std::fs::read_link("/proc/self/ns/pid")?.to_string_lossy(), "{pid}");
    let namespace = std::fs::metadata(format!("/run/netns/{}", a.namespace()))?.ino();
    ensure!(net == namespace.to_string(), "{net} is not the capsule's network");
    let agent = std::fs::read_to_string(format!("/proc/{}/status", a.agent()?.pid))?;
    ensure!(agent.contains(rights), "{rights} is not what the agent may do");
    let known = std::fs::read_to_string("/etc/passwd")?.lines().count();
    ensure!(accounts == known.to_string() && read_only == "read-only", "{output:?}");
    for (path, device) in [("/dev", devices), ("/sys", system)] {
        let own = format!("{:x}", std::fs::metadata(path)?.dev());
        ensure!(device == own, "{path} is on {device}, not on the host's {own}");
    }
    // When the command has ended, so has its container.
    ensure!(shells(&a).await?.is_empty());

    let events = a.events().await?;
    let line =
        |reason: &str| events.lines().find(|line| line.contains(reason)).unwrap_or_default().to_owned();
    ensure!(line("DebugOpened").contains("with all rights"), "{events}");
    ensure!(line("DebugClosed").contains("ended with 7; the container is removed"), "{events}");
    let key = a.fleetctl(&["key", "list", "-o", "name"]).await?.ok()?.stdout;
    ensure!(line("DebugOpened").contains(key.trim()), "{events} does not name {key}");
    debug(&a, &["--", "nope"]).await?.expect_code(127)?;
    expect_none(&a).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_debug_shell_goes_with_its_client_and_with_its_agent_unless_it_is_kept() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let mut client = spawn(&fleet, &["--", "sleep", "77001"])?;
    expect_processes("77001", 2).await?;
    client.kill().await?;
    expect_none(&a).await?;
    expect_processes("77001", 0).await?;

    let client = spawn(&fleet, &["--", "sleep", "77002"])?;
    expect_processes("77002", 2).await?;
    let kept = debug(&a, &["--keep", "--", "touch", "/mark"]).await?.ok()?;
    ensure!(kept.stderr.contains("is kept on a"), "{kept:?}");
    a.kill_agent()?;
    let ended = client.wait_with_output().await?;
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    a.start_agent().await?;
    expect_processes("77002", 0).await?;
    a.wait_healthy().await?;
    ensure!(a.events().await?.contains("an earlier agent was cut off and left it; removed"));

    let name = shells(&a).await?;
    let name = name.trim();
    ensure!(kept.stderr.contains(name), "{name} is not what was kept");
    a.fleetctl(&["debug", "--enter", name, "--", "test", "-e", "/mark"]).await?.ok()?;
    a.power_cycle().await?;
    let listed = a.fleetctl(&["debug", "--list"]).await?.ok()?.stdout;
    ensure!(listed.contains("ended"), "{listed}");
    a.fleetctl(&["debug", "--enter", name, "--", "test", "-e", "/mark"]).await?.ok()?;
    a.fleetctl(&["debug", "--remove", name]).await?.ok()?;
    ensure!(shells(&a).await?.is_empty());
    let gone = a.fleetctl(&["debug", "--enter", name, "--", "true"]).await?.expect_code(1)?.stderr;
    ensure!(gone.contains("there is no debug shell") && gone.contains("--list"), "{gone}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn only_admins_open_debug_shells_and_no_workload_has_such_a_name() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    for role in ["viewer", "operator"] {
        let other = enrolled(&fleet, &a, role).await?;
        let words = ["-c", "a", "debug", "--image", fixtures::BUSYBOX, "--", "true"];
        let refused = other.run(&words).await?.expect_code(1)?.stderr;
        ensure!(refused.contains("admin"), "{refused}");
    }
    let refused = a.apply_err(&shell("debug-3f2a", FOREVER, "")).await?;
    ensure!(refused.contains("a name of debug shells"), "{refused}");
    let none = a.fleetctl(&["debug", "--image", fixtures::ECHO, "--", "true"]).await?.expect_code(1)?.stderr;
    ensure!(none.contains("needs `sh` and `sleep`"), "{none}");
    expect_none(&a).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_debug_shell_has_the_terminal_of_who_opens_it() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let size = Winsize { ws_row: 33, ws_col: 111, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None)?;
    let ends = || Ok::<_, std::io::Error>(Stdio::from(pty.slave.try_clone()?));
    let words = ["-c", "a", "debug", "--image", fixtures::BUSYBOX];
    let mut command = fleet.operator().command(&words)?;
    command.stdin(ends()?).stdout(ends()?).stderr(ends()?);
    let mut client = command.spawn()?;
    let mut terminal = File::from(pty.master);
    let mut typing = terminal.try_clone()?;
    drop((command, pty.slave));
    std::io::Write::write_all(&mut typing, b"stty size; exit 5\n")?;
    let ended = tokio::time::timeout(LIMIT, client.wait()).await.context("the shell does not end")??;
    let mut shown = vec![0; 4096];
    let count = terminal.read(&mut shown)?;
    let shown = String::from_utf8_lossy(&shown[..count]);
    ensure!(ended.code() == Some(5) && shown.contains("33 111"), "{ended}: {shown}");
    fleet.passed();
    Ok(())
}
