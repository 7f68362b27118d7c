//! The actors of this capsule: started from the rows, poked by the runtime's events, swept.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use capsule_proto::Name;
use tokio::sync::{Semaphore, broadcast::error::RecvError, watch};

use super::{
    WorkloadError,
    actor::Actor,
    backoff,
    handle::Handle,
    needs::{ImageSource, NetworkSource, VolumeSource},
    plan::{Link, Observed, Volatile},
    spec::{self, Desired},
    status::{self, Readiness, Record},
    table::{self, Kept},
};
use crate::{
    event::{Events, NewEvent},
    image::ImageUsers,
    network::{FabricState, FabricStates},
    runtime::{self, RuntimeEvent, Sandbox, SharedRuntime},
    store::{Store, StoreError},
    sys::file,
    volume::Hold,
};

/// Pulls at once.
const PULLS: usize = 3;
/// Workloads between `create` and `start` at once: more than this only makes each one slower
/// on two cores.
const STARTS: usize = 4;
/// Between two looks at everything, ±10 %: catches what events missed.
const SWEEP: Duration = Duration::from_mins(1);
/// Between tries to reach the runtime when the agent starts.
const RUNTIME_RETRY: Duration = Duration::from_millis(500);

/// What workloads are made with.
pub struct WorkloadParts {
    /// Where rows are kept.
    pub store: Store,
    /// Where events go.
    pub events: Events,
    /// What runs them.
    pub runtime: SharedRuntime,
    /// What they are made from.
    pub images: Arc<dyn ImageSource>,
    /// The bridge; without one, only host and no network at all.
    pub network: Option<Arc<dyn NetworkSource>>,
    /// Block storage, where this capsule has it.
    pub volumes: Option<Arc<dyn VolumeSource>>,
    /// Holds `logs/` and `tmp/`.
    pub state_dir: PathBuf,
}

/// The same with what the actors share.
pub(super) struct Parts {
    pub store: Store,
    pub events: Events,
    pub runtime: SharedRuntime,
    pub images: Arc<dyn ImageSource>,
    pub network: Option<Arc<dyn NetworkSource>>,
    pub volumes: Option<Arc<dyn VolumeSource>>,
    /// What the volumes say of who writes to them.
    hold: Option<watch::Receiver<Hold>>,
    pub state_dir: PathBuf,
    pub pulls: Semaphore,
    pub starts: Arc<Semaphore>,
    revision: AtomicU64,
}

impl Parts {
    pub fn log_dir(&self, name: &Name) -> PathBuf {
        self.state_dir.join("logs").join(name.as_str())
    }

    /// Removes logs and files of name resolution of workloads that are not to be kept.
    pub fn retain_files(&self, keep: impl Fn(&str) -> bool) {
        file::retain_dirs(&self.state_dir.join("logs"), &keep);
        if let Some(network) = &self.network {
            network.retain_files(&keep);
        }
    }

    /// Puts in force what a commit changed of the fabric. What could not be is tried again by the
    /// network, which tells why.
    pub async fn refresh_fabric(&self) {
        if let Some(network) = &self.network
            && let Err(error) = network.refresh().await
        {
            tracing::warn!(%error, "places and policies in the fabric are not in force yet");
        }
    }

    /// A workload's part in the fabric as it is, where it is to have one.
    pub fn fabric_state(&self, desired: &Desired) -> Option<FabricState> {
        desired.spec.fabric.as_ref()?;
        let states = self.network.as_ref()?.fabric_states();
        let state = states.borrow().get(&desired.name).cloned();
        Some(state.unwrap_or_default())
    }

    /// Why a workload must not run on now, if it writes to volumes.
    pub fn hold(&self, desired: &Desired) -> Hold {
        let writes = desired.spec.mounts.iter().any(|mount| !mount.read_only);
        self.hold.as_ref().filter(|_| writes)?.borrow().clone()
    }

    pub fn tmp_dir(&self) -> PathBuf {
        self.state_dir.join("tmp")
    }

    /// Taken inside a write: the order of commits.
    pub fn next_revision(&self) -> u64 {
        self.revision.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn need_volumes(&self) -> Result<&dyn VolumeSource, WorkloadError> {
        let missing = || WorkloadError::Invalid("this capsule has no volumes".into());
        self.volumes.as_deref().ok_or_else(missing)
    }
}

/// Name to handle; the lock is never held across an await.
#[derive(Default)]
pub(super) struct Registry(Mutex<BTreeMap<Name, Arc<Handle>>>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Handle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, name: &Name) -> Option<Arc<Handle>> {
        self.lock().get(name).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Handle>> {
        self.lock().values().cloned().collect()
    }

    /// Called by the actor once the row is gone. `false` where a newer one is wanted by now.
    pub fn forget(&self, handle: &Arc<Handle>, revision: u64) -> bool {
        let mut map = self.lock();
        if handle.desired().revision != revision {
            return false;
        }
        map.remove(&handle.name);
        handle.publish_deleted();
        true
    }
}

/// All workloads of this capsule; cheap to clone.
#[derive(Clone)]
pub struct Workloads {
    pub(super) parts: Arc<Parts>,
    pub(super) registry: Arc<Registry>,
}

impl Workloads {
    /// Takes over what runs, removes what nobody wants, starts the actors.
    pub async fn start(parts: WorkloadParts) -> Result<Self, WorkloadError> {
        let WorkloadParts { store, events, runtime, images, network, volumes, state_dir } = parts;
        let hold = volumes.as_ref().map(|volumes| volumes.hold());
        let parts = Arc::new(Parts {
            hold,
            store,
            events,
            runtime,
            images,
            network,
            volumes,
            state_dir,
            pulls: Semaphore::new(PULLS),
            starts: Arc::new(Semaphore::new(STARTS)),
            revision: AtomicU64::new(0),
        });
        let all = Self { parts, registry: Arc::default() };
        super::copy::clean_up(&all.parts.tmp_dir());
        // Before the first look, so that nothing falls between the two.
        let runtime_events = all.parts.runtime.subscribe();
        let rows = all.parts.store.read(table::all).await?;
        // An agent may have died between forgetting a workload and removing its files.
        all.parts.retain_files(|name| rows.iter().any(|row| row.name.as_str() == name));
        let sandboxes = all.sandboxes().await;
        all.remove_orphans(&rows, &sandboxes).await;
        all.restore_links(&rows, &sandboxes).await;
        for kept in rows {
            all.adopt(kept, &sandboxes).await?;
        }
        tokio::spawn(listen(Arc::downgrade(&all.registry), runtime_events));
        tokio::spawn(sweep(Arc::downgrade(&all.registry)));
        if let Some(network) = &all.parts.network {
            tokio::spawn(watch_fabric(Arc::downgrade(&all.registry), network.fabric_states()));
        }
        if let Some(hold) = all.parts.hold.clone() {
            tokio::spawn(watch_hold(Arc::downgrade(&all.registry), hold));
        }
        Ok(all)
    }

    /// All but debug shells, which `debug/` looks after.
    async fn sandboxes(&self) -> Vec<Sandbox> {
        loop {
            match self.parts.runtime.list().await {
                Ok(mut sandboxes) => {
                    sandboxes.retain(|sandbox| !sandbox.name.is_debug_shell());
                    return sandboxes;
                }
                Err(error) => tracing::warn!(%error, "waiting for the runtime"),
            }
            tokio::time::sleep(RUNTIME_RETRY).await;
        }
    }

    /// Sandboxes without a row: their deletion was committed, or they were never ours to keep.
    async fn remove_orphans(&self, rows: &[Kept], sandboxes: &[Sandbox]) {
        let known: HashSet<&Name> = rows.iter().map(|row| &row.name).collect();
        for orphan in sandboxes.iter().filter(|sandbox| !known.contains(&sandbox.name)) {
            let event =
                NewEvent::new("workload", &orphan.name, "OrphanRemoved", "no workload of that name is known");
            self.parts.events.emit(event.warning());
            if let Err(error) = self.remove_orphan(orphan).await {
                tracing::error!(workload = %orphan.name, %error, "an orphan stays");
            }
        }
    }

    async fn remove_orphan(&self, orphan: &Sandbox) -> Result<(), WorkloadError> {
        let (runtime, name) = (&self.parts.runtime, &orphan.name);
        runtime::end_task(&**runtime, orphan).await?;
        if let Some(network) = &self.parts.network {
            network.detach(name).await?;
        }
        if let Some(volumes) = &self.parts.volumes {
            volumes.unmount_all_of(name).await?;
        }
        Ok(runtime.remove(name).await?)
    }

    /// Tells network and volumes who runs; what they find unused they undo.
    async fn restore_links(&self, rows: &[Kept], sandboxes: &[Sandbox]) {
        let running: Vec<(Name, u32)> = sandboxes
            .iter()
            .filter_map(|sandbox| match &sandbox.task {
                Some(task) if task.is_up() => Some((sandbox.name.clone(), task.pid)),
                _ => None,
            })
            .collect();
        let mounts = |name: &Name| {
            let row = rows.iter().find(|row| row.name == *name);
            row.and_then(|row| spec::container(&row.manifest)).map(spec::volumes).unwrap_or_default()
        };
        let using: Vec<(Name, Vec<Name>)> =
            running.iter().map(|(name, _)| (name.clone(), mounts(name))).collect();
        if let Some(network) = &self.parts.network
            && let Err(error) = network.restore(&running).await
        {
            tracing::error!(%error, "the network of running workloads was not restored");
        }
        if let Some(volumes) = &self.parts.volumes
            && let Err(error) = volumes.restore(&using).await
        {
            tracing::error!(%error, "the volumes of running workloads were not restored");
        }
    }

    async fn adopt(&self, kept: Kept, sandboxes: &[Sandbox]) -> Result<(), WorkloadError> {
        let (parts, name) = (self.parts.clone(), kept.name.clone());
        let address = self
            .parts
            .store
            .read(move |db| match &parts.network {
                Some(network) => Ok::<_, WorkloadError>(network.reservation(db, &name)?),
                None => Ok(None),
            })
            .await?;
        let sandbox = sandboxes.iter().find(|sandbox| sandbox.name == kept.name).cloned();
        let record = Record {
            ends: kept.ends,
            quick_ends: kept.last_exit.as_ref().map_or(0, |exit| exit.quick_ends),
            last_exit: kept.last_exit.clone(),
            begun: kept.begun,
            told: self.told(&kept, sandbox.as_ref()).await?,
            ..Record::default()
        };
        let desired = Desired::of(&kept, address, self.parts.next_revision());
        self.spawn(desired, record, Observed { sandbox, ..Observed::default() });
        Ok(())
    }

    /// What an earlier agent told of the readiness of the run that goes on.
    async fn told(
        &self,
        kept: &Kept,
        sandbox: Option<&Sandbox>,
    ) -> Result<Option<(u32, Readiness)>, WorkloadError> {
        let task = sandbox.and_then(|sandbox| sandbox.task.as_ref());
        let is_probed = spec::container(&kept.manifest).is_some_and(|spec| spec.readiness.is_some());
        let Some(task) = task.filter(|task| is_probed && task.is_up()) else {
            return Ok(None);
        };
        let filter = capsule_proto::v1::ListEventsRequest {
            subject_kind: "workload".into(),
            subject: kept.name.to_string(),
            ..Default::default()
        };
        let events = self.parts.events.kept(filter).await?;
        let told = events.iter().rev().find_map(|event| match event.reason.as_str() {
            "Ready" => Some(Some(Readiness::Ready)),
            "NotReady" => Some(Some(Readiness::NotReady)),
            "Started" => Some(None),
            _ => None,
        });
        Ok(told.flatten().map(|found| (task.pid, found)))
    }

    /// Hands a committed change to its actor, or makes one.
    pub(super) fn set(&self, desired: Desired) -> Arc<Handle> {
        let map = self.registry.lock();
        if let Some(handle) = map.get(&desired.name) {
            handle.set_desired(desired);
            handle.poke();
            return handle.clone();
        }
        drop(map);
        // Nothing of a new workload is connected to anything yet.
        let observed = Observed { sandbox: None, network: Link::Down, volumes: Link::Down };
        self.spawn(desired, Record::default(), observed)
    }

    fn spawn(&self, desired: Desired, record: Record, observed: Observed) -> Arc<Handle> {
        let fabric = self.parts.fabric_state(&desired);
        let first = status::compose(&desired, &observed, &Volatile::default(), &record, fabric);
        let mut map = self.registry.lock();
        let handle = Handle::new(desired, first);
        if let Some(other) = map.insert(handle.name.clone(), handle.clone()) {
            // Two applies made it at once; the later commit stands.
            let newer = if other.desired().revision > handle.desired().revision { &other } else { &handle };
            other.set_desired((*newer.desired()).clone());
            map.insert(other.name.clone(), other.clone());
            other.poke();
            return other;
        }
        drop(map);
        let (parts, registry) = (self.parts.clone(), self.registry.clone());
        tokio::spawn(Actor::new(parts, registry, handle.clone(), record, observed).run());
        handle
    }

    /// One by name.
    pub(super) fn handle(&self, name: &str) -> Result<Arc<Handle>, WorkloadError> {
        let name: Name = name.parse()?;
        self.registry.get(&name).ok_or(WorkloadError::NotFound(name))
    }

    /// One of them, as last published.
    pub fn find(&self, name: &Name) -> Option<Arc<capsule_proto::v1::Workload>> {
        self.registry.get(name)?.workload()
    }

    /// What they are called.
    pub fn names(&self) -> Vec<Name> {
        self.registry.all().iter().map(|handle| handle.name.clone()).collect()
    }

    /// How many there are, and how many of them run.
    pub fn count(&self) -> (u32, u32) {
        let all = self.registry.all();
        let runs = |handle: &&Arc<Handle>| {
            let workload = handle.workload();
            let status = workload.as_ref().and_then(|workload| workload.status.as_ref());
            status.is_some_and(|status| status.phase() == capsule_proto::v1::Phase::Running)
        };
        (all.len() as u32, all.iter().filter(runs).count() as u32)
    }

    /// Where temporary mounts of this capability are made.
    pub fn tmp_dir(state_dir: &Path) -> PathBuf {
        state_dir.join("tmp")
    }
}

#[async_trait]
impl ImageUsers for Workloads {
    async fn images_in_use(&self) -> Result<Vec<(String, Name)>, StoreError> {
        let normal = |handle: &Arc<Handle>| {
            let image = handle.desired().spec.image.clone();
            let reference = self.parts.images.parse(&image).unwrap_or(image);
            (reference, handle.name.clone())
        };
        Ok(self.registry.all().iter().map(normal).collect())
    }
}

/// Whose part in the fabric changed shows it.
async fn watch_fabric(registry: WeakRegistry, mut states: watch::Receiver<Arc<FabricStates>>) {
    let mut shown = states.borrow_and_update().clone();
    while states.changed().await.is_ok() {
        let Some(registry) = registry.upgrade() else { return };
        let now = states.borrow_and_update().clone();
        let is_other = |name: &&Name| now.get(*name) != shown.get(*name);
        let others: Vec<Name> = now.keys().chain(shown.keys()).filter(is_other).cloned().collect();
        others.iter().filter_map(|name| registry.get(name)).for_each(|handle| handle.poke());
        shown = now;
    }
}

/// Whoever writes to volumes stands still or goes on.
async fn watch_hold(registry: WeakRegistry, mut hold: watch::Receiver<Hold>) {
    while hold.changed().await.is_ok() {
        let Some(registry) = registry.upgrade() else { return };
        registry.all().iter().for_each(|handle| handle.poke());
    }
}

type WeakRegistry = std::sync::Weak<Registry>;

async fn listen(registry: WeakRegistry, mut events: tokio::sync::broadcast::Receiver<RuntimeEvent>) {
    loop {
        let event = events.recv().await;
        let Some(registry) = registry.upgrade() else { return };
        match event {
            Ok(RuntimeEvent::Exited { name, .. }) => {
                if let Some(handle) = registry.get(&name) {
                    handle.poke_look();
                }
            }
            Ok(RuntimeEvent::Reconnected) | Err(RecvError::Lagged(_)) => {
                registry.all().iter().for_each(|handle| handle.poke_look());
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn sweep(registry: WeakRegistry) {
    loop {
        tokio::time::sleep(backoff::jittered(SWEEP)).await;
        let Some(registry) = registry.upgrade() else { return };
        registry.all().iter().for_each(|handle| handle.poke_look());
    }
}
