//! The thin pool that holds an appliance's volumes: watched, extended, and kept from running full.
//!
//! ```text
//!            80 %              95 %, and nothing left to extend it by
//!   ready ─────────▶ filling ─────────────────────────────────────────▶ full: nothing is promised,
//!     ▲    < 75 %     │   ▲                     < 90 %                   │      writers stand still
//!     └───────────────┘   └───────────────────────────────────────────────┘
//! ```
//!
//! - `level.rs`: these thresholds and those of extending, without effects.
//!
//! One task looks at the pool, by one ioctl that waits for nothing. No daemon of LVM's has a part in
//! it: there is none to be lost. The level is kept in a file, so that another agent goes on where this
//! one was. A pool that is full all the same lets writes wait for room, and fails none.

mod level;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use capsule_proto::{Size, v1};
use tokio::sync::watch;

use self::level::{Extension, Level};
use super::group::{self, GROUP, GroupError, Growth, POOL};
use crate::{
    event::{Events, NewEvent},
    status,
    sys::{
        dm::{self, PoolFill, PoolMode},
        file,
        lvm::{self, Lvm, LvmError},
    },
};

/// Between two looks. A disk that writes 1 GB/s fills a twentieth of 20 GB meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After the group had nothing left, or lvm2 failed, until it is asked again.
const EXTEND_PAUSE: Duration = Duration::from_mins(1);
/// In the directory of volumes.
const LEVEL_FILE: &str = "pool-level";

/// Why workloads that write to volumes are to stand still, where they are.
pub type Hold = Option<Arc<str>>;

/// Why a pool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// lvm2 does not activate it.
    #[error(transparent)]
    Lvm(#[from] LvmError),
    /// It is active and not there.
    #[error(
        "there is no thin pool {POOL} in the volume group {GROUP}; `lvs` in another system shows what is there"
    )]
    Missing,
    /// The kernel did not answer.
    #[error("the kernel does not tell how full the pool is")]
    Look(#[source] std::io::Error),
}

/// The pool; cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    lvm: Lvm,
    events: Events,
    level_file: PathBuf,
    state: Mutex<State>,
    /// Since the last look went well, one did not.
    unseen: AtomicBool,
    hold: watch::Sender<Hold>,
    /// Held by whoever changes its size.
    resizing: tokio::sync::Mutex<()>,
    extend_after: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    fill: PoolFill,
    level: Level,
}

impl Pool {
    /// The pool of the group on `device`; what is to outlive the agent is kept in `dir`.
    pub async fn open(device: &Path, dir: &Path, events: Events) -> Result<Self, PoolError> {
        let lvm = Lvm::on(device)?;
        if look()?.is_none() {
            lvm.activate(GROUP).await?;
        }
        let fill = look()?.ok_or(PoolError::Missing)?;
        if let Err(error) = dm::wait_for_room() {
            tracing::warn!(%error, "writes to a full pool fail after a minute");
        }
        let level_file = dir.join(LEVEL_FILE);
        let level = read_level(&level_file);
        let inner = Arc::new(Inner {
            lvm,
            events,
            level_file,
            state: Mutex::new(State { fill, level }),
            unseen: AtomicBool::new(false),
            hold: watch::Sender::new(None),
            resizing: tokio::sync::Mutex::default(),
            extend_after: Mutex::default(),
        });
        inner.attend().await;
        tokio::spawn(watch(Arc::downgrade(&inner)));
        Ok(Self(inner))
    }

    pub(super) fn lvm(&self) -> &Lvm {
        &self.0.lvm
    }

    /// How full it was at the last look.
    pub(super) fn fill(&self) -> PoolFill {
        self.0.state().fill
    }

    /// Why it promises nothing now, where it does not.
    pub(super) fn refusal(&self) -> Option<String> {
        let State { fill, level } = self.0.state();
        let full = || {
            format!(
                "the pool of volumes is {} % full, and promises nothing until it is below {} %; delete volumes that \
                 nobody needs (`fleetctl volume list` shows what each uses), or make the disk larger and run \
                 `fleetctl capsule grow-disk`",
                level::percent(&fill),
                level::NOT_FULL_PERCENT
            )
        };
        damage(fill.mode).map(str::to_owned).or_else(|| (level == Level::Full).then(full))
    }

    /// Whether workloads that write to volumes are to stand still, now and from now on.
    pub(super) fn hold(&self) -> watch::Receiver<Hold> {
        self.0.hold.subscribe()
    }

    pub(super) fn to_wire(&self) -> v1::Pool {
        let State { fill, level } = self.0.state();
        let error = damage(fill.mode).unwrap_or_default();
        let state = match level {
            _ if !error.is_empty() => v1::PoolState::Unusable,
            Level::Ready => v1::PoolState::Ready,
            Level::Filling => v1::PoolState::Filling,
            Level::Full => v1::PoolState::Full,
        };
        v1::Pool {
            state: state as i32,
            data_bytes: fill.data,
            data_used_bytes: fill.data_used,
            metadata_bytes: fill.metadata,
            metadata_used_bytes: fill.metadata_used,
            error: error.into(),
        }
    }

    /// Grows everything to a disk that became larger.
    pub(super) async fn grow_disk(&self) -> Result<Growth, GroupError> {
        let inner = &self.0;
        let grown = {
            let _alone = inner.resizing.lock().await;
            group::grow(inner.lvm.device()).await
        };
        inner.set_extend_after(None);
        inner.attend().await;
        let growth = grown?;
        if growth.before != growth.after {
            let size = |bytes| Size::from_bytes(bytes).to_string();
            let text = format!(
                "the disk is used whole now: /perm has {} (it had {}), the pool of volumes {} ({})",
                size(growth.after.perm),
                size(growth.before.perm),
                size(growth.after.pool),
                size(growth.before.pool)
            );
            inner.tell(NewEvent::new("pool", POOL, "DiskGrown", text));
        }
        Ok(growth)
    }
}

impl Inner {
    /// One look, and what follows from it.
    async fn attend(&self) {
        let fill = match look().and_then(|fill| fill.ok_or(PoolError::Missing)) {
            Ok(fill) => fill,
            Err(error) => {
                // Once, not every second.
                if !self.unseen.swap(true, Ordering::Relaxed) {
                    tracing::error!(error = status::chain(&error), "the pool of volumes was not looked at");
                }
                return;
            }
        };
        self.unseen.store(false, Ordering::Relaxed);
        let fill = self.extended(fill).await;
        self.judge(fill);
    }

    /// Extended by as much as is due, and what it has then.
    async fn extended(&self, mut fill: PoolFill) -> PoolFill {
        let is_due = |after: Option<Instant>| after.is_none_or(|after| after <= Instant::now());
        while level::wants_more(&fill) && damage(fill.mode).is_none() && is_due(self.extend_after()) {
            if let Err(error) = self.extend(&fill).await {
                let text = format!("the pool of volumes was not extended: {}", status::chain(&error));
                self.tell(NewEvent::new("pool", POOL, "ExtendFailed", text).warning());
            }
            let now = look().ok().flatten().unwrap_or(fill);
            // Whatever lvm2 said: only what the kernel has counts.
            if (now.data, now.metadata) == (fill.data, fill.metadata) {
                self.set_extend_after(Some(Instant::now() + EXTEND_PAUSE));
            }
            fill = now;
        }
        fill
    }

    /// By what the group has left; not while the disk is being grown, since who writes must be watched.
    async fn extend(&self, fill: &PoolFill) -> Result<(), LvmError> {
        let Ok(_alone) = self.resizing.try_lock() else { return Ok(()) };
        let extension = level::extension(fill, &self.lvm.group(GROUP).await?);
        let (what, size) = match extension {
            None => return Ok(()),
            Some(Extension::Data(size)) => {
                self.lvm.extend(GROUP, POOL, size).await?;
                ("data", size)
            }
            Some(Extension::Metadata(size)) => {
                self.lvm.extend_metadata(GROUP, POOL, size).await?;
                ("metadata", size)
            }
        };
        let text = format!("the pool of volumes has {} for {what} now", Size::from_bytes(size));
        self.tell(NewEvent::new("pool", POOL, "Extended", text));
        Ok(())
    }

    fn judge(&self, fill: PoolFill) {
        let before = self.state();
        let percent = level::percent(&fill);
        let level = before.level.at(percent);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { fill, level };
        if level != before.level {
            self.tell(crossing(before.level, level, percent));
            if let Err(error) = keep_level(&self.level_file, level) {
                tracing::warn!(%error, "how full the pool is was not kept");
            }
        }
        if let Some(text) = damage(fill.mode).filter(|_| damage(before.fill.mode).is_none()) {
            self.tell(NewEvent::new("pool", POOL, "Damaged", text).error());
        }
        let hold = damage(fill.mode).or((level == Level::Full).then_some(
            "the pool of volumes is full; delete volumes that nobody needs, or make the disk larger and run \
             `fleetctl capsule grow-disk`",
        ));
        self.hold.send_if_modified(|held| {
            let changes = held.as_deref() != hold;
            if changes {
                *held = hold.map(Into::into);
            }
            changes
        });
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: NewEvent) {
        self.events.emit(event);
    }

    fn extend_after(&self) -> Option<Instant> {
        *self.extend_after.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_extend_after(&self, at: Option<Instant>) {
        *self.extend_after.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

fn crossing(before: Level, level: Level, percent: u64) -> NewEvent {
    let new = |reason, text: String| NewEvent::new("pool", POOL, reason, text);
    match level {
        Level::Full => {
            let text = format!(
                "the pool of volumes is {percent} % full, and there is nothing left to extend it by: no volume is made \
                 or grown, and workloads that write to volumes are paused until it is below {} %; delete volumes that \
                 nobody needs, or make the disk larger and run `fleetctl capsule grow-disk`",
                level::NOT_FULL_PERCENT
            );
            new("Full", text).error()
        }
        Level::Filling if before == Level::Ready => {
            let text = format!(
                "the pool of volumes is {percent} % full; at {} %, when the disk has nothing left to extend it by, \
                 workloads that write to volumes are paused",
                level::FULL_PERCENT
            );
            new("Filling", text).warning()
        }
        Level::Filling | Level::Ready => {
            new("HasRoom", format!("the pool of volumes is {percent} % full and has room again"))
        }
    }
}

/// What is wrong with a pool that takes no writes, where that is not for want of room.
fn damage(mode: PoolMode) -> Option<&'static str> {
    match mode {
        PoolMode::Writable | PoolMode::OutOfSpace => None,
        PoolMode::ReadOnly => Some(
            "the pool of volumes takes no writes until its metadata is checked; reboot the capsule, and if that does not \
             help, docs/storage.md tells how it is repaired",
        ),
        PoolMode::Failed => {
            Some("the pool of volumes has failed; docs/storage.md tells how its metadata is repaired")
        }
    }
}

fn look() -> Result<Option<PoolFill>, PoolError> {
    for name in lvm::mapped_pools(GROUP, POOL) {
        if let Some(fill) = dm::pool(&name).map_err(PoolError::Look)? {
            return Ok(Some(fill));
        }
    }
    Ok(None)
}

async fn watch(pool: Weak<Inner>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.attend().await;
    }
}

fn read_level(path: &Path) -> Level {
    let bytes = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn keep_level(path: &Path, level: Level) -> std::io::Result<()> {
    file::write_atomic(path, &serde_json::to_vec(&level)?, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_outlives_its_agent_and_a_damaged_file_counts_as_ready() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LEVEL_FILE);
        assert_eq!(read_level(&path), Level::Ready);
        keep_level(&path, Level::Full).unwrap();
        assert_eq!(read_level(&path), Level::Full);
        std::fs::write(&path, "\"fu").unwrap();
        assert_eq!(read_level(&path), Level::Ready);
    }

    #[test]
    fn a_crossing_is_told_as_loudly_as_it_matters() {
        let of = |before, level| {
            let event = crossing(before, level, 96);
            (event.reason, event.severity)
        };
        assert_eq!(of(Level::Ready, Level::Filling), ("Filling", v1::Severity::Warning));
        assert_eq!(of(Level::Filling, Level::Full), ("Full", v1::Severity::Error));
        assert_eq!(of(Level::Full, Level::Filling), ("HasRoom", v1::Severity::Info));
    }
}
