//! Announces the capsule in its network by multicast DNS, so that operators find it without an
//! address. Nothing here lets anybody in: who comes must still be told by the certificate.
//!
//! ```text
//!   identity (name, adopted) ──┐
//!   uplinks (links, addresses) ┴─▶ the one task ──▶ Announcer (a thread of mdns-sd, port 5353)
//! ```
//!
//! - `uplinks`: which links lead to operators, pure but for one look at the kernel;
//! - `announcer`: the responder, on those links alone.
//!
//! Other addresses make a new responder; another name or an adoption are told by the present one.
//! What it remembers of what others say is bounded: past that it is replaced, too.

mod announcer;
mod uplinks;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use capsule_proto::{discovery::Announcement, v1::Mode};
use clap::ValueEnum;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{identity::Identity, status::chain};
use announcer::{Announcer, DiscoveryError};
use uplinks::Uplinks;

/// Between two looks at links and addresses.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at what the responder remembers.
const GUARD_INTERVAL: Duration = Duration::from_secs(2);
/// For the goodbye at the end.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// Whether the capsule is announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mdns {
    /// On the links that lead to other machines.
    #[default]
    On,
    /// Nowhere.
    Off,
}

/// The capability, while it runs.
pub struct Discovery {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Discovery {
    /// Starts to announce a capsule of this version whose API listens on `api`. Where that cannot be
    /// done, it is logged and tried again.
    pub fn start(identity: Identity, api: SocketAddr, mode: Mode, version: String) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = Task { identity, api, mode, version, announcer: None, announced: None, complaint: None };
        Self { stop, task: tokio::spawn(task.run(stopped)) }
    }

    /// Says goodbye, so that nobody looks for the capsule any more.
    pub async fn stop(mut self) {
        let _ = self.stop.send(());
        if tokio::time::timeout(GOODBYE_LIMIT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// Owns the responder.
struct Task {
    identity: Identity,
    api: SocketAddr,
    mode: Mode,
    version: String,
    announcer: Option<Announcer>,
    /// What was told last, by this responder.
    announced: Option<Announcement>,
    /// What was logged last, so that it is logged once.
    complaint: Option<String>,
}

impl Task {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let (mut keys, mut names) = (self.identity.key_changes(), self.identity.hostname_changes());
        let (mut looks, mut guards) = (interval(LOOK_INTERVAL), interval(GUARD_INTERVAL));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        guards.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                _ = &mut stopped => break,
                _ = looks.tick() => self.look().await,
                _ = guards.tick() => self.guard().await,
                Ok(()) = keys.changed() => self.tell(),
                Ok(()) = names.changed() => self.tell(),
            };
            self.note(done);
        }
        self.hang_up().await;
    }

    /// Looks at the links; where they changed, starts anew with what they are.
    async fn look(&mut self) -> Result<(), DiscoveryError> {
        let uplinks = tokio::task::spawn_blocking(uplinks::read).await.map_err(std::io::Error::other);
        let uplinks = uplinks.flatten().map_err(DiscoveryError::Links)?.reachable_at(self.api.ip());
        if self.announcer.as_ref().is_some_and(|announcer| *announcer.uplinks() == uplinks) {
            return self.tell();
        }
        self.hang_up().await;
        self.start(uplinks)
    }

    fn start(&mut self, uplinks: Uplinks) -> Result<(), DiscoveryError> {
        if uplinks.is_empty() {
            return Err(DiscoveryError::NoUplink);
        }
        let announcer = self.announcer.insert(Announcer::start(uplinks)?);
        tracing::info!(uplinks = %announcer.uplinks(), "the capsule is announced by mDNS");
        self.tell()
    }

    /// Tells who the capsule is, where that was not told yet.
    fn tell(&mut self) -> Result<(), DiscoveryError> {
        let announcement = self.announcement();
        let Some(announcer) =
            self.announcer.as_ref().filter(|_| self.announced.as_ref() != Some(&announcement))
        else {
            return Ok(());
        };
        announcer.tell(&announcement, self.api.port(), self.announced.is_some())?;
        self.announced = Some(announcement);
        Ok(())
    }

    /// Starts anew where the responder ended or remembers too much.
    async fn guard(&mut self) -> Result<(), DiscoveryError> {
        let Some(announcer) = &self.announcer else { return Ok(()) };
        match announcer.check().await {
            Ok(()) => Ok(()),
            Err(reason) => {
                tracing::warn!(%reason, "the mDNS responder is started anew");
                let uplinks = announcer.uplinks().clone();
                self.hang_up().await;
                self.start(uplinks)
            }
        }
    }

    async fn hang_up(&mut self) {
        self.announced = None;
        if let Some(announcer) = self.announcer.take() {
            announcer.stop(GOODBYE_LIMIT).await;
        }
    }

    fn announcement(&self) -> Announcement {
        Announcement {
            capsule_id: self.identity.capsule_id().into(),
            hostname: self.identity.hostname(),
            adopted: self.identity.is_adopted(),
            version: self.version.clone(),
            mode: self.mode,
        }
    }

    fn note(&mut self, done: Result<(), DiscoveryError>) {
        let complaint = done.err().map(|error| chain(&error));
        if let Some(why) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            tracing::warn!(
                why,
                "the capsule is not announced; `fleetctl adopt HOST` finds it by its address"
            );
        }
        if self.announcer.is_some() || complaint.is_some() {
            self.complaint = complaint;
        }
    }
}

/// Whether an API that listens on `listener` answers on `address`.
fn answers(listener: IpAddr, address: IpAddr) -> bool {
    match listener {
        IpAddr::V6(any) if any.is_unspecified() => true,
        IpAddr::V4(any) if any.is_unspecified() => address.is_ipv4(),
        one => one == address,
    }
}
