//! A slot's root: a file system, then what dm-verity checks each of its blocks with.
//!
//! The layout is veritysetup's: a superblock of one hash block (cryptsetup's
//! `lib/verity/verity.c`), then the hash tree, its top first (Linux'
//! Documentation/admin-guide/device-mapper/verity.rst).

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use sha2::{Digest as _, Sha256};

use crate::words::Root;

const SIGNATURE: &[u8; 8] = b"verity\0\0";
const BLOCK: usize = 4096;
const SALT_MAX: usize = 256;
const SECTOR: u64 = 512;

/// Why a partition does not hold the root that is wanted.
#[derive(Debug, thiserror::Error)]
pub enum Mismatch {
    /// It cannot be read there.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// Another version's size, or an empty slot.
    #[error("no verity superblock where one of this root would be")]
    NoSuperblock,
    /// Made by another tool.
    #[error("its verity superblock is not of SHA-256 with blocks of 4096 bytes")]
    Unknown,
    /// Another root, or a damaged one.
    #[error("its top hash block has another hash")]
    Hash,
}

/// What the kernel is given, behind its two devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Length in sectors.
    pub sectors: u64,
    blocks: u64,
    root: String,
    salt: String,
}

impl Table {
    /// Looks whether `partition` holds `root`: one block is read and hashed.
    pub fn find(partition: &Path, root: &Root) -> Result<Self, Mismatch> {
        let device = File::open(partition)?;
        let mut superblock = [0; BLOCK];
        device.read_exact_at(&mut superblock, root.bytes)?;
        let salt = salt(&superblock, root.bytes / BLOCK as u64)?;
        let mut top = [0; BLOCK];
        device.read_exact_at(&mut top, root.bytes + BLOCK as u64)?;
        if Sha256::new().chain_update(salt).chain_update(top).finalize()[..] != root.hash {
            return Err(Mismatch::Hash);
        }
        let salt = if salt.is_empty() { "-".to_owned() } else { hex::encode(salt) };
        Ok(Self {
            sectors: root.bytes / SECTOR,
            blocks: root.bytes / BLOCK as u64,
            root: hex::encode(root.hash),
            salt,
        })
    }

    /// The target's parameters on a device, named by its numbers.
    pub fn parameters(&self, device: &str) -> String {
        let Self { blocks, root, salt, .. } = self;
        format!("1 {device} {device} {BLOCK} {BLOCK} {blocks} {} sha256 {root} {salt}", blocks + 1)
    }
}

fn salt(superblock: &[u8; BLOCK], blocks: u64) -> Result<&[u8], Mismatch> {
    let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| superblock[at + n]));
    if superblock[..8] != SIGNATURE[..] {
        return Err(Mismatch::NoSuperblock);
    }
    let sizes = (u32_at(64), u32_at(68)) == (BLOCK as u32, BLOCK as u32);
    let versions = (u32_at(8), u32_at(12)) == (1, 1);
    let algorithm = superblock[32..64].starts_with(b"sha256\0");
    let counted = superblock[72..80] == blocks.to_le_bytes();
    let length = usize::from(u16::from_le_bytes([superblock[80], superblock[81]]));
    if !(sizes && versions && algorithm && counted) || length > SALT_MAX {
        return Err(Mismatch::Unknown);
    }
    Ok(&superblock[88..88 + length])
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A partition as veritysetup makes it, and its root.
    fn partition(dir: &Path, blocks: usize) -> (std::path::PathBuf, Root) {
        let path = dir.join("slot");
        let data: Vec<u8> = (0..blocks * BLOCK).map(|at| (at / 7) as u8).collect();
        std::fs::write(&path, data).unwrap();
        let bytes = (blocks * BLOCK) as u64;
        let output = Command::new("/usr/sbin/veritysetup")
            .args(["format", "--salt", "0011aabb", "--hash-offset", &bytes.to_string()])
            .args([&path, &path])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let hash = said.lines().find_map(|line| line.strip_prefix("Root hash:")).expect(&said).trim();
        let hash = hex::decode(hash).unwrap().try_into().unwrap();
        (path, Root { hash, bytes })
    }

    #[test]
    fn a_slot_made_by_veritysetup_is_known_by_its_root_hash() {
        let dir = tempfile::tempdir().unwrap();
        // More than one block of hashes, so that the tree has two levels.
        let (path, root) = partition(dir.path(), 300);
        let table = Table::find(&path, &root).unwrap();
        let (hash, blocks) = (hex::encode(root.hash), 300);
        assert_eq!(
            table.parameters("253:1"),
            format!("1 253:1 253:1 4096 4096 {blocks} 301 sha256 {hash} 0011aabb")
        );
        assert_eq!(table.sectors, 2400);
        let other = Root { hash: [0; 32], ..root };
        assert!(matches!(Table::find(&path, &other), Err(Mismatch::Hash)));
        let shorter = Root { bytes: root.bytes - 4096, ..root };
        assert!(matches!(Table::find(&path, &shorter), Err(Mismatch::NoSuperblock)));
        let beyond = Root { bytes: 1 << 40, ..root };
        assert!(matches!(Table::find(&path, &beyond), Err(Mismatch::Unreadable(_))));
    }

    #[test]
    fn a_damaged_tree_or_superblock_is_no_root() {
        let dir = tempfile::tempdir().unwrap();
        let (path, root) = partition(dir.path(), 4);
        let device = File::options().read(true).write(true).open(&path).unwrap();
        device.write_all_at(b"?", root.bytes + 4096).unwrap();
        assert!(matches!(Table::find(&path, &root), Err(Mismatch::Hash)));
        device.write_all_at(b"?", root.bytes + 32).unwrap();
        assert!(matches!(Table::find(&path, &root), Err(Mismatch::Unknown)));
        device.write_all_at(b"?", root.bytes).unwrap();
        assert!(matches!(Table::find(&path, &root), Err(Mismatch::NoSuperblock)));
    }
}
