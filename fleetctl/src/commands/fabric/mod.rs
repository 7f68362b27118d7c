//! `fleetctl fabric`: capsules as one private network.
//!
//! Its truth is the newest member map that any member has, or this operator has seen: `known` finds
//! it, the commands make the next one of it, `publish` signs that and brings it to every member. Each
//! command may be repeated: what was done is not done again, who was away gets what it missed.

mod ask;
mod drops;
mod enroll;
mod explain;
mod init;
mod known;
mod map;
mod publish;
mod remove;
mod reset;
mod rotate;
mod set;
mod status;

use anyhow::Result;
use clap::Subcommand;

use crate::{exit::Exit, session::Session};

/// `fleetctl fabric …`.
#[derive(Debug, Subcommand)]
pub enum Fabric {
    Init(init::Init),
    Enroll(enroll::Enroll),
    Status(status::Status),
    Drops(drops::Drops),
    Explain(explain::Explain),
    Remove(remove::Remove),
    RotateKey(rotate::RotateKey),
    SetEndpoint(set::SetEndpoint),
    SetRelay(set::SetRelay),
    /// The member map
    #[command(subcommand)]
    Map(map::Map),
    Reset(reset::Reset),
}

impl Fabric {
    /// Runs it.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        match self {
            Self::Init(command) => command.run(session).await,
            Self::Enroll(command) => command.run(session).await,
            Self::Status(command) => command.run(session).await,
            Self::Drops(command) => command.run(session).await,
            Self::Explain(command) => command.run(session).await,
            Self::Remove(command) => command.run(session).await,
            Self::RotateKey(command) => command.run(session).await,
            Self::SetEndpoint(command) => command.run(session).await,
            Self::SetRelay(command) => command.run(session).await,
            Self::Map(command) => command.run(session).await,
            Self::Reset(command) => command.run(session).await,
        }
    }
}
