//! The agent of a removable medium: it serves what puts a capsule on a disk, and nothing else.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use capsule_proto::v1::Mode;
use tokio::sync::oneshot;

use super::{Agent, base::Base, serve};
use crate::{
    boot::{BootFacts, InitLink, report},
    config::Config,
    discovery::Mdns,
    install::Installer,
    logging::LogRing,
    node::{Census, Counts, Facts, Node},
    store::StoreError,
};

/// It has nothing to count.
struct Nothing;

#[async_trait]
impl Census for Nothing {
    async fn count(&self) -> Result<Counts, StoreError> {
        Ok(Counts::default())
    }
}

/// Starts it on what init has found.
pub(super) fn start(
    config: &Config,
    base: Base,
    (boot, init): (BootFacts, InitLink),
    log: Option<LogRing>,
) -> Agent {
    let Base { standing, events, listener, .. } = base;
    let identity = standing.identity.clone();
    let installer = Installer::new(boot, identity.clone(), init.clone());
    let facts = Facts {
        mode: Mode::Installer,
        version: standing.version.clone(),
        state_dir: config.state_dir.clone(),
        started_at: SystemTime::now(),
        capabilities: Vec::new(),
        subnets: Default::default(),
    };
    let node = Node::new(identity.clone(), log, Some(init.clone()));
    node.know(facts, Arc::new(Nothing));
    let banner = {
        let (identity, installer) = (identity.clone(), installer.clone());
        move || report::of_installer(&identity, &installer)
    };
    tokio::spawn(report::keep(init, banner));
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(serve::run_installer((identity, node, installer), listener, stopped));
    let announced = (config.mdns == Mdns::On).then_some(Mode::Installer);
    Agent::serving(standing, &events, announced, (stop, server))
}
