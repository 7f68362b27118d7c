//! A real containerd in a temporary state directory, and a busybox image, for tests as root.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use oci_spec::image::{Arch, ConfigBuilder, ImageConfigurationBuilder, Os, RootFsBuilder};
use sha2::{Digest, Sha256};

use super::{Containerd, ContainerdConfig};
use crate::{event::Events, image::ImageInfo, store::Store};

/// Writes the task's output to `DIR/stdout` and `DIR/stderr`.
const LOG_PUMP: &str = "#!/bin/sh
mkdir -p \"$2\"
cat <&3 >>\"$2/stdout\" 4<&- 5>&- &
cat <&4 >>\"$2/stderr\" 3<&- 5>&- &
exec 3<&- 4<&- 5>&-
wait
";

/// Accounts of the image: `web` is in two groups.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nlog:x:20:web\nwheel:x:10:root\nweb:x:102:\n";

/// Starts containerd below `dir`, which should be short; take it away with [`remove_all`].
pub(crate) async fn test_containerd(dir: &Path) -> Arc<Containerd> {
    start(dir).await.unwrap()
}

pub(super) fn config(dir: &Path) -> ContainerdConfig {
    use std::os::unix::fs::PermissionsExt;
    let log_pump = dir.join("log-pump");
    if !log_pump.exists() {
        std::fs::write(&log_pump, LOG_PUMP).unwrap();
        std::fs::set_permissions(&log_pump, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    ContainerdConfig { log_pump, ..ContainerdConfig::new(dir, cgroup_parent(dir)) }
}

fn cgroup_parent(dir: &Path) -> String {
    format!("capsule-test-{}", dir.file_name().unwrap().to_string_lossy().to_lowercase())
}

/// Ends all that runs below the test's cgroups and takes away cgroups and mounts, also after a
/// failure in the middle.
pub(crate) fn remove_all(dir: &Path) {
    for _ in 0..100 {
        let cgroups = cgroups(&cgroup_parent(dir));
        if cgroups.is_empty() {
            break;
        }
        for cgroup in cgroups {
            let pids = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = std::fs::remove_dir(&cgroup);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    for at in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(at).starts_with(dir) {
            let _ = umount2(at, MntFlags::MNT_DETACH);
        }
    }
}

/// Children before their parents.
fn cgroups(parent: &str) -> Vec<PathBuf> {
    let children = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = children(root).into_iter().chain([root.to_owned()]);
    let parents = hierarchies.map(|hierarchy| hierarchy.join(parent)).filter(|path| path.is_dir());
    parents.flat_map(|parent| children(&parent).into_iter().chain([parent.clone()])).collect()
}

pub(super) async fn start(dir: &Path) -> Result<Arc<Containerd>, super::RuntimeError> {
    let events = Events::start(Store::open(dir).unwrap());
    Containerd::start(&config(dir), events).await
}

/// Imports an image of one layer with busybox and two accounts.
pub(super) fn import_busybox(containerd: &Containerd, dir: &Path) -> ImageInfo {
    let layer = layer();
    let diff_id = format!("sha256:{}", hex::encode(Sha256::digest(&layer)));
    let config = ConfigBuilder::default()
        .cmd(vec!["sh".to_owned(), "-c".to_owned(), "echo default".to_owned()])
        .env(vec!["FROM_IMAGE=yes".to_owned()])
        .build()
        .unwrap();
    let rootfs =
        RootFsBuilder::default().typ("layers".to_owned()).diff_ids(vec![diff_id.clone()]).build().unwrap();
    let config = ImageConfigurationBuilder::default()
        .architecture(if cfg!(target_arch = "aarch64") { Arch::ARM64 } else { Arch::Amd64 })
        .os(Os::Linux)
        .config(config)
        .rootfs(rootfs)
        .build()
        .unwrap();
    let archive = dir.join("busybox.tar");
    let reference = "localhost/busybox:test";
    write_docker_archive(&archive, &serde_json::to_vec(&config).unwrap(), &layer, reference);
    let status = Command::new("ctr")
        .arg("--address")
        .arg(containerd.layout.socket())
        .args(["--namespace", crate::image::NAMESPACE, "image", "import"])
        .arg(&archive)
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    ImageInfo { reference: reference.into(), digest: "sha256:test".into(), config, chain_id: diff_id }
}

fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let busybox = std::fs::read("/bin/busybox").unwrap();
    add(&mut tar, "bin/busybox", &busybox, 0o755);
    for applet in Command::new("/bin/busybox").arg("--list").output().unwrap().stdout.split(|b| *b == b'\n') {
        let applet = String::from_utf8_lossy(applet);
        if !applet.is_empty() && applet != "busybox" {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
        }
    }
    add(&mut tar, "etc/passwd", PASSWD.as_bytes(), 0o644);
    add(&mut tar, "etc/group", GROUP.as_bytes(), 0o644);
    tar.into_inner().unwrap()
}

fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, path, bytes).unwrap();
}

fn write_docker_archive(path: &Path, config: &[u8], layer: &[u8], reference: &str) {
    let manifest = serde_json::json!([
        {"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}
    ]);
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "manifest.json", manifest.to_string().as_bytes(), 0o644);
    add(&mut tar, "config.json", config, 0o644);
    add(&mut tar, "layer.tar", layer, 0o644);
    std::fs::write(path, tar.into_inner().unwrap()).unwrap();
}
