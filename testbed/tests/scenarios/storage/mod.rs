//! Storage of the appliance where the kernel has device-mapper: in a guest, on disks of its own.

mod deadly;
mod disk;
mod group;
mod pool;
mod volumes;

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

#[test]
fn volumes_of_a_pool_keep_their_promises_whatever_cuts_them_short() -> Result<()> {
    tell(
        &[],
        &[
            "storage::volumes::a_thin_volume_takes_what_is_written_and_gives_back_what_is_deleted",
            "storage::volumes::a_pool_that_cannot_be_used_refuses_with_its_reason",
            "storage::volumes::what_a_killed_agent_left_is_finished_by_the_next",
        ],
    )
}

#[test]
fn a_full_pool_harms_nobody() -> Result<()> {
    tell(&[], &["storage::pool::who_writes_is_paused_before_the_pool_is_full_and_goes_on_once_there_is_room"])
}
