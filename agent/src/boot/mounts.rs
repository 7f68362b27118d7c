//! File systems that the running system needs beside its root, and their ends.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::sys::mount::{Mount, mounts};

/// Type, place, options. The initramfs has mounted /proc, /sys, /dev and /run.
const MOUNTS: [(&str, &str, &str); 8] = [
    ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("mqueue", "/dev/mqueue", ""),
    ("tmpfs", "/tmp", "mode=1777,size=25%"),
    ("tmpfs", "/var", "mode=755,size=25%"),
    ("cgroup2", "/sys/fs/cgroup", "nsdelegate,memory_recursiveprot"),
    ("pstore", PSTORE, ""),
    ("tracefs", "/sys/kernel/tracing", ""),
];

/// The kernel looks for a module when it is mounted, which takes a tenth of an emulated second, and nothing
/// at boot needs it.
const LATER: (&str, &str, &str) = ("bpf", "/sys/fs/bpf", "mode=700");

/// What a kernel that panicked has left.
pub const PSTORE: &str = "/sys/fs/pstore";

/// What /var begins with.
const VAR_SKELETON: &str = "/usr/share/capsule/var";

/// Mounts what a start needs. One that fails is told and passed over: a capsule without it is still of use.
pub fn mount_early(say: impl Fn(String)) {
    for entry in MOUNTS {
        mount_or_say(entry, &say);
    }
    if let Err(error) = copy_tree(Path::new(VAR_SKELETON), Path::new("/var")) {
        say(format!("cannot fill /var: {error}"));
    }
}

/// Mounts the rest.
pub fn mount_later(say: impl Fn(String)) {
    mount_or_say(LATER, &say);
}

fn mount_or_say((kind, place, options): (&str, &str, &str), say: &impl Fn(String)) {
    if let Err(error) = mount_one(kind, Path::new(place), options) {
        say(format!("cannot mount {place}: {error}"));
    }
}

fn mount_one(kind: &str, place: &Path, options: &str) -> io::Result<()> {
    // Below /dev nobody made them.
    fs::create_dir_all(place)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let flags = if matches!(kind, "devpts") { flags } else { flags | MsFlags::MS_NODEV };
    Ok(mount(Some(kind), place, Some(kind), flags, Some(options))?)
}

/// Directories and files, with their modes.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy_tree(&source, &target)?;
            let meta = entry.metadata()?;
            fs::set_permissions(&target, meta.permissions())?;
            let (user, group) = {
                use std::os::unix::fs::MetadataExt as _;
                (meta.uid(), meta.gid())
            };
            std::os::unix::fs::chown(&target, Some(user), Some(group))?;
        } else if entry.file_type()?.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Mounts a directory at a second place.
pub fn bind(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    Ok(mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Mounts the capsule's own file system.
pub fn mount_perm(device: &Path, place: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    Ok(mount(Some(device), place, Some("ext4"), flags, Some("errors=remount-ro"))?)
}

/// Mounts memory where the capsule's own file system would be; it is called otherwise than all other
/// memory, so that its end is not theirs.
pub fn mount_memory(place: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    Ok(mount(Some("perm"), place, Some("tmpfs"), flags, Some("mode=700,size=25%"))?)
}

/// Unmounts everything at and below `place`, and other places of what is mounted there, the last
/// mounted first; what was still busy and so is only hidden from now on.
pub fn unmount_all_of(place: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = mounts()?;
    let device = mounts.iter().rfind(|mount| mount.target == place).map(|mount| mount.source.clone());
    let is_of = |mount: &&Mount| mount.target.starts_with(place) || Some(&mount.source) == device.as_ref();
    let mut busy = Vec::new();
    for target in mounts.iter().rev().filter(is_of).map(|mount| mount.target.clone()) {
        if umount2(&target, MntFlags::empty()).is_err() {
            umount2(&target, MntFlags::MNT_DETACH)?;
            busy.push(target);
        }
    }
    Ok(busy)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_skeleton_is_copied_with_its_modes_and_links() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("lib/chrony")).unwrap();
        fs::set_permissions(from.path().join("lib/chrony"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(from.path().join("lib/file"), "text").unwrap();
        std::os::unix::fs::symlink("/run", from.path().join("run")).unwrap();
        copy_tree(from.path(), to.path()).unwrap();
        let mode = fs::metadata(to.path().join("lib/chrony")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750);
        assert_eq!(fs::read_to_string(to.path().join("lib/file")).unwrap(), "text");
        assert_eq!(fs::read_link(to.path().join("run")).unwrap(), Path::new("/run"));
    }
}
