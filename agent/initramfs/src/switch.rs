//! Leaving the initramfs: frees what it holds, makes the root the root, and becomes its first process.

use std::{
    ffi::{CStr, CString},
    fs,
    path::Path,
};

use nix::{
    mount::{MsFlags, mount},
    unistd::{chdir, chroot, execve},
};

use crate::{Error, Result};

/// Where the root is mounted before.
pub const PLACE: &str = "/root";
/// What goes on there.
pub const PROGRAM: &str = "/usr/sbin/capsuled";
/// What it and all that it starts begin with: the kernel's own has no PATH.
const ENVIRONMENT: [&CStr; 3] = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin", c"HOME=/", c"TERM=linux"];
/// Mounts that move along.
const MOVED: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Mounts the device and does not come back but with an error.
pub fn switch_to(device: &Path) -> Result<std::convert::Infallible> {
    fs::create_dir_all(PLACE).map_err(Error::io("make", PLACE))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(Some(device), PLACE, Some("erofs"), flags, None::<&str>).map_err(Error::io("mount", device))?;
    for place in MOVED {
        let target = format!("{PLACE}{place}");
        mount(Some(place), target.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(Error::io("move", place))?;
    }
    free(Path::new("/"));
    chdir(PLACE).map_err(Error::io("enter", PLACE))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(Error::io("move", PLACE))?;
    chroot(".").and_then(|()| chdir("/")).map_err(Error::io("enter", PLACE))?;
    let program = CString::new(PROGRAM).unwrap_or_default();
    execve(&program, &[program.as_c_str(), c"init"], &ENVIRONMENT).map_err(Error::io("run", PROGRAM))
}

/// Modules and this program lie in memory. Never goes into another file system.
fn free(dir: &Path) {
    let device =
        |path: &Path| fs::symlink_metadata(path).map(|meta| std::os::unix::fs::MetadataExt::dev(&meta));
    let Ok(here) = device(dir) else { return };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if device(&path).is_ok_and(|there| there != here) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            free(&path);
        } else {
            // What stays is only memory.
            let _ = fs::remove_file(&path);
        }
    }
}
