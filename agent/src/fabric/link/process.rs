//! The process of a userspace device: started once, and taken over by every later agent.

use std::{
    fs::{self, File},
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use capsule_fabric::device::SOCKET_DIR;
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{getsockopt, sockopt},
    },
    unistd::Pid,
};
use tokio::process::Child;

use super::Settings;
use crate::{
    fabric::FabricError,
    sys::{
        daemon::{self, Found, Running},
        file,
    },
};

/// It must answer within this time after its start.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// From SIGTERM to SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// A log that is longer begins anew with the next process, in bytes.
const MAX_LOG: u64 = 1 << 20;
/// How much of the log an error quotes, in bytes.
const LOG_QUOTE: usize = 400;

fn lock_file(settings: &Settings) -> PathBuf {
    settings.dir.join("wg.lock")
}

fn log_file(settings: &Settings) -> PathBuf {
    settings.dir.join("wg.log")
}

fn socket(settings: &Settings) -> PathBuf {
    Path::new(SOCKET_DIR).join(format!("{}.sock", settings.name))
}

/// Takes over the process that runs, or starts one; resolves when it answers.
pub(super) async fn ensure(settings: &Settings) -> Result<Running, FabricError> {
    let attempt = format!("run a WireGuard device ({} wg)", settings.program.display());
    let failed = |source| FabricError::Kernel { attempt: attempt.clone(), source };
    file::ensure_dir(&settings.dir, 0o700).map_err(failed)?;
    match daemon::look(&lock_file(settings)).map_err(failed)? {
        Found::Running(lock) => {
            answers(settings, None).await.map_err(failed)?;
            tracing::info!(link = %settings.name, "took over the running WireGuard process");
            Ok(Running::Adopted(daemon::ended(lock).map_err(failed)?))
        }
        Found::Nobody(lock) => {
            let mut child = spawn(settings, lock).map_err(failed)?;
            answers(settings, Some(&mut child)).await.map_err(failed)?;
            Ok(Running::Child(child))
        }
    }
}

fn spawn(settings: &Settings, lock: File) -> io::Result<Child> {
    let path = log_file(settings);
    let is_long = fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_LOG);
    if is_long {
        fs::remove_file(&path)?;
    }
    let log = File::options().create(true).append(true).open(&path)?;
    let mut command = std::process::Command::new(&settings.program);
    command.args(["wg", "--interface", &settings.name]).stdout(log.try_clone()?).stderr(log);
    daemon::spawn(command, lock)
}

/// Waits until the API answers, as long as the process lives.
async fn answers(settings: &Settings, mut child: Option<&mut Child>) -> io::Result<()> {
    let deadline = Instant::now() + START_DEADLINE;
    while UnixStream::connect(socket(settings)).is_err() {
        let ended = match child.as_mut() {
            Some(child) => child.try_wait()?.map(|status| status.to_string()),
            None if daemon::is_running(&lock_file(settings)) => None,
            None => Some("it was just ending".to_owned()),
        };
        let why = match ended {
            Some(how) => format!("it ended at once ({how})"),
            None if Instant::now() > deadline => "it does not answer".to_owned(),
            None => {
                tokio::time::sleep(LOOK_PAUSE).await;
                continue;
            }
        };
        return Err(io::Error::other(format!("{why}; its log ends with: {}", log_tail(settings))));
    }
    Ok(())
}

fn log_tail(settings: &Settings) -> String {
    let bytes = fs::read(log_file(settings)).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_QUOTE)..]).trim().to_owned()
}

/// Ends the process, where one runs; its link goes with it.
pub(super) async fn stop(settings: &Settings) -> Result<(), FabricError> {
    let lock = lock_file(settings);
    for (signal, grace) in [(Signal::SIGTERM, STOP_GRACE), (Signal::SIGKILL, STOP_GRACE)] {
        let deadline = Instant::now() + grace;
        let mut asked = false;
        while daemon::is_running(&lock) && Instant::now() < deadline {
            if !asked && let Some(pid) = pid(settings) {
                asked = kill(pid, signal).is_ok();
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
    if daemon::is_running(&lock) {
        let source = io::Error::from(io::ErrorKind::TimedOut);
        return Err(FabricError::Kernel {
            attempt: format!("end the WireGuard process of {}", settings.name),
            source,
        });
    }
    Ok(())
}

/// Who listens on the API's socket.
fn pid(settings: &Settings) -> Option<Pid> {
    let stream = UnixStream::connect(socket(settings)).ok()?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials).ok()?;
    (peer.pid() > 1).then(|| Pid::from_raw(peer.pid()))
}
