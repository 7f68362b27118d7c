//! `fleetctl capsule grow-disk`.

use anyhow::Result;
use capsule_proto::v1::{DiskSizes, GrowDiskRequest, GrowDiskResponse};
use clap::Args;

use crate::{
    exit::Exit,
    gather::gather,
    output::{answer::Layout, human},
    session::{PATIENT, Session},
};

/// Let appliances use all of a disk that became larger
///
/// The partition grows to the end of the disk, and with it what holds the capsule (/perm) and the pool
/// of volumes. Everything stays in use. Where there is nothing to grow, nothing is changed; where it was
/// cut short, run it again.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl -c attic capsule grow-disk\n  fleetctl --all capsule grow-disk -o json"
)]
pub struct GrowDisk {}

impl GrowDisk {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let layout = Layout::lines(|answer: &GrowDiskResponse, _| lines(answer)).named(|_| Vec::new());
        gather(session, session.targets()?, session.timeout(PATIENT), layout, async |capsule| {
            Ok(capsule.volumes().grow_disk(GrowDiskRequest {}).await?.into_inner())
        })
        .await
    }
}

fn lines(answer: &GrowDiskResponse) -> Vec<String> {
    let [before, after] = [&answer.before, &answer.after].map(|sizes| sizes.unwrap_or_default());
    if before == after {
        return vec![format!(
            "the disk of {} is used whole already: make it larger first, and reboot if the capsule does not notice",
            human::bytes(after.disk_bytes)
        )];
    }
    let part = |name: &str, size: fn(&DiskSizes) -> u64| {
        let (before, after) = (size(&before), size(&after));
        format!("{name} has {} now, and had {}", human::bytes(after), human::bytes(before))
    };
    vec![
        part("the volume group", |sizes| sizes.group_bytes),
        part("/perm", |sizes| sizes.perm_bytes),
        part("the pool of volumes", |sizes| sizes.pool_bytes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_is_told_and_so_is_that_nothing_did() {
        let sizes = |gib: u64| DiskSizes {
            disk_bytes: 16 << 30,
            group_bytes: gib << 30,
            perm_bytes: gib << 28,
            pool_bytes: gib << 29,
        };
        let of = |before, after| {
            lines(&GrowDiskResponse { before: Some(sizes(before)), after: Some(sizes(after)) })
        };
        assert_eq!(of(8, 16)[2], "the pool of volumes has 8.0 GiB now, and had 4.0 GiB");
        assert!(of(8, 8)[0].contains("used whole already"));
    }
}
