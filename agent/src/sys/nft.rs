//! `nft`: the packet filter's transactions.

use std::time::Duration;

use super::run::{RunError, run};

/// A transaction takes milliseconds; one that takes this long hangs.
const DEADLINE: Duration = Duration::from_secs(10);

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

/// One table as nft writes it.
pub async fn table(family: &str, name: &str) -> Result<String, RunError> {
    run("nft", &["list", "table", family, name], b"", DEADLINE).await.map(|output| output.stdout)
}
