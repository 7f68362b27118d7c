//! Builds every capability, passes each what it needs, and runs them: the only wiring.
//!
//! - `base`: what every agent stands on; `installer`: the one of a removable medium, which does no more;
//! - `engine`: what runs workloads: containerd, network and volumes, or a stand-in;
//! - `appliance`: what init has told of this boot, for the slots of the system;
//! - `census`: what the node tells about the others;
//! - `vitals`: how the capsule is, for an update on trial;
//! - `serve`: the gRPC server;
//! - `down`: stopping everything, also what outlives the agent.
//!
//! An agent keeps no state of the process: several run side by side in one, each on its own
//! state directory.

mod appliance;
mod base;
mod census;
pub mod down;
mod engine;
mod installer;
mod serve;
mod vitals;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use capsule_proto::v1::Mode;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
};

pub use appliance::Appliance;
use engine::Engine;

use base::{Base, Standing};

use crate::{
    boot::{Role, perm, report},
    config::Config,
    debug::{self, Debug, DebugParts},
    discovery::{Discovery, Mdns},
    event::{Events, NewEvent},
    fabric::{Fabric, FabricError},
    identity::{self, Identity, IdentityError, Purpose},
    logging::LogRing,
    network::{Membership, NetworkError},
    node::{Facts, Node},
    runtime::{RuntimeError, SharedRuntime},
    store::OpenError,
    sys::{
        holder::{Protocol, holder},
        lock::{LockError, StateLock},
    },
    update::UpdateError,
    volume::VolumeError,
    workload::{WorkloadError, WorkloadParts, Workloads},
};

/// Calls that run when the agent is told to stop may take this long to end.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// What the log says when callers are answered, and what workloads need is still to be started.
pub const ANSWERS: &str = "calls are answered";
/// How often the last use of keys is written down.
const FLUSH_INTERVAL: Duration = Duration::from_mins(1);

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory is not usable.
    #[error("cannot use the state directory {path}")]
    StateDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {address}{}; choose another with --listen", taken(holder.as_deref()))]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Who has it, where somebody has.
        holder: Option<String>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another agent runs.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The database cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The capsule does not know who it is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Containerd did not come up.
    #[error("cannot start the container runtime")]
    Runtime(#[from] RuntimeError),
    /// The bridge did not come up.
    #[error("cannot set up the network of workloads")]
    Network(#[from] NetworkError),
    /// The volumes did not come up.
    #[error("cannot open the volumes")]
    Volume(#[from] VolumeError),
    /// The fabric did not come up.
    #[error("cannot enter the fabric")]
    Fabric(#[from] FabricError),
    /// The slots could not be looked at.
    #[error("cannot look at the slots of the system")]
    Update(#[from] UpdateError),
    /// The workloads could not be taken over.
    #[error("cannot take over the workloads")]
    Workload(#[from] WorkloadError),
}

/// How an agent is to be.
pub struct Builder {
    config: Config,
    runtime: Option<SharedRuntime>,
    log: Option<LogRing>,
    claim_window: Duration,
    appliance: Option<Appliance>,
}

impl Builder {
    /// Runs workloads on `runtime`, with no network and no volumes: a simulated capsule, which nobody
    /// is told of.
    pub fn runtime(mut self, runtime: SharedRuntime) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Serves this log as the agent's own.
    pub fn log(mut self, log: LogRing) -> Self {
        self.log = Some(log);
        self
    }

    /// How long the capsule can be adopted.
    pub fn claim_window(mut self, length: Duration) -> Self {
        self.claim_window = length;
        self
    }

    /// Runs an appliance, whose slots it updates.
    pub fn appliance(mut self, appliance: Appliance) -> Self {
        self.appliance = Some(appliance);
        self
    }

    /// Starts it; when this resolves it serves.
    pub async fn start(mut self) -> Result<Agent, StartError> {
        let boot = if self.config.appliance { appliance::facts() } else { None };
        let is_installer = boot.as_ref().is_some_and(|boot| boot.role == Role::Installer);
        let purpose = if is_installer { Purpose::Install } else { Purpose::Serve };
        let version = boot.as_ref().map_or(env!("CARGO_PKG_VERSION"), |boot| &boot.version).to_owned();
        let base = Base::open(&self.config, version, purpose, self.claim_window).await?;
        if let Some((boot, init)) = boot.zip(base.init.clone()) {
            if is_installer {
                return Ok(installer::start(&self.config, base, (boot, init), self.log));
            }
            self.appliance = Some(Appliance::of_this_boot(boot, init));
        }
        self.start_capsule(base).await
    }

    async fn start_capsule(self, base: Base) -> Result<Agent, StartError> {
        let Self { config, runtime, log, appliance, .. } = self;
        let Base { standing, store, events, listener, init } = base;
        let identity = standing.identity.clone();
        // Whoever asks who this is, or why it takes so long, is answered from here on.
        let node = Node::new(identity.clone(), log, init.clone());
        let early = serve::Early { identity: identity.clone(), node: node.clone() };
        let (stop, stopped) = oneshot::channel();
        let (started, starting) = watch::channel(None);
        let server = tokio::spawn(serve::run(early, starting, listener, stopped));
        tracing::info!("{ANSWERS}");
        let unusable = |source| StartError::StateDir { path: config.state_dir.clone(), source };
        let is_announced = runtime.is_none() && config.mdns == Mdns::On;
        let fabric = config.fabric(runtime.is_some()).map_err(unusable)?;
        let fabric = Fabric::start(fabric, identity.clone(), store.clone(), events.clone()).await?;
        let membership =
            Membership { capsule: fabric.capsule(), map: fabric.map(), directory: fabric.directory() };
        let engine = engine::start(&config, &identity, runtime, &store, &events, membership).await?;
        let workloads = Workloads::start(WorkloadParts {
            store: store.clone(),
            events: events.clone(),
            runtime: engine.runtime.clone(),
            images: Arc::new(engine.images.clone()),
            network: engine.network.clone().map(|network| Arc::new(network) as _),
            volumes: engine.volumes.clone().map(|volumes| Arc::new(volumes) as _),
            state_dir: config.state_dir.clone(),
        })
        .await?;
        let debug = Debug::start(debug_parts(&config, &engine, &events)).await;
        if let Some(network) = &engine.network {
            fabric.start_peering(network.locations());
        }
        if let Some(init) = init {
            let (identity, workloads) = (identity.clone(), workloads.clone());
            tokio::spawn(report::keep(init, move || report::of_capsule(&identity, &workloads)));
        }
        let updates = match appliance {
            Some(appliance) => {
                let seen = vitals::of(&identity, &engine.runtime, &workloads, &config.state_dir);
                Some(appliance.updates(&config, &store, &events, seen).await?)
            }
            None => None,
        };
        let mode = if config.appliance { Mode::Appliance } else { Mode::Hosted };
        let facts = Facts {
            mode,
            version: standing.version.clone(),
            state_dir: config.state_dir.clone(),
            started_at: SystemTime::now(),
            capabilities: engine.capabilities(),
            subnets: engine.network.as_ref().map(crate::network::Network::subnets).unwrap_or_default(),
        };
        node.know(facts, census::of(&engine, &workloads));
        let late = serve::Late { events: events.clone(), workloads, fabric, engine, updates, debug };
        started.send_replace(Some(serve::routes(late)));
        Ok(Agent::serving(standing, &events, is_announced.then_some(mode), (stop, server)))
    }
}

/// A running agent. What it started for workloads outlives it.
pub struct Agent {
    identity: Identity,
    address: SocketAddr,
    discovery: Option<Discovery>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    flusher: JoinHandle<()>,
    _lock: StateLock,
}

impl Agent {
    /// One whose calls `server` answers until it is told to stop; the network hears of it as `announced`.
    fn serving(
        standing: Standing,
        events: &Events,
        announced: Option<Mode>,
        (stop, server): (oneshot::Sender<()>, JoinHandle<()>),
    ) -> Self {
        let Standing { lock, identity, address, version } = standing;
        let flusher = tokio::spawn(flush(identity.clone()));
        announce(&identity, address, events);
        let discovery = announced.map(|mode| Discovery::start(identity.clone(), address, mode, version));
        Self { identity, address, discovery, stop, server, flusher, _lock: lock }
    }

    /// How one is made.
    pub fn builder(config: Config) -> Builder {
        Builder { config, runtime: None, log: None, claim_window: identity::CLAIM_WINDOW, appliance: None }
    }

    /// Where it listens, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Ends calls and stops; containers and containerd go on.
    pub async fn stop(mut self) {
        if let Some(discovery) = self.discovery {
            discovery.stop().await;
        }
        let _ = self.stop.send(());
        if tokio::time::timeout(STOP_GRACE, &mut self.server).await.is_err() {
            self.server.abort();
        }
        self.flusher.abort();
        if let Err(error) = self.identity.flush().await {
            tracing::warn!(%error, "the last use of keys was not written down");
        }
    }
}

async fn flush(identity: Identity) {
    loop {
        tokio::time::sleep(FLUSH_INTERVAL).await;
        if let Err(error) = identity.flush().await {
            tracing::warn!(%error, "the last use of keys was not written down");
        }
    }
}

fn debug_parts(config: &Config, engine: &Engine, events: &Events) -> DebugParts {
    let is_there = |path: &PathBuf| path.exists();
    DebugParts {
        runtime: engine.runtime.clone(),
        images: engine.images.clone(),
        events: events.clone(),
        state_dir: config.state_dir.clone(),
        on_board: Some(PathBuf::from(debug::ON_BOARD)).filter(is_there),
        writable: config.appliance.then(|| PathBuf::from(perm::PLACE)).filter(is_there).into_iter().collect(),
    }
}

/// Both address families, or, where the kernel has no IPv6, the other one.
async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |source| unheard(address, source);
    match TcpListener::bind(address).await {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) && address.ip().is_unspecified() => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port())).await.map_err(failed)
        }
        other => other.map_err(failed),
    }
}

fn unheard(address: SocketAddr, source: io::Error) -> StartError {
    let is_taken = source.kind() == io::ErrorKind::AddrInUse;
    let holder = if is_taken { holder(Protocol::Tcp, address.port()) } else { None };
    StartError::Listen { address, holder, source }
}

fn taken(holder: Option<&str>) -> String {
    holder.map(|holder| format!(", which {holder} has")).unwrap_or_default()
}

fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned())
}

fn announce(identity: &Identity, address: SocketAddr, events: &Events) {
    let message = format!(
        "{} ({}) serves on {address}; fingerprint {}",
        identity.short_id(),
        identity.hostname(),
        identity.fingerprint()
    );
    events.emit(NewEvent::new("node", "", "AgentStarted", message));
}
