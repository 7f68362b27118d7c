//! Disks as the kernel has them, from sysfs.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::partition::SECTOR;

/// Where the kernel tells of them.
pub const SYSFS: &str = "/sys/block";
/// What the kernel makes by itself, and drives with a medium of their own kind.
const NO_DISKS: [&str; 9] = ["loop", "ram", "dm-", "zram", "sr", "md", "fd", "nbd", "mtdblock"];
/// Page 80h of what SCSI disks tell: four bytes, then the serial number (SPC-4, 7.8.15).
const VPD_HEADER: usize = 4;

/// A whole disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// `/dev/nvme0n1`.
    pub node: PathBuf,
    /// Maker and model; empty where it does not tell.
    pub model: String,
    /// Empty where it has none.
    pub serial: String,
    /// In bytes.
    pub size: u64,
    /// `usb`, `nvme`, `sata`, `virtio`, `mmc`, `scsi`.
    pub bus: &'static str,
    /// Whether it, or its medium, can be taken out of a machine that runs.
    pub is_removable: bool,
    /// Whether it takes no writes.
    pub is_read_only: bool,
    /// In the order of their numbers.
    pub partitions: Vec<Part>,
}

/// A partition, as far as it matters whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `/dev/nvme0n1p1`.
    pub node: PathBuf,
    /// Its name in a GPT; empty elsewhere.
    pub name: String,
}

/// Every disk that `sysfs` tells of, by name; drives without a medium are none.
pub fn disks(sysfs: &Path) -> io::Result<Vec<Disk>> {
    let mut disks = Vec::new();
    for entry in fs::read_dir(sysfs)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_disk = !NO_DISKS.iter().any(|kind| name.starts_with(kind));
        // Of an eMMC's own areas nobody makes a disk.
        if is_disk && !name.contains("boot") && !name.contains("rpmb") {
            match read(&sysfs.join(&name), &name) {
                Ok(disk) if disk.size > 0 => disks.push(disk),
                Ok(_) => {}
                // It was pulled between two looks.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    disks.sort_by(|one, other| one.node.cmp(&other.node));
    Ok(disks)
}

fn read(dir: &Path, name: &str) -> io::Result<Disk> {
    let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default().trim().to_owned();
    let is_set = |file: &str| text(file) == "1";
    let place = dir.canonicalize()?;
    let bus = bus(&place.to_string_lossy());
    let sectors: u64 = fs::read_to_string(dir.join("size"))?.trim().parse().map_err(io::Error::other)?;
    let maker = text("device/vendor");
    // SATA's is the name of its command set, virtio's and NVMe's are numbers.
    let maker = if maker == "ATA" || maker.starts_with("0x") { String::new() } else { maker };
    let card = text("device/name");
    let model = if bus == "mmc" { card } else { format!("{maker} {}", text("device/model")) };
    let serials = [text("serial"), text("device/serial"), vpd_serial(dir)];
    Ok(Disk {
        node: Path::new("/dev").join(name),
        model: model.split_whitespace().collect::<Vec<_>>().join(" "),
        serial: serials.into_iter().find(|serial| !serial.is_empty()).unwrap_or_default(),
        size: sectors * SECTOR,
        bus,
        // A card in a reader is not told from a soldered chip by the flag.
        is_removable: is_set("removable") || bus == "usb" || text("device/type") == "SD",
        is_read_only: is_set("ro"),
        partitions: partitions(dir)?,
    })
}

/// By the devices on the way to it.
fn bus(place: &str) -> &'static str {
    let ways = [("/usb", "usb"), ("/nvme", "nvme"), ("/mmc", "mmc"), ("/virtio", "virtio"), ("/ata", "sata")];
    ways.into_iter().find(|(part, _)| place.contains(part)).map_or("scsi", |(_, bus)| bus)
}

fn vpd_serial(dir: &Path) -> String {
    let page = fs::read(dir.join("device/vpd_pg80")).unwrap_or_default();
    let serial = String::from_utf8_lossy(page.get(VPD_HEADER..).unwrap_or_default()).into_owned();
    serial.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
}

fn partitions(dir: &Path) -> io::Result<Vec<Part>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(number) = fs::read_to_string(entry.path().join("partition")) else { continue };
        let told = fs::read_to_string(entry.path().join("uevent")).unwrap_or_default();
        let label = told.lines().find_map(|line| line.strip_prefix("PARTNAME=")).unwrap_or_default();
        let number: u32 = number.trim().parse().map_err(io::Error::other)?;
        found.push((number, Part { node: Path::new("/dev").join(name), name: label.to_owned() }));
    }
    found.sort_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(_, part)| part).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A disk in a made-up sysfs: its way there, and files with what is in them.
    pub(crate) fn put(root: &Path, place: &str, files: &[(&str, &str)]) {
        let dir = root.join("devices").join(place);
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let block = root.join("block");
        fs::create_dir_all(&block).unwrap();
        symlink(&dir, block.join(dir.file_name().unwrap())).unwrap();
    }

    #[test]
    fn disks_are_told_by_what_the_kernel_says_of_them() {
        let root = tempfile::tempdir().unwrap();
        let size = ("size", "33554432\n");
        put(
            root.path(),
            "pci0/nvme/nvme0/nvme0n1",
            &[
                size,
                ("device/model", "Samsung SSD 980 PRO 1TB                 \n"),
                ("device/serial", "S5GXNX0T123456     \n"),
                ("removable", "0\n"),
                ("nvme0n1p2/partition", "2\n"),
                ("nvme0n1p2/uevent", "DEVTYPE=partition\nPARTNAME=capsule-a\n"),
                ("nvme0n1p1/partition", "1\n"),
                ("nvme0n1p1/uevent", "DEVTYPE=partition\nPARTNAME=capsule-esp\n"),
            ],
        );
        let ata = [size, ("device/vendor", "ATA     \n"), ("device/model", "WDC WD10\n")];
        put(
            root.path(),
            "pci0/ata1/host0/sda",
            &[&ata[..], &[("device/vpd_pg80", "\0\u{1}\0\u{8}  WD-1234 ")]].concat(),
        );
        put(
            root.path(),
            "pci0/usb2/host6/sdb",
            &[size, ("device/vendor", "SanDisk\n"), ("device/model", "Ultra\n"), ("ro", "1\n")],
        );
        put(root.path(), "pci0/virtio1/vda", &[size, ("serial", "data-1"), ("device/vendor", "0x1af4\n")]);
        put(root.path(), "pci0/mmc0/mmcblk0", &[size, ("device/name", "SD32G\n"), ("device/type", "SD\n")]);
        put(root.path(), "pci0/mmc1/mmcblk1boot0", &[size]);
        put(root.path(), "virtual/loop0", &[size]);
        put(root.path(), "pci0/usb2/host7/sdc", &[("size", "0\n")]);
        let disks = disks(&root.path().join("block")).unwrap();
        let told: Vec<_> = disks
            .iter()
            .map(|disk| {
                (
                    disk.node.to_str().unwrap(),
                    disk.model.as_str(),
                    disk.serial.as_str(),
                    disk.bus,
                    disk.is_removable,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("/dev/mmcblk0", "SD32G", "", "mmc", true),
                ("/dev/nvme0n1", "Samsung SSD 980 PRO 1TB", "S5GXNX0T123456", "nvme", false),
                ("/dev/sda", "WDC WD10", "WD-1234", "sata", false),
                ("/dev/sdb", "SanDisk Ultra", "", "usb", true),
                ("/dev/vda", "", "data-1", "virtio", false),
            ]
        );
        assert_eq!(disks[1].size, 16 << 30);
        let names: Vec<_> = disks[1].partitions.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["capsule-esp", "capsule-a"]);
        assert!(disks[3].is_read_only && !disks[4].is_read_only);
    }
}
