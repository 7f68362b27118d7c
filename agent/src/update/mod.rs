//! Updates of the appliance's system: two slots, of which one runs.
//!
//! ```text
//!   receiving ──▶ writing ──▶ armed ──reboot──▶ tentative ──▶ confirmed
//!       │            │          │                   │
//!       └────────────┴── failed ┘                   └──▶ rolled-back     the slot before runs again
//! ```
//!
//! - `admit`, `plan`: whether a bundle may be installed, and what a start goes on with: pure; `keys`: whose bundles may;
//! - `push`: one push; `turn`: whose it is; `chunks`, `staging`: what is put together, and from where;
//! - `write`: the slot that does not run; `loader`, `slots`, `uki`, `esp`: what the boot loader sees;
//! - `fallback`: a good slot that runs because the preferred one could not;
//! - `trial`: how a new system is watched until it is kept or left;
//! - [`machine`]: what init does; `table`: the rows; [`rpc`]: the `Updates` service.
//!
//! The boot partition is the truth: what its entries say counts, and at every start the rows are made
//! to follow it. One push runs at a time; writing goes on in a task of its own when its caller is gone.

mod admit;
mod chunks;
mod error;
mod esp;
mod fallback;
pub mod keys;
pub mod loader;
pub mod machine;
mod plan;
mod push;
pub mod rpc;
pub mod slots;
mod staging;
mod table;
mod trial;
mod turn;
mod uki;
mod write;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use capsule_proto::{
    timestamp,
    v1::{self, UpdateState},
};

pub use error::UpdateError;
pub use esp::Esp;
pub use trial::{Vital, Vitals};
pub use write::Job;

use self::{
    loader::Tries,
    machine::Machine,
    plan::{Found, Step},
    slots::{Content, Slot, Slots},
    table::Entry,
    trial::Watch,
    turn::Current,
};
use crate::{
    boot::{link::Cause, tentative::Expectation},
    event::{Events, NewEvent},
    store::Store,
};

/// Kind of the subject of this capability's events.
const SUBJECT: &str = "update";
/// A trial that nobody ends is over after this long, where the push does not say.
const CONFIRM_WITHIN: Duration = Duration::from_mins(15);
/// A return to the slot before is kept after so long without a problem, where nobody says.
const RETURN_SOAK: Duration = Duration::from_secs(30);
/// What was begun is given up after this long.
const STAGING_AGE: Duration = Duration::from_hours(24);

/// What updates need.
pub struct UpdateParts {
    /// The database.
    pub store: Store,
    /// Where events go.
    pub events: Events,
    /// This boot's slots.
    pub slots: Slots,
    /// Whether the slot that runs was on trial when it was booted.
    pub is_tentative: bool,
    /// Where an update is put together.
    pub staging_dir: PathBuf,
    /// What init and agent tell each other of boots.
    pub boot_dir: PathBuf,
    /// Release keys that the image brings.
    pub keys_dir: PathBuf,
    /// Init.
    pub machine: Arc<dyn Machine>,
    /// How the capsule is.
    pub vitals: Arc<dyn Vitals>,
}

/// The capability; cheap to clone.
#[derive(Clone)]
pub struct Updates {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    events: Events,
    slots: Slots,
    staging_dir: PathBuf,
    boot_dir: PathBuf,
    machine: Arc<dyn Machine>,
    vitals: Arc<dyn Vitals>,
    is_tentative: AtomicBool,
    watch: Watch,
    current: Mutex<Option<Current>>,
}

impl Updates {
    /// Takes up what an earlier agent, or an earlier boot, has left.
    pub async fn start(parts: UpdateParts) -> Result<Self, UpdateError> {
        let UpdateParts {
            store,
            events,
            slots,
            is_tentative,
            staging_dir,
            boot_dir,
            keys_dir,
            machine,
            vitals,
        } = parts;
        let updates = Self {
            inner: Arc::new(Inner {
                store,
                events,
                slots,
                staging_dir,
                boot_dir,
                machine,
                vitals,
                is_tentative: AtomicBool::new(false),
                watch: Watch::default(),
                current: Mutex::default(),
            }),
        };
        updates.seed_keys(&keys_dir).await?;
        updates.resume(is_tentative).await?;
        Ok(updates)
    }

    /// Makes the rows follow what the boot partition says, and goes on from there.
    async fn resume(&self, was_tentative: bool) -> Result<(), UpdateError> {
        let [active, other] = self.contents(loader::tidy).await?;
        // The loader took the tries of a trial, and a confirmation takes the counter.
        // Where the entry is gone, nobody has confirmed it.
        let is_kept = active.entry.as_ref().is_some_and(|entry| entry.name.tries == Tries::Unlimited);
        let is_tentative = was_tentative && !is_kept;
        self.inner.is_tentative.store(is_tentative, Ordering::SeqCst);
        let trial = Expectation::kept(&self.inner.boot_dir);
        let mut is_armed = false;
        if let Some(entry) = self.newest().await? {
            is_armed = self.take_up(&entry, &other, trial.as_ref()).await? == Step::Reboot;
        }
        if let Some(preferred) = other.entry.as_ref().filter(|_| !is_armed)
            && fallback::is_fallback(active.entry.as_ref(), Some(preferred))
        {
            self.stay(preferred).await?;
        }
        if is_tentative {
            tokio::spawn(trial::watch(self.clone(), self.expected()));
        } else if !is_armed {
            self.forget_trial()?;
        }
        if was_tentative && is_kept {
            // An agent that was killed in between may not have told.
            self.inner.machine.confirmed().await;
        }
        Ok(())
    }

    /// Brings the newest row to where it is by now.
    async fn take_up(
        &self,
        entry: &Entry,
        other: &Content,
        trial: Option<&Expectation>,
    ) -> Result<Step, UpdateError> {
        if entry.state == UpdateState::Receiving {
            self.give_up_if_old(entry).await?;
            return Ok(Step::Nothing);
        }
        let Slots { active, boot_id, .. } = &self.inner.slots;
        let step = plan::plan(&Found {
            state: entry.state,
            runs: entry.slot == active.to_string(),
            is_tentative: self.is_tentative(),
            tries: other.entry.as_ref().map(|entry| entry.name.tries),
            is_same_boot: entry.armed_in == *boot_id,
            has_trial: trial.is_some_and(|trial| trial.slot == active.other()),
            has_bundle: !entry.manifest.is_empty(),
        });
        match step {
            Step::Nothing => {}
            Step::Become(state) => self.set_state(entry, state, "").await?,
            Step::Reboot => {
                self.arm_row(entry).await?;
                self.reboot_into(entry).await;
            }
            Step::RolledBack => self.tell_rolled_back(entry).await?,
            Step::Fail(reason) => self.set_state(entry, UpdateState::Failed, reason).await?,
            Step::Disarm(reason) => {
                let slot = active.other();
                self.on_esp("clear the slot on", move |esp| loader::remove(esp, slot)).await?;
                self.set_state(entry, UpdateState::Failed, reason).await?;
            }
        }
        Ok(step)
    }

    async fn give_up_if_old(&self, entry: &Entry) -> Result<(), UpdateError> {
        if entry.changed_at.elapsed().unwrap_or_default() < STAGING_AGE {
            return Ok(());
        }
        staging::clear(&self.inner.staging_dir)?;
        self.set_state(entry, UpdateState::Failed, "it was never sent in whole").await
    }

    async fn tell_rolled_back(&self, entry: &Entry) -> Result<(), UpdateError> {
        let why = self.inner.machine.why_ended(self.inner.slots.inactive());
        let reason = why.unwrap_or_else(|| "nobody knows how its boot ended".into());
        self.set_state(entry, UpdateState::RolledBack, &reason).await?;
        let (version, running) = (&entry.version, &self.inner.slots.version);
        let message = format!("version {version} was left and {running} runs again: {reason}");
        self.emit(NewEvent::new(SUBJECT, version, "UpdateRolledBack", message).error());
        Ok(())
    }

    async fn reboot_into(&self, entry: &Entry) {
        let (version, slot) = (&entry.version, &entry.slot);
        let message =
            format!("version {version} in slot {slot} is armed; the capsule reboots into it, on trial");
        self.emit(NewEvent::new(SUBJECT, version, "UpdateArmed", message));
        self.inner.machine.reboot(Cause::Update, format!("to {version} in slot {slot}")).await;
    }

    /// Whether the system that runs is on trial.
    pub fn is_tentative(&self) -> bool {
        self.inner.is_tentative.load(Ordering::SeqCst)
    }

    /// What runs, what is in the slots, and how a trial goes.
    pub async fn status(&self) -> Result<v1::UpdateStatus, UpdateError> {
        let slots = self.inner.slots.clone();
        let contents = self.contents(|_| Ok(())).await?;
        let is_tentative = self.is_tentative();
        let mut described: Vec<_> = [slots.active, slots.inactive()]
            .into_iter()
            .zip(contents)
            .map(|(slot, content)| content.describe(slot, &slots, is_tentative))
            .collect();
        described.sort_by(|one, other| one.slot.cmp(&other.slot));
        let mut status = v1::UpdateStatus {
            version: slots.version.to_string(),
            is_tentative,
            slots: described,
            update: self.newest().await?.map(|entry| entry.describe()),
            ..Default::default()
        };
        if is_tentative {
            let trial = self.expected();
            let (vitals, well) = self.inner.watch.seen();
            status.vitals = vitals.iter().map(Vital::describe).collect();
            status.well_seconds = well.as_secs() as u32;
            status.auto_confirm_seconds = trial.auto_confirm_seconds.unwrap_or(0) as u32;
            status.confirm_before =
                booted_at().map(|at| timestamp(at + Duration::from_secs(trial.deadline_seconds)));
        }
        Ok(status)
    }

    /// Keeps the system that runs. One that is kept already stays so, and an entry that was lost is
    /// written anew.
    pub async fn confirm(&self, why: &str) -> Result<v1::UpdateStatus, UpdateError> {
        let (slot, version) = (self.inner.slots.active, self.inner.slots.version.to_string());
        self.on_esp("confirm the slot on", move |esp| loader::confirm(esp, slot, &version)).await?;
        if self.is_tentative() {
            if let Some(entry) = self.newest().await?.filter(|entry| entry.slot == slot.to_string()) {
                self.set_state(&entry, UpdateState::Confirmed, "").await?;
            }
            self.forget_trial()?;
            self.inner.machine.confirmed().await;
            self.inner.is_tentative.store(false, Ordering::SeqCst);
            let version = &self.inner.slots.version;
            let message = format!("version {version} is kept: {why}");
            self.emit(NewEvent::new(SUBJECT, version, "UpdateConfirmed", message));
        }
        self.status().await
    }

    /// Leaves the system that runs: a trial for the system before, a kept one for the other slot, on
    /// trial there.
    pub async fn rollback(&self, soak: Option<Duration>, by: &str) -> Result<v1::UpdateStatus, UpdateError> {
        let Slots { active, version, .. } = &self.inner.slots;
        let other = active.other();
        let (_, most) = push::TRIAL_LIMITS;
        if soak.is_some_and(|soak| soak > most) {
            return Err(UpdateError::Protocol("health ends a trial within 24 h".into()));
        }
        self.check_idle()?;
        let [_, content] = self.contents(|_| Ok(())).await?;
        let good = content.entry.filter(|entry| entry.name.tries == Tries::Unlimited);
        let before = good.ok_or(UpdateError::NothingBefore(other))?;
        if !self.is_tentative() {
            self.arm_return(other, &before.version, soak.unwrap_or(RETURN_SOAK)).await?;
        }
        let detail = format!("from {version} to {} in slot {other}, by {by}", before.version);
        self.emit(
            NewEvent::new(SUBJECT, version, "UpdateRollback", format!("the capsule reboots {detail}"))
                .warning(),
        );
        self.inner.machine.reboot(Cause::Rollback, detail).await;
        self.status().await
    }

    async fn arm_return(&self, slot: Slot, version: &str, soak: Duration) -> Result<(), UpdateError> {
        let (to, from) = (version.to_owned(), self.inner.slots.version.clone());
        let insert = self
            .inner
            .store
            .write(move |tx| Ok::<_, UpdateError>(table::insert_return(tx, &to, &from, slot)?));
        let entry = insert.await?;
        let trial = self.trial(slot, Some(soak), None);
        let trial = Expectation { version: version.to_owned(), ..trial };
        trial
            .write(&self.inner.boot_dir)
            .map_err(UpdateError::io("write the trial in", &self.inner.boot_dir))?;
        let version = version.to_owned();
        self.on_esp("arm the slot on", move |esp| loader::arm(esp, slot, &version)).await?;
        self.arm_row(&entry).await
    }

    /// What was installed, newest first.
    pub async fn list(&self) -> Result<Vec<v1::Update>, UpdateError> {
        let entries = self.inner.store.read(|db| Ok::<_, UpdateError>(table::list(db)?)).await?;
        Ok(entries.iter().map(Entry::describe).collect())
    }

    /// What was arranged for the slot that runs.
    fn expected(&self) -> Expectation {
        let Slots { active, version, .. } = &self.inner.slots;
        Expectation::read(&self.inner.boot_dir, *active, &version.to_string())
    }

    fn forget_trial(&self) -> Result<(), UpdateError> {
        let dir = &self.inner.boot_dir;
        Expectation::remove(dir).map_err(UpdateError::io("forget the trial in", dir))
    }

    /// A trial as it is arranged now.
    fn trial(&self, slot: Slot, soak: Option<Duration>, within: Option<Duration>) -> Expectation {
        Expectation {
            slot,
            version: self.inner.slots.version.to_string(),
            deadline_seconds: (within.unwrap_or(CONFIRM_WITHIN) + soak.unwrap_or_default()).as_secs(),
            auto_confirm_seconds: soak.map(|soak| soak.as_secs()),
            workloads: self.inner.vitals.running(),
        }
    }

    async fn newest(&self) -> Result<Option<Entry>, UpdateError> {
        self.inner.store.read(|db| Ok(table::newest(db)?)).await
    }

    async fn set_state(&self, entry: &Entry, state: UpdateState, reason: &str) -> Result<(), UpdateError> {
        if entry.state == state {
            return Ok(());
        }
        let (id, reason) = (entry.id, reason.to_owned());
        self.inner.store.write(move |tx| Ok(table::set_state(tx, id, state, &reason)?)).await
    }

    async fn arm_row(&self, entry: &Entry) -> Result<(), UpdateError> {
        let (id, boot_id) = (entry.id, self.inner.slots.boot_id.clone());
        self.inner.store.write(move |tx| Ok(table::set_armed(tx, id, &boot_id)?)).await
    }

    /// What the active slot and the other one hold, after `first`.
    async fn contents(
        &self,
        first: impl FnOnce(&std::path::Path) -> std::io::Result<()> + Send + 'static,
    ) -> Result<[Content; 2], UpdateError> {
        let (active, other) = (self.inner.slots.active, self.inner.slots.inactive());
        let look = move |esp: &std::path::Path| {
            first(esp)?;
            let entries = loader::read(esp)?;
            Ok([active, other].map(|slot| Content::read(esp, &entries, slot)))
        };
        self.on_esp("look at", look).await
    }

    /// Runs `work` on the boot partition, off the async threads.
    async fn on_esp<T: Send + 'static>(
        &self,
        attempt: &'static str,
        work: impl FnOnce(&std::path::Path) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, UpdateError> {
        let esp = self.inner.slots.esp.clone();
        let done = tokio::task::spawn_blocking(move || esp.with(work)).await;
        let done = done.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        done.map_err(UpdateError::io(attempt, "the boot partition"))
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.inner.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn emit(&self, event: NewEvent) {
        self.inner.events.emit(event);
    }
}

impl Vital {
    fn describe(&self) -> v1::Vital {
        v1::Vital {
            name: self.name.into(),
            is_well: self.problem.is_none(),
            detail: self.problem.clone().unwrap_or_default(),
        }
    }
}

/// When the machine was started, by its present clock.
fn booted_at() -> Option<SystemTime> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    SystemTime::now().checked_sub(Duration::try_from_secs_f64(seconds).ok()?)
}
