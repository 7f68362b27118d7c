//! One task per workload: look, plan, do one step, look again.

mod steps;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use capsule_proto::{Name, system_time, v1};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    WorkloadError,
    backoff::Backoff,
    handle::Handle,
    plan::{self, End, Failure, Link, Next, Observed, Step, Volatile},
    probe::{Answer, Probe},
    procfs,
    registry::{Parts, Registry},
    spec::Desired,
    status::{self, CRASH_LOOP_ENDS, Readiness, Record},
};
use crate::{
    event::NewEvent,
    image::ImageInfo,
    runtime::{Exit, TaskState},
};

/// Waits between starts of a workload that ends, and between tries of a step that fails.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_mins(1);
/// A run that lasted this long was no crash: counting and back-off begin anew.
const STEADY: Duration = Duration::from_secs(10);
/// What the runtime says of a task that is gone without a word.
const VANISHED: u32 = 255;

pub(super) struct Actor {
    parts: Arc<Parts>,
    registry: Arc<Registry>,
    handle: Arc<Handle>,
    desired: Arc<Desired>,
    observed: Observed,
    volatile: Volatile,
    record: Record,
    starts: Backoff,
    retries: Backoff,
    image: Option<ImageInfo>,
    mounts: BTreeMap<Name, PathBuf>,
    probe: Option<Probe>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Actor {
    /// `record` and `observed` as known: from the row after a start of the agent, else empty.
    pub fn new(
        parts: Arc<Parts>,
        registry: Arc<Registry>,
        handle: Arc<Handle>,
        record: Record,
        observed: Observed,
    ) -> Self {
        let desired = handle.desired();
        // A wait that an earlier agent began goes on where it was.
        let mut starts = Backoff::new(MIN_BACKOFF, MAX_BACKOFF).after(record.quick_ends.saturating_sub(1));
        let volatile = Volatile {
            next_start: record.last_exit.as_ref().and_then(|exit| due_after(exit, starts.next_wait())),
            ended: record.last_exit.as_ref().map(end_of),
            recorded: record.last_exit.as_ref().and_then(status::recorded_exit),
            restart_due: observed.task().filter(|_| desired.restart > record.begun).map(|task| task.pid),
            ..Volatile::default()
        };
        Self {
            parts,
            registry,
            handle,
            desired,
            observed,
            volatile,
            record,
            starts,
            retries: Backoff::new(MIN_BACKOFF, MAX_BACKOFF),
            image: None,
            mounts: BTreeMap::new(),
            probe: None,
            permit: None,
        }
    }

    /// Until the workload is forgotten.
    pub async fn run(mut self) {
        if self.lost_its_only_run()
            && let Err(error) = self.keep_lost().await
        {
            tracing::warn!(workload = %self.handle.name, %error, "how its run ended was not recorded");
        }
        loop {
            self.take_desired();
            if self.handle.take_look()
                && let Err(error) = self.look().await
            {
                tracing::warn!(workload = %self.handle.name, %error, "the runtime could not be asked");
                self.handle.look_soon();
                self.sleep(Some(Instant::now() + MIN_BACKOFF)).await;
                continue;
            }
            self.volatile.hold = self.parts.hold(&self.desired);
            self.watch_readiness();
            match plan::next(&self.desired, &self.observed, &self.volatile, Instant::now()) {
                Next::Do(Step::Forget) => match self.forget().await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => self.failed(&Step::Forget, &error),
                },
                Next::Do(step) => self.act(step).await,
                Next::WaitUntil(at) => self.rest(Some(at)).await,
                Next::Idle => self.rest(None).await,
            }
        }
    }

    async fn act(&mut self, step: Step) {
        self.enter(&step);
        tracing::debug!(workload = %self.handle.name, ?step, "step");
        match self.execute(&step).await {
            Ok(()) => {
                // Tidying up after a step that cannot work does not make it work.
                self.volatile.failure.take_if(|failure| failure.retry_at.is_some());
                if matches!(step, Step::Start { .. }) {
                    self.retries.reset();
                }
            }
            Err(error) => self.failed(&step, &error),
        }
    }

    /// Publishes what is about to be done where it shows.
    fn enter(&mut self, step: &Step) {
        let doing = match step {
            Step::Mount | Step::Create | Step::Prepare | Step::Attach { .. } | Step::Start { .. } => {
                Some(v1::Phase::Starting)
            }
            _ => self.record.doing,
        };
        if doing != self.record.doing {
            self.record.doing = doing;
            self.publish();
        }
    }

    async fn rest(&mut self, until: Option<Instant>) {
        self.record.doing = None;
        self.permit = None;
        self.publish();
        let due = self.sleep(until).await;
        if due && self.volatile.stopping.is_some() {
            self.handle.look_soon();
        }
    }

    /// Until poked or, with `true`, until it is time.
    async fn sleep(&self, until: Option<Instant>) -> bool {
        let Some(until) = until else {
            self.handle.poked().await;
            return false;
        };
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => true,
            () = self.handle.poked() => false,
        }
    }

    fn publish(&self) {
        let fabric = self.parts.fabric_state(&self.desired);
        let status = status::compose(&self.desired, &self.observed, &self.volatile, &self.record, fabric);
        self.handle.publish(self.desired.revision, status);
    }

    /// Lets go of what a changed wish makes void.
    fn take_desired(&mut self) {
        let new = self.handle.desired();
        if new.revision == self.desired.revision {
            return;
        }
        let old = std::mem::replace(&mut self.desired, new);
        self.volatile.failure = None;
        self.retries.reset();
        if old.spec.image != self.desired.spec.image || old.nudge != self.desired.nudge {
            self.image = None;
            self.volatile.image_ready = false;
        }
        if old.epoch != self.desired.epoch {
            self.volatile.ended = None;
            self.volatile.next_start = None;
            self.starts.reset();
            let Record { started_at, told, begun, .. } = self.record;
            self.record = Record { started_at, told, begun, ..Record::default() };
        }
        if old.restart != self.desired.restart {
            self.volatile.restart_due = self.observed.task().map(|task| task.pid);
        }
        if old.spec.readiness != self.desired.spec.readiness {
            self.probe = None;
        }
    }

    /// Asks the runtime what there is.
    async fn look(&mut self) -> Result<(), WorkloadError> {
        let found = self.parts.runtime.get(&self.handle.name).await.inspect_err(|_| {
            self.handle.look_soon();
        })?;
        let before = self.observed.task().filter(|task| task.is_up()).cloned();
        self.observed.sandbox = found;
        match self.observed.task().cloned() {
            Some(task) => self.recognise(task.pid, &task.state),
            None => {
                if let Some(before) = before
                    && self.volatile.stopping.is_none_or(|stopping| stopping.pid != before.pid)
                {
                    self.keep_lost().await?;
                }
            }
        }
        Ok(())
    }

    fn recognise(&mut self, pid: u32, state: &TaskState) {
        match state {
            TaskState::Created => self.volatile.never_ran = Some(pid),
            TaskState::Running | TaskState::Paused => {
                self.volatile.never_ran = None;
                // What runs was wired and mounted before it was started.
                if self.observed.network == Link::Unknown {
                    self.observed.network = Link::Up(pid);
                }
                if self.observed.volumes == Link::Unknown {
                    self.observed.volumes = Link::Up(0);
                }
                if self.record.started_at.is_none() {
                    self.record.started_at = procfs::started_at(pid);
                }
            }
            TaskState::Exited(_) => {}
        }
    }

    /// Probes exactly while the desired run is up.
    fn watch_readiness(&mut self) {
        let current = self.observed.sandbox.as_ref().is_some_and(|s| s.spec_hash == self.desired.spec_hash);
        let pid = self.observed.task().filter(|task| task.state == TaskState::Running).map(|task| task.pid);
        let stays = |pid: &u32| self.volatile.stopping.is_none_or(|stopping| stopping.pid != *pid);
        let pid = pid.filter(|pid| current && self.desired.wants_run() && stays(pid));
        let (Some(pid), Some(readiness)) = (pid, &self.desired.spec.readiness) else {
            self.probe = None;
            self.record.answer = Answer::default();
            return;
        };
        if self.probe.as_ref().is_none_or(|probe| probe.pid() != pid) {
            self.probe = Some(Probe::start(&self.parts, &self.handle, &self.desired, readiness, pid));
        }
        let answer = self.probe.as_ref().map(Probe::answer).unwrap_or_default();
        self.tell_readiness(pid, &answer);
        self.record.answer = answer;
    }

    /// Once a run, until it changes: whoever probes anew (another agent, an older spec that is wanted
    /// again) finds what is known already.
    fn tell_readiness(&mut self, pid: u32, answer: &Answer) {
        let found = match answer {
            Answer { ready: true, .. } => Readiness::Ready,
            Answer { failing: true, .. } => Readiness::NotReady,
            _ => return,
        };
        if self.record.told.replace((pid, found)) == Some((pid, found)) {
            return;
        }
        match found {
            Readiness::Ready => self.tell("Ready", "its readiness probe succeeds"),
            Readiness::NotReady => {
                self.warn("NotReady", format!("its readiness probe fails: {}", answer.why));
            }
        }
    }

    fn failed(&mut self, step: &Step, error: &WorkloadError) {
        let told = crate::status::chain(error);
        let message = match error {
            // All others say themselves what was attempted.
            WorkloadError::Store(_) => format!("cannot {}: {told}", step.describe(&self.desired)),
            _ => told,
        };
        let retry_at = error.is_retryable().then(|| Instant::now() + self.retries.next_wait());
        let reason = if retry_at.is_some() { "BackOff" } else { "Failed" };
        let event = NewEvent::new("workload", &self.handle.name, reason, message.clone());
        self.parts.events.emit(if retry_at.is_some() { event.warning() } else { event.error() });
        self.volatile.failure = Some(Failure { message, retry_at });
        self.permit = None;
        // What the step left behind is not known.
        self.handle.look_soon();
    }

    /// Whether the run that was to be the only one began under an earlier agent and nothing of it
    /// is left: the host or the engine went down.
    fn lost_its_only_run(&self) -> bool {
        let Desired { epoch, restart, .. } = *self.desired;
        plan::runs_once(&self.desired)
            && self.desired.wants_run()
            && self.record.begun == epoch
            && restart <= self.record.begun
            && self.volatile.ended.is_none()
            && self.observed.task().is_none()
    }

    /// A run ended and nobody saw how.
    async fn keep_lost(&mut self) -> Result<(), WorkloadError> {
        let exit = Exit { code: VANISHED, oom_killed: false, at: SystemTime::now() };
        let ended = v1::ExitStatus { lost: true, ..status::exit_status(&exit) };
        self.keep_ended(&exit, ended).await
    }

    /// A run ended by itself or by an operator.
    async fn keep_exit(&mut self, exit: &Exit) -> Result<(), WorkloadError> {
        self.keep_ended(exit, status::exit_status(exit)).await
    }

    /// Commits how a run ended, and decides when the next begins.
    async fn keep_ended(&mut self, exit: &Exit, ended: v1::ExitStatus) -> Result<(), WorkloadError> {
        let quick_ends = if self.was_steady(exit) { 0 } else { self.record.quick_ends + 1 };
        let ended = v1::ExitStatus { quick_ends, ..ended };
        let end = end_of(&ended);
        let ends = self.record.ends + 1;
        let (name, epoch, kept) = (self.handle.name.clone(), self.desired.epoch, ended.clone());
        self.parts.store.write(move |tx| super::table::record(tx, &name, epoch, ends, &kept)).await?;
        self.record.ends = ends;
        self.record.quick_ends = quick_ends;
        self.record.last_exit = Some(ended.clone());
        self.volatile.recorded = Some(exit.clone());
        let text = status::describe(&ended);
        match end {
            End::Success => self.tell("Exited", text.clone()),
            End::Failure if ended.lost => self.warn("Lost", text.clone()),
            End::Failure => self.warn("Exited", text.clone()),
        }
        if self.desired.wants_run() {
            self.volatile.ended = Some(end);
            self.decide_next_start(&text);
        }
        Ok(())
    }

    fn was_steady(&self, exit: &Exit) -> bool {
        let lasted = self.record.started_at.and_then(|began| exit.at.duration_since(began).ok());
        lasted.is_some_and(|lasted| lasted >= STEADY)
    }

    fn decide_next_start(&mut self, text: &str) {
        if self.record.quick_ends == 0 {
            self.starts.reset();
        }
        if plan::ends_here(&self.desired, &self.volatile) {
            return;
        }
        let wait = self.starts.next_wait();
        self.volatile.next_start = Some(Instant::now() + wait);
        let loops = self.record.quick_ends >= CRASH_LOOP_ENDS;
        let reason = if loops { "CrashLoop" } else { "BackOff" };
        self.warn(reason, format!("{text}; starts again in {:.0} s", wait.as_secs_f64()));
    }

    /// Removes the row, and with it address, ports and claims. `false` where it was applied
    /// again in the meantime.
    async fn forget(&mut self) -> Result<bool, WorkloadError> {
        let (parts, name) = (self.parts.clone(), self.handle.name.clone());
        self.parts
            .store
            .write(move |tx| {
                super::table::delete(tx, &name)?;
                if let Some(network) = &parts.network {
                    network.release(tx, &name)?;
                }
                if let Some(volumes) = &parts.volumes {
                    volumes.unclaim(tx, &name)?;
                }
                Ok::<_, WorkloadError>(())
            })
            .await?;
        self.parts.refresh_fabric().await;
        self.parts.retain_files(|name| name != self.handle.name.as_str());
        self.tell("Deleted", "it is gone");
        let gone = self.registry.forget(&self.handle, self.desired.revision);
        if !gone {
            self.record = Record::default();
            self.volatile = Volatile::default();
        }
        Ok(gone)
    }

    fn tell(&self, reason: &'static str, text: impl Into<String>) {
        self.parts.events.emit(NewEvent::new("workload", &self.handle.name, reason, text));
    }

    fn warn(&self, reason: &'static str, text: impl Into<String>) {
        self.parts.events.emit(NewEvent::new("workload", &self.handle.name, reason, text).warning());
    }
}

/// When `wait` after an end is over; `None` where it is over already.
fn due_after(exit: &v1::ExitStatus, wait: Duration) -> Option<Instant> {
    let ended = system_time(exit.at.as_ref()?);
    let since = SystemTime::now().duration_since(ended).unwrap_or_default();
    wait.checked_sub(since).filter(|left| !left.is_zero()).map(|left| Instant::now() + left)
}

fn end_of(exit: &v1::ExitStatus) -> End {
    if exit.code == 0 && !exit.oom_killed { End::Success } else { End::Failure }
}
