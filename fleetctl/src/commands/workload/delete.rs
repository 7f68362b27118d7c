//! `fleetctl workload delete`.

use anyhow::Result;
use capsule_proto::v1::{DeleteWorkloadRequest, WaitCondition};
use clap::Args;
use clap_complete::ArgValueCompleter;
use serde::Serialize;

use super::wait::{MARGIN, wait};
use crate::{
    complete,
    exit::Exit,
    gather::gather_each,
    named,
    output::answer::Layout,
    reference::WorkloadRef,
    session::{PATIENT, Session},
};

/// Stop workloads, forget them and wait until they are gone; volumes stay
#[derive(Args, Debug)]
#[command(
    visible_alias = "rm",
    after_help = "Examples:\n  fleetctl workload delete web\n  fleetctl --all workload delete web api"
)]
pub struct Delete {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
    /// Ask for it and go, instead of waiting until they are gone
    #[arg(long)]
    no_wait: bool,
}

/// What `-o json` shows of a deletion.
#[derive(Serialize)]
struct Deleted {
    deleted: String,
}

impl Delete {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let layout = Layout::lines(|done: &Deleted, _| vec![format!("deleted {}", done.deleted)])
            .named(|done| vec![done.deleted.clone()]);
        let work = session.workloads(&self.names)?;
        let (out, limit) = (session.out, session.timeout(PATIENT));
        gather_each(session, work, limit + MARGIN, layout, async |capsule, name: String| {
            let answer = capsule.workloads().delete(DeleteWorkloadRequest { name: name.clone() }).await;
            named::workload(&capsule, &name, answer).await?;
            if !self.no_wait {
                wait(&out, &capsule, &name, WaitCondition::Deleted, limit).await?;
            }
            Ok(Deleted { deleted: name })
        })
        .await
    }
}
