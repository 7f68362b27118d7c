//! A workload's status in the API's words.

use std::time::{Instant, SystemTime};

use capsule_proto::{
    system_time, timestamp,
    v1::{self, DesiredState, Phase},
};

use super::{
    plan::{self, Observed, Volatile},
    probe::Answer,
    spec::Desired,
};
use crate::{
    network::FabricState,
    runtime::{Exit, Task, TaskState},
};

/// Ends in a row, soon after their start, that make a crash loop.
pub(super) const CRASH_LOOP_ENDS: u32 = 3;

/// What an event tells of a readiness probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    NotReady,
}

/// What the status needs beside the plan's inputs.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// Runs that ended since counting began.
    pub ends: u32,
    pub last_exit: Option<v1::ExitStatus>,
    /// Of the present task.
    pub started_at: Option<SystemTime>,
    /// Ends in a row within ten seconds of their start.
    pub quick_ends: u32,
    /// What the readiness probe says.
    pub answer: Answer,
    /// The run whose readiness was last told in an event, and what was told.
    pub told: Option<(u32, Readiness)>,
    /// Epoch of the last run known to have begun; see `table::begin`.
    pub begun: u64,
    /// What the actor is at, where that has a phase of its own.
    pub doing: Option<Phase>,
}

pub(super) fn compose(
    desired: &Desired,
    observed: &Observed,
    volatile: &Volatile,
    record: &Record,
    fabric: Option<FabricState>,
) -> v1::WorkloadStatus {
    let (phase, reason) = phase(desired, observed, volatile, record);
    let running = phase == Phase::Running;
    let waits = matches!(phase, Phase::BackOff | Phase::CrashLoop);
    let address = desired.address.as_ref();
    let task = observed.task().filter(|task| task.is_up());
    v1::WorkloadStatus {
        phase: phase as i32,
        reason,
        ready: running && (desired.spec.readiness.is_none() || record.answer.ready),
        pid: task.map_or(0, |task| task.pid),
        restarts: restarts(observed, volatile, record),
        started_at: task.and(record.started_at).map(timestamp),
        last_exit: record.last_exit.clone(),
        ipv4: address.map(|address| address.ipv4.to_string()).unwrap_or_default(),
        ipv6: address.map(|address| address.ipv6.to_string()).unwrap_or_default(),
        ports: address.map(|address| address.ports.clone()).unwrap_or_default(),
        next_start_at: next_start(volatile).filter(|_| waits).map(timestamp),
        image_digest: observed
            .sandbox
            .as_ref()
            .map(|sandbox| sandbox.image_digest.clone())
            .unwrap_or_default(),
        fabric: fabric.map(|state| state.to_wire()),
    }
}

/// Runs after the first. Ends are what is kept, and a run that goes on will make one more.
fn restarts(observed: &Observed, volatile: &Volatile, record: &Record) -> u32 {
    let goes_on = observed.task().is_some_and(|task| match &task.state {
        TaskState::Created => false,
        TaskState::Running | TaskState::Paused => true,
        TaskState::Exited(exit) => {
            let is_recorded = volatile.recorded.as_ref().is_some_and(|kept| kept.at == exit.at);
            volatile.never_ran != Some(task.pid) && !is_recorded
        }
    });
    (record.ends + u32::from(goes_on)).saturating_sub(1)
}

fn phase(desired: &Desired, observed: &Observed, volatile: &Volatile, record: &Record) -> (Phase, String) {
    let failure = volatile.failure.as_ref().map(|failure| failure.message.clone());
    let live = observed.task().is_some_and(|task| !matches!(task.state, TaskState::Exited(_)));
    match desired.state {
        DesiredState::Deleted => {
            (Phase::Deleting, failure.unwrap_or_else(|| "an operator deletes it".into()))
        }
        DesiredState::Running => wanted(desired, observed, volatile, record),
        _ if live => (Phase::Stopping, failure.unwrap_or_else(|| "an operator stops it".into())),
        _ => (Phase::Stopped, failure.unwrap_or_else(|| "an operator stopped it".into())),
    }
}

fn wanted(desired: &Desired, observed: &Observed, volatile: &Volatile, record: &Record) -> (Phase, String) {
    let current = observed.sandbox.as_ref().filter(|sandbox| sandbox.spec_hash == desired.spec_hash);
    let hold = || volatile.hold.as_deref().unwrap_or_default().to_owned();
    let task = current.and_then(|sandbox| sandbox.task.as_ref()).filter(|task| task.is_up());
    if let Some(Task { pid, state }) = task {
        let stopping = volatile.stopping.is_some_and(|stopping| stopping.pid == *pid);
        return if *state == TaskState::Paused {
            (Phase::Paused, hold())
        } else if stopping {
            (Phase::Stopping, "it is stopped to be started anew".into())
        } else {
            (Phase::Running, unready(desired, record))
        };
    }
    let ended = || record.last_exit.as_ref().map_or_else(|| "it ended".into(), describe);
    match &volatile.failure {
        Some(failure) if failure.retry_at.is_none() => return (Phase::Failed, failure.message.clone()),
        Some(failure) => return (Phase::BackOff, failure.message.clone()),
        None if plan::ends_here(desired, volatile) => {
            let success = volatile.ended == Some(plan::End::Success);
            return (if success { Phase::Completed } else { Phase::Failed }, ended());
        }
        None => {}
    }
    match volatile.next_start.filter(|at| *at > Instant::now()) {
        Some(_) if record.quick_ends >= CRASH_LOOP_ENDS => {
            (Phase::CrashLoop, format!("{}, {} times in a row", ended(), record.quick_ends))
        }
        Some(_) => (Phase::BackOff, ended()),
        None => (record.doing.unwrap_or(Phase::Pending), hold()),
    }
}

/// Why it runs and is not ready; empty where it is.
fn unready(desired: &Desired, record: &Record) -> String {
    match &record.answer {
        Answer { ready: true, .. } => String::new(),
        _ if desired.spec.readiness.is_none() => String::new(),
        Answer { why, .. } if why.is_empty() => "its readiness was not probed yet".into(),
        Answer { why, .. } => format!("its readiness probe fails: {why}"),
    }
}

fn next_start(volatile: &Volatile) -> Option<SystemTime> {
    let failure = volatile.failure.as_ref().and_then(|failure| failure.retry_at);
    let at = failure.or(volatile.next_start)?;
    let wait = at.checked_duration_since(Instant::now())?;
    // Whole seconds: a status that moves by microseconds would look like news each time.
    let millis = (SystemTime::now() + wait).duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis();
    Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(((millis + 500) / 1000) as u64))
}

/// How a run ended, in the API's words.
pub(super) fn exit_status(exit: &Exit) -> v1::ExitStatus {
    let signal = exit.code.checked_sub(128).and_then(|number| i32::try_from(number).ok());
    let signal = signal.and_then(|number| nix::sys::signal::Signal::try_from(number).ok());
    v1::ExitStatus {
        code: exit.code,
        signal: signal.map(|signal| signal.as_str().to_owned()).unwrap_or_default(),
        oom_killed: exit.oom_killed,
        at: Some(timestamp(exit.at)),
        lost: false,
        quick_ends: 0,
    }
}

/// The other way: what an earlier agent recorded is not recorded again.
pub(super) fn recorded_exit(ended: &v1::ExitStatus) -> Option<Exit> {
    let at = system_time(ended.at.as_ref()?);
    Some(Exit { code: ended.code, oom_killed: ended.oom_killed, at })
}

/// One clause: `it ended with exit code 3`.
pub(super) fn describe(exit: &v1::ExitStatus) -> String {
    if exit.lost {
        return "it was lost: its host or its engine went down, and nobody saw how it ended".into();
    }
    match (exit.oom_killed, exit.signal.as_str()) {
        (true, _) => "it was killed by the kernel for using more memory than its limit (OOM)".into(),
        (false, "") => format!("it ended with exit code {}", exit.code),
        (false, signal) => format!("it was ended by {signal} (exit code {})", exit.code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_names_its_code_signal_or_oom() {
        let exit =
            |code, oom_killed| describe(&exit_status(&Exit { code, oom_killed, at: SystemTime::UNIX_EPOCH }));
        assert_eq!(exit(3, false), "it ended with exit code 3");
        assert_eq!(exit(137, false), "it was ended by SIGKILL (exit code 137)");
        assert!(exit(137, true).contains("OOM"));
        assert_eq!(exit(255, false), "it ended with exit code 255");
    }
}
