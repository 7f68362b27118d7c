//! What this machine and the agent itself allow; looked at once.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::{
    cgroup::Cgroups,
    spec::caps::{self, CapabilitySet},
};

/// Subdirectories of /dev that are file systems of their own or belong to one mount namespace.
const DEV_SKIPPED: [&str; 5] = ["pts", "shm", "fd", "mqueue", ".udev"];
/// How deep /dev is searched.
const DEV_DEPTH: usize = 4;

/// Facts that the OCI spec depends on.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// What the agent may give away.
    pub(super) capabilities: CapabilitySet,
    pub(super) cgroups: Cgroups,
    /// The lowest that a process of ours may have.
    pub(super) oom_score_adj: i32,
}

impl Host {
    pub(super) fn probe() -> Self {
        let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        Self {
            capabilities: caps::own(),
            cgroups: Cgroups::probe(),
            oom_score_adj: score.trim().parse().unwrap_or(0).max(0),
        }
    }
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) path: PathBuf,
    pub(super) kind: char,
    pub(super) major: u64,
    pub(super) minor: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Every device node below /dev, for privileged workloads.
pub(super) fn devices() -> Vec<Device> {
    let mut found = Vec::new();
    collect_devices(Path::new("/dev"), DEV_DEPTH, &mut found);
    found
}

fn collect_devices(dir: &Path, depth: usize, found: &mut Vec<Device>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        let skipped = DEV_SKIPPED.iter().any(|name| entry.file_name() == *name);
        if kind.is_dir() && depth > 0 && !skipped {
            collect_devices(&path, depth - 1, found);
        }
        // The console is the container's own.
        if !(kind.is_char_device() || kind.is_block_device()) || entry.file_name() == "console" {
            continue;
        }
        let Ok(status) = entry.metadata() else { continue };
        found.push(Device {
            path,
            kind: if kind.is_block_device() { 'b' } else { 'c' },
            major: nix::sys::stat::major(status.rdev()),
            minor: nix::sys::stat::minor(status.rdev()),
            mode: status.mode() & 0o7777,
            uid: status.uid(),
            gid: status.gid(),
        });
    }
}
