//! One mount a volume below `volumes/mnt`, for as long as a workload uses it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use capsule_proto::Name;

use super::{Volumes, error::VolumeError, store::BlockStore, table::State};
use crate::sys::{
    ext4,
    mount::{self, Mount},
};

impl Volumes {
    /// Mounts a volume for a workload and returns where. Its bind mount says whether it may
    /// write; the mount here is one for all.
    pub async fn mount(&self, volume: &Name, workload: &Name) -> Result<PathBuf, VolumeError> {
        if self.entry(volume).await?.state != State::Ready {
            self.ensure_ready(volume).await?;
        }
        let _ordered = self.lock(volume).await;
        let target = self.mount_point(volume);
        if self.mounted(volume)?.is_none() {
            self.mount_at(volume, &target).await?;
            self.emit(volume, "Mounted", format!("volume {volume} was mounted for workload {workload}"));
        }
        self.live().users.entry(volume.clone()).or_default().insert(workload.clone());
        Ok(target)
    }

    /// Mounting replays the journal of a file system that was not unmounted; only where that
    /// does not help it is checked.
    async fn mount_at(&self, volume: &Name, target: &Path) -> Result<(), VolumeError> {
        if self.try_mount(volume, target).await.is_ok() {
            return Ok(());
        }
        let device = self.blocking(volume, "open", BlockStore::open).await?;
        let tool = |source| VolumeError::Tool { volume: volume.clone(), attempt: "repair", source };
        ext4::check(device.path()).await.map_err(tool)?;
        self.try_mount(volume, target).await
    }

    async fn try_mount(&self, volume: &Name, target: &Path) -> Result<(), VolumeError> {
        let target = target.to_owned();
        let work = move |blocks: &dyn BlockStore, name: &Name| {
            std::fs::create_dir_all(&target)?;
            let device = blocks.open(name)?;
            mount::mount_ext4(device.path(), &target, blocks.mount_options())
        };
        self.blocking(volume, "mount", work).await
    }

    /// Ends a workload's use; the last one unmounts, which writes everything back.
    pub async fn unmount(&self, volume: &Name, workload: &Name) -> Result<(), VolumeError> {
        let _ordered = self.lock(volume).await;
        let rest: BTreeSet<Name> = {
            let live = self.live();
            let users = live.users.get(volume).into_iter().flatten();
            users.filter(|user| *user != workload).cloned().collect()
        };
        if rest.is_empty() && self.mounted(volume)?.is_some() {
            self.unmount_at(volume).await?;
        }
        let mut live = self.live();
        if rest.is_empty() {
            live.users.remove(volume);
        } else {
            live.users.insert(volume.clone(), rest);
        }
        Ok(())
    }

    async fn unmount_at(&self, volume: &Name) -> Result<(), VolumeError> {
        let target = self.mount_point(volume);
        let work = move |_: &dyn BlockStore, _: &Name| mount::unmount_if_mounted(&target);
        self.blocking(volume, "unmount", work).await?;
        self.emit(volume, "Unmounted", format!("volume {volume} was unmounted"));
        Ok(())
    }

    /// Ends every use that a workload makes of volumes.
    pub async fn unmount_all_of(&self, workload: &Name) -> Result<(), VolumeError> {
        let volumes: Vec<Name> = {
            let live = self.live();
            let used = live.users.iter().filter(|(_, users)| users.contains(workload));
            used.map(|(volume, _)| volume.clone()).collect()
        };
        for volume in volumes {
            self.unmount(&volume, workload).await?;
        }
        Ok(())
    }

    /// After the agent's start: learns who uses what and unmounts what nobody uses. `running` are
    /// the workloads that run, each with its volumes.
    pub async fn restore(&self, running: &[(Name, Vec<Name>)]) -> Result<(), VolumeError> {
        {
            let mut live = self.live();
            for (workload, volumes) in running {
                for volume in volumes {
                    live.users.entry(volume.clone()).or_default().insert(workload.clone());
                }
            }
        }
        let mnt = self.inner.dir.join("mnt");
        for mount in all_mounts()? {
            let Some(volume) = volume_at(&mount, &mnt) else { continue };
            let _ordered = self.lock(&volume).await;
            if !self.live().users.contains_key(&volume) {
                self.unmount_at(&volume).await?;
            }
        }
        Ok(())
    }

    pub(super) fn mounted(&self, volume: &Name) -> Result<Option<Mount>, VolumeError> {
        let target = self.mount_point(volume);
        Ok(all_mounts()?.into_iter().rfind(|mount| mount.target == target))
    }
}

fn all_mounts() -> Result<Vec<Mount>, VolumeError> {
    let failed = |source| VolumeError::Io { volume: "mounts".into(), attempt: "list", source };
    mount::mounts().map_err(failed)
}

fn volume_at(mount: &Mount, mnt: &Path) -> Option<Name> {
    mount.target.strip_prefix(mnt).ok()?.to_str()?.parse().ok()
}
