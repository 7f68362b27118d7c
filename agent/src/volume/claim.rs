//! Who may use a volume, and its desired size: verbs inside a caller's transaction.

use std::collections::BTreeMap;

use capsule_proto::{Name, Size, check_volume_size, v1};
use rusqlite::Transaction;

use super::{
    Volumes,
    error::VolumeError,
    table::{self, State},
};

/// Sizes are rounded up to whole blocks.
const BLOCK: u64 = 4096;

/// The size that a volume gets when `asked` bytes are wanted.
pub(super) fn usable_size(asked: u64) -> Result<u64, VolumeError> {
    check_volume_size(Size::from_bytes(asked))?;
    Ok(asked.next_multiple_of(BLOCK))
}

impl Volumes {
    /// Makes `mounts` this workload's only claims. A read-write claim excludes every other
    /// workload's.
    pub fn claim(
        &self,
        tx: &Transaction<'_>,
        workload: &Name,
        mounts: &[v1::Mount],
    ) -> Result<(), VolumeError> {
        table::remove_claims_of(tx, workload)?;
        for mount in mounts {
            let volume: Name = mount.volume_name.parse()?;
            let entry = table::get(tx, &volume)?
                .ok_or_else(|| VolumeError::Missing { volume: volume.clone(), workload: workload.clone() })?;
            if entry.state == State::Deleting {
                return Err(VolumeError::Deleting(volume));
            }
            let others = table::claims(tx, &volume)?.into_iter();
            let mut others = others.filter(|claim| claim.workload != workload.as_str());
            if let Some(holder) = others.find(|claim| !(claim.read_only && mount.read_only)) {
                let how = if holder.read_only { "read-only" } else { "read-write" };
                return Err(VolumeError::Claimed { volume, holder: holder.workload, how });
            }
            table::add_claim(tx, &volume, workload, mount.read_only)?;
        }
        Ok(())
    }

    /// Forgets this workload's claims.
    pub fn unclaim(&self, tx: &Transaction<'_>, workload: &Name) -> Result<(), VolumeError> {
        Ok(table::remove_claims_of(tx, workload)?)
    }

    /// Writes down that a volume of this size and labels shall be; [`Volumes::ensure_ready`] makes
    /// it so. A larger size grows one that exists, a smaller one is refused.
    pub fn declare(
        &self,
        tx: &Transaction<'_>,
        name: &Name,
        size_bytes: u64,
        labels: &BTreeMap<String, String>,
    ) -> Result<v1::ApplyAction, VolumeError> {
        let Some(entry) = table::get(tx, name)? else {
            let size = usable_size(size_bytes)?;
            self.refuse_without_room(name)?;
            table::insert(tx, name, size, labels)?;
            return Ok(v1::ApplyAction::Created);
        };
        if entry.state == State::Deleting {
            return Err(VolumeError::Deleting(name.clone()));
        }
        if size_bytes.next_multiple_of(BLOCK) < entry.size {
            let (actual, asked) = (Size::from_bytes(entry.size), Size::from_bytes(size_bytes));
            return Err(VolumeError::Shrink { name: name.clone(), actual, asked });
        }
        let size = usable_size(size_bytes)?;
        if size == entry.size && *labels == entry.labels {
            return Ok(v1::ApplyAction::Unchanged);
        }
        if size > entry.size {
            self.refuse_without_room(name)?;
        }
        table::set_labels(tx, name, labels)?;
        if size > entry.size {
            let state = if entry.state == State::Making { State::Making } else { State::Growing };
            table::set_state(tx, name, size, state)?;
        }
        Ok(v1::ApplyAction::Updated)
    }
}
