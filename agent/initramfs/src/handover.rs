//! What the root file system's first process is told: lines of `key=value` in a file below /run.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Where it is.
pub const FILE: &str = "/run/capsule/initramfs";

/// Found on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The whole disk.
    pub disk: PathBuf,
    /// Its partitions.
    pub esp: PathBuf,
    /// Slot a.
    pub a: PathBuf,
    /// Slot b.
    pub b: PathBuf,
    /// The volume group's.
    pub pv: PathBuf,
    /// Which slot is the root.
    pub slot: char,
    /// The boot loader's entry, where there was one.
    pub entry: Option<String>,
}

impl Handover {
    /// Writes it.
    pub fn write(&self, file: &Path) -> Result<()> {
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir).map_err(Error::io("make", dir))?;
        }
        fs::write(file, self.text()).map_err(Error::io("write", file))
    }

    /// Reads it; `None` says that something is missing.
    pub fn parse(text: &str) -> Option<Self> {
        let map: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let path = |key| map.get(key).map(PathBuf::from);
        Some(Self {
            disk: path("disk")?,
            esp: path("esp")?,
            a: path("a")?,
            b: path("b")?,
            pv: path("pv")?,
            slot: map.get("slot")?.chars().next()?,
            entry: map.get("entry").filter(|entry| !entry.is_empty()).map(ToString::to_string),
        })
    }

    fn text(&self) -> String {
        let Self { disk, esp, a, b, pv, slot, entry } = self;
        let (disk, esp, a, b, pv) = (disk.display(), esp.display(), a.display(), b.display(), pv.display());
        let entry = entry.as_deref().unwrap_or_default();
        format!("disk={disk}\nesp={esp}\na={a}\nb={b}\npv={pv}\nslot={slot}\nentry={entry}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let part = |n: u8| PathBuf::from(format!("/dev/vda{n}"));
        let entry = Some("capsule-b+0-1.conf".to_owned());
        let handover = Handover {
            disk: "/dev/vda".into(),
            esp: part(1),
            a: part(2),
            b: part(3),
            pv: part(4),
            slot: 'b',
            entry,
        };
        assert_eq!(Handover::parse(&handover.text()).as_ref(), Some(&handover));
        let without = Handover { entry: None, ..handover };
        assert_eq!(Handover::parse(&without.text()), Some(without));
        assert_eq!(Handover::parse("disk=/dev/vda\n"), None);
    }
}
