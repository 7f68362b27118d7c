//! The machine itself and the agent's own log.
//!
//! `host` reads what the kernel says, `log` follows the ring that [`logging`](crate::logging)
//! writes, `power` asks init; numbers of other capabilities come through [`Census`].

mod host;
mod log;
mod power;
mod rpc;

use std::{io, path::PathBuf, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use capsule_proto::{
    Name,
    v1::{self, Mode},
};

use tokio::sync::SetOnce;

use crate::{
    boot::InitLink,
    identity::{Caller, Identity},
    logging::LogRing,
    store::StoreError,
};

/// What other capabilities know; answered at each call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// All workloads.
    pub workloads: u32,
    /// Those that run.
    pub workloads_running: u32,
    /// All volumes.
    pub volumes: u32,
    /// Engine and version; empty where it does not answer.
    pub containerd_version: String,
    /// What on the host stands in the way of workloads, each with its remedy.
    pub warnings: Vec<String>,
    /// Where volumes are kept, if not in files.
    pub pool: Option<v1::Pool>,
}

/// Whoever can count.
#[async_trait]
pub trait Census: Send + Sync {
    /// As things are now.
    async fn count(&self) -> Result<Counts, StoreError>;
}

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// As what the machine runs.
    pub mode: Mode,
    /// Of the system, where that is ours, else of the agent.
    pub version: String,
    /// Whose file system is reported.
    pub state_dir: PathBuf,
    /// When the agent started.
    pub started_at: SystemTime,
    /// What this capsule can do: `container`, `volume/file`, …
    pub capabilities: Vec<String>,
    /// IPv4 and IPv6 subnet of the bridge; empty without one.
    pub subnets: (String, String),
}

/// The capability; cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    identity: Identity,
    /// Known once all that is counted has started.
    known: SetOnce<(Facts, Arc<dyn Census>)>,
    log: Option<LogRing>,
    /// An appliance's.
    init: Option<InitLink>,
}

impl Node {
    /// Without a `log`, `Logs` is refused; without `init`, what only an appliance can do. Whoever asks for
    /// numbers waits for [`Node::know`].
    pub fn new(identity: Identity, log: Option<LogRing>, init: Option<InitLink>) -> Self {
        Self(Arc::new(Inner { identity, known: SetOnce::new(), log, init }))
    }

    /// Tells it what the capsule is and who can count, once.
    pub fn know(&self, facts: Facts, census: Arc<dyn Census>) {
        let told_before = self.0.known.set((facts, census)).is_err();
        debug_assert!(!told_before, "a node is told once what it is");
    }

    /// Gives the host another name for good; what it was until now. On an appliance it is the machine's
    /// own name as well, which init gives it again at the next boot.
    async fn rename(&self, name: &Name, by: &Caller) -> io::Result<String> {
        let Inner { identity, init, .. } = &*self.0;
        let previous = identity.set_hostname(name, by).await?;
        if init.is_some()
            && let Err(error) = nix::unistd::sethostname(name.as_str())
        {
            tracing::warn!(%error, "the machine keeps its old name until it boots anew");
        }
        Ok(previous)
    }

    async fn info(&self) -> Result<v1::NodeInfo, StoreError> {
        let Inner { identity, known, .. } = &*self.0;
        let (facts, census) = known.wait().await;
        let counts = census.count().await?;
        let host = host::read(&facts.state_dir);
        Ok(v1::NodeInfo {
            capsule_id: identity.capsule_id().into(),
            short_id: identity.short_id().into(),
            hostname: identity.hostname(),
            version: facts.version.clone(),
            mode: facts.mode.into(),
            kernel: host.kernel,
            architecture: host.architecture,
            booted_at: host.booted_at.map(capsule_proto::timestamp),
            agent_started_at: Some(capsule_proto::timestamp(facts.started_at)),
            cpus: host.cpus,
            memory_total_bytes: host.memory_total_bytes,
            memory_available_bytes: host.memory_available_bytes,
            load1: host.load1,
            disk_total_bytes: host.disk_total_bytes,
            disk_available_bytes: host.disk_available_bytes,
            containerd_version: counts.containerd_version,
            workloads: counts.workloads,
            workloads_running: counts.workloads_running,
            volumes: counts.volumes,
            capabilities: facts.capabilities.clone(),
            fingerprint: identity.fingerprint().to_string(),
            bridge_subnet: facts.subnets.0.clone(),
            bridge_subnet6: facts.subnets.1.clone(),
            refused_calls: identity.refused_calls(),
            warnings: counts.warnings,
            pool: counts.pool,
        })
    }
}
