//! A runtime and images that live in memory, programmable, for tests.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use capsule_proto::Name;
use tokio::sync::broadcast;

use super::needs::{ImageSource, NeedError, NeedKind};
use crate::{
    image::ImageInfo,
    runtime::{
        ExecProcess, ExecSpec, Exit, Runtime, RuntimeError, RuntimeEvent, Sandbox, Setup, Task, TaskState,
        Whom,
    },
};

/// Far above any real PID, so that nothing is found below /proc.
const FIRST_PID: u32 = 900_000_000;

#[derive(Default)]
struct World {
    sandboxes: BTreeMap<Name, Sandbox>,
    next_pid: u32,
    /// Errors of the calls to come, by the name of the call.
    failures: BTreeMap<&'static str, VecDeque<RuntimeError>>,
    /// Exit code and delay of every task that starts; none runs on.
    exits: Option<(u32, Duration)>,
    ignores_term: bool,
    pub calls: Vec<&'static str>,
}

pub(super) struct FakeRuntime {
    world: Mutex<World>,
    events: Mutex<broadcast::Sender<RuntimeEvent>>,
    this: std::sync::Weak<Self>,
}

impl FakeRuntime {
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            world: Mutex::default(),
            events: Mutex::new(broadcast::channel(64).0),
            this: this.clone(),
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn fail_next(&self, call: &'static str, error: RuntimeError) {
        self.world().failures.entry(call).or_default().push_back(error);
    }

    pub fn exit_with(&self, exits: Option<(u32, Duration)>) {
        self.world().exits = exits;
    }

    pub fn ignore_term(&self) {
        self.world().ignores_term = true;
    }

    pub fn calls(&self, call: &str) -> usize {
        self.world().calls.iter().filter(|made| **made == call).count()
    }

    pub fn pid(&self, name: &str) -> Option<u32> {
        Some(self.world().sandboxes.get(&name.parse().unwrap())?.task.as_ref()?.pid)
    }

    /// As if somebody else had made it.
    pub fn plant(&self, name: &str) {
        let name: Name = name.parse().unwrap();
        let sandbox =
            Sandbox { name: name.clone(), spec_hash: String::new(), image_digest: String::new(), task: None };
        self.world().sandboxes.insert(name, sandbox);
    }

    /// An agent that is replaced must hear of nothing any more.
    pub fn forget_listeners(&self) {
        *self.events.lock().unwrap() = broadcast::channel(64).0;
    }

    /// As after the host went down: sandboxes are there, what ran in them is not.
    pub fn lose_tasks(&self) {
        self.world().sandboxes.values_mut().for_each(|sandbox| sandbox.task = None);
    }

    pub fn end(&self, name: &Name, pid: u32, code: u32) {
        let exit = Exit { code, oom_killed: false, at: SystemTime::now() };
        if let Some(task) = self.world().sandboxes.get_mut(name).and_then(|sandbox| sandbox.task.as_mut())
            && task.pid == pid
        {
            task.state = TaskState::Exited(exit);
        }
        let _ = self.events.lock().unwrap().send(RuntimeEvent::Exited { name: name.clone(), pid });
    }

    fn turn(&self, call: &'static str, name: &Name, state: TaskState) -> Result<(), RuntimeError> {
        let mut world = self.enter(call)?;
        let task = world.sandboxes.get_mut(name).and_then(|sandbox| sandbox.task.as_mut());
        task.ok_or_else(|| missing(name))?.state = state;
        Ok(())
    }

    fn enter(&self, call: &'static str) -> Result<MutexGuard<'_, World>, RuntimeError> {
        let mut world = self.world();
        world.calls.push(call);
        match world.failures.get_mut(call).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(world),
        }
    }
}

fn missing(name: &Name) -> RuntimeError {
    RuntimeError::NotFound(name.clone(), "task")
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn list(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        Ok(self.enter("list")?.sandboxes.values().cloned().collect())
    }

    async fn get(&self, name: &Name) -> Result<Option<Sandbox>, RuntimeError> {
        Ok(self.enter("get")?.sandboxes.get(name).cloned())
    }

    async fn create(&self, setup: &Setup) -> Result<(), RuntimeError> {
        let mut world = self.enter("create")?;
        let made = Sandbox {
            name: setup.name.clone(),
            spec_hash: setup.spec_hash.clone(),
            image_digest: setup.image.digest.clone(),
            task: None,
        };
        match world.sandboxes.get(&setup.name) {
            Some(other) if other.spec_hash != made.spec_hash => {
                Err(RuntimeError::Invalid("another one".into()))
            }
            Some(_) => Ok(()),
            None => {
                world.sandboxes.insert(setup.name.clone(), made);
                Ok(())
            }
        }
    }

    async fn prepare_task(&self, name: &Name, _log_dir: &Path) -> Result<u32, RuntimeError> {
        let mut world = self.enter("prepare_task")?;
        world.next_pid += 1;
        let pid = FIRST_PID + world.next_pid;
        let sandbox = world.sandboxes.get_mut(name).ok_or_else(|| missing(name))?;
        assert!(sandbox.task.is_none(), "two tasks in one sandbox");
        sandbox.task = Some(Task { pid, state: TaskState::Created });
        Ok(pid)
    }

    async fn start_task(&self, name: &Name) -> Result<(), RuntimeError> {
        let mut world = self.enter("start_task")?;
        let exits = world.exits;
        let task =
            world.sandboxes.get_mut(name).and_then(|s| s.task.as_mut()).ok_or_else(|| missing(name))?;
        task.state = TaskState::Running;
        if let (Some((code, after)), Some(this)) = (exits, self.this.upgrade()) {
            let (name, pid) = (name.clone(), task.pid);
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                this.end(&name, pid, code);
            });
        }
        Ok(())
    }

    async fn signal(&self, name: &Name, signal: i32, _whom: Whom) -> Result<(), RuntimeError> {
        let (ignored, pid) = {
            let world = self.enter("signal")?;
            let task =
                world.sandboxes.get(name).and_then(|s| s.task.as_ref()).ok_or_else(|| missing(name))?;
            (world.ignores_term && signal != libc::SIGKILL, task.pid)
        };
        if !ignored {
            self.end(name, pid, 128 + signal as u32);
        }
        Ok(())
    }

    async fn pause(&self, name: &Name) -> Result<(), RuntimeError> {
        self.turn("pause", name, TaskState::Paused)
    }

    async fn resume(&self, name: &Name) -> Result<(), RuntimeError> {
        self.turn("resume", name, TaskState::Running)
    }

    async fn delete_task(&self, name: &Name) -> Result<Option<Exit>, RuntimeError> {
        let mut world = self.enter("delete_task")?;
        let Some(sandbox) = world.sandboxes.get_mut(name) else { return Ok(None) };
        match sandbox.task.take() {
            Some(Task { state: TaskState::Exited(exit), .. }) => Ok(Some(exit)),
            None => Ok(None),
            other => {
                sandbox.task = other;
                Err(RuntimeError::Engine { attempt: "deleting".into(), message: "it runs".into() })
            }
        }
    }

    async fn remove(&self, name: &Name) -> Result<(), RuntimeError> {
        let mut world = self.enter("remove")?;
        assert!(world.sandboxes.get(name).is_none_or(|sandbox| sandbox.task.is_none()), "a task was left");
        world.sandboxes.remove(name);
        Ok(())
    }

    async fn exec(&self, name: &Name, _spec: ExecSpec) -> Result<Box<dyn ExecProcess>, RuntimeError> {
        Err(missing(name))
    }

    async fn mount_rootfs(&self, name: &Name, _target: &Path) -> Result<(), RuntimeError> {
        Err(missing(name))
    }

    fn subscribe(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.lock().unwrap().subscribe()
    }

    async fn version(&self) -> Result<String, RuntimeError> {
        Ok("fake".into())
    }
}

/// The one image that cannot be pulled.
pub(super) const NO_IMAGE: &str = "none:1";

/// Has every other image.
pub(super) struct FakeImages;

#[async_trait]
impl ImageSource for FakeImages {
    fn parse(&self, reference: &str) -> Result<String, NeedError> {
        Ok(reference.to_owned())
    }

    async fn get(&self, reference: &str) -> Result<Option<ImageInfo>, NeedError> {
        Ok(self.ensure(reference).await.ok())
    }

    async fn ensure(&self, reference: &str) -> Result<ImageInfo, NeedError> {
        if reference == NO_IMAGE {
            return Err(NeedError { kind: NeedKind::Failed, message: "nobody has it".into() });
        }
        Ok(ImageInfo {
            reference: reference.to_owned(),
            digest: "sha256:0".into(),
            config: oci_spec::image::ImageConfiguration::default(),
            chain_id: "sha256:0".into(),
        })
    }
}
