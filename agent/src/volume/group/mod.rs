//! The volume group `capsule` of the appliance: `perm`, which holds what the capsule is, and the thin
//! pool that holds its volumes.
//!
//! ```text
//!   partition ─▶ group ─▶ partition and group fill the disk ─▶ making-perm ─▶ ext4 ─▶ perm
//!                                                              making-pool ───────────▶ pool
//! ```
//!
//! A step is chosen by what is there ([`plan`]), done, and looked at again, so that a kill or a power
//! loss at any instant leaves nothing but a step to do. What is half made has another name: a volume
//! called `perm` is a whole file system, and is never made a second time.
//!
//! Nothing here needs the agent: PID 1 calls it before there is one.

mod error;
mod grow;
mod plan;

use std::path::{Path, PathBuf};

pub use error::GroupError;
pub use grow::{Growth, Sizes, grow};
pub(super) use plan::METADATA_MOST;

use self::plan::{Observed, Owner, Step, next};
use crate::sys::{
    blkid::{self, Content},
    ext4,
    lvm::{self, Lvm, LvmError},
    partition::Partition,
};

/// The volume group.
pub const GROUP: &str = "capsule";
/// The volume that is mounted at `/perm`.
pub const PERM: &str = "perm";
/// The thin pool.
pub const POOL: &str = "pool";
/// Before the names of volumes that are not whole yet.
const MAKING: &str = "making-";

/// Which [`Content`] a physical volume is.
const MEMBER: &str = "LVM2_member";
/// From a blank disk to a group it takes nine steps, and as many more where each was killed once.
const MOST_STEPS: usize = 32;

/// The group as it is used from now on.
#[derive(Debug)]
pub struct Report {
    /// The device to mount at `/perm`: an ext4 file system.
    pub perm: PathBuf,
    /// What was done now, in order; empty at every start but the first.
    pub made: Vec<String>,
    /// Why the pool cannot be used, where it cannot: the capsule runs without volumes then.
    pub pool_error: Option<LvmError>,
}

/// Activates the group on `device`, a partition or a whole disk, and makes it first where the device
/// is blank or the making was cut short. Refuses a device that holds anything else.
pub async fn ensure_group(device: &Path) -> Result<Report, GroupError> {
    let lvm = Lvm::on(device)?;
    let activation = lvm.activate(GROUP).await;
    let mut made = Vec::new();
    // Both names stand for whole things, so there is no more to look at.
    if activation.is_ok() && [PERM, POOL].iter().all(|name| lvm::node(GROUP, name).exists()) {
        return Ok(Report { perm: lvm::node(GROUP, PERM), made, pool_error: None });
    }
    while let Some(step) = next(&observe(&lvm).await?)? {
        if made.len() == MOST_STEPS {
            return Err(GroupError::Endless { device: lvm.device().to_owned(), step: step.to_string() });
        }
        tracing::info!(device = %lvm.device().display(), %step, "making the volume group");
        act(&lvm, &step).await?;
        made.push(step.to_string());
    }
    let pool_error = lvm.activate(GROUP).await.err();
    let perm = lvm::node(GROUP, PERM);
    match pool_error {
        // What is activated before the pool is there all the same.
        Some(error) if !perm.exists() => Err(error.into()),
        pool_error => Ok(Report { perm, made, pool_error }),
    }
}

/// Activates `perm` of a group that is known to be whole, and nothing else: the pool is checked when it is
/// activated, and can wait for whom it is for. `None` where it is not there after all.
pub async fn activate_perm(device: &Path) -> Result<Option<Report>, GroupError> {
    let activation = Lvm::on(device)?.activate_volume(GROUP, PERM).await;
    let perm = lvm::node(GROUP, PERM);
    let is_there = activation.is_ok() && perm.exists();
    Ok(is_there.then(|| Report { perm, made: Vec::new(), pool_error: None }))
}

/// Takes the group on `device` out of use, before the machine stops or the disk goes.
pub async fn release_group(device: &Path) -> Result<(), GroupError> {
    Ok(Lvm::on(device)?.deactivate(GROUP).await?)
}

async fn observe(lvm: &Lvm) -> Result<Observed, GroupError> {
    let device = lvm.device().to_owned();
    let mut can_grow = Partition::find(&device)?.is_some_and(|partition| partition.can_grow());
    let owner = match blkid::content(&device).await? {
        Content::Blank => Owner::Nobody,
        Content::Known { kind, .. } if kind == MEMBER => {
            let member = lvm.member().await?;
            can_grow |= plan::has_room(&member);
            Owner::of_member(&member)
        }
        Content::Known { kind, label } => Owner::other(&kind, &label),
        Content::Several => Owner::Other("several things that contradict each other".into()),
    };
    let group = match owner {
        Owner::Us => Some((lvm.group(GROUP).await?, lvm.volumes(GROUP).await?)),
        _ => None,
    };
    Ok(Observed { device, can_grow, owner, group })
}

async fn act(lvm: &Lvm, step: &Step) -> Result<(), GroupError> {
    match step {
        Step::MakeGroup => lvm.make_group(GROUP).await?,
        Step::FillDisk => grow::fill_disk(lvm).await?,
        Step::Remove { name } => lvm.remove(GROUP, name).await?,
        Step::MakePerm { size } => {
            let making = format!("{MAKING}{PERM}");
            lvm.make_volume(GROUP, &making, *size).await?;
            ext4::make(&lvm::node(GROUP, &making)).await?;
            lvm.rename(GROUP, &making, PERM).await?;
        }
        Step::MakePool { size, metadata } => {
            let making = format!("{MAKING}{POOL}");
            lvm.make_pool(GROUP, &making, *size, *metadata).await?;
            lvm.rename(GROUP, &making, POOL).await?;
        }
    }
    Ok(())
}
