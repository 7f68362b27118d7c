//! Partitions on a machine's disk, by name (UEFI specification, "GUID Partition Table").

use anyhow::{Context as _, Result, ensure};
use capsule_vm::Disk;

const SECTOR_BYTES: u64 = 512;
/// Protective boot record, header and 128 entries.
const TABLE_BYTES: usize = 34 * 512;
const SIGNATURE: &[u8] = b"EFI PART";

/// Where a partition is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// From the disk's beginning.
    pub offset: u64,
    /// Its size.
    pub bytes: u64,
}

impl Partition {
    /// The one of this name on a disk that no machine has.
    pub async fn find(disk: &Disk, name: &str) -> Result<Self> {
        let table = disk.read(0, TABLE_BYTES).await?;
        parse(&table, name).with_context(|| format!("no {name} on {}", disk.path().display()))
    }
}

fn parse(table: &[u8], name: &str) -> Result<Partition> {
    let header = table.get(512..1024).context("it is too small for a partition table")?;
    ensure!(header.starts_with(SIGNATURE), "it has no partition table");
    let entries = number(header, 72)? * SECTOR_BYTES;
    let entry_bytes = u64::from(u32::from_le_bytes(header[84..88].try_into()?));
    let entries = table.get(entries as usize..).context("its entries are elsewhere")?;
    let mut entries = entries.chunks_exact(entry_bytes.max(128) as usize);
    let entry = entries.find(|entry| called(entry) == name).context("it has no such partition")?;
    let (first, last) = (number(entry, 32)?, number(entry, 40)?);
    Ok(Partition { offset: first * SECTOR_BYTES, bytes: (last + 1 - first) * SECTOR_BYTES })
}

fn number(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes.get(at..at + 8).context("it is cut short")?.try_into()?))
}

fn called(entry: &[u8]) -> String {
    let units = entry[56..128].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    String::from_utf16_lossy(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_found_by_its_name() {
        let mut table = vec![0; TABLE_BYTES];
        table[512..520].copy_from_slice(SIGNATURE);
        table[512 + 72] = 2;
        table[512 + 84] = 128;
        let second = &mut table[1024 + 128..1024 + 256];
        second[32..40].copy_from_slice(&2048_u64.to_le_bytes());
        second[40..48].copy_from_slice(&4095_u64.to_le_bytes());
        for (at, unit) in "capsule-b".encode_utf16().enumerate() {
            second[56 + 2 * at..58 + 2 * at].copy_from_slice(&unit.to_le_bytes());
        }
        assert_eq!(parse(&table, "capsule-b").unwrap(), Partition { offset: 1 << 20, bytes: 1 << 20 });
        assert!(parse(&table, "capsule-a").unwrap_err().to_string().contains("no such partition"));
        assert!(parse(&vec![0; TABLE_BYTES], "capsule-a").is_err());
    }
}
