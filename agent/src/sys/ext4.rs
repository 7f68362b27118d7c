//! e2fsprogs: making, checking and growing ext4.

use std::{path::Path, time::Duration};

use super::run::{RunError, run};

/// Making and growing with lazy initialisation writes little; a loaded disk is still slow.
const MAKE_DEADLINE: Duration = Duration::from_mins(2);
/// A check reads all metadata of a large volume.
const CHECK_DEADLINE: Duration = Duration::from_mins(30);

/// Exit status of e2fsck from which on errors were left; below, it repaired what there was.
const UNCORRECTED: i32 = 4;

/// Makes an empty file system that fills `device`: blocks of 4 KiB, since small ones that are
/// grown would keep theirs; none kept for root; inode tables initialised later by the kernel.
pub async fn make(device: &Path) -> Result<(), RunError> {
    let device = device.to_string_lossy();
    let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    let features = "metadata_csum,64bit";
    let arguments = ["-q", "-F", "-b", "4096", "-m", "0", "-E", options, "-O", features, &device];
    run("mkfs.ext4", &arguments, b"", MAKE_DEADLINE).await.map(drop)
}

/// Repairs what can be repaired without asking anyone.
pub async fn check(device: &Path) -> Result<(), RunError> {
    let outcome = run("e2fsck", &["-f", "-p", &device.to_string_lossy()], b"", CHECK_DEADLINE).await;
    match outcome {
        Err(RunError::Failed { status, .. }) if status.code().is_some_and(|code| code < UNCORRECTED) => {
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Whether a file system has its device's size now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// It has.
    Done,
    /// It is mounted, and to grow it there the agent lacks CAP_SYS_RESOURCE.
    Refused,
}

/// Grows the file system to its device; works while it is mounted.
pub async fn grow(device: &Path) -> Result<Growth, RunError> {
    match run("resize2fs", &[&device.to_string_lossy()], b"", MAKE_DEADLINE).await {
        Err(RunError::Failed { said, .. }) if said.contains("Permission denied to resize") => {
            Ok(Growth::Refused)
        }
        outcome => outcome.map(|_| Growth::Done),
    }
}
