//! Mounts and loop devices below a directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::run;

/// Mount points at or below `dir`, deepest and latest first.
pub fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    below.reverse();
    Ok(below)
}

/// The kernel writes blanks and backslashes in octal (proc(5)).
fn unescape(text: &str) -> PathBuf {
    let plain =
        text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(plain)
}

/// Unmounts everything at or below `dir`.
pub fn unmount_below(dir: &Path) -> Result<()> {
    for point in mounts_below(dir)? {
        if umount2(&point, MntFlags::empty()).is_err() {
            umount2(&point, MntFlags::MNT_DETACH)
                .with_context(|| format!("cannot unmount {}", point.display()))?;
        }
    }
    Ok(())
}

/// Frees every loop device whose file is below `dir`.
pub fn free_loops_below(dir: &Path) -> Result<()> {
    for entry in fs::read_dir("/sys/block").context("cannot list block devices")?.flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim_end()).starts_with(dir) {
            let device = Path::new("/dev").join(entry.file_name());
            run(Command::new("losetup").arg("--detach").arg(device), "")?;
        }
    }
    Ok(())
}

/// Mounts an empty file system of at most `bytes` at `dir`, unless something is mounted there.
pub fn ensure_small(dir: &Path, bytes: u64) -> Result<()> {
    if mounts_below(dir)?.iter().any(|point| point == dir) {
        return Ok(());
    }
    let options = format!("size={bytes},mode=0700");
    mount(Some("testbed"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("cannot mount a file system of {bytes} bytes at {}", dir.display()))
}

/// Removes a directory tree that nothing is mounted in.
pub fn remove_tree(dir: &Path) -> Result<()> {
    if let Some(point) = mounts_below(dir)?.first() {
        bail!("{} is still mounted; nothing below {} was removed", point.display(), dir.display());
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
