//! What init has told of this boot, for the slots of the system.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use capsule_bundle::Version;

use crate::{
    boot::{BootFacts, InitLink, facts::FACTS_FILE, history},
    config::Config,
    event::Events,
    store::Store,
    update::{
        Esp, UpdateError, UpdateParts, Updates, Vitals,
        machine::{Init, Machine},
        slots::Slots,
    },
};

/// Release keys that the image brings.
const KEYS_DIR: &str = "/usr/share/capsule/keys";
/// Where init has not said which partition it is: not there either, so that volumes say what is missing.
const UNKNOWN_GROUP: &str = "/dev/disk/by-partlabel/capsule-pv";

/// The partition of the volume group, as init has found it.
pub(super) fn volume_group() -> PathBuf {
    BootFacts::read(Path::new(FACTS_FILE)).map_or_else(|_| UNKNOWN_GROUP.into(), |facts| facts.pv)
}

/// What makes an agent that of an appliance.
pub struct Appliance {
    /// This boot's slots.
    pub slots: Slots,
    /// Whether the one that runs was on trial when it was booted.
    pub is_tentative: bool,
    /// What init and agent tell each other of boots.
    pub boot_dir: PathBuf,
    /// Release keys that the image brings.
    pub keys_dir: PathBuf,
    /// Init.
    pub machine: Arc<dyn Machine>,
    /// How the capsule is; the agent looks for itself where absent.
    pub vitals: Option<Arc<dyn Vitals>>,
}

/// What init says of this boot.
pub(super) fn facts() -> Option<BootFacts> {
    let tell = |error| tracing::error!(%error, "what init says of this boot cannot be read: no updates");
    BootFacts::read(Path::new(FACTS_FILE)).map_err(tell).ok()
}

impl Appliance {
    /// This machine, whose agent init has started.
    pub(super) fn of_this_boot(facts: BootFacts, init: InitLink) -> Self {
        let version = facts.version.parse().unwrap_or_else(|error| {
            tracing::warn!(version = facts.version, %error, "the system's version is none: any other counts as newer");
            Version::new(0, 0, 0)
        });
        let slots = Slots {
            boot_id: facts.boot_id,
            version,
            active: facts.slot,
            esp: Esp::new(facts.esp),
            a: facts.a,
            b: facts.b,
        };
        Self {
            slots,
            is_tentative: facts.tentative,
            boot_dir: history::DIR.into(),
            keys_dir: KEYS_DIR.into(),
            machine: Arc::new(Init { link: init, dir: history::DIR.into() }),
            vitals: None,
        }
    }

    /// Starts what updates it; without anybody else's look at it, by what `seen` says.
    pub(super) async fn updates(
        self,
        config: &Config,
        store: &Store,
        events: &Events,
        seen: Arc<dyn Vitals>,
    ) -> Result<Updates, UpdateError> {
        let Self { slots, is_tentative, boot_dir, keys_dir, machine, vitals } = self;
        Updates::start(UpdateParts {
            store: store.clone(),
            events: events.clone(),
            slots,
            is_tentative,
            staging_dir: config.state_dir.join("update"),
            boot_dir,
            keys_dir,
            machine,
            vitals: vitals.unwrap_or(seen),
        })
        .await
    }
}
