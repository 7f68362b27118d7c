//! containerd's services as far as images need them: one file each, no policy.

mod content;
mod lease;
mod record;
mod snapshot;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use containerd_client::services::v1::{
    content_client::ContentClient, diff_client::DiffClient, images_client::ImagesClient,
    leases_client::LeasesClient, snapshots::snapshots_client::SnapshotsClient,
};
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

pub use content::{CHUNK_BYTES, Expected, Ingest, Written, blob_ref};
pub use lease::{Collect, Lease};

/// containerd keeps objects of different users apart by namespace; a capsule needs one.
pub const NAMESPACE: &str = "capsule";
/// Snapshotter that layers are unpacked into.
pub const SNAPSHOTTER: &str = "overlayfs";
/// Answers of containerd larger than this are refused; a list of images is the largest.
const MAX_ANSWER_BYTES: usize = 16 << 20;

type Wire = InterceptedService<Channel, Scope>;

/// Puts the namespace and, where there is one, the lease on every call.
#[derive(Clone)]
pub struct Scope {
    lease: Option<MetadataValue<tonic::metadata::Ascii>>,
}

impl Interceptor for Scope {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

/// A handle to containerd; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    channel: Channel,
    locks: Arc<KeyedLocks>,
}

impl Engine {
    pub fn new(channel: Channel) -> Self {
        Self { channel, locks: Arc::default() }
    }

    fn wire(&self, lease: Option<&Lease>) -> Wire {
        let lease = lease.and_then(|lease| lease.id().parse().ok());
        InterceptedService::new(self.channel.clone(), Scope { lease })
    }

    fn contents(&self, lease: Option<&Lease>) -> ContentClient<Wire> {
        ContentClient::new(self.wire(lease)).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    fn snapshots(&self, lease: Option<&Lease>) -> SnapshotsClient<Wire> {
        SnapshotsClient::new(self.wire(lease))
    }

    fn diffs(&self, lease: Option<&Lease>) -> DiffClient<Wire> {
        DiffClient::new(self.wire(lease))
    }

    fn leases(&self) -> LeasesClient<Wire> {
        LeasesClient::new(self.wire(None))
    }

    fn records(&self) -> ImagesClient<Wire> {
        ImagesClient::new(self.wire(None)).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Waits until nobody else in this agent works on `key` (a blob's digest, a chain id).
    pub async fn lock(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        self.locks.get(key).lock_owned().await
    }
}

/// A mutex for each key in use.
#[derive(Default)]
struct KeyedLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl KeyedLocks {
    fn get(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = map.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        map.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        map.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }
}
