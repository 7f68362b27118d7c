//! `fleetctl fabric status`.

use std::time::Duration;

use anyhow::Result;
use capsule_client::Target;
use capsule_proto::v1::{FabricPath, FabricStatus, GetFabricStatusRequest, WireguardKind};
use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::{
    complete,
    exit::Exit,
    gather::gather,
    output::{
        Format,
        answer::Layout,
        human,
        style::Tone,
        table::{Cell, Column, column, wide},
    },
    session::{QUICK, Session},
};

/// Between two looks of --watch.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// A session without a handshake for so long has ended.
const SESSION_LIFETIME: Duration = Duration::from_mins(3);

/// Show every member and its peers
///
/// Every capsule tells for itself: the map that it goes by, and for each peer by which way it is
/// reached, how long an answer takes, how many of the last probes got none, when the last handshake
/// was, and what was received and sent.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl fabric status\n  fleetctl fabric status nuc-1 --watch")]
pub struct Status {
    /// Capsules by context; or use -c, --group, -l; all where none is named
    #[arg(value_name = "CAPSULE", add = ArgValueCompleter::new(complete::capsules))]
    names: Vec<String>,
    /// Look again every 2 seconds
    #[arg(long, short)]
    watch: bool,
}

impl Status {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let targets = match session.named(&self.names)? {
            Some(targets) => targets,
            None => session.everyone()?,
        };
        loop {
            if self.watch
                && session.out.terminal
                && matches!(session.out.format, Format::Table | Format::Wide)
            {
                // Home, and clear to the end (ECMA-48).
                session.out.text("\x1b[H\x1b[J");
            }
            let exit = look(session, targets.clone()).await?;
            if !self.watch {
                return Ok(exit);
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }
}

async fn look(session: &Session, targets: Vec<Target>) -> Result<Exit> {
    let layout = Layout::table(columns(), rows).named(|status: &FabricStatus| {
        status.membership.iter().map(|membership| membership.name.clone()).collect()
    });
    gather(session, targets, session.timeout(QUICK), layout, async |capsule| {
        Ok(capsule.fabric().get_status(GetFabricStatusRequest {}).await?.into_inner())
    })
    .await
}

fn columns() -> Vec<Column> {
    vec![
        column("MAP"),
        column("ADDRESS"),
        column("PEER"),
        column("PATH"),
        column("RTT"),
        column("LOSS"),
        column("HANDSHAKE"),
        column("RECEIVED"),
        column("SENT"),
        column("ENDPOINT"),
        wide("LINK"),
        wide("MTU"),
    ]
}

fn rows(status: &FabricStatus) -> Vec<Vec<Cell>> {
    let Some(membership) = &status.membership else {
        let mut row = vec![Cell::new("none", Tone::Dim)];
        row.resize(columns().len(), "-".into());
        return vec![row];
    };
    let kind = match membership.wireguard() {
        WireguardKind::Kernel => "kernel",
        WireguardKind::Userspace => "userspace",
        WireguardKind::Unspecified => "-",
    };
    let own = || vec![membership.generation.to_string().into(), Cell::from(membership.ipv4.as_str())];
    let link =
        || [format!("{} ({kind})", membership.interface).into(), Cell::from(membership.mtu.to_string())];
    if membership.peers.is_empty() {
        let mut row = own();
        row.resize(columns().len() - 2, "-".into());
        row.extend(link());
        return vec![row];
    }
    let peers = membership.peers.iter().map(|peer| {
        let age = peer.last_handshake.as_ref().map(capsule_proto::system_time);
        let lives = age.is_some_and(|at| at.elapsed().is_ok_and(|since| since < SESSION_LIFETIME));
        let tone = if lives { Tone::Good } else { Tone::Warn };
        let endpoint = if peer.endpoint.is_empty() { "-" } else { peer.endpoint.as_str() };
        let mut row = own();
        row.extend([
            Cell::from(peer.name.as_str()),
            path(peer.path.as_ref()),
            rtt(peer.path.as_ref()).into(),
            loss(peer.path.as_ref()).into(),
            Cell::new(&human::age(peer.last_handshake.as_ref()), tone),
            human::bytes(peer.rx_bytes).into(),
            human::bytes(peer.tx_bytes).into(),
            endpoint.into(),
        ]);
        row.extend(link());
        row
    });
    peers.collect()
}

/// `direct`, `via RELAY`, or that nobody answers.
fn path(path: Option<&FabricPath>) -> Cell {
    match path {
        Some(path) if !path.answers => Cell::new("silent", Tone::Warn),
        Some(path) if path.relay.is_empty() => Cell::new("direct", Tone::Good),
        Some(path) => Cell::new(&format!("via {}", path.relay), Tone::Good),
        None => "-".into(),
    }
}

fn rtt(path: Option<&FabricPath>) -> String {
    let rtt = path.and_then(|path| Duration::try_from(path.rtt?).ok());
    rtt.map_or_else(|| "-".to_owned(), |rtt| format!("{:.1}ms", rtt.as_secs_f64() * 1000.0))
}

fn loss(path: Option<&FabricPath>) -> String {
    match path {
        Some(FabricPath { asked: asked @ 1.., lost, .. }) => format!("{}%", lost * 100 / asked),
        _ => "-".to_owned(),
    }
}
