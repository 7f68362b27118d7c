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
        let names = match self.all {
            true => Record::all()?.into_iter().map(|record| record.name).collect(),
            false => vec![self.which.name.clone()],
        };
        for name in names {
            match Testbed::open(&name)? {
                Some(testbed) => {
                    testbed.remove(state)?;
                    println!("fleet {name:?} is gone");
                }
                None => {
                    // After a reboot there is no record, but there may be state.
                    if state == State::Remove {
                        substrate::remove_leftover_dir(&self.which.dir()?)?;
                    }
                    println!("fleet {name:?} is not up");
                }
            }
        }
        substrate::remove_stale()
    }
}
