//! Making, growing and deleting, each so that it can be done again from its start.

use std::collections::BTreeMap;

use capsule_proto::{Name, Size, v1};
use rusqlite::Transaction;

use super::{
    Volumes,
    claim::usable_size,
    error::VolumeError,
    store::BlockStore,
    table::{self, Entry, State},
};
use crate::{
    event::NewEvent,
    status,
    sys::ext4::{self, Growth},
};

/// Whether [`Volumes::delete`] heeds claims of workloads that do not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// A claim keeps the volume.
    No,
    /// Claims are dropped with it.
    Yes,
}

impl Volumes {
    /// Makes a volume of `size_bytes`; one that has that size already is returned as it is.
    pub async fn create(
        &self,
        name: &Name,
        size_bytes: u64,
        labels: BTreeMap<String, String>,
    ) -> Result<v1::Volume, VolumeError> {
        let size = usable_size(size_bytes)?;
        let (this, volume) = (self.clone(), name.clone());
        let work = move |tx: &Transaction<'_>| match table::get(tx, &volume)? {
            Some(Entry { size: actual, .. }) if actual != size => {
                let (actual, asked) = (Size::from_bytes(actual), Size::from_bytes(size_bytes));
                Err(VolumeError::Exists { name: volume, actual, asked })
            }
            _ => this.declare(tx, &volume, size, &labels).map(drop),
        };
        self.inner.store.write(work).await?;
        self.ensure_ready(name).await?;
        self.get(name).await
    }

    /// Grows a volume, mounted or not.
    pub async fn resize(&self, name: &Name, size_bytes: u64) -> Result<v1::Volume, VolumeError> {
        let (this, volume) = (self.clone(), name.clone());
        let work = move |tx: &Transaction<'_>| {
            let entry = table::get(tx, &volume)?.ok_or_else(|| VolumeError::NotFound(volume.clone()))?;
            this.declare(tx, &volume, size_bytes, &entry.labels).map(drop)
        };
        self.inner.store.write(work).await?;
        self.ensure_ready(name).await?;
        self.get(name).await
    }

    /// Makes or grows what was declared, where that is still to do.
    pub async fn ensure_ready(&self, name: &Name) -> Result<(), VolumeError> {
        let _ordered = self.lock(name).await;
        let outcome = self.bring_to_size(name).await;
        match &outcome {
            Ok(()) => drop(self.live().errors.remove(name)),
            Err(error) => drop(self.live().errors.insert(name.clone(), status::chain(error))),
        }
        outcome
    }

    async fn bring_to_size(&self, name: &Name) -> Result<(), VolumeError> {
        let entry = self.entry(name).await?;
        match entry.state {
            State::Ready => return Ok(()),
            State::Deleting => return Err(VolumeError::Deleting(name.clone())),
            State::Making => {
                self.refuse_without_room(name)?;
                self.make(name, entry.size).await?;
            }
            State::Growing => {
                self.refuse_without_room(name)?;
                if self.grow(name, entry.size).await? == Growth::Refused {
                    return Ok(());
                }
            }
        }
        let volume = name.clone();
        let done = move |tx: &Transaction<'_>| Ok(table::set_ready(tx, &volume, entry.size)?);
        self.inner.store.write::<_, VolumeError, _>(done).await
    }

    async fn make(&self, name: &Name, size: u64) -> Result<(), VolumeError> {
        self.warn_if_scarce(name, size);
        let create = move |blocks: &dyn BlockStore, name: &Name| {
            blocks.create(name, size)?;
            blocks.open(name)
        };
        let device = self.blocking(name, "make", create).await?;
        let tool = |source| VolumeError::Tool { volume: name.clone(), attempt: "format", source };
        ext4::make(device.path()).await.map_err(tool)?;
        self.emit(name, "Created", format!("volume {name} of {} was made", Size::from_bytes(size)));
        Ok(())
    }

    /// Where the kernel refuses to grow it while mounted, it stays `growing` and is grown before
    /// it is mounted next.
    async fn grow(&self, name: &Name, size: u64) -> Result<Growth, VolumeError> {
        self.warn_if_scarce(name, size);
        let open = move |blocks: &dyn BlockStore, name: &Name| {
            blocks.grow(name, size)?;
            blocks.open(name)
        };
        let device = self.blocking(name, "grow", open).await?;
        let tool = |source| VolumeError::Tool { volume: name.clone(), attempt: "grow", source };
        if self.mounted(name)?.is_none() {
            ext4::check(device.path()).await.map_err(tool)?;
        }
        let growth = ext4::grow(device.path()).await.map_err(tool)?;
        match growth {
            Growth::Done => {
                self.emit(name, "Resized", format!("volume {name} has {} now", Size::from_bytes(size)));
            }
            Growth::Refused => {
                let text = format!(
                    "volume {name} will have {} when it is mounted next: the agent has no CAP_SYS_RESOURCE, \
                     without which the kernel grows no mounted file system",
                    Size::from_bytes(size)
                );
                self.inner.events.emit(NewEvent::new("volume", name, "ResizeDeferred", text).warning());
            }
        }
        Ok(growth)
    }

    /// More may be promised than there is; the operator should know.
    fn warn_if_scarce(&self, name: &Name, size: u64) {
        if let Some(told) = self.inner.blocks.scarcity(size) {
            let text = format!("volume {name} promises {}, and {told}", Size::from_bytes(size));
            self.inner.events.emit(NewEvent::new("volume", name, "DiskScarce", text).warning());
        }
    }

    /// Before anything new is promised.
    pub(super) fn refuse_without_room(&self, name: &Name) -> Result<(), VolumeError> {
        let refused = |reason| Err(VolumeError::NoRoom { volume: name.clone(), reason });
        self.inner.blocks.refusal().map_or(Ok(()), refused)
    }

    /// Deletes a volume and its data. Never one that is mounted.
    pub async fn delete(&self, name: &Name, force: Force) -> Result<(), VolumeError> {
        let _ordered = self.lock(name).await;
        self.refuse_if_mounted(name)?;
        let volume = name.clone();
        let mark = move |tx: &Transaction<'_>| {
            let entry = table::get(tx, &volume)?.ok_or_else(|| VolumeError::NotFound(volume.clone()))?;
            if let (Force::No, Some(claim)) = (force, table::claims(tx, &volume)?.pop()) {
                return Err(VolumeError::Named { volume, holder: claim.workload });
            }
            table::remove_claims_on(tx, &volume)?;
            Ok(table::set_state(tx, &volume, entry.size, State::Deleting)?)
        };
        self.inner.store.write(mark).await?;
        self.finish_deletion(name).await
    }

    fn refuse_if_mounted(&self, name: &Name) -> Result<(), VolumeError> {
        let users = self.live().users.get(name).cloned().unwrap_or_default();
        if users.is_empty() && self.mounted(name)?.is_none() {
            return Ok(());
        }
        let names: Vec<_> = users.iter().map(Name::as_str).collect();
        let by = if names.is_empty() { "someone on the host".into() } else { names.join(", ") };
        Err(VolumeError::Mounted { volume: name.clone(), by })
    }

    async fn finish_deletion(&self, name: &Name) -> Result<(), VolumeError> {
        let _ = std::fs::remove_dir(self.mount_point(name));
        self.blocking(name, "delete", BlockStore::delete).await?;
        let volume = name.clone();
        let gone = move |tx: &Transaction<'_>| Ok(table::remove(tx, &volume)?);
        self.inner.store.write::<_, VolumeError, _>(gone).await?;
        let mut live = self.live();
        live.errors.remove(name);
        live.locks.remove(name);
        drop(live);
        self.emit(name, "Deleted", format!("volume {name} and its data were deleted"));
        Ok(())
    }

    /// At start: what was half done is done now; a failure is kept as the volume's error.
    pub(super) async fn resume(&self) -> Result<(), VolumeError> {
        let entries = self.inner.store.read(|db| Ok::<_, VolumeError>(table::list(db)?)).await?;
        for entry in entries {
            let Ok(name) = entry.name.parse::<Name>() else { continue };
            let outcome = match entry.state {
                State::Ready => continue,
                State::Deleting => self.finish_deletion(&name).await,
                State::Making | State::Growing => self.ensure_ready(&name).await,
            };
            if let Err(error) = outcome {
                let text = status::chain(&error);
                self.live().errors.insert(name.clone(), text.clone());
                self.inner.events.emit(NewEvent::new("volume", &name, "Broken", text).error());
            }
        }
        Ok(())
    }
}
