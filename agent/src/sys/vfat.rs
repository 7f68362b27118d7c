//! dosfstools: making FAT.

use std::{path::Path, time::Duration};

use super::run::{RunError, run};

/// It writes a few sectors.
const DEADLINE: Duration = Duration::from_mins(1);

/// Makes an empty FAT32 that fills `device`, under this name.
pub async fn make(device: &Path, name: &str) -> Result<(), RunError> {
    let arguments = ["-F", "32", "-n", name, &device.to_string_lossy()];
    run("mkfs.vfat", &arguments, b"", DEADLINE).await.map(drop)
}
