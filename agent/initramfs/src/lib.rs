//! What the appliance's kernel runs first: finds the disk and the slot that were booted, and goes on
//! in the root file system there.
//!
//! ```text
//!   firmware ──▶ systemd-boot ──▶ kernel + this ──▶ modules ──▶ disk ──▶ slot ──▶ verity ──▶ capsuled init
//!                  │ LoaderDevicePartUUID (EFI variable)       │        │
//!                  └── the partition it was started from ──────┘        └ whose top hash block has the
//!                                                                         root hash of the command line
//! ```
//!
//! - [`mounts`], [`modules`]: what everything else stands on;
//! - [`efi`], [`words`]: what the boot loader and the command line say;
//! - [`disk`]: the disk, its partitions, and waiting for it;
//! - [`verity`], [`mapper`]: the slot's root, each block of it checked when it is read;
//! - [`switch`]: leaving for it;
//! - [`handover`]: what `capsuled init` is told;
//! - [`calls`]: what the system there has this program for.
//!
//! Nothing here is asynchronous and nothing is spawned. Each failure is one line on the console and a
//! reboot: the boot loader, or [`efi::prefer_other`], then chooses the other slot.

pub mod calls;
pub mod disk;
pub mod efi;
pub mod handover;
pub mod mapper;
pub mod modules;
pub mod mounts;
pub mod switch;
pub mod verity;
pub mod words;

use std::{io, path::PathBuf};

/// Why the root file system was not reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or device.
    #[error("cannot {attempt} {path}")]
    Io {
        /// A verb: `mount`.
        attempt: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The command line has no root, or one that is none.
    #[error("the kernel's command line has no usable capsule.root=HASH,BYTES: {0}")]
    Root(String),
    /// Nobody says where the disk is.
    #[error(
        "neither the boot loader (LoaderDevicePartUUID) nor the command line (capsule.disk=PARTUUID) says which \
         disk this is"
    )]
    NoDisk,
    /// It did not come up.
    #[error("no disk with partition {partition} turned up within {seconds} s; there are: {seen}")]
    Absent {
        /// The PARTUUID of its ESP.
        partition: String,
        /// How long it was waited for.
        seconds: u64,
        /// Disks that are there.
        seen: String,
    },
    /// A partition of ours is not there.
    #[error("{disk} has no partition {name}")]
    Partition {
        /// Which disk.
        disk: PathBuf,
        /// Its name.
        name: &'static str,
    },
    /// No slot is the one that the kernel belongs to.
    #[error("neither slot of {disk} holds the root {hash}: a: {a}; b: {b}")]
    Slots {
        /// Which disk.
        disk: PathBuf,
        /// The root hash wanted.
        hash: String,
        /// What is wrong with the first.
        a: String,
        /// What is wrong with the second.
        b: String,
    },
    /// The mapper refused.
    #[error("device-mapper refused to {attempt} the root")]
    Mapper {
        /// A verb.
        attempt: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io<E: Into<io::Error>>(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { attempt, path, source: source.into() }
    }
}

/// Of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error and what it comes from, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let deeper = std::iter::successors(error.source(), |error| error.source());
    deeper.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// A line on the console.
pub fn say(line: &str) {
    println!("capsule: {line}");
}
