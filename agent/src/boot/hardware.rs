//! Drivers: those of the hardware that is there, and modules that are needed by name.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use crate::sys::run::{RunError, run};

const MODPROBE: &str = "modprobe";
/// A driver whose hardware hangs is not waited for any longer.
const LIMIT: Duration = Duration::from_mins(1);
const DEVICES: &str = "/sys/devices";
/// Names that fit on a command line at once.
const BATCH: usize = 200;

/// What a capsule does not wait for, by how it is called among devices: what a processor can do (sums,
/// ciphers, guests), of which each is tried out when it is loaded, the mouse, which is looked for, and what an
/// emulator has of its own.
const LATER: [&str; 3] = ["cpu:", "serio:", "acpi:QEMU"];

/// For `/perm`, to keep what a panic says, and for the power button.
pub const EARLY: [&str; 4] = ["ext4", "efi_pstore", "button", "evdev"];

/// For workloads. nft would ask for its modules one at a time, and begin its transaction anew after each.
pub const WORKLOADS: [&str; 21] = [
    "bridge",
    "dm_snapshot",
    "dm_thin_pool",
    "loop",
    "nf_conntrack_bridge",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib_inet",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_meta_bridge",
    "nft_nat",
    "nft_numgen",
    "nft_reject_inet",
    "overlay",
    "tun",
    "veth",
    "wireguard",
];

/// Whose drivers are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Disks, network cards, watchdogs: all that the kernel found and that has none, but for the next.
    Devices,
    /// The processor, and what else takes long and is not waited for.
    Later,
}

/// Loads modules by name. One that this kernel has built in, or lacks, is no error.
pub async fn load(names: &[&str]) -> Result<(), RunError> {
    let arguments: Vec<&str> = ["-qab"].into_iter().chain(names.iter().copied()).collect();
    match run(MODPROBE, &arguments, b"", LIMIT).await {
        // With `q` it only tells that some were not there.
        Ok(_) | Err(RunError::Failed { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Loads the drivers of hardware that has none.
pub async fn load_drivers(of: Of) -> Result<(), RunError> {
    let is_later = |name: &String| LATER.iter().any(|kind| name.starts_with(kind));
    let is_meant = |name: &String| is_later(name) == (of == Of::Later);
    let names: Vec<String> = undriven(Path::new(DEVICES)).into_iter().filter(is_meant).collect();
    for batch in names.chunks(BATCH) {
        load(&batch.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    }
    Ok(())
}

/// What devices without a driver are called.
fn undriven(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
    let is_driven = entries.iter().any(|entry| entry.file_name() == "driver");
    for entry in entries {
        // Links lead to what is found elsewhere.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(undriven(&entry.path()));
        } else if entry.file_name() == "modalias" && !is_driven {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            found.extend(Some(text.trim().to_owned()).filter(|text| !text.is_empty()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_without_a_driver_ask_for_one() {
        let dir = tempfile::tempdir().unwrap();
        for (name, driven) in [("one", false), ("two", true)] {
            let device = dir.path().join("pci0").join(name);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("modalias"), format!("pci:{name}\n")).unwrap();
            if driven {
                std::os::unix::fs::symlink("/", device.join("driver")).unwrap();
            }
        }
        assert_eq!(undriven(dir.path()), BTreeSet::from(["pci:one".to_owned()]));
    }
}
