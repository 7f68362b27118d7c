//! The EFI system partition: boot loader, its entries and a unified kernel image per slot.

use std::{fs, path::Path};

use crate::{Error, Result, run::Program};

/// 256 MiB: two kernel images, and a third while one is replaced.
pub const BYTES: u64 = 256 << 20;
const SERIAL: &str = "ca95a1e0";
const LOADER_CONF: &str = "timeout 0\neditor no\n";

/// What is in it.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// systemd-boot.
    pub loader: &'a Path,
    /// Slot A's unified kernel image.
    pub kernel: &'a Path,
    /// Of the image.
    pub version: &'a str,
}

/// Writes it to `into` as a file system.
pub fn build(parts: &Parts, into: &Path) -> Result<()> {
    let file = fs::File::create(into).map_err(Error::file("write", into))?;
    file.set_len(BYTES).map_err(Error::file("write", into))?;
    Program::new("mkfs.vfat")
        .args(["-F", "32", "-n", "CAPSULE", "--invariant", "-i", SERIAL])
        .arg(into)
        .run()?;
    let staging = into.with_extension("files");
    let texts = [("loader.conf", LOADER_CONF.to_owned()), ("capsule-a.conf", entry(parts.version))];
    fs::create_dir_all(&staging).map_err(Error::file("make", &staging))?;
    let fat = Fat(into);
    for folder in ["EFI", "EFI/BOOT", "EFI/capsule", "loader", "loader/entries"] {
        fat.directory(folder)?;
    }
    for (name, text) in &texts {
        let path = staging.join(name);
        fs::write(&path, text).map_err(Error::file("write", &path))?;
    }
    fat.copy(parts.loader, "EFI/BOOT/BOOTX64.EFI")?;
    fat.copy(parts.kernel, "EFI/capsule/a.efi")?;
    fat.copy(&staging.join("loader.conf"), "loader/loader.conf")?;
    fat.copy(&staging.join("capsule-a.conf"), "loader/entries/capsule-a.conf")?;
    crate::tree::remove(&staging)
}

/// The first slot's entry, confirmed: it has no tries to count.
fn entry(version: &str) -> String {
    format!("title Capsule {version} (a)\nsort-key capsule\nversion 0000000001\nefi /EFI/capsule/a.efi\n")
}

/// A FAT file system in a file.
struct Fat<'a>(&'a Path);

impl Fat<'_> {
    fn directory(&self, name: &str) -> Result<()> {
        self.tool("mmd").arg(format!("::/{name}")).run().map(drop)
    }

    fn copy(&self, from: &Path, name: &str) -> Result<()> {
        self.tool("mcopy").arg(from).arg(format!("::/{name}")).run().map(drop)
    }

    fn tool(&self, name: &str) -> Program {
        Program::new(name).env("MTOOLS_SKIP_CHECK", "1").arg("-i").arg(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn build_in(dir: &Path, name: &str) -> std::path::PathBuf {
        let (loader, kernel) = (dir.join("loader.efi"), dir.join("kernel.efi"));
        fs::write(&loader, "loads").unwrap();
        fs::write(&kernel, vec![7; 100_000]).unwrap();
        let into = dir.join(name);
        build(&Parts { loader: &loader, kernel: &kernel, version: "1.2.3" }, &into).unwrap();
        into
    }

    #[test]
    fn a_partition_has_the_loader_where_firmware_looks_and_an_entry_for_the_first_slot() {
        let dir = tempfile::tempdir().unwrap();
        let image = build_in(dir.path(), "esp");
        let read =
            |name: &str| Program::new("mtype").arg("-i").arg(&image).arg(format!("::/{name}")).run().unwrap();
        assert_eq!(read("EFI/BOOT/BOOTX64.EFI"), b"loads");
        assert_eq!(read("EFI/capsule/a.efi"), vec![7; 100_000]);
        assert_eq!(read("loader/loader.conf"), LOADER_CONF.as_bytes());
        let entry = String::from_utf8(read("loader/entries/capsule-a.conf")).unwrap();
        assert!(entry.starts_with("title Capsule 1.2.3 (a)\n"), "{entry}");
        assert!(entry.ends_with("efi /EFI/capsule/a.efi\n"), "{entry}");
    }

    #[test]
    fn the_same_files_give_the_same_partition() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (build_in(dir.path(), "first"), build_in(dir.path(), "second"));
        let start = |path: &Path| {
            let mut content = Vec::new();
            fs::File::open(path).unwrap().take(4 << 20).read_to_end(&mut content).unwrap();
            content
        };
        assert!(start(&first) == start(&second));
        // Made at another time, they would be the same, too.
        let listed = Program::new("mdir").arg("-i").arg(&first).arg("::/EFI/capsule").text().unwrap();
        let dated = listed.lines().filter(|line| line.contains("2026-11-21"));
        assert_eq!(dated.count(), 3, "{listed}");
    }
}
