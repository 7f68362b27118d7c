use std::{fs, process::Command};

use capsule_proto::{MAX_VOLUME, MIN_VOLUME};
use tempfile::TempDir;

use super::*;
use crate::sys::loopdev::LoopDevice;

const SIZE: u64 = 32 << 20;

/// Unmounts what a failed test left, before the directory goes.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    async fn volumes(&self) -> Volumes {
        let store = Store::open(self.dir.path()).unwrap();
        let events = Events::start(store.clone());
        Volumes::start(self.dir.path(), Backing::Files, store, events).await.unwrap()
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let dir = self.dir.path().canonicalize().unwrap();
        let all = mount::mounts().unwrap().into_iter();
        all.map(|mount| mount.target).filter(|target| target.starts_with(&dir)).collect()
    }

    fn image(&self, name: &str) -> PathBuf {
        self.dir.path().join("volumes").join(format!("{name}.img"))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.mounts().iter().for_each(|target| drop(mount::unmount_if_mounted(target)));
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn uses(volume: &str, read_only: bool) -> v1::Mount {
    v1::Mount { volume_name: volume.into(), mount_path: "/data".into(), read_only }
}

async fn claim(volumes: &Volumes, workload: &str, mounts: &[v1::Mount]) -> Result<(), VolumeError> {
    let (this, workload, mounts) = (volumes.clone(), name(workload), mounts.to_vec());
    volumes.inner.store.write(move |tx| this.claim(tx, &workload, &mounts)).await
}

async fn declare(volumes: &Volumes, volume: &str, size: u64) -> Result<v1::ApplyAction, VolumeError> {
    let (this, volume) = (volumes.clone(), name(volume));
    volumes.inner.store.write(move |tx| this.declare(tx, &volume, size, &BTreeMap::new())).await
}

#[tokio::test]
async fn a_read_write_claim_excludes_others_and_names_its_holder() {
    let home = Home::new();
    let volumes = home.volumes().await;
    declare(&volumes, "data", SIZE).await.unwrap();
    claim(&volumes, "web", &[uses("data", false)]).await.unwrap();
    claim(&volumes, "web", &[uses("data", false)]).await.unwrap();
    for read_only in [false, true] {
        let error = claim(&volumes, "job", &[uses("data", read_only)]).await.unwrap_err();
        assert!(error.to_string().contains("workload web, read-write"), "{error}");
    }
    claim(&volumes, "web", &[uses("data", true)]).await.unwrap();
    claim(&volumes, "job", &[uses("data", true)]).await.unwrap();
    let error = claim(&volumes, "web", &[uses("data", false)]).await.unwrap_err();
    assert!(error.to_string().contains("job, read-only"), "{error}");
    claim(&volumes, "job", &[]).await.unwrap();
    claim(&volumes, "web", &[uses("data", false)]).await.unwrap();
    assert!(matches!(claim(&volumes, "web", &[uses("none", false)]).await, Err(VolumeError::Missing { .. })));
}

#[tokio::test]
async fn a_declared_size_grows_never_shrinks_and_has_bounds() {
    let home = Home::new();
    let volumes = home.volumes().await;
    assert_eq!(declare(&volumes, "data", SIZE).await.unwrap(), v1::ApplyAction::Created);
    assert_eq!(declare(&volumes, "data", SIZE).await.unwrap(), v1::ApplyAction::Unchanged);
    assert_eq!(declare(&volumes, "data", SIZE - 1).await.unwrap(), v1::ApplyAction::Unchanged);
    assert_eq!(declare(&volumes, "data", 2 * SIZE).await.unwrap(), v1::ApplyAction::Updated);
    assert!(matches!(declare(&volumes, "data", SIZE).await, Err(VolumeError::Shrink { .. })));
    let error = declare(&volumes, "data", 1 << 20).await.unwrap_err().to_string();
    assert!(error.contains("never shrinks: data has 64MiB, and 1MiB"), "{error}");
    for size in [0, MIN_VOLUME.bytes() - 1, MAX_VOLUME.bytes() + 1] {
        assert!(matches!(declare(&volumes, "new", size).await, Err(VolumeError::Size(_))));
    }
}

fn size_of_file_system(at: &Path) -> u64 {
    let stat = nix::sys::statvfs::statvfs(at).unwrap();
    stat.blocks() * stat.fragment_size()
}

#[tokio::test]
async fn root_a_volume_keeps_its_data_over_unmount_growth_and_restart() {
    let home = Home::new();
    let volumes = home.volumes().await;
    let (data, web) = (name("data"), name("web"));
    volumes.create(&data, SIZE, BTreeMap::new()).await.unwrap();
    volumes.create(&data, SIZE, BTreeMap::new()).await.unwrap();
    let at = volumes.mount(&data, &web).await.unwrap();
    assert_eq!(volumes.mount(&data, &web).await.unwrap(), at);
    fs::write(at.join("file"), "kept").unwrap();

    volumes.resize(&data, 2 * SIZE).await.unwrap();
    if volumes.entry(&data).await.unwrap().state == State::Growing {
        println!("no CAP_SYS_RESOURCE here: grown when mounted next");
        volumes.unmount(&data, &web).await.unwrap();
        volumes.mount(&data, &web).await.unwrap();
    }
    assert!(size_of_file_system(&at) > SIZE);
    let shown = volumes.get(&data).await.unwrap();
    assert_eq!((shown.size_bytes, shown.mounted_by), (2 * SIZE, vec!["web".to_string()]));
    assert!(shown.used_bytes > 0 && shown.used_bytes < SIZE);
    assert!(matches!(volumes.delete(&data, Force::Yes).await, Err(VolumeError::Mounted { .. })));

    volumes.unmount_all_of(&web).await.unwrap();
    volumes.unmount(&data, &web).await.unwrap();
    assert!(home.mounts().is_empty());
    volumes.resize(&data, 3 * SIZE).await.unwrap();

    let volumes = home.volumes().await;
    let at = volumes.mount(&data, &web).await.unwrap();
    assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "kept");
    assert!(size_of_file_system(&at) > 2 * SIZE);
    volumes.unmount(&data, &web).await.unwrap();
    volumes.delete(&data, Force::No).await.unwrap();
    assert!(!home.image("data").exists());
    assert!(matches!(volumes.get(&data).await, Err(VolumeError::NotFound(_))));
}

#[tokio::test]
async fn root_after_a_restart_mounts_in_use_stay_and_others_go() {
    let home = Home::new();
    let (kept, stray, web) = (name("kept"), name("stray"), name("web"));
    {
        let volumes = home.volumes().await;
        for volume in [&kept, &stray] {
            volumes.create(volume, SIZE, BTreeMap::new()).await.unwrap();
            volumes.mount(volume, &web).await.unwrap();
        }
    }
    let volumes = home.volumes().await;
    volumes.restore(&[(web.clone(), vec![kept.clone()])]).await.unwrap();
    assert_eq!(home.mounts(), [volumes.mount_point(&kept)]);
    assert_eq!(volumes.get(&kept).await.unwrap().mounted_by, ["web"]);
    volumes.unmount(&kept, &web).await.unwrap();
    assert!(home.mounts().is_empty());
}

#[tokio::test]
async fn root_half_done_work_is_finished_at_start() {
    let home = Home::new();
    let web = name("web");
    {
        let volumes = home.volumes().await;
        volumes.create(&name("growing"), SIZE, BTreeMap::new()).await.unwrap();
        volumes.create(&name("deleting"), SIZE, BTreeMap::new()).await.unwrap();
        let half_done = |tx: &rusqlite::Transaction<'_>| {
            table::insert(tx, &name("making"), SIZE, &BTreeMap::new())?;
            table::set_state(tx, &name("growing"), 2 * SIZE, State::Growing)?;
            table::set_state(tx, &name("deleting"), SIZE, State::Deleting)?;
            Ok::<_, VolumeError>(())
        };
        volumes.inner.store.write(half_done).await.unwrap();
        fs::write(home.image("making"), "half a file").unwrap();
    }
    let volumes = home.volumes().await;
    let shown = volumes.list().await.unwrap();
    let facts: Vec<_> = shown.iter().map(|v| (v.name.as_str(), v.size_bytes, v.error.as_str())).collect();
    assert_eq!(facts, [("growing", 2 * SIZE, ""), ("making", SIZE, "")]);
    for volume in ["growing", "making"] {
        volumes.mount(&name(volume), &web).await.unwrap();
    }
    volumes.unmount_all_of(&web).await.unwrap();
    assert!(!home.image("deleting").exists());
}

#[tokio::test]
async fn root_what_is_no_file_system_any_more_is_named_as_such_and_left_alone() {
    let home = Home::new();
    let volumes = home.volumes().await;
    let (data, web) = (name("data"), name("web"));
    volumes.create(&data, SIZE, BTreeMap::new()).await.unwrap();
    let zero = Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", "count=1", "conv=notrunc", "status=none"])
        .arg(format!("of={}", home.image("data").display()))
        .status();
    assert!(zero.unwrap().success());
    let error = volumes.mount(&data, &web).await.unwrap_err();
    assert!(crate::status::chain(&error).contains("e2fsck"), "{error}");
    assert!(volumes.get(&data).await.unwrap().mounted_by.is_empty());
    assert!(home.mounts().is_empty());
}

#[test]
fn root_one_file_has_one_loop_device() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.img");
    fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
    let first = LoopDevice::attach(&image).unwrap();
    let second = LoopDevice::attach(&image).unwrap();
    assert_eq!(first.path(), second.path());
}
