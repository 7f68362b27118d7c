//! What a unified kernel image's command line says of its root file system:
//! `capsule.root=ROOTHASH,DATABYTES`.
//!
//! The image is a PE file; its section `.cmdline` holds the line. Only ever a hint: a damaged image
//! tells nothing.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use capsule_bundle::Digest;

/// The word that tells.
const WORD: &str = "capsule.root=";
/// Offset of the PE header's offset in the DOS header (PE format, "MS-DOS Stub").
const PE_OFFSET_AT: u64 = 0x3c;
/// Signature and COFF header in front of the optional header.
const COFF_BYTES: usize = 24;
/// One row of the section table.
const SECTION_BYTES: usize = 40;
/// No image of ours has more sections.
const MAX_SECTIONS: u16 = 64;
/// Longest command line that is read; the kernel takes no longer one.
const MAX_LINE_BYTES: u32 = 4096;

/// The root file system of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// What its verity tree is verified with.
    pub hash: Digest,
    /// Its size, without the tree.
    pub data_bytes: u64,
}

/// What the image at `path` boots, where it tells.
pub fn root(path: &Path) -> Option<Root> {
    let line = command_line(path)?;
    let (hash, data_bytes) =
        line.split_whitespace().find_map(|word| word.strip_prefix(WORD))?.split_once(',')?;
    Some(Root { hash: hash.parse().ok()?, data_bytes: data_bytes.parse().ok()? })
}

fn command_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let mut read = |at: u64, bytes: usize| {
        let mut buffer = vec![0; bytes];
        file.seek(SeekFrom::Start(at)).ok()?;
        file.read_exact(&mut buffer).ok()?;
        Some(buffer)
    };
    let header_at = u64::from(long(&read(PE_OFFSET_AT, 4)?, 0)?);
    let header = read(header_at, COFF_BYTES)?;
    if !header.starts_with(b"PE\0\0") {
        return None;
    }
    let sections = short(&header, 6)?.min(MAX_SECTIONS);
    let table_at = header_at + COFF_BYTES as u64 + u64::from(short(&header, 20)?);
    let table = read(table_at, usize::from(sections) * SECTION_BYTES)?;
    let row = table.chunks(SECTION_BYTES).find(|row| row.starts_with(b".cmdline"))?;
    let line = read(u64::from(long(row, 20)?), long(row, 8)?.min(MAX_LINE_BYTES) as usize)?;
    Some(String::from_utf8_lossy(&line).trim_end_matches('\0').to_owned())
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least PE file with one section, `.cmdline`.
    fn image(line: &str) -> Vec<u8> {
        let mut image = vec![0; 0x200];
        image[..2].copy_from_slice(b"MZ");
        image[0x3c..0x40].copy_from_slice(&0x80_u32.to_le_bytes());
        image[0x80..0x84].copy_from_slice(b"PE\0\0");
        image[0x86..0x88].copy_from_slice(&1_u16.to_le_bytes());
        image[0x94..0x96].copy_from_slice(&16_u16.to_le_bytes());
        let row = 0x80 + COFF_BYTES + 16;
        image[row..row + 8].copy_from_slice(b".cmdline");
        image[row + 8..row + 12].copy_from_slice(&(line.len() as u32).to_le_bytes());
        image[row + 20..row + 24].copy_from_slice(&0x200_u32.to_le_bytes());
        image.extend(line.as_bytes());
        image
    }

    fn told(content: &[u8]) -> Option<Root> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        root(file.path())
    }

    #[test]
    fn an_image_tells_its_root_hash_and_size() {
        let hash = "5".repeat(64);
        let line = format!("console=ttyS0 capsule.root={hash},8192 quiet\0");
        assert_eq!(told(&image(&line)), Some(Root { hash: hash.parse().unwrap(), data_bytes: 8192 }));
    }

    #[test]
    fn a_damaged_image_tells_nothing() {
        let whole = image(&format!("capsule.root={},8192", "5".repeat(64)));
        for bytes in 0..whole.len() {
            assert_eq!(told(&whole[..bytes]), None, "{bytes}");
        }
        for line in ["", "capsule.root=", "capsule.root=55,1", "root=/dev/sda"] {
            assert_eq!(told(&image(line)), None, "{line}");
        }
        assert_eq!(told(&[0xff; 4096]), None);
    }
}
