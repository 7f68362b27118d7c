//! `fleetctl completions`.

use std::io;

use anyhow::Result;
use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use crate::{exit::Exit, output};

/// The variable by which a shell asks for completions.
pub const VARIABLE: &str = "FLEETCTL_COMPLETE";

/// Print a shell's completion script; names of workloads and the like are asked of capsules live
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  source <(fleetctl completions bash)\n  \
                        fleetctl completions zsh > ~/.zfunc/_fleetctl\n  \
                        fleetctl completions fish > ~/.config/fish/completions/fleetctl.fish")]
pub struct Completions {
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    /// Prints the script.
    pub fn run(self) -> Result<Exit> {
        let mut script = Vec::new();
        self.write(&mut script)?;
        output::print(&script);
        Ok(Exit::ALL)
    }

    fn write(&self, to: &mut dyn io::Write) -> io::Result<()> {
        let shell: &dyn EnvCompleter = match self.shell {
            Shell::Bash => &Bash,
            Shell::Zsh => &Zsh,
            Shell::Fish => &Fish,
        };
        shell.write_registration(VARIABLE, "fleetctl", "fleetctl", "fleetctl", to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_calls_back() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            Completions { shell }.write(&mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains(VARIABLE) && script.contains("fleetctl"), "{script}");
        }
    }
}
