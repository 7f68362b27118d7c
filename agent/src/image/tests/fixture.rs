//! Images made on the spot, and archives of them in every shape.

use async_compression::tokio::write::GzipEncoder;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::image::manifest::digest_of;

pub struct Fixture {
    pub config: Vec<u8>,
    /// As stored: gzip where `compressed`.
    pub layers: Vec<Vec<u8>>,
    /// As a tar.
    pub plain: Vec<Vec<u8>>,
    pub manifest: Vec<u8>,
}

impl Fixture {
    /// busybox, and a layer of `random` bytes that do not compress.
    pub async fn new(random: usize) -> Self {
        Self::of(vec![busybox(), noise(random)], "amd64").await
    }

    pub async fn small(word: &str) -> Self {
        Self::of(vec![tar_of(&[("word", word.as_bytes())])], "amd64").await
    }

    pub async fn of(plain: Vec<Vec<u8>>, architecture: &str) -> Self {
        let diffs: Vec<_> = plain.iter().map(|layer| digest_of(layer)).collect();
        let config = json!({"architecture": architecture, "os": "linux",
            "config": {"Cmd": ["/bin/busybox", "true"]},
            "rootfs": {"type": "layers", "diff_ids": diffs}});
        let config = config.to_string().into_bytes();
        let mut layers = Vec::new();
        for layer in &plain {
            layers.push(gzip(layer).await);
        }
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer))
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config), "layers": descriptors});
        Self { config, layers, plain, manifest: manifest.to_string().into_bytes() }
    }

    pub fn digest(&self) -> String {
        digest_of(&self.manifest)
    }

    pub fn descriptor(&self) -> Value {
        descriptor("application/vnd.oci.image.manifest.v1+json", &self.manifest)
    }

    /// Paths and contents of the blobs in OCI's layout.
    pub fn blobs(&self) -> Vec<(String, Vec<u8>)> {
        let all = self.layers.iter().chain([&self.config, &self.manifest]);
        all.map(|blob| (blob_path(blob), blob.clone())).collect()
    }

    /// An OCI archive whose `index.json` comes first.
    pub fn oci(&self, name: Option<&str>) -> Vec<u8> {
        oci(&[(self, name)])
    }

    /// What docker before version 25 wrote; the second layer is a link where there are two alike.
    pub fn legacy(&self, name: Option<&str>) -> Vec<u8> {
        let config_name = format!("{}.json", &digest_of(&self.config)[7..]);
        let mut tar = tar::Builder::new(Vec::new());
        let mut paths: Vec<String> = Vec::new();
        for (at, layer) in self.plain.iter().enumerate() {
            let path = format!("{at:064x}/layer.tar");
            match self.plain[..at].iter().position(|before| before == layer) {
                None => append(&mut tar, &path, layer),
                Some(same) => {
                    let mut header = tar::Header::new_gnu();
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_size(0);
                    tar.append_link(&mut header, &path, format!("../{same:064x}/layer.tar")).unwrap();
                }
            }
            paths.push(path);
        }
        append(&mut tar, &config_name, &self.config);
        let tags: Vec<_> = name.into_iter().collect();
        let list = json!([{"Config": config_name, "RepoTags": tags, "Layers": paths}]);
        append(&mut tar, "manifest.json", list.to_string().as_bytes());
        tar.into_inner().unwrap()
    }
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest_of(bytes), "size": bytes.len()})
}

pub fn blob_path(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", &digest_of(bytes)[7..])
}

/// An OCI archive of several images.
pub fn oci(images: &[(&Fixture, Option<&str>)]) -> Vec<u8> {
    let entries: Vec<_> = images
        .iter()
        .map(|(image, name)| {
            let mut entry = image.descriptor();
            if let Some(name) = name {
                entry["annotations"] = json!({"io.containerd.image.name": name});
            }
            entry
        })
        .collect();
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes();
    let mut files = vec![("index.json".to_owned(), index)];
    files.extend(images.iter().flat_map(|(image, _)| image.blobs()));
    tar_files(&files)
}

pub fn tar_files(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_slice())).collect();
    tar_of(&files)
}

pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        append(&mut tar, path, text);
    }
    tar.into_inner().unwrap()
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, text: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, path, text).unwrap();
}

fn busybox() -> Vec<u8> {
    tar_of(&[("bin/busybox", &std::fs::read("/bin/busybox").unwrap())])
}

pub fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = Vec::with_capacity(bytes);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while noise.len() < bytes {
        // xorshift64: the same each time and not compressible.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    tar_of(&[("noise", &noise)])
}

pub async fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(bytes).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}
