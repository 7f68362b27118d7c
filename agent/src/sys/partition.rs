//! Partitions and their disk: facts from sysfs, tables and growth by sfdisk and partx of util-linux.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use uuid::Uuid;

use super::run::{RunError, run};

/// They read and write a few sectors at both ends of the disk.
const DEADLINE: Duration = Duration::from_mins(1);
/// In sysfs, whatever the disk's own sectors are.
pub const SECTOR: u64 = 512;
/// Behind the last partition a GPT keeps its second copy, 33 sectors, and partitions end at whole MiB:
/// less than this is no room.
const LEAST_ROOM: u64 = (1 << 20) + 34 * SECTOR;

/// Why a partition did not grow.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// The kernel tells nothing of it.
    #[error("cannot read {path}")]
    Facts {
        /// In sysfs.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another one is in the way.
    #[error("partition {partition} cannot grow: {behind} lies behind it on {disk}; only a disk's last can")]
    NotLast {
        /// Which.
        partition: String,
        /// The one in the way.
        behind: String,
        /// Their disk.
        disk: String,
    },
    /// A tool failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// What sfdisk says of a disk makes no sense.
    #[error("cannot understand what sfdisk says of {disk}")]
    Table {
        /// Which.
        disk: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A GPT.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Table {
    /// Bytes in one of the disk's own blocks.
    #[serde(rename = "sectorsize")]
    pub block: u64,
    /// In the order of their numbers.
    pub partitions: Vec<Entry>,
}

/// A partition in a GPT.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// Its first block.
    pub start: u64,
    /// How many it has.
    pub size: u64,
    /// What it is for, a GUID.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its own GUID.
    pub uuid: Uuid,
    /// What it is called.
    #[serde(default)]
    pub name: String,
}

/// What sfdisk's JSON wraps it in.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "partitiontable")]
    table: Table,
}

impl Table {
    /// A disk's.
    pub async fn read(disk: &Path) -> Result<Self, PartitionError> {
        let output = run("sfdisk", &["--json", &disk.to_string_lossy()], b"", DEADLINE).await?;
        let failed = |source| PartitionError::Table { disk: disk.to_owned(), source };
        Ok(serde_json::from_str::<Told>(&output.stdout).map_err(failed)?.table)
    }

    /// Gives a disk partitions like these, with GUIDs of their own; the last one fills the disk. What
    /// the disk had is gone, also what told the kernel of it.
    pub async fn copy_to(&self, disk: &Path) -> Result<(), PartitionError> {
        let arguments =
            ["--quiet", "--wipe", "always", "--wipe-partitions", "always", &disk.to_string_lossy()];
        run("sfdisk", &arguments, self.script().as_bytes(), DEADLINE).await.map(drop).map_err(Into::into)
    }

    /// What sfdisk reads; sizes in bytes, since the other disk's blocks may be larger.
    fn script(&self) -> String {
        let mut script = "label: gpt\n".to_owned();
        for (at, Entry { size, kind, name, .. }) in self.partitions.iter().enumerate() {
            let is_last = at + 1 == self.partitions.len();
            let size =
                if is_last { String::new() } else { format!("size={}KiB, ", size * self.block / 1024) };
            let _ = writeln!(script, "{size}type={kind}, name=\"{name}\"");
        }
        script
    }
}

/// A partition as the kernel has it, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its own name: `vda4`.
    pub name: String,
    /// Its disk's: `vda`.
    pub disk: String,
    /// Counted from 1, as in the table.
    pub number: u32,
    /// Where it begins.
    pub start: u64,
    /// Its size.
    pub size: u64,
    /// Its disk's size.
    pub disk_size: u64,
}

impl Partition {
    /// `None` where the device is a disk of its own.
    pub fn find(device: &Path) -> Result<Option<Self>, PartitionError> {
        let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let entry = Path::new("/sys/class/block").join(&name);
        let dir = entry.canonicalize().map_err(failed(&entry))?;
        if !dir.join("partition").exists() {
            return Ok(None);
        }
        let whole = dir.parent().unwrap_or(&dir);
        Ok(Some(Self {
            disk: whole.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            number: number(&dir.join("partition"))? as u32,
            start: number(&dir.join("start"))? * SECTOR,
            size: number(&dir.join("size"))? * SECTOR,
            disk_size: number(&whole.join("size"))? * SECTOR,
            name,
        }))
    }

    /// Whether there is room behind it, if it is its disk's last.
    pub fn can_grow(&self) -> bool {
        self.disk_size.saturating_sub(self.start + self.size) >= LEAST_ROOM
    }

    /// Grows it to the end of its disk, in the table and in the kernel; its content stays. Killed on
    /// the way, it can be done again: a GPT's second copy is written before its first.
    pub async fn grow(&self) -> Result<(), PartitionError> {
        if let Some(behind) = self.behind()? {
            let (partition, disk) = (self.name.clone(), self.disk.clone());
            return Err(PartitionError::NotLast { partition, behind, disk });
        }
        let (disk, number) = (format!("/dev/{}", self.disk), self.number.to_string());
        // The kernel is told by partx, which can while others of the disk's are mounted.
        let quietly = ["--quiet", "--no-reread", "--no-tell-kernel", "--force", "--wipe", "never"];
        // While the second copy is where the disk ended once, the table ends there, too.
        let relocate = [&quietly[..], &["--relocate", "gpt-bak-std", &disk]].concat();
        run("sfdisk", &relocate, b"", DEADLINE).await?;
        let extend = [&quietly[..], &["-N", &number, &disk]].concat();
        run("sfdisk", &extend, b",+\n", DEADLINE).await?;
        run("partx", &["--update", "--nr", &number, &disk], b"", DEADLINE).await?;
        Ok(())
    }

    /// A partition of the same disk that begins after this one.
    fn behind(&self) -> Result<Option<String>, PartitionError> {
        let whole = Path::new("/sys/class/block").join(&self.disk);
        for entry in fs::read_dir(&whole).map_err(failed(&whole))?.flatten() {
            let dir = entry.path();
            if dir.join("partition").exists() && number(&dir.join("start"))? * SECTOR > self.start {
                return Ok(Some(entry.file_name().to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    }
}

/// Lets the kernel ask a disk for its size; those that tell by themselves have nothing to ask by.
pub fn rescan(disk: &str) {
    let path = Path::new("/sys/class/block").join(disk).join("device/rescan");
    if path.exists()
        && let Err(error) = fs::write(&path, "1")
    {
        tracing::debug!(path = %path.display(), %error, "the disk was not asked for its size");
    }
}

fn number(path: &Path) -> Result<u64, PartitionError> {
    let text = fs::read_to_string(path).map_err(failed(path))?;
    text.trim().parse().map_err(|error| failed(path)(io::Error::other(error)))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PartitionError {
    let path = path.to_owned();
    |source| PartitionError::Facts { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_gets_the_partitions_of_another_with_ids_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = [("from", 16), ("to", 64)].map(|(name, mib)| {
            let path = dir.path().join(name);
            fs::File::create(&path).unwrap().set_len(mib << 20).unwrap();
            path
        });
        let lvm = "E6D6D379-F507-44C2-A23C-238F2A3DF928";
        let script =
            format!("label: gpt\nsize=4MiB, type=uefi, name=capsule-esp\ntype={lvm}, name=capsule-pv\n");
        run("sfdisk", &["--quiet", &from.to_string_lossy()], script.as_bytes(), DEADLINE).await.unwrap();
        let table = Table::read(&from).await.unwrap();
        table.copy_to(&to).await.unwrap();
        let copied = Table::read(&to).await.unwrap();
        let told = |table: &Table| {
            let rows =
                table.partitions.iter().map(|entry| (entry.start, entry.kind.clone(), entry.name.clone()));
            rows.collect::<Vec<_>>()
        };
        assert_eq!(told(&table), told(&copied));
        assert_eq!((table.partitions[0].size, copied.partitions[0].size, copied.block), (8192, 8192, 512));
        assert!(copied.partitions[1].size > 50 << 11, "the last one does not fill the disk");
        for (one, other) in table.partitions.iter().zip(&copied.partitions) {
            assert_ne!(one.uuid, other.uuid);
        }
    }
}
