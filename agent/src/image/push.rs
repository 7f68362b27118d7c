//! A push: an archive's blobs into the content store, layers unpacked, records set last - or
//! nothing kept at all.

use std::collections::HashMap;

use containerd_client::types::Descriptor;
use oci_client::Reference;
use oci_spec::image::ImageManifest;
use tokio::io::AsyncBufRead;

use super::{
    Collect, Engine, ImageError, Images, NewEvent,
    archive::{self, Found, Source},
    engine::Lease,
    manifest::{self, Document},
    progress::Progress,
    reference,
    resolve::Image,
    unpack::{self, to_wire},
};

impl Images {
    /// Takes an archive as `docker save` writes it or in OCI's layout, plain, gzip or zstd, and
    /// answers with the names of the images it brought. `name` replaces the name in an archive
    /// of one image. On an error nothing of the archive is kept.
    pub(super) async fn push(
        &self,
        name: Option<&str>,
        archive: impl AsyncBufRead + Send + Unpin + 'static,
        progress: &Progress,
    ) -> Result<Vec<String>, ImageError> {
        let name = name.map(reference::parse).transpose()?;
        let lease = self.engine.lease("push").await?;
        let push = Push { engine: &self.engine, lease: &lease, progress };
        match push.run(name, archive).await {
            Ok(made) => {
                self.engine.release(lease, Collect::Later).await?;
                for (name, digest) in &made {
                    let event = NewEvent::new("image", name, "Pushed", format!("{digest} from an archive"));
                    self.events.emit(event);
                }
                Ok(made.into_iter().map(|(name, _)| name).collect())
            }
            Err(error) => {
                // The garbage collector takes what only the lease held.
                if let Err(error) = self.engine.release(lease, Collect::Now).await {
                    tracing::warn!(%error, "what a refused push left stays for a day");
                }
                let message = crate::status::chain(&error);
                self.events.emit(NewEvent::new("image", "", "PushFailed", message).warning());
                Err(error)
            }
        }
    }
}

struct Push<'a> {
    engine: &'a Engine,
    lease: &'a Lease,
    progress: &'a Progress,
}

impl Push<'_> {
    async fn run(
        &self,
        name: Option<Reference>,
        archive: impl AsyncBufRead + Send + Unpin + 'static,
    ) -> Result<Vec<(String, String)>, ImageError> {
        let tar = archive::decompress(archive)
            .await
            .map_err(|error| ImageError::Archive(format!("it could not be received: {error}")))?;
        let received = archive::receive(self.engine, self.lease, tar, self.progress).await?;
        let found = named(archive::plan(&received)?, name)?;
        let mut images = Vec::new();
        for Found { names, source } in found {
            let target = self.target(source).await?;
            let image = self.complete(&names[0], target).await?;
            unpack::unpack(self.engine, self.lease, &image, self.progress).await?;
            images.extend(names.into_iter().map(|name| (name, image.clone())));
        }
        self.record(images).await
    }

    /// Sets all records or, where one cannot be set, puts those before it back as they were.
    async fn record(&self, images: Vec<(String, Image)>) -> Result<Vec<(String, String)>, ImageError> {
        let (mut made, mut before) = (Vec::new(), Vec::new());
        for (name, image) in images {
            let old = self.engine.record(&name).await?.and_then(|record| record.target);
            before.push((name.clone(), old));
            if let Err(error) = self.engine.set_record(&name, image.target).await {
                self.restore(before).await;
                return Err(error);
            }
            made.push((name, image.digest));
        }
        Ok(made)
    }

    async fn restore(&self, before: Vec<(String, Option<Descriptor>)>) {
        for (name, old) in before {
            let outcome = match old {
                Some(target) => self.engine.set_record(&name, target).await.map(drop),
                None => self.engine.delete_record(&name, Collect::Later).await,
            };
            if let Err(error) = outcome.or_else(|error| if error.is_missing() { Ok(()) } else { Err(error) })
            {
                tracing::warn!(%error, image = name, "a refused push left this name");
            }
        }
    }

    async fn target(&self, source: Source) -> Result<Descriptor, ImageError> {
        match source {
            Source::Blob(descriptor) => Ok(to_wire(&descriptor)),
            Source::Made(manifest) => {
                let digest = manifest::digest_of(&manifest);
                self.engine.put(self.lease, &digest, &manifest, HashMap::new()).await?;
                let (media_type, size) = (manifest::MANIFEST_TYPES[0].to_owned(), manifest.len() as i64);
                Ok(Descriptor { media_type, digest, size, ..Default::default() })
            }
        }
    }

    /// Checks that all blobs of the image for this machine are there, holds them, and tells the
    /// garbage collector how they hang together.
    async fn complete(&self, name: &str, target: Descriptor) -> Result<Image, ImageError> {
        let (document, text_size) = self.document(&target.digest).await?;
        let target = Descriptor { size: text_size as i64, ..target };
        self.engine.label(&target.digest, manifest::gc_labels(&document)).await?;
        let (digest, manifest) = match document {
            Document::Manifest(manifest) => (target.digest.clone(), *manifest),
            Document::Index(index) => {
                let chosen = manifest::choose(name, &index)?.digest().to_string();
                let (Document::Manifest(manifest), _) = self.document(&chosen).await? else {
                    return Err(ImageError::Archive(format!("an index of {name} leads to another index")));
                };
                let labels = manifest::gc_labels(&Document::Manifest(manifest.clone()));
                self.engine.label(&chosen, labels).await?;
                (chosen, *manifest)
            }
        };
        self.hold_blobs(&manifest).await?;
        Image::load(self.engine, target, digest, manifest).await
    }

    async fn document(&self, digest: &str) -> Result<(Document, usize), ImageError> {
        self.engine.hold_content(self.lease, digest).await?;
        let text = self.engine.read(digest).await?.ok_or_else(|| missing(digest))?;
        let (document, _) = manifest::parse(&format!("manifest {digest}"), &text)?;
        Ok((document, text.len()))
    }

    async fn hold_blobs(&self, manifest: &ImageManifest) -> Result<(), ImageError> {
        for blob in manifest.layers().iter().chain(Some(manifest.config())) {
            let digest = blob.digest().to_string();
            // Held first: what is there when we look stays.
            self.engine.hold_content(self.lease, &digest).await?;
            match self.engine.info(&digest).await? {
                Some(info) if info.size as u64 == blob.size() => {}
                Some(info) => {
                    let (is, said) = (info.size, blob.size());
                    return Err(ImageError::Archive(format!(
                        "its blob {digest} has {is} bytes, its manifest says {said}"
                    )));
                }
                None => return Err(missing(&digest)),
            }
        }
        Ok(())
    }
}

fn missing(digest: &str) -> ImageError {
    ImageError::Archive(format!("blob {digest} is not in it; was it cut off?"))
}

/// Gives every image a name, or says what to do.
fn named(mut found: Vec<Found>, name: Option<Reference>) -> Result<Vec<Found>, ImageError> {
    if let Some(name) = name {
        let [only] = &mut found[..] else {
            return Err(ImageError::Archive(format!(
                "it holds {} images, and one name ({}) was given for them; push it without a name",
                found.len(),
                name.whole()
            )));
        };
        only.names = vec![name.whole()];
    }
    match found.iter().find(|image| image.names.is_empty()) {
        Some(_) if found.len() == 1 => Err(ImageError::Archive(
            "the image in it has no name; give one with the push, or save it by name and tag".into(),
        )),
        Some(_) => Err(ImageError::Archive(
            "it holds several images and not all have a name; save each by name and tag".into(),
        )),
        None => Ok(found),
    }
}
