//! `fleetctl workload events`.

use std::time::SystemTime;

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::{
    commands::{
        events,
        workload::logs::{count, since},
    },
    complete,
    exit::Exit,
    reference::WorkloadRef,
    session::Session,
};

/// Print what happened to workloads
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl workload events web\n  fleetctl workload events web -f")]
pub struct Events {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
    /// Go on with new events
    #[arg(short, long)]
    follow: bool,
    /// Begin with the last N events
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    tail: Option<u32>,
    /// Only events after this: 10m ago, or 2026-01-31T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<SystemTime>,
}

impl Events {
    /// Prints the events of every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let range = events::Range { follow: self.follow, tail: self.tail, since: self.since };
        events::print(session, session.workloads(&self.names)?, "workload", range).await
    }
}
