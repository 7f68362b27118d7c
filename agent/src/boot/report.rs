//! What the agent tells init for the console.

use std::time::Duration;

use super::{
    InitLink,
    link::{Banner, ToInit},
};
use crate::{identity::Identity, workload::Workloads};

/// Between two looks at whether it has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Tells whatever changes, for as long as the agent runs.
pub async fn keep(init: InitLink, identity: Identity, workloads: Workloads) {
    let mut told = None;
    loop {
        let banner = banner(&identity, &workloads);
        if told.as_ref() != Some(&banner) {
            init.tell(ToInit::Banner(banner.clone())).await;
            told = Some(banner);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn banner(identity: &Identity, workloads: &Workloads) -> Banner {
    let (all, running) = workloads.count();
    let adopted = if identity.is_adopted() { "adopted" } else { "not adopted yet" };
    Banner {
        name: identity.hostname(),
        short_id: identity.short_id().into(),
        fingerprint: identity.fingerprint().to_string(),
        health: format!("{adopted}; {running} of {all} workloads run"),
    }
}
