//! The two places for a system, and what is in them.

use std::path::{Path, PathBuf};

use capsule_bundle::Version;
use capsule_proto::v1::{self, SlotState};

use super::{
    esp::Esp,
    loader::{self, Entry, Tries},
    uki,
};

pub use crate::boot::Slot;

/// Both.
pub const ALL: [Slot; 2] = [Slot::A, Slot::B];

/// A slot's unified kernel image, below the ESP.
pub fn kernel(slot: Slot) -> String {
    format!("EFI/capsule/{slot}.efi")
}

/// The slot of this letter.
pub fn named(letter: &str) -> Option<Slot> {
    ALL.into_iter().find(|slot| slot.to_string() == letter)
}

/// Where this boot's slots are.
#[derive(Clone, Debug)]
pub struct Slots {
    /// The kernel's name of this boot.
    pub boot_id: String,
    /// Of the system that runs.
    pub version: Version,
    /// The slot that it runs from.
    pub active: Slot,
    /// The boot partition.
    pub esp: Esp,
    /// Slot a's partition.
    pub a: PathBuf,
    /// Slot b's partition.
    pub b: PathBuf,
}

impl Slots {
    /// The partition of a slot.
    pub fn partition(&self, slot: Slot) -> &Path {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    /// The slot that does not run.
    pub fn inactive(&self) -> Slot {
        self.active.other()
    }
}

/// What is in a slot, by what the boot loader would do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its entry, where it has one and the kernel image that this names.
    pub entry: Option<Entry>,
    /// What its kernel image makes of the partition, where it tells.
    pub root: Option<uki::Root>,
}

impl Content {
    /// Looks at one slot.
    pub fn read(esp: &Path, entries: &[Entry], slot: Slot) -> Self {
        let image = esp.join(kernel(slot));
        let entry = loader::of_slot(entries, slot).filter(|_| image.is_file()).cloned();
        Self { entry, root: uki::root(&image) }
    }

    /// Good, on trial, bad or nothing.
    pub fn state(&self) -> SlotState {
        match self.entry.as_ref().map(|entry| entry.name.tries) {
            None => SlotState::Empty,
            Some(Tries::Unlimited) => SlotState::Good,
            Some(Tries::Counted { left: 0, .. }) => SlotState::Bad,
            Some(Tries::Counted { .. }) => SlotState::Tentative,
        }
    }

    /// As operators see it.
    pub fn describe(&self, slot: Slot, slots: &Slots, is_tentative: bool) -> v1::Slot {
        let is_active = slot == slots.active;
        // The tries of what runs on trial are used up, and it is not bad yet.
        let state = if is_active && is_tentative { SlotState::Tentative } else { self.state() };
        let told = self.entry.as_ref().map(|entry| entry.version.clone()).unwrap_or_default();
        v1::Slot {
            slot: slot.to_string(),
            version: if is_active { slots.version.to_string() } else { told },
            roothash: self.root.as_ref().map(|root| root.hash.to_string()).unwrap_or_default(),
            state: state.into(),
            is_active,
        }
    }
}
