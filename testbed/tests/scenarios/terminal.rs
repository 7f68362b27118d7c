//! What `fleetctl` shows on a terminal, and what it keeps away from one.

use std::{fs::File, io::Read as _, os::fd::OwnedFd, process::Stdio, sync::mpsc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::pty::{Winsize, openpty};
use testbed::{
    fixtures,
    scenario::{FOREVER, Fleet, Operator, eventually, shell},
};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
};

/// For a command to end.
const END: Duration = Duration::from_secs(20);
/// What makes a terminal take the next bytes as a command.
const ESCAPE: char = '\x1b';

/// What of a command is the terminal; the rest is lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Streams {
    Both,
    Stderr,
}

/// A command that writes to a terminal.
struct OnTerminal {
    child: Child,
    shown: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl OnTerminal {
    /// Without colours where `NO_COLOR` is set, as the harness does for every command.
    fn start(mut command: Command, streams: Streams, stdin: Stdio) -> Result<Self> {
        let size = Winsize { ws_row: 40, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None)?;
        let stdout = if streams == Streams::Both { pty.slave.try_clone()?.into() } else { Stdio::null() };
        command.env("TERM", "xterm").stdin(stdin).stdout(stdout).stderr(Stdio::from(pty.slave));
        let child = command.spawn()?;
        drop(command);
        let (sender, shown) = mpsc::channel();
        std::thread::spawn(move || read(pty.master, &sender));
        Ok(Self { child, shown, seen: String::new() })
    }

    fn take(&mut self) -> &str {
        while let Ok(piece) = self.shown.try_recv() {
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
        &self.seen
    }

    async fn shows(&mut self, text: &str) -> Result<()> {
        eventually(END, async || {
            let seen = self.take();
            ensure!(seen.contains(text), "no {text:?} in {seen:?}");
            Ok(())
        })
        .await
    }

    /// All that it showed, when it has ended.
    async fn end(mut self) -> Result<String> {
        tokio::time::timeout(END, self.child.wait()).await.context("it does not end")??;
        // The reader ends once nobody has the terminal any more.
        for piece in &self.shown {
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
        Ok(self.seen)
    }
}

/// Until the last one who had the terminal has closed it, which reads as EIO.
fn read(master: OwnedFd, to: &mpsc::Sender<Vec<u8>>) {
    let (mut terminal, mut buffer) = (File::from(master), [0; 4096]);
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        if to.send(buffer[..count].to_vec()).is_err() {
            return;
        }
    }
}

fn coloured(operator: &Operator, words: &[&str]) -> Result<Command> {
    let mut command = operator.command(&[&["-c", "a"], words].concat())?;
    command.env_remove("NO_COLOR");
    Ok(command)
}

async fn shown(command: Command) -> Result<String> {
    OnTerminal::start(command, Streams::Both, Stdio::null())?.end().await
}

#[tokio::test]
async fn a_bar_is_drawn_on_a_terminal_for_what_takes_long_and_nowhere_else() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let archive = std::fs::read(fleet.dir().join("images/echo.tar"))?;
    let (first, rest) = archive.split_at(archive.len() / 2);
    let words = ["image", "push", "-", "--name", "localhost/slow:1"];
    let command = coloured(fleet.operator(), &words)?;
    let mut on_terminal = OnTerminal::start(command, Streams::Both, Stdio::piped())?;
    let mut stdin = on_terminal.child.stdin.take().context("no stdin")?;
    stdin.write_all(first).await?;
    // The rest waits until the bar is there, which is after a second.
    on_terminal.shows("sending").await?;
    stdin.write_all(rest).await?;
    drop(stdin);
    let seen = on_terminal.end().await?;
    ensure!(seen.contains("pushed localhost/slow:1"), "{seen:?}");
    ensure!(seen.contains("\x1b[2K"), "the bar was not taken away: {seen:?}");

    // With stderr a pipe, and for longer than it took the bar to come.
    let mut command = coloured(fleet.operator(), &words)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(first).await?;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    stdin.write_all(rest).await?;
    drop(stdin);
    let ended = tokio::time::timeout(END, child.wait_with_output()).await??;
    ensure!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");

    let quick = shown(fleet.operator().command(&["-c", "a", "image", "list"])?).await?;
    ensure!(quick.contains("localhost/slow:1") && !quick.contains(ESCAPE), "{quick:?}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn no_escape_sequence_of_a_workload_reaches_a_terminal() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let (a, operator) = (fleet.capsule("a"), fleet.operator());
    let script = format!("printf '\\033]0;owned\\007out\\n'; printf '\\033[2Jerr\\n' >&2; {FOREVER}");
    a.apply(&shell("w", &script, "")).await?;
    // The runtime's refusal quotes the command.
    let odd = format!(
        "kind: Container\nname: odd\ncontainer:\n  image: {}\n  command: [\"\\e]0;owned\\a/nope\"]\n  restartPolicy: never\n",
        fixtures::BUSYBOX
    );
    a.fleetctl_with(&["apply", "-f", "-"], odd.as_bytes()).await?.ok()?;
    eventually(END, async || {
        ensure!(a.events().await?.contains("nope"), "no event quotes the command");
        Ok(())
    })
    .await?;
    eventually(END, async || {
        ensure!(a.logs("w").await?.contains("err\n"), "it has not written all");
        Ok(())
    })
    .await?;

    let escaping: [(&[&str], &str); 8] = [
        (&["logs", "w"], "out"),
        (&["events"], "owned"),
        (&["events", "-o", "json"], "owned"),
        (&["ps", "-o", "wide"], "odd"),
        (&["workload", "get", "odd"], "owned"),
        (&["workload", "get", "odd", "-o", "yaml"], "owned"),
        (&["workload", "events", "odd"], "owned"),
        (&["exec", "w", "--", "\x1b]0;owned\x07nope"], "owned"),
    ];
    for (words, expected) in escaping {
        let seen = shown(operator.command(&[&["-c", "a"], words].concat())?).await?;
        ensure!(seen.contains(expected), "{words:?} shows {seen:?}");
        ensure!(!seen.contains([ESCAPE, '\x07']), "{words:?} shows {seen:?}");
        let seen = shown(coloured(operator, words)?).await?;
        ensure!(!seen.contains("\x1b]") && !seen.contains("\x1b[2J"), "{words:?} shows {seen:?}");
    }
    let logs = operator.command(&["-c", "a", "logs", "w"])?;
    let seen = OnTerminal::start(logs, Streams::Stderr, Stdio::null())?.end().await?;
    ensure!(seen.contains("err") && !seen.contains(ESCAPE), "with stdout elsewhere: {seen:?}");

    let seen = shown(coloured(operator, &["ps"])?).await?;
    ensure!(seen.contains("\x1b["), "no colour on a terminal: {seen:?}");
    let piped = coloured(operator, &["ps"])?.output().await?;
    ensure!(piped.status.success() && !piped.stdout.contains(&(ESCAPE as u8)), "{piped:?}");
    fleet.passed();
    Ok(())
}
