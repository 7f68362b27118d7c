//! The disks of the machine, and whether a capsule can be put on them.

use std::{io, path::Path};

use capsule_initramfs::disk::PARTITIONS;
use capsule_proto::{Size, v1::DiskStanding};

use super::{InstallError, Order};
use crate::sys::{
    blkid::{self, Content},
    block::{self, Disk, SYSFS},
    mount::{self, Access},
};

/// A system twice, its boot files, and a `/perm` and a pool that are of use.
pub const LEAST: Size = Size::from_bytes(4 << 30);
/// What the firmware starts, on a capsule's boot partition: the last that an installation makes.
pub const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// Where a disk's boot partition is looked at.
const PLACE: &str = "/run/capsule/look";

/// A disk, and what is to be thought of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// As the kernel has it.
    pub disk: Disk,
    /// In words; empty where it is blank.
    pub content: String,
    /// Whether it may be written.
    pub standing: DiskStanding,
    /// Why it may not, where it never may.
    pub reason: String,
}

/// What of a capsule is on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capsule {
    None,
    /// An installation was cut short.
    Unfinished,
    Whole,
}

/// Looks at every disk. `booted` is the one that this system runs from.
pub async fn survey(booted: &Path) -> Result<Vec<Candidate>, InstallError> {
    let disks = block::disks(Path::new(SYSFS)).map_err(InstallError::io("look at", Path::new(SYSFS)))?;
    let mut candidates = Vec::new();
    for disk in disks {
        let capsule = capsule_on(&disk).await;
        let (standing, reason) = judge(&disk, booted, capsule);
        candidates.push(Candidate { content: content(&disk, capsule).await, disk, standing, reason });
    }
    Ok(candidates)
}

/// Internal disks that are large enough, with a capsule on them or without.
pub fn fit(booted: &Path) -> io::Result<Vec<Disk>> {
    let disks = block::disks(Path::new(SYSFS))?.into_iter();
    Ok(disks.filter(|disk| unfit(disk, booted).is_none()).collect())
}

fn judge(disk: &Disk, booted: &Path, capsule: Capsule) -> (DiskStanding, String) {
    match (unfit(disk, booted), capsule) {
        (Some(reason), _) => (DiskStanding::Unfit, reason),
        (None, Capsule::Whole) => (DiskStanding::Capsule, String::new()),
        (None, Capsule::None | Capsule::Unfinished) => (DiskStanding::Free, String::new()),
    }
}

/// Why a capsule is never put there, whatever is on it.
fn unfit(disk: &Disk, booted: &Path) -> Option<String> {
    let size = Size::from_bytes(disk.size);
    if disk.node == booted {
        Some("the installer runs from it".into())
    } else if disk.is_removable {
        Some("it is removable, and a capsule's disk must stay; use an internal one".into())
    } else if disk.is_read_only {
        Some("it takes no writes; look for a switch, or for what the kernel says of it".into())
    } else if size < LEAST {
        Some(format!("it has {size}, and a capsule needs {LEAST} at least"))
    } else {
        None
    }
}

/// The one that is meant, if it may be written.
pub fn choose<'a>(candidates: &'a [Candidate], order: &Order) -> Result<&'a Candidate, InstallError> {
    let (path, serial) = &order.disk;
    let known =
        || candidates.iter().map(|one| one.disk.node.display().to_string()).collect::<Vec<_>>().join(", ");
    let is_meant = |one: &&Candidate| one.disk.node == Path::new(path);
    let found = candidates.iter().find(is_meant);
    let found = found.ok_or_else(|| InstallError::NoDisk { asked: path.clone(), known: known() })?;
    if found.disk.serial != *serial {
        let (asked, found) = (serial.clone(), found.disk.serial.clone());
        return Err(InstallError::OtherDisk { path: path.clone(), asked, found });
    }
    match found.standing {
        DiskStanding::Free => Ok(found),
        DiskStanding::Capsule if order.reinstall => Ok(found),
        DiskStanding::Capsule => Err(InstallError::Capsule(path.clone())),
        DiskStanding::Unfit | DiskStanding::Unspecified => {
            Err(InstallError::Unfit { path: path.clone(), reason: found.reason.clone() })
        }
    }
}

async fn capsule_on(disk: &Disk) -> Capsule {
    let [esp, _, _, pv] = PARTITIONS;
    let named = |name: &str| disk.partitions.iter().find(|part| part.name == name);
    let (Some(esp), Some(_)) = (named(esp), named(pv)) else { return Capsule::None };
    // One that was cut short may have no file system there yet.
    if matches!(blkid::content(&esp.node).await, Ok(Content::Blank)) {
        return Capsule::Unfinished;
    }
    let look = |dir: &Path| Ok(dir.join(LOADER).exists());
    match mount::with_vfat(&esp.node, Path::new(PLACE), Access::Read, look) {
        Ok(false) => Capsule::Unfinished,
        Ok(true) => Capsule::Whole,
        Err(error) => {
            // It boots nothing like this, and what is beside it may be of worth all the same.
            tracing::warn!(partition = %esp.node.display(), %error, "a boot partition cannot be read");
            Capsule::Whole
        }
    }
}

/// What an operator has to know before it goes.
async fn content(disk: &Disk, capsule: Capsule) -> String {
    match capsule {
        Capsule::Whole => return "a capsule".into(),
        Capsule::Unfinished => return "an installation that was cut short".into(),
        Capsule::None => {}
    }
    let whole = described(&disk.node).await;
    let mut parts = Vec::new();
    for part in &disk.partitions {
        parts.push(described(&part.node).await.unwrap_or_else(|| "an empty partition".into()));
    }
    match (whole, parts.as_slice()) {
        (whole, []) => whole.unwrap_or_default(),
        (_, parts) => parts.join(", "),
    }
}

/// `ext4 "photos"`; `None` for nothing.
async fn described(device: &Path) -> Option<String> {
    match blkid::content(device).await {
        Ok(Content::Blank) => None,
        Ok(Content::Known { kind, label }) if label.is_empty() => Some(kind),
        Ok(Content::Known { kind, label }) => Some(format!("{kind} {label:?}")),
        Ok(Content::Several) => Some("several things that contradict each other".into()),
        Err(error) => {
            tracing::warn!(device = %device.display(), %error, "what is there cannot be told");
            Some("something that cannot be read".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use capsule_proto::{KeyId, v1::Role};

    use super::*;
    use crate::identity::Caller;

    fn disk(node: &str, gib: u64) -> Disk {
        Disk {
            node: node.into(),
            model: "Model".into(),
            serial: format!("{node}-serial"),
            size: gib << 30,
            bus: "nvme",
            is_removable: false,
            is_read_only: false,
            partitions: Vec::new(),
        }
    }

    fn candidate(disk: Disk, capsule: Capsule) -> Candidate {
        let (standing, reason) = judge(&disk, Path::new("/dev/sda"), capsule);
        Candidate { disk, content: String::new(), standing, reason }
    }

    fn order(path: &str, reinstall: bool) -> Order {
        let by = Caller { key_id: KeyId::of(&[1; 32]), role: Role::Admin, name: "ada".into() };
        Order { disk: (path.into(), format!("{path}-serial")), hostname: None, reinstall, by }
    }

    fn all() -> Vec<Candidate> {
        let usb = Disk { is_removable: true, ..disk("/dev/sdb", 64) };
        let locked = Disk { is_read_only: true, ..disk("/dev/sdc", 64) };
        vec![
            candidate(disk("/dev/nvme0n1", 64), Capsule::None),
            candidate(disk("/dev/nvme1n1", 64), Capsule::Whole),
            candidate(disk("/dev/nvme2n1", 64), Capsule::Unfinished),
            candidate(Disk { is_removable: true, ..disk("/dev/sda", 8) }, Capsule::None),
            candidate(usb, Capsule::None),
            candidate(locked, Capsule::None),
            candidate(disk("/dev/sdd", 3), Capsule::None),
        ]
    }

    #[test]
    fn the_medium_and_what_cannot_hold_a_capsule_are_refused_and_say_why() {
        let all = all();
        for (path, why) in [
            ("/dev/sda", "/dev/sda is not written: the installer runs from it"),
            ("/dev/sdb", "it is removable"),
            ("/dev/sdc", "it takes no writes"),
            ("/dev/sdd", "it has 3GiB, and a capsule needs 4GiB at least"),
            ("/dev/sdx", "has no disk /dev/sdx; it has /dev/nvme0n1, "),
        ] {
            // Not even with the word that permits most.
            let error = choose(&all, &order(path, true)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_capsule_goes_only_where_that_is_said_and_an_unfinished_one_is_nobodys() {
        let all = all();
        assert!(matches!(choose(&all, &order("/dev/nvme1n1", false)), Err(InstallError::Capsule(_))));
        for (path, reinstall) in [("/dev/nvme0n1", false), ("/dev/nvme1n1", true), ("/dev/nvme2n1", false)] {
            assert_eq!(choose(&all, &order(path, reinstall)).unwrap().disk.node, Path::new(path));
        }
    }

    #[test]
    fn a_disk_that_took_the_name_of_the_chosen_one_is_not_written() {
        let mut order = order("/dev/nvme0n1", false);
        order.disk.1 = "another".into();
        assert!(matches!(choose(&all(), &order), Err(InstallError::OtherDisk { .. })));
    }
}
