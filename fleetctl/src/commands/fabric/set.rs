//! `fleetctl fabric set-endpoint` and `set-relay`.

use anyhow::Result;
use capsule_fabric::map::{Change, Endpoint};
use capsule_proto::Name;
use clap::{Args, ValueEnum};
use clap_complete::ArgValueCompleter;

use super::known::{Known, member};
use crate::{complete, exit::Exit, session::Session};

/// Say where a member may be met, the likeliest first
///
/// Without endpoints it is met nowhere and calls the others.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl fabric set-endpoint edge edge.example.org:51820 192.168.1.20:51820"
)]
pub struct SetEndpoint {
    #[arg(value_name = "MEMBER", add = ArgValueCompleter::new(complete::members))]
    member: Name,
    #[arg(value_name = "HOST:PORT")]
    endpoints: Vec<Endpoint>,
}

/// Say whether a member forwards for others that cannot reach each other
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl fabric set-relay edge on")]
pub struct SetRelay {
    #[arg(value_name = "MEMBER", add = ArgValueCompleter::new(complete::members))]
    member: Name,
    #[arg(value_enum)]
    relay: Relay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Relay {
    /// It forwards
    On,
    /// It does not
    Off,
}

impl SetEndpoint {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let repeat =
            std::iter::once(self.member.to_string()).chain(self.endpoints.iter().map(ToString::to_string));
        let repeat = repeat.collect::<Vec<_>>().join(" ");
        let change = Change::SetEndpoints(self.member, self.endpoints);
        change_one(session, change, &format!("set-endpoint {repeat}")).await
    }
}

impl SetRelay {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let is_on = self.relay == Relay::On;
        let repeat = format!("set-relay {} {}", self.member, if is_on { "on" } else { "off" });
        change_one(session, Change::SetRelay(self.member, is_on), &repeat).await
    }
}

async fn change_one(session: &Session, change: Change, repeat: &str) -> Result<Exit> {
    let mut known = Known::ask(session).await?;
    if let Change::SetEndpoints(name, _) | Change::SetRelay(name, _) = &change {
        member(known.map()?, name.as_str())?;
    }
    known.change(session, &[change], &[], repeat).await
}
