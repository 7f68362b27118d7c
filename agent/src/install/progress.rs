//! How far an installation is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use capsule_proto::v1::{WriteDiskResponse, WritePhase};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::Status;

use super::InstallError;

/// Between two messages of one phase.
const PAUSE: Duration = Duration::from_millis(200);

/// Told by the work, heard by the caller; cheap to clone.
#[derive(Clone)]
pub struct Progress {
    now: watch::Sender<WriteDiskResponse>,
    done: Arc<AtomicU64>,
    caller: mpsc::Sender<Result<WriteDiskResponse, Status>>,
}

impl Progress {
    /// For a caller who listens at the other end.
    pub fn new(caller: mpsc::Sender<Result<WriteDiskResponse, Status>>) -> Self {
        Self { now: watch::Sender::default(), done: Arc::default(), caller }
    }

    /// A phase begins, of so many bytes. `Err` where nobody listens any more.
    pub fn begin(&self, phase: WritePhase, total_bytes: u64) -> Result<(), InstallError> {
        self.done.store(0, Ordering::Relaxed);
        self.now.send_replace(WriteDiskResponse { phase: phase.into(), done_bytes: 0, total_bytes });
        self.advance(0)
    }

    /// So many bytes more. `Err` where nobody listens any more.
    pub fn advance(&self, bytes: u64) -> Result<(), InstallError> {
        let done_bytes = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.now.send_modify(|now| now.done_bytes = done_bytes);
        if self.caller.is_closed() { Err(InstallError::Abandoned) } else { Ok(()) }
    }

    /// Tells caller and console, until it is aborted.
    pub fn show_on(&self, told: watch::Sender<String>, disk: String) -> JoinHandle<()> {
        let (mut now, caller) = (self.now.subscribe(), self.caller.clone());
        tokio::spawn(async move {
            while now.changed().await.is_ok() {
                let message = *now.borrow_and_update();
                told.send_replace(words(&message, &disk));
                if caller.send(Ok(message)).await.is_err() {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        })
    }

    /// The last word.
    pub async fn end(self, outcome: Result<(), InstallError>) {
        let written = WriteDiskResponse { phase: WritePhase::Written.into(), ..Default::default() };
        // Whoever hung up knows as much as he wants to.
        let _ = self.caller.send(outcome.map(|()| written).map_err(Status::from)).await;
    }
}

fn words(message: &WriteDiskResponse, disk: &str) -> String {
    let WriteDiskResponse { done_bytes, total_bytes, .. } = message;
    match (done_bytes * 100).checked_div(*total_bytes) {
        Some(percent) => format!("{disk}: {} ({percent} %)", message.phase()),
        None => format!("{disk}: {}", message.phase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_caller_hears_the_phases_and_work_hears_that_he_has_gone() {
        let (sender, mut heard) = mpsc::channel(8);
        let progress = Progress::new(sender);
        let told = watch::Sender::new(String::new());
        let shown = progress.show_on(told.clone(), "/dev/vda".into());
        progress.begin(WritePhase::Copying, 200).unwrap();
        progress.advance(50).unwrap();
        let message = heard.recv().await.unwrap().unwrap();
        assert_eq!(
            (message.phase(), message.done_bytes, message.total_bytes),
            (WritePhase::Copying, 50, 200)
        );
        assert_eq!(*told.borrow(), "/dev/vda: copying (25 %)");
        drop(heard);
        assert!(matches!(progress.advance(1), Err(InstallError::Abandoned)));
        shown.abort();
    }
}
