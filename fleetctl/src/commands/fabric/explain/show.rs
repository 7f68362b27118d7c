//! The walk on the screen.

use serde_json::json;

use super::walk::{Hop, Verdict, Walk};
use crate::output::{
    Format, Out, clean,
    style::Tone,
    table::{Cell, Row, Table, column},
    yaml,
};

/// Prints it in the shape that is asked for.
pub(super) fn walk(out: &Out, walk: &Walk) {
    match out.format {
        Format::Json => out.line(&json!(walk).to_string()),
        Format::Yaml => out.text(&yaml::document(&json!(walk))),
        Format::Name => {
            if let Some(failure) = walk.failure() {
                out.line(failure.name);
            }
        }
        Format::Table | Format::Wide => {
            let mut table = Table::new(
                ["HOP", "CAPSULE", "VERDICT", "WHY"].map(column).to_vec(),
                out.colour,
                out.table_limit(),
            );
            out.text(&table.render(&walk.hops.iter().map(row).collect::<Vec<_>>()));
            for line in lines(walk) {
                out.line(&clean::one_line(&line));
            }
        }
    }
}

fn row(hop: &Hop) -> Row {
    let tone = match hop.verdict {
        Verdict::Ok => Tone::Good,
        Verdict::Fails => Tone::Bad,
        Verdict::Unknown => Tone::Warn,
    };
    Row::Cells(vec![
        hop.name.into(),
        hop.capsule.as_str().into(),
        Cell::new(hop.verdict.word(), tone),
        hop.why.as_str().into(),
    ])
}

/// What it comes to, and what else is to be known.
fn lines(walk: &Walk) -> Vec<String> {
    let Walk { source, destination, .. } = walk;
    let mut lines = match walk.failure() {
        Some(Hop { name, capsule, why, remedy, .. }) => {
            vec![
                format!("the first that fails is {name} on {capsule}: {why}"),
                format!("to mend it: {remedy}"),
            ]
        }
        None if walk.passes => vec![format!("every hop passes: {source} reaches {destination}")],
        None => vec![format!(
            "no hop fails, but whether {source} reaches {destination} cannot be told without {}",
            walk.unknown().join(", ")
        )],
    };
    lines.extend(walk.notes.iter().cloned());
    lines
}
