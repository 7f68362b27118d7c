//! The numbers that `capsule info` shows, from those who know them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::engine::Engine;
use crate::{
    network::Network,
    node::{Census, Counts},
    runtime::SharedRuntime,
    store::StoreError,
    volume::Volumes,
    workload::Workloads,
};

/// How long a look at a capsule waits for the engine to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_millis(500);

struct All {
    workloads: Workloads,
    network: Option<Network>,
    volumes: Option<Volumes>,
    runtime: SharedRuntime,
    /// Asked once: it hardly changes while the agent runs.
    version: OnceCell<String>,
}

pub(super) fn of(engine: &Engine, workloads: &Workloads) -> Arc<dyn Census> {
    Arc::new(All {
        workloads: workloads.clone(),
        network: engine.network.clone(),
        volumes: engine.volumes.clone(),
        runtime: engine.runtime.clone(),
        version: OnceCell::new(),
    })
}

#[async_trait]
impl Census for All {
    async fn count(&self) -> Result<Counts, StoreError> {
        let (workloads, workloads_running) = self.workloads.count();
        let version = self.version.get_or_try_init(|| async { self.runtime.version().await });
        let version = tokio::time::timeout(VERSION_TIMEOUT, version).await;
        let volumes = match &self.volumes {
            Some(volumes) => volumes.count().await?,
            None => 0,
        };
        let network = self.network.as_ref().map(Network::warnings).unwrap_or_default().into_iter();
        Ok(Counts {
            workloads,
            workloads_running,
            volumes,
            containerd_version: version.ok().and_then(Result::ok).cloned().unwrap_or_default(),
            warnings: network.chain(self.volumes.as_ref().and_then(Volumes::warning)).collect(),
            pool: self.volumes.as_ref().and_then(Volumes::pool),
        })
    }
}
