//! What `/proc` knows of a process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// When a process began, to a hundredth of a second; `None` where it is gone.
/// Fields as in proc_pid_stat(5): the name may hold spaces and parentheses, so count after it.
pub(super) fn started_at(pid: u32) -> Option<SystemTime> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let ticks: u64 = after_name.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let since_boot = Duration::from_millis(ticks.saturating_mul(1000) / (per_second.max(1) as u64));
    Some(UNIX_EPOCH + Duration::from_secs(boot) + since_boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_began_before_now_and_not_long_ago() {
        let age = SystemTime::now().duration_since(started_at(std::process::id()).unwrap()).unwrap();
        assert!(age < Duration::from_hours(1), "{age:?}");
    }
}
