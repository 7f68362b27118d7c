//! The agent as init sees it: started, watched, started again.
//!
//! ```text
//!   starting ──answers──▶ running ──silent for a minute──▶ killed ─┐
//!      ▲                     │ ends                                 │
//!      └────── back-off ─────┴──────────────────────────────────────┘
//! ```
//!
//! Workloads do not notice. Whether the watchdog may be fed is a question of how long the agent has
//! been silent, however often it was started meanwhile.

use std::{path::PathBuf, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    sync::watch,
    time::{Instant, timeout},
};

use crate::workload::backoff::Backoff;

/// An agent that runs and says nothing for so long is killed.
const SILENCE_LIMIT: Duration = Duration::from_mins(1);
/// A first start makes keys and a database, on whatever disk.
const START_LIMIT: Duration = Duration::from_mins(3);
/// Between two looks at its silence.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// One that ran for so long starts anew without delay.
const STABLE_AFTER: Duration = Duration::from_mins(1);
/// From SIGTERM to SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Of its last words.
const SAID_MAX_BYTES: usize = 2000;

/// How the agent is to be started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program.
    pub program: PathBuf,
    /// Where the capsule is.
    pub state_dir: PathBuf,
    /// A name for as long as nobody gave it another.
    pub hostname: String,
    /// `capsule.log=`, for its log.
    pub log: Option<String>,
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// When it last answered; when it was first started, before it ever did.
    pub heard: Instant,
    /// Whether it ever answered.
    pub has_answered: bool,
    /// How often it ended without being asked to.
    pub ends: u32,
    /// How it ended last, and its last words.
    pub last_end: String,
}

impl Observed {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { heard: Instant::now(), has_answered: false, ends: 0, last_end: String::new() }
    }

    /// It has answered.
    pub fn hear(&mut self) {
        self.heard = Instant::now();
        self.has_answered = true;
    }
}

impl Default for Observed {
    fn default() -> Self {
        Self::new()
    }
}

/// Keeps the agent running until `stop` says otherwise, and ends it then.
pub async fn keep(plan: Plan, observed: watch::Sender<Observed>, mut stop: watch::Receiver<bool>) {
    let mut backoff = BACKOFF;
    while !*stop.borrow() {
        let started = Instant::now();
        let (how, said) = match plan.spawn() {
            Err(error) => (error.to_string(), String::new()),
            Ok(mut child) => {
                let said = tokio::spawn(last_words(child.stderr.take()));
                let how = tokio::select! {
                    ended = child.wait() => ended.map_or_else(|error| error.to_string(), |status| status.to_string()),
                    () = silent(&observed, started) => {
                        kill_now(&mut child).await;
                        "it did not answer, and was killed".to_owned()
                    }
                    () = asked(&mut stop) => return end(child).await,
                };
                (how, said.await.unwrap_or_default())
            }
        };
        observed.send_modify(|observed| {
            observed.ends += 1;
            observed.last_end = if said.is_empty() { how } else { format!("{how}: {said}") };
        });
        if started.elapsed() > STABLE_AFTER {
            backoff.reset();
        }
        // A stop need not wait for the next try.
        let _ = timeout(backoff.next_wait(), asked(&mut stop)).await;
    }
}

/// Resolves when the machine stops.
async fn asked(stop: &mut watch::Receiver<bool>) {
    // Whoever could ask is there as long as init is.
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Plan {
    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.arg("agent").arg("--state-dir").arg(&self.state_dir).arg("--appliance");
        command.args(["--hostname", &self.hostname]);
        command.envs(self.log.iter().map(|filter| ("CAPSULED_LOG", filter)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn()
    }
}

/// Resolves when an agent that was started then has been silent for too long.
async fn silent(observed: &watch::Sender<Observed>, started: Instant) {
    loop {
        let heard = observed.borrow().heard;
        let deadline = if heard > started { heard + SILENCE_LIMIT } else { started + START_LIMIT };
        if Instant::now() > deadline {
            return;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

async fn kill_now(child: &mut Child) {
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "the agent could not be killed");
    }
}

async fn end(mut child: Child) {
    if let Some(pid) = child.id() {
        // One that ended by itself is waited for all the same.
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
    }
    if timeout(STOP_LIMIT, child.wait()).await.is_err() {
        kill_now(&mut child).await;
    }
}

/// Reads to the end and keeps the last of it: an agent that does not start says why there.
async fn last_words(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let (mut said, mut chunk) = (Vec::new(), [0; 1024]);
    while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
        said.extend_from_slice(&chunk[..count]);
        let surplus = said.len().saturating_sub(SAID_MAX_BYTES);
        said.drain(..surplus);
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    said.lines().next_back().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn plan(dir: &std::path::Path, script: &str) -> Plan {
        let program = dir.join("agent");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Plan { program, state_dir: dir.to_owned(), hostname: "x".into(), log: None }
    }

    #[tokio::test]
    async fn an_agent_that_ends_is_started_again_and_its_last_words_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let (observed, mut seen) = watch::channel(Observed::new());
        let (stop, stopped) = watch::channel(false);
        let plan = plan(dir.path(), "echo first >&2; echo 'capsuled: it is damaged' >&2; exit 3");
        let task = tokio::spawn(keep(plan, observed, stopped));
        let observed = seen.wait_for(|observed| observed.ends >= 2).await.unwrap().clone();
        assert_eq!(observed.last_end, "exit status: 3: capsuled: it is damaged");
        assert!(!observed.has_answered);
        stop.send_replace(true);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn an_agent_is_asked_to_end_when_the_machine_stops() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("up");
        let (observed, seen) = watch::channel(Observed::new());
        let (stop, stopped) = watch::channel(false);
        let script = format!("trap 'exit 0' TERM; : > {}; while :; do sleep 0.1; done", mark.display());
        let task = tokio::spawn(keep(plan(dir.path(), &script), observed, stopped));
        let up = async {
            while !mark.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), up).await.unwrap();
        stop.send_replace(true);
        timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
        assert_eq!(seen.borrow().ends, 0);
    }
}
