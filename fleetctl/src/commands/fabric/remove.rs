//! `fleetctl fabric remove`.

use std::collections::BTreeSet;

use anyhow::Result;
use capsule_fabric::map::Change;
use capsule_proto::Name;
use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{
    ask::confirm,
    known::{Known, member},
};
use crate::{complete, exit::Exit, session::Session};

/// Remove members: every other one refuses them at once
///
/// A removed capsule leaves the fabric as soon as it is told, and is cut off by the others in any
/// case. Its slot, and with it its addresses, are free for the next member.
#[derive(Args, Debug)]
#[command(visible_alias = "rm", after_help = "Examples:\n  fleetctl fabric remove nuc-2")]
pub struct Remove {
    #[arg(required = true, value_name = "MEMBER", add = ArgValueCompleter::new(complete::members))]
    members: Vec<Name>,
    /// Ask nothing
    #[arg(long, short)]
    yes: bool,
}

impl Remove {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let names = self.members.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let repeat = format!("remove {names}");
        let mut known = Known::ask(session).await?;
        let map = known.map()?;
        let (mut lines, mut changes) = (Vec::new(), Vec::new());
        for name in self.members.into_iter().collect::<BTreeSet<_>>() {
            let is_ours = session.fleet.contexts().get(name.as_str()).is_ok();
            if map.member(name.as_str()).is_none() && is_ours {
                session.out.note(&format!("{name} is no member of the fabric"));
                continue;
            }
            let member = member(map, name.as_str())?;
            lines.push(format!("{name:<20} {}", map.plan().own(member.slot).ipv4));
            changes.push(Change::Remove(name));
        }
        if !self.yes && !changes.is_empty() {
            confirm(&lines, "Remove them from the fabric?")?;
        }
        known.change(session, &changes, &[], &repeat).await
    }
}
