//! A tree as an OCI image in one archive, with the layer as plain tar: the root compresses it, and
//! containerd reads it without unpacking twice.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{EPOCH, Error, Result, tree::Tree};

const CREATED: &str = "1970-01-01T00:00:00Z";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How it is called and what it runs.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// Its full name, with a tag.
    pub reference: &'a str,
    /// What runs if nothing else is named.
    pub command: &'a [&'a str],
}

impl Image<'_> {
    /// Packs a tree as its only layer.
    pub fn archive(&self, tree: &Tree) -> Result<Vec<u8>> {
        let layer = layer(tree)?;
        let config = json!({
            "created": CREATED,
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Cmd": self.command,
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
            "history": [{ "created": CREATED, "created_by": "capsule-images" }],
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
        })
        .to_string()
        .into_bytes();
        let mut listed = descriptor(MANIFEST, &manifest);
        listed["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": self.reference.rsplit(':').next(),
        });
        let index = json!({ "schemaVersion": 2, "manifests": [listed] }).to_string();
        pack(index.as_bytes(), &[&manifest, &config, &layer]).map_err(Error::file("pack", tree.path()))
    }
}

/// An OCI layout in one archive.
fn pack(index: &[u8], blobs: &[&[u8]]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8]| {
        let mut header = header(tar::EntryType::Regular, 0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content)
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", index)?;
    for blob in blobs {
        add(&format!("blobs/sha256/{}", hex::encode(Sha256::digest(blob))), blob)?;
    }
    archive.into_inner()
}

/// All of a tree, owned by root.
fn layer(tree: &Tree) -> Result<Vec<u8>> {
    let mut names = Vec::new();
    tree.walk(Path::new(""), &mut |name, facts| names.push((name.to_owned(), facts.clone())))?;
    let mut builder = tar::Builder::new(Vec::new());
    for (name, facts) in names {
        let path = tree.path().join(&name);
        let added = if facts.is_symlink() {
            let target = fs::read_link(&path).map_err(Error::file("read", &path))?;
            builder.append_link(&mut header(tar::EntryType::Symlink, 0o777), &name, target)
        } else if facts.is_dir() {
            let mut header = header(tar::EntryType::Directory, facts.permissions().mode());
            builder.append_data(&mut header, &name, std::io::empty())
        } else {
            let content = fs::read(&path).map_err(Error::file("read", &path))?;
            let mut header = header(tar::EntryType::Regular, facts.permissions().mode());
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, &name, content.as_slice())
        };
        added.map_err(Error::file("pack", &path))?;
    }
    builder.into_inner().map_err(Error::file("pack", tree.path()))
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode & 0o7777);
    header.set_size(0);
    header.set_mtime(EPOCH);
    header
}

fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(blob)))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use super::*;

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            entries.insert(entry.path().unwrap().display().to_string(), content);
        }
        entries
    }

    #[test]
    fn an_archive_leads_from_its_index_to_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path().join("tree")).unwrap();
        tree.program("usr/bin/tool", "runs").unwrap();
        tree.link("usr/bin/sh", "tool").unwrap();
        let image = Image { reference: "capsule.local/debug:1", command: &["/usr/bin/sh"] };
        let archive = image.archive(&tree).unwrap();
        assert!(archive == image.archive(&tree).unwrap());

        let entries = entries(&archive);
        let json = |content: &[u8]| serde_json::from_slice::<Value>(content).unwrap();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            &entries[&format!("blobs/sha256/{digest}")]
        };
        let listed = &json(&entries["index.json"])["manifests"][0];
        assert_eq!(listed["annotations"]["io.containerd.image.name"], "capsule.local/debug:1");
        let manifest = json(blob(listed));
        let config = json(blob(&manifest["config"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let files = self::entries(blob(&manifest["layers"][0]));
        assert_eq!(files["usr/bin/tool"], b"runs");
        assert!(files.contains_key("usr/bin/sh") && files.contains_key("bin"));
    }
}
