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
#[serde(rename_all = "camelCase")]
enum Deletion {
    Deleted(String),
    /// Asked for.
    Deleting(String),
}

impl Deletion {
    fn name(&self) -> &str {
        match self {
            Self::Deleted(name) | Self::Deleting(name) => name,
        }
    }
}

impl Delete {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let layout = Layout::lines(|deletion: &Deletion, _| {
            let verb = if matches!(deletion, Deletion::Deleted(_)) { "deleted" } else { "deleting" };
            vec![format!("{verb} {}", deletion.name())]
        })
        .named(|deletion| vec![deletion.name().to_owned()]);
        let work = session.workloads(&self.names)?;
        let (out, limit) = (session.out, session.timeout(PATIENT));
        gather_each(session, work, limit + MARGIN, layout, async |capsule, name: String| {
            let answer = capsule.workloads().delete(DeleteWorkloadRequest { name: name.clone() }).await;
            named::workload(&capsule, &name, answer).await?;
            if self.no_wait {
                return Ok(Deletion::Deleting(name));
            }
            wait(&out, &capsule, &name, WaitCondition::Deleted, limit).await?;
            Ok(Deletion::Deleted(name))
        })
        .await
    }
}
