//! docker with its bridge and a published port, by a daemon of the bench's own.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::process::Command;

use crate::scenario::{Fleet, eventually};

const CGROUP: &str = "testbed-docker";
const START_LIMIT: Duration = Duration::from_secs(30);

/// `docker` and the daemon it asks.
#[derive(Clone, Debug)]
pub struct Docker {
    socket: PathBuf,
}

impl Docker {
    /// Where it is installed. The daemon lives in a network namespace that ends with it, for it sets
    /// rules and switches that concern everybody in its namespace.
    pub async fn start(fleet: &Fleet) -> Result<Option<Self>> {
        if !(super::is_installed("dockerd") && super::is_installed("docker")) {
            return Ok(None);
        }
        let dir = fleet.dir().join("docker");
        let docker = Self { socket: dir.join("docker.sock") };
        {
            let mut testbed = fleet.testbed();
            let process = testbed.spawn(&mut docker.daemon(&dir), "docker")?;
            testbed.record.helpers.push(process);
            testbed.record.cgroups.push(CGROUP.to_owned());
            testbed.record.save()?;
        }
        eventually(START_LIMIT, async || super::run(docker.command().arg("version")).await).await?;
        Ok(Some(docker))
    }

    /// Loads an archive as `docker save` writes it.
    pub async fn load(&self, archive: &Path) -> Result<()> {
        super::run(self.command().args(["load", "--quiet", "--input"]).arg(archive)).await
    }

    /// Starts a container on the bridge with a published port; how long until it runs.
    pub async fn run(&self, image: &str, name: &str, port: u16) -> Result<Duration> {
        let started = Instant::now();
        let publish = format!("{port}:8080");
        let words = ["run", "--detach", "--name", name, "--publish", &publish, image];
        super::run(self.command().args(words)).await?;
        Ok(started.elapsed())
    }

    /// Removes it.
    pub async fn remove(&self, name: &str) -> Result<()> {
        super::run(self.command().args(["rm", "--force", name])).await
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(self.address());
        command
    }

    fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    fn daemon(&self, dir: &Path) -> std::process::Command {
        let mut command = std::process::Command::new("unshare");
        command.args(["--net", "--", "dockerd", "--storage-driver=overlay2"]);
        command.args(["--exec-opt=native.cgroupdriver=cgroupfs", &format!("--cgroup-parent=/{CGROUP}")]);
        command.arg("--host").arg(self.address());
        for (option, place) in [("--data-root", "data"), ("--exec-root", "run"), ("--pidfile", "docker.pid")]
        {
            command.arg(option).arg(dir.join(place));
        }
        command
    }
}
