//! What the kernel says about the machine.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// One look. What cannot be read stays empty: the rest is still worth showing.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) kernel: String,
    pub(super) architecture: String,
    pub(super) booted_at: Option<SystemTime>,
    pub(super) cpus: u32,
    pub(super) memory_total_bytes: u64,
    pub(super) memory_available_bytes: u64,
    pub(super) load1: f64,
    pub(super) disk_total_bytes: u64,
    pub(super) disk_available_bytes: u64,
}

/// `state_dir` names the file system whose space is reported.
pub(super) fn read(state_dir: &Path) -> Host {
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    let memory = text("/proc/meminfo");
    let (disk_total_bytes, disk_available_bytes) = disk(state_dir).unwrap_or_default();
    let (kernel, architecture) = nix::sys::utsname::uname().map_or_else(
        |_| Default::default(),
        |name| {
            let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
            (text(name.release()), text(name.machine()))
        },
    );
    Host {
        kernel,
        architecture,
        booted_at: boot_time(&text("/proc/stat")),
        cpus: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
        memory_total_bytes: memory_field(&memory, "MemTotal:"),
        memory_available_bytes: memory_field(&memory, "MemAvailable:"),
        load1: text("/proc/loadavg").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0),
        disk_total_bytes,
        disk_available_bytes,
    }
}

fn disk(path: &Path) -> nix::Result<(u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let block = stat.fragment_size();
    Ok((stat.blocks() * block, stat.blocks_available() * block))
}

/// Bytes; the kernel writes kB and means KiB.
fn memory_field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn boot_time(text: &str) -> Option<SystemTime> {
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_this_machine_finds_all_of_it() {
        let host = read(Path::new("/"));
        assert!(!host.kernel.is_empty() && !host.architecture.is_empty() && host.cpus > 0);
        assert!(host.memory_total_bytes >= host.memory_available_bytes && host.memory_available_bytes > 0);
        assert!(host.disk_total_bytes > 0 && host.booted_at.is_some_and(|at| at < SystemTime::now()));
    }
}
