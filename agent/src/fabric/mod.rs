//! This capsule in the fabric: its key, the member map that it goes by, the link to its peers.
//!
//! - `key.rs`: WireGuard keys, in files; `table.rs`: the map, in SQLite;
//! - `link/`: a task that owns the WireGuard device, and the process of a userspace one;
//! - [`peering`]: what members say to each other, and how each is reached; `keeper.rs`: the task that
//!   keeps it to the present map; `rotation.rs`: the next key's turn where nobody knows the present one;
//! - `taken.rs`: what the host has of addresses; `status.rs`, `rpc.rs`: what operators ask; `explain/`:
//!   why one workload reaches another, or does not.
//!
//! A map is promised once it is in SQLite: [`Fabric::put`] persists, then applies. Who needs the map
//! watches [`Fabric::map`].

mod error;
mod explain;
mod keeper;
mod key;
mod link;
pub mod peering;
mod rotation;
pub mod rpc;
mod status;
mod table;
mod taken;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use capsule_fabric::map::{
    CapsuleId, Diff, FabricId, Generation, Held, MapError, MemberMap, PublicKey, SignedMap, Verdict, diff,
    judge,
};
use capsule_proto::v1::{self, Role};
use tokio::sync::{Mutex, watch};

pub use self::{
    error::FabricError,
    link::{LINK_PREFIX, Wireguard, link_name},
};
use self::{
    keeper::Heard,
    key::Keys,
    link::{Link, Settings, Wanted},
};
use crate::{
    event::{Events, NewEvent},
    identity::Identity,
    store::Store,
    sys::holder::{Protocol, holder},
};

/// Kind of the subject of this capability's events.
const SUBJECT: &str = "fabric";

/// What the fabric must be told.
#[derive(Clone, Debug)]
pub struct FabricConfig {
    /// Keys are written below its `fabric/`.
    pub state_dir: PathBuf,
    /// UDP port for peers.
    pub port: u16,
    /// `None` for a simulated capsule, which has no link.
    pub link: Option<LinkConfig>,
}

/// What the link must be told.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Which WireGuard is used.
    pub wireguard: Wireguard,
    /// This program, which a userspace device is started with.
    pub program: PathBuf,
}

impl FabricConfig {
    fn keys_dir(&self) -> PathBuf {
        self.state_dir.join("fabric")
    }

    fn settings(&self, capsule: CapsuleId) -> Option<Settings> {
        let LinkConfig { wireguard, program } = self.link.clone()?;
        Some(Settings { name: link_name(capsule), wireguard, program, dir: self.keys_dir() })
    }
}

/// The capability; cheap to clone.
#[derive(Clone)]
pub struct Fabric(Arc<Inner>);

struct Inner {
    config: FabricConfig,
    capsule: CapsuleId,
    identity: Identity,
    store: Store,
    events: Events,
    keys: Keys,
    link: Option<Link>,
    heard: Heard,
    /// What was last stored; held while it changes.
    membership: Mutex<Option<Membership>>,
    map: watch::Sender<Option<Arc<MemberMap>>>,
}

/// What the capsule remembers of the fabric it is or was in.
#[derive(Clone, Debug)]
enum Membership {
    In(Box<SignedMap>),
    /// Removed by this generation.
    Out {
        fabric: FabricId,
        generation: Generation,
    },
}

impl Membership {
    fn signed(&self) -> Option<&SignedMap> {
        match self {
            Self::In(signed) => Some(signed),
            Self::Out { .. } => None,
        }
    }

    fn fabric(&self) -> FabricId {
        match self {
            Self::In(signed) => signed.map().fabric(),
            Self::Out { fabric, .. } => *fabric,
        }
    }

    fn generation(&self) -> Generation {
        match self {
            Self::In(signed) => signed.map().generation(),
            Self::Out { generation, .. } => *generation,
        }
    }

    fn held(&self) -> Held<'_> {
        Held { fabric: self.fabric(), generation: self.generation(), map: self.signed() }
    }
}

impl Fabric {
    /// Reads keys and map.
    pub async fn start(
        config: FabricConfig,
        identity: Identity,
        store: Store,
        events: Events,
    ) -> Result<Self, FabricError> {
        let capsule = identity.capsule_id().parse().map_err(MapError::Fabric)?;
        let keys = Keys::load(config.keys_dir())?;
        let stored = store.read(table::get).await?;
        let heard = store.read(table::locations).await?;
        let membership = stored.map(|(membership, unreadable)| {
            if let Some(error) = unreadable {
                let text = format!("the stored member map cannot be read, so the fabric is down: {error}");
                events.emit(NewEvent::new(SUBJECT, "", "MapUnreadable", text).error());
            }
            membership
        });
        let map =
            membership.as_ref().and_then(Membership::signed).map(|signed| Arc::new(signed.map().clone()));
        let link = config.settings(capsule).map(|settings| Link::start(settings, events.clone()));
        let inner = Inner {
            config,
            link,
            heard: Heard::before(heard),
            capsule,
            identity,
            store,
            events,
            keys,
            membership: Mutex::new(membership),
            map: watch::Sender::new(map.clone()),
        };
        let fabric = Self(Arc::new(inner));
        if let Some(own) = map.as_ref().and_then(|map| map.of_capsule(capsule)) {
            // An agent may have died between the map and the key that it names.
            fabric.0.keys.promote(&own.public_key)?;
        }
        if let Some(link) = &fabric.0.link {
            link.begin(map.as_deref().and_then(|map| fabric.wanted(map)));
        }
        Ok(fabric)
    }

    /// Who this capsule is, as maps name it.
    pub fn capsule(&self) -> CapsuleId {
        self.0.capsule
    }

    /// The map that the capsule goes by, now and from now on; `None` while it is in no fabric.
    pub fn map(&self) -> watch::Receiver<Option<Arc<MemberMap>>> {
        self.0.map.subscribe()
    }

    /// The same with its signature, for others.
    pub async fn signed(&self) -> Option<v1::SignedMap> {
        self.0.membership.lock().await.as_ref()?.signed().map(|signed| signed.wire().clone())
    }

    /// The present key, made where there is none, or the one that is to replace it.
    pub async fn ensure_key(&self, next: bool) -> Result<PublicKey, FabricError> {
        self.check_port()?;
        let fabric = self.clone();
        let ensure = move || if next { fabric.0.keys.ensure_next() } else { fabric.0.keys.ensure() };
        blocking(ensure).await
    }

    /// Goes by this map from now on, whoever carried it here; the generation that counts then.
    /// Repeating the present one is no error. Resolves when the map is stored and applied.
    pub async fn put(&self, wire: v1::SignedMap, carrier: &str) -> Result<Generation, FabricError> {
        let (fabric, carrier) = (self.clone(), carrier.to_owned());
        to_its_end(async move { fabric.put_whole(wire, &carrier).await }).await
    }

    async fn put_whole(&self, wire: v1::SignedMap, carrier: &str) -> Result<Generation, FabricError> {
        let mut held = self.0.membership.lock().await;
        let told = told(&wire, carrier);
        let outcome = self.take(wire, &mut held).await;
        match &outcome {
            Ok(Some(change)) => {
                let text = format!("{told}: {change}");
                self.emit(NewEvent::new(SUBJECT, "", "MapTaken", text));
            }
            // Nothing happened to the map.
            Ok(None) | Err(FabricError::Store(_) | FabricError::Closed) => {}
            Err(error) => {
                let text = format!("{told}, was refused: {}", crate::status::chain(error));
                self.emit(NewEvent::new(SUBJECT, "", "MapRefused", text).warning());
            }
        }
        outcome?;
        Ok(held.as_ref().map_or(Generation(0), Membership::generation))
    }

    /// Says what changed, or `None` where nothing did.
    async fn take(
        &self,
        wire: v1::SignedMap,
        held: &mut Option<Membership>,
    ) -> Result<Option<String>, FabricError> {
        let offered = SignedMap::try_from(wire)?;
        self.check_signature(&offered)?;
        let verdict =
            judge(&offered, held.as_ref().map(Membership::held), self.0.capsule, &self.0.keys.publics())?;
        let map = Arc::new(offered.map().clone());
        let (next, told) = match verdict {
            Verdict::Present => {
                self.apply(Some(map)).await?;
                return Ok(None);
            }
            Verdict::Leave => {
                let out = Membership::Out { fabric: map.fabric(), generation: map.generation() };
                (out, "this capsule is no longer a member".to_owned())
            }
            Verdict::Take => {
                let before = held.as_ref().and_then(Membership::signed).map(SignedMap::map);
                if before.is_none() {
                    self.check_free(&map).await?;
                }
                let told = told_diff(&diff(before, &map, self.0.capsule));
                (Membership::In(Box::new(offered)), told)
            }
        };
        let stored = next.clone();
        self.0.store.write(move |tx| Ok::<_, FabricError>(table::put(tx, &stored)?)).await?;
        *held = Some(next);
        self.apply(matches!(verdict, Verdict::Take).then_some(map)).await?;
        Ok(Some(told))
    }

    /// Leaves: forgets fabric, map, keys and addresses.
    pub async fn leave(&self) -> Result<(), FabricError> {
        let fabric = self.clone();
        to_its_end(async move { fabric.leave_whole().await }).await
    }

    async fn leave_whole(&self) -> Result<(), FabricError> {
        let mut held = self.0.membership.lock().await;
        self.0.store.write(|tx| Ok::<_, FabricError>(table::forget(tx)?)).await?;
        let was = held.take();
        self.apply(None).await?;
        let fabric = self.clone();
        blocking(move || fabric.0.keys.forget()).await?;
        if let Some(was) = was {
            let text = format!("left fabric {} at generation {}", was.fabric(), was.generation());
            self.emit(NewEvent::new(SUBJECT, "", "FabricLeft", text).warning());
        }
        Ok(())
    }

    /// Makes what was stored real.
    async fn apply(&self, map: Option<Arc<MemberMap>>) -> Result<(), FabricError> {
        if let Some(own) = map.as_ref().and_then(|map| map.of_capsule(self.0.capsule)) {
            let (fabric, named) = (self.clone(), own.public_key);
            blocking(move || fabric.0.keys.promote(&named)).await?;
        }
        self.0.map.send_if_modified(|present| {
            let is_new = *present != map;
            present.clone_from(&map);
            is_new
        });
        match &self.0.link {
            Some(link) => link.apply(map.as_deref().and_then(|map| self.wanted(map))).await,
            None => Ok(()),
        }
    }

    /// The link that a map means; `None` where it means none.
    fn wanted(&self, map: &MemberMap) -> Option<Wanted> {
        let own = map.of_capsule(self.0.capsule)?;
        Some(Wanted::new(map, own, self.0.keys.pair(&own.public_key)?, self.0.config.port))
    }

    /// Who makes a key is about to be enrolled: better refused now than after the map is signed.
    fn check_port(&self) -> Result<(), FabricError> {
        let port = self.0.config.port;
        if self.0.link.is_none() || self.0.map.borrow().is_some() {
            return Ok(());
        }
        match std::net::UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, port)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                let holder = holder(Protocol::Udp, port).unwrap_or_else(|| "another program".into());
                Err(FabricError::Port { port, holder })
            }
            _ => Ok(()),
        }
    }

    fn check_signature(&self, offered: &SignedMap) -> Result<(), FabricError> {
        let key_id = offered.signer().to_owned();
        let refuse = |standing| Err(FabricError::Signer { key_id: key_id.clone(), standing });
        let Some(signer) = self.0.identity.operator(&key_id) else {
            return refuse("which is not enrolled on this capsule");
        };
        if (signer.role as i32) < (Role::Operator as i32) {
            return refuse("which may only look here");
        }
        let key = UnparsedPublicKey::new(&ED25519, signer.public_key);
        if offered.verify(|message, signature| key.verify(message, signature).is_ok()) {
            Ok(())
        } else {
            Err(FabricError::Signature { key_id, name: signer.name })
        }
    }

    async fn check_free(&self, map: &MemberMap) -> Result<(), FabricError> {
        let taken = taken::prefixes(link_name(self.0.capsule)).await?;
        let ranges = [map.plan().range(), map.plan().ipv6()];
        let pairs = ranges.iter().flat_map(|range| taken.iter().map(move |taken| (*range, *taken)));
        match pairs.into_iter().find(|(range, taken)| range.overlaps(taken)) {
            Some((range, taken)) => Err(FabricError::Overlap { range, taken }),
            None => Ok(()),
        }
    }

    fn emit(&self, event: NewEvent) {
        self.0.events.emit(event);
    }
}

/// Removes link and process of a capsule whose agent does not run; the next one makes them again.
pub async fn teardown(config: &FabricConfig, capsule_id: &str) -> Result<(), FabricError> {
    let capsule = capsule_id.parse().map_err(MapError::Fabric)?;
    match config.settings(capsule) {
        Some(settings) => link::teardown(&settings).await,
        None => Ok(()),
    }
}

/// "the member map of generation 7, signed by 5f3c… and brought by ann", as far as it can be told.
fn told(wire: &v1::SignedMap, carrier: &str) -> String {
    let generation = SignedMap::try_from(wire.clone()).map_or_else(
        |_| "a member map".to_owned(),
        |signed| format!("the member map of generation {}", signed.map().generation()),
    );
    format!("{generation}, signed by {:.32} and brought by {carrier}", wire.key_id)
}

fn told_diff(diff: &Diff) -> String {
    let names = |verb: &str, names: Vec<String>| match names.as_slice() {
        [] => None,
        names => Some(format!("{verb} {}", names.join(", "))),
    };
    let added = diff.added.iter().map(|member| member.name.to_string()).collect();
    let removed = diff.removed.iter().map(|member| member.name.to_string()).collect();
    let changed = diff.changed.iter().map(|(_, is)| is.name.to_string()).collect();
    let parts = [names("added", added), names("removed", removed), names("changed", changed)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "no peer is different".into() } else { parts.join("; ") }
}

/// Does the whole of it, whoever stops listening: a caller that hangs up must not leave memory behind
/// the database.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, FabricError>> + Send + 'static,
) -> Result<T, FabricError> {
    tokio::spawn(work).await.unwrap_or(Err(FabricError::Closed))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FabricError> + Send + 'static,
) -> Result<T, FabricError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(FabricError::Closed))
}
