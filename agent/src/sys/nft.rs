//! `nft`: the packet filter's transactions.

use std::time::Duration;

use super::run::{Output, RunError, run};

/// A transaction takes milliseconds, but the first one waits for the kernel's modules, on whatever
/// machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// Applies a whole script as one transaction: all of it or nothing.
pub async fn apply(script: &str) -> Result<(), RunError> {
    run("nft", &["-f", "-"], script.as_bytes(), DEADLINE).await.map(drop)
}

/// Every chain in the kernel, in nft's own JSON (libnftables-json(5)).
pub async fn chains() -> Result<String, RunError> {
    run("nft", &["--json", "list", "chains"], b"", DEADLINE).await.map(|output| output.stdout)
}

/// One set with its elements, in nft's own JSON.
pub async fn set(family: &str, table: &str, name: &str) -> Result<String, RunError> {
    let arguments = ["--json", "--numeric-protocol", "list", "set", family, table, name];
    run("nft", &arguments, b"", DEADLINE).await.map(|output| output.stdout)
}

/// Names of a table's sets; `None` where there is no such table.
pub async fn sets(family: &str, table: &str) -> Result<Option<Vec<String>>, RunError> {
    let arguments = ["--terse", "list", "table", family, table];
    let Some(text) = present(run("nft", &arguments, b"", DEADLINE).await)? else { return Ok(None) };
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("set ")?.strip_suffix(" {"));
    Ok(Some(names.map(str::to_owned).collect()))
}

/// Whether a set has an element, and how many packets met it, where that is counted; `None` where
/// there is no such element.
pub async fn element(family: &str, table: &str, set: &str, element: &str) -> Result<Option<u64>, RunError> {
    let element = format!("{{ {element} }}");
    let arguments = ["get", "element", family, table, set, &element];
    let text = present(run("nft", &arguments, b"", DEADLINE).await)?;
    let packets = |text: String| {
        let (_, count) = text.split_once("counter packets ")?;
        count.split(' ').next()?.parse().ok()
    };
    Ok(text.map(|text| packets(text).unwrap_or(0)))
}

/// What was written; `None` where what was asked for does not exist.
fn present(outcome: Result<Output, RunError>) -> Result<Option<String>, RunError> {
    match outcome {
        Ok(output) => Ok(Some(output.stdout)),
        Err(RunError::Failed { said, .. }) if said.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

/// One table as nft writes it.
pub async fn table(family: &str, name: &str) -> Result<String, RunError> {
    run("nft", &["list", "table", family, name], b"", DEADLINE).await.map(|output| output.stdout)
}
