//! podman with its bridge and a published port: the same job as ours, without a daemon.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::process::Command;

use crate::{scenario::Fleet, sys::netns};

/// podman with storage of its own.
#[derive(Clone, Debug)]
pub struct Podman {
    dir: PathBuf,
    namespace: String,
}

impl Podman {
    /// Where it is installed. It runs in the fleet's hub: its bridge and rules go with the fleet.
    pub fn new(fleet: &Fleet) -> Option<Self> {
        let namespace = fleet.testbed().plan().hub();
        super::is_installed("podman").then(|| Self { dir: fleet.dir().join("podman"), namespace })
    }

    /// Loads an archive.
    pub async fn load(&self, archive: &Path) -> Result<()> {
        super::run(self.command().args(["load", "--quiet", "--input"]).arg(archive)).await
    }

    /// Starts a container on the bridge with a published port; how long until it runs.
    pub async fn start(&self, image: &str, name: &str, port: u16) -> Result<Duration> {
        let started = Instant::now();
        let publish = format!("{port}:8080");
        let words = ["run", "--detach", "--rm", "--name", name, "--publish", &publish, image];
        super::run(self.command().args(words)).await?;
        Ok(started.elapsed())
    }

    /// Removes it.
    pub async fn remove(&self, name: &str) -> Result<()> {
        super::run(self.command().args(["rm", "--force", "--time", "0", name])).await
    }

    fn command(&self) -> Command {
        let mut command = Command::from(netns::command(&self.namespace, "podman"));
        command
            .arg("--root")
            .arg(self.dir.join("root"))
            .arg("--runroot")
            .arg(self.dir.join("run"))
            .args(["--storage-driver", "overlay", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
        command
    }
}
