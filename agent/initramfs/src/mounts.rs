//! The kernel's own file systems.

use std::{fs, path::Path};

use nix::mount::{MsFlags, mount};

use crate::{Error, Result};

/// Type and place of each.
const KERNEL: [(&str, &str); 4] =
    [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")];
/// Where EFI variables are.
pub const EFI_VARIABLES: &str = "/sys/firmware/efi/efivars";

/// Mounts them.
pub fn mount_kernel() -> Result<()> {
    for (kind, place) in KERNEL {
        fs::create_dir_all(place).map_err(Error::io("make", place))?;
        let flags = MsFlags::MS_NOSUID | if kind == "tmpfs" { MsFlags::MS_NODEV } else { MsFlags::empty() };
        let options = (kind == "tmpfs").then_some("mode=0755");
        mount(Some(kind), place, Some(kind), flags, options).map_err(Error::io("mount", place))?;
    }
    Ok(())
}

/// Mounts EFI's variables, where there are any; their module must be loaded.
pub fn mount_variables() -> Result<()> {
    if Path::new(EFI_VARIABLES).is_dir() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("efivarfs"), EFI_VARIABLES, Some("efivarfs"), flags, None::<&str>)
            .map_err(Error::io("mount", EFI_VARIABLES))?;
    }
    Ok(())
}
