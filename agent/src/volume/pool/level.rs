//! How full a pool is, and what is done about it: no effects.

use serde::{Deserialize, Serialize};

use crate::{
    sys::{dm::PoolFill, lvm::Group},
    volume::group::METADATA_MOST,
};

const MIB: u64 = 1 << 20;

/// From this share on, in percent, a pool is filling; it is not any more below the second.
pub(super) const FILLING_PERCENT: u64 = 80;
const NOT_FILLING_PERCENT: u64 = 75;
/// From this share on it is full; it is not any more below the second.
pub(super) const FULL_PERCENT: u64 = 95;
pub(super) const NOT_FULL_PERCENT: u64 = 90;
/// From this share on its data is extended: by a tenth, or by what the group has.
const EXTEND_PERCENT: u64 = 85;
const EXTEND_PART: u64 = 10;
const EXTEND_LEAST: u64 = 64 * MIB;
/// From this share on its metadata is extended, by half. A pool that has no room for metadata is worse
/// than one without room for data, and it takes little.
const EXTEND_METADATA_PERCENT: u64 = 70;
const METADATA_LEAST: u64 = 4 * MIB;
/// lvm2 keeps a spare as large as the metadata, for its repair, so that it takes twice what it grows by.
const WITH_SPARE: u64 = 2;

/// Where a pool stands, in the order of trouble.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// It has room.
    #[default]
    Ready,
    /// The operator should do something.
    Filling,
    /// Nothing new is promised, and writers stand still.
    Full,
}

impl Level {
    /// The level at this share, after this one.
    pub(super) fn at(self, percent: u64) -> Self {
        let full = if self == Self::Full { NOT_FULL_PERCENT } else { FULL_PERCENT };
        let filling = if self == Self::Ready { FILLING_PERCENT } else { NOT_FILLING_PERCENT };
        match percent {
            percent if percent >= full => Self::Full,
            percent if percent >= filling => Self::Filling,
            _ => Self::Ready,
        }
    }
}

/// The share that is used of data or metadata, whichever is worse, in percent.
pub(super) fn percent(fill: &PoolFill) -> u64 {
    share(fill.data_used, fill.data).max(share(fill.metadata_used, fill.metadata))
}

fn share(used: u64, of: u64) -> u64 {
    if of == 0 { 0 } else { (u128::from(used) * 100 / u128::from(of)) as u64 }
}

/// What a pool is extended to, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extension {
    Metadata(u64),
    Data(u64),
}

/// Whether it is time to look what the group has left.
pub(super) fn wants_more(fill: &PoolFill) -> bool {
    wants_metadata(fill) || share(fill.data_used, fill.data) >= EXTEND_PERCENT
}

fn wants_metadata(fill: &PoolFill) -> bool {
    share(fill.metadata_used, fill.metadata) >= EXTEND_METADATA_PERCENT && fill.metadata < METADATA_MOST
}

/// What a pool that fills is extended to, out of what its group has left. Data leaves as much as it
/// takes to double the metadata.
pub(super) fn extension(fill: &PoolFill, group: &Group) -> Option<Extension> {
    let extent = group.extent.max(1);
    let whole = |bytes: u64| bytes - bytes % extent;
    if wants_metadata(fill) {
        let more = (fill.metadata / 2).max(METADATA_LEAST).next_multiple_of(extent);
        let more = more.min(whole(group.free / WITH_SPARE)).min(METADATA_MOST - fill.metadata);
        if more >= extent {
            return Some(Extension::Metadata(fill.metadata + more));
        }
    }
    if share(fill.data_used, fill.data) >= EXTEND_PERCENT {
        let more = (fill.data / EXTEND_PART).max(EXTEND_LEAST).next_multiple_of(extent);
        let more = more.min(whole(group.free.saturating_sub(fill.metadata * WITH_SPARE)));
        if more >= extent {
            return Some(Extension::Data(fill.data + more));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn fill(data_percent: u64, metadata_percent: u64) -> PoolFill {
        let (data, metadata) = (10 * GIB, 100 * MIB);
        PoolFill {
            data,
            data_used: (data * data_percent).div_ceil(100),
            metadata,
            metadata_used: (metadata * metadata_percent).div_ceil(100),
            ..PoolFill::default()
        }
    }

    fn group(free: u64) -> Group {
        Group { size: 100 * GIB, free, extent: 4 * MIB }
    }

    #[test]
    fn a_level_that_was_reached_is_left_only_well_below_it() {
        use Level::{Filling, Full, Ready};

        let walk = |from: Level, shares: &[u64]| {
            shares
                .iter()
                .scan(from, |level, share| {
                    *level = level.at(*share);
                    Some(*level)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(walk(Ready, &[79, 80, 76, 80, 74, 79]), [Ready, Filling, Filling, Filling, Ready, Ready]);
        assert_eq!(walk(Filling, &[94, 95, 90, 89, 94, 95]), [Filling, Full, Full, Filling, Filling, Full]);
        assert_eq!(walk(Ready, &[99, 10]), [Full, Ready]);
    }

    #[test]
    fn the_worse_of_data_and_metadata_counts() {
        assert_eq!(
            [percent(&fill(81, 3)), percent(&fill(3, 96)), percent(&PoolFill::default())],
            [81, 96, 0]
        );
    }

    #[test]
    fn data_is_extended_by_a_tenth_and_leaves_room_for_metadata() {
        let of = |data, free| extension(&fill(data, 10), &group(free));
        assert_eq!(of(84, 100 * GIB), None);
        assert_eq!(of(85, 100 * GIB), Some(Extension::Data(11 * GIB)));
        // 200 MiB are kept: the metadata once more, and its spare.
        assert_eq!(of(85, 500 * MIB), Some(Extension::Data(10 * GIB + 300 * MIB)));
        assert_eq!(of(99, 203 * MIB), None);
        assert_eq!(of(99, 0), None);
    }

    #[test]
    fn metadata_comes_first_and_takes_its_spare_along() {
        let of = |free| extension(&fill(99, 71), &group(free));
        assert_eq!(of(100 * GIB), Some(Extension::Metadata(152 * MIB)));
        assert_eq!(of(40 * MIB), Some(Extension::Metadata(120 * MIB)));
        assert_eq!(of(4 * MIB), None);
        assert!(wants_more(&fill(3, 71)) && wants_more(&fill(85, 3)) && !wants_more(&fill(84, 69)));
    }
}
