//! From a record's target to the image that fits this machine, out of the content store.

use containerd_client::types::Descriptor;
use oci_spec::image::{ImageConfiguration, ImageManifest};

use super::{
    ImageError, ImageInfo,
    engine::Engine,
    manifest::{self, Document},
};

/// An image whose manifest and configuration are in the content store.
#[derive(Clone, Debug)]
pub struct Image {
    /// What a record points to: the manifest, or the index above it.
    pub target: Descriptor,
    /// Of the manifest.
    pub digest: String,
    pub manifest: ImageManifest,
    pub config: ImageConfiguration,
}

impl Image {
    /// Reads the configuration of `manifest`.
    pub async fn load(
        engine: &Engine,
        target: Descriptor,
        digest: String,
        manifest: ImageManifest,
    ) -> Result<Self, ImageError> {
        let config_digest = manifest.config().digest().to_string();
        let what = format!("configuration {config_digest}");
        let text = read(engine, &config_digest).await?;
        let config = manifest::parse_config(&what, &text, &manifest)?;
        Ok(Self { target, digest, manifest, config })
    }

    /// Follows `target`; an error that [`ImageError::is_missing`] where content is not there.
    pub async fn resolve(engine: &Engine, what: &str, target: Descriptor) -> Result<Self, ImageError> {
        let text = read(engine, &target.digest).await?;
        match manifest::parse(&format!("manifest {}", target.digest), &text)?.0 {
            Document::Manifest(manifest) => {
                let digest = target.digest.clone();
                Self::load(engine, target, digest, *manifest).await
            }
            Document::Index(index) => {
                let chosen = manifest::choose(what, &index)?.digest().to_string();
                let text = read(engine, &chosen).await?;
                match manifest::parse(&format!("manifest {chosen}"), &text)?.0 {
                    Document::Manifest(manifest) => Self::load(engine, target, chosen, *manifest).await,
                    Document::Index(_) => {
                        Err(ImageError::malformed(what, "its index leads to another index"))
                    }
                }
            }
        }
    }

    /// Chain id of the topmost layer.
    pub fn chain_id(&self) -> String {
        // parse_config let no configuration without layers through.
        manifest::chain_ids(&self.config).pop().unwrap_or_default()
    }

    /// Bytes of its blobs, the index included.
    pub fn size_bytes(&self) -> u64 {
        let blobs = self.manifest.layers().iter().chain(Some(self.manifest.config()));
        blobs.map(oci_spec::image::Descriptor::size).sum::<u64>() + self.target.size as u64
    }

    /// As the rest of the agent knows it.
    pub fn info(self, reference: String) -> ImageInfo {
        let chain_id = self.chain_id();
        ImageInfo { reference, digest: self.digest, config: self.config, chain_id }
    }
}

async fn read(engine: &Engine, digest: &str) -> Result<Vec<u8>, ImageError> {
    engine.read(digest).await?.ok_or_else(|| ImageError::Engine {
        attempted: format!("reading {digest}"),
        detail: "the content store does not have it".into(),
        code: tonic::Code::NotFound,
    })
}
