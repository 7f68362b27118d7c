//! Names and labels.

use std::collections::BTreeMap;

use super::Report;
use crate::{Name, NameError};

/// Longest key of a label, in bytes.
const MAX_LABEL_KEY: usize = 128;

/// Longest value of a label, in bytes.
const MAX_LABEL_VALUE: usize = 256;

/// Most labels of one workload or volume.
const MAX_LABELS: usize = 64;

pub(super) fn check_name(report: &mut Report, name: &str) {
    if name.is_empty() {
        report.add("it is missing");
        return;
    }
    match name.parse::<Name>() {
        Ok(name) if name.is_debug_shell() => {
            report.add(format!(
                "{name} is a name of debug shells: `debug-` and four hex digits; choose another"
            ));
        }
        Ok(_) => {}
        Err(error) => {
            let error: NameError = error;
            report.add(error.to_string());
        }
    }
}

/// Keys and values that a selector (`key=value,key=value`) can name.
pub(super) fn check_labels(report: &mut Report, labels: &BTreeMap<String, String>) {
    if labels.len() > MAX_LABELS {
        report.add(format!("{} labels are too many; {MAX_LABELS} is the most", labels.len()));
    }
    for (key, value) in labels {
        if let Some(problem) = label_key_problem(key).or_else(|| label_value_problem(value)) {
            report.add_at(key, problem);
        }
    }
}

fn label_key_problem(key: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if key.is_empty() || key.len() > MAX_LABEL_KEY {
        return Some(format!("a label's key has 1 to {MAX_LABEL_KEY} bytes, not {}", key.len()));
    }
    (!key.bytes().all(allowed)).then(|| format!("{key:?} is no key: it takes letters, digits and . _ - /"))
}

fn label_value_problem(value: &str) -> Option<String> {
    if value.len() > MAX_LABEL_VALUE {
        return Some(format!("a label's value has at most {MAX_LABEL_VALUE} bytes, not {}", value.len()));
    }
    let refused = value.contains(',') || value.chars().any(char::is_control) || value.trim() != value;
    refused.then(|| {
        "a label's value has no comma, no control character and no space at either end, so that selectors can name it"
            .to_owned()
    })
}
