//! The new disk's boot partition: the kernel and its entry first, the loader's name last.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use capsule_bundle::Digest;

use super::{
    InstallError,
    disks::LOADER,
    progress::Progress,
    root::{copy, verify},
};
use crate::{
    boot::{BootFacts, Slot, perm},
    sys::{
        file,
        mount::{Access, with_vfat},
        vfat,
    },
    update::{loader, slots::kernel},
};

/// Where it is while it is filled, and where the medium's is.
pub(super) const PLACE: &str = "/run/capsule/new-esp";
const MEDIUM: &str = "/run/capsule/medium-esp";
/// As images have it.
const NAME: &str = "CAPSULE";
/// What the loader is called while the disk does not boot.
const UNNAMED_LOADER: &str = "EFI/BOOT/BOOTX64.new";
/// What is copied as it is, where the medium has it: the loader's settings, and words for the kernel.
const COPIED: [&str; 2] = ["loader/loader.conf", "capsule.txt"];

/// The boot partition of the disk that is installed.
#[derive(Clone, Debug)]
pub(super) struct NewEsp(pub(super) PathBuf);

impl NewEsp {
    /// Makes it, empty.
    pub(super) async fn make(&self) -> Result<(), InstallError> {
        Ok(vfat::make(&self.0, NAME).await?)
    }

    /// Copies all that boots the slot of the medium that runs; what its kernel image is.
    pub(super) fn fill(&self, facts: &BootFacts, progress: &Progress) -> Result<Digest, InstallError> {
        at(&facts.esp, MEDIUM, Access::Read, |from| {
            self.with(Access::Write, |to| fill(from, to, facts, progress))
        })
    }

    /// Whether the disk gives back the kernel image.
    pub(super) fn verify(
        &self,
        bytes: u64,
        expected: Digest,
        progress: &Progress,
    ) -> Result<(), InstallError> {
        self.with(Access::Read, |dir| verify(&dir.join(kernel(Slot::A)), bytes, expected, progress))
    }

    /// Tells the boot to come that a volume group was made.
    pub(super) fn mark(&self) -> Result<(), InstallError> {
        let write =
            |dir: &Path| file::write_atomic(&dir.join(perm::MARK), b"", 0o644).map_err(self.failed("write"));
        self.with(Access::Write, write)
    }

    /// Gives the loader its name. Done again, it changes nothing.
    pub(super) fn make_bootable(&self) -> Result<(), InstallError> {
        self.with(Access::Write, |dir| name_loader(dir).map_err(self.failed("write")))
    }

    fn with<T>(
        &self,
        access: Access,
        work: impl FnOnce(&Path) -> Result<T, InstallError>,
    ) -> Result<T, InstallError> {
        at(&self.0, PLACE, access, work)
    }

    fn failed(&self, attempt: &'static str) -> impl FnOnce(io::Error) -> InstallError + use<> {
        InstallError::io(attempt, &self.0)
    }
}

/// Of the slot that runs.
pub(super) fn kernel_bytes(facts: &BootFacts) -> Result<u64, InstallError> {
    at(&facts.esp, MEDIUM, Access::Read, |from| {
        let path = from.join(kernel(facts.slot));
        Ok(fs::metadata(&path).map_err(InstallError::io("read", &path))?.len())
    })
}

fn fill(from: &Path, to: &Path, facts: &BootFacts, progress: &Progress) -> Result<Digest, InstallError> {
    for dir in ["EFI/BOOT", "EFI/capsule", "loader/entries"] {
        fs::create_dir_all(to.join(dir)).map_err(InstallError::io("make", &to.join(dir)))?;
    }
    for (name, new) in COPIED.map(|name| (name, name)).into_iter().chain([(LOADER, UNNAMED_LOADER)]) {
        let path = from.join(name);
        if path.exists() || name == LOADER {
            fs::copy(&path, to.join(new)).map_err(InstallError::io("copy", &path))?;
        }
    }
    let path = from.join(kernel(facts.slot));
    let image = File::open(&path).map_err(InstallError::io("read", &path))?;
    let digest = copy(image, &to.join(kernel(Slot::A)), progress)?;
    loader::confirm(to, Slot::A, &facts.version).map_err(InstallError::io("write", to))?;
    Ok(digest)
}

fn name_loader(dir: &Path) -> io::Result<()> {
    let loader = dir.join(LOADER);
    if !loader.exists() {
        fs::rename(dir.join(UNNAMED_LOADER), &loader)?;
    }
    file::sync_filesystem(dir)
}

fn at<T>(
    device: &Path,
    place: &str,
    access: Access,
    work: impl FnOnce(&Path) -> Result<T, InstallError>,
) -> Result<T, InstallError> {
    let outcome = with_vfat(device, Path::new(place), access, |dir| Ok(work(dir)));
    outcome.map_err(InstallError::io("mount", device))?
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::boot::Role;

    fn facts() -> BootFacts {
        BootFacts {
            boot_id: "boot".into(),
            version: "1.2.3".into(),
            slot: Slot::B,
            entry: "capsule-b.conf".into(),
            tentative: false,
            role: Role::Installer,
            disk: "/dev/sda".into(),
            esp: "/dev/sda1".into(),
            a: "/dev/sda2".into(),
            b: "/dev/sda3".into(),
            pv: "/dev/sda4".into(),
        }
    }

    /// A medium that runs its slot b.
    fn medium(dir: &Path) {
        for (name, text) in [
            (LOADER, "loads"),
            ("EFI/capsule/b.efi", "kernel"),
            ("loader/loader.conf", "timeout 0\n"),
            ("loader/entries/capsule-b.conf", "version 7\n"),
            ("capsule.txt", "capsule.net=dhcp\n"),
            (perm::MARK, ""),
        ] {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn a_filled_partition_boots_slot_a_only_when_its_loader_has_its_name() {
        let [from, to] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        medium(from.path());
        let (caller, _heard) = mpsc::channel(1);
        let digest = fill(from.path(), to.path(), &facts(), &Progress::new(caller)).unwrap();
        assert_eq!(digest, Digest::of(b"kernel"));
        let read = |name: &str| fs::read_to_string(to.path().join(name)).ok();
        assert_eq!(read("EFI/capsule/a.efi").as_deref(), Some("kernel"));
        assert_eq!(read("capsule.txt").as_deref(), Some("capsule.net=dhcp\n"));
        let entries = loader::read(to.path()).unwrap();
        let told: Vec<_> =
            entries.iter().map(|entry| (entry.name.to_string(), entry.version.as_str())).collect();
        assert_eq!(told, [("capsule-a.conf".to_owned(), "1.2.3")]);
        assert_eq!((read(LOADER), read(perm::MARK)), (None, None));
        for _ in 0..2 {
            name_loader(to.path()).unwrap();
            assert_eq!(read(LOADER).as_deref(), Some("loads"));
        }
    }
}
