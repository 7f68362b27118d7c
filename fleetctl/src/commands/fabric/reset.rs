//! `fleetctl fabric reset`.

use anyhow::Result;
use capsule_proto::v1::LeaveFabricRequest;
use clap::Args;
use clap_complete::ArgValueCompleter;
use serde::Serialize;

use super::ask::confirm;
use crate::{
    complete,
    exit::Exit,
    failure::usage,
    gather::gather,
    output::answer::Layout,
    session::{PATIENT, Session},
};

/// Make capsules leave the fabric: they forget its map, their keys and addresses
///
/// The other members go on expecting them; `fleetctl fabric remove` tells those.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl fabric reset nuc-2\n  fleetctl -c nuc-2 fabric reset --yes")]
pub struct Reset {
    /// Capsules by context; or use -c, --group, -l, --all
    #[arg(value_name = "CAPSULE", add = ArgValueCompleter::new(complete::capsules))]
    names: Vec<String>,
    /// Ask nothing
    #[arg(long, short)]
    yes: bool,
}

#[derive(Serialize)]
struct Left {}

impl Reset {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let silent = || usage("name the capsules that are to leave the fabric");
        let targets = session.named(&self.names)?.ok_or_else(silent)?;
        if !self.yes {
            let names: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
            confirm(&names, "Make them leave the fabric? Their workloads lose their fabric addresses.")?;
        }
        let layout = Layout::lines(|_: &Left, _| vec!["left the fabric".to_owned()]);
        let exit = gather(session, targets, session.timeout(PATIENT), layout, async |capsule| {
            capsule.fabric().leave(LeaveFabricRequest {}).await?;
            Ok(Left {})
        })
        .await?;
        if exit != Exit::NONE {
            session.out.note("members that go on expecting one are told by `fleetctl fabric remove`");
        }
        Ok(exit)
    }
}
