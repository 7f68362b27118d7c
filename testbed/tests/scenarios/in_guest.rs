//! Stories that need another kernel than this host's: they are ignored here, and told in a guest.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use testbed::{guest::Guest, sys};

/// For a guest with its stories: ten times what they take on this machine, which has much else to do.
const LIMIT: Duration = Duration::from_mins(8);

/// Runs stories of this program, each by its whole name, in a guest, with these variables of the
/// environment.
pub fn tell(environment: &[(&str, &str)], stories: &[&str]) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "--include-ignored", "--nocapture", "--test-threads=1"]).args(stories);
    let variables: String = environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    let script = format!("RUST_LIB_BACKTRACE=0 {variables}{}", sys::show(&command));
    let outcome = Guest::find()?.run(&script, LIMIT)?;
    eprintln!("{}", outcome.output);
    ensure!(outcome.code == 0, "a story failed in the guest");
    let all = format!("{} passed", stories.len());
    ensure!(outcome.output.contains(&all), "some story has another name by now");
    Ok(())
}
