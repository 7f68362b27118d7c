//! `fleetctl capsule`: the machine itself.

mod boots;
mod grow_disk;
mod reboot;
mod set_hostname;

use anyhow::Result;
use capsule_proto::v1::{GetInfoRequest, NodeInfo, NodeLogLine, NodeLogsRequest, Pool, PoolState};
use clap::{Args, Subcommand};

use crate::{
    commands::workload::logs::count,
    exit::Exit,
    follow::{Begin, Lost, follow},
    gather::gather,
    output::{
        answer::Layout,
        clean, human,
        lines::{Sink, write_line},
        style::Tone,
        table::{Cell, column, wide},
    },
    session::{QUICK, Session},
};

/// `fleetctl capsule …`.
#[derive(Debug, Subcommand)]
pub enum Capsule {
    Info(Info),
    Logs(Logs),
    Boots(boots::Boots),
    GrowDisk(grow_disk::GrowDisk),
    Reboot(reboot::Reboot),
    SetHostname(set_hostname::SetHostname),
}

/// Show what each capsule is, has and runs
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl capsule info\n  fleetctl --all capsule info -o wide")]
pub struct Info {}

/// Print the agent's own log
///
/// With -f new lines follow, and where the connection breaks, or the agent restarts, it is made anew
/// and goes on behind the last line.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl capsule logs -n 50\n  fleetctl --all capsule logs -f -n 0")]
pub struct Logs {
    /// Go on with new lines
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with the last N lines
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    pub tail: Option<u32>,
}

impl Capsule {
    /// Runs it.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        match self {
            Self::Info(_) => info(session).await,
            Self::Logs(command) => command.run(session).await,
            Self::Boots(command) => command.run(session).await,
            Self::GrowDisk(command) => command.run(session).await,
            Self::Reboot(command) => command.run(session).await,
            Self::SetHostname(command) => command.run(session).await,
        }
    }
}

impl Logs {
    async fn run(self, session: &Session) -> Result<Exit> {
        let work = session.targets()?.into_iter().map(|target| (target, vec![Begin::default()])).collect();
        let open = async |capsule: capsule_client::Capsule, begin: Begin, last: Option<NodeLogLine>| {
            let after = begin.cursor(last.map(|line| line.cursor));
            let request = NodeLogsRequest { follow: self.follow, tail: self.tail, after };
            let answer = capsule.node().logs(request).await?;
            begin.note(answer.metadata());
            Ok(answer.into_inner())
        };
        follow(
            session,
            work,
            |_| String::new(),
            Lost::when(self.follow),
            open,
            |out, prefix, line| {
                write_line(out, Sink::Out, prefix, line.line.as_bytes());
            },
        )
        .await
    }
}

async fn info(session: &Session) -> Result<Exit> {
    let columns = vec![
        column("ID"),
        column("HOST"),
        column("VERSION"),
        column("UPTIME"),
        column("WORKLOADS"),
        column("LOAD"),
        column("MEMORY"),
        column("DISK FREE"),
        column("POOL"),
        wide("CPUS"),
        wide("ARCH"),
        wide("KERNEL"),
        wide("MODE"),
        wide("CONTAINERD"),
        wide("VOLUMES"),
        wide("REFUSED"),
        wide("SUBNET"),
        wide("CAPABILITIES"),
    ];
    let out = session.out;
    let layout =
        Layout::table(columns, |info| vec![row(info)]).named(|info: &NodeInfo| vec![info.short_id.clone()]);
    gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
        let info = capsule.node().get_info(GetInfoRequest {}).await?.into_inner();
        for warning in &info.warnings {
            out.note(&format!("warning: {}: {}", capsule.target().name, clean::one_line(warning)));
        }
        Ok(info)
    })
    .await
}

fn row(info: &NodeInfo) -> Vec<Cell> {
    let used = info.memory_total_bytes.saturating_sub(info.memory_available_bytes);
    vec![
        info.short_id.as_str().into(),
        info.hostname.as_str().into(),
        info.version.as_str().into(),
        human::age(info.booted_at.as_ref()).into(),
        workloads(info),
        format!("{:.2}", info.load1).into(),
        format!("{} / {}", human::bytes(used), human::bytes(info.memory_total_bytes)).into(),
        disk(info),
        pool(info),
        info.cpus.to_string().into(),
        info.architecture.as_str().into(),
        info.kernel.as_str().into(),
        info.mode().to_string().into(),
        info.containerd_version.as_str().into(),
        info.volumes.to_string().into(),
        info.refused_calls.to_string().into(),
        info.bridge_subnet.as_str().into(),
        info.capabilities.join(",").into(),
    ]
}

fn workloads(info: &NodeInfo) -> Cell {
    let tone = if info.workloads_running < info.workloads { Tone::Warn } else { Tone::Plain };
    Cell::new(&format!("{}/{} running", info.workloads_running, info.workloads), tone)
}

fn disk(info: &NodeInfo) -> Cell {
    /// Less free than this part of the disk is worth a colour.
    const SCARCE: u64 = 10;
    let is_scarce = info.disk_available_bytes < info.disk_total_bytes / SCARCE;
    Cell::new(&human::bytes(info.disk_available_bytes), if is_scarce { Tone::Bad } else { Tone::Plain })
}

fn pool(info: &NodeInfo) -> Cell {
    let Some(pool) = &info.pool else { return "-".into() };
    let tone = match pool.state() {
        PoolState::Unusable | PoolState::Full => Tone::Bad,
        PoolState::Filling => Tone::Warn,
        PoolState::Ready | PoolState::Unspecified => Tone::Plain,
    };
    Cell::new(&pool_text(pool), tone)
}

/// What volumes use of the pool, and of its metadata where that is the scarcer.
fn pool_text(pool: &Pool) -> String {
    if pool.state() == PoolState::Unusable {
        return "unusable".into();
    }
    let percent = |used: u64, of: u64| used.saturating_mul(100).checked_div(of).unwrap_or(0);
    let of_data = percent(pool.data_used_bytes, pool.data_bytes);
    let of_metadata = percent(pool.metadata_used_bytes, pool.metadata_bytes);
    let used = format!("{} / {}", human::bytes(pool.data_used_bytes), human::bytes(pool.data_bytes));
    if of_metadata > of_data {
        format!("{used} ({of_data} %, metadata {of_metadata} %)")
    } else {
        format!("{used} ({of_data} %)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_shows_what_is_scarce() {
        let of = |data_used_bytes, metadata_used_bytes| Pool {
            state: PoolState::Ready as i32,
            data_bytes: 4 << 30,
            data_used_bytes,
            metadata_bytes: 8 << 20,
            metadata_used_bytes,
            ..Pool::default()
        };
        assert_eq!(pool_text(&of(1 << 30, 0)), "1.0 GiB / 4.0 GiB (25 %)");
        assert_eq!(pool_text(&of(1 << 30, 4 << 20)), "1.0 GiB / 4.0 GiB (25 %, metadata 50 %)");
        let lost = Pool { state: PoolState::Unusable as i32, ..Pool::default() };
        assert_eq!(pool_text(&lost), "unusable");
    }
}
