//! What is fast is measured, beside a peer, in the same run.
//!
//! - [`race`]: contestants take turns, so that a busy minute hurts all of them alike;
//! - [`stats`], [`report`]: medians, ratios and the table that docs/benchmarks.md holds;
//! - [`peer`]: what else does the job: `ctr`, podman, ssh;
//! - one file per bench: [`start`], [`many`], [`info`], [`simulated`], [`idle`], [`push`],
//!   [`image`], [`appliance`], [`update`];
//! - [`mesh`]: WireGuard in userspace; [`fabric`]: what capsules make of it.

mod appliance;
mod fabric;
mod idle;
mod image;
mod info;
mod many;
mod mesh;
pub mod peer;
mod push;
pub mod race;
pub mod report;
mod simulated;
mod start;
pub mod stats;
mod update;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use self::report::Row;

/// Of one bench; one that takes longer is reported as failed.
const LIMIT: Duration = Duration::from_mins(4);

/// Of one that builds the appliance, or boots it again and again.
const APPLIANCE_LIMIT: Duration = Duration::from_mins(20);

/// A bench by name.
pub struct Bench {
    /// On the command line.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    run: fn(Effort) -> futures_util::future::LocalBoxFuture<'static, Result<Vec<Row>>>,
}

/// How many rounds a bench takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Enough for a p95.
    Full,
    /// Enough to see that it works.
    Quick,
}

impl Effort {
    /// Rounds to run where a full run takes `full`.
    pub fn rounds(self, full: usize) -> usize {
        if self == Self::Full { full } else { full.min(2) }
    }
}

/// Every bench, in the order in which they run.
pub const ALL: &[Bench] = &[
    Bench { name: "start", about: "apply to Running of one container", run: |e| Box::pin(start::run(e)) },
    Bench { name: "many", about: "50 containers applied at once", run: |e| Box::pin(many::run(e)) },
    Bench { name: "push", about: "an image archive into a capsule", run: |e| Box::pin(push::run(e)) },
    Bench { name: "idle", about: "what an idle agent costs", run: |e| Box::pin(idle::run(e)) },
    Bench { name: "info", about: "one question to 32 capsules", run: |e| Box::pin(info::run(e)) },
    Bench { name: "simulated", about: "one question to 500 capsules", run: |e| Box::pin(simulated::run(e)) },
    Bench { name: "mesh-tcp", about: "TCP through WireGuard in userspace", run: |e| Box::pin(mesh::tcp(e)) },
    Bench { name: "mesh-udp", about: "datagrams and pings through it", run: |e| Box::pin(mesh::udp(e)) },
    Bench { name: "mesh-eight", about: "eight of its peers at once", run: |e| Box::pin(mesh::eight(e)) },
    Bench {
        name: "mesh-kernel",
        about: "TCP through WireGuard in the kernel",
        run: |e| Box::pin(fabric::kernel::run(e)),
    },
    Bench {
        name: "rules-load",
        about: "ten thousand rules put in force",
        run: |e| Box::pin(std::future::ready(fabric::rules::load(e))),
    },
    Bench {
        name: "rules-cost",
        about: "what a packet pays for them",
        run: |e| Box::pin(fabric::rules::cost(e)),
    },
    Bench { name: "ready", about: "apply to a first connection", run: |e| Box::pin(fabric::ready::run(e)) },
    Bench { name: "enroll", about: "32 capsules into a fabric", run: |e| Box::pin(fabric::enroll::run(e)) },
    Bench { name: "known", about: "memory for a large fabric", run: |e| Box::pin(fabric::memory::run(e)) },
    Bench { name: IMAGE, about: "the appliance's image", run: |e| Box::pin(image::run(e)) },
    Bench { name: BOOT, about: "power-on to API of an appliance", run: |e| Box::pin(appliance::boot(e)) },
    Bench { name: MEMORY, about: "memory of an appliance", run: |e| Box::pin(appliance::memory(e)) },
    Bench { name: UPDATE, about: "an update of an appliance", run: |e| Box::pin(update::run(e)) },
];

/// Benches of the appliance.
const IMAGE: &str = "image";
const BOOT: &str = "boot";
const MEMORY: &str = "memory";
const UPDATE: &str = "update";

/// What the bench mesh-kernel measures in a guest, in JSON.
pub async fn kernel_figures(rounds: usize) -> Result<String> {
    fabric::kernel::figures(rounds).await
}

/// Runs the benches of these names, all where there is none, and tells of each as it is done.
pub async fn run(names: &[String], effort: Effort) -> Result<Vec<Row>> {
    if let Some(name) = names.iter().find(|name| !ALL.iter().any(|bench| bench.name == name.as_str())) {
        let known: Vec<_> = ALL.iter().map(|bench| bench.name).collect();
        bail!("there is no bench {name}; there are {}", known.join(", "));
    }
    let mut rows = Vec::new();
    for bench in ALL.iter().filter(|bench| names.is_empty() || names.iter().any(|name| name == bench.name)) {
        eprintln!("{}: {} …", bench.name, bench.about);
        let limit = if [IMAGE, BOOT, MEMORY, UPDATE].contains(&bench.name) { APPLIANCE_LIMIT } else { LIMIT };
        let late = format!("it did not end within {} s", limit.as_secs());
        let outcome = tokio::time::timeout(limit, (bench.run)(effort)).await.context(late);
        match outcome.flatten() {
            Ok(measured) => rows.extend(measured),
            // The others are worth their time all the same.
            Err(error) => rows.push(Row::failed(bench.name, &format!("{error:#}"))),
        }
    }
    Ok(rows)
}
