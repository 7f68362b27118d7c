//! Volumes: block devices with an ext4 file system that workloads mount.
//!
//! ```text
//!   declare ──▶ making ──▶ ready ◀──▶ growing        every arrow can be walked again after a
//!                 │           │          │           kill at any instant: start() does
//!                 └───────────┴──────────┴──▶ deleting ──▶ gone
//! ```
//!
//! - [`store`]: where the blocks are: sparse files behind loop devices, or thin volumes of a pool;
//! - [`pool`]: that pool, watched and kept from running full; [`group`]: the volume group it is in;
//! - `claim.rs`: who may use what, decided inside the caller's transaction;
//! - `mounting.rs`: the mount below `volumes/mnt`, one for all users of a volume;
//! - `lifecycle.rs`: making, growing, deleting; `rpc.rs`: the `Volumes` service.
//!
//! `workload/` and the service call in. One lock a volume orders what they do. The only task is that
//! which watches the pool, where there is one.

mod claim;
mod error;
pub mod group;
mod lifecycle;
mod mounting;
pub mod pool;
pub mod rpc;
pub mod store;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use capsule_proto::{Name, timestamp, v1};
use tokio::sync::watch;

pub use error::VolumeError;
pub use lifecycle::Force;
pub use pool::Hold;

use self::{
    group::Growth,
    pool::Pool,
    store::{BlockStore, FileStore, LvmStore, Unusable},
    table::{Entry, State},
};
use crate::{
    event::{Events, NewEvent},
    store::Store,
    sys::mount,
};

/// The capsule's volumes; cheap to clone.
#[derive(Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    events: Events,
    blocks: Arc<dyn BlockStore>,
    place: Place,
    dir: PathBuf,
    live: Mutex<Live>,
}

/// Where volumes are to be kept.
#[derive(Clone, Copy, Debug)]
pub enum Backing<'a> {
    /// In files below the state directory.
    Files,
    /// In the pool of the volume group on this device; without volumes where that cannot be used.
    Group(&'a Path),
}

/// Where they are.
enum Place {
    Host,
    Pool(Pool),
    /// Nowhere: the pool cannot be used, and why.
    Lost(String),
}

impl Place {
    async fn find(backing: Backing<'_>, dir: &Path, events: &Events) -> Self {
        let Backing::Group(device) = backing else { return Self::Host };
        match Pool::open(device, dir, events.clone()).await {
            Ok(pool) => Self::Pool(pool),
            Err(error) => {
                let why = format!("volumes cannot be used: {}", crate::status::chain(&error));
                events.emit(NewEvent::new("pool", group::POOL, "Unusable", why.clone()).error());
                Self::Lost(why)
            }
        }
    }

    fn store(&self, dir: &Path) -> Arc<dyn BlockStore> {
        match self {
            Self::Host => Arc::new(FileStore::new(dir.to_owned())),
            Self::Pool(pool) => Arc::new(LvmStore::new(pool.clone())),
            Self::Lost(why) => Arc::new(Unusable(why.clone())),
        }
    }
}

/// What only this run of the agent knows.
#[derive(Default)]
struct Live {
    users: BTreeMap<Name, BTreeSet<Name>>,
    errors: HashMap<Name, String>,
    locks: HashMap<Name, Arc<tokio::sync::Mutex<()>>>,
}

impl Volumes {
    /// Opens the volumes; finishes or rolls back what a killed agent left half done. One that cannot be
    /// finished says so in its `error` and in an event.
    pub async fn start(
        state_dir: &Path,
        backing: Backing<'_>,
        store: Store,
        events: Events,
    ) -> Result<Self, VolumeError> {
        let dir = directory(state_dir)?;
        let place = Place::find(backing, &dir, &events).await;
        let volumes = Self::at(dir, place, store, events);
        volumes.resume().await?;
        Ok(volumes)
    }

    /// Only to unmount them, wherever they are: finishes nothing that was begun.
    pub fn at_rest(state_dir: &Path, store: Store, events: Events) -> Result<Self, VolumeError> {
        let place = Place::Lost("the capsule is being stopped".into());
        Ok(Self::at(directory(state_dir)?, place, store, events))
    }

    fn at(dir: PathBuf, place: Place, store: Store, events: Events) -> Self {
        let blocks = place.store(&dir);
        Self { inner: Arc::new(Inner { store, events, blocks, place, dir, live: Mutex::default() }) }
    }

    /// `file` or `lvm`.
    pub fn kind(&self) -> &'static str {
        self.inner.blocks.kind()
    }

    /// The pool, where there is one.
    pub fn pool(&self) -> Option<v1::Pool> {
        match &self.inner.place {
            Place::Host => None,
            Place::Pool(pool) => Some(pool.to_wire()),
            Place::Lost(why) => {
                let state = v1::PoolState::Unusable as i32;
                Some(v1::Pool { state, error: why.clone(), ..Default::default() })
            }
        }
    }

    /// What keeps volumes from being used as they should, with its remedy.
    pub fn warning(&self) -> Option<String> {
        self.inner.blocks.refusal()
    }

    /// Whether workloads that write to volumes are to stand still, now and from now on.
    pub fn hold(&self) -> watch::Receiver<Hold> {
        match &self.inner.place {
            Place::Pool(pool) => pool.hold(),
            Place::Host | Place::Lost(_) => watch::Sender::new(None).subscribe(),
        }
    }

    /// Lets the capsule use all of a disk that became larger. Goes on to its end where nobody waits.
    pub async fn grow_disk(&self) -> Result<Growth, VolumeError> {
        let pool = match &self.inner.place {
            Place::Host => return Err(VolumeError::NoDisk),
            Place::Lost(why) => return Err(VolumeError::PoolUnusable(why.clone())),
            Place::Pool(pool) => pool.clone(),
        };
        let grown = tokio::spawn(async move { pool.grow_disk().await }).await;
        let failed = |panic| VolumeError::Io {
            volume: "group".into(),
            attempt: "grow the",
            source: std::io::Error::other(panic),
        };
        Ok(grown.map_err(failed)??)
    }

    /// How many there are.
    pub async fn count(&self) -> Result<u32, crate::store::StoreError> {
        let count = |db: &rusqlite::Connection| Ok(table::list(db)?.len() as u32);
        self.inner.store.read(count).await
    }

    /// Every volume, by name.
    pub async fn list(&self) -> Result<Vec<v1::Volume>, VolumeError> {
        let entries = self.inner.store.read(|db| Ok::<_, VolumeError>(table::list(db)?)).await?;
        Ok(entries.into_iter().map(|entry| self.describe(entry)).collect())
    }

    /// One of them.
    pub async fn get(&self, name: &Name) -> Result<v1::Volume, VolumeError> {
        Ok(self.describe(self.entry(name).await?))
    }

    async fn entry(&self, name: &Name) -> Result<Entry, VolumeError> {
        let name = name.clone();
        let find = move |db: &rusqlite::Connection| table::get(db, &name)?.ok_or(VolumeError::NotFound(name));
        self.inner.store.read(find).await
    }

    fn describe(&self, entry: Entry) -> v1::Volume {
        let Ok(name) = entry.name.parse::<Name>() else {
            return v1::Volume {
                name: entry.name,
                error: "its name is not one".into(),
                ..Default::default()
            };
        };
        let (mounted_by, failure) = {
            let live = self.live();
            let users = live.users.get(&name).into_iter().flatten().map(Name::to_string).collect();
            (users, live.errors.get(&name).cloned())
        };
        let error = failure.unwrap_or_else(|| match entry.state {
            State::Deleting => "it is being deleted".into(),
            State::Making => "it is being made".into(),
            State::Ready => String::new(),
            State::Growing => {
                "it has its new size when it is mounted next: stop the workload that uses it, and start it again".into()
            }
        });
        v1::Volume {
            used_bytes: self.used_bytes(&name),
            name: entry.name,
            labels: entry.labels.into_iter().collect(),
            size_bytes: entry.size,
            mounted_by,
            created_at: Some(timestamp(entry.created_at)),
            backend: self.inner.blocks.kind().into(),
            filesystem: "ext4".into(),
            error,
        }
    }

    fn used_bytes(&self, name: &Name) -> u64 {
        let target = self.mount_point(name);
        if let (Ok(Some(_)), Ok(stat)) =
            (mount::mounted_at(&target), nix::sys::statvfs::statvfs(target.as_path()))
        {
            return stat.blocks().saturating_sub(stat.blocks_free()) * stat.fragment_size();
        }
        self.inner.blocks.usage(name).unwrap_or(0)
    }

    fn mount_point(&self, name: &Name) -> PathBuf {
        self.inner.dir.join("mnt").join(name.as_str())
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.inner.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lock(&self, name: &Name) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = self.live().locks.entry(name.clone()).or_default().clone();
        lock.lock_owned().await
    }

    fn emit(&self, name: &Name, reason: &'static str, message: String) {
        self.inner.events.emit(NewEvent::new("volume", name, reason, message));
    }

    /// Runs a blocking call on the block store off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        name: &Name,
        attempt: &'static str,
        work: impl FnOnce(&dyn BlockStore, &Name) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let (blocks, volume) = (self.inner.blocks.clone(), name.clone());
        let outcome = tokio::task::spawn_blocking(move || work(&*blocks, &volume)).await;
        outcome.unwrap_or_else(|panic| Err(std::io::Error::other(panic))).map_err(|source| VolumeError::Io {
            volume: name.to_string(),
            attempt,
            source,
        })
    }
}

/// Where volumes are mounted, and files of theirs are kept.
fn directory(state_dir: &Path) -> Result<PathBuf, VolumeError> {
    let dir = state_dir.join("volumes");
    std::fs::create_dir_all(dir.join("mnt")).map_err(|source| VolumeError::Io {
        volume: format!("directory {}", dir.display()),
        attempt: "make the",
        source,
    })?;
    // Mountinfo shows paths without links.
    Ok(dir.canonicalize().unwrap_or(dir))
}
