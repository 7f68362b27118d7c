//! `testbed down`.

use anyhow::Result;
use clap::Args;

use super::Which;
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
        for name in names {
            self.take_down(&name, state)?;
        }
        substrate::remove_stale()
    }

    fn take_down(&self, name: &str, state: State) -> Result<()> {
        if let Some(testbed) = Testbed::open(name)? {
            testbed.remove(state)?;
            println!("fleet {name:?} is gone");
            return Ok(());
        }
        // After a reboot there is no record, but there may be state.
        if state == State::Remove {
            substrate::remove_leftover_dir(&self.which.dir()?)?;
        }
        println!("fleet {name:?} is not up");
        Ok(())
    }
}
