//! `fleetctl events`.

use std::time::SystemTime;

use anyhow::Result;
use capsule_client::{Capsule, Target};
use capsule_proto::{
    timestamp,
    v1::{Event, GetWorkloadRequest, ListEventsRequest, Severity},
};
use clap::Args;

use crate::{
    commands::workload::logs::{count, since},
    exit::Exit,
    failure::Failure,
    follow::{Lost, follow},
    named,
    output::{Out, clean, human, style::Tone},
    session::Session,
};

/// Print what happened on capsules
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl events -n 20\n  fleetctl --all events -f\n  fleetctl events --kind volume"
)]
pub struct Events {
    /// Go on with new events
    #[arg(short, long)]
    follow: bool,
    /// Begin with the last N events
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    tail: Option<u32>,
    /// Only events after this: 10m ago, or 2026-01-31T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<SystemTime>,
    /// Only events about workloads, images, volumes, their pool, identity or the node
    #[arg(long, value_name = "KIND", value_parser = ["workload", "image", "volume", "pool", "identity", "node"])]
    kind: Option<String>,
    /// Only events about the workload, image, volume or key of this name
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
}

/// Which events, in time.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// New ones too.
    pub follow: bool,
    /// Only so many of the kept ones.
    pub tail: Option<u32>,
    /// Only those after this.
    pub since: Option<SystemTime>,
}

impl Events {
    /// Prints the events of every capsule.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let subject = self.subject.unwrap_or_default();
        let work = session.targets()?.into_iter().map(|target| (target, vec![subject.clone()])).collect();
        let range = Range { follow: self.follow, tail: self.tail, since: self.since };
        print(session, work, self.kind.as_deref().unwrap_or_default(), range).await
    }
}

/// Prints events about each subject on each capsule; an empty subject or kind is any.
pub async fn print(
    session: &Session,
    work: Vec<(Target, Vec<String>)>,
    kind: &str,
    range: Range,
) -> Result<Exit> {
    let open = async |capsule: Capsule, subject: String, last: Option<Event>| {
        if kind == "workload" && !subject.is_empty() && last.is_none() {
            ensure_known(&capsule, &subject).await?;
        }
        let request = ListEventsRequest {
            follow: range.follow,
            tail: range.tail.filter(|_| last.is_none()),
            since: range.since.map(timestamp),
            subject_kind: kind.to_owned(),
            subject,
            after_sequence: last.map(|event| event.sequence).unwrap_or_default(),
        };
        Ok(capsule.events().list(request).await?.into_inner())
    };
    let lost = Lost::when(range.follow);
    follow(session, work, String::clone, lost, open, |out, prefix, event| show(out, prefix, &event)).await
}

/// Refuses a workload that neither exists nor left any event: nothing would ever be printed.
async fn ensure_known(capsule: &Capsule, name: &str) -> Result<(), Failure> {
    let request = GetWorkloadRequest { name: name.to_owned() };
    let Err(status) = capsule.workloads().get(request).await else { return Ok(()) };
    let request = ListEventsRequest {
        tail: Some(1),
        subject_kind: "workload".into(),
        subject: name.to_owned(),
        ..Default::default()
    };
    match capsule.events().list(request).await?.into_inner().message().await? {
        Some(_) => Ok(()),
        None => named::workload(capsule, name, Err(status)).await,
    }
}

fn show(out: &Out, prefix: &str, event: &Event) {
    out.line(&format!("{prefix}{}", text(event, out.colour)));
}

/// `2026-01-31 18:04:05  workload/web  Started  it runs as PID 7`.
fn text(event: &Event, colour: bool) -> String {
    let time = event.time.as_ref().map(human::date_time).unwrap_or_default();
    let subject = match (event.subject_kind.as_str(), event.subject.as_str()) {
        (kind, "") => kind.to_owned(),
        (kind, name) => format!("{kind}/{name}"),
    };
    let tone = match event.severity() {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Warn,
        _ => Tone::Plain,
    };
    let time = Tone::Dim.paint(&time, colour);
    let reason = tone.paint(&format!("{:<12}", clean::one_line(&event.reason)), colour);
    format!("{time}  {:<20}  {reason}  {}", clean::one_line(&subject), clean::one_line(&event.message))
}

/// `2026-01-31 18:04:05  Started       it runs as PID 7`, for where the subject is known.
pub fn brief(event: &Event) -> String {
    let time = event.time.as_ref().map(human::date_time).unwrap_or_default();
    format!("{time}  {:<12}  {}", clean::one_line(&event.reason), clean::one_line(&event.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_harmless_line() {
        let event = Event {
            subject_kind: "workload".into(),
            subject: "web".into(),
            reason: "Exited".into(),
            message: "exit 1\n\x1b[2J".into(),
            ..Default::default()
        };
        let line = text(&event, false);
        assert!(line.contains("workload/web          Exited"), "{line}");
        assert!(!line.contains(['\n', '\x1b']), "{line:?}");
    }
}
