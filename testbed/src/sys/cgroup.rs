//! Control groups that capsules leave behind, in whatever layout the host mounts.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::process::Process;

/// A capsule's own subtree, at the root of every hierarchy, begins with this.
const PREFIX: &str = "capsule-";

/// Names of the capsules' subtrees that these processes are in.
pub fn subtrees_of(processes: &BTreeSet<Process>) -> BTreeSet<String> {
    let texts = processes.iter().filter_map(|p| fs::read_to_string(format!("/proc/{}/cgroup", p.pid)).ok());
    texts.flat_map(|text| text.lines().filter_map(subtree).collect::<Vec<_>>()).collect()
}

/// Names of the capsules' subtrees that a containerd's configuration puts it in: it may be killed
/// before it moves there.
pub fn subtrees_in(config: &Path) -> Vec<String> {
    let text = fs::read_to_string(config).unwrap_or_default();
    let paths = text.lines().filter_map(|line| line.trim().strip_prefix("path = \"/"));
    paths.filter_map(capsule_part).map(String::from).collect()
}

/// From a line of `/proc/PID/cgroup`: `4:memory:/capsule-a3f2/web`.
fn subtree(line: &str) -> Option<String> {
    let path = line.splitn(3, ':').nth(2)?;
    capsule_part(path).map(String::from)
}

fn capsule_part(path: &str) -> Option<&str> {
    path.split('/').find(|part| part.starts_with(PREFIX))
}

/// Removes the subtree from every hierarchy; what still has processes in it stays.
pub fn remove(name: &str) {
    for root in roots() {
        for parent in std::iter::once(root.clone()).chain(directories(&root)) {
            remove_empty(&parent.join(name));
        }
    }
}

/// Where hierarchies are mounted: `/sys/fs/cgroup` itself, or each directory in it.
fn roots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_cgroup = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    mounts.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect()
}

fn remove_empty(dir: &Path) {
    for below in directories(dir) {
        remove_empty(&below);
    }
    // Busy or absent: both are fine, nothing of ours is lost.
    let _ = fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subtree_is_found_in_lines_of_both_versions() {
        assert_eq!(subtree("4:memory:/capsule-a3f2/web").as_deref(), Some("capsule-a3f2"));
        assert_eq!(subtree("0::/system.slice/capsule-a3f2").as_deref(), Some("capsule-a3f2"));
        assert_eq!(subtree("1:name=systemd:/user.slice"), None);
    }
}
