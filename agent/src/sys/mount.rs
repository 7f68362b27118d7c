//! Mounts of this process' mount namespace.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, umount};

/// A line of /proc/self/mountinfo, as far as it is needed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub target: PathBuf,
    /// What: a device for block file systems.
    pub source: PathBuf,
}

/// Every mount.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// The mount at exactly `target`, the topmost where several are stacked.
pub fn mounted_at(target: &Path) -> io::Result<Option<Mount>> {
    Ok(mounts()?.into_iter().rfind(|mount| mount.target == target))
}

/// Mounts an ext4 device for workloads: device nodes and set-user-id bits on it have no effect.
pub fn mount_ext4(device: &Path, target: &Path, options: Option<&str>) -> io::Result<()> {
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    Ok(nix::mount::mount(Some(device), target, Some("ext4"), flags, options)?)
}

/// What a mount is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The device stays as it is to the bit.
    Read,
    /// It may be changed.
    Write,
}

/// Mounts an ESP, for root alone.
pub fn mount_vfat(device: &Path, target: &Path, access: Access) -> io::Result<()> {
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let flags = if access == Access::Read { flags | MsFlags::MS_RDONLY } else { flags };
    Ok(nix::mount::mount(Some(device), target, Some("vfat"), flags, Some("umask=0077"))?)
}

/// Does something with an ESP's files, which are at `target` for that long.
pub fn with_vfat<T>(
    device: &Path,
    target: &Path,
    access: Access,
    work: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    fs::create_dir_all(target)?;
    // Whoever was killed in the middle may have left it there.
    unmount_if_mounted(target)?;
    mount_vfat(device, target, access)?;
    let outcome = work(target);
    unmount_if_mounted(target)?;
    outcome
}

/// Unmounts what is there; nothing there is fine.
pub fn unmount_if_mounted(target: &Path) -> io::Result<()> {
    match umount(target) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// proc_pid_mountinfo(5): `36 35 98:0 /root /target options … - type source super-options`.
fn parse(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let target = unescape(before.split(' ').nth(4)?);
        let source = unescape(after.split(' ').nth(1)?);
        Some(Mount { target, source })
    };
    text.lines().filter_map(line).collect()
}

/// Space, tab, newline and backslash stand as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let plain =
        field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_gives_target_and_source() {
        let text = "36 35 7:3 / /var/a\\040b rw,nosuid shared:1 master:2 - ext4 /dev/loop3 rw\nnonsense\n";
        let expected = Mount { target: "/var/a b".into(), source: "/dev/loop3".into() };
        assert_eq!(parse(text), [expected]);
    }
}
