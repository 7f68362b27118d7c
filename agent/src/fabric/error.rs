//! What can go wrong with the fabric.

use std::{io, path::PathBuf};

use capsule_fabric::map::{MapError, Prefix, Refusal};

use crate::store::StoreError;

/// Why a map was refused, or something about the fabric could not be done.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// A map that makes no sense.
    #[error("the member map cannot be used")]
    Map(#[from] MapError),
    /// Signed by nobody who may.
    #[error(
        "the member map is signed by key {key_id}, {standing}; an admin enrolls an operator's key with `fleetctl key add`"
    )]
    Signer {
        /// As the map says.
        key_id: String,
        /// What that key is here.
        standing: &'static str,
    },
    /// The signature is not the signer's.
    #[error("the member map is not what key {key_id} ({name}) signed: it was changed on the way, or made up")]
    Signature {
        /// As the map says.
        key_id: String,
        /// Whose key it is.
        name: String,
    },
    /// Not the next one.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The host has these addresses already.
    #[error(
        "the fabric's range {range} overlaps {taken} of this host: a fabric with another --range would be free of it"
    )]
    Overlap {
        /// The map's.
        range: Prefix,
        /// The host's.
        taken: Prefix,
    },
    /// Somebody has the port.
    #[error(
        "UDP port {port}, where peers would meet this capsule, is taken by {holder}; stop that, or start the agent \
         with another --fabric-port"
    )]
    Port {
        /// Which.
        port: u16,
        /// Who has it.
        holder: String,
    },
    /// In no fabric.
    #[error("this capsule is in no fabric; `fleetctl fabric enroll` puts it into one")]
    NoMap,
    /// A key file.
    #[error("cannot {attempt} the fabric key {path}")]
    Key {
        /// A verb.
        attempt: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A step in the kernel failed.
    #[error("cannot {attempt}")]
    Kernel {
        /// What was attempted, on what.
        attempt: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Closed,
}

impl FabricError {
    pub(super) fn kernel(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        move |source| Self::Kernel { attempt, source }
    }
}

impl From<rusqlite::Error> for FabricError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
