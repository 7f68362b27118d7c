//! `fleetctl`: operates one capsule or a whole fleet from a terminal.
//!
//! ```text
//! main ─ cli (the tree of commands) ─ commands/* (one file each)
//!                                        ├─ session   which capsules are meant, time-outs, the screen
//!                                        ├─ gather    one question to many: answers as they come
//!                                        ├─ follow    streams of many, merged
//!                                        ├─ conversation  a command on one: streams, signals, window
//!                                        └─ output, terminal, copy: screen, keyboard, files
//! ```
//!
//! Talking to capsules is `capsule-client`'s. The library exists for tests and documentation: the
//! program is `run`.

mod cli;
mod commands;
mod complete;
mod conversation;
mod copy;
pub mod docs;
mod exit;
mod failure;
mod follow;
mod gather;
mod hint;
mod manifest;
mod named;
mod output;
mod public_key;
mod reference;
mod session;
mod terminal;

pub use cli::command;

use std::io::{self, Write as _};

use anyhow::Error;
use clap::Parser as _;
use clap_complete::CompleteEnv;

use crate::{
    cli::Cli,
    exit::Exit,
    failure::{Failure, UsageError, paragraph},
    output::{Out, clean},
};

/// Threads for many TLS handshakes at once; more do not pay for their start in a short run.
const WORKERS: usize = 2;

/// The whole program; gives its exit code.
pub fn run() -> i32 {
    CompleteEnv::with_factory(cli::command).var(commands::completions::VARIABLE).complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = hint::with_commands(error);
            // Help and version are errors to clap too, of code 0; all else is 2.
            output::end_on_error(error.print().and_then(|()| io::stdout().flush()));
            return error.exit_code();
        }
    };
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return i32::from(fail(&Error::from(error).context("cannot start")).0),
        };
    let exit = runtime.block_on(commands::run(cli)).unwrap_or_else(|error| fail(&error));
    // A thread may still wait for stdin; nothing else is left to do.
    runtime.shutdown_background();
    i32::from(exit.0)
}

fn fail(error: &Error) -> Exit {
    output::print_error(&paragraph(error));
    if error.is::<UsageError>() { Exit::USAGE } else { Exit::NONE }
}

/// Tells of one capsule's failure among many, on stderr or, where programs read, on stdout.
fn print_failure(out: &Out, capsule: &str, failure: Failure) {
    use output::{Format, answer, style::Tone, yaml};
    let answer = |failure| answer::Answer::<()> { at: 0, capsule: capsule.to_owned(), result: Err(failure) };
    match out.format {
        Format::Json => out.line(&answer::envelope(&answer(failure)).to_string()),
        Format::Yaml => {
            out.text(&format!("---\n{}", yaml::document(&answer::envelope(&answer(failure)))));
        }
        _ => {
            let word = Tone::Bad.paint("error:", out.colour);
            out.error_bytes(format!("{word} {}: {failure}\n", clean::one_line(capsule)).as_bytes());
        }
    }
}
