//! `nft`: the packet filter's transactions.

use std::time::Duration;

use super::run::{RunError, run};

/// A transaction takes milliseconds; one that takes this long hangs.
const DEADLINE: Duration = Duration::from_secs(10);

/// Applies a whole script as one transaction: all of it or nothing.
pub async fn apply(script: &str) -> Result<(), RunError> {
    run("nft", &["-f", "-"], script.as_bytes(), DEADLINE).await.map(drop)
}
