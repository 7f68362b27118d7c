//! What runs workloads, behind one seam.
//!
//! [`Runtime`] is implemented by `container/` (containerd) and, in tests, by a programmable fake.
//! A workload has at most one *sandbox* (container object and writable layer) and in it at most
//! one *task* (the process). `workload/` drives it one small idempotent step at a time:
//!
//! ```text
//!   create ──▶ prepare_task ──▶ start_task ──▶ (exit event) ──▶ delete_task ──▶ remove
//!              namespaces exist,                                 status read
//!              process not yet run
//! ```
//!
//! Every call is safe to repeat; what is already so is no error.

pub mod container;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use capsule_proto::{Name, v1};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::broadcast,
};

use crate::image::ImageInfo;

/// All that [`Runtime::create`] needs; nothing in it is looked up again.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The workload.
    pub name: Name,
    /// Written onto the sandbox and read back by [`Runtime::list`]: drift shows as a difference.
    pub spec_hash: String,
    /// As the operator wrote it, validated.
    pub spec: v1::ContainerSpec,
    /// The unpacked image.
    pub image: ImageInfo,
    /// Volume mount points, host binds and the files of name resolution.
    pub mounts: Vec<BindMount>,
    /// What it sees of the host beside those.
    pub reach: Reach,
}

/// What of the host a sandbox sees beside its mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// As its spec says.
    Spec,
    /// The host's own `/dev`, `/sys` and `/run`, and its root at `/host`, for reading: no manifest can say so.
    Host,
}

/// A bind mount from the host into the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindMount {
    /// On the host; exists.
    pub source: PathBuf,
    /// Absolute, inside the workload.
    pub target: PathBuf,
    /// Whether the workload may write.
    pub access: Access,
}

/// Whether something may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    ReadOnly,
    /// Both.
    ReadWrite,
}

/// What exists of a workload, as the runtime reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The workload.
    pub name: Name,
    /// From [`Setup::spec_hash`] when it was made.
    pub spec_hash: String,
    /// Digest of the image it was made from.
    pub image_digest: String,
    /// Its task, where it has one.
    pub task: Option<Task>,
}

/// The process of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// In the host's PID namespace.
    pub pid: u32,
    /// Where it stands.
    pub state: TaskState,
}

impl Task {
    /// Whether its process has begun and not ended.
    pub fn is_up(&self) -> bool {
        matches!(self.state, TaskState::Running | TaskState::Paused)
    }
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Namespaces exist, the process waits for `start_task`.
    Created,
    /// It runs.
    Running,
    /// It runs, and gets no time to run on.
    Paused,
    /// It ended and waits for `delete_task`.
    Exited(Exit),
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// As the runtime reports it: 128 + signal where a signal ended it.
    pub code: u32,
    /// Whether the kernel killed it for memory.
    pub oom_killed: bool,
    /// When.
    pub at: SystemTime,
}

/// What the runtime tells by itself.
#[derive(Clone, Debug)]
pub enum RuntimeEvent {
    /// A task ended; its status is read by `delete_task`.
    Exited {
        /// The workload.
        name: Name,
        /// Of the process that ended.
        pid: u32,
    },
    /// The engine came back after it was gone: events may be missing, look at everything.
    Reconnected,
}

/// A command to run inside a workload.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// Program and arguments; not empty.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether stdin is connected; /dev/null otherwise.
    pub stdin: bool,
    /// Over the workload's own environment.
    pub env: BTreeMap<String, String>,
    /// The workload's own where empty.
    pub working_dir: String,
    /// The workload's own where empty.
    pub user: String,
    /// First size of the terminal, columns and rows.
    pub window: Option<(u16, u16)>,
}

/// A running command. Dropping it kills the process.
#[async_trait]
pub trait ExecProcess: Send {
    /// Write side of stdin; `None` once taken or where it has none.
    fn take_stdin(&mut self) -> Option<Box<dyn AsyncWrite + Send + Unpin>>;
    /// Read side of stdout (of the terminal, where it has one).
    fn take_stdout(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>>;
    /// Read side of stderr; `None` with a terminal.
    fn take_stderr(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>>;
    /// New size of the terminal.
    async fn resize(&self, columns: u16, rows: u16) -> Result<(), RuntimeError>;
    /// Sends a signal to the process.
    async fn signal(&self, signal: i32) -> Result<(), RuntimeError>;
    /// Resolves when the process has ended. Safe to drop and call again.
    async fn wait(&mut self) -> Result<Exit, RuntimeError>;
}

/// An engine that runs workloads of one kind.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Every sandbox of this capsule.
    async fn list(&self) -> Result<Vec<Sandbox>, RuntimeError>;
    /// One of them.
    async fn get(&self, name: &Name) -> Result<Option<Sandbox>, RuntimeError>;
    /// Waits until nothing of a task that an earlier agent began is in the way of another.
    async fn settled(&self, _name: &Name) {}
    /// Makes the sandbox. One with the same hash is kept; one with another is an error.
    async fn create(&self, setup: &Setup) -> Result<(), RuntimeError>;
    /// Makes the task without running it and returns its PID; `/proc/PID/ns/net` exists then.
    /// Its output goes to the log files in `log_dir` through a process that outlives the agent.
    async fn prepare_task(&self, name: &Name, log_dir: &std::path::Path) -> Result<u32, RuntimeError>;
    /// Runs the prepared task.
    async fn start_task(&self, name: &Name) -> Result<(), RuntimeError>;
    /// Sends a signal to the task's first process (with `All`, to every one of its processes).
    async fn signal(&self, name: &Name, signal: i32, whom: Whom) -> Result<(), RuntimeError>;
    /// Gives the processes of a running task no more time, until [`Runtime::resume`]. Outlives the agent.
    async fn pause(&self, name: &Name) -> Result<(), RuntimeError>;
    /// Lets them go on.
    async fn resume(&self, name: &Name) -> Result<(), RuntimeError>;
    /// Removes an ended task and says how it ended; `None` where there was none.
    async fn delete_task(&self, name: &Name) -> Result<Option<Exit>, RuntimeError>;
    /// Removes the sandbox and its writable layer; its task must have been deleted.
    async fn remove(&self, name: &Name) -> Result<(), RuntimeError>;
    /// Runs a command in a running task.
    async fn exec(&self, name: &Name, spec: ExecSpec) -> Result<Box<dyn ExecProcess>, RuntimeError>;
    /// Mounts the root of a sandbox without a running task at `target`; the caller unmounts.
    async fn mount_rootfs(&self, name: &Name, target: &std::path::Path) -> Result<(), RuntimeError>;
    /// Events from now on.
    fn subscribe(&self) -> broadcast::Receiver<RuntimeEvent>;
    /// Engine and version, for `capsule info`.
    async fn version(&self) -> Result<String, RuntimeError>;
}

/// Shared by all who drive workloads.
pub type SharedRuntime = Arc<dyn Runtime>;

/// Whom a signal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The task's first process.
    Init,
    /// Every process of the task.
    All,
}

/// For a killed task to be reported as ended.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Kills what runs in a sandbox, and deletes its task.
pub async fn end_task(runtime: &dyn Runtime, sandbox: &Sandbox) -> Result<(), RuntimeError> {
    let Some(task) = &sandbox.task else { return Ok(()) };
    let name = &sandbox.name;
    let mut events = runtime.subscribe();
    runtime.signal(name, libc::SIGKILL, Whom::All).await.ok();
    // Its exit, or what a lost event costs.
    let exited = async {
        loop {
            match events.recv().await {
                Ok(RuntimeEvent::Exited { name: ended, .. }) if ended == *name => return,
                Err(broadcast::error::RecvError::Closed) => return,
                _ => {}
            }
        }
    };
    if !matches!(task.state, TaskState::Exited(_)) {
        let _ = tokio::time::timeout(KILL_DEADLINE, exited).await;
    }
    runtime.delete_task(name).await.map(drop)
}

/// Why the runtime could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine does not answer (yet); trying again may help.
    #[error("containerd does not answer; the agent is restarting it, try again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No such sandbox or task.
    #[error("workload {0} has no {1}")]
    NotFound(Name, &'static str),
    /// The spec cannot run: a missing user, a command that is not there.
    #[error("{0}")]
    Invalid(String),
    /// The command is not there (127) or cannot be run (126), codes as a shell's.
    #[error("{message}")]
    Command {
        /// Exit code for who asked for the command.
        code: u32,
        /// What was attempted, and why it failed.
        message: String,
    },
    /// Anything else that the engine said.
    #[error("cannot {attempt}: {message}")]
    Engine {
        /// What was attempted, on what.
        attempt: String,
        /// In the engine's words.
        message: String,
    },
}

impl RuntimeError {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Invalid(_) | Self::Command { .. })
    }
}
