//! Capabilities and what is at odds with `privileged`.

use std::collections::HashSet;

use super::Report;
use crate::{capability, v1};

pub(super) fn check_privilege(report: &mut Report, spec: &v1::ContainerSpec) {
    let Some(capabilities) = &spec.capabilities else { return };
    report.at("capabilities", |report| {
        let added = check_list(report, "add", &capabilities.add);
        let dropped = check_list(report, "drop", &capabilities.drop);
        // Adding one to none, and dropping one of all, are both sensible; the same twice is not.
        for name in added.intersection(&dropped) {
            report.add(format!("{name} is both added and dropped"));
        }
        if spec.privileged && !dropped.is_empty() {
            report.add_at("drop", "a privileged container has every capability; remove drop or privileged");
        }
    });
}

/// The names of the list, without `CAP_`.
fn check_list(report: &mut Report, field: &str, names: &[String]) -> HashSet<&'static str> {
    let mut seen = HashSet::new();
    report.each(field, names, |report, _, name| match capability::short_name(name) {
        Some(short) if seen.insert(short) => {}
        Some(short) => report.add(format!("{short} is listed twice")),
        None => report.add(unknown(name)),
    });
    seen
}

fn unknown(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    match capability::short_name(&upper) {
        Some(_) => format!("{name:?} is not a capability; write {upper}"),
        None => format!("{name:?} is not a capability; see capabilities(7), or write ALL"),
    }
}
