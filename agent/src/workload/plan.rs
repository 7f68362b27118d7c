//! What to do next for one workload: a pure function of what is wanted, what there is, and what
//! the actor remembers.
//!
//! ```text
//!   run:   Pull ▶ Mount ▶ Create ▶ Prepare ▶ Attach ▶ Start
//!   stand: Signal ▶ (grace) ▶ Kill ▶ Record ▶ DeleteTask ▶ Detach ▶ Unmount
//!   gone:  stand ▶ Remove ▶ Forget
//! ```
//!
//! What is held (volumes have no room) is not started, and what runs of it is paused, until it is held no
//! more; to be stopped it goes on, so that it can end.
//!
//! A changed spec is `stand ▶ Remove ▶ run`, with the new image pulled first, so that an image
//! that cannot be pulled costs the running workload nothing.

#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use capsule_proto::v1::{DesiredState, NetworkMode, RestartPolicy};

use super::spec::Desired;
use crate::runtime::{Exit, Sandbox, Task, TaskState};

/// After SIGKILL: how long until the runtime is asked, should its event be lost.
const RECHECK: Duration = Duration::from_secs(2);

/// One thing to do, small enough to be repeated after a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Pull,
    Mount,
    Create,
    Prepare,
    Attach { pid: u32 },
    Start { pid: u32 },
    Pause { pid: u32 },
    Resume { pid: u32 },
    Signal { pid: u32 },
    Kill { pid: u32 },
    Record(Exit),
    DeleteTask,
    Detach,
    Unmount,
    Remove,
    Forget,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Next {
    Do(Step),
    /// Nothing until this time, or until something happens.
    WaitUntil(Instant),
    /// Nothing until something happens.
    Idle,
}

/// What there is outside the agent's memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Observed {
    pub sandbox: Option<Sandbox>,
    pub network: Link,
    pub volumes: Link,
}

/// Whether something outside the runtime is connected to the workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    /// The agent has just started; undoing is safe, relying on it is not.
    #[default]
    Unknown,
    Down,
    /// To the task of this PID (0 for volumes, which belong to no task).
    Up(u32),
}

/// What only the actor's memory holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Volatile {
    /// Whether the image of the desired spec is at hand.
    pub image_ready: bool,
    /// A stop in progress: which task, since when, and whether SIGKILL went out.
    pub stopping: Option<Stopping>,
    /// Exit that was already recorded.
    pub recorded: Option<Exit>,
    /// The task that an operator's `restart` is about.
    pub restart_due: Option<u32>,
    /// A prepared task that `Start` did not reach: its end is not the workload's.
    pub never_ran: Option<u32>,
    /// How the last run that counts ended.
    pub ended: Option<End>,
    /// Not before.
    pub next_start: Option<Instant>,
    /// A step failed.
    pub failure: Option<Failure>,
    /// A removal went through, and no making was tried since.
    pub cleared: bool,
    /// Why it must not run on now.
    pub hold: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopping {
    pub pid: u32,
    pub since: Instant,
    pub killed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Success,
    Failure,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    pub message: String,
    /// `None`: only another spec or an operator helps.
    pub retry_at: Option<Instant>,
}

/// What to do next.
pub(super) fn next(desired: &Desired, observed: &Observed, volatile: &Volatile, now: Instant) -> Next {
    let failed = volatile.failure.as_ref();
    if let Some(at) = failed.and_then(|failure| failure.retry_at).filter(|at| *at > now) {
        return Next::WaitUntil(at);
    }
    let given_up = failed.is_some_and(|failure| failure.retry_at.is_none());
    match desired.state {
        // An older run that could not be replaced goes on.
        DesiredState::Running if given_up && observed.runs() => {
            observed.task().map_or(Next::Idle, |task| let_run(volatile, task))
        }
        DesiredState::Running if given_up => idle(desired, observed, volatile, now),
        DesiredState::Running => run(desired, observed, volatile, now),
        DesiredState::Deleted => be_gone(desired, observed, volatile, now),
        _ => idle(desired, observed, volatile, now),
    }
}

fn run(desired: &Desired, observed: &Observed, volatile: &Volatile, now: Instant) -> Next {
    let Some(sandbox) = &observed.sandbox else {
        return match () {
            () if ends_here(desired, volatile) => idle(desired, observed, volatile, now),
            () if !volatile.image_ready => Next::Do(Step::Pull),
            () if volatile.hold.is_some() => idle(desired, observed, volatile, now),
            () if needs_mount(desired, observed) => Next::Do(Step::Mount),
            () => Next::Do(Step::Create),
        };
    };
    if sandbox.spec_hash != desired.spec_hash {
        if volatile.image_ready {
            return clear_away(desired, observed, volatile, now).unwrap_or(Next::Do(Step::Remove));
        }
        let is_stopping = |task: &Task| volatile.stopping.is_some_and(|stopping| stopping.pid == task.pid);
        let stays = sandbox.task.as_ref().filter(|task| !is_stopping(task));
        // For as long as the next one's image is not there, this one runs or stands still as any other.
        return match stays.map(|task| let_run(volatile, task)) {
            Some(next @ Next::Do(_)) => next,
            _ => Next::Do(Step::Pull),
        };
    }
    match &sandbox.task {
        None if ends_here(desired, volatile) || volatile.hold.is_some() => {
            idle(desired, observed, volatile, now)
        }
        None => match volatile.next_start.filter(|at| *at > now) {
            Some(at) if observed.network == Link::Down => Next::WaitUntil(at),
            // A wire whose task has ended leads nowhere.
            _ if observed.network != Link::Down && uses_bridge(desired) => Next::Do(Step::Detach),
            Some(at) => Next::WaitUntil(at),
            None if needs_mount(desired, observed) => Next::Do(Step::Mount),
            None => Next::Do(Step::Prepare),
        },
        Some(task) => drive(desired, observed, volatile, task, now),
    }
}

/// A task of the right sandbox, wanted running.
fn drive(desired: &Desired, observed: &Observed, volatile: &Volatile, task: &Task, now: Instant) -> Next {
    if let Some(next) = keep_stopping(desired, volatile, task, now) {
        return next;
    }
    match &task.state {
        TaskState::Created if uses_bridge(desired) && observed.network != Link::Up(task.pid) => {
            Next::Do(Step::Attach { pid: task.pid })
        }
        TaskState::Created if volatile.hold.is_some() => Next::Idle,
        TaskState::Created => Next::Do(Step::Start { pid: task.pid }),
        TaskState::Running | TaskState::Paused if volatile.restart_due == Some(task.pid) => {
            Next::Do(Step::Signal { pid: task.pid })
        }
        TaskState::Running | TaskState::Paused => let_run(volatile, task),
        TaskState::Exited(exit) => bury(desired, volatile, task, exit),
    }
}

/// A task that is up and is to stay so.
fn let_run(volatile: &Volatile, task: &Task) -> Next {
    let pid = task.pid;
    match (&task.state, &volatile.hold) {
        (TaskState::Running, Some(_)) => Next::Do(Step::Pause { pid }),
        (TaskState::Paused, None) => Next::Do(Step::Resume { pid }),
        _ => Next::Idle,
    }
}

/// No task, no wire, no mounts; `None` when it is so.
fn stand_still(desired: &Desired, observed: &Observed, volatile: &Volatile, now: Instant) -> Option<Next> {
    let task = observed.sandbox.as_ref().and_then(|sandbox| sandbox.task.as_ref());
    if let Some(task) = task {
        if let Some(next) = keep_stopping(desired, volatile, task, now) {
            return Some(next);
        }
        return Some(match &task.state {
            TaskState::Running | TaskState::Paused => Next::Do(Step::Signal { pid: task.pid }),
            TaskState::Created => Next::Do(Step::Kill { pid: task.pid }),
            TaskState::Exited(exit) => bury(desired, volatile, task, exit),
        });
    }
    if observed.network != Link::Down {
        return Some(Next::Do(Step::Detach));
    }
    (observed.volumes != Link::Down).then_some(Next::Do(Step::Unmount))
}

/// The same for a sandbox that makes room for another: how it ends is nobody's concern.
fn clear_away(desired: &Desired, observed: &Observed, volatile: &Volatile, now: Instant) -> Option<Next> {
    match stand_still(desired, observed, volatile, now) {
        Some(Next::Do(Step::Record(_))) => Some(Next::Do(Step::DeleteTask)),
        next => next,
    }
}

fn be_gone(desired: &Desired, observed: &Observed, volatile: &Volatile, now: Instant) -> Next {
    match clear_away(desired, observed, volatile, now) {
        Some(next) => next,
        None if volatile.cleared && observed.sandbox.is_none() => Next::Do(Step::Forget),
        // Also without a sandbox: one whose making or removal was cut short may have left a layer.
        None => Next::Do(Step::Remove),
    }
}

/// A stop that has begun is finished, whatever is wanted by now: the signal is out.
fn keep_stopping(desired: &Desired, volatile: &Volatile, task: &Task, now: Instant) -> Option<Next> {
    let stopping = volatile.stopping.filter(|stopping| stopping.pid == task.pid)?;
    if matches!(task.state, TaskState::Exited(_)) {
        return None;
    }
    let deadline = stopping.since + desired.grace();
    Some(match () {
        () if stopping.killed => Next::WaitUntil(now + RECHECK),
        () if now >= deadline => Next::Do(Step::Kill { pid: task.pid }),
        // It cannot hear its signal otherwise.
        () if task.state == TaskState::Paused => Next::Do(Step::Resume { pid: task.pid }),
        () => Next::WaitUntil(deadline),
    })
}

/// First the evidence is kept, then the task goes. The end of a task that never ran, or that the
/// agent stopped (or was to stop) in order to start it anew, says nothing about the workload.
fn bury(desired: &Desired, volatile: &Volatile, task: &Task, exit: &Exit) -> Next {
    let to_restart =
        desired.wants_run() && volatile.stopping.is_some_and(|stopping| stopping.pid == task.pid);
    let stale = desired.wants_run() && volatile.restart_due == Some(task.pid);
    let counts = volatile.never_ran != Some(task.pid) && !to_restart && !stale;
    if counts && volatile.recorded.as_ref().map(|kept| kept.at) != Some(exit.at) {
        Next::Do(Step::Record(exit.clone()))
    } else {
        Next::Do(Step::DeleteTask)
    }
}

fn idle(desired: &Desired, observed: &Observed, volatile: &Volatile, now: Instant) -> Next {
    stand_still(desired, observed, volatile, now).unwrap_or(Next::Idle)
}

/// Whether a second run needs an operator, however the first one ended.
pub(super) fn runs_once(desired: &Desired) -> bool {
    desired.spec.restart_policy() == RestartPolicy::Never
}

/// Whether the policy says that the last end was the last.
pub(super) fn ends_here(desired: &Desired, volatile: &Volatile) -> bool {
    match (desired.spec.restart_policy(), volatile.ended) {
        (RestartPolicy::Never, Some(_)) => true,
        (RestartPolicy::OnFailure, Some(end)) => end == End::Success,
        _ => false,
    }
}

pub(super) fn uses_bridge(desired: &Desired) -> bool {
    matches!(desired.spec.network_mode(), NetworkMode::Bridge | NetworkMode::Unspecified)
        && desired.address.is_some()
}

fn needs_mount(desired: &Desired, observed: &Observed) -> bool {
    !desired.spec.mounts.is_empty() && !matches!(observed.volumes, Link::Up(_))
}

/// The steps to `desired` if each one works, for people to read. Waiting is taken as over.
pub(super) fn preview(desired: &Desired, mut observed: Observed, mut volatile: Volatile) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut now = Instant::now();
    // Far more than any path has: a plan that went in circles would end here.
    while steps.len() < 32 {
        match next(desired, &observed, &volatile, now) {
            Next::Do(step) => {
                observed.expect(desired, &mut volatile, &step, now);
                steps.push(step);
            }
            Next::WaitUntil(at) => now = at,
            Next::Idle => return steps,
        }
        if steps.last() == Some(&Step::Forget) {
            return steps;
        }
    }
    steps
}

impl Observed {
    /// What there is after `step` went well, as far as it is known without looking.
    pub fn expect(&mut self, desired: &Desired, volatile: &mut Volatile, step: &Step, now: Instant) {
        match step {
            Step::Pull => volatile.image_ready = true,
            Step::Mount => self.volumes = Link::Up(0),
            Step::Unmount => self.volumes = Link::Down,
            Step::Create => {
                volatile.cleared = false;
                self.sandbox = Some(Sandbox {
                    name: desired.name.clone(),
                    spec_hash: desired.spec_hash.clone(),
                    image_digest: String::new(),
                    task: None,
                });
            }
            Step::Prepare => self.set_task(Some(Task { pid: 0, state: TaskState::Created })),
            Step::Attach { pid } => self.network = Link::Up(*pid),
            Step::Start { pid } | Step::Resume { pid } => {
                self.set_task(Some(Task { pid: *pid, state: TaskState::Running }));
            }
            Step::Pause { pid } => self.set_task(Some(Task { pid: *pid, state: TaskState::Paused })),
            Step::Signal { pid } => {
                // What a preview takes for granted: the process obeys.
                volatile.stopping = Some(Stopping { pid: *pid, since: now, killed: false });
                self.exit_now(*pid);
            }
            Step::Kill { pid } => self.exit_now(*pid),
            Step::Record(exit) => volatile.recorded = Some(exit.clone()),
            Step::DeleteTask => self.set_task(None),
            Step::Detach => self.network = Link::Down,
            Step::Remove => {
                self.sandbox = None;
                volatile.cleared = true;
            }
            Step::Forget => {}
        }
    }

    fn exit_now(&mut self, pid: u32) {
        let exit = Exit { code: 0, oom_killed: false, at: std::time::SystemTime::now() };
        self.set_task(Some(Task { pid, state: TaskState::Exited(exit) }));
    }

    pub fn set_task(&mut self, task: Option<Task>) {
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.task = task;
        }
    }

    pub fn runs(&self) -> bool {
        self.task().is_some_and(Task::is_up)
    }

    pub fn task(&self) -> Option<&Task> {
        self.sandbox.as_ref()?.task.as_ref()
    }
}

impl Step {
    /// One line for `diff` and `apply --dry-run`.
    pub fn describe(&self, desired: &Desired) -> String {
        let name = &desired.name;
        match self {
            Self::Pull => format!("make sure of image {}", desired.spec.image),
            Self::Mount => format!("mount the volumes of {name}"),
            Self::Create => format!("create the sandbox of {name}"),
            Self::Prepare => format!("prepare the task of {name}"),
            Self::Attach { .. } => format!("connect {name} to the bridge"),
            Self::Start { .. } => format!("start {name}"),
            Self::Pause { pid } => format!("pause PID {pid} of {name}"),
            Self::Resume { pid } => format!("let PID {pid} of {name} go on"),
            Self::Signal { pid } => {
                format!("ask PID {pid} of {name} to end, for {} s", desired.grace().as_secs())
            }
            Self::Kill { pid } => format!("kill PID {pid} of {name}"),
            Self::Record(_) => format!("record how {name} ended"),
            Self::DeleteTask => format!("delete the ended task of {name}"),
            Self::Detach => format!("disconnect {name} from the bridge"),
            Self::Unmount => format!("unmount the volumes of {name}"),
            Self::Remove => format!("remove the sandbox of {name} with its writable layer"),
            Self::Forget => format!("forget {name}"),
        }
    }
}
