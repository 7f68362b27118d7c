//! A pull: manifest, blobs into containerd's content store, layers unpacked, record set.
//!
//! Every blob is written under a reference made of its digest and held by the pull's lease, so a
//! pull that was cut off - by the network, by `kill -9` of the agent - goes on at the byte where it
//! stopped, for a day.

use std::time::Duration;

use capsule_proto::v1::LayerState;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use oci_client::{Reference, secrets::RegistryAuth};
use oci_spec::image::{Descriptor, ImageManifest};

use super::{
    ImageError, ImageInfo, RegistryConfig,
    engine::{CHUNK_BYTES, Collect, Engine, Expected, Ingest, Lease, blob_ref},
    manifest::{self, Document},
    progress::{Layer, Progress},
    registry::{Registry, broken},
    resolve::Image,
    unpack,
};

/// Blobs of one pull that are on their way at once.
const CONCURRENT_BLOBS: usize = 3;
/// How often a blob is taken up again without a byte of progress, and the first pause.
const BLOB_ATTEMPTS: u32 = 4;
const BLOB_PAUSE: Duration = Duration::from_millis(500);

/// Pulls, whatever is there already; content that is there is not fetched again.
pub async fn pull(
    engine: &Engine,
    config: &RegistryConfig,
    reference: &Reference,
    auth: Option<RegistryAuth>,
    progress: &Progress,
) -> Result<ImageInfo, ImageError> {
    let registry = Registry::open(reference, config, auth)?;
    let lease = engine.pull_lease(&reference.whole()).await?;
    let pull = Pull { engine, registry, reference, lease, progress };
    let image = pull.fetch().await?;
    unpack::unpack(engine, &pull.lease, &image, progress).await?;
    engine.set_record(&reference.whole(), image.target.clone()).await?;
    engine.release(pull.lease, Collect::Later).await?;
    Ok(image.info(reference.whole()))
}

struct Pull<'a> {
    engine: &'a Engine,
    registry: Registry,
    reference: &'a Reference,
    lease: Lease,
    progress: &'a Progress,
}

impl Pull<'_> {
    async fn fetch(&self) -> Result<Image, ImageError> {
        let whole = self.reference.whole();
        let (top, digest) = self.registry.manifest(None).await?;
        let (document, media_type) = manifest::parse(&format!("manifest of {whole}"), &top)?;
        let target = containerd_client::types::Descriptor {
            media_type,
            digest: digest.clone(),
            size: top.len() as i64,
            ..Default::default()
        };
        match document {
            Document::Manifest(manifest) => self.fetch_image(target, &digest, &top, *manifest).await,
            Document::Index(index) => {
                let chosen = manifest::choose(&whole, &index)?.digest().to_string();
                let (bytes, _) = self.registry.manifest(Some(&chosen)).await?;
                let (child, _) = manifest::parse(&format!("manifest {chosen} of {whole}"), &bytes)?;
                let Document::Manifest(manifest) = child else {
                    return Err(ImageError::malformed(whole, "its index leads to another index"));
                };
                let image = self.fetch_image(target, &chosen, &bytes, *manifest).await?;
                let labels = manifest::gc_labels(&Document::Index(index));
                self.engine.put(&self.lease, &digest, &top, labels).await?;
                Ok(image)
            }
        }
    }

    async fn fetch_image(
        &self,
        target: containerd_client::types::Descriptor,
        digest: &str,
        bytes: &[u8],
        manifest: ImageManifest,
    ) -> Result<Image, ImageError> {
        let layers: Vec<_> = manifest
            .layers()
            .iter()
            .map(|layer| {
                let line = self.progress.find_or_add(layer.digest().as_ref(), layer.size());
                self.fetch_blob(layer, Some(line)).boxed()
            })
            .collect();
        self.fetch_blob(manifest.config(), None).await?;
        stream::iter(layers).buffer_unordered(CONCURRENT_BLOBS).try_collect::<()>().await?;
        let labels = manifest::gc_labels(&Document::Manifest(Box::new(manifest.clone())));
        self.engine.put(&self.lease, digest, bytes, labels).await?;
        Image::load(self.engine, target, digest.to_owned(), manifest).await
    }

    /// Fetches a blob, taking up broken connections again.
    async fn fetch_blob(&self, blob: &Descriptor, line: Option<Layer>) -> Result<(), ImageError> {
        let digest = blob.digest().to_string();
        // Another pull may be fetching the same layer.
        let _turn = self.engine.lock(&digest).await;
        let (mut failures, mut furthest) = (0, 0);
        loop {
            let mut reached = 0;
            match self.fetch_blob_once(blob, &digest, line.as_ref(), &mut reached).await {
                Err(error) if error.is_retryable() && failures + 1 < BLOB_ATTEMPTS => {
                    failures = if reached > furthest { 1 } else { failures + 1 };
                    furthest = furthest.max(reached);
                    tracing::info!(%error, digest, reached, "taking up a blob again");
                    tokio::time::sleep(BLOB_PAUSE * 2_u32.pow(failures - 1)).await;
                }
                other => return other,
            }
        }
    }

    async fn fetch_blob_once(
        &self,
        blob: &Descriptor,
        digest: &str,
        line: Option<&Layer>,
        reached: &mut u64,
    ) -> Result<(), ImageError> {
        let expected = Expected { digest: digest.to_owned(), size: blob.size() };
        let opened = Ingest::open(self.engine, &self.lease, blob_ref(digest), Some(expected)).await?;
        let Some(mut ingest) = opened else {
            line.inspect(|line| line.state(LayerState::Exists));
            return Ok(());
        };
        if ingest.offset() > blob.size() {
            ingest.rewind();
        }
        if ingest.offset() < blob.size() {
            let (start, bytes) = self.registry.blob(blob, ingest.offset()).await?;
            if start == 0 {
                ingest.rewind();
            }
            let copied = self.copy(bytes, &mut ingest, blob.size(), line).await;
            *reached = ingest.offset();
            copied?;
        }
        ingest.commit().await.map(drop)
    }

    async fn copy(
        &self,
        mut bytes: super::registry::BlobStream,
        ingest: &mut Ingest,
        size: u64,
        line: Option<&Layer>,
    ) -> Result<(), ImageError> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        loop {
            let piece = bytes.try_next().await;
            if let Ok(Some(piece)) = &piece {
                chunk.extend_from_slice(piece);
            }
            let ended = !matches!(piece, Ok(Some(_)));
            if ended || chunk.len() >= CHUNK_BYTES {
                ingest.write(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_BYTES))).await?;
                line.inspect(|line| line.downloaded(ingest.offset()));
            }
            if ended || ingest.offset() > size {
                ingest.flush().await?;
                return match piece {
                    Err(error) => Err(broken(self.reference, &error)),
                    Ok(_) if ingest.offset() < size => {
                        let cut = std::io::Error::other("the connection ended in the middle of a blob");
                        Err(broken(self.reference, &cut))
                    }
                    Ok(_) => Ok(()),
                };
            }
        }
    }
}

/// Credentials as the registry client takes them.
pub fn credentials(auth: Option<capsule_proto::v1::RegistryAuth>) -> Option<RegistryAuth> {
    auth.map(|auth| RegistryAuth::Basic(auth.username, auth.password))
}
