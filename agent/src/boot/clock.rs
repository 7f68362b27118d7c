//! The clock: never earlier than it was, and set by chrony once there is a network.
//!
//! A machine whose battery is empty starts in the past. What it last knew is kept on `/perm`, and at
//! boot the clock is set to that, so that nothing that was refused for its age becomes fresh again.

use std::{
    fs, io,
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
};
use tokio::process::Command;

use crate::{
    sys::file::{ensure_dir, write_atomic},
    workload::backoff::Backoff,
};

const FLOOR: &str = "clock";
/// How often what the clock says is written down.
pub const KEEP_INTERVAL: Duration = Duration::from_mins(10);
const CONFIG: &str = "/run/capsule/chrony.conf";
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));

/// Sets the clock forward to the latest moment that is known to have been: the last kept one, and when
/// `system`, a file of the running system, was made. By how much it was behind.
pub fn raise_to_floor(dir: &Path, system: &Path) -> io::Result<Duration> {
    let made = fs::metadata(system).and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH);
    let floor = kept(&dir.join(FLOOR)).unwrap_or(UNIX_EPOCH).max(made);
    let behind = floor.duration_since(SystemTime::now()).unwrap_or_default();
    if !behind.is_zero() {
        let since = floor.duration_since(UNIX_EPOCH).unwrap_or_default();
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(since))?;
    }
    Ok(behind)
}

/// Writes down what the clock says.
pub fn keep(dir: &Path) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    write_atomic(&dir.join(FLOOR), format!("{now}\n").as_bytes(), 0o644)
}

fn kept(file: &Path) -> Option<SystemTime> {
    let seconds = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Keeps chrony running; it waits for a network by itself.
pub async fn run_chrony(dir: &Path, say: impl Fn(String)) -> io::Result<()> {
    let drift = dir.join("chrony");
    ensure_dir(&drift, 0o755)?;
    let config = format!(
        "pool pool.ntp.org iburst\ndriftfile {}\nmakestep 1 3\nrtcsync\ncmdport 0\nuser root\n\
         pidfile /run/capsule/chronyd.pid\n",
        drift.join("drift").display()
    );
    write_atomic(Path::new(CONFIG), config.as_bytes(), 0o644)?;
    let mut backoff = BACKOFF;
    loop {
        let mut command = Command::new("chronyd");
        command.args(["-n", "-f", CONFIG]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let how = match command.status().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        say(format!("chronyd has ended: {how}"));
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clock_said_is_kept_and_a_clock_that_is_ahead_stays() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path()).unwrap();
        let kept = kept(&dir.path().join(FLOOR)).unwrap();
        assert!(SystemTime::now().duration_since(kept).unwrap() < Duration::from_secs(10));
        assert_eq!(raise_to_floor(dir.path(), Path::new("/nowhere")).unwrap(), Duration::ZERO);
    }

    #[test]
    fn a_floor_that_cannot_be_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FLOOR), "yesterday").unwrap();
        assert_eq!(kept(&dir.path().join(FLOOR)), None);
    }
}
