//! One agent per state directory.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::file;

const LOCK_FILE: &str = "agent.lock";
const PID_FILE: &str = "agent.pid";
/// For the last threads of a killed agent, and children that it was just forking, to let go.
const DYING: Duration = Duration::from_secs(2);
/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Why the directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent runs on it.
    #[error(
        "another capsuled ({holder}) runs on the state directory {dir}; stop it first, or give this one another \
         --state-dir"
    )]
    Held {
        /// The directory.
        dir: PathBuf,
        /// "PID 12, since boot second 34", as far as it is known.
        holder: String,
    },
    /// The file system refused.
    #[error("cannot lock the state directory {dir}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Held as long as the agent runs; the kernel lets go of it even after `kill -9`.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
    pid_file: PathBuf,
}

impl StateLock {
    /// Takes the lock and writes `agent.pid` (PID and start time), or names who holds it. Blocks
    /// while the one before is about to be gone.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { dir: dir.into(), source };
        let path = dir.join(LOCK_FILE);
        let lock = File::options().write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let deadline = Instant::now() + DYING;
        while let Err(error) = lock.try_lock() {
            match error {
                TryLockError::Error(error) => return Err(failed(error)),
                TryLockError::WouldBlock if lives(dir) || Instant::now() > deadline => {
                    return Err(LockError::Held { dir: dir.into(), holder: describe(holder(dir)) });
                }
                TryLockError::WouldBlock => thread::sleep(LOCK_PAUSE),
            }
        }
        let pid_file = dir.join(PID_FILE);
        let pid = std::process::id();
        let content = format!("{pid} {}\n", start_ticks(pid).unwrap_or(0));
        file::write_atomic(&pid_file, content.as_bytes(), 0o644).map_err(failed)?;
        Ok(Self { _file: lock, pid_file })
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.pid_file);
    }
}

/// PID of the agent that runs on `dir`, where `agent.pid` still means the process it was written
/// for.
pub fn holder(dir: &Path) -> Option<u32> {
    let text = fs::read_to_string(dir.join(PID_FILE)).ok()?;
    let (pid, start) = text.trim().split_once(' ')?;
    let (pid, start): (u32, u64) = (pid.parse().ok()?, start.parse().ok()?);
    (start_ticks(pid)? == start).then_some(pid)
}

/// Whether that agent is more than the rest of one that is ending.
fn lives(dir: &Path) -> bool {
    let stat = holder(dir).and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let state = stat.as_deref().and_then(|stat| stat.rsplit_once(") ")?.1.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn describe(holder: Option<u32>) -> String {
    holder.map_or_else(|| "its PID is not known".into(), |pid| format!("PID {pid}"))
}

/// When a process started, in clock ticks since boot: field 22 of proc_pid_stat(5). With the PID
/// it names a process for good.
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold blanks and parentheses; fields count from the last ')'.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_on_a_directory_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::acquire(dir.path()).unwrap();
        let error = StateLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("PID {}", std::process::id())), "{error}");
        drop(first);
        StateLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_pid_that_was_given_to_another_process_is_nobody() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(PID_FILE), format!("{} 1\n", std::process::id())).unwrap();
        assert_eq!(holder(dir.path()), None);
    }
}
