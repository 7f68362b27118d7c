//! Which cgroup hierarchy the host has, and what the kernel counts in it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::layout::io_error;
use crate::runtime::RuntimeError;

/// In a cgroup of version 2.
const FREEZE: &str = "cgroup.freeze";

/// Whether processes may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freezer {
    /// They stand still.
    Frozen,
    /// They go on.
    Thawed,
}

/// Where the controllers are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cgroups {
    /// One hierarchy for all.
    Unified {
        /// Its mount point.
        root: PathBuf,
    },
    /// A hierarchy per controller; also hybrid hosts, where some stand in a unified one.
    Legacy {
        /// Mount point of the memory controller, where there is one.
        memory: Option<PathBuf>,
    },
}

impl Cgroups {
    pub(super) fn probe() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/mounts").unwrap_or_default())
    }

    /// Reads lines as in /proc/self/mounts.
    fn parse(mounts: &str) -> Self {
        let mut unified = None;
        let mut legacy = false;
        let mut memory = None;
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(at), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            match kind {
                "cgroup2" => unified = unified.or(Some(PathBuf::from(at))),
                "cgroup" => {
                    legacy = true;
                    if options.split(',').any(|option| option == "memory") {
                        memory = memory.or(Some(PathBuf::from(at)));
                    }
                }
                _ => {}
            }
        }
        match unified {
            Some(root) if !legacy => Self::Unified { root },
            _ => Self::Legacy { memory },
        }
    }

    pub(super) fn is_unified(&self) -> bool {
        matches!(self, Self::Unified { .. })
    }

    /// Makes a cgroup for containerd, which makes its own in the hierarchies of controllers, and in
    /// a unified one expects to find it.
    pub(super) fn make(&self, cgroup: &str) -> Result<(), RuntimeError> {
        let Self::Unified { root } = self else { return Ok(()) };
        let dir = root.join(cgroup);
        fs::create_dir_all(&dir).map_err(|error| io_error("make the control group", &dir, &error))
    }

    /// Stops or resumes all processes of a cgroup, each as soon as it leaves the kernel.
    pub(super) fn freeze(&self, cgroup: &str, to: Freezer) -> io::Result<()> {
        match self {
            Self::Unified { root } => {
                fs::write(root.join(cgroup).join(FREEZE), if to == Freezer::Frozen { "1" } else { "0" })
            }
            Self::Legacy { .. } => Err(io::Error::other(
                "this host has control groups of version 1; boot it with those of version 2 alone",
            )),
        }
    }

    /// Whether its processes are stopped.
    pub(super) fn is_frozen(&self, cgroup: &str) -> bool {
        let Self::Unified { root } = self else { return false };
        fs::read_to_string(root.join(cgroup).join(FREEZE)).is_ok_and(|text| text.trim() == "1")
    }

    /// Whether swap can be limited; writing the limit fails where it cannot.
    pub(super) fn limits_swap(&self) -> bool {
        match self {
            Self::Unified { .. } => Path::new("/proc/swaps").exists(),
            Self::Legacy { memory: Some(root) } => root.join("memory.memsw.limit_in_bytes").exists(),
            Self::Legacy { memory: None } => false,
        }
    }

    /// How many processes of a cgroup the kernel killed for memory. The counter lives as long as
    /// the cgroup, so unlike an event it cannot be missed.
    pub(super) fn oom_kills(&self, cgroup: &str) -> u64 {
        let file = match self {
            Self::Unified { root } => root.join(cgroup).join("memory.events"),
            Self::Legacy { memory: Some(root) } => root.join(cgroup).join("memory.oom_control"),
            Self::Legacy { memory: None } => return 0,
        };
        parse_oom_kills(&fs::read_to_string(file).unwrap_or_default())
    }
}

/// Removes a cgroup and all below it from every hierarchy; one that still has a process stays.
/// Whether it is gone everywhere.
pub(super) fn remove(cgroup: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let roots = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        matches!(kind, "cgroup" | "cgroup2").then(|| Path::new(at).join(cgroup))
    });
    roots.filter(|dir| !remove_tree(dir)).count() == 0
}

/// The kernel's files in it go with the directory itself, so this is not `remove_dir_all`.
fn remove_tree(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

fn parse_oom_kills(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hosts_are_legacy_and_unified_ones_are_not() {
        let legacy = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n";
        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw,relatime 0 0\n";
        let memory = Some(PathBuf::from("/sys/fs/cgroup/memory"));
        assert_eq!(Cgroups::parse(&format!("{legacy}{unified}")), Cgroups::Legacy { memory });
        assert_eq!(Cgroups::parse(unified), Cgroups::Unified { root: "/sys/fs/cgroup".into() });
    }

    #[test]
    fn only_a_unified_hierarchy_needs_the_cgroup_of_containerd_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_path_buf();
        Cgroups::Legacy { memory: Some(root.clone()) }.make("capsule-a3f2/engine").unwrap();
        assert!(!root.join("capsule-a3f2").exists());
        Cgroups::Unified { root: root.clone() }.make("capsule-a3f2/engine").unwrap();
        assert!(root.join("capsule-a3f2/engine").is_dir());
    }

    #[test]
    fn a_cgroup_is_frozen_until_it_is_thawed_and_one_that_is_gone_is_neither() {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::Unified { root: dir.path().to_path_buf() };
        fs::create_dir_all(dir.path().join("capsule-a3f2/web")).unwrap();
        for (to, is_frozen) in [(Freezer::Frozen, true), (Freezer::Thawed, false)] {
            cgroups.freeze("capsule-a3f2/web", to).unwrap();
            assert_eq!(cgroups.is_frozen("capsule-a3f2/web"), is_frozen);
        }
        let gone = cgroups.freeze("capsule-a3f2/none", Freezer::Frozen).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert!(!cgroups.is_frozen("capsule-a3f2/none"));
    }

    #[test]
    fn the_kill_counter_is_read_from_either_hierarchy() {
        assert_eq!(parse_oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(parse_oom_kills("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(parse_oom_kills(""), 0);
    }
}
