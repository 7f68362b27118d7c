//! iperf3 and ping, and what they say.

use std::{net::IpAddr, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{scenario::eventually, sys::netns};

/// Of one measurement.
const SECONDS: &str = "2";
/// Bytes of a datagram that just fills the tunnel's packet.
const DATAGRAM: &str = "1372";
/// Of the sockets at both ends: enough for what arrives until iperf3 runs again. With fewer, more than
/// half of what a fast tunnel brings is lost behind it, and the scheduler is what is measured.
const SOCKET_BUFFER: &str = "4M";
const PINGS: &str = "300";
const PING_INTERVAL: &str = "0.004";
const START_LIMIT: Duration = Duration::from_secs(10);

/// iperf3's listening end.
pub struct Server {
    address: IpAddr,
    // Killed when dropped; nsenter has become it.
    _child: Child,
}

/// What went through.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Per second, that arrived, all streams and ways together.
    pub megabits: f64,
    /// That arrived.
    pub gigabytes: f64,
}

impl Server {
    /// Listens on an address of the namespace until it is dropped.
    pub async fn start(namespace: &str, address: IpAddr) -> Result<Self> {
        let mut command = Command::from(netns::command(namespace, "iperf3"));
        command.args(["-s", "-B", &address.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let server = Self { address, _child: command.spawn().context("cannot run iperf3")? };
        eventually(START_LIMIT, async || server.looked_at(namespace)).await?;
        Ok(server)
    }

    fn looked_at(&self, namespace: &str) -> Result<()> {
        let listening = netns::inside(namespace, || std::fs::read_to_string("/proc/thread-self/net/tcp"))??;
        // Port 5201, state LISTEN.
        if listening.lines().any(|line| line.contains(":1451 ") && line.contains(" 0A ")) {
            return Ok(());
        }
        bail!("iperf3 does not listen")
    }

    /// TCP to it, with more words on iperf3's command line.
    pub async fn tcp(&self, from: &str, words: &[&str]) -> Result<Run> {
        let end = self.iperf(from, words).await?;
        let sums = [&end["sum_received"], &end["sum_received_bidir_reverse"]];
        let all = |field: &str| sums.iter().filter_map(|sum| sum[field].as_f64()).sum::<f64>();
        Ok(Run { megabits: all("bits_per_second") / 1e6, gigabytes: all("bytes") / 1e9 })
    }

    /// As many datagrams as the sender can make.
    pub async fn udp_flood(&self, from: &str) -> Result<Run> {
        let end = self.iperf(from, &["-u", "-b", "0", "-l", DATAGRAM, "-w", SOCKET_BUFFER]).await?;
        let sum = &end["sum"];
        let field = |name: &str| sum[name].as_f64().with_context(|| format!("iperf3 says no {name}"));
        let arrived = 1.0 - field("lost_percent")? / 100.0;
        let megabits = field("bits_per_second")? / 1e6 * arrived;
        Ok(Run { megabits, gigabytes: field("bytes")? / 1e9 * arrived })
    }

    /// Average round trip, microseconds.
    pub async fn ping(&self, from: &str) -> Result<f64> {
        let mut command = netns::command(from, "ping");
        command.args(["-q", "-c", PINGS, "-i", PING_INTERVAL, &self.address.to_string()]);
        let text = output(command).await?;
        let times = text.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
        let average = times.and_then(|times| times.split('/').nth(1)?.parse::<f64>().ok());
        Ok(average.with_context(|| format!("ping said no times: {text}"))? * 1000.0)
    }

    async fn iperf(&self, from: &str, words: &[&str]) -> Result<Value> {
        let mut command = netns::command(from, "iperf3");
        command.args(["-J", "-t", SECONDS, "-c", &self.address.to_string()]).args(words);
        let mut report: Value =
            serde_json::from_str(&output(command).await?).context("iperf3 wrote no JSON")?;
        Ok(report["end"].take())
    }
}

async fn output(command: std::process::Command) -> Result<String> {
    let shown = crate::sys::show(&command);
    let output = Command::from(command).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("cannot run {shown}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{shown} ended with {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}
