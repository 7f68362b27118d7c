//! `testbed bench`.

use anyhow::{Result, bail};
use clap::Args;

use super::steps::say;
use crate::bench::{self, Effort, report};

/// Measure against peers, in one interleaved run.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Only these; all where none is named
    names: Vec<String>,
    /// Two rounds each: enough to see that they work
    #[arg(long)]
    quick: bool,
    /// List them
    #[arg(long)]
    list: bool,
    /// End with an error where a figure exceeds its limit
    #[arg(long)]
    strict: bool,
}

impl BenchArgs {
    pub async fn run(self) -> Result<()> {
        if self.list {
            for bench in bench::ALL {
                say(format!("{:<10} {}", bench.name, bench.about))?;
            }
            return Ok(());
        }
        let load = report::load();
        let rows = bench::run(&self.names, if self.quick { Effort::Quick } else { Effort::Full }).await?;
        say(report::markdown(&rows, &load))?;
        let exceeded = rows.iter().filter(|row| !row.is_kept()).count();
        if self.strict && exceeded > 0 {
            bail!("{exceeded} figures exceed their limits or could not be measured");
        }
        Ok(())
    }
}

/// Prints the figures of the bench mesh-kernel, for whoever runs this in a guest.
pub async fn kernel_figures(rounds: usize) -> Result<()> {
    say(bench::kernel_figures(rounds).await?)
}
