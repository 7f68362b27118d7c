//! A good slot that runs although the boot loader prefers the other one.
//!
//! The initramfs could not open that one, and asked for this one, once. Were it left so, each boot would begin
//! with one that fails, and end with none should this slot's be needed while the loader forgets the wish. So
//! the slot that runs becomes the preferred one, and stays so until an update is written to the other.

use super::{
    NewEvent, SUBJECT, UpdateError, Updates,
    loader::{self, Entry, Tries},
};

/// Whether the loader, left to itself, would boot `other` instead of `active`, both kept.
pub(super) fn is_fallback(active: Option<&Entry>, other: Option<&Entry>) -> bool {
    let is_kept = |entry: &&Entry| entry.name.tries == Tries::Unlimited;
    match (active.filter(is_kept), other.filter(is_kept)) {
        (Some(active), Some(other)) => other.sequence > active.sequence,
        _ => false,
    }
}

impl Updates {
    /// Makes the slot that runs the loader's first choice.
    pub(super) async fn stay(&self, preferred: &Entry) -> Result<(), UpdateError> {
        let (slot, version) = (self.inner.slots.active, self.inner.slots.version.to_string());
        let text = version.clone();
        self.on_esp("prefer the slot on", move |esp| loader::prefer(esp, slot, &text)).await?;
        let message = format!(
            "version {} in slot {}, which the boot loader preferred, was not booted: its slot may be damaged. Version \
             {version} in slot {slot} runs, and is preferred from now on; push an update to write the other slot anew",
            preferred.version, preferred.name.slot
        );
        self.emit(NewEvent::new(SUBJECT, &preferred.version, "UpdateSlotFailed", message).error());
        Ok(())
    }
}
