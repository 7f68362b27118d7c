//! [`Runtime`] by containerd: which file does what.

use std::path::Path;

use async_trait::async_trait;
use capsule_proto::Name;
use containerd_client::services::v1::version_client::VersionClient;
use tokio::sync::broadcast;

use super::{Containerd, api, cgroup::Freezer, exec, rootfs};
use crate::runtime::{
    ExecProcess, ExecSpec, Exit, Runtime, RuntimeError, RuntimeEvent, Sandbox, Setup, Whom,
};

#[async_trait]
impl Runtime for Containerd {
    async fn list(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        self.list_sandboxes().await
    }

    async fn get(&self, name: &Name) -> Result<Option<Sandbox>, RuntimeError> {
        self.get_sandbox(name).await
    }

    async fn settled(&self, name: &Name) {
        self.wait_settled(name).await;
    }

    async fn create(&self, setup: &Setup) -> Result<(), RuntimeError> {
        self.create_sandbox(setup).await
    }

    async fn prepare_task(&self, name: &Name, log_dir: &Path) -> Result<u32, RuntimeError> {
        self.prepare(name, log_dir).await
    }

    async fn start_task(&self, name: &Name) -> Result<(), RuntimeError> {
        self.start_prepared(name).await
    }

    async fn signal(&self, name: &Name, signal: i32, whom: Whom) -> Result<(), RuntimeError> {
        self.send_signal(name, signal, whom).await
    }

    async fn pause(&self, name: &Name) -> Result<(), RuntimeError> {
        self.freeze(name, Freezer::Frozen)
    }

    async fn resume(&self, name: &Name) -> Result<(), RuntimeError> {
        self.freeze(name, Freezer::Thawed)
    }

    async fn delete_task(&self, name: &Name) -> Result<Option<Exit>, RuntimeError> {
        self.delete(name).await
    }

    async fn remove(&self, name: &Name) -> Result<(), RuntimeError> {
        self.remove_sandbox(name).await
    }

    async fn exec(&self, name: &Name, spec: ExecSpec) -> Result<Box<dyn ExecProcess>, RuntimeError> {
        Ok(Box::new(exec::run(self, name, spec).await?))
    }

    async fn mount_rootfs(&self, name: &Name, target: &Path) -> Result<(), RuntimeError> {
        let missing = |what| RuntimeError::NotFound(name.clone(), what);
        let container = self.container(name).await?.ok_or_else(|| missing("container"))?;
        let mounts = self.snapshot_mounts(&container.snapshot_key).await?;
        rootfs::mount_snapshot(&mounts.ok_or_else(|| missing("writable layer"))?, target)
    }

    fn subscribe(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    async fn version(&self) -> Result<String, RuntimeError> {
        let answer = VersionClient::new(self.channel()).version(api::request(())).await;
        let answer = answer.map_err(|status| api::failed("ask containerd for its version", status))?;
        Ok(format!("containerd {}", answer.into_inner().version))
    }
}
