//! What can go wrong with the volume group.

use std::path::PathBuf;

use capsule_proto::Size;

use crate::sys::{lvm::LvmError, partition::PartitionError, run::RunError};

/// Why there is no volume group, or why it did not grow.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The device belongs to somebody.
    #[error(
        "{} is not made a volume group, since it holds {content}; if nobody needs that any more, wipe it with \
         `wipefs -a` from another system, or install the capsule anew",
        device.display()
    )]
    Occupied {
        /// Which.
        device: PathBuf,
        /// What it holds: `an ext4 file system called "photos"`.
        content: String,
    },
    /// No room for what must be there.
    #[error("{} has {size}, and a capsule needs {least} there at least; use a larger disk", device.display())]
    TooSmall {
        /// Which.
        device: PathBuf,
        /// What it has.
        size: Size,
        /// What it should have.
        least: Size,
    },
    /// A step is done again and again.
    #[error("the volume group on {} does not come to be: to {step} has no effect", device.display())]
    Endless {
        /// On which device.
        device: PathBuf,
        /// Which.
        step: String,
    },
    /// The partition.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The volumes.
    #[error(transparent)]
    Lvm(#[from] LvmError),
    /// Looking at the device, or the file system on it.
    #[error(transparent)]
    Run(#[from] RunError),
}
