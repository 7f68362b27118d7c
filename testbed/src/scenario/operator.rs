//! A person or a script with `fleetctl` and a configuration of their own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{substrate::Substrate, sys};

/// For one command to a capsule of this host; more than any scenario takes, so that a hang fails with
/// its command named.
const LIMIT: Duration = Duration::from_mins(2);

/// What a command did.
#[derive(Clone, Debug)]
pub struct Output {
    /// As typed.
    pub command: String,
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Its stdout, as text.
    pub stdout: String,
    /// Its stderr, as text.
    pub stderr: String,
    /// From spawn to end.
    pub elapsed: Duration,
}

impl Output {
    /// Itself where the command succeeded, else an error with all it said.
    pub fn ok(self) -> Result<Self> {
        self.expect_code(0)
    }

    /// Itself where it ended with this code.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code != code {
            let Self { command, code: got, stdout, stderr, .. } = &self;
            bail!("`{command}` ended with {got}, not {code}\nstdout: {stdout}\nstderr: {stderr}");
        }
        Ok(self)
    }

    /// Its stdout as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("`{}` did not print JSON: {}{}", self.command, self.stdout, self.stderr))
    }
}

/// Runs `fleetctl` with a configuration below its own home, as if nobody else were there.
#[derive(Clone, Debug)]
pub struct Operator {
    config: Option<PathBuf>,
    limit: Duration,
}

impl Operator {
    /// With key and contexts in this directory, which may be empty or missing.
    pub fn at(config: &Path) -> Self {
        Self { config: Some(config.to_owned()), limit: LIMIT }
    }

    /// Whoever runs this program.
    pub fn own() -> Self {
        Self { config: None, limit: LIMIT }
    }

    /// Waits longer for each command, as capsules of this substrate need it.
    #[must_use]
    pub fn patient(mut self, substrate: &Substrate) -> Self {
        self.limit = LIMIT * substrate.patience();
        self
    }

    /// Whether it is the one who runs this program.
    pub fn is_own(&self) -> bool {
        self.config.is_none()
    }

    /// Holds key and contexts; empty for one's own.
    pub fn config(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(""))
    }

    /// `fleetctl` with these words, to be run or spawned by the caller.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(sys::program("fleetctl")?);
        command.args(words).env_remove("FLEETCTL_CAPSULE").env("NO_COLOR", "1").kill_on_drop(true);
        if let Some(config) = &self.config {
            command.env("FLEETCTL_CONFIG", config);
        }
        Ok(command)
    }

    /// Runs it to its end.
    pub async fn run(&self, words: &[&str]) -> Result<Output> {
        self.run_with(words, b"").await
    }

    /// Runs it with this on its stdin.
    pub async fn run_with(&self, words: &[&str], stdin: &[u8]) -> Result<Output> {
        let shown = format!("fleetctl {}", words.join(" "));
        let mut command = self.command(words)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot run `{shown}`"))?;
        let pipe = child.stdin.take();
        let feed = async {
            if let Some(mut pipe) = pipe {
                // A command that ends without reading says why on stderr.
                let _ = pipe.write_all(stdin).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(self.limit, both)
            .await
            .with_context(|| format!("`{shown}` hangs: it did not end within {} s", self.limit.as_secs()))?
            .with_context(|| format!("cannot wait for `{shown}`"))?;
        Ok(Output {
            command: shown,
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            elapsed: started.elapsed(),
        })
    }
}

/// Runs a command line on a terminal, where `typed` is typed. `script` is script(1), called where and for
/// whom the line is to run.
pub async fn on_a_terminal(mut script: Command, line: String, typed: &str) -> Result<Output> {
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let started = Instant::now();
    let mut child = script.kill_on_drop(true).spawn().context("cannot run script(1)")?;
    let mut keyboard = child.stdin.take().context("there is no keyboard")?;
    keyboard.write_all(typed.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    drop(keyboard);
    Ok(Output {
        command: line,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::new(),
        elapsed: started.elapsed(),
    })
}
