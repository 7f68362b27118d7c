//! Whose turn it is to push, and how far that is.
//!
//! One push runs at a time. While it receives, another of the same bundle takes its place; while it
//! writes, it is followed.

use std::time::Duration;

use capsule_bundle::{Digest, Manifest};
use capsule_proto::v1::{self, PushPhase};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{UpdateError, Updates};

/// Least time between two reports of progress.
pub(super) const REPORT_PAUSE: Duration = Duration::from_millis(100);

/// The push that is under way.
pub(super) struct Current {
    bundle: Digest,
    version: String,
    wish: Wish,
    /// Ends receiving.
    stop: CancellationToken,
    stage: watch::Receiver<Stage>,
}

/// How a trial is to end: after how long health keeps it, and when it is over at the latest.
pub(super) type Wish = (Option<Duration>, Option<Duration>);

/// How far a push is.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Receiving,
    /// Its caller is not needed any more.
    Moving(v1::PushProgress),
    Ended(Result<v1::Update, Status>),
}

/// Whose turn it is.
pub(super) enum Turn {
    Mine(Guard),
    /// The same bundle is being written.
    Follow(watch::Receiver<Stage>),
}

/// The right to push; gives it back when dropped.
pub(super) struct Guard {
    updates: Updates,
    pub(super) stop: CancellationToken,
    pub(super) stage: watch::Sender<Stage>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        *self.updates.current() = None;
    }
}

impl Updates {
    pub(super) async fn take_turn(
        &self,
        bundle: Digest,
        manifest: &Manifest,
        wish: Wish,
    ) -> Result<Turn, UpdateError> {
        loop {
            let mut stage = {
                let mut current = self.current();
                match &*current {
                    Some(other) if other.bundle != bundle => {
                        return Err(UpdateError::Busy(other.version.clone()));
                    }
                    Some(same) if matches!(*same.stage.borrow(), Stage::Receiving) => {
                        same.stop.cancel();
                        same.stage.clone()
                    }
                    // Too late to say otherwise: it may be armed already.
                    Some(same) if same.wish != wish => {
                        return Err(UpdateError::Otherwise(same.version.clone()));
                    }
                    Some(same) => return Ok(Turn::Follow(same.stage.clone())),
                    None => {
                        let (sender, stage) = watch::channel(Stage::Receiving);
                        let stop = CancellationToken::new();
                        let version = manifest.version.to_string();
                        *current = Some(Current { bundle, version, wish, stop: stop.clone(), stage });
                        return Ok(Turn::Mine(Guard { updates: self.clone(), stop, stage: sender }));
                    }
                }
            };
            // Until the other call has given its turn back, or has begun to write.
            let _ = stage.changed().await;
        }
    }

    /// Refuses where a push is under way.
    pub(super) fn check_idle(&self) -> Result<(), UpdateError> {
        match &*self.current() {
            Some(current) => Err(UpdateError::Busy(current.version.clone())),
            None => Ok(()),
        }
    }
}

/// Counts one phase at a time.
#[derive(Clone)]
pub(super) struct Progress {
    stage: watch::Sender<Stage>,
    total_bytes: u64,
}

impl Progress {
    pub(super) fn new(manifest: &Manifest, stage: &watch::Sender<Stage>) -> Self {
        Self { stage: stage.clone(), total_bytes: manifest.content_bytes() }
    }

    pub(super) fn add(&self, phase: PushPhase, bytes: u64) {
        let total_bytes = self.total_bytes;
        self.stage.send_modify(|stage| {
            let before = match stage {
                Stage::Moving(progress) if progress.phase() == phase => progress.done_bytes,
                _ => 0,
            };
            let done_bytes = before + bytes;
            *stage = Stage::Moving(v1::PushProgress { phase: phase.into(), done_bytes, total_bytes });
        });
    }
}
