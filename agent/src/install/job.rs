//! One installation, step by step. The order is all: whenever it stops, by whatever, the disk either
//! holds nothing that boots, or a whole capsule.
//!
//! ```text
//!   old table gone ─▶ new table ─▶ root ─▶ kernel, entry, unnamed loader ─▶ both read back
//!        ─▶ volume group, identity, key ─▶ mark of /perm ═▶ [Finish] the loader's name
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use capsule_initramfs::{
    disk::{PARTITIONS, partition_node},
    words::{Root, Words},
};
use capsule_proto::v1::WritePhase;

use super::{
    InstallError, Order,
    esp::{self, NewEsp, kernel_bytes},
    progress::Progress,
    root,
};
use crate::{
    boot::BootFacts,
    identity::Identity,
    sys::{
        block::Disk,
        efi::{Target, Variables},
        file,
        lvm::LvmError,
        mount::{mount_ext4, unmount_if_mounted},
        partition::Table,
    },
    volume::group::{self, GroupError},
};

/// Where the new capsule's `/perm` is while it is filled.
const PERM_PLACE: &str = "/run/capsule/new-perm";
/// As `/perm/capsule` later.
const STATE: &str = "capsule";
/// Whatever told a file system or a volume group at the beginning of a partition.
const SIGNATURES_BYTES: u64 = 4 << 20;
/// At both ends of a disk: the copies of a table.
const TABLE_BYTES: u64 = 1 << 20;

/// What is to be done.
pub(super) struct Job {
    pub(super) facts: BootFacts,
    pub(super) identity: Identity,
    pub(super) disk: Disk,
    pub(super) order: Order,
    pub(super) progress: Progress,
}

/// A disk that lacks nothing but the loader's name.
pub(super) struct Written {
    pub(super) disk: Disk,
    esp: NewEsp,
}

/// Partitions of the new disk.
struct Places {
    esp: NewEsp,
    slot: PathBuf,
    pv: PathBuf,
}

impl Job {
    /// Does all of it; nothing has the disk open when this returns.
    pub(super) async fn run(&self) -> Result<Written, InstallError> {
        let outcome = self.write().await;
        let released = release(&self.disk.node).await;
        outcome.and_then(|written| released.map(|()| written))
    }

    async fn write(&self) -> Result<Written, InstallError> {
        self.progress.begin(WritePhase::Preparing, 0)?;
        // Of an agent that was killed in the middle of this.
        release(&self.disk.node).await?;
        let places = self.partition().await?;
        let root = Words::read().and_then(|words| words.root());
        let root = root.map_err(|error| InstallError::Medium(error.to_string()))?;
        self.copy_system(&places, root).await?;
        self.progress.begin(WritePhase::Seeding, 0)?;
        self.seed(&places.pv).await?;
        release(&self.disk.node).await?;
        self.progress.advance(0)?;
        let esp = places.esp.clone();
        blocking(move || esp.mark()).await?;
        Ok(Written { disk: self.disk.clone(), esp: places.esp })
    }

    /// From its first step on nothing boots the disk.
    async fn partition(&self) -> Result<Places, InstallError> {
        let table = Table::read(&self.facts.disk).await?;
        let Disk { node, size, .. } = self.disk.clone();
        let clear_ends = {
            let node = node.clone();
            move || {
                root::clear(&node, 0, TABLE_BYTES)?;
                root::clear(&node, size - TABLE_BYTES, TABLE_BYTES)
            }
        };
        blocking(clear_ends).await?;
        table.copy_to(&node).await?;
        let place = |name: &str| {
            let at = table.partitions.iter().position(|entry| entry.name == name);
            let at = at.ok_or_else(|| InstallError::Medium(format!("it has no partition {name}")))?;
            Ok::<_, InstallError>(partition_node(&node, at as u32 + 1))
        };
        let [esp, a, b, pv] = PARTITIONS.map(place);
        let parts = [esp?, a?, b?, pv?];
        let [esp, slot, _, pv] = parts.clone();
        blocking(move || parts.iter().try_for_each(|part| root::clear(part, 0, SIGNATURES_BYTES))).await?;
        let places = Places { esp: NewEsp(esp), slot, pv };
        places.esp.make().await?;
        Ok(places)
    }

    /// The slot that runs, as slot a, and its kernel; both are read back.
    async fn copy_system(&self, places: &Places, root: Root) -> Result<(), InstallError> {
        let (facts, esp, slot) = (self.facts.clone(), places.esp.clone(), places.slot.clone());
        let progress = self.progress.clone();
        blocking(move || {
            let (of_kernel, of_root) = (kernel_bytes(&facts)?, root::bytes(&root));
            progress.begin(WritePhase::Copying, of_root + of_kernel)?;
            let checked = root::checked_device().map_err(InstallError::io("find", Path::new("/")))?;
            let active = facts.partition(facts.slot);
            let source = root::source(&checked, active, &root).map_err(InstallError::io("read", active))?;
            let root_digest = root::copy(source, &slot, &progress)?;
            let kernel_digest = esp.fill(&facts, &progress)?;
            progress.begin(WritePhase::Verifying, of_root + of_kernel)?;
            root::verify(&slot, of_root, root_digest, &progress)?;
            esp.verify(of_kernel, kernel_digest, &progress)
        })
        .await
    }

    /// The volume group, and in it the capsule.
    async fn seed(&self, pv: &Path) -> Result<(), InstallError> {
        let report = group::ensure_group(pv).await?;
        if let Some(error) = report.pool_error {
            return Err(GroupError::from(error).into());
        }
        let place = Path::new(PERM_PLACE);
        fs::create_dir_all(place).map_err(InstallError::io("make", place))?;
        mount_ext4(&report.perm, place, None).map_err(InstallError::io("mount", &report.perm))?;
        let state = place.join(STATE);
        file::ensure_dir(&state, 0o700).map_err(InstallError::io("make", &state))?;
        self.identity.seed(&state, self.order.hostname.as_ref(), &self.order.by).await?;
        file::sync_filesystem(place).map_err(InstallError::io("write", place))
    }
}

impl Written {
    /// The one step that makes a capsule of it.
    pub(super) async fn make_bootable(&self) -> Result<(), InstallError> {
        let esp = self.esp.clone();
        blocking(move || esp.make_bootable()).await
    }

    /// Puts it first in the firmware's order; why not, where that cannot be.
    pub(super) async fn boot_first(&self) -> Option<String> {
        self.try_boot_first().await.err().map(|error| error.to_string())
    }

    async fn try_boot_first(&self) -> io::Result<()> {
        let Disk { node, serial, .. } = &self.disk;
        let table = Table::read(node).await.map_err(io::Error::other)?;
        let entries = table.partitions.iter().enumerate();
        let esp = entries.into_iter().find(|(_, entry)| entry.name == PARTITIONS[0]);
        let (at, entry) = esp.ok_or_else(|| io::Error::other("its table has no boot partition"))?;
        let target = Target { number: at as u32 + 1, start: entry.start, size: entry.size, guid: entry.uuid };
        let name = node.file_name().unwrap_or_default().to_string_lossy();
        let told = if serial.is_empty() { &*name } else { serial };
        Variables::of_this_machine().boot_first(&format!("Capsule ({told})"), &target)
    }
}

/// Unmounts what an installation had mounted, and takes the disk's volume group out of use.
async fn release(disk: &Path) -> Result<(), InstallError> {
    for place in [PERM_PLACE, esp::PLACE] {
        unmount_if_mounted(Path::new(place)).map_err(InstallError::io("unmount", Path::new(place)))?;
    }
    let pv = partition_node(disk, PARTITIONS.len() as u32);
    if !pv.exists() {
        return Ok(());
    }
    match group::release_group(&pv).await {
        Ok(()) | Err(GroupError::Lvm(LvmError::NotFound(_))) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InstallError> + Send + 'static,
) -> Result<T, InstallError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|panic| Err(InstallError::Medium(panic.to_string())))
}
