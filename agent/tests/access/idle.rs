//! A runtime that runs nothing.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use capsule_proto::Name;
use capsuled::runtime::{
    ExecProcess, ExecSpec, Exit, Runtime, RuntimeError, RuntimeEvent, Sandbox, Setup, SharedRuntime, Whom,
};
use tokio::sync::broadcast;

struct Idle(broadcast::Sender<RuntimeEvent>);

pub(crate) fn runtime() -> SharedRuntime {
    Arc::new(Idle(broadcast::Sender::new(1)))
}

fn nothing<T>() -> Result<T, RuntimeError> {
    Err(RuntimeError::Invalid("this runtime runs nothing".into()))
}

#[async_trait]
impl Runtime for Idle {
    async fn list(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        Ok(Vec::new())
    }
    async fn get(&self, _: &Name) -> Result<Option<Sandbox>, RuntimeError> {
        Ok(None)
    }
    async fn create(&self, _: &Setup) -> Result<(), RuntimeError> {
        nothing()
    }
    async fn prepare_task(&self, _: &Name, _: &Path) -> Result<u32, RuntimeError> {
        nothing()
    }
    async fn start_task(&self, _: &Name) -> Result<(), RuntimeError> {
        nothing()
    }
    async fn signal(&self, _: &Name, _: i32, _: Whom) -> Result<(), RuntimeError> {
        nothing()
    }
    async fn pause(&self, _: &Name) -> Result<(), RuntimeError> {
        nothing()
    }
    async fn resume(&self, _: &Name) -> Result<(), RuntimeError> {
        nothing()
    }
    async fn delete_task(&self, _: &Name) -> Result<Option<Exit>, RuntimeError> {
        Ok(None)
    }
    async fn remove(&self, _: &Name) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn exec(&self, _: &Name, _: ExecSpec) -> Result<Box<dyn ExecProcess>, RuntimeError> {
        nothing()
    }
    async fn mount_rootfs(&self, _: &Name, _: &Path) -> Result<(), RuntimeError> {
        nothing()
    }
    fn subscribe(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.0.subscribe()
    }
    async fn version(&self) -> Result<String, RuntimeError> {
        Ok("idle 1".into())
    }
}
