//! `fleetctl workload start | stop | restart`.

use anyhow::Result;
use capsule_proto::v1::{RestartWorkloadRequest, StartWorkloadRequest, StopWorkloadRequest, Workload};
use clap::Args;
use clap_complete::ArgValueCompleter;

use super::show;
use crate::{
    complete,
    exit::Exit,
    gather::gather_each,
    named,
    output::{Out, answer::Layout},
    reference::WorkloadRef,
    session::{PATIENT, Session},
};

/// Start workloads that were stopped
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl workload start web")]
pub struct Start {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
}

/// Stop workloads; they stay stopped until started, also across reboots
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl workload stop web\n  fleetctl -l zone=attic workload stop web --grace 60"
)]
pub struct Stop {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
    /// Seconds from the stop signal to the kill, instead of the manifest's
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u32>,
}

/// Stop workloads and start them again
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl workload restart web api")]
pub struct Restart {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
    /// Seconds from the stop signal to the kill, instead of the manifest's
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u32>,
}

impl Start {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let work = session.workloads(&self.names)?;
        gather_each(session, work, session.timeout(PATIENT), layout(), async |capsule, name: String| {
            let answer = capsule.workloads().start(StartWorkloadRequest { name: name.clone() }).await;
            Ok(named::workload(&capsule, &name, answer).await?.into_inner())
        })
        .await
    }
}

impl Stop {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let work = session.workloads(&self.names)?;
        let grace_seconds = self.grace;
        gather_each(session, work, session.timeout(PATIENT), layout(), async |capsule, name: String| {
            let request = StopWorkloadRequest { name: name.clone(), grace_seconds };
            let answer = capsule.workloads().stop(request).await;
            Ok(named::workload(&capsule, &name, answer).await?.into_inner())
        })
        .await
    }
}

impl Restart {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let work = session.workloads(&self.names)?;
        let grace_seconds = self.grace;
        gather_each(session, work, session.timeout(PATIENT), layout(), async |capsule, name: String| {
            let request = RestartWorkloadRequest { name: name.clone(), grace_seconds };
            let answer = capsule.workloads().restart(request).await;
            Ok(named::workload(&capsule, &name, answer).await?.into_inner())
        })
        .await
    }
}

/// `web Running`.
pub(super) fn layout() -> Layout<Workload> {
    Layout::lines(|workload: &Workload, out: &Out| {
        let status = show::tone(workload).paint(&show::status_text(workload), out.colour);
        vec![format!("{} {status}", show::name(workload))]
    })
    .named(|workload| vec![show::name(workload)])
}
