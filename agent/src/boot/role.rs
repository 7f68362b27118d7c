//! Whether this boot is a capsule's, or that of a medium which puts one on a disk.
//!
//! ```text
//!   booted from an internal disk ──────────────────────────────▶ appliance
//!   from a removable medium ──┬─ that is a capsule's own disk ──▶ appliance
//!                             ├─ beside no internal disk ───────▶ appliance
//!                             └─ beside one ────────────────────▶ installer
//! ```
//!
//! An internal disk that holds a capsule makes an installer, too: whoever boots a stick beside it means to
//! install it anew, and a second capsule on the stick would be of no use to anybody.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    console::say,
    facts::{BootFacts, Role},
    perm,
};
use crate::{
    install::disks,
    sys::{
        block::{self, SYSFS},
        mount::Access,
    },
};

/// For disks whose drivers were loaded just now to turn up.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether the medium that was booted can be taken out. Where that cannot be told, it is no installer.
pub fn is_on_removable(facts: &BootFacts) -> bool {
    let disks = block::disks(Path::new(SYSFS)).unwrap_or_else(|error| {
        say(&format!("the disks cannot be looked at: {error}"));
        Vec::new()
    });
    disks.iter().any(|disk| disk.node == facts.disk && disk.is_removable)
}

/// The role of a removable medium, once drivers are loaded.
pub async fn of_removable(facts: &BootFacts) -> Role {
    let end = Instant::now() + LIMIT;
    match is_capsules_own(&facts.esp) {
        Ok(false) => {}
        Ok(true) => return Role::Appliance,
        Err(error) => {
            say(&format!("cannot read the ESP: {error}"));
            return Role::Appliance;
        }
    }
    while Instant::now() < end {
        if disks::fit(&facts.disk).is_ok_and(|fit| !fit.is_empty()) {
            return Role::Installer;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Role::Appliance
}

fn is_capsules_own(esp: &Path) -> io::Result<bool> {
    perm::with_esp(esp, Access::Read, |dir| Ok(dir.join(perm::MARK).exists()))
}
