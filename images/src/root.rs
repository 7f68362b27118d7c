//! The root image: a tree as erofs, with dm-verity's hash tree behind it.

use std::{fs, path::Path};

use sha2::{Digest as _, Sha256};

use crate::{EPOCH, Error, Result, run::Program};

/// What a slot's image may have.
pub const LIMIT_BYTES: u64 = 300 << 20;
/// Fast to unpack, as every start of a program does.
const COMPRESSION: &str = "lz4hc,9";
/// Unpacked at once at most: larger ones pack better and read more than was asked for.
const CLUSTER_BYTES: u32 = 65536;
/// Fixed, for the same tree is to give the same hash; what it protects from, a table of hashes made
/// beforehand, would only find blocks that are public.
const SALT: &str = "63617073756c652d726f6f74";
/// The file system's and the hash tree's name.
const UUID: &str = "c5fa5ab1-e0f5-4b7e-8d2c-63617073756c";

/// The root image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Hash of the top of the hash tree, in hex.
    pub hash: String,
    /// Bytes of the file system; the hash tree begins there.
    pub data_bytes: u64,
    /// Bytes of both.
    pub bytes: u64,
}

impl Root {
    /// What the initramfs reads to open it.
    pub fn argument(&self) -> String {
        format!("capsule.root={},{}", self.hash, self.data_bytes)
    }
}

/// Writes `tree` to `into`, all of it owned by root, with the tools that are among the unpacked `packages`.
pub fn erofs(packages: &Path, tree: &Path, into: &Path) -> Result<()> {
    if let Err(error) = fs::remove_file(into)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(Error::file("replace", into)(error));
    }
    Program::inside(packages, "usr/bin/mkfs.erofs")
        .args(["--quiet", "--all-root", "-x-1"])
        .arg(format!("-z{COMPRESSION}"))
        .arg(format!("-C{CLUSTER_BYTES}"))
        .arg(format!("-T{EPOCH}"))
        .arg(format!("-U{UUID}"))
        .arg(into)
        .arg(tree)
        .run()
        .map(drop)
}

/// Appends the hash tree to a file system.
pub fn protect(image: &Path) -> Result<Root> {
    let data_bytes = size(image)?;
    let hash = image.with_extension("roothash");
    Program::new("veritysetup")
        .arg("format")
        .args(["--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096"])
        .args([format!("--salt={SALT}"), format!("--uuid={UUID}"), format!("--hash-offset={data_bytes}")])
        .arg(format!("--data-blocks={}", data_bytes / 4096))
        .arg(format!("--root-hash-file={}", hash.display()))
        .arg(image)
        .arg(image)
        .run()?;
    let text = fs::read_to_string(&hash).map_err(Error::file("read", &hash))?;
    fs::remove_file(&hash).map_err(Error::file("remove", &hash))?;
    let root = Root { hash: text.trim().to_owned(), data_bytes, bytes: size(image)? };
    if root.bytes > LIMIT_BYTES {
        return Err(Error::TooLarge { what: "the root image", bytes: root.bytes, limit: LIMIT_BYTES });
    }
    Ok(root)
}

/// A UUID that is always the same for the same words.
pub fn uuid_of(words: &[&str]) -> String {
    let mut bytes: [u8; 32] = Sha256::digest(words.join("\0")).into();
    // Version 8, which is anybody's own way (RFC 9562).
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(&bytes[..16]);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(Error::file("read", path))?.len())
}
