//! What is to do next on a device, and how large things are: no effects.

use std::{fmt, path::PathBuf};

use capsule_proto::Size;

use super::{GROUP, GroupError, MAKING, PERM, POOL};
use crate::sys::lvm::{Group, LogicalVolume, Member};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// `perm` has a quarter of the group, within these bounds.
const PERM_LEAST: u64 = GIB;
const PERM_MOST: u64 = 64 * GIB;
/// A group below this has no room for a pool beside `perm`.
const GROUP_LEAST: u64 = PERM_LEAST + 256 * MIB;
/// What the pool has of what `perm` leaves, in percent; the rest is what data and metadata are
/// extended by when they fill.
const POOL_PERCENT: u64 = 80;
/// thin_metadata_size(8): 64 bytes for each chunk of 64 KiB, if every chunk is mapped once.
const DATA_PER_METADATA: u64 = 1024;
const METADATA_LEAST: u64 = 8 * MIB;
/// As large as a thin pool's metadata can be, rounded down.
pub const METADATA_MOST: u64 = 15 * GIB;

/// What lvm2 leaves of a device for its own use and to whole extents is less.
const LEAST_ROOM: u64 = 16 * MIB;

/// Whose the device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    /// Prepared for a group that was not made then.
    Prepared,
    Us,
    /// What it holds instead.
    Other(String),
}

impl Owner {
    pub(super) fn of_member(member: &Member) -> Self {
        match member.group.as_str() {
            "" => Self::Prepared,
            GROUP => Self::Us,
            other => Self::Other(format!("a part of volume group {other}")),
        }
    }

    /// Of anything else.
    pub(super) fn other(kind: &str, label: &str) -> Self {
        let called = if label.is_empty() { String::new() } else { format!(" called {label:?}") };
        Self::Other(format!("{kind}{called}"))
    }
}

/// What is there.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) device: PathBuf,
    /// Whether the disk has room that the group has not.
    pub(super) can_grow: bool,
    pub(super) owner: Owner,
    /// Of our own group.
    pub(super) group: Option<(Group, Vec<LogicalVolume>)>,
}

/// One thing to do; sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    MakeGroup,
    FillDisk,
    Remove { name: String },
    MakePerm { size: u64 },
    MakePool { size: u64, metadata: u64 },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeGroup => write!(f, "make volume group {GROUP}"),
            Self::FillDisk => f.write_str("grow the partition to the end of its disk"),
            Self::Remove { name } => write!(f, "remove {name}, which was half made"),
            Self::MakePerm { size } => write!(f, "make {PERM} of {}", Size::from_bytes(*size)),
            Self::MakePool { size, .. } => write!(f, "make thin pool {POOL} of {}", Size::from_bytes(*size)),
        }
    }
}

/// Whether the group uses less of its device than it could.
pub(super) fn has_room(member: &Member) -> bool {
    member.device_size.saturating_sub(member.size) >= LEAST_ROOM
}

/// The next step to a whole group; `None` where it is one.
pub(super) fn next(observed: &Observed) -> Result<Option<Step>, GroupError> {
    let device = observed.device.clone();
    if let Owner::Other(content) = &observed.owner {
        return Err(GroupError::Occupied { device, content: content.clone() });
    }
    let Some((group, volumes)) = &observed.group else { return Ok(Some(Step::MakeGroup)) };
    let has = |name: &str| volumes.iter().any(|volume| volume.name == name);
    if has(PERM) && has(POOL) {
        return Ok(None);
    }
    if let Some(half) = volumes.iter().find(|volume| is_half_made(&volume.name)) {
        return Ok(Some(Step::Remove { name: half.name.clone() }));
    }
    if !has(PERM) && observed.can_grow {
        return Ok(Some(Step::FillDisk));
    }
    if group.size < GROUP_LEAST {
        let [size, least] = [group.size, GROUP_LEAST].map(Size::from_bytes);
        return Err(GroupError::TooSmall { device, size, least });
    }
    if !has(PERM) {
        return Ok(Some(Step::MakePerm { size: perm_size(group) }));
    }
    let (size, metadata) = pool_size(group, group.free);
    Ok(Some(Step::MakePool { size, metadata }))
}

/// lvm2 calls what becomes part of a pool `lvolN`.
fn is_half_made(name: &str) -> bool {
    let number = name.strip_prefix("lvol");
    name.starts_with(MAKING)
        || number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// How large `perm` is in such a group.
pub(super) fn perm_size(group: &Group) -> u64 {
    whole(group, (group.size / 4).clamp(PERM_LEAST, PERM_MOST))
}

/// How large the pool is where `room` is left for it, and its metadata.
pub(super) fn pool_size(group: &Group, room: u64) -> (u64, u64) {
    let size = whole(group, room / 100 * POOL_PERCENT);
    (size, metadata_size(group, size))
}

/// How large the metadata of a pool of `size` is.
pub(super) fn metadata_size(group: &Group, size: u64) -> u64 {
    whole(group, (size / DATA_PER_METADATA).clamp(METADATA_LEAST, METADATA_MOST))
}

/// Rounded down to whole extents.
fn whole(group: &Group, size: u64) -> u64 {
    size - size % group.extent.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(owner: Owner, gib: u64, volumes: &[&str]) -> Observed {
        let volume = |name: &&str| LogicalVolume { name: (*name).into(), size: GIB, metadata_size: 0 };
        let group = Group { size: gib * GIB, free: gib * GIB / 2, extent: 4 * MIB };
        let group = (owner == Owner::Us).then(|| (group, volumes.iter().map(volume).collect()));
        Observed { device: "/dev/vda4".into(), can_grow: false, owner, group }
    }

    #[test]
    fn a_blank_device_becomes_a_group_and_what_is_someone_elses_is_refused_by_name() {
        let member = |group: &str| Owner::of_member(&Member { group: group.into(), ..Member::default() });
        assert_eq!(member("capsule"), Owner::Us);
        for owner in [Owner::Nobody, member("")] {
            assert_eq!(next(&observed(owner, 0, &[])).unwrap(), Some(Step::MakeGroup));
        }
        let others = [(Owner::other("ext4", "photos"), "ext4 called \"photos\""), (member("vg0"), "vg0")];
        for (owner, named) in others {
            let error = next(&observed(owner, 0, &[])).unwrap_err().to_string();
            assert!(
                error.contains(named) && error.contains("/dev/vda4") && error.contains("wipefs"),
                "{error}"
            );
        }
    }

    #[test]
    fn perm_comes_before_the_pool_and_what_is_half_made_goes_first() {
        let step = |volumes: &[&str]| next(&observed(Owner::Us, 100, volumes)).unwrap();
        assert_eq!(step(&[]), Some(Step::MakePerm { size: 25 * GIB }));
        assert_eq!(step(&["making-perm"]), Some(Step::Remove { name: "making-perm".into() }));
        assert_eq!(step(&["perm", "lvol0"]), Some(Step::Remove { name: "lvol0".into() }));
        assert_eq!(step(&["perm"]), Some(Step::MakePool { size: 40 * GIB, metadata: 40 * MIB }));
        assert_eq!(step(&["perm", "pool"]), None);
        // Nothing is taken from a whole group, whatever it is called.
        assert_eq!(step(&["perm", "pool", "lvol0", "making-x"]), None);
        assert_eq!(step(&["perm", "lvol"]), step(&["perm"]));
    }

    #[test]
    fn the_disk_is_filled_before_perm_takes_its_part_and_never_by_itself_after() {
        let room = |volumes: &[&str]| Observed { can_grow: true, ..observed(Owner::Us, 100, volumes) };
        assert_eq!(next(&room(&[])).unwrap(), Some(Step::FillDisk));
        assert!(matches!(next(&room(&["perm"])).unwrap(), Some(Step::MakePool { .. })));
        assert_eq!(next(&room(&["perm", "pool"])).unwrap(), None);
    }

    #[test]
    fn perm_has_a_quarter_within_bounds_and_a_disk_that_is_too_small_is_refused() {
        let perm = |gib: u64| perm_size(&Group { size: gib * GIB, free: 0, extent: 4 * MIB }) / GIB;
        assert_eq!([2, 8, 100, 1000].map(perm), [1, 2, 25, 64]);
        let error = next(&observed(Owner::Us, 1, &[])).unwrap_err().to_string();
        assert!(error.contains("1GiB") && error.contains("larger disk"), "{error}");
    }
}
