//! An engine with nothing to run: a simulated capsule answers for itself alone.

use std::path::Path;

use async_trait::async_trait;
use capsule_proto::Name;
use capsuled::runtime::{
    ExecProcess, ExecSpec, Exit, Runtime, RuntimeError, RuntimeEvent, Sandbox, Setup, Whom,
};
use tokio::sync::broadcast;

/// Events that nobody sends need no room.
const BACKLOG: usize = 1;

/// Holds no sandbox and makes none.
pub struct IdleEngine(broadcast::Sender<RuntimeEvent>);

impl Default for IdleEngine {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }
}

fn nothing<T>(name: &Name) -> Result<T, RuntimeError> {
    Err(RuntimeError::NotFound(name.clone(), "sandbox: this capsule is simulated"))
}

#[async_trait]
impl Runtime for IdleEngine {
    async fn list(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        Ok(Vec::new())
    }

    async fn get(&self, _name: &Name) -> Result<Option<Sandbox>, RuntimeError> {
        Ok(None)
    }

    async fn create(&self, setup: &Setup) -> Result<(), RuntimeError> {
        nothing(&setup.name)
    }

    async fn prepare_task(&self, name: &Name, _log_dir: &Path) -> Result<u32, RuntimeError> {
        nothing(name)
    }

    async fn start_task(&self, name: &Name) -> Result<(), RuntimeError> {
        nothing(name)
    }

    async fn signal(&self, name: &Name, _signal: i32, _whom: Whom) -> Result<(), RuntimeError> {
        nothing(name)
    }

    async fn pause(&self, name: &Name) -> Result<(), RuntimeError> {
        nothing(name)
    }

    async fn resume(&self, name: &Name) -> Result<(), RuntimeError> {
        nothing(name)
    }

    async fn delete_task(&self, _name: &Name) -> Result<Option<Exit>, RuntimeError> {
        Ok(None)
    }

    async fn remove(&self, _name: &Name) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn exec(&self, name: &Name, _spec: ExecSpec) -> Result<Box<dyn ExecProcess>, RuntimeError> {
        nothing(name)
    }

    async fn mount_rootfs(&self, name: &Name, _target: &Path) -> Result<(), RuntimeError> {
        nothing(name)
    }

    fn subscribe(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.0.subscribe()
    }

    async fn version(&self) -> Result<String, RuntimeError> {
        Ok("simulated".to_owned())
    }
}
