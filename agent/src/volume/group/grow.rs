//! The group on a disk that became larger.

use std::path::Path;

use super::{
    GROUP, GroupError, PERM, POOL,
    plan::{metadata_size, perm_size, pool_size},
};
use crate::sys::{
    ext4,
    lvm::{self, Group, LogicalVolume, Lvm},
    mount,
    partition::{self, Partition},
};

/// How large things are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The disk.
    pub disk: u64,
    /// The volume group: the disk without its other partitions.
    pub group: u64,
    /// `/perm`.
    pub perm: u64,
    /// The thin pool.
    pub pool: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// As it was.
    pub before: Sizes,
    /// As it is.
    pub after: Sizes,
}

/// Grows all that lies on `device` to its disk: partition, group, `perm`, pool. Everything stays in
/// use. Cut short, it is done again from its start; with nothing to grow it changes nothing.
pub async fn grow(device: &Path) -> Result<Growth, GroupError> {
    let lvm = Lvm::on(device)?;
    if let Some(found) = Partition::find(lvm.device())? {
        partition::rescan(&found.disk);
    }
    let before = sizes(&lvm, &look(&lvm).await?)?;
    fill_disk(&lvm).await?;
    grow_perm(&lvm).await?;
    grow_pool(&lvm).await?;
    let after = sizes(&lvm, &look(&lvm).await?)?;
    Ok(Growth { before, after })
}

/// The partition to the end of its disk, and the group to the end of the partition.
pub(super) async fn fill_disk(lvm: &Lvm) -> Result<(), GroupError> {
    if let Some(partition) = Partition::find(lvm.device())?.filter(Partition::can_grow) {
        partition.grow().await?;
    }
    Ok(lvm.resize_device().await?)
}

async fn grow_perm(lvm: &Lvm) -> Result<(), GroupError> {
    let (group, volumes) = look(lvm).await?;
    let wanted = perm_size(&group);
    if find(&volumes, PERM)?.size < wanted {
        lvm.extend(GROUP, PERM, wanted).await?;
    }
    // Also where it was extended by a call that was cut short then.
    let node = lvm::node(GROUP, PERM);
    let is_mounted = mount::mounts().is_ok_and(|mounts| mounts.iter().any(|mount| mount.source == node));
    if !is_mounted {
        ext4::check(&node).await?;
    }
    ext4::grow(&node).await?;
    Ok(())
}

async fn grow_pool(lvm: &Lvm) -> Result<(), GroupError> {
    let (group, volumes) = look(lvm).await?;
    let pool = find(&volumes, POOL)?;
    let (wanted, _) = pool_size(&group, group.size - find(&volumes, PERM)?.size);
    if pool.size < wanted {
        // Twice: lvm2 keeps as much as a spare.
        let metadata = metadata_size(&group, wanted).saturating_sub(pool.metadata_size) * 2;
        lvm.extend(GROUP, POOL, wanted.min(pool.size + group.free.saturating_sub(metadata))).await?;
    }
    Ok(())
}

async fn look(lvm: &Lvm) -> Result<(Group, Vec<LogicalVolume>), GroupError> {
    Ok((lvm.group(GROUP).await?, lvm.volumes(GROUP).await?))
}

fn find<'a>(volumes: &'a [LogicalVolume], name: &str) -> Result<&'a LogicalVolume, GroupError> {
    let found = volumes.iter().find(|volume| volume.name == name);
    Ok(found.ok_or_else(|| lvm::LvmError::NotFound(format!("{GROUP}/{name}")))?)
}

fn sizes(lvm: &Lvm, (group, volumes): &(Group, Vec<LogicalVolume>)) -> Result<Sizes, GroupError> {
    let disk = Partition::find(lvm.device())?.map_or(group.size, |partition| partition.disk_size);
    let size = |name| Ok::<_, GroupError>(find(volumes, name)?.size);
    Ok(Sizes { disk, group: group.size, perm: size(PERM)?, pool: size(POOL)? })
}
