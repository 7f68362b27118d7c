//! With a real containerd and a real registry, each of the test's own.

mod fixture;
mod pull;
mod push;
mod remove;
mod rpc;
mod services;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use capsule_proto::{Name, v1};

use super::*;
use crate::store::Store;
use fixture::Fixture;
use services::{Containerd, Proxy, Registry};

/// A capsule's images on a containerd of their own.
struct Capsule {
    images: Images,
    containerd: Containerd,
    store: Store,
}

impl Capsule {
    async fn start() -> Self {
        Self::with(RegistryConfig::default()).await
    }

    async fn with(config: RegistryConfig) -> Self {
        Self::over(Containerd::start().await, config)
    }

    fn over(containerd: Containerd, config: RegistryConfig) -> Self {
        let store = Store::open(containerd.dir.path()).unwrap();
        let images = images(&containerd, &store, config);
        Self { images, containerd, store }
    }

    /// What a new agent process would begin with.
    fn restart_agent(&mut self) {
        self.images = images(&self.containerd, &self.store, RegistryConfig::default());
    }

    /// Whether the content store holds nothing at all once the garbage collector ran.
    async fn is_empty(&self) -> bool {
        self.images.engine.collect().await.unwrap();
        self.images.engine.blobs().await.unwrap().is_empty()
            && self.images.engine.list_records(None).await.unwrap().is_empty()
            && self.images.engine.unpacked_bytes().await.unwrap() == 0
    }
}

fn images(containerd: &Containerd, store: &Store, config: RegistryConfig) -> Images {
    Images::new(containerd.channel(), Events::start(store.clone()), config)
}

/// Workloads that name images.
#[derive(Default)]
struct Users(Mutex<Vec<(String, Name)>>);

impl Users {
    fn of(references: &[(&str, &str)]) -> Arc<Self> {
        let users = references.iter().map(|(image, name)| ((*image).to_owned(), name.parse().unwrap()));
        Arc::new(Self(Mutex::new(users.collect())))
    }
}

#[async_trait]
impl ImageUsers for Users {
    async fn images_in_use(&self) -> Result<Vec<(String, Name)>, StoreError> {
        Ok(self.0.lock().unwrap().clone())
    }
}

fn text(error: &ImageError) -> String {
    crate::status::chain(error)
}

#[test]
fn errors_know_whether_waiting_may_help() {
    let registry = |status| ImageError::Registry {
        reference: "r".into(),
        registry: "r".into(),
        status,
        detail: String::new(),
    };
    for status in [408, 429, 500, 503] {
        assert!(registry(status).is_retryable(), "{status}");
    }
    for status in [0, 400, 403] {
        assert!(!registry(status).is_retryable(), "{status}");
    }
    let full = ImageError::engine("writing", &tonic::Status::unknown("write x: no space left on device"));
    assert!(matches!(full, ImageError::DiskFull { .. }) && full.is_retryable());
    assert!(ImageError::Shared(Arc::new(registry(503))).is_retryable());
}
