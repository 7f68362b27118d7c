//! `testbed`: see [`testbed::cli`].

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match testbed::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
