//! `fleetctl workload`.

pub mod delete;
pub mod describe;
pub mod events;
pub mod exec;
pub mod get;
pub mod list;
pub mod logs;
pub mod power;
pub mod show;
pub mod wait;

use anyhow::Result;
use clap::Subcommand;

use crate::{exit::Exit, session::Session};

/// `fleetctl workload …`.
#[derive(Debug, Subcommand)]
pub enum Workload {
    List(list::List),
    Get(get::Get),
    Delete(delete::Delete),
    Start(power::Start),
    Stop(power::Stop),
    Restart(power::Restart),
    Logs(logs::Logs),
    Exec(exec::Exec),
    Events(events::Events),
    Wait(wait::Wait),
}

impl Workload {
    /// Runs it.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        match self {
            Self::List(command) => command.run(session).await,
            Self::Get(command) => command.run(session).await,
            Self::Delete(command) => command.run(session).await,
            Self::Start(command) => command.run(session).await,
            Self::Stop(command) => command.run(session).await,
            Self::Restart(command) => command.run(session).await,
            Self::Logs(command) => command.run(session).await,
            Self::Exec(command) => command.run(session).await,
            Self::Events(command) => command.run(session).await,
            Self::Wait(command) => command.run(session).await,
        }
    }
}
