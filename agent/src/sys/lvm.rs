//! lvm2: volume groups, logical volumes and thin pools on one device.
//!
//! Everything that lvm2 would take from the host's lvm.conf and could do harm is told to it at each
//! call: no udev, which the appliance has not; no look at any device but the one that is meant, so that
//! what workloads write into their volumes is never taken for a volume group.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};

use super::run::{RunError, run};

/// It writes a few sectors; a thin pool's metadata is checked before it is activated.
const DEADLINE: Duration = Duration::from_mins(5);

/// Why lvm2 did not do it.
#[derive(Debug, thiserror::Error)]
pub enum LvmError {
    /// The device is not there.
    #[error("cannot find {device}")]
    Device {
        /// Which.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No such volume or group.
    #[error("there is no {0}")]
    NotFound(String),
    /// Somebody has it open.
    #[error("{0} is in use; unmount it first")]
    InUse(String),
    /// No extents are left.
    #[error(
        "the volume group has not that much free space; make the disk larger and run `fleetctl capsule grow-disk`"
    )]
    NoSpace,
    /// A thin pool whose metadata does not pass the check.
    #[error("the metadata of thin pool {0} is damaged; docs/storage.md tells how it is repaired")]
    Damaged(String),
    /// Anything else that it said.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Its report is none.
    #[error("cannot understand what `lvm {command}` reported")]
    Report {
        /// Which.
        command: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// What there is of a volume group, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Group {
    /// Of all its extents.
    #[serde(rename = "vg_size", deserialize_with = "number")]
    pub size: u64,
    /// Of those in no volume.
    #[serde(rename = "vg_free", deserialize_with = "number")]
    pub free: u64,
    /// Of one extent.
    #[serde(rename = "vg_extent_size", deserialize_with = "number")]
    pub extent: u64,
}

/// A device that is part of a group, or prepared to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Empty where it is in none yet.
    #[serde(rename = "vg_name")]
    pub group: String,
    /// What the group uses of it, in bytes.
    #[serde(rename = "pv_size", deserialize_with = "number")]
    pub size: u64,
    /// The device itself, in bytes.
    #[serde(rename = "dev_size", deserialize_with = "number")]
    pub device_size: u64,
}

/// A logical volume that is not part of another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LogicalVolume {
    /// Within its group.
    #[serde(rename = "lv_name")]
    pub name: String,
    /// In bytes.
    #[serde(rename = "lv_size", deserialize_with = "number")]
    pub size: u64,
    /// Of a thin pool's metadata, in bytes; 0 for all others.
    #[serde(rename = "lv_metadata_size", deserialize_with = "number")]
    pub metadata_size: u64,
}

/// lvm2 on one device.
#[derive(Clone, Debug)]
pub struct Lvm {
    device: String,
    config: String,
}

impl Lvm {
    /// The device must exist; it may be blank.
    pub fn on(device: &Path) -> Result<Self, LvmError> {
        let found = device.canonicalize();
        let found = found.map_err(|source| LvmError::Device { device: device.to_owned(), source })?;
        let device = found.to_string_lossy().into_owned();
        let config = config(&device);
        Ok(Self { device, config })
    }

    /// The device's node.
    pub fn device(&self) -> &Path {
        Path::new(&self.device)
    }

    /// What the device is to lvm2.
    pub async fn member(&self) -> Result<Member, LvmError> {
        let rows: Vec<Member> = self.report("pvs", "vg_name,pv_size,dev_size", &self.device).await?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }

    /// Sizes of a group.
    pub async fn group(&self, group: &str) -> Result<Group, LvmError> {
        let rows: Vec<Group> = self.report("vgs", "vg_size,vg_free,vg_extent_size", group).await?;
        rows.into_iter().next().ok_or_else(|| LvmError::NotFound(group.to_owned()))
    }

    /// The group's volumes.
    pub async fn volumes(&self, group: &str) -> Result<Vec<LogicalVolume>, LvmError> {
        self.report("lvs", "lv_name,lv_size,lv_metadata_size", group).await
    }

    /// Prepares the device, where it is not, and makes a group of it.
    pub async fn make_group(&self, group: &str) -> Result<(), LvmError> {
        self.run("vgcreate", group, &[group, &self.device]).await
    }

    /// Makes every volume of a group usable.
    pub async fn activate(&self, group: &str) -> Result<(), LvmError> {
        self.run("vgchange", group, &["-ay", group]).await
    }

    /// Takes every volume of a group out of use; none may be open.
    pub async fn deactivate(&self, group: &str) -> Result<(), LvmError> {
        self.run("vgchange", group, &["-an", group]).await
    }

    /// Makes a volume whose blocks are its own.
    pub async fn make_volume(&self, group: &str, name: &str, size: u64) -> Result<(), LvmError> {
        let arguments = ["-y", "-Wy", "-Zy", "-L", &bytes(size), "-n", name, group];
        self.run("lvcreate", name, &arguments).await
    }

    /// Makes a thin pool; writes to a full one wait for room.
    pub async fn make_pool(&self, group: &str, name: &str, size: u64, metadata: u64) -> Result<(), LvmError> {
        let (size, metadata) = (bytes(size), bytes(metadata));
        let spare = ["--poolmetadatasize", &metadata, "--poolmetadataspare", "y"];
        let arguments =
            [&["-y", "--type", "thin-pool", "-L", &size], &spare[..], &["-n", name, group]].concat();
        self.run("lvcreate", name, &arguments).await
    }

    /// Makes a thin volume, whose blocks are taken from `pool` when they are written.
    pub async fn make_thin(&self, group: &str, pool: &str, name: &str, size: u64) -> Result<(), LvmError> {
        let (size, pool) = (bytes(size), format!("{group}/{pool}"));
        let arguments = ["-y", "-Wy", "--type", "thin", "-V", &size, "--thinpool", &pool, "-n", name];
        self.run("lvcreate", name, &arguments).await
    }

    /// Makes one volume usable.
    pub async fn activate_volume(&self, group: &str, name: &str) -> Result<(), LvmError> {
        let full = format!("{group}/{name}");
        self.run("lvchange", &full, &["-ay", &full]).await
    }

    /// Grows a thin pool's metadata, and the spare for it; one that has that size already is fine.
    pub async fn extend_metadata(&self, group: &str, pool: &str, size: u64) -> Result<(), LvmError> {
        self.extend_by("--poolmetadatasize", group, pool, size).await
    }

    /// Gives a volume another name.
    pub async fn rename(&self, group: &str, from: &str, to: &str) -> Result<(), LvmError> {
        self.run("lvrename", from, &[group, from, to]).await
    }

    /// Removes a volume; none there is fine.
    pub async fn remove(&self, group: &str, name: &str) -> Result<(), LvmError> {
        let full = format!("{group}/{name}");
        match self.run("lvremove", &full, &["-y", &full]).await {
            Err(LvmError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    /// Grows a volume or a pool; one that has that size already is fine.
    pub async fn extend(&self, group: &str, name: &str, size: u64) -> Result<(), LvmError> {
        self.extend_by("-L", group, name, size).await
    }

    async fn extend_by(
        &self,
        what: &'static str,
        group: &str,
        name: &str,
        size: u64,
    ) -> Result<(), LvmError> {
        let full = format!("{group}/{name}");
        match self.run("lvextend", &full, &[what, &bytes(size), &full]).await {
            Err(LvmError::Run(RunError::Failed { said, .. })) if said.contains("matches existing size") => {
                Ok(())
            }
            other => other,
        }
    }

    /// Takes over the device's present size.
    pub async fn resize_device(&self) -> Result<(), LvmError> {
        self.run("pvresize", &self.device, &[&self.device]).await
    }

    async fn run(&self, command: &'static str, on: &str, arguments: &[&str]) -> Result<(), LvmError> {
        self.call(command, on, arguments).await.map(drop)
    }

    async fn report<T: DeserializeOwned>(
        &self,
        command: &'static str,
        columns: &str,
        on: &str,
    ) -> Result<Vec<T>, LvmError> {
        let format = ["--reportformat", "json", "--units", "b", "--nosuffix", "-o", columns, on];
        let text = self.call(command, on, &format).await?;
        rows(&text).map_err(|source| LvmError::Report { command, source })
    }

    async fn call(&self, command: &str, on: &str, arguments: &[&str]) -> Result<String, LvmError> {
        let arguments = [&[command, "--config", &self.config], arguments].concat();
        let outcome = run("lvm", &arguments, b"", DEADLINE).await;
        outcome.map(|output| output.stdout).map_err(|error| typed(error, on))
    }
}

/// Where device-mapper has a volume.
pub fn node(group: &str, name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(mapped_name(group, name))
}

/// What device-mapper calls a volume: `-` parts the names, so those in names are doubled.
pub fn mapped_name(group: &str, name: &str) -> String {
    let [group, name] = [group, name].map(|part| part.replace('-', "--"));
    format!("{group}-{name}")
}

/// What device-mapper may call that part of a thin pool which tells how full it is: it gets a name of its
/// own with the first volume.
pub fn mapped_pools(group: &str, pool: &str) -> [String; 2] {
    let name = mapped_name(group, pool);
    [format!("{name}-tpool"), name]
}

/// lvm.conf(5). A character of the device's path that could mean something in a pattern stands for
/// any. A power failure leaves blocks in a pool's metadata that were taken for nobody: without the second
/// option, the pool's check takes those for damage.
fn config(device: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_');
    let pattern: String = device.chars().map(|c| if is_plain(c) { c } else { '.' }).collect();
    format!(
        "activation{{udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0 error_when_full=0}} \
         devices{{dir=\"/dev\" scan=[\"/dev\"] obtain_device_list_from_udev=0 external_device_info_source=\"none\" \
         use_devicesfile=0 hints=\"none\" global_filter=[\"a|^{pattern}$|\",\"r|.*|\"]}} \
         global{{thin_check_options=[\"-q\",\"--clear-needs-check-flag\"]}} backup{{backup=0 archive=0}}"
    )
}

fn bytes(size: u64) -> String {
    format!("{size}b")
}

/// Its exit codes tell nothing apart, its messages do.
fn typed(error: RunError, on: &str) -> LvmError {
    let RunError::Failed { said, .. } = &error else { return error.into() };
    let says = |parts: &[&str]| parts.iter().any(|part| said.contains(part));
    let on = on.to_owned();
    if says(&["Failed to find", "not found"]) {
        LvmError::NotFound(on)
    } else if says(&["nsufficient free space", "nsufficient suitable"]) {
        LvmError::NoSpace
    } else if says(&["in use"]) {
        LvmError::InUse(on)
    } else if says(&["Check of pool"]) {
        LvmError::Damaged(on)
    } else {
        error.into()
    }
}

/// `{"report": [{"lv": [{"lv_name": "perm", …}]}]}`.
fn rows<T: DeserializeOwned>(text: &str) -> serde_json::Result<Vec<T>> {
    #[derive(Deserialize)]
    struct Report<T> {
        report: Vec<std::collections::BTreeMap<String, Vec<T>>>,
    }
    let report: Report<T> = serde_json::from_str(text)?;
    Ok(report.report.into_iter().flat_map(std::collections::BTreeMap::into_values).flatten().collect())
}

/// Numbers are text, and empty where there is none.
fn number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() { Ok(0) } else { text.parse().map_err(serde::de::Error::custom) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    const LVS: &str = include_str!("../../tests/fixtures/lvm/lvs.json");
    const VGS: &str = include_str!("../../tests/fixtures/lvm/vgs.json");

    #[test]
    fn reports_give_volumes_and_the_room_of_their_group() {
        let volumes: Vec<LogicalVolume> = rows(LVS).unwrap();
        let facts: Vec<_> = volumes.iter().map(|v| (v.name.as_str(), v.size, v.metadata_size)).collect();
        assert_eq!(facts, [("perm", 512 << 20, 0), ("pool", 1 << 30, 4 << 20), ("vol-a-b", 100 << 20, 0)]);
        let groups: Vec<Group> = rows(VGS).unwrap();
        assert_eq!(groups, [Group { size: 3_166_699_520, free: 1_547_698_176, extent: 4 << 20 }]);
    }

    #[test]
    fn what_it_says_tells_errors_apart() {
        let failed = |said: &str| {
            let status = std::process::ExitStatus::from_raw(5 << 8);
            typed(RunError::Failed { command: "lvm".into(), status, said: said.into() }, "g/a")
        };
        assert!(matches!(failed("Failed to find logical volume \"g/a\""), LvmError::NotFound(_)));
        assert!(matches!(failed("Volume group \"g\" not found"), LvmError::NotFound(_)));
        let full = "Insufficient free space: 255616 extents needed, but only 369 available";
        assert!(matches!(failed(full), LvmError::NoSpace));
        let full = "Volume group \"g\" has insufficient free space (0 extents): 25 required.";
        assert!(matches!(failed(full), LvmError::NoSpace));
        assert!(matches!(failed("Logical volume g/a contains a filesystem in use."), LvmError::InUse(_)));
        assert!(matches!(failed("Check of pool g/a failed (status:1)."), LvmError::Damaged(_)));
        assert!(matches!(failed("anything else"), LvmError::Run(_)));
    }

    #[test]
    fn a_hyphen_in_a_name_is_doubled_in_its_device() {
        assert_eq!(node("capsule", "vol-a-b"), Path::new("/dev/mapper/capsule-vol--a--b"));
    }

    #[test]
    fn only_the_device_that_is_meant_is_looked_at() {
        assert!(config("/dev/a.b").contains("global_filter=[\"a|^/dev/a.b$|\",\"r|.*|\"]"));
        assert!(config("/dev/a|b\"").contains("a|^/dev/a.b.$|"));
    }
}
