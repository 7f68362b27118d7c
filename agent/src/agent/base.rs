//! What every agent stands on: its state directory, its database, who it is, where it listens.

use std::{net::SocketAddr, time::Duration};

use tokio::net::TcpListener;

use super::{StartError, host_name, listen, unheard};
use crate::{
    boot::{self, InitLink},
    config::Config,
    event::Events,
    identity::{Identity, Purpose, Timekeeper},
    store::Store,
    sys::{file, lock::StateLock},
};

/// What it keeps for as long as it runs.
pub(super) struct Standing {
    pub(super) lock: StateLock,
    pub(super) identity: Identity,
    pub(super) address: SocketAddr,
    /// Of the system, where that is ours, else of the agent.
    pub(super) version: String,
}

pub(super) struct Base {
    pub(super) standing: Standing,
    pub(super) store: Store,
    pub(super) events: Events,
    pub(super) listener: TcpListener,
    /// An appliance's.
    pub(super) init: Option<InitLink>,
}

impl Base {
    /// Takes the state directory; nobody is served yet.
    pub(super) async fn open(
        config: &Config,
        version: String,
        purpose: Purpose,
        claim_window: Duration,
    ) -> Result<Self, StartError> {
        let unusable = |source| StartError::StateDir { path: config.state_dir.clone(), source };
        file::ensure_dir(&config.state_dir, 0o700).map_err(unusable)?;
        let lock = StateLock::acquire(&config.state_dir)?;
        let store = Store::open(&config.state_dir)?;
        let events = Events::start(store.clone());
        let hostname = config.hostname.clone().unwrap_or_else(host_name);
        let claim = (purpose, claim_window);
        let identity =
            Identity::start(&config.state_dir, hostname, claim, store.clone(), events.clone()).await?;
        if config.appliance {
            identity.set_timekeeper(Timekeeper::Appliance);
        }
        let listener = listen(config.listen).await?;
        let address = listener.local_addr().map_err(|source| unheard(config.listen, source))?;
        let init = config.appliance.then(|| InitLink::start(boot::link::SOCKET.into(), store.clone()));
        let standing = Standing { lock, identity, address, version };
        Ok(Self { standing, store, events, listener, init })
    }
}
