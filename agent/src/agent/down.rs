//! Stopping everything on a state directory: the agent, then what outlives it. Workloads keep
//! their place: the next agent starts them again.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use capsule_fabric::map::MapError;
use tokio::sync::watch;

use super::{StartError, engine};
use crate::{
    config::Config,
    event::Events,
    fabric::{self, FabricError},
    identity::{Identity, Purpose},
    network::Membership,
    runtime::{Runtime, RuntimeError, Sandbox, TaskState, Whom},
    store::{self, Store},
    sys::lock::{self, LockError, StateLock},
    volume::Volumes,
};

/// From asking the agent to stop to giving up.
const AGENT_DEADLINE: Duration = Duration::from_secs(20);
/// From SIGTERM to SIGKILL of a workload.
const WORKLOAD_GRACE: Duration = Duration::from_secs(5);
/// From SIGKILL to giving up.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Stops all that runs for `config.state_dir`. What is stopped already is no error.
pub async fn down(config: &Config) -> Result<(), StartError> {
    if !config.state_dir.join(store::FILE_NAME).exists() {
        return Ok(());
    }
    let _lock = take_over(&config.state_dir).await?;
    let store = Store::open(&config.state_dir)?;
    let events = Events::start(store.clone());
    let identity = Identity::start(
        &config.state_dir,
        String::new(),
        (Purpose::Serve, Duration::ZERO),
        store.clone(),
        events.clone(),
    )
    .await?;
    let containerd = engine::containerd(config, &identity, &events).await?;
    stop_tasks(&*containerd).await?;
    containerd.shutdown().await;
    Volumes::at_rest(&config.state_dir, store.clone(), events.clone())?.restore(&[]).await?;
    let unusable = |source| StartError::StateDir { path: config.state_dir.clone(), source };
    fabric::teardown(&config.fabric(false).map_err(unusable)?, identity.capsule_id()).await?;
    let capsule = identity.capsule_id().parse().map_err(MapError::Fabric).map_err(FabricError::from)?;
    // What leaves is in no fabric any more.
    let membership = Membership {
        capsule,
        map: watch::Sender::new(None).subscribe(),
        directory: watch::Sender::default().subscribe(),
    };
    engine::network(config, &identity, &store, &events, membership).await?.teardown().await?;
    Ok(())
}

/// Asks the agent that holds the lock to stop, and takes its place.
async fn take_over(dir: &Path) -> Result<StateLock, StartError> {
    let deadline = Instant::now() + AGENT_DEADLINE;
    let mut asked = None;
    loop {
        match StateLock::acquire(dir) {
            Err(LockError::Held { .. }) if Instant::now() < deadline => {}
            outcome => return Ok(outcome?),
        }
        let holder = lock::holder(dir);
        if let Some(pid) = holder.filter(|_| holder != asked) {
            asked = holder;
            kill(Pid::from_raw(pid as i32), Signal::SIGTERM)
                .map_err(|error| StartError::StateDir { path: dir.into(), source: io::Error::from(error) })?;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

async fn stop_tasks(runtime: &dyn Runtime) -> Result<(), RuntimeError> {
    for (signal, whom, wait) in
        [(Signal::SIGTERM, Whom::Init, WORKLOAD_GRACE), (Signal::SIGKILL, Whom::All, KILL_DEADLINE)]
    {
        for sandbox in runtime.list().await?.iter().filter(|sandbox| is_running(sandbox)) {
            if let Err(error) = runtime.signal(&sandbox.name, signal as i32, whom).await {
                tracing::debug!(%error, workload = %sandbox.name, "it could not be signalled");
            }
            if sandbox.task.as_ref().is_some_and(|task| task.state == TaskState::Paused)
                && let Err(error) = runtime.resume(&sandbox.name).await
            {
                tracing::debug!(%error, workload = %sandbox.name, "it could not be resumed");
            }
        }
        let deadline = Instant::now() + wait;
        while runtime.list().await?.iter().any(is_running) && Instant::now() < deadline {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
    for sandbox in runtime.list().await?.iter().filter(|sandbox| sandbox.task.is_some()) {
        runtime.delete_task(&sandbox.name).await?;
    }
    Ok(())
}

fn is_running(sandbox: &Sandbox) -> bool {
    sandbox.task.as_ref().is_some_and(|task| !matches!(task.state, TaskState::Exited(_)))
}
