//! Volumes in the pool: made, grown and deleted, whatever cuts it short.

use std::{collections::BTreeMap, fs, os::unix::process::ExitStatusExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use capsule_proto::Name;
use capsuled::{
    event::Events,
    store::Store,
    volume::{Backing, Force, Volumes, group::ensure_group},
};
use testbed::scenario::eventually;

use super::{
    deadly::{When, deadly, run_with},
    disk::{Disk, command, expect_sound},
};

const MIB: u64 = 1 << 20;
/// Room for `/perm` and a pool of a quarter of a GiB.
const DISK: u64 = 1360 * MIB;
/// What is deleted in a volume comes back with its next commit.
const COMMIT_LIMIT: Duration = Duration::from_mins(1);
/// Tell [`does_to_a_volume_what_its_neighbour_cuts_short`] what, and where.
const DEED: &str = "TESTBED_VOLUME_DEED";
const STATE: &str = "TESTBED_VOLUME_STATE";
const DEVICE: &str = "TESTBED_VOLUME_DEVICE";

async fn volumes(state: &Path, device: &Path) -> Result<Volumes> {
    let store = Store::open(state)?;
    let events = Events::start(store.clone());
    Ok(Volumes::start(state, Backing::Group(device), store, events).await?)
}

/// What is used of the pool, in bytes, by the kernel's last word.
fn used() -> Result<u64> {
    // It has a name of its own once there is a volume.
    let status = command("dmsetup", &["status", "--target", "thin-pool"], "")?;
    let status = status.split_once(": ").map_or("", |(_, rest)| rest);
    let blocks = status.split(' ').nth(5).and_then(|ratio| ratio.split('/').next()?.parse::<u64>().ok());
    Ok(blocks.with_context(|| format!("not understood: {status}"))? * 64 * 1024)
}

fn node(name: &str) -> String {
    format!("/dev/mapper/capsule-vol--{name}")
}

#[tokio::test]
#[ignore = "needs a kernel with device-mapper"]
async fn a_thin_volume_takes_what_is_written_and_gives_back_what_is_deleted() -> Result<()> {
    let disk = Disk::new(DISK)?;
    ensure_group(&disk.partition()).await?;
    let state = tempfile::tempdir()?;
    let volumes = volumes(state.path(), &disk.partition()).await?;
    let (data, web): (Name, Name) = ("data".parse()?, "web".parse()?);
    let empty = used()?;

    let made = volumes.create(&data, 96 * MIB, BTreeMap::new()).await?;
    ensure!(made.backend == "lvm" && made.used_bytes < 16 * MIB, "{made:?}");
    let at = volumes.mount(&data, &web).await?;
    fs::write(at.join("kept"), "by the volume")?;
    fs::write(at.join("large"), vec![7; 32 << 20])?;
    command("sync", &["-f", &at.to_string_lossy()], "")?;
    let full = used()?;
    ensure!(full >= empty + 32 * MIB, "{empty} became {full}");
    let pool = volumes.pool().context("there is no pool")?;
    ensure!(pool.data_bytes > 200 * MIB && pool.metadata_bytes >= 8 * MIB, "{pool:?}");

    fs::remove_file(at.join("large"))?;
    command("sync", &["-f", &at.to_string_lossy()], "")?;
    eventually(COMMIT_LIMIT, async || {
        ensure!(used()? < full - 30 * MIB, "what was deleted is still there");
        Ok(())
    })
    .await?;

    let grown = volumes.resize(&data, 160 * MIB).await?;
    ensure!(grown.size_bytes == 160 * MIB && grown.error.is_empty(), "{grown:?}");
    let stat = nix::sys::statvfs::statvfs(&at)?;
    ensure!(stat.blocks() * stat.fragment_size() > 128 * MIB, "the file system has its old size");
    ensure!(fs::read_to_string(at.join("kept"))? == "by the volume", "it was lost");
    volumes.unmount_all_of(&web).await?;
    expect_sound(Path::new(&node("data")))?;
    volumes.delete(&data, Force::No).await?;
    ensure!(!Path::new(&node("data")).exists(), "it is still there");
    eventually(COMMIT_LIMIT, async || {
        ensure!(used()? == empty, "the pool has not got all of it back");
        Ok(())
    })
    .await?;
    ensure!(volumes.list().await?.is_empty());
    Ok(())
}

#[tokio::test]
#[ignore = "needs a kernel with device-mapper"]
async fn a_pool_that_cannot_be_used_refuses_with_its_reason() -> Result<()> {
    let disk = Disk::new(DISK)?;
    let state = tempfile::tempdir()?;
    let volumes = volumes(state.path(), &disk.partition()).await?;
    let refused = volumes.create(&"data".parse()?, 64 * MIB, BTreeMap::new()).await;
    let text = refused.err().context("it was made")?.to_string();
    ensure!(text.contains("volumes cannot be used") && text.contains("capsule"), "{text}");
    let refused = volumes.grow_disk().await.err().context("it was grown")?.to_string();
    ensure!(refused.contains("volumes cannot be used"), "{refused}");
    ensure!(volumes.warning().is_some() && volumes.list().await?.is_empty());
    Ok(())
}

/// What is done to a volume, the command that does it, and when the agent dies.
const CHANGES: [(&str, &str, &str, &[When]); 5] = [
    ("make", "lvm", "lvcreate", &[When::Before, When::Meanwhile, When::After]),
    ("make", "mkfs.ext4", "vol--data", &[When::Before, When::Meanwhile, When::After]),
    ("grow", "lvm", "lvextend", &[When::Before, When::Meanwhile, When::After]),
    ("grow", "resize2fs", "vol--data", &[When::Before, When::After]),
    ("delete", "lvm", "lvremove -", &[When::Before, When::Meanwhile, When::After]),
];

#[tokio::test]
#[ignore = "a process that its neighbour kills"]
async fn does_to_a_volume_what_its_neighbour_cuts_short() -> Result<()> {
    let variable = |name| std::env::var(name).with_context(|| format!("{name} is not set"));
    let (state, device) = (variable(STATE)?, variable(DEVICE)?);
    let volumes = volumes(Path::new(&state), Path::new(&device)).await?;
    let data = "data".parse()?;
    match variable(DEED)?.as_str() {
        "make" => volumes.create(&data, 64 * MIB, BTreeMap::new()).await.map(drop)?,
        "grow" => volumes.resize(&data, 96 * MIB).await.map(drop)?,
        "delete" => volumes.delete(&data, Force::No).await?,
        other => bail!("{other} is nothing that can be done"),
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs a kernel with device-mapper"]
async fn what_a_killed_agent_left_is_finished_by_the_next() -> Result<()> {
    let disk = Disk::new(DISK)?;
    let device = disk.partition();
    ensure_group(&device).await?;
    let data: Name = "data".parse()?;
    for (deed, program, mark, times) in CHANGES {
        for &when in times {
            let told = format!("killed {when:?} {program} {mark}");
            let state = tempfile::tempdir()?;
            if deed != "make" {
                let whole = volumes(state.path(), &device).await?;
                whole.create(&data, 64 * MIB, BTreeMap::new()).await?;
            }
            let test = "storage::volumes::does_to_a_volume_what_its_neighbour_cuts_short";
            let environment = [(DEED, Path::new(deed)), (STATE, state.path()), (DEVICE, device.as_path())];
            let status = run_with(deadly(program, mark, when)?.path(), test, &environment)?;
            ensure!(status.signal() == Some(9), "{told}: it was not, but {status}");

            // Where its orphan is in the way, a later try is not.
            let next = eventually(COMMIT_LIMIT, async || {
                let next = volumes(state.path(), &device).await?;
                let left = next.list().await?;
                ensure!(left.iter().all(|volume| volume.error.is_empty()), "{told}: {left:?}");
                Ok(next)
            })
            .await?;
            if deed == "delete" {
                ensure!(
                    next.list().await?.is_empty() && !Path::new(&node("data")).exists(),
                    "{told}: it is there"
                );
            } else {
                let size = if deed == "grow" { 96 * MIB } else { 64 * MIB };
                let volume = next.get(&data).await?;
                ensure!(volume.size_bytes == size, "{told}: {volume:?}");
                expect_sound(Path::new(&node("data"))).context(told.clone())?;
                let at = next.mount(&data, &data).await?;
                fs::write(at.join("file"), "works")?;
                next.unmount_all_of(&data).await?;
                next.delete(&data, Force::No).await?;
            }
            println!("{told}");
        }
    }
    let left = command("lvm", &["lvs", "--noheadings", "-o", "lv_name", "capsule"], "")?;
    ensure!(left.split_whitespace().eq(["perm", "pool"]), "{left}");
    Ok(())
}
