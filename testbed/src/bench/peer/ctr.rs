//! A containerd of the bench's own, driven by `ctr`: what our agent stands on, without the agent.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use crate::{
    scenario::{Fleet, eventually},
    sys::netns,
};

/// containerd's namespace, and so the control group of its containers.
const NAMESPACE: &str = "testbed-peer";
const START_LIMIT: Duration = Duration::from_secs(20);

/// `ctr` and the engine it drives.
#[derive(Clone, Debug)]
pub struct Ctr {
    socket: PathBuf,
}

impl Ctr {
    /// Starts an engine below the fleet's directory, in its hub, so that it goes with the fleet.
    pub async fn start(fleet: &Fleet) -> Result<Self> {
        super::require(&["containerd", "ctr", "runc"])?;
        let dir = fleet.dir().join("peer");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let ctr = Self { socket: dir.join("containerd.sock") };
        fs::write(dir.join("config.toml"), ctr.configuration(&dir)).context("cannot configure the peer")?;
        {
            let mut testbed = fleet.testbed();
            let mut command = netns::command(&testbed.plan().hub(), "containerd");
            let process = testbed.spawn(command.arg("--config").arg(dir.join("config.toml")), "peer")?;
            testbed.record.helpers.push(process);
            testbed.record.cgroups.push(NAMESPACE.to_owned());
            testbed.record.save()?;
        }
        eventually(START_LIMIT, async || super::run(ctr.command().arg("version")).await).await?;
        Ok(ctr)
    }

    /// Imports an archive; how long that took.
    pub async fn import(&self, archive: &Path) -> Result<Duration> {
        let started = Instant::now();
        super::run(self.command().args(["images", "import"]).arg(archive)).await?;
        Ok(started.elapsed())
    }

    /// Removes an image and waits until its content is gone too.
    pub async fn remove(&self, reference: &str) -> Result<()> {
        super::run(self.command().args(["images", "remove", "--sync", reference])).await
    }

    /// Runs a command to its end in a container without a network; how long that took.
    pub async fn run(&self, image: &str, id: &str, command: &[&str]) -> Result<Duration> {
        let started = Instant::now();
        super::run(self.command().args(["run", "--rm", image, id]).args(command)).await?;
        Ok(started.elapsed())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket).args(["--namespace", NAMESPACE]);
        command
    }

    fn configuration(&self, dir: &Path) -> String {
        let (dir, socket) = (dir.display(), self.socket.display());
        format!(
            "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/run\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = \"{socket}\"\n"
        )
    }
}
