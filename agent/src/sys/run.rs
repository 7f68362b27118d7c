//! External commands: one way to run them, with a deadline and a full report of what went wrong.

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command};

/// What a command that succeeded wrote.
#[derive(Clone, Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started, or its pipes broke.
    #[error("cannot run `{command}`; is its package installed?")]
    Start {
        /// As typed.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended with another status than 0.
    #[error("`{command}` failed ({status}): {said}")]
    Failed {
        /// As typed.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// Standard error, or standard output where that is empty.
        said: String,
    },
    /// It was killed at the deadline.
    #[error("`{command}` did not end within {} s and was killed", deadline.as_secs())]
    TimedOut {
        /// As typed.
        command: String,
        /// What it had.
        deadline: Duration,
    },
}

/// Runs `program` with `arguments`, feeding it `input`, and waits for its end.
pub async fn run(
    program: &str,
    arguments: &[&str],
    input: &[u8],
    deadline: Duration,
) -> Result<Output, RunError> {
    let command = std::iter::once(program).chain(arguments.iter().copied()).collect::<Vec<_>>().join(" ");
    let failed = |source| RunError::Start { command: command.clone(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut stdin = child.stdin.take();
    let feed = async move {
        if let Some(pipe) = stdin.as_mut() {
            // A command that does not read its input says why in its own words.
            let _ = pipe.write_all(input).await;
        }
        drop(stdin);
    };
    let work = async { tokio::join!(feed, child.wait_with_output()).1 };
    let Ok(ended) = tokio::time::timeout(deadline, work).await else {
        return Err(RunError::TimedOut { command, deadline });
    };
    let output = ended.map_err(failed)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(Output { stdout, stderr });
    }
    let said = if stderr.trim().is_empty() { stdout.trim() } else { stderr.trim() }.to_owned();
    Err(RunError::Failed { command, status: output.status, said })
}
