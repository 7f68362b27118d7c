//! `testbed status`.

use anyhow::Result;
use clap::Args;
use tabled::{Table, Tabled, settings::Style};

use super::steps::say;
use crate::{
    substrate::{
        Plan, Record, Substrate,
        qemu::{
            Files,
            order::{Order, Power, Sight, tell},
        },
    },
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
    pub async fn run() -> Result<()> {
        let mut rows = Vec::new();
        for record in Record::all()? {
            for position in 0..record.nodes.len() {
                rows.push(row(&record, position).await);
            }
        }
        if rows.is_empty() {
            return say("no fleet is up; `testbed up` starts one");
        }
        say(Table::new(rows).with(Style::blank()))
    }
}

async fn row(record: &Record, position: usize) -> Row {
    let plan = Plan::new(&record.name, record.subnet);
    let node = &record.nodes[position];
    Row {
        fleet: record.name.clone(),
        capsule: node.name.clone(),
        address: plan.api(position).to_string(),
        agent: match node.life() {
            Some(agent) if Process::is_alive(agent) => alive(record, &node.name, agent).await,
            Some(_) => "ended".to_owned(),
            None => "never started".to_owned(),
        },
        namespace: match record.substrate {
            Substrate::Netns => plan.namespace(&node.name),
            Substrate::Qemu(_) => plan.hub(),
        },
        state: record.state_dir(&node.name).display().to_string(),
    }
}

/// An agent's process lives while it runs, a machine's keeper also while the machine is off.
async fn alive(record: &Record, node: &str, process: Process) -> String {
    let runs = |pid| format!("runs, PID {pid}");
    let Substrate::Qemu(_) = record.substrate else { return runs(process.pid) };
    match tell(&Files::of(record, node).socket(), &Order::Look).await {
        Ok(Sight { power: Power::On, pid, .. }) => runs(pid.unwrap_or(process.pid)),
        Ok(Sight { power: Power::Frozen, .. }) => "stands still".to_owned(),
        Ok(Sight { power: Power::Off(why), .. }) => format!("is off: {why}"),
        Err(_) => format!("keeper, PID {}, does not answer", process.pid),
    }
}
