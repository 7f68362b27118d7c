//! Putting a capsule on a disk, from a removable medium that the machine was booted from.
//!
//! ```text
//!   claimed ──Write──▶ preparing ─▶ copying ─▶ verifying ─▶ seeding ─▶ written ──Finish──▶ bootable, reboot
//!                          │            │           │           │          │
//!                          └────────────┴───────────┴───────────┴──────────┴─ whatever ends it: not bootable,
//!                                                                             and may be written again
//! ```
//!
//! - [`disks`]: which disks there are, and which of them a capsule can be put on: the judgement is pure;
//! - `job`: the work, in its order; `root`: the system in its slot; `esp`: what boots it;
//! - `progress`: what the caller and the console hear of it; [`rpc`]: the `Install` service.
//!
//! The loader that the firmware starts gets its name last of all, by one rename: a disk without it is
//! nobody's capsule. Nothing is kept between two boots of an installer, and none of its tasks outlives a
//! caller for longer than the step it is at.

pub mod disks;
mod error;
mod esp;
mod job;
mod progress;
mod root;
pub mod rpc;

use std::{sync::Arc, time::Duration};

use capsule_proto::{Name, Size};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

pub use error::InstallError;

use self::{
    disks::Candidate,
    job::{Job, Written},
    progress::Progress,
};
use crate::{
    boot::{
        BootFacts, InitLink,
        link::{Cause, How, Stop, ToInit},
    },
    identity::{Caller, Identity},
    sys::block::Disk,
};

/// For a look to end, or for work whose caller has hung up.
const TURN_LIMIT: Duration = Duration::from_secs(15);

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// The disk's node, and the serial number that it must have.
    pub disk: (String, String),
    /// What the capsule is to be called.
    pub hostname: Option<Name>,
    /// Also where a capsule is on the disk.
    pub reinstall: bool,
    /// Who asks, and is the capsule's first admin.
    pub by: Caller,
}

/// The capability; cheap to clone.
#[derive(Clone)]
pub struct Installer(Arc<Inner>);

struct Inner {
    facts: BootFacts,
    identity: Identity,
    init: InitLink,
    /// One disk at a time; what was written and is not bootable yet.
    written: Arc<Mutex<Option<Written>>>,
    told: watch::Sender<String>,
}

impl Installer {
    /// On a machine that was booted like this; what is installed is the capsule of this identity.
    pub fn new(facts: BootFacts, identity: Identity, init: InitLink) -> Self {
        let told = watch::Sender::new(String::new());
        Self(Arc::new(Inner { facts, identity, init, written: Arc::default(), told }))
    }

    /// What it does, in words; empty while it waits.
    pub fn doing(&self) -> String {
        self.0.told.borrow().clone()
    }

    /// The disks that it could install to, in words.
    pub fn places(&self) -> String {
        let fit = disks::fit(&self.0.facts.disk).unwrap_or_default();
        let told = fit.iter().map(|disk| {
            let Disk { node, model, serial, size, .. } = disk;
            format!("{} {model} {} {serial}", node.display(), Size::from_bytes(*size))
        });
        let told: Vec<String> =
            told.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        format!("disks: {}", told.join(", "))
    }

    /// Every disk, and what is to be thought of it. None is being written meanwhile: a look mounts it.
    async fn disks(&self) -> Result<Vec<Candidate>, InstallError> {
        let _turn = self.turn().await?;
        disks::survey(&self.0.facts.disk).await
    }

    /// Puts a capsule on a disk, up to what makes it bootable. `Err` where that cannot begin.
    async fn begin(&self, order: Order, progress: Progress) -> Result<(), InstallError> {
        let turn = self.turn().await?;
        let candidates = disks::survey(&self.0.facts.disk).await?;
        let disk = disks::choose(&candidates, &order)?.disk.clone();
        let Inner { facts, identity, told, .. } = &*self.0;
        let job = Job { facts: facts.clone(), identity: identity.clone(), disk, order, progress };
        // To its end, and to the release of the disk, also where the caller hangs up.
        tokio::spawn(run(job, turn, told.clone()));
        Ok(())
    }

    /// Makes what was written bootable and reboots into it; why the firmware's order stays as it is.
    async fn make_bootable(&self, by: &Caller) -> Result<Option<String>, InstallError> {
        let mut turn = self.turn().await?;
        let written = turn.as_ref().ok_or(InstallError::NotWritten)?;
        written.make_bootable().await?;
        let problem = written.boot_first().await;
        let detail = format!("{} installed a capsule on {}", by.name, written.disk.node.display());
        *turn = None;
        self.0.told.send_replace("installed; rebooting into it".into());
        self.0.init.tell(ToInit::Stop(Stop { how: How::Reboot, cause: Cause::Operator, detail })).await;
        Ok(problem)
    }

    async fn turn(&self) -> Result<OwnedMutexGuard<Option<Written>>, InstallError> {
        let turn = tokio::time::timeout(TURN_LIMIT, self.0.written.clone().lock_owned()).await;
        turn.map_err(|_| InstallError::Busy)
    }
}

async fn run(job: Job, mut turn: OwnedMutexGuard<Option<Written>>, told: watch::Sender<String>) {
    *turn = None;
    let disk = job.disk.node.display().to_string();
    let progress = job.progress.clone();
    let shown = progress.show_on(told.clone(), disk.clone());
    let outcome = job.run().await;
    shown.abort();
    match outcome {
        Ok(written) => {
            told.send_replace(format!("{disk} is written"));
            *turn = Some(written);
            drop(turn);
            progress.end(Ok(())).await;
        }
        Err(error) => {
            tracing::warn!(disk, error = crate::status::chain(&error), "the installation ended");
            told.send_replace(String::new());
            drop(turn);
            progress.end(Err(error)).await;
        }
    }
}
