//! Where volumes' blocks are kept, behind one seam.
//!
//! - `file.rs`: sparse files behind loop devices, on hosts;
//! - `lvm.rs`: thin volumes in the appliance's pool;
//! - [`Unusable`]: neither, where the pool cannot be used.

mod file;
mod lvm;

use std::{io, path::Path};

use capsule_proto::Name;

pub use self::{file::FileStore, lvm::LvmStore};

/// Below this share of free space, in percent, making a volume warns.
const NEARLY_FULL_PERCENT: u64 = 5;

/// Keeps block devices by name. Calls block; every one may be repeated.
pub trait BlockStore: Send + Sync + 'static {
    /// `file` or `lvm`.
    fn kind(&self) -> &'static str;
    /// Makes an empty device of `size` bytes, replacing what a broken attempt left.
    fn create(&self, volume: &Name, size: u64) -> io::Result<()>;
    /// Grows the device; one that is large enough stays as it is.
    fn grow(&self, volume: &Name, size: u64) -> io::Result<()>;
    /// Makes the device usable until the answer is dropped, and then for as long as it is mounted.
    fn open(&self, volume: &Name) -> io::Result<Box<dyn Device>>;
    /// Frees all of it; none there is fine.
    fn delete(&self, volume: &Name) -> io::Result<()>;
    /// Bytes occupied. Does not block.
    fn usage(&self, volume: &Name) -> io::Result<u64>;

    /// Why no bytes are promised to anybody now, where it is so. Does not block.
    fn refusal(&self) -> Option<String> {
        None
    }
    /// What is to be known where `size` bytes more are more than there are. Does not block.
    fn scarcity(&self, size: u64) -> Option<String>;
    /// Further words for mounting its devices.
    fn mount_options(&self) -> Option<&'static str> {
        None
    }
}

/// An open block device.
pub trait Device: Send {
    /// Its node below /dev.
    fn path(&self) -> &Path;
}

/// Whether to promise `size` bytes is worth a warning.
fn is_scarce(size: u64, free: u64, total: u64) -> bool {
    free < size || free < total / 100 * NEARLY_FULL_PERCENT
}

/// Stands in for a pool that cannot be used: everything is refused with the reason.
pub struct Unusable(pub String);

impl Unusable {
    fn refuse<T>(&self) -> io::Result<T> {
        Err(io::Error::other(self.0.clone()))
    }
}

impl BlockStore for Unusable {
    fn kind(&self) -> &'static str {
        "lvm"
    }

    fn create(&self, _: &Name, _: u64) -> io::Result<()> {
        self.refuse()
    }

    fn grow(&self, _: &Name, _: u64) -> io::Result<()> {
        self.refuse()
    }

    fn open(&self, _: &Name) -> io::Result<Box<dyn Device>> {
        self.refuse()
    }

    fn delete(&self, _: &Name) -> io::Result<()> {
        self.refuse()
    }

    fn usage(&self, _: &Name) -> io::Result<u64> {
        self.refuse()
    }

    fn refusal(&self) -> Option<String> {
        Some(self.0.clone())
    }

    fn scarcity(&self, _: u64) -> Option<String> {
        None
    }
}
