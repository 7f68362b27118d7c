//! ssh to every namespace of a fleet, one at a time or through pdsh.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use crate::{
    scenario::{Fleet, wait_listens},
    sys::{self, netns},
};

const START_LIMIT: Duration = Duration::from_secs(20);

/// Whether connections are made anew or were open before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// One each call.
    New,
    /// Multiplexed over one that stays (ControlMaster).
    Open,
}

/// An sshd in every namespace of a fleet, and a key that they all take.
#[derive(Debug)]
pub struct Ssh {
    dir: PathBuf,
    hosts: Vec<String>,
}

impl Ssh {
    /// Starts them.
    pub async fn start(fleet: &Fleet) -> Result<Self> {
        super::require(&["sshd", "ssh", "ssh-keygen", "pdsh"])?;
        let ssh = Self { dir: fleet.dir().join("ssh"), hosts: hosts(fleet)? };
        ssh.prepare()?;
        for name in fleet.names() {
            let mut testbed = fleet.testbed();
            let mut command = netns::command(&testbed.plan().namespace(&name), "/usr/sbin/sshd");
            let process =
                testbed.spawn(command.args(["-D", "-e", "-f"]).arg(ssh.dir.join("sshd_config")), "ssh")?;
            testbed.record.helpers.push(process);
            testbed.record.save()?;
        }
        for name in fleet.names() {
            wait_listens(fleet.address(&name, 22)?, START_LIMIT).await?;
        }
        Ok(ssh)
    }

    /// Runs `true` everywhere through pdsh; how long that took.
    pub async fn pdsh(&self, connections: Connections) -> Result<Duration> {
        let started = Instant::now();
        let fan_out = self.hosts.len().to_string();
        let mut command = Command::new("pdsh");
        command
            .env("PDSH_SSH_ARGS", format!("-F {} -l%u %h", self.client_config(connections).display()))
            .args(["-R", "ssh", "-f", &fan_out, "-w", &self.hosts.join(","), "true"]);
        super::run(&mut command).await?;
        Ok(started.elapsed())
    }

    /// Ends the connections that were kept open.
    pub async fn close(&self) -> Result<()> {
        for host in &self.hosts {
            let config = self.client_config(Connections::Open);
            super::run(Command::new("ssh").arg("-F").arg(config).args(["-O", "exit", host])).await?;
        }
        Ok(())
    }

    fn client_config(&self, connections: Connections) -> PathBuf {
        self.dir.join(if connections == Connections::New { "config-new" } else { "config-open" })
    }

    fn prepare(&self) -> Result<()> {
        let dir = self.dir.display();
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {dir}"))?;
        // Privilege separation wants it, and only Debian's init script makes it.
        fs::create_dir_all("/run/sshd").context("cannot make /run/sshd")?;
        for key in ["host_key", "id"] {
            let mut command = process::Command::new("ssh-keygen");
            sys::run(command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(self.dir.join(key)), "")?;
        }
        write(&self.dir.join("authorized_keys"), &fs::read_to_string(self.dir.join("id.pub"))?)?;
        write(
            &self.dir.join("sshd_config"),
            &format!(
                // A shell that sshd starts reads ~/.bashrc unless another runs it: what a machine keeps in there is
                // not ssh's fault.
                "SetEnv SHLVL=1\nPort 22\nHostKey {dir}/host_key\nAuthorizedKeysFile {dir}/authorized_keys\nPidFile none\n\
                 PermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nUseDNS no\nMaxStartups 100\n"
            ),
        )?;
        let client = format!(
            "IdentityFile {dir}/id\nIdentitiesOnly yes\nStrictHostKeyChecking no\n\
             UserKnownHostsFile /dev/null\nLogLevel ERROR\n"
        );
        write(&self.dir.join("config-new"), &client)?;
        let kept = format!("{client}ControlMaster auto\nControlPath {dir}/open-%h\nControlPersist 120\n");
        write(&self.dir.join("config-open"), &kept)
    }
}

fn hosts(fleet: &Fleet) -> Result<Vec<String>> {
    fleet.names().iter().map(|name| Ok(fleet.capsule(name).api()?.ip().to_string())).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    let written =
        fs::write(path, text).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)));
    written.with_context(|| format!("cannot write {}", path.display()))
}
