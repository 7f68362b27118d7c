//! Mounting what containerd's snapshotter describes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use containerd_client::types::Mount;
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::{layout::io_error, user::Accounts};
use crate::runtime::RuntimeError;

/// The kernel copies at most a page of options, with a closing NUL.
const OPTIONS_MAX: usize = 4095;
/// Names of our temporary mount points begin with this.
const LEFTOVER_PREFIX: &str = "rootfs-";

/// Mounts a snapshot at `target`, which exists.
pub(super) fn mount_snapshot(mounts: &[Mount], target: &Path) -> Result<(), RuntimeError> {
    for step in mounts {
        mount_one(step, target)
            .map_err(|error| io_error("mount the root of the workload at", target, &error))?;
    }
    Ok(())
}

fn mount_one(step: &Mount, target: &Path) -> io::Result<()> {
    let (flags, data) = split_options(&step.options);
    let joined = data.join(",");
    if joined.len() <= OPTIONS_MAX {
        mount(Some(step.source.as_str()), target, Some(step.r#type.as_str()), flags, Some(joined.as_str()))?;
    } else {
        mount_from_common_dir(step, &data, flags, target)?;
    }
    // A bind mount takes its flags only when mounted again.
    if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
        mount(None::<&str>, target, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>)?;
    }
    Ok(())
}

/// Images of many layers: paths become short when they are relative to where the layers are. The
/// working directory belongs to a thread of its own for that.
fn mount_from_common_dir(step: &Mount, data: &[&str], flags: MsFlags, target: &Path) -> io::Result<()> {
    let common = data
        .iter()
        .find_map(|option| Some(option.strip_prefix("upperdir=")?.to_owned()))
        .and_then(|upper| Some(Path::new(&upper).parent()?.parent()?.to_owned()))
        .or_else(|| {
            let lower = data.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
            Some(Path::new(lower.split(':').next()?).parent()?.parent()?.to_owned())
        })
        .ok_or(Errno::E2BIG)?;
    let prefix = format!("{}/", common.display());
    let short = data.join(",").replace(&prefix, "");
    std::thread::scope(|scope| {
        let mounting = scope.spawn(|| -> io::Result<()> {
            unshare(CloneFlags::CLONE_FS)?;
            std::env::set_current_dir(&common)?;
            let (source, kind) = (step.source.as_str(), step.r#type.as_str());
            Ok(mount(Some(source), target, Some(kind), flags, Some(short.as_str()))?)
        });
        mounting.join().unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

/// As mount(8) splits them: flags of the kernel, and the rest for the file system.
fn split_options(options: &[String]) -> (MsFlags, Vec<&str>) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" => flags &= !MsFlags::MS_RDONLY,
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            other => data.push(other),
        }
    }
    (flags, data)
}

/// Reads the accounts of an image from the layers below a fresh snapshot. Blocking.
pub(super) fn read_accounts(mounts: &[Mount], tmp: &Path) -> Result<Accounts, RuntimeError> {
    let options = mounts.iter().flat_map(|step| &step.options);
    let Some(lower) = options.into_iter().find_map(|option| option.strip_prefix("lowerdir=")) else {
        // An image without layers.
        return Ok(Accounts::default());
    };
    if !lower.contains(':') {
        return Ok(Accounts::read(Path::new(lower)));
    }
    let at = TemporaryMount::of_layers(lower, tmp)?;
    Ok(Accounts::read(&at.0))
}

struct TemporaryMount(PathBuf);

impl TemporaryMount {
    fn of_layers(lower: &str, tmp: &Path) -> Result<Self, RuntimeError> {
        let at = tmp.join(format!("{LEFTOVER_PREFIX}{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&at).map_err(|error| io_error("make the directory", &at, &error))?;
        let overlay = Mount {
            r#type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec!["ro".to_owned(), format!("lowerdir={lower}")],
            ..Mount::default()
        };
        let mounted = Self(at);
        mount_snapshot(&[overlay], &mounted.0)?;
        Ok(mounted)
    }
}

impl Drop for TemporaryMount {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn unmount(at: &Path) {
    let _ = umount2(at, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(at);
}

/// Mount points of an agent that was killed.
pub(super) fn unmount_leftovers(tmp: &Path) {
    for entry in fs::read_dir(tmp).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(LEFTOVER_PREFIX) {
            unmount(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = ["ro", "rbind", "lowerdir=/a:/b"].map(str::to_owned);
        let (flags, data) = split_options(&options);
        assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_BIND | MsFlags::MS_REC);
        assert_eq!(data, ["lowerdir=/a:/b"]);
    }

    #[test]
    fn root_hundreds_of_layers_can_be_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<String> = (0..120)
            .map(|number| {
                let layer = dir.path().join(format!("snapshots/layer-of-an-image-{number}/fs"));
                fs::create_dir_all(&layer).unwrap();
                fs::write(layer.join(format!("file-{number}")), "").unwrap();
                layer.display().to_string()
            })
            .collect();
        let lower = layers.join(":");
        assert!(lower.len() > OPTIONS_MAX);
        let mounted = TemporaryMount::of_layers(&lower, dir.path()).unwrap();
        assert!(mounted.0.join("file-0").exists() && mounted.0.join("file-119").exists());
    }
}
