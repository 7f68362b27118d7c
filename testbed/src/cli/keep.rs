//! `testbed keep`.

use anyhow::Result;
use clap::Args;

use crate::substrate::qemu;

/// Start the machine of a capsule and have it.
#[derive(Args, Debug)]
pub struct Keep {
    /// The fleet
    name: String,
    /// The capsule
    node: String,
}

impl Keep {
    pub async fn run(self) -> Result<()> {
        qemu::keep(&self.name, &self.node).await
    }
}
