//! Actors over a runtime in memory.

use std::{path::Path, sync::Arc, time::Duration};

use capsule_proto::v1::{self, Phase, WaitCondition, manifest::Spec};
use tokio::sync::mpsc;

use super::{
    WorkloadError, WorkloadParts, Workloads,
    fake::{FakeImages, FakeRuntime, NO_IMAGE},
    table,
};
use crate::{
    event::{Events, NewEvent},
    runtime::RuntimeError,
    store::Store,
};

struct Bench {
    all: Workloads,
    runtime: Arc<FakeRuntime>,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = FakeRuntime::new();
        Self { all: start(dir.path(), &runtime).await, runtime, dir }
    }

    /// A new agent over the same state and the same runtime.
    async fn restart_agent(&mut self) {
        self.runtime.forget_listeners();
        self.all = start(self.dir.path(), &self.runtime).await;
    }

    async fn apply(&self, manifest: v1::Manifest) -> v1::ApplyAction {
        let request = v1::ApplyRequest { manifests: vec![manifest], ..Default::default() };
        self.all.apply(request).await.unwrap().results[0].action()
    }

    async fn wait(&self, name: &str, condition: WaitCondition) -> Result<(), WorkloadError> {
        let request = v1::WaitWorkloadRequest {
            name: name.into(),
            condition: condition as i32,
            timeout: Some(pbjson_types::Duration { seconds: 20, nanos: 0 }),
        };
        let (to, mut from) = mpsc::channel(64);
        tokio::spawn(async move { while from.recv().await.is_some() {} });
        self.all.wait(request, &to).await
    }

    /// How many events of this reason there are so far.
    async fn told(&self, reason: &str) -> usize {
        let events = &self.all.parts.events;
        let mut live = events.subscribe();
        // Events are kept in order: with this one, all before it are.
        events.emit(NewEvent::new("node", "", "Asked", ""));
        while live.recv().await.unwrap().reason != "Asked" {}
        let kept = events.kept(v1::ListEventsRequest::default()).await.unwrap();
        kept.iter().filter(|event| event.reason == reason).count()
    }

    async fn running(&self, name: &str) -> u32 {
        self.wait(name, WaitCondition::Running).await.unwrap();
        self.status(name).pid
    }

    fn status(&self, name: &str) -> v1::WorkloadStatus {
        self.all.handle(name).unwrap().workload().unwrap().status.clone().unwrap()
    }

    async fn until(&self, name: &str, phase: Phase) {
        self.until_status(name, |status| status.phase() == phase).await;
    }

    async fn until_pid(&self, name: &str, is: impl Fn(u32) -> bool) {
        self.until_status(name, |status| is(status.pid)).await;
    }

    async fn until_status(&self, name: &str, is: impl Fn(&v1::WorkloadStatus) -> bool) {
        let mut views = self.all.handle(name).unwrap().view();
        let reached = async {
            while !is(&self.status(name)) {
                views.changed().await.unwrap();
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
        assert!(reached.is_ok(), "it never was so: {:?}", self.status(name));
    }
}

async fn start(dir: &Path, runtime: &Arc<FakeRuntime>) -> Workloads {
    let store = Store::open(dir).unwrap();
    let events = Events::start(store.clone());
    let parts = WorkloadParts {
        store,
        events,
        runtime: runtime.clone(),
        images: Arc::new(FakeImages),
        network: None,
        volumes: None,
        state_dir: dir.to_owned(),
    };
    Workloads::start(parts).await.unwrap()
}

fn web(args: &str, policy: v1::RestartPolicy) -> v1::Manifest {
    v1::Manifest {
        kind: v1::Kind::Container as i32,
        name: "web".into(),
        spec: Some(Spec::Container(v1::ContainerSpec {
            image: "busybox:1".into(),
            args: vec![args.into()],
            restart_policy: policy as i32,
            stop_grace_seconds: Some(1),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn always(args: &str) -> v1::Manifest {
    web(args, v1::RestartPolicy::Always)
}

#[tokio::test]
async fn an_unchanged_spec_keeps_its_process_and_a_changed_one_gets_another() {
    let bench = Bench::new().await;
    assert_eq!(bench.apply(always("a")).await, v1::ApplyAction::Created);
    let first = bench.running("web").await;
    assert_eq!(bench.apply(always("a")).await, v1::ApplyAction::Unchanged);
    let labelled = v1::Manifest { labels: [("tier".into(), "web".into())].into(), ..always("a") };
    assert_eq!(bench.apply(labelled).await, v1::ApplyAction::Updated);
    assert_eq!(bench.running("web").await, first);
    assert_eq!(bench.apply(always("b")).await, v1::ApplyAction::Recreated);
    assert_ne!(bench.running("web").await, first);
    assert_eq!(bench.all.handle("web").unwrap().desired().generation, 2);
}

#[tokio::test]
async fn a_new_agent_takes_over_what_runs_and_removes_what_nobody_wants() {
    let mut bench = Bench::new().await;
    bench.apply(always("a")).await;
    let pid = bench.running("web").await;
    bench.runtime.plant("orphan");
    bench.restart_agent().await;
    assert_eq!(bench.running("web").await, pid);
    assert_eq!(bench.runtime.calls("start_task"), 1);
    assert_eq!(bench.runtime.calls("remove"), 1);
}

#[tokio::test]
async fn stopped_stays_stopped_across_agents_and_applies_until_it_is_started() {
    let mut bench = Bench::new().await;
    bench.apply(always("a")).await;
    bench.running("web").await;
    bench.all.stop_one("web", None).await.unwrap();
    bench.wait("web", WaitCondition::Stopped).await.unwrap();
    bench.restart_agent().await;
    bench.apply(always("b")).await;
    bench.until("web", Phase::Stopped).await;
    assert_eq!(bench.runtime.pid("web"), None);
    bench.all.start_one("web").await.unwrap();
    bench.running("web").await;
    assert_eq!(bench.status("web").restarts, 0);
}

#[tokio::test]
async fn a_restart_that_was_committed_is_made_by_the_next_agent_once() {
    let mut bench = Bench::new().await;
    bench.apply(always("a")).await;
    let first = bench.running("web").await;
    let asked = bench.all.parts.store.write(|tx| {
        let mut kept = table::get(tx, &"web".parse().unwrap())?.unwrap();
        kept.epoch += 1;
        kept.restart = kept.epoch;
        table::put(tx, &kept)
    });
    asked.await.unwrap();
    bench.restart_agent().await;
    bench.until_pid("web", |pid| pid > first).await;
    let second = bench.status("web").pid;
    bench.restart_agent().await;
    assert_eq!(bench.running("web").await, second);
    assert_eq!(bench.runtime.calls("start_task"), 2);
}

#[tokio::test]
async fn what_the_host_lost_runs_again_unless_it_was_to_run_once() {
    for (policy, phase) in
        [(v1::RestartPolicy::Always, Phase::Running), (v1::RestartPolicy::Never, Phase::Failed)]
    {
        let mut bench = Bench::new().await;
        bench.apply(web("a", policy)).await;
        bench.running("web").await;
        bench.runtime.lose_tasks();
        bench.restart_agent().await;
        bench.until("web", phase).await;
        let lost = bench.status("web").last_exit.is_some_and(|exit| exit.lost);
        assert_eq!(lost, policy == v1::RestartPolicy::Never);
        bench.all.start_one("web").await.unwrap();
        bench.running("web").await;
    }
}

#[tokio::test]
async fn a_process_that_ignores_its_signal_is_killed_after_its_grace() {
    let bench = Bench::new().await;
    bench.runtime.ignore_term();
    bench.apply(always("a")).await;
    bench.running("web").await;
    let began = std::time::Instant::now();
    bench.all.stop_one("web", None).await.unwrap();
    bench.wait("web", WaitCondition::Stopped).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(bench.status("web").last_exit.unwrap().signal, "SIGKILL");
}

#[tokio::test]
async fn restart_gives_a_new_process_of_the_same_spec() {
    let bench = Bench::new().await;
    bench.apply(web("a", v1::RestartPolicy::Never)).await;
    let first = bench.running("web").await;
    bench.all.restart_one("web", None).await.unwrap();
    assert_ne!(bench.running("web").await, first);
    assert_eq!(bench.status("web").restarts, 0);
}

#[tokio::test]
async fn what_keeps_ending_is_a_crash_loop_that_names_its_exit_code() {
    let mut bench = Bench::new().await;
    bench.runtime.exit_with(Some((3, Duration::from_millis(5))));
    bench.apply(always("a")).await;
    bench.until("web", Phase::CrashLoop).await;
    let status = bench.status("web");
    assert!(status.reason.contains("exit code 3"), "{}", status.reason);
    assert_eq!(status.restarts, 2, "three runs are two restarts");

    // Another agent waits on, and counts on.
    let starts = bench.runtime.calls("start_task");
    bench.restart_agent().await;
    bench.until("web", Phase::CrashLoop).await;
    assert_eq!(bench.runtime.calls("start_task"), starts, "the wait was cut short");
    let resumed = bench.status("web");
    assert!(resumed.reason.ends_with("3 times in a row"), "{}", resumed.reason);
    assert_eq!(resumed.restarts, 2);
    // Told in whole seconds of two clocks: one apart may be the same instant.
    let (due, was_due) = (resumed.next_start_at.unwrap().seconds, status.next_start_at.unwrap().seconds);
    assert!((due - was_due).abs() <= 1, "{due} is not {was_due}");
    bench.runtime.exit_with(None);
    bench.all.start_one("web").await.unwrap();
    bench.running("web").await;
}

#[tokio::test]
async fn a_policy_that_does_not_restart_ends_in_completed_or_failed_for_good() {
    let mut bench = Bench::new().await;
    bench.runtime.exit_with(Some((0, Duration::from_millis(5))));
    bench.apply(web("a", v1::RestartPolicy::OnFailure)).await;
    bench.until("web", Phase::Completed).await;
    bench.runtime.exit_with(Some((7, Duration::from_millis(5))));
    bench.apply(web("b", v1::RestartPolicy::Never)).await;
    let refused = bench.wait("web", WaitCondition::Ready).await;
    // Between its start and its end it was ready for a moment, which is as good.
    if let Err(error) = refused {
        assert!(error.to_string().contains("exit code 7"), "{error}");
    }
    bench.until("web", Phase::Failed).await;
    let starts = bench.runtime.calls("start_task");
    bench.restart_agent().await;
    bench.until("web", Phase::Failed).await;
    assert_eq!(bench.runtime.calls("start_task"), starts);
    assert_eq!(bench.status("web").restarts, 0, "it ran once");
}

#[tokio::test]
async fn restarts_are_runs_after_the_first_whoever_ends_them() {
    let mut bench = Bench::new().await;
    bench.apply(always("a")).await;
    let first = bench.running("web").await;
    bench.runtime.end(&"web".parse().unwrap(), first, 0);
    bench.until_pid("web", |pid| pid > first).await;
    assert_eq!(bench.status("web").restarts, 1);
    bench.restart_agent().await;
    bench.running("web").await;
    assert_eq!(bench.status("web").restarts, 1);
    bench.all.stop_one("web", None).await.unwrap();
    bench.wait("web", WaitCondition::Stopped).await.unwrap();
    assert_eq!(bench.status("web").restarts, 1);
    bench.all.start_one("web").await.unwrap();
    bench.running("web").await;
    assert_eq!(bench.status("web").restarts, 0);
}

#[tokio::test]
async fn readiness_is_told_once_a_run_also_by_another_agent_or_an_older_spec() {
    let mut bench = Bench::new().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = u32::from(listener.local_addr().unwrap().port());
    let probed = |image: &str| {
        let mut manifest = always("a");
        if let Some(Spec::Container(spec)) = &mut manifest.spec {
            let probe = v1::readiness::Probe::Tcp(v1::TcpProbe { port });
            spec.image = image.into();
            spec.readiness = Some(v1::Readiness { probe: Some(probe), ..Default::default() });
        }
        manifest
    };
    bench.apply(probed("busybox:1")).await;
    bench.wait("web", WaitCondition::Ready).await.unwrap();
    assert_eq!(bench.told("Ready").await, 1);
    bench.restart_agent().await;
    bench.wait("web", WaitCondition::Ready).await.unwrap();
    assert_eq!(bench.told("Ready").await, 1, "the next agent told it again");
    let first = bench.status("web").pid;

    // The next spec's image does not come: the old run goes on, and is wanted again.
    bench.apply(probed(NO_IMAGE)).await;
    bench.until("web", Phase::BackOff).await;
    bench.apply(probed("busybox:1")).await;
    bench.wait("web", WaitCondition::Ready).await.unwrap();
    assert_eq!(bench.status("web").pid, first);
    bench.all.restart_one("web", None).await.unwrap();
    bench.until_pid("web", |pid| pid > first).await;
    bench.wait("web", WaitCondition::Ready).await.unwrap();
    assert_eq!(bench.told("Ready").await, 2);
}

#[tokio::test]
async fn a_step_that_fails_is_tried_again_and_one_that_cannot_work_is_not() {
    let bench = Bench::new().await;
    let hiccup = RuntimeError::Engine { attempt: "making it".into(), message: "hiccup".into() };
    bench.runtime.fail_next("prepare_task", hiccup);
    bench.apply(always("a")).await;
    bench.running("web").await;
    bench.runtime.fail_next("start_task", RuntimeError::Invalid("no such program".into()));
    bench.apply(always("b")).await;
    bench.until("web", Phase::Failed).await;
    assert!(bench.status("web").reason.contains("no such program"));
    bench.apply(always("b")).await;
    bench.running("web").await;
}

#[tokio::test]
async fn a_deleted_workload_is_gone_and_can_be_applied_anew() {
    let bench = Bench::new().await;
    bench.apply(always("a")).await;
    bench.running("web").await;
    let handle = bench.all.handle("web").unwrap();
    bench.all.delete_one("web").await.unwrap();
    bench.wait("web", WaitCondition::Deleted).await.unwrap();
    assert!(handle.workload().is_none());
    assert_eq!(bench.apply(always("a")).await, v1::ApplyAction::Created);
    bench.running("web").await;
}

#[tokio::test]
async fn what_an_apply_would_do_is_told_step_by_step_and_not_done() {
    let bench = Bench::new().await;
    let request = v1::ApplyRequest { manifests: vec![always("a")], ..Default::default() };
    let result = &bench.all.foretell(request).await.unwrap().results[0];
    assert_eq!(result.action(), v1::ApplyAction::Created);
    assert!(result.steps.iter().any(|step| step == "start web"), "{:?}", result.steps);
    assert!(result.changes.iter().any(|change| change.path == "container.image"));
    assert!(bench.all.handle("web").is_err());
}

#[tokio::test]
async fn prune_deletes_what_carries_the_label_and_is_not_named() {
    let bench = Bench::new().await;
    let labels: std::collections::BTreeMap<_, _> = [("app".to_owned(), "shop".to_owned())].into();
    let old = v1::Manifest { name: "old".into(), labels: labels.clone(), ..always("a") };
    bench.apply(old).await;
    bench.apply(v1::Manifest { name: "other".into(), ..always("a") }).await;
    let request = v1::ApplyRequest {
        manifests: vec![v1::Manifest { labels, ..always("a") }],
        prune_selector: "app=shop".into(),
    };
    let results = bench.all.apply(request).await.unwrap().results;
    assert_eq!(
        results.last().map(|result| (result.name.as_str(), result.action())),
        Some(("old", v1::ApplyAction::Deleted))
    );
    bench.wait("old", WaitCondition::Deleted).await.unwrap();
    assert!(bench.all.handle("other").is_ok());
}

#[tokio::test]
async fn a_micro_vm_and_a_doubled_name_are_refused_and_nothing_changes() {
    let bench = Bench::new().await;
    let vm = v1::Manifest {
        kind: v1::Kind::MicroVm as i32,
        name: "vm".into(),
        spec: Some(Spec::MicroVm(v1::MicroVmSpec { image: "busybox:1".into(), ..Default::default() })),
        ..Default::default()
    };
    for (manifests, says) in [
        (vec![always("a"), vm], "this capsule has no microVM runtime"),
        (vec![always("a"), always("b")], "twice"),
    ] {
        let request = v1::ApplyRequest { manifests, ..Default::default() };
        let error = bench.all.apply(request).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(bench.all.count(), (0, 0));
}
