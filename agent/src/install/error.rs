//! Why a capsule is not installed.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    identity::SeedError,
    sys::{partition::PartitionError, run::RunError},
    volume::group::GroupError,
};

/// Of any of the verbs.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// No such disk.
    #[error("this machine has no disk {asked}; it has {known}")]
    NoDisk {
        /// As named.
        asked: String,
        /// What there is.
        known: String,
    },
    /// Names were given anew since the disks were listed.
    #[error(
        "{path} is not the disk that was chosen: its serial number is {found:?}, and {asked:?} was meant; list the \
         disks again"
    )]
    OtherDisk {
        /// Which.
        path: String,
        /// As asked for.
        asked: String,
        /// As it is.
        found: String,
    },
    /// Never.
    #[error("{path} is not written: {reason}")]
    Unfit {
        /// Which.
        path: String,
        /// Why, and what would do.
        reason: String,
    },
    /// Not without a word.
    #[error("{0} holds a capsule, which an installation destroys with all its volumes; --reinstall means it")]
    Capsule(String),
    /// Another call is at it.
    #[error("a disk of this machine is being written by another call; wait until that has ended")]
    Busy,
    /// Nobody waits for it.
    #[error("the caller is gone, and the disk stays unfinished; install again")]
    Abandoned,
    /// There is nothing to finish.
    #[error("no disk was written since this machine was booted; install again from the start")]
    NotWritten,
    /// The medium has not what an installer has.
    #[error("the medium that this machine was booted from is damaged: {0}; write it anew")]
    Medium(String),
    /// The disk lost it.
    #[error("{path} does not hold what was written to it; the disk is failing, choose another")]
    ReadBack {
        /// A partition, or a file.
        path: PathBuf,
    },
    /// A file or device.
    #[error("cannot {attempt} {path}")]
    Io {
        /// A verb.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The table.
    #[error("cannot write the partition table")]
    Partition(#[from] PartitionError),
    /// A tool.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The volume group.
    #[error("cannot make the volume group")]
    Group(#[from] GroupError),
    /// What makes it a capsule.
    #[error("cannot write down who the capsule is")]
    Seed(#[from] SeedError),
}

impl InstallError {
    /// An error of a file or device.
    pub(super) fn io(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { attempt, path, source }
    }
}
