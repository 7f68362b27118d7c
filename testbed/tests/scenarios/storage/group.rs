//! The volume group: how it comes to be, and how it grows.

use std::{fs, os::unix::process::ExitStatusExt as _, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use capsuled::volume::group::{GroupError, Sizes, ensure_group, grow, release_group};

use super::{
    deadly::{When, deadly, run_with},
    disk::{Disk, command, expect_sound, lose_power},
};

const GIB: u64 = 1 << 30;
/// Tells [`makes_a_group_that_its_neighbour_cuts_short`] where.
const DEVICE: &str = "TESTBED_GROUP_DEVICE";

/// Names of the group's volumes, as lvm2 has them.
fn volumes() -> Result<Vec<String>> {
    let names = command("lvm", &["lvs", "--noheadings", "-o", "lv_name", "capsule"], "")?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

/// Of a file system, so that another made in its place is seen.
fn identity(device: &Path) -> Result<String> {
    command("blkid", &["--probe", "-o", "value", "-s", "UUID", &device.to_string_lossy()], "")
}

#[tokio::test]
#[ignore = "needs a kernel with device-mapper"]
async fn a_blank_partition_becomes_a_group_once_and_anything_else_is_refused() -> Result<()> {
    let disk = Disk::new(3 * GIB)?;
    let device = disk.partition();
    command("mkfs.ext4", &["-q", "-L", "photos", &device.to_string_lossy()], "")?;
    let refused = ensure_group(&device).await;
    ensure!(matches!(&refused, Err(GroupError::Occupied { .. })), "{refused:?}");
    let text = refused.err().context("it was not refused")?.to_string();
    ensure!(text.contains("ext4 called \"photos\""), "{text}");
    command("wipefs", &["-qa", &device.to_string_lossy()], "")?;

    let first = ensure_group(&device).await?;
    ensure!(first.pool_error.is_none() && first.made.len() == 4, "{first:?}");
    ensure!(volumes()? == ["perm", "pool"], "{:?}", volumes()?);
    expect_sound(&first.perm)?;
    let made = identity(&first.perm)?;
    let (name, size) = (device.file_name().context("it has no name")?, 2 * GIB / 512);
    let sectors = fs::read_to_string(Path::new("/sys/class/block").join(name).join("size"))?;
    ensure!(sectors.trim().parse::<u64>()? > size, "the partition was left as it is: {sectors}");

    for is_active in [true, false] {
        if !is_active {
            release_group(&device).await?;
            ensure!(!first.perm.exists(), "it is still there");
        }
        let next = ensure_group(&device).await?;
        ensure!(next.made.is_empty() && next.pool_error.is_none(), "{next:?}");
        ensure!(identity(&next.perm)? == made, "/perm was made anew");
    }
    Ok(())
}

/// The commands that change something, in their order, each with when it is cut short: before one is
/// after its predecessor.
const CHANGES: [(&str, &str, &[When]); 10] = [
    ("lvm", "vgcreate", &[When::Before, When::Within]),
    ("sfdisk", "--relocate", &[When::Before, When::Within]),
    ("sfdisk", "-N", &[When::Before, When::Within]),
    ("partx", "--update", &[When::Before]),
    ("lvm", "pvresize", &[When::Before, When::Within]),
    ("lvm", "lvcreate", &[When::Before, When::Within]),
    ("mkfs.ext4", "making--perm", &[When::Before, When::Within]),
    ("lvm", "making-perm perm", &[When::Before, When::Within]),
    ("lvm", "thin-pool", &[When::Before, When::Within]),
    ("lvm", "making-pool pool", &[When::Before, When::Within, When::After]),
];

#[tokio::test]
#[ignore = "a process that its neighbour kills"]
async fn makes_a_group_that_its_neighbour_cuts_short() -> Result<()> {
    let Ok(device) = std::env::var(DEVICE) else { bail!("{DEVICE} names no device") };
    ensure_group(Path::new(&device)).await?;
    Ok(())
}

/// Each start finds what the one before left, and gets as far as to the next kill.
#[tokio::test]
#[ignore = "needs a kernel with device-mapper"]
async fn a_group_that_is_killed_at_every_command_of_its_making_is_whole_in_the_end() -> Result<()> {
    let disk = Disk::new(2 * GIB)?;
    for (program, mark, times) in CHANGES {
        for &when in times {
            let told = format!("killed {when:?} {program} {mark}");
            let test = "storage::group::makes_a_group_that_its_neighbour_cuts_short";
            let device = disk.partition();
            let status = run_with(deadly(program, mark, when)?.path(), test, &[(DEVICE, &device)])?;
            ensure!(status.signal() == Some(9), "{told}: it was not, but {status}");
            lose_power()?;
            println!("{told}");
        }
    }
    let report = ensure_group(&disk.partition()).await?;
    ensure!(report.made.is_empty() && report.pool_error.is_none(), "{report:?}");
    ensure!(volumes()? == ["perm", "pool"], "{:?}", volumes()?);
    expect_sound(&report.perm)?;
    command("lvm", &["vgck", "capsule"], "")?;
    command("lvm", &["lvcreate", "-qq", "-V", "64M", "-T", "capsule/pool", "-n", "vol-a"], "").map(drop)
}

#[tokio::test]
#[ignore = "needs a kernel with device-mapper"]
async fn everything_grows_with_its_disk() -> Result<()> {
    let disk = Disk::new(3 * GIB)?;
    let report = ensure_group(&disk.partition()).await?;
    let at = tempfile::tempdir()?;
    command("mount", &[&report.perm.to_string_lossy(), &at.path().to_string_lossy()], "")?;
    fs::write(at.path().join("kept"), "by /perm")?;
    let nothing = grow(&disk.partition()).await?;
    ensure!(nothing.before == nothing.after, "{nothing:?}");

    disk.enlarge(12 * GIB)?;
    let grown = grow(&disk.partition()).await?;
    let Sizes { disk: whole, group, perm, pool } = grown.after;
    ensure!(whole == 12 * GIB && grown.before.disk == 12 * GIB && grown.before.group < 3 * GIB, "{grown:?}");
    ensure!(group > whole - (32 << 20) && perm == group / 4 / (4 << 20) * (4 << 20), "{grown:?}");
    ensure!(pool > (group - perm) / 100 * 79 && pool < group - perm, "{grown:?}");
    let size = nix::sys::statvfs::statvfs(at.path())?;
    ensure!(size.blocks() * size.fragment_size() > 2 * GIB, "the file system has its old size");
    ensure!(fs::read_to_string(at.path().join("kept"))? == "by /perm", "it was lost");
    command(
        "sfdisk",
        &["--verify", "--quiet", disk.partition().to_string_lossy().trim_end_matches("p4")],
        "",
    )?;
    command("umount", &[&at.path().to_string_lossy()], "")?;
    expect_sound(&report.perm)
}
