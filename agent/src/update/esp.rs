//! The boot partition, a FAT that is mounted only while it is looked at or changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::sys::mount;

/// Where it is mounted; init has another place of its own.
const MOUNT_POINT: &str = "/run/capsule/esp-of-agent";

/// The boot partition; cheap to clone.
#[derive(Clone, Debug)]
pub struct Esp {
    device: PathBuf,
    /// There is one mount point.
    turn: Arc<Mutex<()>>,
}

impl Esp {
    /// On this device; a directory serves as it is.
    pub fn new(device: impl Into<PathBuf>) -> Self {
        Self { device: device.into(), turn: Arc::default() }
    }

    /// Runs `work` on its directory. What was written is on the disk when this returns.
    pub fn with<T>(&self, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.device.is_dir() {
            return work(&self.device);
        }
        let target = Path::new(MOUNT_POINT);
        fs::create_dir_all(target)?;
        // A killed agent may have left it there.
        mount::unmount_if_mounted(target)?;
        mount::mount_vfat(&self.device, target)?;
        let outcome = work(target);
        let unmounted = mount::unmount_if_mounted(target);
        outcome.and_then(|value| unmounted.map(|()| value))
    }
}
