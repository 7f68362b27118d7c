//! A connected capsule and its services.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use capsule_proto::{
    token::METADATA_KEY,
    v1::{
        debug_client::DebugClient, events_client::EventsClient, fabric_client::FabricClient,
        identity_client::IdentityClient, images_client::ImagesClient, install_client::InstallClient,
        node_client::NodeClient, updates_client::UpdatesClient, volumes_client::VolumesClient,
        workloads_client::WorkloadsClient,
    },
};
use http::HeaderValue;
use tonic::{body::Body, transport::Channel};
use tower::Service;

use crate::{OperatorKey, Target};

/// Largest answer that is read.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A capsule that was reached; cheap to clone.
#[derive(Clone)]
pub struct Capsule {
    target: Target,
    link: Link,
}

macro_rules! services {
    ($($name:ident: $client:ident, $about:literal;)*) => {$(
        #[doc = $about]
        pub fn $name(&self) -> $client<Link> {
            $client::new(self.link.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
        }
    )*};
}

impl Capsule {
    pub(crate) fn new(target: Target, channel: Channel, key: OperatorKey) -> Self {
        let capsule_id = target.capsule_id.as_str().into();
        Self { target, link: Link { channel, key, capsule_id } }
    }

    /// Who was meant.
    pub fn target(&self) -> &Target {
        &self.target
    }

    services! {
        identity: IdentityClient, "Who the capsule is and who may talk to it.";
        node: NodeClient, "The machine itself.";
        workloads: WorkloadsClient, "Containers and microVMs.";
        images: ImagesClient, "Container images.";
        volumes: VolumesClient, "Volumes.";
        fabric: FabricClient, "The capsule among others.";
        updates: UpdatesClient, "The system in its two slots.";
        install: InstallClient, "An installer's disks.";
        debug: DebugClient, "Privileged shells on the machine itself.";
        events: EventsClient, "What happened.";
    }
}

/// A channel that signs a token for each call.
#[derive(Clone)]
pub struct Link {
    channel: Channel,
    key: OperatorKey,
    capsule_id: Arc<str>,
}

impl Service<http::Request<Body>> for Link {
    type Response = <Channel as Service<http::Request<Body>>>::Response;
    type Error = <Channel as Service<http::Request<Body>>>::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.channel, context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let claims = self.key.claims(&self.capsule_id, request.uri().path());
        // Base64 and dots are always a header value.
        if let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", self.key.token(&claims))) {
            value.set_sensitive(true);
            request.headers_mut().insert(METADATA_KEY, value);
        }
        self.channel.call(request)
    }
}
