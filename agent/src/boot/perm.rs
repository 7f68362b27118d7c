//! `/perm`: everything that a capsule is, beside the system in its slot.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::mounts;
use crate::{
    status,
    sys::{
        blkid::{self, Content},
        ext4,
        file::ensure_dir,
        mount::{Access, with_vfat},
        run::RunError,
    },
    volume::group::{self, Report},
};

/// Where it is mounted.
pub const PLACE: &str = "/perm";
/// Where the agent keeps its state.
pub const STATE_DIR: &str = "/perm/capsule";
/// On the ESP, for as long as this disk is a capsule's: the volume group was made.
pub const MARK: &str = "EFI/capsule/perm";
/// Where the ESP is while init looks at it.
const ESP: &str = "/run/capsule/esp";

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum PermError {
    /// It was there once.
    #[error(
        "/perm is gone: this disk had a volume group, and {device} holds nothing. No empty one is made in its place. \
         If a backup of the disk exists, restore it; to begin as a new capsule, remove {MARK} from the ESP"
    )]
    Gone {
        /// The partition.
        device: PathBuf,
    },
    /// The volume group.
    #[error("/perm cannot be reached")]
    Group(#[from] group::GroupError),
    /// What is on the partition cannot be told.
    #[error("cannot look at the partition of /perm")]
    Look(#[from] RunError),
    /// Its file system.
    #[error("/perm is damaged: {device} cannot be mounted, nor repaired without losing data ({repair})")]
    Damaged {
        /// The volume.
        device: PathBuf,
        /// What e2fsck said.
        repair: String,
        /// Why it could not be mounted.
        #[source]
        source: io::Error,
    },
    /// The disk.
    #[error("cannot {attempt}")]
    Io {
        /// With its object.
        attempt: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes the volume group of `pv`, or activates what `/perm` is on, and mounts it. The mark is made once
/// the group is whole.
pub async fn open(pv: &Path, esp: &Path) -> Result<Report, PermError> {
    let is_marked = look_at(esp, |dir| Ok(dir.join(MARK).exists()))?;
    let known = if is_marked { group::activate_perm(pv).await? } else { None };
    let report = match known {
        Some(report) => report,
        None if is_marked && blkid::content(pv).await? == Content::Blank => {
            return Err(PermError::Gone { device: pv.to_owned() });
        }
        None => group::ensure_group(pv).await?,
    };
    mount_perm(&report.perm).await?;
    make_dirs()?;
    if !is_marked {
        mark(esp)?;
    }
    Ok(report)
}

/// An installer's: memory, which the next boot knows nothing of.
pub fn open_in_memory() -> Result<(), PermError> {
    mounts::mount_memory(Path::new(PLACE))
        .map_err(|source| PermError::Io { attempt: "mount /perm", source })?;
    make_dirs()
}

fn make_dirs() -> Result<(), PermError> {
    let made = |source| PermError::Io { attempt: "make the directories on /perm", source };
    ensure_dir(Path::new(super::history::DIR), 0o700).map_err(made)?;
    ensure_dir(Path::new(STATE_DIR), 0o700).map_err(made)
}

/// A journal is replayed by mounting; only where that does not help is the file system checked.
async fn mount_perm(device: &Path) -> Result<(), PermError> {
    let place = Path::new(PLACE);
    let Err(first) = mounts::mount_perm(device, place) else { return Ok(()) };
    tracing::warn!(error = %first, "/perm could not be mounted and is checked");
    let repair = match ext4::check(device).await {
        Ok(()) => "e2fsck found nothing to repair".to_owned(),
        Err(error) => status::chain(&error),
    };
    mounts::mount_perm(device, place).map_err(|source| PermError::Damaged {
        device: device.to_owned(),
        repair,
        source,
    })
}

fn mark(esp: &Path) -> Result<(), PermError> {
    let write = |dir: &Path| crate::sys::file::write_atomic(&dir.join(MARK), b"", 0o644);
    with_esp(esp, Access::Write, write).map_err(|source| PermError::Io { attempt: "mark the ESP", source })
}

fn look_at<T>(esp: &Path, look: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, PermError> {
    with_esp(esp, Access::Read, look).map_err(|source| PermError::Io { attempt: "read the ESP", source })
}

/// Does something with the ESP's files, which are there for that long.
pub fn with_esp<T>(esp: &Path, access: Access, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    with_vfat(esp, Path::new(ESP), access, work)
}
