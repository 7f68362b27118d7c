//! What a workload may do in the fabric.

use std::collections::HashMap;

use super::Report;
use crate::{
    reference::{HOST, OPERATOR, Peer, Reference},
    v1,
};

/// Most references of one list.
const MAX_REFERENCES: usize = 16_384;

/// Which way the flows of a list go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    To,
    From,
}

pub(super) fn check_fabric(report: &mut Report, name: &str, mode: v1::NetworkMode, spec: &v1::FabricSpec) {
    if matches!(mode, v1::NetworkMode::Host | v1::NetworkMode::None) {
        report.add(format!(
            "only a workload with a network of its own has addresses in the fabric; leave networkMode: {mode} or \
             fabric out"
        ));
    }
    if [HOST, OPERATOR].contains(&name) {
        report.add(format!(
            "in policies {name}@… stands for a capsule itself, so a workload in the fabric needs another name"
        ));
    }
    check_references(report, "allowTo", Direction::To, &spec.allow_to);
    check_references(report, "allowFrom", Direction::From, &spec.allow_from);
}

fn check_references(report: &mut Report, field: &str, direction: Direction, texts: &[String]) {
    if texts.len() > MAX_REFERENCES {
        let message = format!("{} references are too many; {MAX_REFERENCES} is the most", texts.len());
        return report.add_at(field, message);
    }
    let mut seen = HashMap::new();
    report.each(field, texts, |report, index, text| match text.parse::<Reference>() {
        Err(error) => report.add(error.to_string()),
        Ok(Reference { peer: Peer::Host(_) | Peer::Operator(_), .. }) if direction == Direction::To => {
            report.add("a capsule itself takes no connections from workloads; name a workload");
        }
        Ok(reference) => {
            if let Some(earlier) = seen.insert(reference, index) {
                report.add(format!("it repeats {field}[{earlier}]"));
            }
        }
    });
}
