//! What happened on this capsule: kept in SQLite (the newest `KEPT`), streamed to who follows.
//!
//! Every capability reports here through [`Events::emit`], which never waits; a task of its own
//! persists in order and then wakes followers.

pub mod rpc;
mod table;

use std::time::SystemTime;

use capsule_proto::v1::{self, Severity};
use tokio::sync::{broadcast, mpsc};

use crate::store::{Store, StoreError};

/// Events kept; older ones are removed.
pub const KEPT: u64 = 10_000;
/// Events that a slow follower may be behind before it reads the rest from the table.
const FOLLOW_BACKLOG: usize = 256;

/// An event that has no place in the order yet.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub(crate) severity: Severity,
    pub(crate) subject_kind: &'static str,
    pub(crate) subject: String,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) at: SystemTime,
}

impl NewEvent {
    /// An event about `subject`, a `subject_kind` of event.proto; `reason` is one CamelCase word.
    pub fn new(
        subject_kind: &'static str,
        subject: impl ToString,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Info,
            subject_kind,
            subject: subject.to_string(),
            reason,
            message: message.into(),
            at: SystemTime::now(),
        }
    }

    /// The same as a warning.
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// The same as an error.
    pub fn error(mut self) -> Self {
        self.severity = Severity::Error;
        self
    }
}

/// Where events go and come from; cheap to clone.
#[derive(Clone)]
pub struct Events {
    store: Store,
    queue: mpsc::UnboundedSender<NewEvent>,
    live: broadcast::Sender<v1::Event>,
}

impl Events {
    /// Starts the task that persists events.
    pub fn start(store: Store) -> Self {
        let (queue, mut incoming) = mpsc::unbounded_channel::<NewEvent>();
        let (live, _) = broadcast::channel(FOLLOW_BACKLOG);
        let (to, followers) = (store.clone(), live.clone());
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while incoming.recv_many(&mut batch, FOLLOW_BACKLOG).await > 0 {
                let new = std::mem::take(&mut batch);
                match to.write(move |tx| table::insert(tx, new)).await {
                    Ok::<_, StoreError>(events) => {
                        events.into_iter().for_each(|event| drop(followers.send(event)));
                    }
                    Err(error) => tracing::error!(%error, "events were lost"),
                }
            }
        });
        Self { store, queue, live }
    }

    /// Reports an event; also writes it to the log.
    pub fn emit(&self, event: NewEvent) {
        let NewEvent { subject_kind, subject, reason, message, .. } = &event;
        match event.severity {
            Severity::Error => tracing::error!(%subject, reason, "{subject_kind}: {message}"),
            Severity::Warning => tracing::warn!(%subject, reason, "{subject_kind}: {message}"),
            _ => tracing::info!(%subject, reason, "{subject_kind}: {message}"),
        }
        let _ = self.queue.send(event);
    }

    /// Every event from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<v1::Event> {
        self.live.subscribe()
    }

    /// Kept events that the request asks for, oldest first.
    pub async fn kept(&self, filter: v1::ListEventsRequest) -> Result<Vec<v1::Event>, StoreError> {
        self.store.read(move |db| table::select(db, &filter)).await
    }
}
