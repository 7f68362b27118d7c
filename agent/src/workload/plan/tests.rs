use std::time::{Duration, Instant, SystemTime};

use capsule_proto::v1;
use proptest::prelude::*;

use super::*;

fn desired() -> Desired {
    let at = SystemTime::UNIX_EPOCH;
    Desired {
        name: "web".parse().unwrap(),
        manifest: v1::Manifest::default(),
        spec: v1::ContainerSpec {
            image: "busybox".into(),
            mounts: vec![v1::Mount {
                volume_name: "data".into(),
                mount_path: "/data".into(),
                read_only: false,
            }],
            ..Default::default()
        },
        spec_hash: "hash-0".into(),
        state: DesiredState::Running,
        generation: 1,
        created_at: at,
        updated_at: at,
        stop_grace: None,
        address: Some(crate::workload::needs::Address {
            ipv4: std::net::Ipv4Addr::LOCALHOST,
            ipv6: std::net::Ipv6Addr::LOCALHOST,
            ports: Vec::new(),
        }),
        revision: 1,
        epoch: 0,
        restart: 0,
        nudge: 0,
    }
}

/// What can happen to a workload between two looks.
#[derive(Clone, Debug)]
enum Happening {
    Step,
    StepFails,
    StepDoneButForgotten,
    AgentDies,
    ProcessEnds,
    Respec(u8),
    Hold(bool),
    Want(DesiredState),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        10 => Just(Happening::Step),
        2 => Just(Happening::StepFails),
        1 => Just(Happening::StepDoneButForgotten),
        2 => Just(Happening::AgentDies),
        2 => Just(Happening::ProcessEnds),
        1 => (0..3u8).prop_map(Happening::Respec),
        1 => any::<bool>().prop_map(Happening::Hold),
        1 => Just(Happening::Want(DesiredState::Stopped)),
        2 => Just(Happening::Want(DesiredState::Running)),
    ]
}

struct World {
    desired: Desired,
    observed: Observed,
    volatile: Volatile,
    now: Instant,
    pids: u32,
    /// What is outside the agent, which learns of it at each look.
    hold: bool,
}

impl World {
    fn new() -> Self {
        let (observed, volatile) = (Observed::default(), Volatile::default());
        Self { desired: desired(), observed, volatile, now: Instant::now(), pids: 0, hold: false }
    }

    fn happen(&mut self, what: &Happening) {
        match what {
            Happening::Step => drop(self.step()),
            Happening::StepFails => {
                let retry_at = Some(self.now + Duration::from_secs(1));
                self.volatile.failure = Some(Failure { message: "no".into(), retry_at });
            }
            Happening::StepDoneButForgotten => {
                self.step();
                self.agent_dies();
            }
            Happening::AgentDies => self.agent_dies(),
            Happening::ProcessEnds => {
                if let Some(task) = self.observed.task().filter(|task| task.is_up()).cloned() {
                    self.observed.exit_now(task.pid);
                }
            }
            Happening::Respec(number) => self.desired.spec_hash = format!("hash-{number}"),
            Happening::Hold(hold) => self.hold = *hold,
            Happening::Want(state) => self.desired.state = *state,
        }
    }

    fn agent_dies(&mut self) {
        self.volatile = Volatile::default();
        let live = if self.observed.runs() { Link::Up(self.pids) } else { Link::Unknown };
        (self.observed.network, self.observed.volumes) = (live, live);
    }

    /// Does what the plan says and checks that it may be done; `None` when there is nothing.
    fn step(&mut self) -> Option<Step> {
        self.volatile.hold = self.hold.then(|| "there is no room".into());
        match next(&self.desired, &self.observed, &self.volatile, self.now) {
            Next::WaitUntil(at) => {
                self.now = at;
                Some(Step::Pull)
            }
            Next::Idle => None,
            Next::Do(step) => {
                self.check(&step);
                self.observed.expect(&self.desired, &mut self.volatile, &step, self.now);
                self.volatile.failure = None;
                if step == Step::Prepare {
                    self.pids += 1;
                    self.observed.set_task(Some(Task { pid: self.pids, state: TaskState::Created }));
                    self.volatile.stopping = None;
                }
                Some(step)
            }
        }
    }

    fn check(&self, step: &Step) {
        let sandbox = self.observed.sandbox.as_ref();
        let task = self.observed.task();
        let allowed = match step {
            Step::Create => {
                sandbox.is_none() && self.volatile.image_ready && self.observed.volumes == Link::Up(0)
            }
            Step::Prepare => task.is_none() && sandbox.is_some_and(|s| s.spec_hash == self.desired.spec_hash),
            Step::Attach { pid } | Step::Kill { pid } | Step::Signal { pid } => {
                task.is_some_and(|task| task.pid == *pid)
            }
            Step::Start { pid } => !self.hold && self.observed.network == Link::Up(*pid),
            Step::Pause { pid } => self.hold && task == Some(&Task { pid: *pid, state: TaskState::Running }),
            Step::Resume { pid } => task == Some(&Task { pid: *pid, state: TaskState::Paused }),
            Step::DeleteTask => task.is_some_and(|task| matches!(task.state, TaskState::Exited(_))),
            Step::Detach | Step::Unmount => task.is_none(),
            Step::Remove => task.is_none() && self.observed.network == Link::Down,
            Step::Forget => sandbox.is_none() && self.volatile.cleared,
            Step::Pull | Step::Mount | Step::Record(_) => true,
        };
        assert!(allowed, "{step:?} with {:?}", self.observed);
    }

    /// Steps until nothing is left; how many that took is bounded.
    fn settle(&mut self) -> Option<Step> {
        let mut last = None;
        for _ in 0..64 {
            match self.step() {
                None => return last,
                Some(Step::Forget) => return Some(Step::Forget),
                step => last = step,
            }
        }
        panic!("it never settles: {:?}", self.observed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_plan_leads_to_what_is_wanted(history in prop::collection::vec(happening(), 0..60)) {
        let mut world = World::new();
        history.iter().for_each(|what| world.happen(what));

        world.desired.state = DesiredState::Running;
        world.hold = true;
        world.settle();
        prop_assert!(world.observed.task().is_none_or(|task| task.state != TaskState::Running));

        world.hold = false;
        world.settle();
        prop_assert!(world.observed.task().is_some_and(|task| task.state == TaskState::Running));
        let hash = world.observed.sandbox.as_ref().map(|sandbox| sandbox.spec_hash.clone());
        prop_assert_eq!(hash, Some(world.desired.spec_hash.clone()));

        world.desired.state = DesiredState::Stopped;
        world.settle();
        prop_assert!(world.observed.task().is_none());
        prop_assert_eq!((world.observed.network, world.observed.volumes), (Link::Down, Link::Down));

        world.desired.state = DesiredState::Deleted;
        prop_assert_eq!(world.settle(), Some(Step::Forget));
        prop_assert!(world.observed.sandbox.is_none());
    }
}

#[test]
fn a_deleted_workload_without_a_sandbox_is_still_cleared_of_a_layer_that_may_be_left() {
    let mut world = World::new();
    world.desired.state = DesiredState::Deleted;
    world.observed = Observed { sandbox: None, network: Link::Down, volumes: Link::Down };
    assert_eq!(world.step(), Some(Step::Remove));
    assert_eq!(world.step(), Some(Step::Forget));
}

#[test]
fn what_is_paused_goes_on_to_hear_that_it_is_to_end() {
    let mut world = World::new();
    world.settle();
    world.hold = true;
    assert_eq!(world.step(), Some(Step::Pause { pid: 1 }));
    assert_eq!(world.step(), None);
    world.agent_dies();
    assert_eq!(world.step(), None, "another agent leaves it as it is");
    world.desired.state = DesiredState::Stopped;
    assert!(matches!(
        next(&world.desired, &world.observed, &world.volatile, world.now),
        Next::Do(Step::Signal { pid: 1 })
    ));
    world.volatile.stopping = Some(Stopping { pid: 1, since: world.now, killed: false });
    assert_eq!(world.step(), Some(Step::Resume { pid: 1 }));
    assert!(matches!(next(&world.desired, &world.observed, &world.volatile, world.now), Next::WaitUntil(_)));
}

#[test]
fn what_runs_until_the_next_image_is_there_stands_still_and_goes_on_as_any_other() {
    let mut world = World::new();
    world.settle();
    world.desired.spec_hash = "hash-1".into();
    world.volatile.image_ready = false;
    let step = |world: &World| next(&world.desired, &world.observed, &world.volatile, world.now);
    assert_eq!(step(&world), Next::Do(Step::Pull));
    world.volatile.hold = Some("there is no room".into());
    assert_eq!(step(&world), Next::Do(Step::Pause { pid: 1 }));
    world.observed.sandbox.as_mut().unwrap().task.as_mut().unwrap().state = TaskState::Paused;
    assert_eq!(step(&world), Next::Do(Step::Pull));
    world.volatile.hold = None;
    assert_eq!(step(&world), Next::Do(Step::Resume { pid: 1 }));
}

#[test]
fn what_does_not_go_on_is_killed_once_its_grace_is_over() {
    let mut world = World::new();
    world.settle();
    world.hold = true;
    world.step();
    world.desired.state = DesiredState::Stopped;
    world.volatile.stopping = Some(Stopping { pid: 1, since: world.now, killed: false });
    let late = world.now + world.desired.grace();
    let after = next(&world.desired, &world.observed, &world.volatile, late);
    assert_eq!(after, Next::Do(Step::Kill { pid: 1 }));
}

#[test]
fn a_preview_of_a_new_workload_is_the_whole_way_to_its_start() {
    let observed = Observed { sandbox: None, network: Link::Down, volumes: Link::Down };
    let steps = preview(&desired(), observed, Volatile::default());
    let expected = [
        Step::Pull,
        Step::Mount,
        Step::Create,
        Step::Prepare,
        Step::Attach { pid: 0 },
        Step::Start { pid: 0 },
    ];
    assert_eq!(steps, expected);
}
