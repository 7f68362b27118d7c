//! What can go wrong with a volume.

use capsule_proto::{Name, NameError, Size, VolumeSizeError};

use super::group::GroupError;
use crate::{store::StoreError, sys::run::RunError};

/// Why a volume could not be made, changed or used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No such volume.
    #[error("there is no volume {0}; `fleetctl volume list` shows those that this capsule has")]
    NotFound(Name),
    /// A workload is to mount it, and nobody has made it.
    #[error(
        "there is no volume {volume} for workload {workload} to mount; create it first with `fleetctl volume create \
         {volume} SIZE`, or apply a `kind: Volume` document of that name together with the workload"
    )]
    Missing {
        /// Which.
        volume: Name,
        /// Whose manifest names it.
        workload: Name,
    },
    /// It exists with another size.
    #[error("volume {name} exists with {actual}, not {asked}; resize it, or choose another name")]
    Exists {
        /// Which.
        name: Name,
        /// Its size.
        actual: Size,
        /// What was asked for.
        asked: Size,
    },
    /// Volumes only grow.
    #[error(
        "a volume never shrinks: {name} has {actual}, and {asked} were asked for; make another volume of that size \
         and copy the data"
    )]
    Shrink {
        /// Which.
        name: Name,
        /// Its size.
        actual: Size,
        /// What was asked for.
        asked: Size,
    },
    /// Outside what a file system can be made of.
    #[error(transparent)]
    Size(#[from] VolumeSizeError),
    /// Read-write use excludes every other use.
    #[error(
        "volume {volume} is used by workload {holder}, {how}; only read-only uses can share a volume. Delete \
         {holder}, or take the mount out of one of the two"
    )]
    Claimed {
        /// Which.
        volume: Name,
        /// The workload that has it.
        holder: String,
        /// `read-write` or `read-only`.
        how: &'static str,
    },
    /// A workload's spec names it.
    #[error("volume {volume} is named by workload {holder}; delete the workload first, or use --force")]
    Named {
        /// Which.
        volume: Name,
        /// The workload.
        holder: String,
    },
    /// It is mounted now.
    #[error("volume {volume} is mounted by {by}; stop the workload first")]
    Mounted {
        /// Which.
        volume: Name,
        /// The workloads.
        by: String,
    },
    /// Nothing is promised now.
    #[error("volume {volume} is neither made nor grown now: {reason}")]
    NoRoom {
        /// Which.
        volume: Name,
        /// Why, and what helps.
        reason: String,
    },
    /// There is no disk of its own.
    #[error(
        "this capsule runs on a host that somebody else booted and keeps its volumes in files there; use the host's own \
         tools to make their disk larger"
    )]
    NoDisk,
    /// There is no pool to grow.
    #[error("the disk is not grown, since its volumes cannot be used: {0}")]
    PoolUnusable(String),
    /// The disk.
    #[error("cannot grow the disk")]
    Group(#[from] GroupError),
    /// It is on its way out.
    #[error("volume {0} is being deleted; try again in a moment")]
    Deleting(Name),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A step on the host failed.
    #[error("cannot {attempt} volume {volume}")]
    Io {
        /// Which.
        volume: String,
        /// A verb: `mount`.
        attempt: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A tool failed.
    #[error("cannot {attempt} volume {volume}")]
    Tool {
        /// Which.
        volume: Name,
        /// A verb: `format`.
        attempt: &'static str,
        /// Why.
        #[source]
        source: RunError,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl VolumeError {
    /// Whether the same call may succeed later without anyone changing a spec.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Io { .. } | Self::Tool { .. } | Self::Group(_) | Self::Store(_) | Self::Deleting(_)
        )
    }
}

impl From<rusqlite::Error> for VolumeError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
