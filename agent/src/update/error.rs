//! What can go wrong with an update.

use std::{io, path::PathBuf};

use capsule_bundle::{BundleError, Digest, KeyNumber, Part, ReleaseKeyError, Version};

use super::slots::Slot;
use crate::store::StoreError;

/// Why an update was refused or did not come about.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// There are no slots.
    #[error(
        "this capsule is no appliance: somebody else's system runs it, and that is who updates it; replace \
         `capsuled` there and restart it, workloads go on meanwhile"
    )]
    NotAppliance,
    /// The bundle itself.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// An older version.
    #[error(
        "version {offered} is before {running}, which runs here; --allow-downgrade installs it all the same"
    )]
    Downgrade {
        /// What runs.
        running: Version,
        /// What was pushed.
        offered: Version,
    },
    /// A jump that the bundle's makers do not support.
    #[error(
        "version {offered} replaces {minimum} or later, and {running} runs here; update to {minimum} first"
    )]
    TooFar {
        /// What runs.
        running: Version,
        /// What was pushed.
        offered: Version,
        /// The least that it replaces.
        minimum: Version,
    },
    /// For other machines.
    #[error(
        "the bundle is for {theirs}, and this capsule is of {ours}; push the bundle that was built for it"
    )]
    Architecture {
        /// The capsule's.
        ours: &'static str,
        /// The bundle's.
        theirs: String,
    },
    /// No room in the slot.
    #[error("root.img is oversized: {bytes} bytes, and the slot has {slot_bytes}")]
    Oversized {
        /// The image's size.
        bytes: u64,
        /// The slot's.
        slot_bytes: u64,
    },
    /// It was tried.
    #[error(
        "version {version} was tried here and rolled back ({reason}); it is not installed again, unless --force says so"
    )]
    TriedBefore {
        /// Which.
        version: Version,
        /// What was wrong with it.
        reason: String,
    },
    /// The other slot is what a trial falls back to.
    #[error(
        "version {0} runs on trial, and the other slot is what it would fall back to; first keep it with `fleetctl \
         update confirm`, or leave it with `fleetctl update rollback`"
    )]
    OnTrial(Version),
    /// One at a time.
    #[error("version {0} is being installed; wait for it (`fleetctl update status`)")]
    Busy(String),
    /// The same bundle is pushed by somebody else now.
    #[error("the same bundle is pushed over another connection now, which goes on from here")]
    TakenOver,
    /// It is written already, for a push that said otherwise how its trial ends.
    #[error(
        "an earlier push of version {0} had all of it here: it is written and started with that push's \
         --auto-confirm and --confirm-within; `update status` shows its trial, `update confirm` and \
         `update rollback` end it"
    )]
    Otherwise(String),
    /// Another start is under way.
    #[error("version {0} is armed and boots at the next start, which was asked for already; wait for it")]
    Armed(String),
    /// `/perm` is full.
    #[error(
        "there is no room to collect the update: it needs {needed} bytes more and {free} are free; make room on the \
         capsule, images that nothing uses go with `fleetctl image prune`"
    )]
    NoSpace {
        /// What is missing.
        needed: u64,
        /// What is there.
        free: u64,
    },
    /// The caller does not keep to the protocol.
    #[error("the push makes no sense: {0}")]
    Protocol(String),
    /// A chunk is not what it is called.
    #[error("chunk {0} arrived damaged; push again, what has arrived is kept")]
    Chunk(u32),
    /// The chunks make up something else.
    #[error(
        "the chunks do not make up the {part} that was signed: its SHA-256 is {actual}, not {expected}; push again"
    )]
    Assembled {
        /// Which.
        part: Part,
        /// By the manifest.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The disk does not keep what it is given.
    #[error(
        "slot {slot} does not hold what was written: reading {part} back gives SHA-256 {actual}, not {expected}; the \
         disk is failing, see `fleetctl capsule logs`"
    )]
    ReadBack {
        /// Which slot.
        slot: Slot,
        /// Which part of it.
        part: Part,
        /// By the manifest.
        expected: Digest,
        /// On the disk.
        actual: Digest,
    },
    /// The running slot would not boot again.
    #[error(
        "the boot partition has no good entry for slot {0}, which runs: nothing would be left to fall back to; \
         `fleetctl update confirm` writes it anew"
    )]
    NoFallback(Slot),
    /// Nothing to go back to.
    #[error("slot {0} holds no good system to go back to; `fleetctl update status` shows what is in it")]
    NothingBefore(Slot),
    /// A file or device.
    #[error("cannot {attempt} {}", path.display())]
    Io {
        /// A verb: `write`.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a key.
    #[error(transparent)]
    Key(#[from] ReleaseKeyError),
    /// A key that is not trusted.
    #[error("release key {0} is not trusted here; `fleetctl update keys list` shows those that are")]
    UnknownKey(KeyNumber),
    /// The last key.
    #[error(
        "{0} is the last release key: without it no bundle is accepted any more; add another first, or use --force"
    )]
    LastKey(KeyNumber),
    /// As many as there can be.
    #[error("{0} release keys are trusted, and no more can be; remove one first")]
    TooManyKeys(usize),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl UpdateError {
    /// An error of a file.
    pub(super) fn io(attempt: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { attempt, path, source }
    }
}

impl From<capsule_bundle::SignatureError> for UpdateError {
    fn from(error: capsule_bundle::SignatureError) -> Self {
        Self::Bundle(error.into())
    }
}

impl From<rusqlite::Error> for UpdateError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
