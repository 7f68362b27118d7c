//! Writing the slot that does not run. The order is all: whenever it stops, by whatever, the boot
//! loader has an entry only for what is whole.
//!
//! ```text
//!   entry removed ─▶ old kernel removed ─▶ root written ─▶ root read back
//!        ─▶ kernel written beside, read back, renamed ─▶ trial recorded ─▶ entry with one try
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use capsule_bundle::{Digest, Manifest, Part};
use capsule_proto::v1::PushPhase;

use super::{
    UpdateError,
    loader::{self, Tries},
    slots::{Slot, Slots, kernel},
};
use crate::sys::file;

/// Bytes written at once.
const PIECE_BYTES: usize = 1 << 20;

/// What goes into the slot.
pub struct Job<'a> {
    /// Where the slots are.
    pub slots: &'a Slots,
    /// What is written.
    pub manifest: &'a Manifest,
    /// The file with `kernel.efi`.
    pub kernel: &'a Path,
    /// The file with `root.img`.
    pub root: &'a Path,
    /// Records that the slot is going to be tried; durable when it returns.
    pub record: &'a dyn Fn() -> Result<(), UpdateError>,
    /// Hears how far it is.
    pub progress: &'a dyn Fn(PushPhase, u64),
    /// Asked before every step; an error ends the work there.
    pub checkpoint: &'a dyn Fn() -> io::Result<()>,
}

impl Job<'_> {
    /// Does all of it; the slot boots next when this returns.
    pub fn run(&self) -> Result<(), UpdateError> {
        let slot = self.slots.inactive();
        self.forget(slot)?;
        self.write_root(slot)?;
        self.verify(slot, Part::Root, self.slots.partition(slot))?;
        self.esp("write the kernel on", |esp| self.write_kernel(esp, slot))??;
        self.pause()?;
        (self.record)()?;
        self.pause()?;
        let version = self.manifest.version.to_string();
        self.esp("arm the slot on", |esp| loader::arm(esp, slot, &version))
    }

    /// From here on nothing boots the slot.
    fn forget(&self, slot: Slot) -> Result<(), UpdateError> {
        let active = self.slots.active;
        let kept = self.esp("look at", |esp| {
            loader::tidy(esp)?;
            let entries = loader::read(esp)?;
            let entry = loader::of_slot(&entries, active);
            let is_good = entry.is_some_and(|entry| entry.name.tries == Tries::Unlimited);
            Ok(is_good && esp.join(kernel(active)).is_file())
        })?;
        if !kept {
            return Err(UpdateError::NoFallback(active));
        }
        self.pause()?;
        self.esp("clear the slot on", |esp| loader::remove(esp, slot))?;
        self.pause()?;
        self.esp("clear the slot on", |esp| {
            for old in [esp.join(kernel(slot)), beside(esp, slot)] {
                file::remove_all_if_exists(&old)?;
            }
            file::sync_filesystem(esp)
        })
    }

    fn write_root(&self, slot: Slot) -> Result<(), UpdateError> {
        let path = self.slots.partition(slot);
        let failed = |source| UpdateError::Io { attempt: "write", path: path.to_owned(), source };
        let mut source = File::open(self.root).map_err(UpdateError::io("read", self.root))?;
        // A block device that anything uses, and so the running slot, is not opened exclusively.
        let target = OpenOptions::new().write(true).custom_flags(libc::O_EXCL).open(path);
        let mut target = target.map_err(failed)?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            self.pause()?;
            let read = source.read(&mut piece).map_err(UpdateError::io("read", self.root))?;
            if read == 0 {
                break;
            }
            target.write_all(&piece[..read]).map_err(failed)?;
            (self.progress)(PushPhase::Writing, read as u64);
        }
        file::forget_cached(&target).map_err(failed)
    }

    fn write_kernel(&self, esp: &Path, slot: Slot) -> io::Result<Result<(), UpdateError>> {
        let (path, new) = (esp.join(kernel(slot)), beside(esp, slot));
        let mut target = File::create(&new)?;
        let mut source = File::open(self.kernel)?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            (self.checkpoint)()?;
            let read = source.read(&mut piece)?;
            if read == 0 {
                break;
            }
            target.write_all(&piece[..read])?;
            (self.progress)(PushPhase::Writing, read as u64);
        }
        file::forget_cached(&target)?;
        if let Err(error) = self.verify(slot, Part::Kernel, &new) {
            return Ok(Err(error));
        }
        (self.checkpoint)()?;
        fs::rename(&new, &path)?;
        file::sync_filesystem(esp)?;
        Ok(Ok(()))
    }

    /// Reads back what was written, from the disk.
    fn verify(&self, slot: Slot, part: Part, path: &Path) -> Result<(), UpdateError> {
        self.pause()?;
        let failed = |source| UpdateError::Io { attempt: "read back", path: path.to_owned(), source };
        let mut written = File::open(path).map_err(failed)?;
        file::forget_cached(&written).map_err(failed)?;
        written.seek(SeekFrom::Start(0)).map_err(failed)?;
        let (bytes, expected) = part.promised(self.manifest);
        let seen = |bytes| (self.progress)(PushPhase::Verifying, bytes);
        let (actual, _) = Digest::of_reader(written.take(bytes), seen).map_err(failed)?;
        if actual == expected { Ok(()) } else { Err(UpdateError::ReadBack { slot, part, expected, actual }) }
    }

    fn pause(&self) -> Result<(), UpdateError> {
        (self.checkpoint)().map_err(|source| UpdateError::Io {
            attempt: "go on writing",
            path: self.slots.partition(self.slots.inactive()).to_owned(),
            source,
        })
    }

    fn esp<T>(
        &self,
        attempt: &'static str,
        work: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<T, UpdateError> {
        self.slots.esp.with(work).map_err(UpdateError::io(attempt, "the boot partition"))
    }
}

/// The kernel while it is not whole.
fn beside(esp: &Path, slot: Slot) -> PathBuf {
    esp.join(format!("{}.new", kernel(slot)))
}

#[cfg(test)]
mod tests;
