//! Enrolled operator keys: rows in the database, and a copy in memory that calls are checked
//! against.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Instant, SystemTime},
};

use capsule_proto::{KeyId, timestamp, v1};
use jsonwebtoken::DecodingKey;
use tokio::sync::watch;

use super::{floor::Floor, table};
use crate::{
    clock::{from_millis, to_millis},
    store::{Store, StoreError},
};

/// A raw Ed25519 public key.
pub(super) type PublicKey = [u8; 32];

/// A row of `operator_key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyRow {
    pub(super) public_key: PublicKey,
    pub(super) name: String,
    pub(super) role: v1::Role,
    pub(super) enrolled_at: SystemTime,
    pub(super) last_used_at: Option<SystemTime>,
}

impl KeyRow {
    /// One that is enrolled now.
    pub(super) fn new(public_key: PublicKey, name: String, role: v1::Role) -> Self {
        Self { public_key, name, role, enrolled_at: SystemTime::now(), last_used_at: None }
    }

    pub(super) fn key_id(&self) -> KeyId {
        KeyId::of(&self.public_key)
    }

    pub(super) fn to_api(&self) -> v1::OperatorKey {
        v1::OperatorKey {
            key_id: self.key_id().to_string(),
            public_key: self.public_key.to_vec(),
            name: self.name.clone(),
            role: self.role as i32,
            enrolled_at: Some(timestamp(self.enrolled_at)),
            last_used_at: self.last_used_at.map(timestamp),
        }
    }
}

/// A key in memory.
pub(super) struct Enrolled {
    pub(super) key_id: KeyId,
    pub(super) public_key: PublicKey,
    pub(super) name: String,
    pub(super) role: v1::Role,
    pub(super) decoding: DecodingKey,
    /// Milliseconds since the epoch; 0 where it was not used since it was loaded.
    used_at: AtomicI64,
    /// What its tokens say of the time. The same whenever the keys are loaded anew.
    floor: Arc<Mutex<Floor>>,
}

impl Enrolled {
    pub(super) fn mark_used(&self, at: SystemTime) {
        self.used_at.store(to_millis(at), Ordering::Relaxed);
    }

    pub(super) fn floor(&self) -> MutexGuard<'_, Floor> {
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The copy in memory. What the database says counts: after each change it is loaded anew.
pub(super) struct Keys {
    store: Store,
    by_public_key: RwLock<HashMap<PublicKey, Arc<Enrolled>>>,
    /// So that of two reloads the later one also ends later.
    reloading: tokio::sync::Mutex<()>,
    changed: watch::Sender<()>,
}

impl Keys {
    pub(super) async fn load(store: Store) -> Result<Self, StoreError> {
        let keys = Self {
            store,
            by_public_key: RwLock::default(),
            reloading: tokio::sync::Mutex::default(),
            changed: watch::Sender::default(),
        };
        keys.reload().await?;
        Ok(keys)
    }

    pub(super) fn find(&self, public_key: &PublicKey) -> Option<Arc<Enrolled>> {
        self.by_public_key.read().unwrap_or_else(PoisonError::into_inner).get(public_key).cloned()
    }

    /// The one of this name.
    pub(super) fn named(&self, key_id: &str) -> Option<Arc<Enrolled>> {
        let keys = self.by_public_key.read().unwrap_or_else(PoisonError::into_inner);
        keys.values().find(|key| key.key_id.as_str() == key_id).cloned()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_public_key.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Makes the copy what the database says; from then on removed keys are refused.
    pub(super) async fn reload(&self) -> Result<(), StoreError> {
        let _turn = self.reloading.lock().await;
        self.flush_used().await?;
        let rows = self.store.read(table::all).await?;
        let enrolled = |row: &KeyRow| {
            let known = self.find(&row.public_key).map(|key| key.floor.clone());
            Arc::new(enrolled(row, known))
        };
        let loaded = rows.iter().map(|row| (row.public_key, enrolled(row))).collect();
        *self.by_public_key.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        self.changed.send_replace(());
        Ok(())
    }

    /// Tells of every change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Writes when keys were last used, where they were: not with each call, but now and then.
    pub(super) async fn flush_used(&self) -> Result<(), StoreError> {
        let used: Vec<(KeyId, SystemTime)> = {
            let keys = self.by_public_key.read().unwrap_or_else(PoisonError::into_inner);
            let taken = keys.values().map(|key| (key.key_id.clone(), key.used_at.swap(0, Ordering::Relaxed)));
            taken.filter(|(_, at)| *at != 0).map(|(id, at)| (id, from_millis(at))).collect()
        };
        if used.is_empty() {
            return Ok(());
        }
        self.store.write(move |tx| table::set_last_used(tx, &used)).await
    }
}

fn enrolled(row: &KeyRow, floor: Option<Arc<Mutex<Floor>>>) -> Enrolled {
    let kept = || Arc::new(Mutex::new(Floor::new(row.last_used_at, Instant::now())));
    Enrolled {
        floor: floor.unwrap_or_else(kept),
        key_id: row.key_id(),
        public_key: row.public_key,
        name: row.name.clone(),
        role: row.role,
        decoding: DecodingKey::from_ed_der(&row.public_key),
        used_at: AtomicI64::new(0),
    }
}
