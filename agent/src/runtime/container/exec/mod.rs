//! Commands inside a running task.
//!
//! The shim connects the command to FIFOs, each in `STATE_DIR/tmp/exec/WORKLOAD_ID/`. The directory
//! is there before the command is, so that the next agent finds what a killed one left running.
//! One task per command waits for its end.
//!
//! A command that still runs when nobody wants it any more is killed with its whole session (runc
//! makes one for each command), or the parts of a pipeline would outlive the shell that made them.
//! What a command that ended by itself left behind is left alone.
//!
//! What the command wrote stays readable after its end until [`Exec`] is dropped. A process that it
//! left behind may hold the streams open: read on for a moment after `wait`, not for ever.

mod fifo;
mod session;

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use capsule_proto::Name;
use containerd_client::{
    services::v1::{
        DeleteProcessRequest, ExecProcessRequest, GetRequest, KillRequest, ResizePtyRequest, StartRequest,
        WaitRequest, tasks_client::TasksClient,
    },
    types::v1::Status as ProcessStatus,
};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tonic::{Code, transport::Channel};

use self::fifo::{Fifos, Stdin};
use super::{
    Containerd,
    api::{any, failed, is_unreachable, request},
    spec,
    task::{exit, start_failed},
    user::{self, Accounts, User},
};
use crate::runtime::{ExecProcess, ExecSpec, Exit, RuntimeError};

/// Under this type Go's typeurl registers a process of the OCI runtime spec.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Between attempts to wait while containerd is gone.
const RETRY: Duration = Duration::from_millis(200);
/// How long a killed command may take to end before it is left to the next start of the agent.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// What identifies a command to containerd.
#[derive(Clone)]
struct Handle {
    tasks: TasksClient<Channel>,
    name: Name,
    id: String,
}

/// A running command.
pub(super) struct Exec {
    handle: Handle,
    fifos: Fifos,
    ended: watch::Receiver<Option<Result<Exit, String>>>,
}

/// Starts a command in the task of `name`.
pub(super) async fn run(engine: &Containerd, name: &Name, spec: ExecSpec) -> Result<Exec, RuntimeError> {
    let (container, process) = tokio::join!(engine.container_spec(name), engine.process(name));
    let (_, container_spec) = container?;
    let pid = match process? {
        Some(process) if process.status() == ProcessStatus::Running => process.pid,
        _ => return Err(RuntimeError::NotFound(name.clone(), "running task")),
    };
    let user = resolve_user(&spec.user, pid).await?;
    let process = spec::exec_process(&container_spec["process"], &spec, user.as_ref());
    let id = uuid::Uuid::new_v4().simple().to_string();
    let fifos = Fifos::make(&engine.layout.execs().join(format!("{name}_{id}")), &spec)?;
    let handle = Handle { tasks: engine.tasks(), name: name.clone(), id };
    let add = ExecProcessRequest {
        container_id: name.to_string(),
        stdin: fifos.stdin_path(),
        stdout: fifos.stdout_path(),
        stderr: fifos.stderr_path(),
        terminal: spec.tty,
        spec: Some(any(PROCESS_TYPE, process.to_string().into_bytes())),
        exec_id: handle.id.clone(),
    };
    let command = spec.command.first().map_or("", String::as_str);
    handle.start(add, command).await?;
    let (sender, ended) = watch::channel(None);
    tokio::spawn(handle.clone().wait(sender));
    let mut exec = Exec { handle, fifos, ended };
    exec.fifos.started();
    Ok(exec)
}

/// In the root as the workload sees it now; `None` keeps the workload's own user.
async fn resolve_user(text: &str, pid: u32) -> Result<Option<User>, RuntimeError> {
    if text.is_empty() {
        return Ok(None);
    }
    let text = text.to_owned();
    let resolve = move || {
        let root = format!("/proc/{pid}/root");
        user::resolve(&text, &Accounts::read(Path::new(&root))).map(Some)
    };
    tokio::task::spawn_blocking(resolve).await.map_err(|error| RuntimeError::Engine {
        attempt: "read the accounts of the workload".to_owned(),
        message: error.to_string(),
    })?
}

impl Handle {
    /// Where a command cannot be started nothing of it is kept.
    async fn start(&self, add: ExecProcessRequest, command: &str) -> Result<(), RuntimeError> {
        let attempt = format!("run {command:?} in workload {}", self.name);
        let mut tasks = self.tasks.clone();
        tasks.exec(request(add)).await.map_err(|status| start_failed(&attempt, status))?;
        let start = StartRequest { container_id: self.name.to_string(), exec_id: self.id.clone() };
        if let Err(status) = tasks.start(request(start)).await {
            self.delete().await;
            return Err(start_failed(&attempt, status));
        }
        Ok(())
    }

    async fn wait(mut self, sender: watch::Sender<Option<Result<Exit, String>>>) {
        let outcome = loop {
            let wait = WaitRequest { container_id: self.name.to_string(), exec_id: self.id.clone() };
            match self.tasks.wait(request(wait)).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    break Ok(exit(answer.exit_status, answer.exited_at, 0));
                }
                Err(status) if is_unreachable(&status) => tokio::time::sleep(RETRY).await,
                Err(status) if status.code() == Code::NotFound => {
                    break Err("the workload ended, and the command with it".to_owned());
                }
                Err(status) => break Err(status.message().to_owned()),
            }
            if sender.is_closed() {
                return;
            }
        };
        sender.send_replace(Some(outcome));
    }

    async fn kill(&self, signal: i32) -> Result<(), tonic::Status> {
        let kill = KillRequest {
            container_id: self.name.to_string(),
            exec_id: self.id.clone(),
            signal: signal as u32,
            all: false,
        };
        match self.tasks.clone().kill(request(kill)).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    async fn delete(&self) {
        let delete = DeleteProcessRequest { container_id: self.name.to_string(), exec_id: self.id.clone() };
        // What cannot be deleted is gone with its task at the latest.
        let _ = self.tasks.clone().delete_process(request(delete)).await;
    }

    /// Its process, while it runs.
    async fn pid(&self) -> Option<u32> {
        let get = GetRequest { container_id: self.name.to_string(), exec_id: self.id.clone() };
        let process = self.tasks.clone().get(request(get)).await.ok()?.into_inner().process?;
        (process.status() == ProcessStatus::Running && process.pid > 0).then_some(process.pid)
    }

    /// Ends the command and its session if it still runs, and forgets it.
    async fn end(self) {
        if let Some(pid) = self.pid().await {
            let _ = tokio::task::spawn_blocking(move || session::kill(pid)).await;
        }
        let killed = self.kill(Signal::SIGKILL as i32).await;
        if killed.is_ok() {
            let (sender, mut ended) = watch::channel(None);
            let _ = tokio::time::timeout(KILL_DEADLINE, async {
                tokio::join!(self.clone().wait(sender), ended.changed())
            })
            .await;
        }
        self.delete().await;
    }
}

#[async_trait]
impl ExecProcess for Exec {
    fn take_stdin(&mut self) -> Option<Box<dyn AsyncWrite + Send + Unpin>> {
        let pipe = self.fifos.take_stdin()?;
        Some(Box::new(Stdin::new(pipe, self.handle.clone())))
    }

    fn take_stdout(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>> {
        Some(Box::new(self.fifos.take_stdout()?))
    }

    fn take_stderr(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>> {
        Some(Box::new(self.fifos.take_stderr()?))
    }

    async fn resize(&self, columns: u16, rows: u16) -> Result<(), RuntimeError> {
        let resize = ResizePtyRequest {
            container_id: self.handle.name.to_string(),
            exec_id: self.handle.id.clone(),
            width: columns.into(),
            height: rows.into(),
        };
        match self.handle.tasks.clone().resize_pty(request(resize)).await {
            Err(status) if status.code() != Code::NotFound => {
                Err(failed(format!("resize a terminal in workload {}", self.handle.name), status))
            }
            _ => Ok(()),
        }
    }

    async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        let attempt = || format!("send signal {signal} to a command in workload {}", self.handle.name);
        self.handle.kill(signal).await.map_err(|status| failed(attempt(), status))
    }

    async fn wait(&mut self) -> Result<Exit, RuntimeError> {
        let attempt = || format!("wait for a command in workload {}", self.handle.name);
        let outcome = match self.ended.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        match outcome {
            Some(Ok(exit)) => Ok(exit),
            Some(Err(message)) => Err(RuntimeError::Engine { attempt: attempt(), message }),
            None => {
                Err(RuntimeError::Engine { attempt: attempt(), message: "the agent is stopping".to_owned() })
            }
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        // Without a runtime the agent is ending; its next start cleans up.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (handle, dir) = (self.handle.clone(), self.fifos.take_dir());
        let ended = self.ended.borrow().is_some();
        runtime.spawn(async move {
            if ended {
                handle.delete().await;
            } else {
                handle.end().await;
            }
            drop(dir);
        });
    }
}

/// Ends commands of an agent that was killed: nobody reads what they write. One that takes its time
/// holds up neither the others nor the agent.
pub(super) fn end_leftovers(engine: &Containerd) {
    for entry in std::fs::read_dir(engine.layout.execs()).into_iter().flatten().flatten() {
        let dir = fifo::Dir::existing(entry.path());
        let text = entry.file_name().to_string_lossy().into_owned();
        let Some((name, id)) = text.split_once('_') else { continue };
        let Ok(name) = name.parse() else { continue };
        let handle = Handle { tasks: engine.tasks(), name, id: id.to_owned() };
        tokio::spawn(async move {
            handle.end().await;
            drop(dir);
        });
    }
}
