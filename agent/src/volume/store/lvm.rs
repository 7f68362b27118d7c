//! Volumes as thin volumes `vol-NAME` in the appliance's pool.

use std::{
    io,
    path::{Path, PathBuf},
};

use capsule_proto::{Name, Size};
use tokio::runtime::Handle;

use super::{BlockStore, Device, is_scarce};
use crate::{
    sys::{
        dm,
        lvm::{self, Lvm, LvmError},
    },
    volume::{
        group::{GROUP, POOL},
        pool::Pool,
    },
};

/// Thin volumes of a pool. Its calls are made where blocking is allowed, and the runtime is known.
pub struct LvmStore {
    pool: Pool,
}

struct Mapped(PathBuf);

impl Device for Mapped {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl LvmStore {
    /// Keeps volumes in `pool`.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    fn lvm(&self) -> &Lvm {
        self.pool.lvm()
    }
}

fn volume_name(volume: &Name) -> String {
    format!("vol-{volume}")
}

fn wait<T>(work: impl Future<Output = Result<T, LvmError>>) -> io::Result<T> {
    Handle::current().block_on(work).map_err(io::Error::other)
}

impl BlockStore for LvmStore {
    fn kind(&self) -> &'static str {
        "lvm"
    }

    fn create(&self, volume: &Name, size: u64) -> io::Result<()> {
        let name = volume_name(volume);
        // A new one, never the old one wiped: an mkfs that outlived a killed agent may still write
        // to that, and keeps it from being removed.
        self.delete(volume)?;
        wait(self.lvm().make_thin(GROUP, POOL, &name, size))
    }

    fn grow(&self, volume: &Name, size: u64) -> io::Result<()> {
        let name = volume_name(volume);
        let volumes = wait(self.lvm().volumes(GROUP))?;
        match volumes.iter().find(|found| found.name == name) {
            Some(found) if found.size >= size => Ok(()),
            _ => wait(self.lvm().extend(GROUP, &name, size)),
        }
    }

    fn open(&self, volume: &Name) -> io::Result<Box<dyn Device>> {
        let name = volume_name(volume);
        let node = lvm::node(GROUP, &name);
        if !node.exists() {
            wait(self.lvm().activate_volume(GROUP, &name))?;
        }
        Ok(Box::new(Mapped(node)))
    }

    fn delete(&self, volume: &Name) -> io::Result<()> {
        wait(self.lvm().remove(GROUP, &volume_name(volume)))
    }

    fn usage(&self, volume: &Name) -> io::Result<u64> {
        let name = lvm::mapped_name(GROUP, &volume_name(volume));
        dm::thin_usage(&name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn refusal(&self) -> Option<String> {
        self.pool.refusal()
    }

    fn scarcity(&self, size: u64) -> Option<String> {
        let fill = self.pool.fill();
        let free = fill.data.saturating_sub(fill.data_used);
        is_scarce(size, free, fill.data).then(|| {
            format!(
                "the pool has {} left: when that is used up, workloads that write to volumes are paused",
                Size::from_bytes(free >> 20 << 20)
            )
        })
    }

    /// What is deleted in a volume goes back to the pool at once: paused workloads may wait for it.
    fn mount_options(&self) -> Option<&'static str> {
        Some("discard")
    }
}
