//! Keeps one containerd running.
//!
//! ```text
//!              lock free                     dies                  back-off
//!   start ───────────────▶ spawn ─▶ running ──────▶ wait ───────────────────▶ start
//!     │        lock held                ▲
//!     └───────────────────▶ adopt ──────┘
//! ```
//!
//! How one is told from none, and taken over, is [`daemon`]'s.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{net::UnixStream, task::JoinHandle};

use super::layout::{Layout, io_error};
use crate::{
    event::{Events, NewEvent},
    runtime::RuntimeError,
    sys::{
        daemon::{self, Found, Running},
        sysctl,
    },
};

/// containerd must answer within this time after its start.
const START_DEADLINE: Duration = Duration::from_mins(1);
/// Between looks at the socket of a containerd that is starting.
const SOCKET_POLL: Duration = Duration::from_millis(10);
/// Before the first restart; doubled by each that follows …
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// … up to this …
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// … and forgotten after it ran for this long.
const STABLE_AFTER: Duration = Duration::from_mins(1);
/// From SIGTERM to SIGKILL at shutdown.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How much of the log an error quotes, in bytes.
const LOG_QUOTE: usize = 600;

/// The task that watches containerd.
pub(super) struct Supervisor {
    core: Arc<Core>,
    watcher: JoinHandle<()>,
}

struct Core {
    layout: Layout,
    program: PathBuf,
    events: Events,
}

impl Supervisor {
    /// Takes over or starts containerd and resolves when it answers.
    pub(super) async fn start(
        layout: Layout,
        program: PathBuf,
        events: Events,
    ) -> Result<Self, RuntimeError> {
        let core = Arc::new(Core { layout, program, events });
        let running = core.ensure_running().await?;
        let watcher = tokio::spawn(core.clone().watch(running));
        Ok(Self { core, watcher })
    }

    /// Ends containerd for good.
    pub(super) async fn shutdown(&self) {
        self.watcher.abort();
        self.core.stop(Signal::SIGTERM).await;
        let deadline = Instant::now() + STOP_GRACE;
        while self.core.is_locked() && Instant::now() < deadline {
            tokio::time::sleep(SOCKET_POLL).await;
        }
        if self.core.is_locked() {
            self.core.stop(Signal::SIGKILL).await;
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Core {
    async fn ensure_running(&self) -> Result<Running, RuntimeError> {
        let path = self.layout.lock_file();
        match daemon::look(&path).map_err(|error| io_error("lock", &path, &error))? {
            Found::Nobody(lock) => self.spawn(lock).await,
            Found::Running(lock) => self.adopt(lock).await,
        }
    }

    async fn spawn(&self, lock: File) -> Result<Running, RuntimeError> {
        let attempt = || format!("start containerd ({})", self.program.display());
        sysctl::get(sysctl::BOOT_ID)
            .and_then(|boot_id| self.layout.forget_other_boots(&boot_id))
            .map_err(|error| io_error("clear", &self.layout.dir(), &error))?;
        let log = self.layout.open_log().map_err(|error| io_error("open", &self.layout.log(), &error))?;
        let errors = log.try_clone().map_err(|error| io_error("open", &self.layout.log(), &error))?;
        let mut command = std::process::Command::new(&self.program);
        command.arg("--config").arg(self.layout.config());
        command.stdout(log).stderr(errors);
        let mut child = daemon::spawn(command, lock).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => "; install containerd or name it with --containerd",
                _ => "",
            };
            RuntimeError::Engine { attempt: attempt(), message: format!("{error}{hint}") }
        })?;
        tokio::select! {
            ended = child.wait() => {
                let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                let message = format!("it ended at once ({how}); its log ends with: {}", self.log_tail());
                return Err(RuntimeError::Engine { attempt: attempt(), message });
            }
            answered = self.await_socket() => self.record(answered?)?,
        }
        Ok(Running::Child(child))
    }

    async fn adopt(&self, lock: File) -> Result<Running, RuntimeError> {
        let pid = self.await_socket().await?;
        self.record(pid)?;
        tracing::info!(pid, "took over the running containerd");
        let wait = daemon::ended(lock)
            .map_err(|error| io_error("watch the lock", &self.layout.lock_file(), &error))?;
        Ok(Running::Adopted(wait))
    }

    /// Waits until containerd accepts connections; returns its PID.
    async fn await_socket(&self) -> Result<i32, RuntimeError> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(pid) = self.pid().await {
                return Ok(pid);
            }
            if Instant::now() > deadline {
                return Err(RuntimeError::Engine {
                    attempt: format!("connect to {}", self.layout.socket().display()),
                    message: format!(
                        "containerd did not answer within {} s; its log ends with: {}",
                        START_DEADLINE.as_secs(),
                        self.log_tail()
                    ),
                });
            }
            tokio::time::sleep(SOCKET_POLL).await;
        }
    }

    /// Who listens on the socket, if it is a containerd that was started with our configuration.
    async fn pid(&self) -> Option<i32> {
        let stream = UnixStream::connect(self.layout.socket()).await.ok()?;
        let pid = stream.peer_cred().ok()?.pid()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        is_ours(&command, &self.layout.config()).then_some(pid)
    }

    /// For people and tools; nothing here relies on it.
    fn record(&self, pid: i32) -> Result<(), RuntimeError> {
        let path = self.layout.pid_file();
        std::fs::write(&path, format!("{pid}\n")).map_err(|error| io_error("write", &path, &error))
    }

    fn log_tail(&self) -> String {
        let bytes = std::fs::read(self.layout.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_QUOTE)..]).trim().to_owned()
    }

    fn is_locked(&self) -> bool {
        daemon::is_running(&self.layout.lock_file())
    }

    async fn stop(&self, signal: Signal) {
        if let Some(pid) = self.pid().await {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    async fn watch(self: Arc<Self>, mut running: Running) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let since = Instant::now();
            let how = running.ended().await;
            if since.elapsed() > STABLE_AFTER {
                backoff = BACKOFF_MIN;
            }
            self.emit("EngineDied", format!("containerd ended ({how}); containers keep running"));
            running = loop {
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                match self.ensure_running().await {
                    Ok(running) => break running,
                    Err(error) => self.emit("EngineDied", error.to_string()),
                }
            };
            self.events.emit(NewEvent::new("node", "", "EngineStarted", "containerd runs again"));
        }
    }

    fn emit(&self, reason: &'static str, message: String) {
        self.events.emit(NewEvent::new("node", "", reason, message).warning());
    }
}

/// Whether a command line, as in /proc/PID/cmdline, names our configuration.
fn is_ours(cmdline: &[u8], config: &Path) -> bool {
    cmdline.split(|byte| *byte == 0).any(|argument| argument == config.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_command_line_with_the_whole_path_is_ours() {
        let config = Path::new("/s/config.toml");
        assert!(is_ours(b"containerd\0--config\0/s/config.toml\0", config));
        assert!(!is_ours(b"containerd\0--config\0/s/config.toml.old\0", config));
    }
}
