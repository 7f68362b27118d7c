//! What goes wrong with capsules.

use std::{fs::File, io::Write as _, path::PathBuf, sync::PoisonError, time::Duration};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::{Capsule, Fleet};
use crate::{
    substrate::{fault::Faults, qemu::stop_leases},
    sys::process::Process,
};

/// For containerd to die of SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// What fills a disk, below the state directory.
const BALLAST: &str = "ballast";

impl Fleet {
    /// Splits the network into groups of capsules that do not hear each other; the operator's host
    /// hears everybody.
    pub fn split(&self, groups: &[&[&str]]) -> Result<()> {
        self.fault(|faults| {
            faults.split(groups);
            Ok(())
        })
    }

    /// Ends the split.
    pub fn join(&self) -> Result<()> {
        self.split(&[])
    }

    /// Ends the DHCP server that gives machines their addresses.
    pub fn stop_dhcp(&self) -> Result<()> {
        stop_leases(&self.testbed())
    }

    fn fault(&self, change: impl FnOnce(&mut Faults) -> Result<()>) -> Result<()> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut faults)?;
        self.testbed().set_faults(&faults)
    }
}

impl Capsule<'_> {
    /// `kill -9` of the agent; its workloads should not notice.
    pub fn kill_agent(&self) -> Result<()> {
        self.fleet.testbed().kill_agent(&self.name)
    }

    /// SIGTERM to the agent.
    pub fn stop_agent(&self) -> Result<()> {
        self.fleet.testbed().stop_agent(&self.name)
    }

    /// Starts the agent, where it does not run, and waits until it answers.
    pub async fn start_agent(&self) -> Result<Process> {
        let agent = self.fleet.testbed().ensure_agent(&self.name)?;
        self.wait_answers().await?;
        Ok(agent)
    }

    /// Starts the agent and does not wait for anything.
    pub fn spawn_agent(&self) -> Result<Process> {
        self.fleet.testbed().ensure_agent(&self.name)
    }

    /// `kill -9` and start.
    pub async fn restart_agent(&self) -> Result<Process> {
        self.kill_agent()?;
        self.start_agent().await
    }

    /// `kill -9`, and start with these further words on the command line.
    pub async fn restart_agent_with(&self, options: &[&str]) -> Result<Process> {
        self.kill_agent()?;
        self.fleet.testbed().set_options(&self.name, options)?;
        self.start_agent().await
    }

    /// `kill -9` of the containerd that the agent supervises.
    pub fn kill_containerd(&self) -> Result<()> {
        let containerd = self.containerd()?;
        containerd.signal(Signal::SIGKILL);
        if !containerd.wait_gone(KILL_LIMIT) {
            bail!("containerd of {} (PID {}) survives SIGKILL", self.name, containerd.pid);
        }
        Ok(())
    }

    /// What a power failure does, as far as processes and network go: all of it is gone at once. Then
    /// the host comes back, and with it the agent alone.
    pub async fn power_cycle(&self) -> Result<Process> {
        // What is about to be forked may be missed by the first look.
        while let all @ [_, ..] = self.processes().into_iter().collect::<Vec<_>>().as_slice() {
            all.iter().for_each(|process| process.signal(Signal::SIGKILL));
            if let Some(left) = all.iter().find(|process| !process.wait_gone(KILL_LIMIT)) {
                bail!("PID {} of {} survives SIGKILL", left.pid, self.name);
            }
        }
        self.fleet.testbed().lose_network(&self.name)?;
        self.start_agent().await
    }

    /// That containerd.
    pub fn containerd(&self) -> Result<Process> {
        self.fleet.testbed().containerd(&self.name)
    }

    /// Stops the agent in its tracks: connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.agent().map(|agent| agent.signal(Signal::SIGSTOP))
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.agent().map(|agent| agent.signal(Signal::SIGCONT))
    }

    /// Cuts it off from everybody; packets vanish without a word.
    pub fn partition(&self) -> Result<()> {
        self.packet_loss(100)
    }

    /// Ends partition and loss.
    pub fn heal(&self) -> Result<()> {
        self.packet_loss(0)
    }

    /// Loses this share of packets, each way.
    pub fn packet_loss(&self, percent: u8) -> Result<()> {
        self.fleet.fault(|faults| faults.lose(&self.name, percent))
    }

    /// Fills the file system of the state directory, which must be one of its own
    /// ([`super::FleetBuilder::disk`]), down to `left` bytes.
    pub fn fill_disk(&self, left: u64) -> Result<()> {
        let path = self.ballast();
        if self.fleet.testbed().node(&self.name)?.1.disk_bytes.is_none() {
            bail!("{} has no disk of its own to fill: build the fleet with .disk()", self.name);
        }
        let at = || format!("cannot fill {}", path.display());
        let mut file = File::options().create(true).append(true).open(&path).with_context(at)?;
        let chunk = vec![0; 64 * 1024];
        loop {
            let stat = nix::sys::statvfs::statvfs(&path).with_context(at)?;
            let free = stat.blocks_available() * stat.fragment_size();
            let want = free.saturating_sub(left).min(chunk.len() as u64) as usize;
            match file.write_all(&chunk[..want]) {
                Ok(()) if want > 0 => {}
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).with_context(at),
            }
        }
    }

    /// Makes room again.
    pub fn free_disk(&self) -> Result<()> {
        let path = self.ballast();
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    fn ballast(&self) -> PathBuf {
        self.state_dir().join(BALLAST)
    }
}
