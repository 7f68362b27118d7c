//! `fleetctl workload list` and `fleetctl ps`.

use anyhow::Result;
use capsule_proto::{
    Selector,
    v1::{ListWorkloadsRequest, ListWorkloadsResponse},
};
use clap::Args;

use super::show;
use crate::{
    exit::Exit,
    gather::gather,
    output::answer::Layout,
    session::{QUICK, Session},
};

/// List workloads
#[derive(Args, Debug)]
#[command(
    visible_alias = "ls",
    after_help = "Examples:\n  fleetctl --all ps\n  fleetctl ps --label app=shop -o wide"
)]
pub struct List {
    /// Only workloads with these labels
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Option<Selector>,
}

impl List {
    /// Asks every capsule.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let layout = Layout::table(show::columns(), |answer: &ListWorkloadsResponse| {
            answer.workloads.iter().map(show::row).collect()
        })
        .named(|answer| answer.workloads.iter().map(show::name).collect());
        let selector = self.label.unwrap_or_default().to_string();
        gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
            let request = ListWorkloadsRequest { selector: selector.clone() };
            Ok(capsule.workloads().list(request).await?.into_inner())
        })
        .await
    }
}
