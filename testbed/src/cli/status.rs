//! `testbed status`.

use anyhow::Result;
use clap::Args;
use tabled::{Table, Tabled, settings::Style};

use super::steps::say;
use crate::{
    substrate::{Plan, Record, Substrate},
    sys::process::Process,
};

/// Which fleets are there, and what runs of them.
#[derive(Args, Debug)]
pub struct Status {}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct Row {
    fleet: String,
    capsule: String,
    address: String,
    agent: String,
    namespace: String,
    state: String,
}

impl Status {
    pub fn run() -> Result<()> {
        let rows: Vec<Row> = Record::all()?.iter().flat_map(rows).collect();
        if rows.is_empty() {
            return say("no fleet is up; `testbed up` starts one");
        }
        say(Table::new(rows).with(Style::blank()))
    }
}

fn rows(record: &Record) -> Vec<Row> {
    let plan = Plan::new(&record.name, record.subnet);
    let row = |(position, node): (usize, &crate::substrate::Node)| Row {
        fleet: record.name.clone(),
        capsule: node.name.clone(),
        address: plan.api(position).to_string(),
        agent: match node.life() {
            Some(agent) if Process::is_alive(agent) => format!("runs, PID {}", agent.pid),
            Some(_) => "ended".to_owned(),
            None => "never started".to_owned(),
        },
        namespace: match record.substrate {
            Substrate::Netns => plan.namespace(&node.name),
            Substrate::Qemu(_) => plan.hub(),
        },
        state: record.state_dir(&node.name).display().to_string(),
    };
    record.nodes.iter().enumerate().map(row).collect()
}
