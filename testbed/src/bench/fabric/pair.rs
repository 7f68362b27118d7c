//! Two workloads on two capsules, and the policies between them.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    scenario::{Capsule, FOREVER, Fleet, eventually, shell},
    sys::process::Process,
};

/// Who asks.
const ASKER: &str = "asker";
/// Who is asked.
const ASKED: &str = "asked";
/// iperf3's, of both protocols.
const PORT: u16 = 5201;
/// Until the first answer.
const LIMIT: Duration = Duration::from_mins(1);

/// Workloads of the first and second capsule of a fleet's part, which run until the fleet goes.
#[derive(Debug)]
pub struct Pair {
    /// Network namespaces of who asks and who is asked, as [`crate::sys::netns`] takes them.
    pub namespaces: [String; 2],
    /// Where the second is.
    pub address: IpAddr,
    /// The capsules' userspace devices.
    pub devices: Vec<Process>,
}

impl Pair {
    /// Starts both with policies of `rules` references each, and waits until they meet.
    pub async fn start(fleet: &Fleet, [from, to]: [&str; 2], rules: usize) -> Result<Self> {
        let (a, b) = (fleet.capsule(from), fleet.capsule(to));
        let allowed = |peer: &str| {
            let needed = ["tcp", "udp"].map(|protocol| format!("{peer}:{PORT}/{protocol}"));
            let needed = needed.into_iter().chain([format!("{peer}/icmp")]);
            needed.chain(others().take(rules.saturating_sub(3))).collect::<Vec<_>>()
        };
        start(&a, ASKER, "allowTo", &allowed(&format!("{ASKED}@{to}"))).await?;
        start(&b, ASKED, "allowFrom", &allowed(&format!("{ASKER}@{from}"))).await?;
        let address = b.workload(ASKED).await?["status"]["fabric"]["ipv4"].clone();
        let address: IpAddr = address.as_str().context("it has no address in the fabric")?.parse()?;
        let there = address.to_string();
        eventually(LIMIT, async || {
            a.exec(ASKER, &["ping", "-c", "1", "-W", "1", &there]).await?.ok().map(drop)
        })
        .await?;
        let namespaces = [namespace(&a, ASKER).await?, namespace(&b, ASKED).await?];
        let devices = [&a, &b].into_iter().filter_map(Capsule::device).collect();
        Ok(Self { namespaces, address, devices })
    }

    /// That the devices have used so far. What the kernel does with a packet that a device gives it,
    /// it does in the device's time.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.devices.iter().map(|device| Ok(device.cpu_time()?.as_secs_f64())).sum()
    }
}

async fn start(capsule: &Capsule<'_>, name: &str, field: &str, references: &[String]) -> Result<()> {
    let manifest =
        shell(name, FOREVER, &format!("  fabric: {{ {field}: {} }}\n", serde_json::json!(references)));
    capsule.apply(&manifest).await?;
    capsule.wait_running(name).await.map(drop)
}

/// References that nobody here answers to, of every shape that policies have: whole addresses,
/// prefixes, ranges of ports.
pub fn others() -> impl Iterator<Item = String> {
    (0_u32..).map(|at| {
        let (high, low) = (at / 200 % 250, at % 200 + 2);
        match at % 4 {
            0 => format!("cidr:100.{}.{low}.0/24:{}", 66 + high % 60, 1000 + at),
            1 => format!("cidr:100.65.{high}.{low}/32:{}-{}", 20_000 + at, 20_007 + at),
            _ => format!("cidr:100.65.{high}.{low}/32:{}", 1000 + at),
        }
    })
}

async fn namespace(capsule: &Capsule<'_>, workload: &str) -> Result<String> {
    let pid = capsule.pid(workload).await?;
    ensure!(pid > 0, "{workload} does not run");
    Ok(format!("/proc/{pid}/ns/net"))
}
