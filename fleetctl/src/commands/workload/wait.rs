//! `fleetctl workload wait`, and waiting after `apply`.

use std::time::Duration;

use anyhow::Result;
use capsule_client::Capsule;
use capsule_proto::v1::{Manifest, WaitCondition, WaitWorkloadRequest, Workload};
use clap::{Args, ValueEnum};
use clap_complete::ArgValueCompleter;

use super::{power::layout, show};
use crate::{
    complete,
    exit::Exit,
    failure::Failure,
    gather::gather_each,
    named,
    output::{Out, answer::Layout, clean, progress},
    reference::WorkloadRef,
    session::Session,
};

/// Where no flag says how long.
pub const USUAL: Duration = Duration::from_mins(1);
/// The capsule itself ends a wait in time; a margin beyond is for the network.
pub const MARGIN: Duration = Duration::from_secs(10);

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum For {
    /// Running, and ready where it has a readiness probe
    Ready,
    /// Running, ready or not
    Running,
    /// Stopped, completed or failed
    Stopped,
    /// Gone
    Deleted,
}

/// Wait until workloads are ready, running, stopped or gone
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl workload wait web\n  fleetctl workload wait job --for stopped --timeout 10m"
)]
pub struct Wait {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
    /// The state to wait for
    #[arg(long = "for", value_enum, default_value_t = For::Ready)]
    condition: For,
}

impl From<For> for WaitCondition {
    fn from(condition: For) -> Self {
        match condition {
            For::Ready => Self::Ready,
            For::Running => Self::Running,
            For::Stopped => Self::Stopped,
            For::Deleted => Self::Deleted,
        }
    }
}

impl Wait {
    /// Waits on every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let work = session.workloads(&self.names)?;
        let limit = session.timeout(USUAL);
        let out = session.out;
        let layout = if self.condition == For::Deleted { gone() } else { layout() };
        gather_each(session, work, limit + MARGIN, layout, async |capsule, name: String| {
            wait(&out, &capsule, &name, self.condition.into(), limit).await
        })
        .await
    }
}

/// `web is gone`: what never was there is gone, too.
fn gone() -> Layout<Workload> {
    Layout::lines(|workload: &Workload, _| {
        vec![format!("{} is gone", clean::one_line(&show::name(workload)))]
    })
    .named(|workload| vec![show::name(workload)])
}

/// Waits for one workload with a spinner; gives its last status.
pub async fn wait(
    out: &Out,
    capsule: &Capsule,
    name: &str,
    condition: WaitCondition,
    limit: Duration,
) -> Result<Workload, Failure> {
    let spinner = progress::spinner(out, &format!("{name}@{}", capsule.target().name));
    spinner.say("waiting");
    let request = WaitWorkloadRequest {
        name: name.to_owned(),
        condition: condition.into(),
        timeout: Some(pbjson_types::Duration {
            seconds: limit.as_secs() as i64,
            nanos: limit.subsec_nanos() as i32,
        }),
    };
    // A workload that is gone has no status to send.
    let manifest = Manifest { name: name.to_owned(), ..Default::default() };
    let mut last = Workload { manifest: Some(manifest), ..Default::default() };
    let mut statuses =
        named::workload(capsule, name, capsule.workloads().wait(request).await).await?.into_inner();
    while let Some(workload) = statuses.message().await? {
        let reason = workload.status.as_ref().map(|status| status.reason.clone()).unwrap_or_default();
        let colon = if reason.is_empty() { "" } else { ": " };
        spinner.say(&format!("{}{colon}{reason}", show::status_text(&workload)));
        last = workload;
    }
    Ok(last)
}
