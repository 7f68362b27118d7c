//! Which images an archive holds, from its `index.json` and `manifest.json`. Pure.

use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;
use serde_json::json;

use super::{Received, Stored};
use crate::image::{ImageError, manifest::MANIFEST_TYPES, reference};

/// Annotations that name an image: containerd's and docker's full name, OCI's which may be a mere
/// tag.
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Links that lead to one another at most.
const MAX_LINKS: usize = 16;

/// An image of the archive.
#[derive(Debug, PartialEq)]
pub struct Found {
    /// Normalised; may be empty.
    pub names: Vec<String>,
    pub source: Source,
}

/// What an image's content is.
#[derive(Debug, PartialEq)]
pub enum Source {
    /// A manifest or index among the archive's blobs.
    Blob(Box<Descriptor>),
    /// A manifest made for an archive that has none, not stored yet.
    Made(Vec<u8>),
}

/// `docker save`'s list of images.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Lists the archive's images, each once, in the archive's order.
pub fn plan(received: &Received) -> Result<Vec<Found>, ImageError> {
    let saved = match received.documents.get("manifest.json") {
        Some(text) => parse("manifest.json", text)?,
        None => Vec::<SavedImage>::new(),
    };
    let found = match received.documents.get("index.json") {
        Some(text) => from_index(&parse("index.json", text)?, &saved, received)?,
        None => saved.iter().map(|image| from_saved(image, received)).collect::<Result<_, _>>()?,
    };
    if found.is_empty() {
        return Err(ImageError::Archive(
            "it holds no image: there is neither an index.json nor a manifest.json that lists one. Make it with \
             `docker save`, or as an OCI archive"
                .into(),
        ));
    }
    Ok(found)
}

fn parse<T: for<'de> Deserialize<'de>>(path: &str, text: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(text)
        .map_err(|error| ImageError::Archive(format!("its {path} cannot be read: {error}")))
}

fn from_index(
    index: &ImageIndex,
    saved: &[SavedImage],
    received: &Received,
) -> Result<Vec<Found>, ImageError> {
    let mut found: Vec<Found> = Vec::new();
    for entry in index.manifests() {
        let names = match annotated_name(entry) {
            Some(name) => vec![normalise(&name)?],
            None => Vec::new(),
        };
        let known = found
            .iter_mut()
            .find(|image| matches!(&image.source, Source::Blob(blob) if blob.digest() == entry.digest()));
        match known {
            Some(image) => image.names.extend(names),
            None => found.push(Found { names, source: Source::Blob(Box::new(entry.clone())) }),
        }
    }
    // skopeo and old buildx leave names to docker's list; only one image leaves no doubt whose.
    if let ([image], [saved]) = (&mut found[..], saved)
        && image.names.is_empty()
    {
        image.names = tags(saved)?;
    }
    for image in &mut found {
        image.names.sort();
        image.names.dedup();
    }
    drop_other_platforms(&mut found, received);
    Ok(found)
}

/// Some tools list each platform of one name in `index.json`; those whose blobs did not come (or
/// came beside a complete one of the same name) are not images of their own.
fn drop_other_platforms(found: &mut Vec<Found>, received: &Received) {
    let present = |image: &Found| match &image.source {
        Source::Blob(blob) => {
            received.blobs.values().any(|stored| stored.digest == blob.digest().to_string())
        }
        Source::Made(_) => true,
    };
    let ours = |image: &Found| match &image.source {
        Source::Blob(blob) => blob.platform().as_ref().is_none_or(|platform| {
            *platform.architecture() == oci_spec::image::Arch::default()
                && *platform.os() == oci_spec::image::Os::Linux
        }),
        Source::Made(_) => true,
    };
    if found.iter().any(|image| ours(image) && present(image)) {
        found.retain(ours);
    }
}

/// The name that an index gives an image.
pub fn annotated_name(entry: &Descriptor) -> Option<String> {
    let annotations = entry.annotations().as_ref()?;
    let full = annotations.get(FULL_NAME);
    let by_ref = annotations.get(REF_NAME).filter(|name| name.contains(['/', ':']));
    full.or(by_ref).cloned()
}

fn normalise(name: &str) -> Result<String, ImageError> {
    Ok(reference::parse(name)?.whole())
}

fn tags(saved: &SavedImage) -> Result<Vec<String>, ImageError> {
    saved.repo_tags.iter().flatten().map(|tag| normalise(tag)).collect()
}

/// Makes the manifest that a legacy archive lacks.
fn from_saved(saved: &SavedImage, received: &Received) -> Result<Found, ImageError> {
    let config = follow(&saved.config, received)?;
    let layers: Vec<_> = saved
        .layers
        .iter()
        .map(|path| {
            let layer = follow(path, received)?;
            Ok(json!({"mediaType": layer.layer_media_type, "digest": layer.digest, "size": layer.size}))
        })
        .collect::<Result<_, ImageError>>()?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[0],
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.digest,
            "size": config.size,
        },
        "layers": layers,
    });
    Ok(Found { names: tags(saved)?, source: Source::Made(manifest.to_string().into_bytes()) })
}

fn follow<'a>(path: &str, received: &'a Received) -> Result<&'a Stored, ImageError> {
    let mut at = path;
    for _ in 0..MAX_LINKS {
        if let Some(stored) = received.blobs.get(at) {
            return Ok(stored);
        }
        match received.links.get(at) {
            Some(target) => at = target,
            None => break,
        }
    }
    Err(ImageError::Archive(format!("its manifest.json names {path}, which is not in it; was it cut off?")))
}
