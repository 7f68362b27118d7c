//! `fleetctl capsule reboot`.

use anyhow::Result;
use capsule_proto::v1::RebootRequest;
use clap::Args;
use serde::Serialize;

use crate::{
    exit::Exit,
    gather::gather,
    output::answer::Layout,
    session::{QUICK, Session},
};

/// Stop workloads in order, then the machine, and start it again
///
/// Returns when the capsule has taken the order; it is gone for as long as its boot takes. Workloads
/// that ran run again then.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl -c attic capsule reboot\n  fleetctl -l room=shop capsule reboot --power-off"
)]
pub struct Reboot {
    /// Stay off
    #[arg(long)]
    power_off: bool,
}

#[derive(Serialize)]
struct Ordered {
    stops: &'static str,
}

impl Reboot {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let stops = if self.power_off { "power off" } else { "reboot" };
        let layout = Layout::lines(|ordered: &Ordered, _| vec![format!("{} begins", ordered.stops)]);
        gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
            capsule.node().reboot(RebootRequest { power_off: self.power_off }).await?;
            Ok(Ordered { stops })
        })
        .await
    }
}
