//! `fleetctl capsule reboot`.

use std::time::Duration;

use anyhow::Result;
use capsule_client::Capsule;
use capsule_proto::v1::{GetUpdateStatusRequest, RebootRequest};
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
/// that ran run again then. A system on trial is left for the one before; `update confirm` first keeps it.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl -c attic capsule reboot\n  fleetctl -l room=shop capsule reboot --power-off"
)]
pub struct Reboot {
    /// Stay off
    #[arg(long)]
    power_off: bool,
}

/// To tell whether it is on trial.
const TRIAL_LIMIT: Duration = Duration::from_secs(2);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ordered {
    stops: &'static str,
    /// The version on trial that does not come back.
    leaves: Option<String>,
}

impl Ordered {
    fn words(&self) -> String {
        let Self { stops, leaves } = self;
        let left = leaves.as_ref().map(|version| format!(", and leaves {version}, which is on trial"));
        format!("{stops} begins{}", left.unwrap_or_default())
    }
}

impl Reboot {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let stops = if self.power_off { "power off" } else { "reboot" };
        let layout = Layout::lines(|ordered: &Ordered, _| vec![ordered.words()]);
        gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
            let trial = on_trial(&capsule).await;
            capsule.node().reboot(RebootRequest { power_off: self.power_off }).await?;
            Ok(Ordered { stops, leaves: trial })
        })
        .await
    }
}

/// The version on trial. A capsule that does not tell is stopped all the same.
async fn on_trial(capsule: &Capsule) -> Option<String> {
    let mut updates = capsule.updates();
    let asked = updates.get_status(GetUpdateStatusRequest {});
    let status = tokio::time::timeout(TRIAL_LIMIT, asked).await.ok()?.ok()?.into_inner();
    status.is_tentative.then_some(status.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_that_is_left_is_told() {
        let ordered = Ordered { stops: "reboot", leaves: None };
        assert_eq!(ordered.words(), "reboot begins");
        let trial = Ordered { leaves: Some("0.2.0".into()), ..ordered };
        assert_eq!(trial.words(), "reboot begins, and leaves 0.2.0, which is on trial");
    }
}
