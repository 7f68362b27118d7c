//! Whether the operator means it.

use std::io::{self, BufRead as _, IsTerminal as _};

use anyhow::{Result, bail};

use crate::failure::usage;

/// Shows what is about to be done and asks once. Where nobody can answer, it is refused.
pub(super) fn confirm(lines: &[String], question: &str) -> Result<()> {
    if !io::stdin().is_terminal() {
        let shown = lines.join("\n  ");
        return Err(usage(format!("{question} Nobody is here to answer; give --yes.\n  {shown}")));
    }
    for line in lines {
        eprintln!("  {line}");
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    bail!("not confirmed: nothing was changed")
}
