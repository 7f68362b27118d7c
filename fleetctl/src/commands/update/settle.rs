//! Waiting for a capsule that reboots into an update, until the update is where it should be.

use std::time::Duration;

use capsule_client::{CallError, Connector, Target};
use capsule_proto::v1::{GetUpdateStatusRequest, Update, UpdateState, UpdateStatus};
use tokio::time::Instant;

use super::show;
use crate::{failure::Failure, output::progress::Bar};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A look that takes longer is of a capsule that is going down.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// What is waited for.
pub(super) struct Wanted {
    /// Which update.
    pub(super) id: u64,
    /// Whether the trial is to have ended, too.
    pub(super) confirmed: bool,
    /// How long to wait.
    pub(super) within: Duration,
}

/// Waits; tells how the update ended, as far as it went well.
pub(super) async fn settle(
    connector: &Connector,
    target: &Target,
    wanted: &Wanted,
    bar: &Bar,
) -> Result<Update, Failure> {
    let end = Instant::now() + wanted.within;
    let mut last = "rebooting".to_owned();
    while Instant::now() < end {
        bar.say(&last);
        tokio::time::sleep(LOOK_INTERVAL).await;
        // Away, for as long as it takes to come back.
        let Ok(status) = look(connector, target).await else { continue };
        let Some(update) = status.update.clone().filter(|update| update.id == wanted.id) else { continue };
        match update.state() {
            UpdateState::Confirmed => return Ok(update),
            UpdateState::Tentative if !wanted.confirmed => return Ok(update),
            UpdateState::Tentative => last = format!("on trial: {}", show::waits_for(&status)),
            UpdateState::RolledBack => {
                let (version, reason) = (update.version, update.reason);
                return Err(Failure::local(format!("version {version} was rolled back: {reason}")));
            }
            UpdateState::Failed => {
                return Err(Failure::local(format!("version {} failed: {}", update.version, update.reason)));
            }
            _ => {}
        }
    }
    Err(Failure::local(format!(
        "it has not come so far within {} s (last seen {last}); see `fleetctl update status`",
        wanted.within.as_secs()
    )))
}

pub(super) async fn look(connector: &Connector, target: &Target) -> Result<UpdateStatus, Failure> {
    let ask = async {
        let capsule = connector.connect(target).await?;
        Ok::<_, Failure>(capsule.updates().get_status(GetUpdateStatusRequest {}).await?.into_inner())
    };
    let timed_out = || CallError::TimedOut(LOOK_TIMEOUT).into();
    tokio::time::timeout(LOOK_TIMEOUT, ask).await.unwrap_or_else(|_| Err(timed_out()))
}
