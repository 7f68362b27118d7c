//! Pulls that several callers wait for: one download, which ends when nobody waits any more.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use capsule_proto::v1;
use oci_client::{Reference, secrets::RegistryAuth};
use tokio::sync::watch;

use super::{ImageError, ImageInfo, ProgressSender, progress::Progress};

type Outcome = Option<Result<ImageInfo, Arc<ImageError>>>;

/// Pulls that are under way; cheap to clone.
#[derive(Clone, Default)]
pub struct Pulls(Arc<Mutex<Jobs>>);

type Jobs = Vec<(Key, Weak<Job>)>;

/// Pulls with other credentials are other pulls: nobody gets what only another may see.
#[derive(Clone, PartialEq)]
pub struct Key {
    pub reference: Reference,
    pub auth: Option<RegistryAuth>,
}

/// Dropped by its last caller, it stops.
struct Job {
    task: tokio::task::JoinHandle<()>,
    progress: watch::Receiver<v1::ImageProgress>,
    outcome: watch::Receiver<Outcome>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pulls {
    /// Joins the pull of `key` or begins it with `start`, and waits for its end.
    pub async fn run<F>(
        &self,
        key: Key,
        report: Option<&ProgressSender>,
        start: impl FnOnce(Progress) -> F,
    ) -> Result<ImageInfo, ImageError>
    where
        F: Future<Output = Result<ImageInfo, ImageError>> + Send + 'static,
    {
        let job = self.join_or_start(key, start);
        let mut outcome = job.outcome.clone();
        let mut progress = job.progress.clone();
        loop {
            tokio::select! {
                biased;
                ended = outcome.wait_for(Option::is_some) => {
                    let ended = ended.ok().and_then(|outcome| outcome.clone());
                    report.inspect(|report| drop(report.send_replace(progress.borrow().clone())));
                    return ended.unwrap_or_else(|| Err(Arc::new(stopped()))).map_err(ImageError::Shared);
                }
                Ok(()) = progress.changed() => {
                    let now = progress.borrow_and_update().clone();
                    report.inspect(|report| drop(report.send_replace(now)));
                }
            }
        }
    }

    /// References that are being pulled.
    pub fn running(&self) -> Vec<String> {
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.iter().filter(|(_, job)| job.strong_count() > 0).map(|(key, _)| key.reference.whole()).collect()
    }

    fn join_or_start<F>(&self, key: Key, start: impl FnOnce(Progress) -> F) -> Arc<Job>
    where
        F: Future<Output = Result<ImageInfo, ImageError>> + Send + 'static,
    {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|(_, job)| job.upgrade().is_some_and(|job| job.outcome.borrow().is_none()));
        let known = jobs.iter().find(|(running, _)| *running == key).and_then(|(_, job)| job.upgrade());
        known.unwrap_or_else(|| {
            let progress = Progress::new();
            let (ended, outcome) = watch::channel(None);
            let (watched, work) = (progress.subscribe(), start(progress));
            let task = tokio::spawn(async move {
                drop(ended.send(Some(work.await.map_err(Arc::new))));
            });
            let job = Arc::new(Job { task, progress: watched, outcome });
            jobs.push((key, Arc::downgrade(&job)));
            job
        })
    }
}

fn stopped() -> ImageError {
    ImageError::Engine {
        attempted: "pulling".into(),
        detail: "the pull was stopped".into(),
        code: tonic::Code::Cancelled,
    }
}
