//! Manifests, indexes and configurations: parsing, the choice of a platform, chain ids. Pure.

use std::collections::HashMap;

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Os};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::ImageError;

/// Media types of an image manifest that we read, OCI's first.
pub(super) const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// Media types of an index that we read, OCI's first.
pub(super) const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

/// What a reference leads to.
#[derive(Clone, Debug)]
pub(super) enum Document {
    /// One image.
    Manifest(Box<ImageManifest>),
    /// Images for several platforms.
    Index(Box<ImageIndex>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// Parses what is either a manifest or an index, and says which media type it has.
pub(super) fn parse(what: &str, text: &[u8]) -> Result<(Document, String), ImageError> {
    let refuse = |error: &dyn ToString| ImageError::malformed(what, error.to_string());
    let probe: Probe = serde_json::from_slice(text).map_err(|error| refuse(&error))?;
    if probe.schema_version != Some(2) {
        return Err(refuse(&"its schemaVersion is not 2; images pushed before 2016 must be pushed anew"));
    }
    match (probe.manifests, probe.layers) {
        (Some(_), None) => {
            let index = serde_json::from_slice(text).map_err(|error| refuse(&error))?;
            Ok((Document::Index(Box::new(index)), probe.media_type.unwrap_or(INDEX_TYPES[0].into())))
        }
        (None, Some(_)) => {
            let manifest = serde_json::from_slice(text).map_err(|error| refuse(&error))?;
            Ok((Document::Manifest(Box::new(manifest)), probe.media_type.unwrap_or(MANIFEST_TYPES[0].into())))
        }
        _ => Err(refuse(&"it is neither an image manifest nor an index")),
    }
}

/// Parses an image's configuration and checks that it has one diff id for each layer.
pub(super) fn parse_config(
    what: &str,
    text: &[u8],
    manifest: &ImageManifest,
) -> Result<ImageConfiguration, ImageError> {
    let config: ImageConfiguration =
        serde_json::from_slice(text).map_err(|error| ImageError::malformed(what, error.to_string()))?;
    let (layers, diffs) = (manifest.layers().len(), config.rootfs().diff_ids().len());
    if layers != diffs || layers == 0 {
        let detail = format!("the manifest has {layers} layers, the configuration {diffs} diff ids");
        return Err(ImageError::malformed(what, detail));
    }
    Ok(config)
}

/// The entry of an index that fits this machine best.
pub(super) fn choose(reference: &str, index: &ImageIndex) -> Result<Descriptor, ImageError> {
    let fitting = index.manifests().iter().filter_map(|entry| Some((fitness(entry)?, entry)));
    // Of equals the first: max_by_key takes the last, hence the reversal.
    let best = fitting.collect::<Vec<_>>().into_iter().rev().max_by_key(|(fitness, _)| *fitness);
    best.map(|(_, entry)| entry.clone()).ok_or_else(|| ImageError::NoPlatform {
        reference: reference.to_owned(),
        wanted: format!("linux/{}", Arch::default()),
        offered: offered(index),
    })
}

/// 0 where the index does not say, more the better the variant fits; `None` where it cannot run.
fn fitness(entry: &Descriptor) -> Option<u8> {
    let Some(platform) = entry.platform() else { return Some(0) };
    if *platform.os() != Os::Linux || *platform.architecture() != Arch::default() {
        return None;
    }
    match (platform.architecture(), platform.variant().as_deref()) {
        (_, None) | (Arch::ARM64, Some("v8")) => Some(9),
        (Arch::ARM, Some("v7")) => Some(8),
        (Arch::ARM, Some("v6")) => Some(7),
        (Arch::ARM, Some("v5")) => Some(6),
        // Built for a newer processor than the base of its kind.
        (_, Some("v1")) => Some(5),
        _ => None,
    }
}

fn offered(index: &ImageIndex) -> String {
    let platforms = index.manifests().iter().filter_map(|entry| entry.platform().as_ref());
    let named = platforms.map(|platform| match platform.variant() {
        Some(variant) => format!("{}/{}/{variant}", platform.os(), platform.architecture()),
        None => format!("{}/{}", platform.os(), platform.architecture()),
    });
    let listed: Vec<_> = named.filter(|name| !name.starts_with("unknown")).collect();
    if listed.is_empty() { "no image".into() } else { listed.join(", ") }
}

/// `sha256:` and the hash of `bytes`.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Chain ids of an image's layers from the lowest up (OCI image-spec, config.md, "Layer ChainID").
pub(super) fn chain_ids(config: &ImageConfiguration) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff in config.rootfs().diff_ids() {
        let next = match chain.last() {
            None => diff.clone(),
            Some(below) => digest_of(format!("{below} {diff}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

/// Labels by which containerd's garbage collector follows a manifest or index to its children.
pub(super) fn gc_labels(document: &Document) -> HashMap<String, String> {
    let label = |name: &str, child: &Descriptor| {
        (format!("containerd.io/gc.ref.content.{name}"), child.digest().to_string())
    };
    match document {
        Document::Manifest(manifest) => std::iter::once(label("config", manifest.config()))
            .chain(manifest.layers().iter().enumerate().map(|(n, layer)| label(&format!("l.{n}"), layer)))
            .collect(),
        Document::Index(index) => {
            let children = index.manifests().iter().enumerate();
            children.map(|(n, child)| label(&format!("m.{n}"), child)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> ImageIndex {
        let entries: Vec<_> = platforms
            .iter()
            .enumerate()
            .map(|(n, platform)| {
                let mut entry = serde_json::json!({"mediaType": MANIFEST_TYPES[0], "size": 1,
                    "digest": digest_of(&[n as u8])});
                if let [os, arch, rest @ ..] = &platform.split('/').collect::<Vec<_>>()[..] {
                    entry["platform"] = serde_json::json!({"os": os, "architecture": arch});
                    if let [variant] = rest {
                        entry["platform"]["variant"] = (*variant).into();
                    }
                }
                entry
            })
            .collect();
        serde_json::from_value(serde_json::json!({"schemaVersion": 2, "manifests": entries})).unwrap()
    }

    fn chosen(platforms: &[String]) -> Option<usize> {
        let platforms: Vec<_> = platforms.iter().map(String::as_str).collect();
        let entry = choose("x", &index(&platforms)).ok()?;
        (0..platforms.len()).find(|n| entry.digest().to_string() == digest_of(&[*n as u8]))
    }

    #[test]
    fn the_platform_of_this_machine_is_chosen_and_attestations_never() {
        let (ours, other) = (format!("linux/{}", Arch::default()), "linux/s390x".to_owned());
        let windows = format!("windows/{}", Arch::default());
        let unknown = "unknown/unknown".to_owned();
        assert_eq!(chosen(&[other.clone(), unknown.clone(), ours.clone(), ours.clone()]), Some(2));
        assert_eq!(chosen(&[format!("{ours}/v1"), ours.clone()]), Some(1));
        assert_eq!(chosen(&[String::new(), ours]), Some(1));
        assert_eq!(chosen(&[String::new(), unknown.clone()]), Some(0));
        assert_eq!(chosen(&[other.clone(), windows.clone(), unknown.clone()]), None);
        let error = choose("r", &index(&[&other, &windows, &unknown])).unwrap_err().to_string();
        assert!(error.contains("it has linux/s390x, windows/"), "{error}");
    }

    #[test]
    fn what_is_neither_manifest_nor_index_is_refused() {
        for (text, reason) in [
            ("{", "EOF"),
            ("{}", "schemaVersion"),
            (r#"{"schemaVersion": 1, "layers": []}"#, "schemaVersion"),
            (r#"{"schemaVersion": 2}"#, "neither"),
            (r#"{"schemaVersion": 2, "layers": [], "manifests": []}"#, "neither"),
        ] {
            let error = parse("it", text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_chain_id_hashes_the_chain_below_and_the_diff() {
        let config = serde_json::json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": ["sha256:a", "sha256:b"]}});
        let config: ImageConfiguration = serde_json::from_value(config).unwrap();
        assert_eq!(chain_ids(&config), ["sha256:a".to_owned(), digest_of(b"sha256:a sha256:b")]);
    }
}
