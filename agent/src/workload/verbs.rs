//! Start, stop, restart, delete: one commit each, then the actor is told.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use capsule_proto::v1::{self, DesiredState};

use super::{
    WorkloadError, Workloads,
    handle::Handle,
    needs::Address,
    spec::Desired,
    table::{self, Kept},
};

impl Workloads {
    /// Also tries at once what waits in back-off, and counts ends anew.
    pub(super) async fn start_one(&self, name: &str) -> Result<Arc<Handle>, WorkloadError> {
        let handle = self.handle(name)?;
        let runs = handle.workload().is_some_and(|workload| {
            let phase = workload.status.as_ref().map(v1::WorkloadStatus::phase);
            matches!(phase, Some(v1::Phase::Running | v1::Phase::Paused))
        });
        if runs && handle.desired().wants_run() {
            return Ok(handle);
        }
        self.change(name, want_running).await
    }

    pub(super) async fn stop_one(
        &self,
        name: &str,
        grace_seconds: Option<u32>,
    ) -> Result<Arc<Handle>, WorkloadError> {
        let grace = grace_seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let edit = move |kept: &mut Kept| {
            kept.state = DesiredState::Stopped;
            kept.stop_grace = grace;
        };
        self.change(name, edit).await
    }

    /// Committed like any other wish: should the agent die now, the next one restarts it.
    pub(super) async fn restart_one(
        &self,
        name: &str,
        grace_seconds: Option<u32>,
    ) -> Result<Arc<Handle>, WorkloadError> {
        let grace = grace_seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let edit = move |kept: &mut Kept| {
            want_running(kept);
            kept.restart = kept.epoch;
            kept.stop_grace = grace;
        };
        self.change(name, edit).await
    }

    pub(super) async fn delete_one(&self, name: &str) -> Result<(), WorkloadError> {
        if self.handle(name)?.desired().state == DesiredState::Deleted {
            return Ok(());
        }
        self.change(name, |kept| kept.state = DesiredState::Deleted).await.map(drop)
    }

    async fn change(
        &self,
        name: &str,
        edit: impl FnOnce(&mut Kept) + Send + 'static,
    ) -> Result<Arc<Handle>, WorkloadError> {
        let name = self.handle(name)?.name.clone();
        let parts = self.parts.clone();
        let written = self.parts.store.write(move |tx| {
            let mut kept = table::get(tx, &name)?.ok_or_else(|| WorkloadError::NotFound(name.clone()))?;
            if kept.state == DesiredState::Deleted {
                return Err(WorkloadError::Conflict(format!("workload {name} is being deleted")));
            }
            edit(&mut kept);
            kept.updated_at = SystemTime::now();
            table::put(tx, &kept)?;
            let address = match &parts.network {
                Some(network) => network.reservation(tx, &name)?,
                None => None,
            };
            Ok((kept, address, parts.next_revision()))
        });
        let (kept, address, revision) = written.await?;
        Ok(self.set_kept(&kept, address, revision))
    }

    /// Hands a committed row on.
    pub(super) fn set_kept(&self, kept: &Kept, address: Option<Address>, revision: u64) -> Arc<Handle> {
        let mut new = Desired::of(kept, address, revision);
        if let Some(handle) = self.registry.get(&kept.name) {
            new.nudge = handle.desired().nudge;
        }
        self.set(new)
    }
}

fn want_running(kept: &mut Kept) {
    kept.state = DesiredState::Running;
    kept.epoch += 1;
    kept.ends = 0;
    kept.last_exit = None;
    kept.stop_grace = None;
}
