//! A command inside a workload, its streams over one call.
//!
//! The process belongs to the call: however the call ends, it is killed with it.

use std::time::Duration;

use capsule_proto::v1::{self, exec_input::Input, exec_output::Output};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tonic::{Status, Streaming};

use super::{WorkloadError, Workloads, status};
use crate::runtime::{ExecProcess, ExecSpec, RuntimeError};

/// Bytes read at once from a stream.
const CHUNK: usize = 32 * 1024;
/// Chunks of stdin that wait for the process.
const STDIN_BACKLOG: usize = 16;
/// After the process has ended: how long a descendant may keep a stream open in silence.
const LINGER: Duration = Duration::from_millis(500);

/// Where what the command writes goes.
pub type Sender = mpsc::Sender<Result<v1::ExecOutput, Status>>;

impl Workloads {
    pub(super) async fn exec(&self, mut input: Streaming<v1::ExecInput>, to: Sender) -> Result<(), Status> {
        let Some(v1::ExecInput { input: Some(Input::Start(start)) }) = input.message().await? else {
            return Err(Status::invalid_argument("an exec begins with what to start"));
        };
        let process = match self.exec_start(start).await {
            Ok(process) => Ok(process),
            Err(WorkloadError::Runtime(error)) => Err(error),
            Err(error) => return Err(error.into()),
        };
        if let Some(exit) = converse(process, &mut input, &to).await? {
            send(&to, Output::Exit(exit)).await;
        }
        Ok(())
    }

    async fn exec_start(&self, start: v1::ExecStart) -> Result<Box<dyn ExecProcess>, WorkloadError> {
        let handle = self.handle(&start.name)?;
        let workload = handle.workload();
        let status = workload.as_ref().and_then(|workload| workload.status.as_ref());
        if status.is_none_or(|status| status.pid == 0 || status.phase() == v1::Phase::Paused) {
            return Err(WorkloadError::Conflict(not_running(&start.name, status)));
        }
        if start.command.is_empty() {
            return Err(WorkloadError::Invalid("an exec takes a command".into()));
        }
        let name = start.name.clone();
        match self.parts.runtime.exec(&handle.name, spec_of(start)).await {
            // It ended a moment ago.
            Err(RuntimeError::NotFound(..)) => Err(WorkloadError::Conflict(not_running(&name, status))),
            outcome => Ok(outcome?),
        }
    }
}

/// What the runtime is to run.
pub fn spec_of(start: v1::ExecStart) -> ExecSpec {
    let side = |size: u32| u16::try_from(size).unwrap_or(u16::MAX);
    ExecSpec {
        command: start.command,
        tty: start.tty,
        stdin: start.stdin,
        env: start.env.into_iter().map(|var| (var.name, var.value)).collect(),
        working_dir: start.working_dir,
        user: start.user,
        window: start.window.map(|window| (side(window.columns), side(window.rows))),
    }
}

/// Connects a command that was started, or could not be, with its caller until it has ended: how is left
/// to be sent. `None` where the caller was gone before that; the command is killed then.
pub async fn converse(
    process: Result<Box<dyn ExecProcess>, RuntimeError>,
    input: &mut (impl Stream<Item = Result<v1::ExecInput, Status>> + Unpin),
    to: &Sender,
) -> Result<Option<v1::ExitStatus>, Status> {
    let mut process = match process {
        Err(RuntimeError::Command { code, message }) => {
            send(to, Output::NotStarted(message)).await;
            return Ok(Some(v1::ExitStatus { code, ..Default::default() }));
        }
        started => started?,
    };
    send(to, Output::Started(true)).await;
    let (ended, watching) = watch::channel(false);
    let mut streams = JoinSet::new();
    if let Some(stdout) = process.take_stdout() {
        streams.spawn(copy_out(stdout, to.clone(), watching.clone(), Output::Stdout));
    }
    if let Some(stderr) = process.take_stderr() {
        streams.spawn(copy_out(stderr, to.clone(), watching, Output::Stderr));
    }
    let stdin = process.take_stdin().map(|stdin| {
        let (sender, receiver) = mpsc::channel(STDIN_BACKLOG);
        tokio::spawn(copy_in(stdin, receiver));
        sender
    });
    let Some(exit) = attend(process.as_mut(), input, stdin, to).await? else {
        return Ok(None);
    };
    ended.send_replace(true);
    while streams.join_next().await.is_some() {}
    Ok(Some(exit))
}

/// Why nothing can be run in it, and what would help.
fn not_running(name: &str, status: Option<&v1::WorkloadStatus>) -> String {
    let phase = status.map(v1::WorkloadStatus::phase).unwrap_or_default();
    let reason = status.map(|status| status.reason.as_str()).filter(|reason| !reason.is_empty());
    let why = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let (is, next) = match phase {
        v1::Phase::Stopped | v1::Phase::Stopping => ("is stopped", "`fleetctl workload start` starts it"),
        v1::Phase::Completed | v1::Phase::Failed => ("has ended", "`fleetctl workload start` starts it anew"),
        v1::Phase::BackOff | v1::Phase::CrashLoop => {
            ("waits for its next start", "`fleetctl logs` tells how it ended")
        }
        v1::Phase::Deleting => ("is being deleted", "apply its manifest to have it again"),
        v1::Phase::Paused => ("is paused", "it goes on by itself once that is over"),
        v1::Phase::Running => ("has just ended", "`fleetctl workload get` tells how it goes on"),
        _ => ("has not started yet", "`fleetctl workload wait` waits for it"),
    };
    format!("nothing can be run in workload {name}: it {is}{why}; {next}")
}

/// Until the process has ended, or `None` when the client is gone.
async fn attend(
    process: &mut dyn ExecProcess,
    input: &mut (impl Stream<Item = Result<v1::ExecInput, Status>> + Unpin),
    mut stdin: Option<mpsc::Sender<Vec<u8>>>,
    to: &Sender,
) -> Result<Option<v1::ExitStatus>, Status> {
    let mut listening = true;
    loop {
        let message = tokio::select! {
            exit = process.wait() => return Ok(Some(status::exit_status(&exit?))),
            () = to.closed() => return Ok(None),
            message = input.next(), if listening => message,
        };
        match message {
            Some(Err(_)) => return Ok(None),
            None => {
                listening = false;
                stdin = None;
            }
            Some(Ok(v1::ExecInput { input })) => match input {
                Some(Input::Stdin(bytes)) => {
                    let Some(sender) = &stdin else { continue };
                    tokio::select! {
                        sent = sender.send(bytes) => if sent.is_err() { stdin = None },
                        exit = process.wait() => return Ok(Some(status::exit_status(&exit?))),
                        () = to.closed() => return Ok(None),
                    }
                }
                Some(Input::StdinClosed(_)) => stdin = None,
                // A terminal or process that is just gone needs neither.
                Some(Input::Resize(size)) => {
                    let side = |size: u32| u16::try_from(size).unwrap_or(u16::MAX);
                    let _ = process.resize(side(size.columns), side(size.rows)).await;
                }
                Some(Input::Signal(number)) => {
                    let _ = process.signal(number as i32).await;
                }
                Some(Input::Start(_)) | None => {
                    return Err(Status::invalid_argument("an exec is started once"));
                }
            },
        }
    }
}

async fn send(to: &Sender, output: Output) -> bool {
    to.send(Ok(v1::ExecOutput { output: Some(output) })).await.is_ok()
}

async fn copy_out(
    mut from: Box<dyn AsyncRead + Send + Unpin>,
    to: Sender,
    mut ended: watch::Receiver<bool>,
    output: fn(Vec<u8>) -> Output,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let over = *ended.borrow_and_update();
        let count = tokio::select! {
            count = from.read(&mut buffer) => count,
            _ = ended.changed(), if !over => continue,
            () = tokio::time::sleep(LINGER), if over => return,
        };
        match count {
            Ok(count) if count > 0 => {
                if !send(&to, output(buffer[..count].to_vec())).await {
                    return;
                }
            }
            _ => return,
        }
    }
}

async fn copy_in(mut to: Box<dyn AsyncWrite + Send + Unpin>, mut from: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = from.recv().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
