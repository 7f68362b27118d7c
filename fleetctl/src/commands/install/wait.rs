//! Waiting for what was installed.

use std::time::Duration;

use capsule_client::{CallError, Connector, Target};
use capsule_proto::v1::{GetInfoRequest, Mode, NodeInfo};
use tokio::time::Instant;

use crate::{failure::Failure, output::progress, session::Session};

/// Firmware that counts its memory, and a first boot.
const LIMIT: Duration = Duration::from_mins(10);
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A look that takes longer is of a machine that is going down.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until the capsule answers under its pin, as no installer any more.
pub async fn until_it_runs(session: &Session, connector: &Connector, target: &Target) -> Result<(), Failure> {
    let limit = session.asked_timeout().unwrap_or(LIMIT);
    let end = Instant::now() + limit;
    let bar = progress::spinner(&session.out, &target.name);
    bar.say("rebooting into its disk");
    while Instant::now() < end {
        match look(connector, target).await {
            Ok(info) if info.mode() != Mode::Installer => return Ok(()),
            Err(failure) if failure.code == "pin-mismatch" => {
                return Err(failure.and(&format!(
                    "{} is installed, and its context is kept. If its machine was booted from the stick once more, \
                     take that out and restart it",
                    target.name
                )));
            }
            Ok(_) | Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
    Err(Failure::local(format!(
        "{} is installed, and its context is kept, but it has not answered at {} within {} s. See its screen; if it \
         has another address now, `fleetctl discover --refresh` finds it",
        target.name,
        target.address,
        limit.as_secs()
    )))
}

async fn look(connector: &Connector, target: &Target) -> Result<NodeInfo, Failure> {
    let ask = async {
        let capsule = connector.connect(target).await?;
        Ok::<_, Failure>(capsule.node().get_info(GetInfoRequest {}).await?.into_inner())
    };
    let timed_out = || CallError::TimedOut(LOOK_TIMEOUT).into();
    tokio::time::timeout(LOOK_TIMEOUT, ask).await.unwrap_or_else(|_| Err(timed_out()))
}
