//! What was probably meant.

/// Names that docker, compose and kubernetes have for fields of a workload.
const ELSEWHERE: [(&str, &str); 16] = [
    ("environment", "env"),
    ("entrypoint", "command"),
    ("cmd", "args"),
    ("workdir", "workingDir"),
    ("volumes", "mounts"),
    ("volumeMounts", "mounts"),
    ("network", "networkMode"),
    ("hostNetwork", "networkMode"),
    ("restart", "restartPolicy"),
    ("healthcheck", "readiness"),
    ("readinessProbe", "readiness"),
    ("limits", "resources"),
    ("capAdd", "capabilities"),
    ("stopGracePeriod", "stopGraceSeconds"),
    ("published", "hostPort"),
    ("target", "containerPort"),
];

/// Likeness from 0 to 1 below which a name is not proposed.
const LEAST_LIKENESS: f64 = 0.82;

/// The one of `known` that `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '-'], "");
    // A longer one is no slip of a field's name, and the comparison is quadratic.
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let word = plain(word);
    let foreign = ELSEWHERE.iter().find(|(name, _)| plain(name) == word).map(|(_, ours)| *ours);
    if let Some(field) = known.iter().find(|name| foreign == Some(**name)) {
        return Some(field);
    }
    let likeness = |name: &&str| strsim::jaro_winkler(&word, &plain(name));
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) >= LEAST_LIKENESS).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_other_tools_names_find_their_field() {
        let known = ["image", "env", "mounts", "hostPort", "containerPort", "restartPolicy"];
        assert_eq!(nearest("imgae", &known), Some("image"));
        assert_eq!(nearest("host_prot", &known), Some("hostPort"));
        assert_eq!(nearest("environment", &known), Some("env"));
        assert_eq!(nearest("restart", &known), Some("restartPolicy"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("", &known), None);
    }
}
