//! Volumes as sparse files behind loop devices, where there is no volume group.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use capsule_proto::Name;

use super::{BlockStore, Device, is_scarce};
use crate::sys::loopdev::LoopDevice;

/// Bytes in a block of `st_blocks`, whatever the file system's own are.
const STAT_BLOCK: u64 = 512;

impl Device for LoopDevice {
    fn path(&self) -> &Path {
        Self::path(self)
    }
}

/// Sparse files behind loop devices.
pub struct FileStore {
    dir: PathBuf,
}

impl FileStore {
    /// Keeps `NAME.img` files in `dir`, which exists.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn file(&self, volume: &Name) -> PathBuf {
        self.dir.join(format!("{volume}.img"))
    }
}

impl BlockStore for FileStore {
    fn kind(&self) -> &'static str {
        "file"
    }

    /// Sparse files may promise more than the host has; the operator should know.
    fn scarcity(&self, size: u64) -> Option<String> {
        let stat = nix::sys::statvfs::statvfs(self.dir.as_path()).ok()?;
        let free = stat.blocks_available() * stat.fragment_size();
        let total = stat.blocks() * stat.fragment_size();
        is_scarce(size, free, total)
            .then(|| format!("the host's disk has {} MiB left: writes to it may fail", free >> 20))
    }

    fn create(&self, volume: &Name, size: u64) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        // A new file, never the old one emptied: an mkfs that outlived a killed agent may still
        // write to that.
        self.delete(volume)?;
        let path = self.file(volume);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.set_len(size)?;
        file.sync_all()?;
        File::open(&self.dir)?.sync_all()
    }

    fn grow(&self, volume: &Name, size: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.file(volume))?;
        if file.metadata()?.len() < size {
            file.set_len(size)?;
            file.sync_all()?;
        }
        Ok(())
    }

    fn open(&self, volume: &Name) -> io::Result<Box<dyn Device>> {
        let device = LoopDevice::attach(&self.file(volume))?;
        // One that was attached before the file grew has the old size.
        device.refresh_capacity()?;
        Ok(Box::new(device))
    }

    fn delete(&self, volume: &Name) -> io::Result<()> {
        match fs::remove_file(self.file(volume)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn usage(&self, volume: &Name) -> io::Result<u64> {
        Ok(fs::metadata(self.file(volume))?.blocks() * STAT_BLOCK)
    }
}
