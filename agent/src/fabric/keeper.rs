//! Keeps the peering of the map that the capsule goes by.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use capsule_fabric::map::{PublicKey, SignedMap};
use capsule_proto::v1;
use tokio::sync::watch;

use super::{
    Fabric,
    link::Link,
    peering::{Locations, Maps, Pairs, Peering, PeeringParts, ReachOfAll, RemoteLocations, Wire},
    table, taken,
};
use crate::store::Store;

/// Between attempts to begin: the link may not have its addresses yet.
const RETRY: Duration = Duration::from_millis(200);
/// Between looks at the addresses of the capsule's own links: a lease may have changed.
const LOOK: Duration = Duration::from_secs(5);

/// What others say, and how they are reached.
#[derive(Clone, Default)]
pub(super) struct Heard {
    directory: watch::Sender<RemoteLocations>,
    reach: watch::Sender<ReachOfAll>,
}

impl Heard {
    /// What an earlier agent heard last.
    pub(super) fn before(locations: RemoteLocations) -> Self {
        Self { directory: watch::Sender::new(locations), reach: watch::Sender::default() }
    }
}

impl Fabric {
    /// Talks with the other members from now on, and tells them of these workloads. Nothing where
    /// the capsule has no link.
    pub fn start_peering(&self, workloads: watch::Receiver<Locations>) {
        let Some(link) = self.0.link.clone() else { return };
        let local = watch::Sender::default();
        let parts = PeeringParts {
            capsule: self.0.capsule,
            wire: Arc::new(link),
            maps: Arc::new(self.clone()),
            relay_port: self.0.config.port.wrapping_add(1),
            relayed: Pairs::default(),
            workloads,
            local: local.subscribe(),
            directory: self.0.heard.directory.clone(),
            reach: self.0.heard.reach.clone(),
        };
        let directory = self.directory();
        let kept = directory.borrow().clone();
        tokio::spawn(remember(self.0.store.clone(), directory, kept));
        tokio::spawn(look(self.0.config.port, local));
        tokio::spawn(self.clone().try_next_key());
        tokio::spawn(keep(self.clone(), parts));
    }

    /// Where the workloads of other members are, as they said last.
    pub fn directory(&self) -> watch::Receiver<RemoteLocations> {
        self.0.heard.directory.subscribe()
    }

    /// How other members are reached.
    pub fn reach(&self) -> watch::Receiver<ReachOfAll> {
        self.0.heard.reach.subscribe()
    }
}

/// Begins anew with every map.
async fn keep(fabric: Fabric, parts: PeeringParts) {
    let mut map = fabric.map();
    loop {
        map.mark_unchanged();
        let peering = tokio::select! {
            peering = begin(&fabric, &parts) => peering,
            changed = map.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        if peering.is_none() {
            parts.directory.send_replace(RemoteLocations::new());
            parts.reach.send_replace(ReachOfAll::new());
        }
        if map.changed().await.is_err() {
            return;
        }
        if let Some(peering) = peering {
            peering.stop().await;
        }
    }
}

/// `None` where the capsule is in no fabric.
async fn begin(fabric: &Fabric, parts: &PeeringParts) -> Option<Peering> {
    loop {
        let signed = SignedMap::try_from(fabric.signed().await?).ok()?;
        match Peering::start(parts.clone(), signed).await {
            Ok(peering) => return peering,
            Err(error) => tracing::debug!("not yet linked with other members: {error}"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Keeps what was heard for the agents to come: a policy must not forget who is away.
async fn remember(store: Store, mut directory: watch::Receiver<RemoteLocations>, mut kept: RemoteLocations) {
    loop {
        let now = directory.borrow_and_update().clone();
        if now != kept {
            let (before, after) = (kept.clone(), now.clone());
            match store.write(move |tx| table::keep_locations(tx, &before, &after)).await {
                Ok(()) => kept = now,
                Err(error) => tracing::warn!("where others' workloads are is not remembered: {error}"),
            }
        }
        if directory.changed().await.is_err() {
            return;
        }
    }
}

/// Follows the addresses of the capsule's own links, where peers may find it.
async fn look(port: u16, local: watch::Sender<Vec<SocketAddr>>) {
    loop {
        match taken::addresses().await {
            Ok(found) => {
                let found: Vec<SocketAddr> =
                    found.into_iter().map(|address| SocketAddr::new(address, port)).collect();
                local.send_if_modified(|known| {
                    let moved = *known != found;
                    *known = found;
                    moved
                });
            }
            Err(error) => tracing::debug!("the capsule's own addresses are not known: {error}"),
        }
        tokio::select! {
            () = local.closed() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

#[async_trait]
impl Wire for Link {
    async fn endpoints(&self) -> io::Result<BTreeMap<PublicKey, SocketAddr>> {
        let observed = self.observe().await.map_err(io::Error::other)?;
        let peers = observed.map(|link| link.peers).unwrap_or_default();
        Ok(peers.into_iter().filter_map(|(key, peer)| Some((key, peer.endpoint?))).collect())
    }

    async fn set_endpoint(&self, peer: &PublicKey, to: SocketAddr) -> io::Result<()> {
        self.send_to(*peer, to).await.map_err(io::Error::other)
    }
}

#[async_trait]
impl Maps for Fabric {
    /// In a task of its own: the link that brought the map ends when it is taken.
    async fn accept(&self, map: v1::SignedMap, carrier: &str) -> Result<(), String> {
        let (fabric, carrier) = (self.clone(), carrier.to_owned());
        let taken = tokio::spawn(async move { fabric.put(map, &carrier).await });
        match taken.await {
            Ok(outcome) => outcome.map(drop).map_err(|error| crate::status::chain(&error)),
            Err(_) => Err("the agent is stopping".to_owned()),
        }
    }
}
