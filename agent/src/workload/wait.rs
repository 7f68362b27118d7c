//! Waiting until a workload is as somebody wants it.

use std::{sync::Arc, time::Duration};

use capsule_proto::v1::{self, Phase, WaitCondition};
use tokio::sync::mpsc;
use tonic::Status;

use super::{WorkloadError, Workloads, handle::View, logs};

/// Where the caller names no time.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);
/// Of the last run, shown where it failed.
const SHOWN_LINES: usize = 3;

enum Verdict {
    Met,
    NotYet,
    Never,
}

pub(super) type Sender = mpsc::Sender<Result<v1::Workload, Status>>;

impl Workloads {
    /// Sends every status until the condition holds.
    pub(super) async fn wait(
        &self,
        request: v1::WaitWorkloadRequest,
        to: &Sender,
    ) -> Result<(), WorkloadError> {
        let condition = request.condition();
        let handle = match self.handle(&request.name) {
            Err(WorkloadError::NotFound(_)) if condition == WaitCondition::Deleted => return Ok(()),
            other => other?,
        };
        let timeout = request.timeout.and_then(|timeout| Duration::try_from(timeout).ok());
        let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT);
        let deadline = tokio::time::Instant::now() + timeout;
        let mut views = handle.view();
        loop {
            let view = views.borrow_and_update().clone();
            let View::Live(workload) = view else {
                return match condition {
                    WaitCondition::Deleted => Ok(()),
                    _ => Err(WorkloadError::Conflict(format!("workload {} was deleted", request.name))),
                };
            };
            if to.send(Ok((*workload).clone())).await.is_err() {
                return Ok(());
            }
            match judge(&workload, condition) {
                Verdict::Met => return Ok(()),
                Verdict::NotYet => {}
                Verdict::Never => return Err(WorkloadError::Conflict(self.explain(&workload, condition))),
            }
            tokio::select! {
                changed = views.changed() => if changed.is_err() {
                    return Err(WorkloadError::Conflict("the agent is stopping".into()));
                },
                () = to.closed() => return Ok(()),
                () = tokio::time::sleep_until(deadline) => {
                    let after = capsule_proto::format_duration(timeout);
                    let text = self.explain(&workload, condition);
                    return Err(WorkloadError::TimedOut(format!("after {after} {text}")));
                }
            }
        }
    }

    /// `workload web is not ready: it is Failed: it ended with exit code 3; last lines: …`
    fn explain(&self, workload: &Arc<v1::Workload>, condition: WaitCondition) -> String {
        let name = workload.manifest.as_ref().map(|manifest| manifest.name.as_str()).unwrap_or_default();
        let status = workload.status.clone().unwrap_or_default();
        let phase = status.phase();
        let wish = match condition {
            WaitCondition::Running => "running",
            WaitCondition::Stopped => "stopped",
            WaitCondition::Deleted => "gone",
            _ => "ready",
        };
        let mut text = format!("workload {name} is not {wish}: it is {phase}");
        let reason = &status.reason;
        if !reason.is_empty() {
            text = format!("{text}: {reason}");
        }
        if let (Ok(name), true) = (name.parse(), status.last_exit.is_some()) {
            let lines = logs::last_lines(&self.parts.log_dir(&name), SHOWN_LINES);
            if !lines.is_empty() {
                text = format!("{text}\nits last lines were:\n  {}", lines.join("\n  "));
            }
        }
        text
    }
}

fn judge(workload: &v1::Workload, condition: WaitCondition) -> Verdict {
    let Some(status) = &workload.status else { return Verdict::NotYet };
    let phase = status.phase();
    let ended = matches!(phase, Phase::Stopped | Phase::Completed | Phase::Failed);
    match condition {
        WaitCondition::Stopped if ended => Verdict::Met,
        WaitCondition::Deleted | WaitCondition::Stopped => Verdict::NotYet,
        WaitCondition::Running if phase == Phase::Running => Verdict::Met,
        _ if phase == Phase::Running && status.ready => Verdict::Met,
        _ if ended || phase == Phase::Deleting => Verdict::Never,
        _ => Verdict::NotYet,
    }
}
