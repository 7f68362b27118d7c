//! What else does the job.

pub mod ctr;
pub mod docker;
pub mod podman;
pub mod ssh;

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// Whether a program is installed.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Refuses where one of the programs is missing.
pub fn require(programs: &[&str]) -> Result<()> {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !is_installed(program)).collect();
    if !missing.is_empty() {
        bail!("not installed: {}; `make bench` installs the peers", missing.join(", "));
    }
    Ok(())
}

/// Runs a peer's command to its end; it must succeed.
pub async fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{:?}", command.as_std());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
