//! The `Identity` service.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use capsule_proto::{
    KeyId,
    v1::{self, Role, identity_server},
};
use rusqlite::Transaction;
use tonic::{Request, Response, Status};

use super::{
    Caller, Identity, Peer, Purpose, Refusal, SUBJECT,
    claim::ClaimError,
    keys::{KeyRow, PublicKey},
    roles, table,
};
use crate::{event::NewEvent, store::StoreError};

/// Longest name of a key, in characters.
const MAX_KEY_NAME: usize = 128;

/// Why a change of keys was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyChangeError {
    /// No such key.
    #[error("no operator key {0} is enrolled; see `fleetctl key list`")]
    Unknown(String),
    /// Nobody could administer the capsule any more.
    #[error(
        "key {0} is the last admin key; enroll another admin first, with `fleetctl key add --role admin`"
    )]
    LastAdmin(KeyId),
    /// The new key of a rotation is known.
    #[error("key {0} is enrolled already; rotate to a new one")]
    Known(KeyId),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for KeyChangeError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

#[tonic::async_trait]
impl identity_server::Identity for Identity {
    async fn adopt(&self, request: Request<v1::AdoptRequest>) -> Result<Response<v1::AdoptResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("the connection is not known"))?;
        let v1::AdoptRequest { public_key, key_name, to_install } = request.into_inner();
        let purpose = if to_install { Purpose::Install } else { Purpose::Serve };
        if purpose != self.0.purpose {
            return Err(self.refuse(Refusal::Purpose(self.0.purpose), roles::ADOPT, peer.address()));
        }
        let (key, is_new) = self.claim(&peer, &public_key, &key_name).await?;
        Ok(Response::new(v1::AdoptResponse {
            capsule_id: self.capsule_id().into(),
            short_id: self.short_id().into(),
            hostname: self.hostname(),
            fingerprint: self.fingerprint().to_string(),
            key_id: key.to_string(),
            was_enrolled: !is_new,
        }))
    }

    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let key_id = Caller::of(&request)?.key_id;
        let missing = KeyChangeError::Unknown(key_id.to_string());
        let key = self.0.store.read(move |db| table::get(db, &key_id)).await?.ok_or(missing)?;
        Ok(Response::new(v1::WhoAmIResponse {
            capsule_id: self.capsule_id().into(),
            short_id: self.short_id().into(),
            hostname: self.hostname(),
            key: Some(key.to_api()),
        }))
    }

    async fn list_keys(
        &self,
        _: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        self.flush().await?;
        let keys = self.0.store.read(table::all).await?;
        Ok(Response::new(v1::ListKeysResponse { keys: keys.iter().map(KeyRow::to_api).collect() }))
    }

    async fn add_key(
        &self,
        request: Request<v1::AddKeyRequest>,
    ) -> Result<Response<v1::OperatorKey>, Status> {
        let by = Caller::of(&request)?;
        let request = request.into_inner();
        if !matches!(request.role(), Role::Viewer | Role::Operator | Role::Admin) {
            let message = "the role of the new key is not given; it is viewer, operator or admin";
            return Err(KeyChangeError::Invalid(message.into()).into());
        }
        let role = request.role();
        let row = KeyRow::new(raw_key(&request.public_key)?, key_name(&request.name)?, role);
        let key = self.put(row).await?;
        let message = format!("enrolled as {} by {} ({})", roles::role_name(role), by.key_id, by.name);
        self.told("KeyAdded", &key.key_id, message);
        Ok(Response::new(key))
    }

    async fn remove_key(
        &self,
        request: Request<v1::RemoveKeyRequest>,
    ) -> Result<Response<v1::RemoveKeyResponse>, Status> {
        let by = Caller::of(&request)?;
        let key_id = request.into_inner().key_id;
        let removed = self.remove(&key_id).await?;
        self.told(
            "KeyRemoved",
            &key_id,
            format!("{} was removed by {} ({})", removed.name, by.key_id, by.name),
        );
        Ok(Response::new(v1::RemoveKeyResponse {}))
    }

    async fn rotate_key(
        &self,
        request: Request<v1::RotateKeyRequest>,
    ) -> Result<Response<v1::OperatorKey>, Status> {
        let old = Caller::of(&request)?.key_id;
        let v1::RotateKeyRequest { new_public_key, proof } = request.into_inner();
        let new_public_key = raw_key(&new_public_key)?;
        let proven = format!("capsule-rotate-key:{}:{old}", self.capsule_id());
        UnparsedPublicKey::new(&ED25519, new_public_key).verify(proven.as_bytes(), &proof).map_err(|_| {
            KeyChangeError::Invalid("the proof is not the new key's signature over this rotation".into())
        })?;
        let key = self.rotate(&old, new_public_key).await?;
        self.told("KeyRotated", &key.key_id, format!("{} replaced its key {old}", key.name));
        Ok(Response::new(key))
    }
}

impl Identity {
    /// The key that has the capsule now, and whether it is new to it.
    async fn claim(&self, peer: &Peer, public_key: &[u8], name: &str) -> Result<(KeyId, bool), Status> {
        let refuse = |refusal| self.refuse(refusal, roles::ADOPT, peer.address());
        if self.0.refusals().is_limited(peer.address(), std::time::Instant::now()) {
            return Err(refuse(Refusal::Limited(peer.address())));
        }
        let public_key = raw_key(public_key)?;
        if peer.public_key() != Some(&public_key) {
            return Err(refuse(Refusal::NoCertificate));
        }
        let row = KeyRow::new(public_key, key_name(name)?, Role::Admin);
        let (key_id, name) = (row.key_id(), row.name.clone());
        let is_new = match self.0.window.claim(&self.0.store, row).await {
            Ok(is_new) => is_new,
            Err(ClaimError::Refused(refusal)) => return Err(refuse(refusal)),
            Err(ClaimError::Store(error)) => return Err(error.into()),
        };
        self.0.keys.reload().await?;
        peer.acknowledge();
        if is_new {
            let message = format!("{name} adopted this capsule from {}", peer.address());
            self.told("Adopted", key_id.as_str(), message);
        }
        Ok((key_id, is_new))
    }

    async fn put(&self, row: KeyRow) -> Result<v1::OperatorKey, KeyChangeError> {
        let change = move |tx: &Transaction<'_>| {
            table::put(tx, &row, None)?;
            keep_an_admin(tx, &row.key_id())?;
            table::get(tx, &row.key_id())?.ok_or_else(|| KeyChangeError::Unknown(row.key_id().to_string()))
        };
        let key = self.0.store.write(change).await?;
        self.0.keys.reload().await?;
        Ok(key.to_api())
    }

    async fn remove(&self, key_id: &str) -> Result<KeyRow, KeyChangeError> {
        let wanted = key_id.to_owned();
        let change = move |tx: &Transaction<'_>| {
            let found = table::all(tx)?.into_iter().find(|key| key.key_id().as_str() == wanted);
            let shown = wanted.chars().take(MAX_KEY_NAME).filter(|c| !c.is_control()).collect();
            let key = found.ok_or(KeyChangeError::Unknown(shown))?;
            table::remove(tx, &key.key_id())?;
            keep_an_admin(tx, &key.key_id())?;
            Ok::<_, KeyChangeError>(key)
        };
        let removed = self.0.store.write(change).await?;
        self.0.keys.reload().await?;
        Ok(removed)
    }

    async fn rotate(&self, old: &KeyId, public_key: PublicKey) -> Result<v1::OperatorKey, KeyChangeError> {
        let old = old.clone();
        let change = move |tx: &Transaction<'_>| {
            let before = table::get(tx, &old)?.ok_or_else(|| KeyChangeError::Unknown(old.to_string()))?;
            let new = KeyRow::new(public_key, before.name, before.role);
            if table::get(tx, &new.key_id())?.is_some() {
                return Err(KeyChangeError::Known(new.key_id()));
            }
            table::rotate(tx, &old, &new)?;
            Ok(new)
        };
        let key = self.0.store.write(change).await?;
        self.0.keys.reload().await?;
        Ok(key.to_api())
    }

    fn told(&self, reason: &'static str, key_id: &str, message: String) {
        self.0.events.emit(NewEvent::new(SUBJECT, key_id, reason, message));
    }
}

fn keep_an_admin(tx: &Transaction<'_>, changed: &KeyId) -> Result<(), KeyChangeError> {
    if table::admins(tx)? == 0 { Err(KeyChangeError::LastAdmin(changed.clone())) } else { Ok(()) }
}

fn raw_key(bytes: &[u8]) -> Result<PublicKey, KeyChangeError> {
    bytes.try_into().map_err(|_| {
        KeyChangeError::Invalid(format!("a public key is 32 bytes of raw Ed25519, this has {}", bytes.len()))
    })
}

fn key_name(name: &str) -> Result<String, KeyChangeError> {
    let name = name.trim();
    if name.chars().count() > MAX_KEY_NAME || name.chars().any(char::is_control) {
        let message = format!("a key's name has at most {MAX_KEY_NAME} characters and no control characters");
        return Err(KeyChangeError::Invalid(message));
    }
    Ok(if name.is_empty() { "unnamed".into() } else { name.into() })
}
