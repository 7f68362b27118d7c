//! `fleetctl workload start | stop | restart`.

use anyhow::Result;
use capsule_proto::{
    parse_duration,
    v1::{RestartWorkloadRequest, StartWorkloadRequest, StopWorkloadRequest, WaitCondition, Workload},
};
use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{
    show,
    wait::{MARGIN, USUAL, wait},
};
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
#[command(after_help = "Examples:\n  fleetctl workload start web\n  fleetctl workload start web --wait")]
pub struct Start {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
    /// Wait until they are ready
    #[arg(long)]
    wait: bool,
}

/// Stop workloads and wait until they are; they stay stopped until started, also across reboots
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl workload stop web\n  fleetctl -l zone=attic workload stop web --grace 60"
)]
pub struct Stop {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
    /// Seconds from the stop signal to the kill, instead of the manifest's
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    grace: Option<u32>,
    /// Ask for it and go, instead of waiting until they are stopped
    #[arg(long)]
    no_wait: bool,
}

/// Stop workloads and start them again, with the image that they have
///
/// A tag that stands for another image by now is not looked up: see `image pull`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl workload restart web api")]
pub struct Restart {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
    /// Seconds from the stop signal to the kill, instead of the manifest's
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    grace: Option<u32>,
}

impl Start {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let work = session.workloads(&self.names)?;
        let (out, limit) = (session.out, session.timeout(USUAL));
        gather_each(session, work, limit + MARGIN, layout(), async |capsule, name: String| {
            let answer = capsule.workloads().start(StartWorkloadRequest { name: name.clone() }).await;
            let started = named::workload(&capsule, &name, answer).await?.into_inner();
            if self.wait {
                wait(&out, &capsule, &name, WaitCondition::Ready, limit).await
            } else {
                Ok(started)
            }
        })
        .await
    }
}

impl Stop {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let work = session.workloads(&self.names)?;
        let (out, limit) = (session.out, session.timeout(PATIENT));
        let grace_seconds = self.grace;
        gather_each(session, work, limit + MARGIN, layout(), async |capsule, name: String| {
            let request = StopWorkloadRequest { name: name.clone(), grace_seconds };
            let answer = capsule.workloads().stop(request).await;
            let stopping = named::workload(&capsule, &name, answer).await?.into_inner();
            if self.no_wait {
                Ok(stopping)
            } else {
                wait(&out, &capsule, &name, WaitCondition::Stopped, limit).await
            }
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

/// Whole seconds, as a number or as a span of time.
fn seconds(text: &str) -> Result<u32, String> {
    let of_span =
        || parse_duration(text).ok().filter(|span| span.subsec_nanos() == 0)?.as_secs().try_into().ok();
    let wrong = || "write whole seconds, such as 30, or a span of time, such as 1m30s".to_owned();
    text.parse().ok().or_else(of_span).ok_or_else(wrong)
}

/// `web Running`.
pub(super) fn layout() -> Layout<Workload> {
    Layout::lines(|workload: &Workload, out: &Out| {
        let status = show::tone(workload).paint(&show::status_text(workload), out.colour);
        vec![format!("{} {status}", show::name(workload))]
    })
    .named(|workload| vec![show::name(workload)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_is_seconds_or_a_span_of_them() {
        assert_eq!((seconds("30"), seconds("1m30s")), (Ok(30), Ok(90)));
        for wrong in ["abc", "-1", "500ms", ""] {
            assert!(seconds(wrong).unwrap_err().contains("such as 30"), "{wrong}");
        }
    }
}
