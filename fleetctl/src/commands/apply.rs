//! `fleetctl apply`.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use capsule_client::Capsule;
use capsule_proto::{
    Selector,
    v1::{ApplyAction, ApplyRequest, ApplyResponse, ApplyResult, Kind, Manifest, WaitCondition},
};
use clap::{Args, ValueHint};
use futures_util::future::try_join_all;

use crate::{
    commands::workload::wait::{MARGIN, USUAL, wait},
    exit::Exit,
    failure::Failure,
    gather::gather,
    manifest,
    output::{Out, answer::Layout, clean, progress, style::Tone},
    session::{PATIENT, Session},
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
    /// Wait until every workload is ready, for --timeout or 60 s
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Say what would happen, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Delete workloads with these labels that are not among the manifests; never volumes
    #[arg(long, value_name = "KEY=VALUE")]
    prune: Option<Selector>,
}

impl Apply {
    /// Applies to every capsule.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let targets = session.targets()?;
        let request = ApplyRequest {
            manifests: manifest::read(&self.files)?,
            dry_run: self.dry_run,
            prune_selector: self.prune.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        let (out, dry_run) = (session.out, self.dry_run);
        let ready_within = self.wait.then(|| session.timeout(USUAL));
        let limit = session.timeout(PATIENT) + ready_within.map_or(Duration::ZERO, |limit| limit + MARGIN);
        gather(session, targets, limit, layout(dry_run), async |capsule| {
            apply(&out, &capsule, request.clone(), ready_within).await
        })
        .await
    }
}

/// Sends manifests to one capsule; waits for their workloads where `ready_within` says how long.
async fn apply(
    out: &Out,
    capsule: &Capsule,
    request: ApplyRequest,
    ready_within: Option<Duration>,
) -> Result<ApplyResponse, Failure> {
    let names = workloads(&request.manifests);
    let response = {
        let spinner = progress::spinner(out, &capsule.target().name);
        spinner.say("applying");
        capsule.workloads().apply(request).await?.into_inner()
    };
    if let Some(limit) = ready_within {
        let waits = names.iter().map(|name| wait(out, capsule, name, WaitCondition::Ready, limit));
        try_join_all(waits).await.map_err(|failure| {
            failure.and("The manifests are applied; `fleetctl workload get` shows the state.")
        })?;
    }
    Ok(response)
}

fn workloads(manifests: &[Manifest]) -> Vec<String> {
    manifests.iter().filter(|m| m.kind() != Kind::Volume).map(|m| m.name.clone()).collect()
}

fn layout(dry_run: bool) -> Layout<ApplyResponse> {
    Layout::lines(move |response: &ApplyResponse, out: &Out| {
        response.results.iter().map(|result| line(result, dry_run, out.colour)).collect()
    })
    .named(|response| response.results.iter().map(|result| result.name.clone()).collect())
}

/// `created web`, `updated volume data`, `would recreate web`.
fn line(result: &ApplyResult, dry_run: bool, colour: bool) -> String {
    let verb = if dry_run { intention(result.action()).to_owned() } else { result.action().to_string() };
    let kind = if result.kind() == Kind::Volume { "volume " } else { "" };
    format!("{} {kind}{}", tone(result.action()).paint(&verb, colour), clean::one_line(&result.name))
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
pub(super) fn tone(action: ApplyAction) -> Tone {
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
        assert_eq!(line(&web, false, false), "created web");
        assert_eq!(line(&web, true, false), "would create web");
        web.set_kind(Kind::Volume);
        assert_eq!(line(&web, false, false), "created volume web");
    }
}
