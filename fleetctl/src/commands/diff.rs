//! `fleetctl diff`.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use capsule_proto::v1::{ApplyAction, ApplyRequest, ApplyResponse, ApplyResult, FieldChange};
use clap::{Args, ValueHint};

use super::apply;
use crate::{
    exit::Exit,
    gather::gather,
    manifest,
    output::{Out, answer::Layout, clean, style::Tone},
    session::{QUICK, Session},
};

/// Show how manifests differ from what capsules have
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl diff -f web.yaml\n  fleetctl --all diff -f site/ --exit-code")]
pub struct Diff {
    /// File or directory of manifests, or - for stdin; may be repeated
    #[arg(short, long = "file", value_name = "FILE|DIR|-", required = true, value_hint = ValueHint::AnyPath)]
    files: Vec<PathBuf>,
    /// Exit with 4 where anything would change
    #[arg(long)]
    exit_code: bool,
}

impl Diff {
    /// Compares with every capsule.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let targets = session.targets()?;
        let manifests = manifest::read(&self.files)?;
        let request = ApplyRequest { manifests, ..Default::default() };
        let differs = Arc::new(AtomicBool::new(false));
        let exit = gather(session, targets, session.timeout(QUICK), layout(), async |capsule| {
            let response = capsule.workloads().plan(request.clone()).await?.into_inner();
            differs.fetch_or(response.results.iter().any(changes), Ordering::Relaxed);
            Ok(response)
        })
        .await?;
        let is_different = self.exit_code && exit == Exit::ALL && differs.load(Ordering::Relaxed);
        Ok(if is_different { Exit::DIFFERENT } else { exit })
    }
}

fn changes(result: &ApplyResult) -> bool {
    !matches!(result.action(), ApplyAction::Unchanged | ApplyAction::Unspecified)
}

fn layout() -> Layout<ApplyResponse> {
    Layout::lines(|response: &ApplyResponse, out: &Out| {
        response.results.iter().filter(|result| changes(result)).flat_map(|r| lines(r, out.colour)).collect()
    })
    .named(|response| response.results.iter().filter(|r| changes(r)).map(|r| r.name.clone()).collect())
}

/// What would happen to one workload, the fields that cause it, and the steps taken.
fn lines(result: &ApplyResult, colour: bool) -> Vec<String> {
    let head = apply::planned(result, colour);
    let fields = result.changes.iter().flat_map(|change| field(change, colour));
    let step = |step: &String| Tone::Dim.paint(&format!("  > {}", clean::one_line(step)), colour);
    std::iter::once(head).chain(fields).chain(result.steps.iter().map(step)).collect()
}

fn field(change: &FieldChange, colour: bool) -> Vec<String> {
    let path = clean::one_line(&change.path);
    let side = |sign: char, value: &str, tone: Tone| {
        (!value.is_empty())
            .then(|| tone.paint(&format!("  {sign} {path}: {}", clean::one_line(value)), colour))
    };
    let sides = [side('-', &change.old, Tone::Bad), side('+', &change.new, Tone::Good)];
    sides.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_both_sides_and_what_is_done() {
        let mut result = ApplyResult {
            name: "web".into(),
            changes: vec![
                FieldChange { path: "container.image".into(), old: "\"a\"".into(), new: "\"b\"".into() },
                FieldChange { path: "container.env[1]".into(), old: String::new(), new: "{}".into() },
            ],
            steps: vec!["stop".into()],
            ..Default::default()
        };
        result.set_action(ApplyAction::Recreated);
        let expected = [
            "would recreate web",
            "  - container.image: \"a\"",
            "  + container.image: \"b\"",
            "  + container.env[1]: {}",
            "  > stop",
        ];
        assert_eq!(lines(&result, false), expected);
    }
}
