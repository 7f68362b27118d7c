//! `fleetctl workload get`.

use anyhow::Result;
use capsule_proto::v1::GetWorkloadRequest;
use clap::Args;
use clap_complete::ArgValueCompleter;

use super::show;
use crate::{
    complete,
    exit::Exit,
    gather::gather_each,
    named,
    output::answer::Layout,
    reference::WorkloadRef,
    session::{QUICK, Session},
};

/// Describe workloads
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl workload get web\n  fleetctl workload get web@nuc-1 -o yaml")]
pub struct Get {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
}

impl Get {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let layout = Layout::lines(|workload, _| show::describe(workload)).named(|w| vec![show::name(w)]);
        let work = session.workloads(&self.names)?;
        gather_each(session, work, session.timeout(QUICK), layout, async |capsule, name: String| {
            let answer = capsule.workloads().get(GetWorkloadRequest { name: name.clone() }).await;
            Ok(named::workload(&capsule, &name, answer).await?.into_inner())
        })
        .await
    }
}
