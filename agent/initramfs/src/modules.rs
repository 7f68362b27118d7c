//! Kernel modules of the initramfs: those that are always needed, and drivers of the hardware that is
//! there.
//!
//! `/modules` holds them uncompressed and side by side, with `order` (always, in this order),
//! `modules.dep` and `modules.alias` as depmod writes them, cut down to what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs::{self, File},
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Where they are.
pub const DIR: &str = "/modules";
const DEVICES: &str = "/sys/devices";

/// The modules, and which were loaded.
#[derive(Debug)]
pub struct Modules {
    dir: PathBuf,
    /// What each needs, itself last, as file names.
    chains: BTreeMap<String, Vec<String>>,
    /// Patterns of hardware, and the driver of each.
    aliases: Vec<(CString, String)>,
    loaded: BTreeSet<String>,
}

impl Modules {
    /// Reads the lists.
    pub fn open(dir: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(Error::io("read", path))
        };
        let chains = text("modules.dep")?.lines().filter_map(chain).collect();
        let aliases = text("modules.alias")?.lines().filter_map(alias).collect();
        Ok(Self { dir: dir.to_owned(), chains, aliases, loaded: BTreeSet::new() })
    }

    /// Loads those that are always needed.
    pub fn load_always(&mut self) -> Result<()> {
        let path = self.dir.join("order");
        let order = fs::read_to_string(&path).map_err(Error::io("read", path))?;
        order.lines().filter(|file| !file.is_empty()).try_for_each(|file| self.load_file(file))
    }

    /// Loads drivers of hardware that has turned up; whether there were any.
    pub fn load_for_hardware(&mut self) -> bool {
        let mut names = BTreeSet::new();
        for device in hardware(Path::new(DEVICES)) {
            names.extend(self.drivers_of(&device).map(str::to_owned));
        }
        let chains: Vec<Vec<String>> =
            names.iter().filter_map(|name| self.chains.get(name).cloned()).collect();
        let before = self.loaded.len();
        for file in chains.iter().flatten() {
            // A driver that does not want its hardware is no reason to give up the others.
            if let Err(error) = self.load_file(file) {
                crate::say(&crate::chain(&error));
            }
        }
        self.loaded.len() > before
    }

    fn drivers_of(&self, device: &CString) -> impl Iterator<Item = &str> {
        self.aliases
            .iter()
            .filter(|(pattern, _)| glob::matches(pattern, device))
            .map(|(_, name)| name.as_str())
    }

    fn load_file(&mut self, file: &str) -> Result<()> {
        if !self.loaded.insert(file.to_owned()) {
            return Ok(());
        }
        let path = self.dir.join(file);
        let module = File::open(&path).map_err(Error::io("open", &path))?;
        match nix::kmod::finit_module(&module, c"", nix::kmod::ModuleInitFlags::empty()) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
            Err(error) => Err(Error::io("load", path)(error)),
        }
    }
}

/// `kernel/a/b.ko: kernel/c.ko kernel/d.ko`; depmod lists what is needed last to first.
fn chain(line: &str) -> Option<(String, Vec<String>)> {
    let (own, needs) = line.split_once(':')?;
    let files = needs.split_whitespace().rev().chain([own]).map(file_name);
    Some((module_name(file_name(own)), files.map(str::to_owned).collect()))
}

/// `alias pci:v00008086d* e1000e`.
fn alias(line: &str) -> Option<(CString, String)> {
    let mut words = line.strip_prefix("alias ")?.rsplitn(2, ' ');
    let (name, pattern) = (words.next()?, words.next()?);
    Some((CString::new(pattern).ok()?, name.replace('-', "_")))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn module_name(file: &str) -> String {
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// What the kernel calls all hardware that it has found.
fn hardware(dir: &Path) -> BTreeSet<CString> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // Links lead to what is found elsewhere.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(hardware(&entry.path()));
        } else if entry.file_name() == "modalias" {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            found.extend(CString::new(text.trim()).ok().filter(|text| !text.is_empty()));
        }
    }
    found
}

/// Patterns as shells and depmod have them.
#[allow(unsafe_code)]
mod glob {
    use std::ffi::CStr;

    pub(super) fn matches(pattern: &CStr, text: &CStr) -> bool {
        // SAFETY: both end with a NUL and live for the call, which keeps neither.
        unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), 0) == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(dir: &Path) -> Modules {
        fs::write(dir.join("order"), "dm-mod.ko\n").unwrap();
        fs::write(
            dir.join("modules.dep"),
            "k/virtio_blk.ko: k/virtio_ring.ko k/virtio.ko\nk/usb-storage.ko:\n",
        )
        .unwrap();
        let aliases =
            "# Aliases\nalias virtio:d00000002v* virtio_blk\nalias usb:v*p*ic08isc06ip50in* usb-storage\n";
        fs::write(dir.join("modules.alias"), aliases).unwrap();
        Modules::open(dir).unwrap()
    }

    #[test]
    fn drivers_are_found_by_what_their_hardware_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let modules = modules(dir.path());
        let drivers =
            |name: &CStr| modules.drivers_of(&name.to_owned()).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(drivers(c"virtio:d00000002v00001AF4"), ["virtio_blk"]);
        assert_eq!(drivers(c"usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00"), ["usb_storage"]);
        assert!(drivers(c"virtio:d00000001v00001AF4").is_empty());
    }

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let modules = modules(dir.path());
        assert_eq!(modules.chains["virtio_blk"], ["virtio.ko", "virtio_ring.ko", "virtio_blk.ko"]);
        assert_eq!(modules.chains["usb_storage"], ["usb-storage.ko"]);
    }

    use std::ffi::CStr;

    #[test]
    fn hardware_of_this_machine_is_found_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("pci0/0000:00");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("modalias"), "pci:v1\n").unwrap();
        std::os::unix::fs::symlink(dir.path(), device.join("loop")).unwrap();
        assert_eq!(hardware(dir.path()), BTreeSet::from([c"pci:v1".to_owned()]));
    }
}
