//! `testbed`: see [`testbed::cli`].

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    testbed::cli::Cli::parse().run()
}
