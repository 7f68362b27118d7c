//! Tasks: the process of a sandbox.

use std::{
    fmt::Write as _,
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use capsule_proto::Name;
use containerd_client::{
    services::v1::{
        CreateTaskRequest, DeleteTaskRequest, GetRequest, KillRequest, StartRequest, WaitRequest,
    },
    types::v1::{Process, Status as ProcessStatus},
};
use nix::sys::signal::Signal;
use prost_types::Timestamp;
use tonic::{Code, Status};

use super::{
    Containerd,
    api::{failed, found, is_unreachable, request},
    cgroup::Freezer,
};
use crate::runtime::{Exit, RuntimeError, Task, TaskState, Whom};

/// Exit code of a shell for a command that is not there.
const NOT_FOUND: u32 = 127;
/// Exit code of a shell for a command that cannot be run.
const NOT_EXECUTABLE: u32 = 126;
/// A shim waits for the log pump to be ready, and without a limit it would for ever.
const CREATE_DEADLINE: Duration = Duration::from_mins(1);
/// First argument of the log pump; containerd passes the URI's query as arguments.
const LOG_PUMP: &str = "log-pump";

impl Containerd {
    pub(super) async fn prepare(&self, name: &Name, log_dir: &Path) -> Result<u32, RuntimeError> {
        let container =
            self.container(name).await?.ok_or_else(|| RuntimeError::NotFound(name.clone(), "container"))?;
        let rootfs = self
            .snapshot_mounts(&container.snapshot_key)
            .await?
            .ok_or_else(|| RuntimeError::NotFound(name.clone(), "writable layer"))?;
        let log = log_uri(&self.log_pump, log_dir);
        let create = CreateTaskRequest {
            container_id: name.to_string(),
            rootfs,
            stdout: log.clone(),
            stderr: log,
            options: Some(self.runc_options()),
            ..CreateTaskRequest::default()
        };
        let mut create = request(create);
        create.set_timeout(CREATE_DEADLINE);
        match self.tasks().create(create).await {
            Ok(answer) => Ok(answer.into_inner().pid),
            Err(status) if is_in_the_way(&status) => self.prepared(name).await,
            Err(status) => Err(start_failed(&format!("make the task of workload {name}"), status)),
        }
    }

    /// The PID of a task that was made before.
    async fn prepared(&self, name: &Name) -> Result<u32, RuntimeError> {
        let message = match self.process(name).await? {
            Some(process) if process.status() != ProcessStatus::Stopped => return Ok(process.pid),
            Some(_) => "an earlier task has ended and must be deleted first",
            None => {
                self.clear_settled(name).await?;
                "an earlier try was cut short; its rest is removed once containerd is done with it"
            }
        };
        let attempt = format!("make the task of workload {name}");
        Err(RuntimeError::Engine { attempt, message: message.to_owned() })
    }

    pub(super) async fn start_prepared(&self, name: &Name) -> Result<(), RuntimeError> {
        let start = StartRequest { container_id: name.to_string(), ..StartRequest::default() };
        let Err(status) = self.tasks().start(request(start)).await else { return Ok(()) };
        match self.process(name).await? {
            None => Err(RuntimeError::NotFound(name.clone(), "task")),
            Some(process) if process.status() == ProcessStatus::Running => Ok(()),
            Some(_) => Err(start_failed(&format!("start workload {name}"), status)),
        }
    }

    pub(super) async fn send_signal(&self, name: &Name, signal: i32, whom: Whom) -> Result<(), RuntimeError> {
        let all = whom == Whom::All;
        let kill = KillRequest {
            container_id: name.to_string(),
            signal: signal as u32,
            all,
            ..KillRequest::default()
        };
        match self.tasks().kill(request(kill)).await {
            Ok(_) => Ok(()),
            // The task is unknown, or known and ended; then there is nothing to do.
            Err(status) if status.code() == Code::NotFound => {
                let process = self.process(name).await?;
                process.map(drop).ok_or_else(|| RuntimeError::NotFound(name.clone(), "task"))
            }
            Err(status) => Err(failed(format!("send signal {signal} to workload {name}"), status)),
        }
    }

    pub(super) async fn delete(&self, name: &Name) -> Result<Option<Exit>, RuntimeError> {
        let Some(process) = self.process(name).await? else { return Ok(None) };
        if process.status() == ProcessStatus::Created {
            self.end_prepared(name).await?;
        }
        // Counted in the cgroup, which goes with the task.
        let oom_kills = self.oom_kills(name);
        let answer = self.tasks().delete(request(DeleteTaskRequest { container_id: name.to_string() })).await;
        let ended = found(answer, format!("delete the task of workload {name}"))?;
        Ok(ended.map(|ended| exit(ended.exit_status, ended.exited_at, oom_kills)))
    }

    /// A task that never ran.
    async fn end_prepared(&self, name: &Name) -> Result<(), RuntimeError> {
        self.send_signal(name, Signal::SIGKILL as i32, Whom::Init).await?;
        let wait = WaitRequest { container_id: name.to_string(), ..WaitRequest::default() };
        found(self.tasks().wait(request(wait)).await, format!("wait for the task of workload {name}"))?;
        Ok(())
    }

    /// What containerd knows of the task.
    pub(super) async fn process(&self, name: &Name) -> Result<Option<Process>, RuntimeError> {
        let wanted = GetRequest { container_id: name.to_string(), ..GetRequest::default() };
        let answer = self.tasks().get(request(wanted)).await;
        let process = found(answer, format!("look up the task of workload {name}"))?;
        Ok(process.and_then(|answer| answer.process).and_then(|process| self.known(name, process)))
    }

    /// A shim that does not answer containerd for two seconds is told of as a process without a number in
    /// an unknown state. Its task is as it was when it was made: it runs until its shim says otherwise.
    pub(super) fn known(&self, name: &Name, process: Process) -> Option<Process> {
        if process.status() != ProcessStatus::Unknown {
            return Some(process);
        }
        let noted = fs::read_to_string(self.layout.bundles().join(name.as_str()).join("init.pid")).ok()?;
        Some(Process { pid: noted.trim().parse().ok()?, status: ProcessStatus::Running.into(), ..process })
    }

    pub(super) fn task_of(&self, name: &Name, process: &Process) -> Task {
        let state = match process.status() {
            ProcessStatus::Created => TaskState::Created,
            ProcessStatus::Stopped => {
                TaskState::Exited(exit(process.exit_status, process.exited_at, self.oom_kills(name)))
            }
            _ if self.host.cgroups.is_frozen(&self.cgroup_of(name)) => TaskState::Paused,
            _ => TaskState::Running,
        };
        Task { pid: process.pid, state }
    }

    fn oom_kills(&self, name: &Name) -> u64 {
        self.host.cgroups.oom_kills(&self.cgroup_of(name))
    }

    /// By the control group and not by containerd, which waits until every process stands still: one
    /// that waits for its disk does not, and may for long.
    pub(super) fn freeze(&self, name: &Name, to: Freezer) -> Result<(), RuntimeError> {
        match self.host.cgroups.freeze(&self.cgroup_of(name), to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(RuntimeError::NotFound(name.clone(), "task"))
            }
            Err(error) => Err(RuntimeError::Engine {
                attempt: format!("pause or resume workload {name}"),
                message: error.to_string(),
            }),
            Ok(()) => Ok(()),
        }
    }

    fn cgroup_of(&self, name: &Name) -> String {
        format!("{}/{name}", self.cgroup_parent)
    }
}

/// Whether a task, or the rest of one, has this name already.
fn is_in_the_way(status: &Status) -> bool {
    let has = |part: &str| status.message().contains(part);
    status.code() == Code::AlreadyExists || has("failed to start shim") && has("file exists")
}

/// An exit as containerd reports it.
pub(super) fn exit(code: u32, at: Option<Timestamp>, oom_kills: u64) -> Exit {
    let at = at.and_then(|at| SystemTime::try_from(at).ok()).unwrap_or_else(SystemTime::now);
    // A task that lost a child to the kernel and then ended well was not killed.
    Exit { code, oom_killed: oom_kills > 0 && code != 0, at }
}

/// The error of a process that did not come to run. runc says why in prose only.
pub(super) fn start_failed(attempt: &str, status: Status) -> RuntimeError {
    if is_unreachable(&status) {
        return failed(attempt, status);
    }
    let text = status.message();
    let reason = text.rsplit_once("unable to start container process: ").map_or(text, |(_, reason)| reason);
    let reason = reason.trim_end_matches(": unknown");
    let has = |part: &str| reason.contains(part);
    let code = match () {
        () if has("executable file not found") => NOT_FOUND,
        () if reason.starts_with("exec: ") && has("no such file or directory") => NOT_FOUND,
        () if has("permission denied") && has("exec") => NOT_EXECUTABLE,
        () if has("is a directory") || has("exec format error") => NOT_EXECUTABLE,
        () if has("chdir to cwd") => return RuntimeError::Invalid(format!("cannot {attempt}: {reason}")),
        () => return failed(attempt, status),
    };
    RuntimeError::Command { code, message: format!("cannot {attempt}: {reason}") }
}

/// containerd starts `PROGRAM log-pump DIR` and hands it the task's output. There is one query
/// pair, as containerd 1.6 passes several in no particular order.
fn log_uri(program: &Path, dir: &Path) -> String {
    format!("binary://{}?{LOG_PUMP}={}", percent_encode(program), percent_encode(dir))
}

/// RFC 3986, section 2.1; slashes stay.
fn percent_encode(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(*byte));
            }
            other => write!(text, "%{other:02X}").unwrap_or_default(),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(message: &str) -> Option<u32> {
        match start_failed("start x", Status::unknown(message)) {
            RuntimeError::Command { code, .. } => Some(code),
            _ => None,
        }
    }

    #[test]
    fn commands_that_cannot_run_have_the_codes_of_a_shell() {
        let runc = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
                    container process: ";
        for (reason, code) in [
            ("exec: \"nope\": executable file not found in $PATH: unknown", Some(127)),
            ("exec: \"/nope\": stat /nope: no such file or directory: unknown", Some(127)),
            ("exec: \"/etc/passwd\": permission denied: unknown", Some(126)),
            ("exec /bin/data: exec format error: unknown", Some(126)),
            ("error during container init: something else", None),
        ] {
            assert_eq!(code_of(&format!("{runc}{reason}")), code, "{reason}");
        }
    }

    #[test]
    fn the_log_uri_survives_odd_paths() {
        let uri = log_uri(Path::new("/opt/a b/capsuled"), Path::new("/s/logs/web?&"));
        assert_eq!(uri, "binary:///opt/a%20b/capsuled?log-pump=/s/logs/web%3F%26");
    }
}
