//! Workloads as containers: an own containerd per capsule and [`Runtime`] on top of it.
//!
//! - `supervise.rs` keeps `containerd` running. It is a child in a session of its own that outlives
//!   the agent; the next agent takes it over. One task watches it and restarts it.
//! - `events.rs`: one task follows containerd's events and turns them into [`RuntimeEvent`]s.
//! - `spec/`, `user.rs`: from a manifest and an image to the OCI runtime spec. Pure.
//! - `leftovers.rs`: what containerd forgets when its caller is killed.
//! - `sandbox.rs` containers and snapshots, `task.rs` processes, `exec/` commands inside them,
//!   `rootfs.rs` mounting: thin verbs over containerd's API, gathered by `runtime.rs`.
//!
//! Everything lives under `STATE_DIR/containerd`; two capsules on one kernel share no name. The
//! exception are shims' sockets in `/run/containerd/s`, whose names containerd derives from the
//! address of its own socket.

mod api;
mod cgroup;
mod events;
mod exec;
mod host;
mod layout;
mod leftovers;
mod rootfs;
#[allow(clippy::module_inception)]
mod runtime;
mod sandbox;
mod spec;
mod supervise;
mod task;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod user;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use capsule_proto::Name;
use tokio::sync::{broadcast, watch};
use tonic::transport::Channel;

use self::{host::Host, layout::Layout, supervise::Supervisor};
use crate::{
    event::Events,
    runtime::{RuntimeError, RuntimeEvent},
};

/// Events that a slow subscriber may be behind before it is told to look at everything.
const EVENT_BACKLOG: usize = 1024;
/// Looks at control groups that should be empty, and the pause between two.
const CGROUP_ATTEMPTS: u32 = 200;
const CGROUP_PAUSE: Duration = Duration::from_millis(50);

/// What differs between capsules and machines.
#[derive(Clone, Debug)]
pub struct ContainerdConfig {
    /// The agent's state directory; containerd lives in `containerd` below it.
    pub state_dir: PathBuf,
    /// Name of the cgroup that holds every workload, such as `capsule-a3f2`. Its child `engine`
    /// holds containerd and the shims.
    pub cgroup_parent: String,
    /// The program, by path or looked up in `PATH`.
    pub containerd: PathBuf,
    /// Program that receives a task's output: called as `PROGRAM log-pump DIR` with the output on
    /// descriptors 3 and 4. The running executable by default.
    pub log_pump: PathBuf,
}

impl ContainerdConfig {
    /// The usual programs.
    pub fn new(state_dir: impl Into<PathBuf>, cgroup_parent: impl Into<String>) -> Self {
        Self {
            state_dir: state_dir.into(),
            cgroup_parent: cgroup_parent.into(),
            containerd: "containerd".into(),
            log_pump: layout::own_executable(),
        }
    }
}

/// The capsule's containerd and what runs on it.
pub struct Containerd {
    layout: Layout,
    host: Host,
    cgroup_parent: String,
    log_pump: PathBuf,
    channel: Channel,
    events: broadcast::Sender<RuntimeEvent>,
    supervisor: Supervisor,
    follower: tokio::task::JoinHandle<()>,
    /// Names whose earlier task is still being cleaned up.
    settling: watch::Sender<BTreeSet<Name>>,
}

impl Containerd {
    /// Takes over the containerd that an earlier agent left running, or starts one; then removes
    /// what that agent left half-done, tasks in the background. Resolves when containerd answers and
    /// its events arrive.
    pub async fn start(config: &ContainerdConfig, events: Events) -> Result<Arc<Self>, RuntimeError> {
        let layout = Layout::make(&config.state_dir)?;
        layout.write_config(&config.cgroup_parent)?;
        let host = Host::probe();
        host.cgroups.make(&layout::engine_cgroup(&config.cgroup_parent))?;
        let supervisor = Supervisor::start(layout.clone(), config.containerd.clone(), events).await?;
        let channel = api::connect_lazy(layout.socket());
        let (sender, _) = broadcast::channel(EVENT_BACKLOG);
        let follower = events::follow(channel.clone(), sender.clone()).await?;
        let containerd = Arc::new(Self {
            host,
            cgroup_parent: config.cgroup_parent.clone(),
            log_pump: config.log_pump.clone(),
            layout,
            channel,
            events: sender,
            supervisor,
            follower,
            settling: watch::Sender::default(),
        });
        containerd.remove_leftovers().await?;
        Ok(containerd)
    }

    /// A connection that is made when used and made again when lost.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Stops containerd itself and removes its control groups. Running containers are not touched;
    /// only for an agent that was told to stop everything, after it stopped them.
    pub async fn shutdown(&self) {
        self.follower.abort();
        self.supervisor.shutdown().await;
        // Shims leave a moment after their task.
        for _ in 0..CGROUP_ATTEMPTS {
            if cgroup::remove(&self.cgroup_parent) {
                return;
            }
            tokio::time::sleep(CGROUP_PAUSE).await;
        }
        tracing::warn!(cgroup = self.cgroup_parent, "a control group still has processes and stays");
    }

    /// What an agent that was killed may have left: execs nobody listens to, halves of tasks,
    /// snapshots without a container, mounts.
    async fn remove_leftovers(self: &Arc<Self>) -> Result<(), RuntimeError> {
        rootfs::unmount_leftovers(&self.layout.tmp());
        exec::end_leftovers(self);
        self.clear_leftovers().await?;
        self.remove_stray_snapshots().await
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.follower.abort();
    }
}
