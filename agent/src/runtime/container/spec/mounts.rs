//! What a workload sees mounted.

use capsule_proto::v1;
use serde_json::{Value, json};

use crate::runtime::{Access, BindMount, Reach, Setup};

/// Size of /dev/shm: docker's default.
const SHM_SIZE: &str = "size=64m";
/// Where `hostMount`, and a debug shell, show the host's root.
const HOST_ROOT: &str = "/host";

/// What of the host takes the place of a workload's own, for [`Reach::Host`].
const HOSTS: [&str; 3] = ["/dev", "/sys", "/run"];

/// File systems of the kernel first, then binds, in the order of their targets' depth, so that one
/// inside another comes later.
pub(super) fn mounts(setup: &Setup) -> Vec<Value> {
    let mut mounts = vec![mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])];
    match setup.reach {
        Reach::Spec => mounts.extend(of_spec(&setup.spec)),
        // What the host mounts and unmounts meanwhile, a debug shell neither misses nor holds.
        Reach::Host => {
            mounts.extend(HOSTS.map(|path| mount(path, "bind", path, &["rbind", "rslave", "rw"])));
            mounts.push(mount(HOST_ROOT, "bind", "/", &["rbind", "rslave", "rro"]));
        }
    }
    let mut binds: Vec<&BindMount> = setup.mounts.iter().collect();
    binds.sort_by_key(|bind| bind.target.components().count());
    mounts.extend(binds.into_iter().map(bind_mount));
    mounts
}

fn of_spec(spec: &v1::ContainerSpec) -> Vec<Value> {
    let system = if spec.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
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
        mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
        mounts.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", SHM_SIZE]));
    }
    if spec.host_mount {
        mounts.push(mount(HOST_ROOT, "bind", "/", &["rbind", "rprivate", "rro"]));
    }
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
