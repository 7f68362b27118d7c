//! `fleetctl workload logs` and `fleetctl logs`.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use capsule_client::Capsule;
use capsule_proto::{
    parse_duration, system_time, timestamp,
    v1::{LogRecord, Stream, WorkloadLogsRequest},
};
use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::{
    complete,
    exit::Exit,
    follow::{Begin, Lost, follow},
    named,
    output::{
        Out, human,
        lines::{Sink, write_line},
    },
    reference::WorkloadRef,
    session::Session,
};

/// Print workloads' logs, stdout on stdout and stderr on stderr
///
/// Of the present run, or the last one. With -f the next runs follow, and where the connection
/// breaks it is made anew and goes on behind the last line.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl logs web -f -n 20\n  fleetctl --all logs web --since 10m\n  \
                        fleetctl logs web --previous")]
pub struct Logs {
    #[arg(required = true, value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    names: Vec<WorkloadRef>,
    /// Go on with new lines
    #[arg(short, long)]
    follow: bool,
    /// Begin with the last N lines
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    tail: Option<u32>,
    /// Only lines after this: 10m ago, or 2026-01-31T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<SystemTime>,
    /// Of the run before this one
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
}

impl Logs {
    /// Prints the logs of every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let begun = |names: Vec<String>| names.into_iter().map(|name| (name, Begin::default())).collect();
        let work = session.workloads(&self.names)?.into_iter().map(|(target, names)| (target, begun(names)));
        let work: Vec<(_, Vec<(String, Begin)>)> = work.collect();
        let timestamps = self.timestamps;
        let open = async |capsule: Capsule, (name, begin): (String, Begin), last: Option<LogRecord>| {
            let after = begin.cursor(last.map(|record| record.cursor));
            let request = WorkloadLogsRequest { after, ..self.request(&name) };
            let answer = capsule.workloads().logs(request).await;
            let answer = named::workload(&capsule, &name, answer).await?;
            begin.note(answer.metadata());
            Ok(answer.into_inner())
        };
        follow(
            session,
            work,
            |(name, _)| name.clone(),
            Lost::when(self.follow),
            open,
            |out, prefix, record| {
                show(out, prefix, &record, timestamps);
            },
        )
        .await
    }

    fn request(&self, name: &str) -> WorkloadLogsRequest {
        WorkloadLogsRequest {
            name: name.to_owned(),
            follow: self.follow,
            tail: self.tail,
            since: self.since.map(timestamp),
            previous: self.previous,
            after: String::new(),
        }
    }
}

fn show(out: &Out, prefix: &str, record: &LogRecord, timestamps: bool) {
    let sink = if record.stream() == Stream::Stderr { Sink::Error } else { Sink::Out };
    let time = record.time.as_ref().filter(|_| timestamps).map(|at| format!("{} ", human::rfc3339(at)));
    write_line(out, sink, &format!("{prefix}{}", time.unwrap_or_default()), &record.line);
}

/// A span before now, or an instant.
pub(crate) fn since(text: &str) -> Result<SystemTime, String> {
    let before = |span: Duration| SystemTime::now().checked_sub(span);
    if let Some(at) = parse_duration(text).ok().and_then(before) {
        return Ok(at);
    }
    let instant = text.parse::<jiff::Timestamp>();
    instant
        .map(|at| {
            system_time(&pbjson_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() })
        })
        .map_err(|_| {
            "write a span, such as 10m or 2h, or an instant, such as 2026-01-31T18:00:00Z".to_owned()
        })
}

/// How many of the last lines or events.
pub(crate) fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "write how many, such as 20, or leave it out for all that are kept".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_is_none_says_what_would_be_one() {
        assert_eq!(count("20"), Ok(20));
        for wrong in ["abc", "-1", "1.5", "99999999999"] {
            assert!(count(wrong).unwrap_err().contains("such as 20"), "{wrong}");
        }
    }

    #[test]
    fn since_takes_a_span_or_an_instant() {
        let ago = SystemTime::now().duration_since(since("10m").unwrap()).unwrap();
        assert!((599..610).contains(&ago.as_secs()));
        let at = since("1970-01-01T00:01:00Z").unwrap();
        assert_eq!(at, SystemTime::UNIX_EPOCH + Duration::from_mins(1));
        assert!(since("yesterday").is_err());
    }
}
