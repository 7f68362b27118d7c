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

#[cfg(test)]
mod tests {
    use capsule_proto::v1::{ExplainResponse, FabricHop, FabricHopKind as Kind, FabricVerdict};

    use super::{super::walk::Side, *};

    fn told(hops: Vec<FabricHop>, silent: &str) -> Vec<String> {
        let answer = ExplainResponse { member: "a".into(), generation: 1, hops };
        let sender = Side { capsule: "a".into(), answer: Ok(answer.clone()), is_known: true };
        let answer = if silent.is_empty() { Ok(answer) } else { Err(silent.to_owned()) };
        let receiver = Side { capsule: "b".into(), answer, is_known: true };
        lines(&Walk::new(&"web@a".parse().unwrap(), &"db@b:53/udp".parse().unwrap(), &sender, &receiver))
    }

    fn hop(kind: Kind, verdict: FabricVerdict) -> FabricHop {
        let (why, remedy) = ("it is so".into(), "do this".into());
        FabricHop { kind: kind.into(), verdict: verdict.into(), why, remedy, known: Vec::new() }
    }

    fn all(verdict: FabricVerdict) -> Vec<FabricHop> {
        let kinds = (1..).map_while(|kind| Kind::try_from(kind).ok());
        kinds.map(|kind| hop(kind, verdict)).collect()
    }

    #[test]
    fn what_it_comes_to_is_one_line_with_its_remedy_on_the_next() {
        assert_eq!(told(all(FabricVerdict::Ok), ""), ["every hop passes: web@a reaches db@b:53/udp"]);
        assert_eq!(
            told(all(FabricVerdict::Fails), ""),
            ["the first that fails is source on a: it is so", "to mend it: do this"]
        );
    }

    #[test]
    fn what_cannot_be_told_is_named_with_who_did_not_answer() {
        let mut hops = all(FabricVerdict::Ok);
        hops.retain(|hop| ![Kind::AllowFrom, Kind::Socket].contains(&hop.kind()));
        assert_eq!(
            told(hops, "no route"),
            [
                "no hop fails, but whether web@a reaches db@b:53/udp cannot be told without allowFrom, socket",
                "b did not answer: no route"
            ]
        );
    }
}
