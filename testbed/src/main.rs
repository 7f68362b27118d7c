//! `testbed`: see [`testbed::cli`].

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use testbed::cli::{Cli, Unread};

/// As a shell reports SIGPIPE.
const PIPE: u8 = 141;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Unread>() => ExitCode::from(PIPE),
        Err(error) => {
            // Where nobody reads that either, the code must do.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
