//! Why something did not work: one readable paragraph for a person, a code for a program.

use std::fmt;

use capsule_client::CallError;
use serde::Serialize;
use tonic::{Code, Status};

use crate::output::clean;

/// One capsule's failure, as tables and `-o json` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// As [`capsule_client::ErrorKind`] shows, or `local` for what went wrong on this side.
    pub code: &'static str,
    /// What, where, why, what next.
    pub message: String,
}

impl Failure {
    /// A failure on this side.
    pub fn local(message: impl Into<String>) -> Self {
        Self { code: "local", message: message.into() }
    }

    /// The same with a further sentence.
    pub fn and(mut self, more: &str) -> Self {
        let joint = match self.message.as_str() {
            // The last of several lines may be somebody else's.
            lines if lines.contains('\n') => "\n",
            sentence if sentence.ends_with(['.', '?', '!']) => " ",
            _ => ". ",
        };
        self.message = format!("{}{joint}{more}", self.message);
        self
    }

    /// Whether the capsule may be back later and then answer otherwise.
    pub fn is_lost_connection(&self) -> bool {
        matches!(self.code, "unreachable" | "unavailable" | "timed-out")
    }

    /// Whether the capsule said that what was named does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == "not-found"
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clean::paragraph(&self.message))
    }
}

impl std::error::Error for Failure {}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let code = error.kind().as_str();
        let message = match (&error, error.code()) {
            (_, Some(Code::Unimplemented)) => {
                "the capsule does not know this call: it runs an older version than this fleetctl".to_owned()
            }
            (CallError::Status(status), _) if status.message().is_empty() => {
                format!("the capsule refused ({code}) and gave no reason; see `fleetctl capsule logs`")
            }
            _ => error.to_string(),
        };
        Self { code, message }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        CallError::from(status).into()
    }
}

/// The command line asks for what cannot be: nothing was sent to any capsule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// A [`UsageError`] as the commands' error type.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    UsageError(message.into()).into()
}

/// The candidate that `text` was most likely meant to be.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One slip in three characters is a typo; more is another word.
    let limit = (text.chars().count() / 3).max(1);
    let scored = candidates.into_iter().map(|name| (strsim::osa_distance(text, name), name));
    let best = scored.filter(|(slips, _)| *slips <= limit).min_by_key(|(slips, _)| *slips);
    best.map(|(_, name)| name)
}

/// An error with all its causes as one paragraph.
pub fn paragraph(error: &anyhow::Error) -> String {
    told_once(error.chain().map(ToString::to_string))
}

/// The same of any error.
pub fn causes(error: &dyn std::error::Error) -> String {
    told_once(std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string))
}

/// Some errors repeat their cause in their own words; it is told once.
fn told_once(causes: impl Iterator<Item = String>) -> String {
    causes.fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        told if told.contains(&cause) => text,
        told => format!("{told}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_typo_finds_what_was_meant_and_nonsense_finds_nothing() {
        assert_eq!(nearest("wbe", ["web", "db"]), Some("web"));
        assert_eq!(nearest("zzz", ["web", "db"]), None);
    }

    #[test]
    fn a_capsules_own_words_are_kept_and_a_silent_status_is_explained() {
        let kept = Failure::from(Status::not_found("there is no workload \"web\""));
        assert_eq!((kept.code, kept.message.as_str()), ("not-found", "there is no workload \"web\""));
        assert!(Failure::from(Status::unimplemented("x")).message.contains("older version"));
        assert!(Failure::from(Status::internal("")).message.contains("no reason"));
        assert_eq!(kept.and("Try list.").message, "there is no workload \"web\". Try list.");
        assert_eq!(
            Failure::local("its last line:\n  boom").and("Look.").message,
            "its last line:\n  boom\nLook."
        );
    }

    #[test]
    fn causes_are_told_once() {
        let error = Err::<(), _>(anyhow::anyhow!("no such file")).context("reading a.yaml").unwrap_err();
        assert_eq!(paragraph(&error), "reading a.yaml: no such file");
    }
}
