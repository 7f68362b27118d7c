//! Stopping the machine: everything in the order in which it was started, backwards.

use std::{convert::Infallible, io, path::Path, time::Duration};

use nix::{
    sys::{
        reboot::{RebootMode, reboot},
        signal::{Signal, kill},
    },
    unistd::{Pid, sync},
};
use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};

use super::{console::say, link::How, mounts, perm};
use crate::{status, volume::group};

/// Workloads get their SIGTERM, then SIGKILL; containerd and the network follow.
const DOWN_LIMIT: Duration = Duration::from_mins(1);
/// For daemons to end on SIGTERM.
const TERM_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks at who is left.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// For file systems that write back what is in memory.
const RELEASE_LIMIT: Duration = Duration::from_secs(30);
/// In /proc/PID/stat, the flags that tell a thread of the kernel's: PF_KTHREAD.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Stops what runs, and then the machine: what a capsule has started by this program, and the group on
/// its disk. The agent has ended.
pub async fn stop(how: How, program: Option<&Path>, pv: Option<&Path>) -> io::Result<Infallible> {
    if let Some(program) = program {
        say("stopping workloads");
        take_down(program).await;
    }
    end_everybody().await;
    say("unmounting");
    let unmounted = within(RELEASE_LIMIT, || mounts::unmount_all_of(Path::new(perm::PLACE))).await;
    match unmounted {
        Some(Ok(busy)) if busy.is_empty() => {}
        Some(Ok(busy)) => say(&format!("still in use: {busy:?}")),
        Some(Err(error)) => say(&format!("cannot unmount {}: {error}", perm::PLACE)),
        None => say(&format!("{} does not write back in time", perm::PLACE)),
    }
    if let Some(pv) = pv {
        match timeout(RELEASE_LIMIT, group::release_group(pv)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => say(&status::chain(&error)),
            Err(_) => say("the volume group is not released in time"),
        }
    }
    within(RELEASE_LIMIT, sync).await;
    let (mode, word) = match how {
        How::Reboot => (RebootMode::RB_AUTOBOOT, "rebooting"),
        How::PowerOff => (RebootMode::RB_POWER_OFF, "powering off"),
    };
    say(word);
    Ok(reboot(mode)?)
}

/// What waits in the kernel, where a full pool may keep it for ever: `None` where it took too long.
async fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    timeout(limit, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}

/// Workloads in order, containerd, the network: as on a host.
async fn take_down(program: &Path) {
    let mut command = Command::new(program);
    command
        .args(["down", "--state-dir", perm::STATE_DIR])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    match timeout(DOWN_LIMIT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => {}
        Ok(Ok(output)) => say(String::from_utf8_lossy(&output.stderr).trim()),
        Ok(Err(error)) => say(&format!("workloads cannot be stopped: {error}")),
        Err(_) => say("workloads do not stop in time"),
    }
}

/// Daemons, and whatever a workload left.
async fn end_everybody() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        // All but the first process and this one.
        if kill(Pid::from_raw(-1), signal).is_err() {
            return;
        }
        let deadline = Instant::now() + TERM_LIMIT;
        while others() > 0 && Instant::now() < deadline {
            sleep(LOOK_PAUSE).await;
        }
    }
}

/// Processes beside the first one and this.
fn others() -> usize {
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let stats = pids.filter(|pid| *pid != own && *pid != 1);
    stats
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .filter(|stat| is_living(stat))
        .count()
}

/// proc_pid_stat(5): neither a thread of the kernel's nor one that has ended.
fn is_living(stat: &str) -> bool {
    // The name may hold anything, parentheses too.
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    let fields: Vec<&str> = rest.split(' ').collect();
    let flags = fields.get(6).and_then(|flags| flags.parse::<u32>().ok()).unwrap_or(0);
    fields.first() != Some(&"Z") && flags & KERNEL_THREAD == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_kernel_and_zombies_are_not_waited_for() {
        assert!(is_living("812 (chronyd) x) S 1 812 812 0 -1 4194560 100"));
        assert!(!is_living("2 (kthreadd) S 0 0 0 0 -1 2129984 0"));
        assert!(!is_living("900 (sh) Z 1 900 900 0 -1 4194560 100"));
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(is_living(&own));
    }
}
