//! Who this capsule is and who may talk to it.
//!
//! - `own`: capsule id, server key and certificate; `tls`, `listener`, `strangers`: from a socket
//!   to connections that prove a key, with bounds on those who do not;
//! - `hostname`: what it is called;
//! - `keys`: enrolled operator keys; `claim`: how the first is enrolled;
//! - `auth`: the layer that checks every call: key, `token` (by the clock or a key's `floor`), `replay`, then
//!   `roles`;
//! - `refusals`: refused calls, counted and limited per address;
//! - `seed`: the same capsule in another state directory, which an installer leaves behind.
//!
//! [`agent`](crate::agent) starts it, puts [`Identity::layer`] around all services, and calls
//! [`Identity::flush`] now and then.

mod auth;
mod claim;
mod floor;
mod hostname;
mod keys;
mod listener;
mod own;
mod refusal;
mod refusals;
mod replay;
pub mod roles;
mod rpc;
mod seed;
mod standing;
mod strangers;
mod table;
mod tls;
mod token;

use std::{
    io,
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use capsule_proto::{Fingerprint, Name, discovery::short_id, v1};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

pub use auth::{AuthLayer, Caller};
pub use claim::{CLAIM_WINDOW, SENTINEL, SENTINEL_MAX_AGE};
pub use floor::Timekeeper;
pub use hostname::HOSTNAME_FILE;
pub use listener::{Connection, Peer};
pub use own::IdentityError;
pub use refusal::Refusal;
pub use rpc::KeyChangeError;
pub use seed::SeedError;

use crate::{
    event::{Events, NewEvent},
    store::{Store, StoreError},
};
use claim::{ClaimWindow, Sentinel};
use hostname::Hostname;
use keys::Keys;
use refusals::Refusals;
use replay::ReplayCache;

/// Kind of the subject of this capability's events.
const SUBJECT: &str = "identity";

/// The capability; cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

/// What whoever claims it first can do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is a capsule, and is adopted.
    Serve,
    /// It puts one on a disk.
    Install,
}

/// Whom an enrolled key belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Raw Ed25519.
    pub public_key: [u8; 32],
    /// As shown in key lists.
    pub name: String,
    /// What it may do.
    pub role: v1::Role,
}

struct Inner {
    capsule_id: String,
    short_id: String,
    hostname: Hostname,
    fingerprint: Fingerprint,
    tls: Arc<rustls::ServerConfig>,
    store: Store,
    events: Events,
    keys: Keys,
    purpose: Purpose,
    timekeeper: OnceLock<Timekeeper>,
    window: ClaimWindow,
    refusals: Mutex<Refusals>,
    replay: Mutex<ReplayCache>,
    admitted: AtomicU64,
}

impl Inner {
    fn replay(&self) -> MutexGuard<'_, ReplayCache> {
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Identity {
    /// Reads or makes the identity and opens the claim window, for `window`, where it is due. The
    /// capsule is called `hostname` where no name was set.
    pub async fn start(
        state_dir: &Path,
        hostname: String,
        (purpose, window): (Purpose, Duration),
        store: Store,
        events: Events,
    ) -> Result<Self, IdentityError> {
        let own = own::ensure(state_dir, &store).await?;
        let tls = tls::server_config(&own).map_err(|error| IdentityError::Crypto(error.to_string()))?;
        let keys = Keys::load(store.clone()).await?;
        let path = state_dir.join(SENTINEL);
        let sentinel = claim::take_sentinel(state_dir).map_err(|source| IdentityError::Io {
            attempt: "the claim window cannot be opened by",
            path,
            source,
        })?;
        report(&sentinel, keys.is_empty(), &events);
        Ok(Self(Arc::new(Inner {
            capsule_id: own.capsule_id.to_string(),
            short_id: short_id(&own.capsule_id.to_string()),
            hostname: Hostname::load(state_dir, hostname),
            fingerprint: own.fingerprint,
            tls: Arc::new(tls),
            store,
            events,
            keys,
            purpose,
            timekeeper: OnceLock::new(),
            window: ClaimWindow::open(window, &sentinel),
            refusals: Mutex::new(Refusals::new(Instant::now())),
            replay: Mutex::default(),
            admitted: AtomicU64::new(0),
        })))
    }

    /// Who answers for the clock that tokens are held against; the host unless somebody says otherwise, once.
    pub fn set_timekeeper(&self, timekeeper: Timekeeper) {
        self.0.timekeeper.get_or_init(|| timekeeper);
    }

    /// UUID.
    pub fn capsule_id(&self) -> &str {
        &self.0.capsule_id
    }

    /// `capsule-a3f2`.
    pub fn short_id(&self) -> &str {
        &self.0.short_id
    }

    /// As shown to operators.
    pub fn hostname(&self) -> String {
        self.0.hostname.get()
    }

    /// Calls it otherwise, for good; what it was called until now.
    pub async fn set_hostname(&self, name: &Name, by: &Caller) -> io::Result<String> {
        let previous = self.0.hostname.set(name).await?;
        let message =
            format!("the host is called {name} now, and was {previous}; set by {} ({})", by.key_id, by.name);
        self.0.events.emit(NewEvent::new("node", "", "HostnameSet", message));
        Ok(previous)
    }

    /// Tells of every change of the host's name from now on.
    pub fn hostname_changes(&self) -> watch::Receiver<String> {
        self.0.hostname.changes()
    }

    /// Tells of every change of the enrolled keys from now on.
    pub fn key_changes(&self) -> watch::Receiver<()> {
        self.0.keys.changes()
    }

    /// Of the server certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    /// Calls refused since the start.
    pub fn refused_calls(&self) -> u64 {
        self.0.refusals().total()
    }

    /// Whether any operator's key is enrolled.
    pub fn is_adopted(&self) -> bool {
        !self.0.keys.is_empty()
    }

    /// Calls of operators that were let in since the start.
    pub fn admitted_calls(&self) -> u64 {
        self.0.admitted.load(Ordering::Relaxed)
    }

    /// The operator whose enrolled key has this name.
    pub fn operator(&self, key_id: &str) -> Option<Operator> {
        let key = self.0.keys.named(key_id)?;
        Some(Operator { public_key: key.public_key, name: key.name.clone(), role: key.role })
    }

    /// The check of every call.
    pub fn layer(&self) -> AuthLayer {
        AuthLayer(self.clone())
    }

    /// Connections whose handshake is done.
    pub fn listen(&self, listener: TcpListener) -> ReceiverStream<io::Result<Connection>> {
        listener::listen(listener, self.0.tls.clone())
    }

    /// Writes down when keys were last used.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.0.keys.flush_used().await
    }

    /// Books a refusal, reports it as far as the limits allow, and makes the answer.
    fn refuse(&self, refusal: Refusal, method: &str, from: IpAddr) -> Status {
        let verdict = self.0.refusals().record(from, Instant::now());
        let reason = refusal.reason();
        if let Some(untold) = verdict.event {
            let more = if untold > 1 {
                format!(" ({untold} calls since the last such event)")
            } else {
                String::new()
            };
            let message = format!("{method:.80?} from {from} was refused ({reason}): {refusal}{more}");
            self.0.events.emit(NewEvent::new(SUBJECT, "", "CallRefused", message).warning());
        } else if verdict.within_limit {
            tracing::warn!(%from, reason, "a call was refused: {refusal}");
        }
        if verdict.within_limit { refusal.into() } else { Refusal::Limited(from).into() }
    }
}

fn report(sentinel: &Sentinel, unclaimed: bool, events: &Events) {
    let minutes = CLAIM_WINDOW.as_secs() / 60;
    match sentinel {
        Sentinel::Absent if unclaimed => {
            tracing::info!("no operator key is enrolled: the capsule can be adopted for {minutes} minutes");
        }
        Sentinel::Absent => {}
        Sentinel::Consumed => {
            let message =
                format!("{SENTINEL} was found and removed: the capsule can be adopted for {minutes} minutes");
            events.emit(NewEvent::new(SUBJECT, "", "ClaimWindowReopened", message).warning());
        }
        Sentinel::Stale(age) => {
            let age =
                age.map_or("from the future".into(), |age| format!("{} minutes old", age.as_secs() / 60));
            tracing::warn!(
                "{SENTINEL} is {age} and was ignored: touch it, then restart capsuled within {} minutes",
                SENTINEL_MAX_AGE.as_secs() / 60
            );
        }
    }
}
