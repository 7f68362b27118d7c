//! `testbed env`.

use anyhow::{Context as _, Result};
use clap::Args;

use super::{Which, steps::say};
use crate::{scenario::Operator, substrate::Record, sys};

/// Print what a shell needs to be the fleet's operator: eval "$(testbed env)".
#[derive(Args, Debug)]
pub struct Env {
    #[command(flatten)]
    which: Which,
}

impl Env {
    pub fn run(self) -> Result<()> {
        let name = &self.which.name;
        let records = Record::all()?;
        let record = records
            .iter()
            .find(|record| record.name == *name)
            .with_context(|| format!("fleet {name:?} is not up; `testbed up` starts it"))?;
        let operator = Operator::at(&record.dir.join("operator"));
        let program = sys::program("fleetctl")?;
        let bin = program.parent().context("fleetctl has no directory")?;
        say(format!("export FLEETCTL_CONFIG='{}'", operator.config().display()))?;
        say(format!("export PATH='{}':\"$PATH\"", bin.display()))
    }
}
