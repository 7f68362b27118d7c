//! Removes whatever a testbed left, by looking for it: after a crash the record may be behind.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use super::{MARKER, Plan, Record, State};
use crate::sys::{cgroup, disk, link, netns, process};

/// For every process to die after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(20);
/// Where userspace WireGuard devices are configured.
const WIREGUARD_SOCKETS: &str = "/var/run/wireguard";

/// Removes it all; what could not be removed is in the error, and the record stays.
pub fn remove(record: &Record, state: State) -> Result<()> {
    let plan = Plan::new(&record.name, record.subnet);
    let names: Vec<String> = namespaces(record, &plan);
    let inodes: BTreeSet<u64> = names.iter().filter_map(|name| netns::inode(name)).collect();
    let cgroups = cgroups(record, &inodes);
    let devices = wireguard_devices(record, &inodes);

    let mut failures = Vec::new();
    let mut step = |result: Result<()>| failures.extend(result.err().map(|error| format!("{error:#}")));
    let agents = record.nodes.iter().filter_map(|node| node.agent.as_ref());
    for process in record.helpers.iter().chain(agents) {
        process.signal(Signal::SIGKILL);
        process.signal(Signal::SIGCONT);
    }
    step(process::kill_all(&inodes, &record.dir, KILL_LIMIT));
    step(disk::unmount_below(&record.dir));
    step(disk::free_loops_below(&record.dir));
    for name in &names {
        step(netns::remove(name));
    }
    step(link::remove(&plan.operator_link()));
    for name in devices {
        // Its process was killed and could not do it; a directory that all namespaces share.
        let _ = std::fs::remove_file(Path::new(WIREGUARD_SOCKETS).join(format!("{name}.sock")));
    }
    for name in &cgroups {
        cgroup::remove(name);
    }
    if state == State::Remove && record.dir.join(MARKER).exists() {
        step(disk::remove_tree(&record.dir));
    }
    if !failures.is_empty() {
        bail!("testbed {} is not wholly gone:\n  {}", record.name, failures.join("\n  "));
    }
    record.forget()
}

fn namespaces(record: &Record, plan: &Plan) -> Vec<String> {
    let nodes = record.nodes.iter().map(|node| plan.namespace(&node.name));
    let routers = record.nodes.iter().filter(|node| node.behind_nat).map(|node| plan.router(&node.name));
    nodes.chain(routers).chain([plan.hub()]).collect()
}

fn cgroups(record: &Record, inodes: &BTreeSet<u64>) -> BTreeSet<String> {
    let mut names = cgroup::subtrees_of(&process::living_in(inodes, &record.dir));
    names.extend(record.cgroups.iter().cloned());
    for node in &record.nodes {
        names.extend(cgroup::subtrees_in(&record.state_dir(&node.name).join("containerd/config.toml")));
    }
    names
}

/// Names of the userspace WireGuard devices that run.
fn wireguard_devices(record: &Record, inodes: &BTreeSet<u64>) -> BTreeSet<String> {
    let processes = process::living_in(inodes, &record.dir);
    let named = |process: &process::Process| {
        let words = process.arguments();
        let is_device = words.get(1).is_some_and(|verb| verb == "wg");
        let at = words.iter().position(|word| word == "--interface").filter(|_| is_device)?;
        words.get(at + 1).filter(|name| !name.contains('/')).cloned()
    };
    processes.iter().filter_map(named).collect()
}
