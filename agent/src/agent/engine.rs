//! What runs workloads.

use std::time::Duration;

use tonic::transport::Endpoint;

use super::{StartError, appliance};
use crate::{
    boot::{hardware, uplink},
    config::Config,
    event::Events,
    identity::Identity,
    image::{CREDENTIALS_FILE, Images, RegistryConfig},
    network::{Membership, Network, NetworkConfig},
    runtime::{
        SharedRuntime,
        container::{Containerd, ContainerdConfig},
    },
    store::Store,
    volume::{Backing, Volumes},
};

/// For an appliance to have an address. Workloads expect one when they start, and run without one as well.
const NETWORK_LIMIT: Duration = Duration::from_secs(5);

/// The capabilities below workloads.
pub(super) struct Engine {
    pub(super) runtime: SharedRuntime,
    pub(super) images: Images,
    pub(super) network: Option<Network>,
    pub(super) volumes: Option<Volumes>,
}

impl Engine {
    pub(super) fn capabilities(&self) -> Vec<String> {
        let volumes = self.volumes.as_ref().map(|volumes| format!("volume/{}", volumes.kind()));
        let network = self.network.as_ref().map(|_| "network/bridge".to_owned());
        std::iter::once("container".to_owned()).chain(network).chain(volumes).collect()
    }
}

/// Starts network and volumes, then containerd, which outlives the agent: it comes last, so that an
/// agent that does not start leaves none behind. With a `stand_in` for the runtime, none of them.
pub(super) async fn start(
    config: &Config,
    identity: &Identity,
    stand_in: Option<SharedRuntime>,
    store: &Store,
    events: &Events,
    membership: Membership,
) -> Result<Engine, StartError> {
    let registries = RegistryConfig {
        mirrors: config.mirrors.clone(),
        insecure: config.insecure_registries.clone(),
        authorities: config.registry_authorities.clone(),
        credentials_file: Some(config.state_dir.join(CREDENTIALS_FILE)),
    };
    if let Some(runtime) = stand_in {
        // Nobody listens there, so every use says that there is no containerd.
        let nowhere = Endpoint::from_static("http://[::1]:1").connect_lazy();
        let images = Images::new(nowhere, events.clone(), registries);
        return Ok(Engine { runtime, images, network: None, volumes: None });
    }
    if config.appliance {
        uplink::wait_for_address(NETWORK_LIMIT).await;
        if let Err(error) = hardware::load(&hardware::WORKLOADS).await {
            tracing::warn!(%error, "not all modules that workloads need could be loaded");
        }
    }
    let (network, volumes) = tokio::try_join!(network(config, identity, store, events, membership), async {
        let group = config.volume_group.clone().or_else(|| config.appliance.then(appliance::volume_group));
        let backing = group.as_deref().map_or(Backing::Files, Backing::Group);
        Ok(Volumes::start(&config.state_dir, backing, store.clone(), events.clone()).await?)
    })?;
    let containerd = containerd(config, identity, events).await?;
    let images = Images::new(containerd.channel(), events.clone(), registries);
    Ok(Engine { runtime: containerd, images, network: Some(network), volumes: Some(volumes) })
}

/// Starts containerd, or takes over the one that runs.
pub(super) async fn containerd(
    config: &Config,
    identity: &Identity,
    events: &Events,
) -> Result<std::sync::Arc<Containerd>, StartError> {
    let containerd = ContainerdConfig {
        containerd: config.containerd.clone(),
        ..ContainerdConfig::new(&config.state_dir, identity.short_id())
    };
    Ok(Containerd::start(&containerd, events.clone()).await?)
}

/// Makes the bridge where it is not there.
pub(super) async fn network(
    config: &Config,
    identity: &Identity,
    store: &Store,
    events: &Events,
    membership: Membership,
) -> Result<Network, StartError> {
    let network = NetworkConfig {
        capsule_id: identity.capsule_id().into(),
        state_dir: config.state_dir.clone(),
        bridge_subnet: config.bridge_subnet.clone(),
        resolv_conf: config.resolv_conf.clone(),
        membership,
    };
    Ok(Network::start(network, store.clone(), events.clone()).await?)
}
