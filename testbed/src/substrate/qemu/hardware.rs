//! What a machine is asked to have.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::sys;

/// Name and serial of the disk that holds the image.
pub const SYSTEM: &str = "system";
const GIB: u64 = 1 << 30;
/// What `make image` builds, the quick one first.
const IMAGES: [&str; 2] = ["image-dev/capsule.img", "image/capsule.img"];
/// `unknown_nmi_panic` is for [`super::order::Order::Panic`]. A host that is busy lets the kernel's check of
/// its timer fail, which is a panic; emulated processors have none of the weaknesses that the last is about,
/// and pay for it.
const KERNEL_WORDS: &str = "unknown_nmi_panic no_timer_check mitigations=off";

/// A machine as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// What it boots.
    pub image: PathBuf,
    /// What that is on.
    pub medium: Medium,
    /// Size of that disk, which the image does not fill.
    pub system_bytes: u64,
    /// Sizes of further, empty disks; they are called `data-1`, `data-2`, ….
    pub data_bytes: Vec<u64>,
    /// Virtual processors.
    pub cpus: u32,
    /// In MiB.
    pub memory_mib: u32,
    /// More words for the kernel's command line.
    pub kernel_words: String,
    /// What its clock says whenever its power comes on, in UTC; the right time where absent.
    #[serde(default)]
    pub clock: Option<String>,
    /// Whether it has a TPM.
    #[serde(default = "yes")]
    pub tpm: bool,
    /// Whether it is told its address by its command line, and asks nobody.
    #[serde(default)]
    pub fixed_address: bool,
}

/// What an image is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// An internal disk.
    Disk,
    /// A USB stick.
    Stick,
}

impl Hardware {
    /// Two processors, 1 GiB of memory, 8 GiB of disk and 1 GiB for data: the image that
    /// `make image` built, on a disk.
    pub fn built() -> Result<Self> {
        let built = IMAGES.map(|image| sys::target_dir().join(image));
        let image = built.into_iter().find(|image| image.exists());
        Ok(Self::of(image.with_context(|| {
            format!(
                "there is no {} in {}: build it with `make image` (PROFILE=dev does it faster)",
                IMAGES.join(" or "),
                sys::target_dir().display()
            )
        })?))
    }

    /// The same with another image.
    pub fn of(image: PathBuf) -> Self {
        Self {
            image,
            medium: Medium::Disk,
            system_bytes: 8 * GIB,
            data_bytes: vec![GIB],
            cpus: 2,
            memory_mib: 1024,
            kernel_words: KERNEL_WORDS.to_owned(),
            clock: None,
            tpm: true,
            fixed_address: false,
        }
    }

    /// The image on a USB stick, and empty disks of these sizes beside it.
    #[must_use]
    pub fn stick(mut self, data_bytes: &[u64]) -> Self {
        self.medium = Medium::Stick;
        self.system_bytes = 2 * GIB;
        self.data_bytes = data_bytes.to_vec();
        self
    }

    /// More words for the kernel's command line.
    #[must_use]
    pub fn kernel_words(mut self, words: &str) -> Self {
        self.kernel_words = format!("{} {words}", self.kernel_words);
        self
    }

    /// A battery that is empty: its clock says this, such as `2020-01-01`, whenever its power comes on.
    #[must_use]
    pub fn clock(mut self, starts_at: &str) -> Self {
        self.clock = Some(starts_at.to_owned());
        self
    }

    /// Without the TPM, which emulated firmware takes 3 s of each boot to talk to: for those that boot often.
    #[must_use]
    pub fn without_tpm(mut self) -> Self {
        self.tpm = false;
        self
    }

    /// Its address by its command line, where no DHCP server gives one.
    #[must_use]
    pub fn fixed_address(mut self) -> Self {
        self.fixed_address = true;
        self
    }

    /// Names of its disks.
    pub fn disks(&self) -> Vec<String> {
        let data = (1..=self.data_bytes.len()).map(|at| format!("data-{at}"));
        std::iter::once(SYSTEM.to_owned()).chain(data).collect()
    }
}

fn yes() -> bool {
    true
}

/// The update bundle that `make image` left in a directory.
pub fn bundle_in(dir: &Path) -> Result<PathBuf> {
    let missing = || format!("there is no bundle in {}", dir.display());
    let files = fs::read_dir(dir).with_context(missing)?;
    let mut paths = files.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.extension().is_some_and(|kind| kind == "update")).with_context(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stick_has_the_disks_that_may_be_installed_to_beside_it() {
        let hardware = Hardware::of("capsule.img".into()).stick(&[GIB, 2 * GIB]).kernel_words("quiet");
        assert_eq!(hardware.disks(), ["system", "data-1", "data-2"]);
        assert!(hardware.kernel_words.ends_with("mitigations=off quiet"));
    }
}
