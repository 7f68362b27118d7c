//! Storage of the appliance where the kernel has device-mapper: in a guest, on disks of its own.

mod disk;
mod group;

use anyhow::Result;

use crate::in_guest::tell;

#[test]
fn the_volume_group_is_made_once_whatever_cuts_it_short_and_grows_with_its_disk() -> Result<()> {
    tell(
        &[],
        &[
            "storage::group::a_blank_partition_becomes_a_group_once_and_anything_else_is_refused",
            "storage::group::a_group_that_is_killed_at_every_command_of_its_making_is_whole_in_the_end",
            "storage::group::everything_grows_with_its_disk",
        ],
    )
}
