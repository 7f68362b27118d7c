//! Why a verb on workloads was refused or failed.

use capsule_proto::{Name, NameError, SelectorError};

use super::needs::{NeedError, NeedKind};
use crate::{runtime::RuntimeError, store::StoreError};

/// Why a verb on workloads was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// No row of that name.
    #[error("this capsule has no workload {0}; `fleetctl workload list` shows those it has")]
    NotFound(Name),
    /// While its logs were followed.
    #[error("the workload was deleted, and its logs with it")]
    Deleted,
    /// What was sent cannot be meant: every reason, one a line.
    #[error("{0}")]
    Invalid(String),
    /// It clashes with the state of this capsule; the message names with what.
    #[error("{0}")]
    Conflict(String),
    /// The kind of workload has no runtime here.
    #[error("{0}: this capsule has no microVM runtime")]
    NoMicroVm(String),
    /// The condition was not met in time.
    #[error("{0}")]
    TimedOut(String),
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not a selector.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// Images, network or volumes refused.
    #[error(transparent)]
    Need(#[from] NeedError),
    /// The runtime refused.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file operation failed.
    #[error("{attempt}")]
    Io {
        /// What was attempted, on what.
        attempt: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl WorkloadError {
    /// For `map_err` on file operations.
    pub(super) fn io(attempt: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let attempt = attempt.into();
        |source| Self::Io { attempt, source }
    }

    /// Whether the same step may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Need(error) => error.kind != NeedKind::Invalid,
            Self::Runtime(error) => error.is_retryable(),
            Self::Store(_) | Self::Io { .. } | Self::TimedOut(_) => true,
            _ => false,
        }
    }
}
