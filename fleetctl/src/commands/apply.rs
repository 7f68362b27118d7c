//! `fleetctl apply`.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use capsule_client::{Capsule, Target};
use capsule_proto::{
    Selector,
    v1::{ApplyAction, ApplyRequest, ApplyResponse, ApplyResult, DesiredState, Kind, WaitCondition},
};
use clap::{Args, ValueHint};
use futures_util::future::join_all;
use serde::{Serialize, Serializer};

use crate::{
    commands::workload::wait::{MARGIN, USUAL, wait},
    exit::Exit,
    failure::Failure,
    gather::gather,
    manifest,
    output::{Out, answer::Layout, clean, progress, style::Tone},
    session::{PATIENT, QUICK, Session},
};

/// Make capsules match manifests; all of them, or nothing changes
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl apply -f web.yaml --wait\n  fleetctl --group edge apply -f site/ --prune app=site\n  \
                        cat web.yaml | fleetctl apply -f - --dry-run"
)]
pub struct Apply {
    /// File or directory of manifests, or - for stdin; may be repeated
    #[arg(short, long = "file", value_name = "FILE|DIR|-", required = true, value_hint = ValueHint::AnyPath)]
    files: Vec<PathBuf>,
    /// Wait until every workload is ready, for --timeout or 60 s; one without a readiness probe is
    /// ready once it runs
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Say what would happen, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Delete workloads with these labels that are not among the manifests, and wait until they are
    /// gone; never volumes
    #[arg(long, value_name = "KEY=VALUE", value_parser = some_labels)]
    prune: Option<Selector>,
    /// With --prune: ask for the deletions and go, instead of waiting until they are done
    #[arg(long, requires = "prune", conflicts_with_all = ["wait", "dry_run"])]
    no_wait: bool,
}

/// A selector of nothing in particular would mean every workload there is.
fn some_labels(text: &str) -> Result<Selector, String> {
    let selector: Selector = text.parse().map_err(|error| format!("{error}"))?;
    if selector.is_empty() {
        return Err("it names no label; write KEY=VALUE, such as app=site".into());
    }
    Ok(selector)
}

/// What `apply` did to a capsule, and what of it is not yet as it is to be.
struct Applied {
    response: ApplyResponse,
    /// Pruned, and not known to be gone.
    going: Vec<String>,
    unmet: Vec<Failure>,
}

impl Serialize for Applied {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.response.serialize(to)
    }
}

/// What is waited for after the commit, and how long.
#[derive(Clone, Copy)]
struct Waits {
    ready: Option<Duration>,
    gone: Option<Duration>,
}

impl Apply {
    /// Applies to every capsule.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let targets = session.targets()?;
        let request = ApplyRequest {
            manifests: manifest::read(&self.files)?,
            prune_selector: self.prune.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        if self.dry_run {
            return plan(session, targets, request).await;
        }
        let waits = Waits {
            ready: self.wait.then(|| session.timeout(USUAL)),
            gone: (self.prune.is_some() && !self.no_wait).then(|| session.timeout(PATIENT)),
        };
        let longest = waits.ready.max(waits.gone);
        let limit = session.timeout(PATIENT) + longest.map_or(Duration::ZERO, |limit| limit + MARGIN);
        let out = session.out;
        gather(session, targets, limit, layout(), async |capsule| {
            apply(&out, &capsule, request.clone(), waits).await
        })
        .await
    }
}

async fn plan(session: &Session, targets: Vec<Target>, request: ApplyRequest) -> Result<Exit> {
    let layout = Layout::lines(|response: &ApplyResponse, out: &Out| {
        response.results.iter().map(|result| planned(result, out.colour)).collect()
    })
    .named(names);
    gather(session, targets, session.timeout(QUICK), layout, async |capsule| {
        Ok(capsule.workloads().plan(request.clone()).await?.into_inner())
    })
    .await
}

/// Sends manifests to one capsule, and waits. What was committed is told whatever comes of the waiting.
async fn apply(
    out: &Out,
    capsule: &Capsule,
    request: ApplyRequest,
    waits: Waits,
) -> Result<Applied, Failure> {
    let response = {
        let spinner = progress::spinner(out, &capsule.target().name);
        spinner.say("applying");
        capsule.workloads().apply(request).await?.into_inner()
    };
    let workloads = response.results.iter().filter(|result| result.kind() != Kind::Volume);
    let outcomes = join_all(workloads.map(|result| settle(out, capsule, result, waits))).await;
    let mut applied = Applied { response, going: Vec::new(), unmet: Vec::new() };
    for Settled { going, unmet } in outcomes {
        applied.going.extend(going);
        applied.unmet.extend(unmet);
    }
    if let Some(last) = applied.unmet.pop() {
        applied.unmet.push(last.and("The manifests are applied; `fleetctl workload get NAME` tells more."));
    }
    Ok(applied)
}

/// How the wait for one workload ended.
#[derive(Default)]
struct Settled {
    going: Option<String>,
    unmet: Option<Failure>,
}

async fn settle(out: &Out, capsule: &Capsule, result: &ApplyResult, waits: Waits) -> Settled {
    match (result.action(), waits) {
        (ApplyAction::Deleted, Waits { gone: Some(limit), .. }) => {
            let unmet = wait(out, capsule, &result.name, WaitCondition::Deleted, limit).await.err();
            Settled { going: unmet.is_some().then(|| result.name.clone()), unmet }
        }
        (ApplyAction::Deleted, _) => Settled { going: Some(result.name.clone()), unmet: None },
        (_, Waits { ready: Some(limit), .. }) => {
            Settled { going: None, unmet: become_ready(out, capsule, result, limit).await.err() }
        }
        _ => Settled::default(),
    }
}

async fn become_ready(
    out: &Out,
    capsule: &Capsule,
    result: &ApplyResult,
    limit: Duration,
) -> Result<(), Failure> {
    if result.desired_state() == DesiredState::Stopped {
        let name = &result.name;
        return Err(Failure {
            code: "conflict",
            message: format!(
                "workload {name} is not ready: it stays stopped, as an operator left it; `fleetctl workload start \
                 {name}` starts it"
            ),
        });
    }
    wait(out, capsule, &result.name, WaitCondition::Ready, limit).await.map(drop)
}

fn layout() -> Layout<Applied> {
    Layout::lines(|applied: &Applied, out: &Out| {
        let verb = |result: &ApplyResult| match result.action() {
            ApplyAction::Deleted if applied.going.contains(&result.name) => "deleting".to_owned(),
            action => action.to_string(),
        };
        applied.response.results.iter().map(|result| line(result, &verb(result), out.colour)).collect()
    })
    .named(|applied| names(&applied.response))
    .flawed_by(|applied| applied.unmet.clone())
}

fn names(response: &ApplyResponse) -> Vec<String> {
    response.results.iter().map(|result| result.name.clone()).collect()
}

/// `created web`, `updated volume data`, `would recreate web`, `unchanged web (stays stopped; …)`.
fn line(result: &ApplyResult, verb: &str, colour: bool) -> String {
    let kind = if result.kind() == Kind::Volume { "volume " } else { "" };
    let name = clean::one_line(&result.name);
    let verb = tone(result.action()).paint(verb, colour);
    match result.desired_state() {
        DesiredState::Stopped => {
            format!("{verb} {kind}{name} (stays stopped; `fleetctl workload start {name}` starts it)")
        }
        _ => format!("{verb} {kind}{name}"),
    }
}

/// `would recreate web`.
pub(super) fn planned(result: &ApplyResult, colour: bool) -> String {
    line(result, intention(result.action()), colour)
}

fn intention(action: ApplyAction) -> &'static str {
    match action {
        ApplyAction::Created => "would create",
        ApplyAction::Recreated => "would recreate",
        ApplyAction::Updated => "would update",
        ApplyAction::Deleted => "would delete",
        ApplyAction::Unchanged | ApplyAction::Unspecified => "would keep",
    }
}

/// Colour of a change.
fn tone(action: ApplyAction) -> Tone {
    match action {
        ApplyAction::Created => Tone::Good,
        ApplyAction::Recreated | ApplyAction::Updated => Tone::Warn,
        ApplyAction::Deleted => Tone::Bad,
        ApplyAction::Unchanged | ApplyAction::Unspecified => Tone::Dim,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_read_as_sentences() {
        let mut web = ApplyResult { name: "web".into(), ..Default::default() };
        web.set_kind(Kind::Container);
        web.set_action(ApplyAction::Created);
        assert_eq!(line(&web, "created", false), "created web");
        web.set_desired_state(DesiredState::Stopped);
        let stopped = "unchanged web (stays stopped; `fleetctl workload start web` starts it)";
        assert_eq!(line(&web, "unchanged", false), stopped);
        let mut data = ApplyResult { name: "data".into(), ..Default::default() };
        data.set_kind(Kind::Volume);
        data.set_action(ApplyAction::Created);
        assert_eq!(planned(&data, false), "would create volume data");
    }
}
