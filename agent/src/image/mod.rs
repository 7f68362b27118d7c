//! Container images: pulled from registries, pushed as archives, kept in containerd.
//!
//! `workload/` calls [`Images::ensure`] before it makes a sandbox; pulls of one reference share
//! one download. [`rpc`] serves the rest. No task runs while nothing is pulled or pushed.
//!
//! - `reference`, `manifest`: texts and documents, pure; [`config`]: which registries how;
//! - `engine/`: containerd's services; `resolve`: a record's manifest and configuration;
//! - `registry`, `pull`, `share`, `unpack`: from a registry to snapshots;
//! - `archive/`, `push`: from a `docker save` or OCI archive to the same; `on_board`: from one on this machine;
//! - `prune`: list, remove, prune; `progress`: what callers see meanwhile.

mod archive;
pub mod config;
mod engine;
mod error;
mod grammar;
mod manifest;
mod on_board;
mod progress;
mod prune;
mod pull;
mod push;
mod reference;
mod registry;
mod resolve;
pub mod rpc;
mod share;
#[cfg(test)]
mod tests;
mod unpack;

use std::sync::Arc;

use async_trait::async_trait;
use capsule_proto::{Name, v1};
use oci_client::Reference;
use tonic::transport::Channel;

use crate::{
    event::{Events, NewEvent},
    store::StoreError,
};
pub use config::{Authority, CREDENTIALS_FILE, Mirror, RegistryConfig};
pub use engine::{NAMESPACE, SNAPSHOTTER};
pub use error::ImageError;

use engine::{Collect, Engine};
use progress::Progress;
use resolve::Image;

/// An image that is in the content store and unpacked.
#[derive(Clone, Debug)]
pub struct ImageInfo {
    /// Normalised: `docker.io/library/nginx:1.27`.
    pub reference: String,
    /// Of the manifest that fits this machine.
    pub digest: String,
    /// Entrypoint, environment, user and the like.
    pub config: oci_spec::image::ImageConfiguration,
    /// Chain id of its layers: the parent of a sandbox's snapshot.
    pub chain_id: String,
}

/// Where progress of a pull or push goes.
pub type ProgressSender = tokio::sync::watch::Sender<v1::ImageProgress>;

/// Who knows which images are needed: `workload/`.
#[async_trait]
pub trait ImageUsers: Send + Sync {
    /// Each workload with the reference in its spec, normalised or not.
    async fn images_in_use(&self) -> Result<Vec<(String, Name)>, StoreError>;
}

/// The images of this capsule; cheap to clone.
#[derive(Clone)]
pub struct Images {
    engine: Engine,
    events: Events,
    config: Arc<RegistryConfig>,
    pulls: share::Pulls,
}

impl Images {
    /// Connects to nobody yet. `channel` leads to containerd.
    pub fn new(channel: Channel, events: Events, config: RegistryConfig) -> Self {
        let pulls = share::Pulls::default();
        Self { engine: Engine::new(channel), events, config: Arc::new(config), pulls }
    }

    /// Normalises as docker does (`nginx` is `docker.io/library/nginx:latest`) or says what is
    /// wrong.
    pub fn parse_reference(text: &str) -> Result<String, ImageError> {
        reference::parse(text).map(|reference| reference.whole())
    }

    /// The image, unpacked. What this capsule has is taken as it is, `latest` too; else it is
    /// pulled, once for all who ask at the same time. A pull goes on while anyone waits for it.
    pub async fn ensure(
        &self,
        reference: &str,
        progress: Option<&ProgressSender>,
    ) -> Result<ImageInfo, ImageError> {
        let reference = reference::parse(reference)?;
        match self.ensure_local(&reference).await? {
            Some(info) => Ok(info),
            None => self.download(reference, None, progress).await,
        }
    }

    /// Asks the registry, also where the capsule has an image of this name.
    pub async fn pull(
        &self,
        reference: &str,
        auth: Option<v1::RegistryAuth>,
        progress: Option<&ProgressSender>,
    ) -> Result<ImageInfo, ImageError> {
        self.download(reference::parse(reference)?, pull::credentials(auth), progress).await
    }

    /// The image, where this capsule has it.
    pub async fn get(&self, reference: &str) -> Result<Option<ImageInfo>, ImageError> {
        let reference = reference::parse(reference)?;
        Ok(self.find(&reference).await?.map(|image| image.info(reference.whole())))
    }

    /// The same, ready to be run: unpacked where that is still to be done.
    pub async fn unpacked(&self, reference: &str) -> Result<Option<ImageInfo>, ImageError> {
        self.ensure_local(&reference::parse(reference)?).await
    }

    async fn download(
        &self,
        reference: Reference,
        auth: Option<oci_client::secrets::RegistryAuth>,
        report: Option<&ProgressSender>,
    ) -> Result<ImageInfo, ImageError> {
        let key = share::Key { reference: reference.clone(), auth: auth.clone() };
        let this = self.clone();
        self.pulls
            .run(key, report, move |progress| async move {
                let whole = reference.whole();
                this.events.emit(NewEvent::new("image", &whole, "Pulling", format!("pulling {whole}")));
                let began = std::time::Instant::now();
                let pulled = pull::pull(&this.engine, &this.config, &reference, auth, &progress).await;
                this.events.emit(match &pulled {
                    Ok(info) => {
                        let (digest, took) = (&info.digest, began.elapsed().as_secs_f32());
                        NewEvent::new("image", &whole, "Pulled", format!("{digest} in {took:.1} s"))
                    }
                    Err(error) => {
                        NewEvent::new("image", &whole, "PullFailed", crate::status::chain(error)).warning()
                    }
                });
                pulled
            })
            .await
    }

    /// What this capsule has, unpacked if it is not; `None` where content is missing.
    async fn ensure_local(&self, reference: &Reference) -> Result<Option<ImageInfo>, ImageError> {
        let Some(image) = self.find(reference).await? else { return Ok(None) };
        if !self.engine.has_snapshot(&image.chain_id()).await? {
            let lease = self.engine.lease("unpack").await?;
            let unpacked = unpack::unpack(&self.engine, &lease, &image, &Progress::new()).await;
            self.engine.release(lease, Collect::Later).await?;
            match unpacked {
                Err(error) if error.is_missing() => return Ok(None),
                other => other?,
            }
        }
        Ok(Some(image.info(reference.whole())))
    }

    /// The image of this name or, where the reference is a digest, any of the same repository
    /// with it, which then gets this name too.
    async fn find(&self, reference: &Reference) -> Result<Option<Image>, ImageError> {
        let whole = reference.whole();
        let target = match self.engine.record(&whole).await? {
            Some(record) => record.target,
            None => self.adopt_digest(reference).await?,
        };
        let Some(target) = target else { return Ok(None) };
        match Image::resolve(&self.engine, &whole, target).await {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn adopt_digest(
        &self,
        reference: &Reference,
    ) -> Result<Option<containerd_client::types::Descriptor>, ImageError> {
        let Some(digest) = reference.digest() else { return Ok(None) };
        let records = self.engine.list_records(Some(format!("target.digest=={digest}"))).await?;
        let same_repository = |name: &str| {
            grammar::parse(name).is_ok_and(|other| {
                (other.registry(), other.repository()) == (reference.registry(), reference.repository())
            })
        };
        let Some(found) = records.into_iter().find(|record| same_repository(&record.name)) else {
            return Ok(None);
        };
        let target = found.target.unwrap_or_default();
        Ok(self.engine.set_record(&reference.whole(), target).await?.target)
    }
}
