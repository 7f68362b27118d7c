//! A disk with the appliance's partitions, in memory.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use testbed::sys;

/// Nothing below it outlives the guest.
const MEMORY: &str = "/run";
/// Boot, slots, and the physical volume as the image ships it.
const TABLE: &str = "label: gpt\nsize=2M\nsize=2M\nsize=2M\n\
                     size=64M, type=E6D6D379-F507-44C2-A23C-238F2A3DF928, name=capsule-pv\n";

/// A disk; its blocks are there once they are written.
pub struct Disk {
    dir: TempDir,
    device: String,
}

impl Disk {
    /// As large as `size`, with partitions that fill only its beginning.
    pub fn new(size: u64) -> Result<Self> {
        let dir = TempDir::new_in(MEMORY)?;
        let file = dir.path().join("disk");
        // The image is made for less.
        File::create(&file)?.set_len(80 << 20)?;
        command("sfdisk", &["--quiet", &file.to_string_lossy()], TABLE)?;
        File::options().write(true).open(&file)?.set_len(size)?;
        let device = command("losetup", &["--find", "--partscan", "--show", &file.to_string_lossy()], "")?;
        Ok(Self { dir, device: device.trim().to_owned() })
    }

    /// The physical volume.
    pub fn partition(&self) -> PathBuf {
        format!("{}p4", self.device).into()
    }

    /// Becomes as large as `size`.
    pub fn enlarge(&self, size: u64) -> Result<()> {
        File::options().write(true).open(self.dir.path().join("disk"))?.set_len(size)?;
        command("losetup", &["--set-capacity", &self.device], "").map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = lose_power();
        let _ = command("losetup", &["--detach", &self.device], "");
    }
}

/// Takes from the kernel and /dev all that is known of volumes, as a power loss does.
pub fn lose_power() -> Result<()> {
    command("dmsetup", &["remove_all", "--force"], "")?;
    command("sh", &["-c", "rm -rf /dev/capsule /dev/mapper/capsule-*"], "").map(drop)
}

/// Whether an ext4 file system needs no repair.
pub fn expect_sound(device: &Path) -> Result<()> {
    command("e2fsck", &["-f", "-n", &device.to_string_lossy()], "")
        .map(drop)
        .with_context(|| format!("{} is damaged", device.display()))
}

/// Runs a tool and returns what it wrote.
pub fn command(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    sys::run(Command::new(program).args(arguments), input)
}
