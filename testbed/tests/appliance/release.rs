//! Releases: the one that machines boot, and the one after it, whose agent does harm where its capsule's name
//! asks for it (`testbed/saboteur`).

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use testbed::{
    scenario::{Capsule, Output},
    substrate::qemu,
    sys,
};
use tokio::process::Child;

/// A release as a bundle.
pub struct Release {
    bundle: PathBuf,
    /// Its version.
    pub version: String,
}

impl Release {
    /// What `make image` built.
    pub fn built() -> Result<Self> {
        Self::find("image-dev", "make image PROFILE=dev")
    }

    /// What `make image-next` built.
    pub fn next() -> Result<Self> {
        Self::find("image-dev-next", "make image-next PROFILE=dev")
    }

    fn find(dir: &str, made_by: &str) -> Result<Self> {
        let made = qemu::bundle_in(&sys::target_dir().join(dir));
        let bundle = made.with_context(|| format!("`{made_by}` makes it"))?;
        let name = bundle.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let version = name.strip_prefix("capsule-").unwrap_or(&name).to_owned();
        Ok(Self { bundle, version })
    }

    /// Begins to push it.
    pub fn pushing(&self, capsule: &Capsule<'_>, options: &[&str]) -> Result<Child> {
        let bundle = self.bundle.to_string_lossy();
        let words = [&["-c", capsule.name(), "update", "push", &bundle], options].concat();
        let mut command = capsule.operator().command(&words)?;
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command.spawn().context("cannot run fleetctl")
    }

    /// Pushes it, and waits for how that ends.
    pub async fn push(&self, capsule: &Capsule<'_>, options: &[&str]) -> Result<Output> {
        let bundle = self.bundle.to_string_lossy();
        let pushed = capsule.fleetctl(&[&["update", "push", &bundle], options].concat()).await?;
        let elapsed = pushed.elapsed.as_secs_f64();
        eprintln!("{}: {} ended with {} after {elapsed:.1} s", capsule.name(), pushed.command, pushed.code);
        Ok(pushed)
    }
}

/// What a capsule runs.
pub struct Running {
    pub version: String,
    pub slot: String,
    /// Whether that is on trial.
    pub is_tentative: bool,
}

impl Running {
    /// As it says now.
    pub async fn on(capsule: &Capsule<'_>) -> Result<Self> {
        let status = capsule.shown(&["update", "status"]).await?;
        let slots = status["slots"].as_array();
        let active = slots.and_then(|slots| slots.iter().find(|slot| slot["isActive"] == true));
        let slot = active.and_then(|slot| slot["slot"].as_str());
        let version = status["version"].as_str();
        let (Some(version), Some(slot)) = (version, slot) else { bail!("no version or slot: {status}") };
        let is_tentative = status["isTentative"] == true;
        Ok(Self { version: version.to_owned(), slot: slot.to_owned(), is_tentative })
    }
}

/// The capsule runs a release, in a slot.
pub async fn runs(capsule: &Capsule<'_>, release: &Release, slot: &str) -> Result<()> {
    let now = Running::on(capsule).await?;
    let is_right = now.version == release.version && now.slot == slot;
    ensure!(is_right, "{} runs {} in slot {}", capsule.name(), now.version, now.slot);
    Ok(())
}
