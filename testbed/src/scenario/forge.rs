//! Calls that `fleetctl` would never make: tokens edited by the test, also as a client with a
//! wrong clock would sign them.

use anyhow::{Context as _, Result};
use capsule_client::{Fleet as Contexts, Home, Selection, Target};
use capsule_proto::{
    token::{Claims, METADATA_KEY},
    v1::{ListEventsRequest, WhoAmIRequest, events_client::EventsClient, identity_client::IdentityClient},
};
use tonic::{Request, Status, transport::Channel};

use super::{Capsule, Operator};

/// Full name of the method that [`Forger::whoami`] calls.
pub const WHOAMI: &str = "/capsule.v1.Identity/WhoAmI";

/// An operator's key and a pinned connection, with tokens left to the test.
pub struct Forger {
    contexts: Contexts,
    target: Target,
    channel: Channel,
}

impl Capsule<'_> {
    /// A forger with the key of the fleet's operator.
    pub async fn forger(&self) -> Result<Forger> {
        Forger::new(self.fleet.operator(), &self.name).await
    }
}

impl Forger {
    /// With the key of `operator`, against the capsule that it calls `name`.
    pub async fn new(operator: &Operator, name: &str) -> Result<Self> {
        let contexts = Contexts::open_in(Home::at(operator.config()))?;
        let selection = Selection { names: vec![name.to_owned()], ..Selection::default() };
        let target = contexts.resolve(&selection)?.pop().with_context(|| format!("no context {name}"))?;
        let channel = contexts.connector()?.channel(&target.address, Some(target.fingerprint)).await?;
        Ok(Self { contexts, target, channel })
    }

    /// The claims of an honest call of WhoAmI made now, with a fresh `jti`.
    pub fn claims(&self) -> Result<Claims> {
        Ok(self.contexts.key()?.claims(&self.target.capsule_id, WHOAMI))
    }

    /// The claims that a client whose clock is `seconds` ahead would make.
    pub fn skewed(&self, seconds: i64) -> Result<Claims> {
        let honest = self.claims()?;
        let shift = |at: u64| at.saturating_add_signed(seconds);
        Ok(Claims { iat: shift(honest.iat), exp: shift(honest.exp), ..honest })
    }

    /// Signs claims with the operator's key.
    pub fn sign(&self, claims: &Claims) -> Result<String> {
        Ok(self.contexts.key()?.token(claims))
    }

    /// Calls WhoAmI with this token; without any where it is empty.
    pub async fn whoami(&self, token: &str) -> Result<(), Status> {
        let mut client = IdentityClient::new(self.channel.clone());
        client.who_am_i(with_token(WhoAmIRequest {}, token)?).await.map(drop)
    }

    /// The same with claims signed as they are.
    pub async fn whoami_claiming(&self, claims: &Claims) -> Result<(), Status> {
        let token = self.sign(claims).map_err(|error| Status::internal(format!("{error:#}")))?;
        self.whoami(&token).await
    }

    /// Calls another method with a token for WhoAmI.
    pub async fn events(&self, token: &str) -> Result<(), Status> {
        let mut client = EventsClient::new(self.channel.clone());
        client.list(with_token(ListEventsRequest::default(), token)?).await.map(drop)
    }
}

fn with_token<T>(message: T, token: &str) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        let value = format!("Bearer {token}").parse().map_err(|_| Status::internal("not a header value"))?;
        request.metadata_mut().insert(METADATA_KEY, value);
    }
    Ok(request)
}
