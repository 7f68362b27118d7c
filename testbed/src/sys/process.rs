//! Processes, told apart by PID and start time: a PID alone may be somebody else's by now.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// Between two looks at processes that should be ending.
const POLL: Duration = Duration::from_millis(10);

/// One process, for as long as the host is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    /// In this PID namespace.
    pub pid: u32,
    /// Clock ticks after boot at which it started; field 22 of `/proc/PID/stat` (proc(5)).
    pub start_ticks: u64,
}

struct Stat {
    state: char,
    parent: u32,
    threads: u32,
    start_ticks: u64,
    cpu_ticks: u64,
}

/// Ticks a second in `/proc` (USER_HZ), the same on every architecture that Linux runs today.
const TICKS_PER_SECOND: u64 = 100;

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may hold spaces and parentheses; only the last one closes it.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        threads: fields.get(17)?.parse().ok()?,
        start_ticks: number(19)?,
        cpu_ticks: number(11)? + number(12)?,
    })
}

impl Process {
    /// The process that has this PID now.
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, start_ticks: stat.start_ticks })
    }

    /// This very program.
    pub fn this() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether it is still there, and neither waiting to be reaped (Z) nor just being reaped (X). A
    /// killed process whose first thread has ended before the others still has its files and
    /// sockets.
    pub fn is_alive(self) -> bool {
        let lives = |stat: &Stat| match stat.state {
            'X' => false,
            'Z' => stat.threads > 1,
            _ => true,
        };
        stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && lives(&stat))
    }

    /// Its command line; empty where it is gone.
    pub fn arguments(self) -> Vec<String> {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// Sends a signal, unless it is gone.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            // Gone between the two: what was wanted of it is so.
            let _ = kill(Pid::from_raw(self.pid as i32), signal);
        }
    }

    /// CPU time it has used, in user and kernel, to the hundredth of a second.
    pub fn cpu_time(self) -> Result<Duration> {
        let ticks = stat(self.pid).context("the process is gone")?.cpu_ticks;
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }

    /// Memory it has resident.
    pub fn resident_bytes(self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// What of that is its alone and no copy of a file: not code, which the kernel maps and takes
    /// back as it likes.
    pub fn private_bytes(self) -> Result<u64> {
        self.memory("RssAnon:")
    }

    fn memory(self, field: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).context("the process is gone")?;
        let value = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("no {field} in its status"))? * 1024)
    }

    /// Starts to measure the most memory it has resident anew (proc(5), `clear_refs`).
    pub fn forget_peak(self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5").context("cannot reset VmHWM")
    }

    /// The most memory it has had resident.
    pub fn peak_bytes(self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    /// Waits until it is gone; whether it is.
    pub fn wait_gone(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_alive() && Instant::now() < end {
            thread::sleep(POLL);
        }
        !self.is_alive()
    }
}

/// Every process that lives in one of the network namespaces (by inode), or has its root on a file
/// system below one of `dirs`, and all that descend from those. Never this program itself.
pub fn living_in(namespaces: &BTreeSet<u64>, dir: &Path) -> BTreeSet<Process> {
    let all: Vec<(u32, Stat)> = pids().filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, stat) in &all {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let seed = all.iter().map(|(pid, _)| *pid).filter(|pid| belongs(*pid, namespaces, dir));
    let (mut queue, mut found): (Vec<u32>, BTreeSet<u32>) = (seed.collect(), BTreeSet::new());
    while let Some(pid) = queue.pop() {
        if found.insert(pid) {
            queue.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found.remove(&std::process::id());
    let alive = |pid: u32| Process::of(pid).filter(|process| process.is_alive());
    found.into_iter().filter_map(alive).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn belongs(pid: u32, namespaces: &BTreeSet<u64>, dir: &Path) -> bool {
    let namespace = fs::metadata(format!("/proc/{pid}/ns/net")).map(|meta| meta.ino());
    namespace.is_ok_and(|inode| namespaces.contains(&inode)) || root_is_below(pid, dir)
}

/// Whether the process' own root file system is an overlay with its upper layer below `dir`: a
/// container whose shim was killed.
fn root_is_below(pid: u32, dir: &Path) -> bool {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    root.is_some_and(|line| line.contains(&format!("upperdir={}/", dir.display())))
}

/// Kills all that `living_in` finds, again and again until nothing is left of them.
pub fn kill_all(namespaces: &BTreeSet<u64>, dir: &Path, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let left = living_in(namespaces, dir);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            let pids: Vec<u32> = left.iter().map(|process| process.pid).collect();
            bail!("processes {pids:?} do not die; look at them with `ps -fp PID`, then run `down` again");
        }
        for process in left {
            process.signal(Signal::SIGKILL);
            // A stopped process dies only once it may run.
            process.signal(Signal::SIGCONT);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_pid() {
        let this = Process::this().unwrap();
        assert!(this.is_alive());
        assert!(!Process { start_ticks: this.start_ticks + 1, ..this }.is_alive());
    }
}
