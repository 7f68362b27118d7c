//! What the agent tells init for the console.

use std::time::Duration;

use super::{
    InitLink,
    link::{Banner, ToInit},
};
use crate::{identity::Identity, install::Installer, workload::Workloads};

/// Between two looks at whether it has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Tells whatever changes of what `banner` gives, for as long as the agent runs.
pub async fn keep(init: InitLink, banner: impl Fn() -> Banner) {
    let mut told = None;
    loop {
        let banner = banner();
        if told.as_ref() != Some(&banner) {
            init.tell(ToInit::Banner(banner.clone())).await;
            told = Some(banner);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// A capsule's: whether it is adopted, and how many workloads run.
pub fn of_capsule(identity: &Identity, workloads: &Workloads) -> Banner {
    let (all, running) = workloads.count();
    let adopted = if identity.is_adopted() { "adopted" } else { "not adopted yet" };
    banner(identity, format!("{adopted}; {running} of {all} workloads run"))
}

/// An installer's: what it does, else what it waits for.
pub fn of_installer(identity: &Identity, installer: &Installer) -> Banner {
    let doing = installer.doing();
    let waits = || format!("waits for `fleetctl install {}`; {}", identity.short_id(), installer.places());
    banner(identity, if doing.is_empty() { waits() } else { doing })
}

fn banner(identity: &Identity, health: String) -> Banner {
    Banner {
        name: identity.hostname(),
        short_id: identity.short_id().into(),
        fingerprint: identity.fingerprint().to_string(),
        health,
    }
}
