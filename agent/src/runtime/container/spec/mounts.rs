//! What a workload sees mounted.

use serde_json::{Value, json};

use crate::runtime::{Access, BindMount, Setup};

/// Size of /dev/shm: docker's default.
const SHM_SIZE: &str = "size=64m";
/// Where `hostMount` shows the host's root.
const HOST_ROOT: &str = "/host";

/// File systems of the kernel first, then binds, in the order of their targets' depth, so that one
/// inside another comes later.
pub(super) fn mounts(setup: &Setup) -> Vec<Value> {
    let spec = &setup.spec;
    let system = if spec.privileged { "rw" } else { "ro" };
    let plain = ["nosuid", "noexec", "nodev"];
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &plain),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", system]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", system]),
    ];
    if spec.host_ipc {
        let shared =
            ["/dev/shm", "/dev/mqueue"].into_iter().filter(|path| std::path::Path::new(path).exists());
        mounts.extend(shared.map(|path| mount(path, "bind", path, &["rbind", "nosuid", "noexec", "nodev"])));
    } else {
        mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &plain));
        mounts.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", SHM_SIZE]));
    }
    if spec.host_mount {
        mounts.push(mount(HOST_ROOT, "bind", "/", &["rbind", "rprivate", "rro"]));
    }
    let mut binds: Vec<&BindMount> = setup.mounts.iter().collect();
    binds.sort_by_key(|bind| bind.target.components().count());
    mounts.extend(binds.into_iter().map(bind_mount));
    mounts
}

fn bind_mount(bind: &BindMount) -> Value {
    // `rro` also covers what is mounted below the source.
    let access = if bind.access == Access::ReadOnly { "rro" } else { "rw" };
    mount(
        &bind.target.display().to_string(),
        "bind",
        &bind.source.display().to_string(),
        &["rbind", "rprivate", access],
    )
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": target, "type": kind, "source": source, "options": options})
}
