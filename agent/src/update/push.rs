//! One push: from a caller's first message to a slot that is armed.
//!
//! Receiving belongs to the caller's call and ends with it; what has arrived stays, and the next
//! push of the same bundle takes its place even where the first call has not noticed that its caller
//! is gone. Writing belongs to the capsule.

use std::{io, sync::Arc, time::Duration};

use capsule_bundle::{Digest, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, Manifest, Part, Signed};
use capsule_proto::v1::{
    self, PushPhase, UpdateState, push_update_request::Step as Sent, push_update_response::Step as Told,
};
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::{
    SUBJECT, UpdateError, Updates,
    admit::{Allowed, Situation, Verdict, admit},
    chunks::ChunkPlan,
    slots::{Content, Slot},
    staging::{self, Source, Staging},
    table::{self, Entry},
    turn::{Guard, Progress, REPORT_PAUSE, Stage, Turn},
    write::Job,
};
use crate::{boot::tentative::Expectation, event::NewEvent};

/// Chunks named in one message.
const WANTED_BATCH: usize = 4096;
/// What is read of a slot whose kernel image does not tell how long its root is.
const UNKNOWN_ROOT_BYTES: u64 = capsule_bundle::MAX_ROOT_BYTES;
/// A verity tree is less than this part of its data, and a superblock more.
const TREE_PART: u64 = 120;
/// Trials are given so long, at least and at most.
pub(super) const TRIAL_LIMITS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_hours(24));

/// What a push is about.
#[derive(Clone)]
struct Order {
    signed: Signed,
    manifest: Manifest,
    soak: Option<Duration>,
    within: Option<Duration>,
}

pub(super) type Answers = mpsc::Sender<Result<v1::PushUpdateResponse, Status>>;
type Requests = Streaming<v1::PushUpdateRequest>;

/// Why receiving ended.
enum Broken {
    /// The caller is told.
    Update(UpdateError),
    /// By the caller's end of the call, or because nobody hears the answers.
    Call(Status),
}

impl From<UpdateError> for Broken {
    fn from(error: UpdateError) -> Self {
        Self::Update(error)
    }
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

impl From<Broken> for Status {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Update(error) => error.into(),
            Broken::Call(status) => status,
        }
    }
}

impl Updates {
    /// Runs a push; the answers end with the update or the reason why there is none.
    pub(super) async fn push(&self, mut requests: Requests, answers: Answers) {
        let ended = self.converse(&mut requests, &answers).await;
        if let Err(broken) = ended {
            let status = Status::from(broken);
            tracing::info!(%status, "a push ended early");
            let _ = answers.send(Err(status)).await;
        }
    }

    async fn converse(&self, requests: &mut Requests, answers: &Answers) -> Result<(), Broken> {
        let (order, allowed) = self.begin(next(requests).await?).await?;
        if self.judge(&order.manifest, allowed).await? == Verdict::RunsAlready {
            let verdict = v1::PushVerdict { runs_already: true };
            return tell(answers, Told::Verdict(verdict)).await;
        }
        let bundle = Digest::of(&order.signed.manifest);
        let follow = match self.take_turn(bundle, &order.manifest, (order.soak, order.within)).await? {
            Turn::Follow(stage) => {
                tell(answers, Told::Verdict(v1::PushVerdict { runs_already: false })).await?;
                // Whatever it was going to send is there.
                tell(answers, Told::Wanted(v1::WantedChunks { indexes: Vec::new(), is_last: true })).await?;
                stage
            }
            Turn::Mine(guard) => {
                tell(answers, Told::Verdict(v1::PushVerdict { runs_already: false })).await?;
                let stop = guard.stop.clone();
                let entry = self.begin_row(bundle, &order.manifest).await?;
                let staging = tokio::select! {
                    staging = self.receive(&order, requests, answers) => staging?,
                    () = stop.cancelled() => return Err(UpdateError::TakenOver.into()),
                    () = answers.closed() => return Err(Status::cancelled("the caller is gone").into()),
                };
                let stage = guard.stage.subscribe();
                tokio::spawn(self.clone().install(order, entry, staging, guard));
                stage
            }
        };
        follow_to_end(follow, answers).await
    }

    /// The first message: what is pushed, by whose release key, and what is allowed.
    async fn begin(&self, first: Sent) -> Result<(Order, Allowed), UpdateError> {
        let Sent::Begin(begin) = first else {
            return Err(UpdateError::Protocol("it does not begin with a manifest".into()));
        };
        let too_long = |what: &str| UpdateError::Protocol(format!("its {what} is too long"));
        if begin.manifest.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(too_long("manifest"));
        }
        if begin.signature.len() as u64 > MAX_SIGNATURE_BYTES {
            return Err(too_long("signature"));
        }
        let signed = Signed { manifest: begin.manifest, signature: begin.signature };
        let manifest = signed.verify(&self.trusted().await?)?;
        let seconds = |seconds: u32| (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        let (soak, within) = (seconds(begin.auto_confirm_seconds), seconds(begin.confirm_within_seconds));
        let (least, most) = TRIAL_LIMITS;
        let is_odd = |time: Option<Duration>, least| time.is_some_and(|time| time < least || time > most);
        if is_odd(soak, Duration::ZERO) || is_odd(within, least) {
            return Err(UpdateError::Protocol(format!(
                "a trial has {} s to 24 h, and health ends it within 24 h",
                least.as_secs()
            )));
        }
        let allowed = Allowed { downgrade: begin.allow_downgrade, again: begin.force };
        Ok((Order { signed, manifest, soak, within }, allowed))
    }

    async fn judge(&self, offered: &Manifest, allowed: Allowed) -> Result<Verdict, UpdateError> {
        let version = offered.version.clone();
        let look = move |db: &rusqlite::Connection| {
            Ok::<_, UpdateError>((table::why_rolled_back(db, &version)?, table::newest(db)?))
        };
        let (rolled_back, newest) = self.inner.store.read(look).await?;
        if let Some(armed) = newest.filter(|entry| entry.state == UpdateState::Armed) {
            return Err(UpdateError::Armed(armed.version));
        }
        let slots = &self.inner.slots;
        let path = slots.partition(slots.inactive()).to_owned();
        let size = || bytes_of(&path).map_err(UpdateError::io("look at", &path));
        let here = Situation {
            running: slots.version.clone(),
            is_tentative: self.is_tentative(),
            architecture: std::env::consts::ARCH,
            slot_bytes: size()?,
            rolled_back,
        };
        admit(offered, &here, allowed)
    }

    async fn begin_row(&self, bundle: Digest, manifest: &Manifest) -> Result<Entry, UpdateError> {
        let (version, from) = (manifest.version.clone(), self.inner.slots.version.clone());
        let slot = self.inner.slots.inactive();
        self.inner.store.write(move |tx| Ok(table::begin(tx, &bundle, &version, &from, slot)?)).await
    }

    /// Until all of the content is there.
    async fn receive(
        &self,
        order: &Order,
        requests: &mut Requests,
        answers: &Answers,
    ) -> Result<Arc<Staging>, Broken> {
        let mut plan = ChunkPlan::new(&order.manifest);
        while !plan.is_complete() {
            match next(requests).await? {
                Sent::Chunks(list) => plan.extend(&list.chunks)?,
                _ => return Err(UpdateError::Protocol("its list of chunks is not complete".into()).into()),
            }
        }
        let plan = Arc::new(plan);
        let (staging, wanted) = self.prepare(order, plan.clone(), answers).await?;
        for (at, indexes) in wanted.chunks(WANTED_BATCH).map(<[u32]>::to_vec).enumerate() {
            let is_last = (at + 1) * WANTED_BATCH >= wanted.len();
            tell(answers, Told::Wanted(v1::WantedChunks { indexes, is_last })).await?;
        }
        if wanted.is_empty() {
            tell(answers, Told::Wanted(v1::WantedChunks { indexes: Vec::new(), is_last: true })).await?;
        }
        let mut missing: std::collections::BTreeSet<u32> = wanted.into_iter().collect();
        while !missing.is_empty() {
            let Sent::Data(data) = next(requests).await? else {
                return Err(UpdateError::Protocol("there is something else among its chunks".into()).into());
            };
            let index = data.index;
            // Only what was asked for is worth the work.
            if missing.remove(&index) {
                let (staging, plan) = (staging.clone(), plan.clone());
                blocking(move || staging.put(&plan, index, &data.data)).await?;
            }
        }
        Ok(staging)
    }

    /// Takes what both slots have of the content.
    async fn prepare(
        &self,
        order: &Order,
        plan: Arc<ChunkPlan>,
        answers: &Answers,
    ) -> Result<(Arc<Staging>, Vec<u32>), Broken> {
        let (dir, sources) = (self.inner.staging_dir.clone(), self.sources(&order.manifest).await?);
        let (signed, manifest) = (order.signed.clone(), order.manifest.clone());
        let updates = self.clone();
        let total_bytes = sources.iter().map(|source| source.bytes).sum();
        let (sender, mut looked) = watch::channel(0_u64);
        let work = blocking(move || {
            let staging = Staging::open(&dir, &signed, &manifest)?;
            let mut done = 0;
            let seen = |bytes| {
                done += bytes;
                sender.send_replace(done);
            };
            let wanted = updates.inner.slots.esp.with(|esp| {
                let sources: Vec<_> = sources.iter().map(|source| source.below(esp)).collect();
                Ok(staging.prepare(&plan, &sources, seen))
            });
            let wanted = wanted.map_err(UpdateError::io("look at", "the boot partition"))??;
            Ok((Arc::new(staging), wanted))
        });
        tokio::pin!(work);
        loop {
            tokio::select! {
                prepared = &mut work => return Ok(prepared?),
                Ok(()) = looked.changed() => {
                    let done_bytes = *looked.borrow_and_update();
                    let phase = PushPhase::Looking.into();
                    tell(answers, Told::Progress(v1::PushProgress { phase, done_bytes, total_bytes })).await?;
                    tokio::time::sleep(REPORT_PAUSE).await;
                }
            }
        }
    }

    /// Both slots' roots and kernel images, the newest first; before them a slot that had this very release,
    /// which may be all that is needed.
    async fn sources(&self, manifest: &Manifest) -> Result<Vec<Source>, UpdateError> {
        let slots = &self.inner.slots;
        let contents = self.contents(|_| Ok(())).await?;
        let is_same =
            |content: &Content| content.root.is_some_and(|root| root.hash == manifest.root.roothash);
        let mut contents: Vec<_> = [slots.active, slots.inactive()].into_iter().zip(contents).collect();
        contents.sort_by_key(|(_, content)| !is_same(content));
        let mut sources = Vec::new();
        for (slot, content) in contents {
            // Hundreds of MiB of zeros have nothing to give.
            if content.entry.is_none() && is_blank(slots.partition(slot)) {
                continue;
            }
            let bytes = if is_same(&content) {
                // Not a byte more, by which its last chunk would be another one.
                manifest.root.bytes
            } else {
                let known =
                    content.root.map(|root| root.data_bytes + root.data_bytes / TREE_PART + (1 << 20));
                known.unwrap_or(UNKNOWN_ROOT_BYTES).min(UNKNOWN_ROOT_BYTES)
            };
            sources.push(Source { path: slots.partition(slot).to_owned(), bytes });
            sources.push(Source::on_esp(slot));
        }
        Ok(sources)
    }

    /// Writes the slot and starts it, whoever still listens.
    async fn install(self, order: Order, mut entry: Entry, staging: Arc<Staging>, guard: Guard) {
        let written = self.write_slot(&order, &mut entry, staging, &guard).await;
        match written {
            Ok(()) => {
                guard.stage.send_replace(Stage::Ended(Ok(entry.describe())));
                self.reboot_into(&entry).await;
            }
            Err(error) => {
                if matches!(error, UpdateError::Assembled { .. }) {
                    self.clear_staging();
                }
                let reason = crate::status::chain(&error);
                if let Err(error) = self.set_state(&entry, UpdateState::Failed, &reason).await {
                    tracing::error!(%error, "that an update failed was not written down");
                }
                let message = format!("version {} was not installed: {reason}", entry.version);
                self.emit(NewEvent::new(SUBJECT, &entry.version, "UpdateFailed", message).error());
                guard.stage.send_replace(Stage::Ended(Err(error.into())));
            }
        }
    }

    async fn write_slot(
        &self,
        order: &Order,
        entry: &mut Entry,
        staging: Arc<Staging>,
        guard: &Guard,
    ) -> Result<(), UpdateError> {
        let progress = Progress::new(&order.manifest, &guard.stage);
        self.forget_trial()?;
        let checking = (staging.clone(), progress.clone());
        blocking(move || checking.0.check(|bytes| checking.1.add(PushPhase::Checking, bytes))).await?;
        self.set_state(entry, UpdateState::Writing, "").await?;
        entry.state = UpdateState::Writing;
        let slot = self.inner.slots.inactive();
        let trial = Expectation {
            version: order.manifest.version.to_string(),
            ..self.trial(slot, order.soak, order.within)
        };
        let (slots, manifest, dir) =
            (self.inner.slots.clone(), order.manifest.clone(), self.inner.boot_dir.clone());
        blocking(move || {
            let record = || trial.write(&dir).map_err(UpdateError::io("write the trial in", &dir));
            let job = Job {
                slots: &slots,
                manifest: &manifest,
                kernel: &staging.path(Part::Kernel),
                root: &staging.path(Part::Root),
                record: &record,
                progress: &|phase, bytes| progress.add(phase, bytes),
                checkpoint: &|| Ok(()),
            };
            job.run()
        })
        .await?;
        self.arm_row(entry).await?;
        entry.state = UpdateState::Armed;
        self.clear_staging();
        Ok(())
    }

    /// Not worth failing for: the next push begins with it.
    fn clear_staging(&self) {
        if let Err(error) = staging::clear(&self.inner.staging_dir) {
            tracing::warn!(%error, "what was collected of an update stays");
        }
    }
}

impl Source {
    /// A slot's kernel image; its path is completed when the boot partition is there.
    fn on_esp(slot: Slot) -> Self {
        Self { path: super::slots::kernel(slot).into(), bytes: capsule_bundle::MAX_KERNEL_BYTES }
    }

    fn below(&self, esp: &std::path::Path) -> Self {
        // Partitions have absolute paths, which stay.
        Self { path: esp.join(&self.path), bytes: self.bytes }
    }
}

async fn follow_to_end(mut stage: watch::Receiver<Stage>, answers: &Answers) -> Result<(), Broken> {
    loop {
        let now = stage.borrow_and_update().clone();
        match now {
            Stage::Receiving => {}
            Stage::Moving(progress) => {
                tell(answers, Told::Progress(progress)).await?;
                tokio::time::sleep(REPORT_PAUSE).await;
            }
            Stage::Ended(Ok(update)) => return tell(answers, Told::Update(update)).await,
            Stage::Ended(Err(status)) => return Err(status.into()),
        }
        if stage.changed().await.is_err() && !matches!(*stage.borrow(), Stage::Ended(_)) {
            return Err(Status::aborted("the push ended early; push again").into());
        }
    }
}

async fn next(requests: &mut Requests) -> Result<Sent, Broken> {
    let message = requests.message().await?.ok_or_else(|| UpdateError::Protocol("it ended early".into()))?;
    Ok(message.step.ok_or_else(|| UpdateError::Protocol("a message is empty".into()))?)
}

async fn tell(answers: &Answers, step: Told) -> Result<(), Broken> {
    let message = v1::PushUpdateResponse { step: Some(step) };
    answers.send(Ok(message)).await.map_err(|_| Status::cancelled("the caller is gone").into())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UpdateError> + Send + 'static,
) -> Result<T, UpdateError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(UpdateError::io("work on", "the update")(io::Error::other(panic))))
}

/// Whether a partition never had a system: those of any kind have something in their first block.
fn is_blank(path: &std::path::Path) -> bool {
    let mut block = [0; 4096];
    let read = std::fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut block));
    read.is_ok() && block.iter().all(|byte| *byte == 0)
}

/// Of a file or a block device.
fn bytes_of(path: &std::path::Path) -> io::Result<u64> {
    use std::io::Seek as _;
    std::fs::File::open(path)?.seek(std::io::SeekFrom::End(0))
}
