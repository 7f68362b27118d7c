//! podman with its bridge and a published port: the same job as ours, without a daemon.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::process::Command;

use crate::{scenario::Fleet, sys::netns};

/// What it leaves at the root of each hierarchy.
const CGROUPS: [&str; 2] = ["libpod_parent", "conmon"];

/// podman's own defaults exceed what a host may allow.
const LIMITS: [&str; 2] = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];

/// podman with storage of its own.
#[derive(Clone, Debug)]
pub struct Podman {
    dir: PathBuf,
    namespace: String,
}

impl Podman {
    /// Where it is installed. It runs in the fleet's hub: its bridge and rules go with the fleet.
    pub fn new(fleet: &Fleet) -> Result<Option<Self>> {
        if !super::is_installed("podman") {
            return Ok(None);
        }
        let mut testbed = fleet.testbed();
        testbed.record.cgroups.extend(CGROUPS.map(String::from));
        testbed.record.save()?;
        Ok(Some(Self { dir: testbed.record.dir.join("podman"), namespace: testbed.plan().hub() }))
    }

    /// Loads an archive.
    pub async fn load(&self, archive: &Path) -> Result<()> {
        super::run(self.command().args(["load", "--quiet", "--input"]).arg(archive)).await
    }

    /// Starts a container on the bridge with a published port; how long until it runs.
    pub async fn start(&self, image: &str, name: &str, port: u16) -> Result<Duration> {
        let started = Instant::now();
        let publish = format!("{port}:8080");
        let words = ["run", "--detach", "--rm", "--name", name, "--publish", &publish];
        super::run(self.command().args(words).args(LIMITS).arg(image)).await?;
        Ok(started.elapsed())
    }

    /// Removes it.
    pub async fn remove(&self, name: &str) -> Result<()> {
        super::run(self.command().args(["rm", "--force", "--time", "0", name])).await
    }

    fn command(&self) -> Command {
        let mut command = Command::from(netns::command(&self.namespace, "podman"));
        command.arg("--root").arg(self.dir.join("root")).arg("--runroot").arg(self.dir.join("run")).args([
            "--storage-driver",
            "overlay",
            "--runtime",
            "runc",
            "--cgroup-manager",
            "cgroupfs",
        ]);
        command
    }
}
