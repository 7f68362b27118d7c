//! `fleetctl man`.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, ValueHint};

use crate::{cli, exit::Exit};

/// Write man pages for every command into a directory
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl man ~/.local/share/man/man1")]
pub struct Man {
    #[arg(value_hint = ValueHint::DirPath)]
    dir: PathBuf,
}

impl Man {
    /// Writes them.
    pub fn run(self) -> Result<Exit> {
        let about = || format!("cannot write man pages to {}", self.dir.display());
        fs::create_dir_all(&self.dir).with_context(about)?;
        clap_mangen::generate_to(cli::command(), &self.dir).with_context(about)?;
        Ok(Exit::ALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_gets_a_page() {
        let dir = tempfile::tempdir().unwrap();
        Man { dir: dir.path().join("man1") }.run().unwrap();
        for page in ["fleetctl.1", "fleetctl-apply.1", "fleetctl-workload-exec.1", "fleetctl-context-use.1"] {
            assert!(dir.path().join("man1").join(page).is_file(), "{page}");
        }
    }
}
