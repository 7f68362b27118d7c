//! What init knows of this boot, for the agent: a file that is there before the agent starts.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Where init writes it.
pub const FACTS_FILE: &str = "/run/capsule/boot.json";

/// One of the two places for a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The one that is not this.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl From<Slot> for char {
    fn from(slot: Slot) -> Self {
        match slot {
            Slot::A => 'a',
            Slot::B => 'b',
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(*self))
    }
}

/// What the machine runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A capsule.
    Appliance,
    /// A removable medium that puts a capsule on a disk of the machine.
    Installer,
}

/// This boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFacts {
    /// The kernel's, new at each boot.
    pub boot_id: String,
    /// Of the system in the slot.
    pub version: String,
    /// Which slot was booted.
    pub slot: Slot,
    /// The boot loader's entry: `capsule-b+0-1.conf`.
    pub entry: String,
    /// Whether nobody has confirmed this slot yet.
    pub tentative: bool,
    /// What the machine runs as.
    pub role: Role,
    /// The whole disk: `/dev/vda`.
    pub disk: PathBuf,
    /// Its ESP, unmounted.
    pub esp: PathBuf,
    /// Slot a's partition.
    pub a: PathBuf,
    /// Slot b's partition.
    pub b: PathBuf,
    /// The volume group's partition.
    pub pv: PathBuf,
}

impl BootFacts {
    /// Reads what init has written.
    pub fn read(file: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(file)?).map_err(io::Error::from)
    }

    /// The partition of a slot.
    pub fn partition(&self, slot: Slot) -> &Path {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }
}
