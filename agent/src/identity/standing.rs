//! Calls that go on for long, and a key that is removed meanwhile: what it may no longer do ends.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::{Either, select};
use http::Response;
use http_body::{Frame, SizeHint};
use tokio::sync::watch;
use tonic::{Status, body::Body};

use super::{Identity, keys::PublicKey, roles};

/// Its calls are short, and some of them change the very key they are made with.
const IDENTITY: &str = "/capsule.v1.Identity/";

/// The right of a key to a call that was admitted.
pub(super) struct Standing {
    identity: Identity,
    public_key: PublicKey,
    method: String,
    changes: watch::Receiver<()>,
}

impl Standing {
    /// Looked at anew whenever keys change.
    pub(super) fn new(identity: &Identity, public_key: PublicKey, method: &str) -> Option<Self> {
        let changes = identity.0.keys.changes();
        let standing = Self { identity: identity.clone(), public_key, method: method.to_owned(), changes };
        (!method.starts_with(IDENTITY)).then_some(standing)
    }

    /// Answers the call, as long as the key may make it.
    pub(super) async fn guard<E>(
        self,
        call: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Response<Body>, E> {
        let lost = Box::pin(self.lost());
        match select(Box::pin(call), lost).await {
            Either::Left((answer, lost)) => {
                answer.map(|response| response.map(|body| Body::new(Guarded { body, lost: Some(lost) })))
            }
            Either::Right((status, _)) => Ok(status.into_http()),
        }
    }

    async fn lost(mut self) -> Status {
        while self.changes.changed().await.is_ok() {
            let key = self.identity.0.keys.find(&self.public_key);
            if key.is_none_or(|key| (key.role as i32) < (roles::least_role(&self.method) as i32)) {
                return Status::unauthenticated(
                    "the key of this call was removed from the capsule, or has a lesser role now",
                );
            }
        }
        // The agent is ending, and with it every call.
        std::future::pending().await
    }
}

type Lost = Pin<Box<dyn Future<Output = Status> + Send>>;

/// The body of an answer, up to the moment when its caller may have it no longer.
struct Guarded {
    body: Body,
    /// `None` once the body has ended.
    lost: Option<Lost>,
}

impl http_body::Body for Guarded {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Some(lost) = &mut self.lost else { return Poll::Ready(None) };
        if let Poll::Ready(status) = lost.as_mut().poll(context) {
            self.lost = None;
            let mut trailers = http::HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.lost.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
