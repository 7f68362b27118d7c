//! `testbed down`.

use anyhow::Result;
use clap::Args;

use super::{Which, steps::say};
use crate::substrate::{self, Record, State, Testbed};

/// Stop a fleet and remove every trace of it.
#[derive(Args, Debug)]
pub struct Down {
    #[command(flatten)]
    which: Which,
    /// Every fleet on this machine
    #[arg(long, conflicts_with_all = ["name", "dir"])]
    all: bool,
    /// Keep what the capsules wrote: the next `up` finds the same capsules
    #[arg(long)]
    keep_state: bool,
}

impl Down {
    pub fn run(self) -> Result<()> {
        let state = if self.keep_state { State::Keep } else { State::Remove };
        let names = if self.all {
            Record::all()?.into_iter().map(|record| record.name).collect()
        } else {
            vec![self.which.name.clone()]
        };
        // All the work before the first word: a reader that goes away leaves nothing half down.
        let said: Vec<String> =
            names.iter().map(|name| self.take_down(name, state)).collect::<Result<_>>()?;
        substrate::remove_stale()?;
        said.iter().try_for_each(say)
    }

    fn take_down(&self, name: &str, state: State) -> Result<String> {
        if let Some(testbed) = Testbed::open(name)? {
            testbed.remove(state)?;
            return Ok(format!("fleet {name:?} is gone"));
        }
        // After a reboot there is no record, but there may be state.
        if state == State::Remove {
            substrate::remove_leftover_dir(&self.which.dir()?)?;
        }
        Ok(format!("fleet {name:?} is not up"))
    }
}
