//! The peers, and the three ways to find one: by key, by session index, by address.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use boringtun::{
    noise::{Tunn, rate_limiter::RateLimiter},
    x25519::{PublicKey, StaticSecret},
};
use rand::RngExt as _;
use slab::Slab;
use zeroize::Zeroizing;

use super::{allowed::AllowedIps, outbound::Endpoint};

/// Handshakes a second from which on a sender must prove its address first (a cookie).
const HANDSHAKES_PER_SECOND: u64 = 100;
/// Bits of an index that count a peer's sessions.
const SESSION_BITS: u32 = 8;

/// A peer's place in [`Peers`]; free for another once it is removed.
pub type PeerId = usize;

/// What handshakes are made with.
pub struct Identity {
    secret: StaticSecret,
    public: PublicKey,
    /// Counts handshakes of everybody and demands cookies under load.
    pub limiter: RateLimiter,
    /// For sessions, whose handshakes have passed `limiter`.
    passed: Arc<RateLimiter>,
}

/// One peer.
pub struct Peer {
    /// Who it is.
    pub key: PublicKey,
    /// Mixed into handshakes.
    pub preshared: Option<Zeroizing<[u8; 32]>>,
    /// Its sessions; none without a key of our own.
    pub tunnel: Option<Tunn>,
    /// Where it was last heard of, or was said to be.
    pub endpoint: Option<Endpoint>,
    /// Whether its path takes many datagrams at once.
    pub takes_segments: bool,
    /// An empty packet after so many seconds of silence; never where it is 0.
    pub keepalive_seconds: u16,
    /// When keys were last agreed on.
    pub last_handshake: Option<SystemTime>,
    /// Index of a session that it has proposed but not used yet.
    pub unconfirmed: Option<u32>,
    /// Bytes of WireGuard's messages from it.
    pub received_bytes: u64,
    /// Bytes of WireGuard's messages to it.
    pub sent_bytes: u64,
    /// When anything authentic last went either way.
    pub last_traffic: Instant,
    index: u32,
}

/// All of them.
pub struct Peers {
    identity: Option<Identity>,
    all: Slab<Peer>,
    by_key: HashMap<PublicKey, PeerId>,
    by_index: HashMap<u32, PeerId>,
    /// Who may use which address.
    pub allowed: AllowedIps,
}

impl Identity {
    fn new(secret: StaticSecret) -> Self {
        let public = PublicKey::from(&secret);
        let limiter = RateLimiter::new(&public, HANDSHAKES_PER_SECOND);
        let passed = Arc::new(RateLimiter::new(&public, u64::MAX));
        Self { secret, public, limiter, passed }
    }

    /// The private key; it leaves only through the API socket.
    pub fn secret(&self) -> &StaticSecret {
        &self.secret
    }

    /// The public one.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    fn tunnel(&self, peer: &Peer) -> Tunn {
        let preshared = peer.preshared.as_deref().copied();
        let limiter = Some(self.passed.clone());
        // Keep-alives are ours, so that their interval changes without a new session.
        Tunn::new(self.secret.clone(), peer.key, preshared, None, peer.index, limiter)
    }
}

impl Peer {
    /// The wait for its next keep-alive; `None` where it has none.
    pub fn keepalive(&self) -> Option<Duration> {
        (self.keepalive_seconds > 0).then(|| Duration::from_secs(self.keepalive_seconds.into()))
    }
}

impl Peers {
    /// None yet.
    pub fn new() -> Self {
        Self {
            identity: None,
            all: Slab::new(),
            by_key: HashMap::new(),
            by_index: HashMap::new(),
            allowed: AllowedIps::default(),
        }
    }

    /// Our own keys.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Takes other keys of our own, or none; sessions made with the old ones end. The same key
    /// changes nothing.
    pub fn set_identity(&mut self, secret: Option<StaticSecret>) {
        let public = secret.as_ref().map(PublicKey::from);
        if public == self.identity.as_ref().map(|identity| identity.public) {
            return;
        }
        if let Some(itself) = public.and_then(|key| self.find(&key)) {
            self.remove(itself);
        }
        self.identity = secret.map(Identity::new);
        for (_, peer) in &mut self.all {
            peer.tunnel = self.identity.as_ref().map(|identity| identity.tunnel(peer));
            peer.unconfirmed = None;
        }
    }

    /// The peer of this key.
    pub fn find(&self, key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(key).copied()
    }

    /// The peer whose session the receiver's index of a message names.
    pub fn find_index(&self, receiver: u32) -> Option<PeerId> {
        self.by_index.get(&(receiver >> SESSION_BITS)).copied()
    }

    /// A peer.
    pub fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.all.get_mut(id)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.all.iter()
    }

    /// Each of them, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (PeerId, &mut Peer)> {
        self.all.iter_mut()
    }

    /// Adds a peer. `None` for our own key: nobody is its own peer.
    pub fn add(&mut self, key: PublicKey) -> Option<PeerId> {
        if self.identity.as_ref().is_some_and(|identity| identity.public == key) {
            return None;
        }
        let index = self.free_index();
        let mut peer = Peer {
            key,
            preshared: None,
            tunnel: None,
            endpoint: None,
            takes_segments: true,
            keepalive_seconds: 0,
            last_handshake: None,
            unconfirmed: None,
            received_bytes: 0,
            sent_bytes: 0,
            last_traffic: Instant::now(),
            index,
        };
        peer.tunnel = self.identity.as_ref().map(|identity| identity.tunnel(&peer));
        let id = self.all.insert(peer);
        self.by_key.insert(key, id);
        self.by_index.insert(index, id);
        Some(id)
    }

    /// Removes a peer and all that was its.
    pub fn remove(&mut self, id: PeerId) {
        let Some(peer) = self.all.try_remove(id) else { return };
        self.by_key.remove(&peer.key);
        self.by_index.remove(&peer.index);
        self.allowed.remove_all(id);
    }

    /// Sets what is mixed into handshakes with a peer; another value ends its sessions.
    pub fn set_preshared(&mut self, id: PeerId, key: Option<Zeroizing<[u8; 32]>>) {
        let Some(peer) = self.all.get_mut(id) else { return };
        if peer.preshared != key {
            peer.preshared = key;
            peer.tunnel = self.identity.as_ref().map(|identity| identity.tunnel(peer));
            peer.unconfirmed = None;
        }
    }

    /// One that no peer has; random, so that nobody guesses a session's.
    fn free_index(&self) -> u32 {
        let mut random = rand::rng();
        loop {
            let index = random.random::<u32>() >> SESSION_BITS;
            if !self.by_index.contains_key(&index) {
                return index;
            }
        }
    }
}
