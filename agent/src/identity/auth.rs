//! The layer around every service: each call is checked against keys, token and role.

use std::{
    sync::atomic::Ordering,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use capsule_proto::{KeyId, token::METADATA_KEY, v1::Role};
use futures_util::future::{BoxFuture, ready};
use http::{HeaderMap, Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    Identity, Peer, Refusal, Timekeeper, roles,
    standing::Standing,
    token::{self, Ahead},
};
use crate::sys::timex;

/// Who calls; a request extension of every call but `Adopt`.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The operator key.
    pub key_id: KeyId,
    /// What it may do.
    pub role: Role,
    /// What its operator calls it.
    pub name: String,
}

impl Caller {
    /// Who makes a call that was let through.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| Status::internal("the caller is not known; this is a fault of the agent"))
    }
}

impl Identity {
    /// Checks one call.
    fn authenticate(&self, method: &str, headers: &HeaderMap, peer: &Peer) -> Result<Caller, Refusal> {
        let public_key = peer.public_key().ok_or(Refusal::NoCertificate)?;
        let key = self.0.keys.find(public_key).ok_or_else(|| Refusal::NotEnrolled(KeyId::of(public_key)))?;
        let (clock, moment) = (SystemTime::now(), Instant::now());
        let clock = clock.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let is_own = self.0.timekeeper.get() == Some(&Timekeeper::Appliance);
        let is_vouched = !is_own || timex::is_synchronised();
        let floor = if is_vouched { 0 } else { key.floor().at(moment) };
        let expected = token::Expected {
            capsule_id: &self.0.capsule_id,
            key_id: &key.key_id,
            method,
            now: clock.max(floor),
            ahead: if is_vouched { Ahead::Refused } else { Ahead::Taken },
        };
        let checked = token::check(bearer(headers)?, &key.decoding, &expected);
        let checked = checked.map_err(|refusal| refusal.by_floor(floor > clock))?;
        self.0.replay().take(checked.jti, checked.lifetime, moment)?;
        peer.acknowledge();
        key.mark_used(UNIX_EPOCH + Duration::from_secs(checked.at));
        if !is_vouched && key.floor().raise(checked.at, moment) {
            self.keep_floor();
        }
        if !roles::may(key.role, method) {
            let needs = roles::least_role(method);
            let (method, key_name) = (method.to_owned(), key.name.clone());
            return Err(Refusal::Role { key: key_name, has: key.role, needs, method });
        }
        self.0.admitted.fetch_add(1, Ordering::Relaxed);
        Ok(Caller { key_id: key.key_id.clone(), role: key.role, name: key.name.clone() })
    }

    /// Writes the last use of keys down at once: the next agent begins there.
    fn keep_floor(&self) {
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.flush().await {
                tracing::warn!(%error, "the time that a key has proven was not written down");
            }
        });
    }

    /// Puts the caller into the request, or makes the answer that refuses it. What it gives watches
    /// over a call that may go on for long.
    fn admit<B>(&self, request: &mut Request<B>) -> Result<Option<Standing>, Status> {
        let method = request.uri().path();
        let Some(peer) = request.extensions().get::<Peer>() else {
            return Err(Status::internal("the connection is not known; this is a fault of the agent"));
        };
        if method == roles::ADOPT {
            return Ok(None);
        }
        // Before the check, so that no change between the two goes unseen.
        let standing = peer.public_key().and_then(|key| Standing::new(self, *key, method));
        match self.authenticate(method, request.headers(), peer) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Ok(standing)
            }
            Err(refusal) => Err(self.refuse(refusal, method, peer.address())),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let missing = || Refusal::Token(format!("the metadata has no `{METADATA_KEY}: Bearer …`"));
    let value = headers.get(METADATA_KEY).ok_or_else(missing)?;
    value.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(missing)
}

/// Wraps services in the check.
#[derive(Clone)]
pub struct AuthLayer(pub(super) Identity);

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService { identity: self.0.clone(), inner }
    }
}

/// A service that only authenticated calls reach.
#[derive(Clone)]
pub struct AuthService<S> {
    identity: Identity,
    inner: S,
}

impl<S> Service<Request<Body>> for AuthService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.identity.admit(&mut request) {
            Ok(Some(standing)) => Box::pin(standing.guard(self.inner.call(request))),
            Ok(None) => Box::pin(self.inner.call(request)),
            Err(status) => Box::pin(ready(Ok(status.into_http()))),
        }
    }
}
