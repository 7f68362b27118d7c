//! The disk that was booted, found by the PARTUUID of its ESP.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use gpt::{GptConfig, partition::Partition};

use crate::{Error, Result, modules::Modules, verity::Table, words::Root};

/// Names of its partitions, in their order.
pub const PARTITIONS: [&str; 4] = ["capsule-esp", "capsule-a", "capsule-b", "capsule-pv"];

const BLOCK_DEVICES: &str = "/sys/block";
/// A USB stick takes seconds to be read; a disk that is not there by now never comes.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at what the kernel has found.
const PAUSE: Duration = Duration::from_millis(20);

/// A capsule's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The whole of it.
    pub node: PathBuf,
    /// Its ESP, slots a and b, and the physical volume.
    pub partitions: [PathBuf; 4],
}

impl Disk {
    /// Waits for the disk that has the partition, loading drivers for what turns up.
    pub fn wait(esp: &str, modules: &mut Modules) -> Result<Self> {
        let end = Instant::now() + LIMIT;
        loop {
            let news = modules.load_for_hardware();
            if let Some(disk) = nodes().iter().find_map(|node| Self::of(node, esp).transpose()) {
                return disk;
            }
            if Instant::now() > end {
                let seen: Vec<String> = nodes().iter().map(|node| node.display().to_string()).collect();
                let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
                return Err(Error::Absent { partition: esp.to_owned(), seconds: LIMIT.as_secs(), seen });
            }
            if !news {
                // The kernel tells nobody who does not listen to netlink; a look costs less.
                thread::sleep(PAUSE);
            }
        }
    }

    /// This disk, if it has the partition. One that cannot be read may be a drive without a medium.
    fn of(node: &Path, esp: &str) -> Result<Option<Self>> {
        let Ok(table) = GptConfig::new().writable(false).open(node) else { return Ok(None) };
        let partitions: Vec<(u32, &Partition)> =
            table.partitions().iter().map(|(at, part)| (*at, part)).collect();
        if !partitions.iter().any(|(_, part)| part.part_guid.to_string().eq_ignore_ascii_case(esp)) {
            return Ok(None);
        }
        let place = |name: &'static str| {
            let number = partitions.iter().find(|(_, part)| part.name == name).map(|(at, _)| *at);
            let number = number.ok_or_else(|| Error::Partition { disk: node.to_owned(), name })?;
            Ok(partition_node(node, number))
        };
        let [esp, a, b, pv] = PARTITIONS.map(place);
        Ok(Some(Self { node: node.to_owned(), partitions: [esp?, a?, b?, pv?] }))
    }

    /// Which slot holds the root; where both do, the one that the boot loader's entry names.
    pub fn slot(&self, root: &Root, selected: Option<char>) -> Result<(char, Table)> {
        let [_, a, b, _] = &self.partitions;
        match (Table::find(a, root), Table::find(b, root)) {
            (Ok(_), Ok(table)) if selected == Some('b') => Ok(('b', table)),
            (Ok(table), _) => Ok(('a', table)),
            (Err(_), Ok(table)) => Ok(('b', table)),
            (Err(a), Err(b)) => Err(Error::Slots {
                disk: self.node.clone(),
                hash: hex::encode(root.hash),
                a: a.to_string(),
                b: b.to_string(),
            }),
        }
    }

    /// The partition of a slot.
    pub fn slot_partition(&self, slot: char) -> &Path {
        &self.partitions[if slot == 'b' { 2 } else { 1 }]
    }
}

/// `/dev/vda2`, `/dev/nvme0n1p2`.
pub fn partition_node(disk: &Path, number: u32) -> PathBuf {
    let mut name = disk.as_os_str().to_owned();
    if name.to_string_lossy().ends_with(|last: char| last.is_ascii_digit()) {
        name.push("p");
    }
    name.push(number.to_string());
    name.into()
}

/// Disks that the kernel has found, but for those of its own making.
fn nodes() -> Vec<PathBuf> {
    let entries = fs::read_dir(BLOCK_DEVICES).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let own = |name: &String| ["loop", "ram", "dm-", "zram", "sr"].iter().any(|kind| name.starts_with(kind));
    let mut nodes: Vec<PathBuf> =
        names.filter(|name| !own(name)).map(|name| Path::new("/dev").join(name)).collect();
    nodes.sort();
    nodes
}

#[cfg(test)]
mod tests {
    use gpt::{disk::LogicalBlockSize, mbr::ProtectiveMBR, partition_types};

    use super::*;

    /// A disk of these partitions; the PARTUUID of the first.
    fn disk(path: &Path, names: &[&str]) -> String {
        let mut file = fs::File::create_new(path).unwrap();
        file.set_len(64 << 20).unwrap();
        ProtectiveMBR::with_lb_size((64 << 11) - 1).overwrite_lba0(&mut file).unwrap();
        let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
        let mut table = config.create(path).unwrap();
        for name in names {
            table.add_partition(name, 1 << 20, partition_types::LINUX_FS, 0, None).unwrap();
        }
        let first = table.partitions().values().next().unwrap().part_guid.to_string();
        table.write().unwrap();
        first
    }

    #[test]
    fn a_disk_is_known_by_its_esp_and_its_partitions_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sd");
        let esp = disk(&path, &PARTITIONS);
        let found = Disk::of(&path, &esp.to_ascii_uppercase()).unwrap().unwrap();
        assert_eq!(found.partitions[3], dir.path().join("sd4"));
        assert_eq!(found.slot_partition('b'), dir.path().join("sd3"));
        assert_eq!(Disk::of(&path, "00000000-0000-0000-0000-000000000000").unwrap(), None);
    }

    #[test]
    fn a_disk_that_lacks_a_partition_says_which() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sd");
        let esp = disk(&path, &PARTITIONS[..3]);
        let error = Disk::of(&path, &esp).unwrap_err().to_string();
        assert!(error.ends_with("has no partition capsule-pv"), "{error}");
    }

    #[test]
    fn what_is_no_disk_of_ours_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sd");
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        assert_eq!(Disk::of(&path, "x").unwrap(), None);
        assert_eq!(Disk::of(&dir.path().join("none"), "x").unwrap(), None);
    }

    #[test]
    fn a_disk_whose_name_ends_with_a_digit_has_a_p_before_its_partitions() {
        assert_eq!(partition_node(Path::new("/dev/vda"), 2), Path::new("/dev/vda2"));
        assert_eq!(partition_node(Path::new("/dev/nvme0n1"), 2), Path::new("/dev/nvme0n1p2"));
    }
}
