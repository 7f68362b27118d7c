//! The boot partition, a FAT that is mounted only while it is looked at or changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::sys::mount::{self, Access};

/// Where it is mounted; init has another place of its own.
const MOUNT_POINT: &str = "/run/capsule/esp-of-agent";

/// The boot partition; cheap to clone.
#[derive(Clone, Debug)]
pub struct Esp {
    device: PathBuf,
    /// How many are at it now: the first mounts it, the last unmounts it.
    users: Arc<Mutex<usize>>,
}

impl Esp {
    /// On this device; a directory serves as it is.
    pub fn new(device: impl Into<PathBuf>) -> Self {
        Self { device: device.into(), users: Arc::default() }
    }

    /// Runs `work` on its directory, which others may use meanwhile.
    pub fn with<T>(&self, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        if self.device.is_dir() {
            return work(&self.device);
        }
        let target = Path::new(MOUNT_POINT);
        self.enter(target)?;
        let outcome = work(target);
        let left = self.leave(target);
        outcome.and_then(|value| left.map(|()| value))
    }

    fn enter(&self, target: &Path) -> io::Result<()> {
        let mut users = self.users();
        if *users == 0 {
            fs::create_dir_all(target)?;
            // A killed agent may have left it there.
            mount::unmount_if_mounted(target)?;
            mount::mount_vfat(&self.device, target, Access::Write)?;
        }
        *users += 1;
        Ok(())
    }

    fn leave(&self, target: &Path) -> io::Result<()> {
        let mut users = self.users();
        *users -= 1;
        if *users == 0 { mount::unmount_if_mounted(target) } else { Ok(()) }
    }

    fn users(&self) -> MutexGuard<'_, usize> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
