//! `fleetctl workload get`.

use anyhow::Result;
use capsule_client::Capsule;
use capsule_proto::v1::{Event, GetWorkloadRequest, ListEventsRequest, Workload};
use clap::Args;
use clap_complete::ArgValueCompleter;
use serde::Serialize;

use super::{describe, show};
use crate::{
    complete,
    exit::Exit,
    gather::gather_each,
    named,
    output::{Format, answer::Layout},
    reference::WorkloadRef,
    session::{QUICK, Session},
};

/// Describe workloads: what is asked for, what there is, and what happened last
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl workload get web\n  fleetctl workload get web@nuc-1 -o yaml")]
pub struct Get {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
}

/// A workload; its events are for people only.
#[derive(Serialize)]
#[serde(transparent)]
struct Found {
    workload: Workload,
    #[serde(skip)]
    events: Vec<Event>,
}

/// Events that a description ends with.
const RECENT: u32 = 5;

impl Get {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let layout = Layout::lines(|found: &Found, _| describe::lines(&found.workload, &found.events))
            .named(|found| vec![show::name(&found.workload)]);
        let for_people = matches!(session.out.format, Format::Table | Format::Wide);
        let work = session.workloads(&self.names)?;
        gather_each(session, work, session.timeout(QUICK), layout, async |capsule, name: String| {
            let answer = capsule.workloads().get(GetWorkloadRequest { name: name.clone() }).await;
            let workload = named::workload(&capsule, &name, answer).await?.into_inner();
            let events = if for_people { recent(&capsule, &name).await } else { Vec::new() };
            Ok(Found { workload, events })
        })
        .await
    }
}

/// The last events of a workload. Where they cannot be had, the description goes without.
async fn recent(capsule: &Capsule, name: &str) -> Vec<Event> {
    let request = ListEventsRequest {
        tail: Some(RECENT),
        subject_kind: "workload".into(),
        subject: name.to_owned(),
        ..Default::default()
    };
    let mut events = Vec::new();
    if let Ok(answer) = capsule.events().list(request).await {
        let mut stream = answer.into_inner();
        while let Ok(Some(event)) = stream.message().await {
            events.push(event);
        }
    }
    events
}
