//! Programs that end whoever calls them, at a chosen command.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, ExitStatus},
};

use anyhow::Result;
use tempfile::TempDir;

use super::disk::command;

/// When, seen from a command, all ends.
#[derive(Clone, Copy, Debug)]
pub enum When {
    Before,
    /// The command ends as well.
    Within,
    /// The command goes on alone.
    Meanwhile,
    After,
}

/// Programs that stand before the real ones in PATH, and one of which ends who called it where the
/// call has `mark` in it.
pub fn deadly(program: &str, mark: &str, when: When) -> Result<TempDir> {
    let dir = TempDir::new()?;
    let real = command("sh", &["-c", &format!("command -v {program}")], "")?;
    let real = real.trim();
    let kill = match when {
        When::Before => "kill -9 $PPID; exit".to_owned(),
        When::Within => format!("{real} \"$@\" & sleep 0.1; kill -9 $PPID $!; exit"),
        When::Meanwhile => format!("{real} \"$@\" & sleep 0.1; kill -9 $PPID; exit"),
        When::After => format!("{real} \"$@\"; kill -9 $PPID; exit"),
    };
    let script = format!("#!/bin/sh\ncase \"$*\" in *'{mark}'*) {kill};; esac\nexec {real} \"$@\"\n");
    let path = dir.path().join(program);
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

/// Runs a test of this program, by its whole name, with such programs and these variables.
pub fn run_with(path: &Path, test: &str, environment: &[(&str, &Path)]) -> Result<ExitStatus> {
    let own = std::env::var("PATH")?;
    let mut child = Command::new(std::env::current_exe()?);
    child.args(["--exact", "--include-ignored", test]).envs(environment.iter().copied());
    Ok(child.env("PATH", format!("{}:{own}", path.display())).output()?.status)
}
