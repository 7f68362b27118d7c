//! Stopping the machine, and why it stopped before: init's to do and to know.

use std::path::Path;

use capsule_proto::v1::{self, BootEnd};
use tonic::Status;

use super::Node;
use crate::{
    boot::{
        history::{self, Boot, History},
        link::{Cause, How, Stop, ToInit},
    },
    clock::from_millis,
    identity::Caller,
};

impl Node {
    pub(super) fn boots(&self) -> Result<Vec<v1::Boot>, Status> {
        if self.0.init.is_none() {
            return Err(not_an_appliance("boots are recorded"));
        }
        let history = History::open(Path::new(history::DIR)).map_err(|error| {
            Status::internal(format!("the record of boots in {} cannot be read: {error}", history::DIR))
        })?;
        Ok(history.boots().iter().map(describe).collect())
    }

    pub(super) async fn stop_machine(&self, power_off: bool, by: &Caller) -> Result<(), Status> {
        let init = self.0.init.as_ref().ok_or_else(|| not_an_appliance("a machine is stopped"))?;
        let (how, word) = if power_off { (How::PowerOff, "power off") } else { (How::Reboot, "reboot") };
        let detail = format!("{word} asked for by {}", by.name);
        init.tell(ToInit::Stop(Stop { how, cause: Cause::Operator, detail })).await;
        Ok(())
    }
}

fn not_an_appliance(what: &str) -> Status {
    Status::failed_precondition(format!(
        "this capsule runs on a host that somebody else booted, and {what} only by an appliance's own init; use the \
         host's own tools"
    ))
}

fn describe(boot: &Boot) -> v1::Boot {
    let cause = boot.end.as_ref().map_or(BootEnd::Unspecified, |end| match end.cause {
        Cause::Operator => BootEnd::Operator,
        Cause::Update => BootEnd::Update,
        Cause::Rollback => BootEnd::Rollback,
        Cause::Panic => BootEnd::Panic,
        Cause::Watchdog => BootEnd::Watchdog,
        Cause::PowerLoss => BootEnd::PowerLoss,
    });
    let end = boot.end.as_ref();
    v1::Boot {
        boot_id: boot.boot_id.clone(),
        started_at: Some(capsule_proto::timestamp(boot.started())),
        slot: boot.slot.to_string(),
        version: boot.version.clone(),
        tentative: boot.tentative,
        end: cause as i32,
        end_detail: end.map(|end| end.detail.clone()).unwrap_or_default(),
        ended_at: end.and_then(|end| end.at).map(|at| capsule_proto::timestamp(from_millis(at))),
    }
}
