//! `fleetctl update`: the system of appliances.

mod keys;
mod push;
mod rollout;
mod settle;
mod show;

use std::time::Duration;

use anyhow::Result;
use capsule_client::update;
use capsule_proto::{
    parse_duration,
    v1::{
        ConfirmUpdateRequest, GetUpdateStatusRequest, ListUpdatesRequest, RollbackUpdateRequest, UpdateStatus,
    },
};
use clap::{Args, Subcommand};

use crate::{
    exit::Exit,
    gather::gather,
    output::answer::Layout,
    session::{PATIENT, QUICK, Session},
};

/// `fleetctl update …`.
#[derive(Debug, Subcommand)]
pub enum Update {
    Push(push::Push),
    Status(Status),
    Confirm(Confirm),
    Rollback(Rollback),
    List(List),
    /// Whose bundles capsules install
    #[command(subcommand)]
    Keys(keys::Keys),
}

/// Show what runs, what is in both slots, and how a trial goes
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl --all update status\n  fleetctl update status -o json")]
pub struct Status {}

/// Keep the system that is on trial
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl update confirm\n  fleetctl -l zone=attic update confirm")]
pub struct Confirm {}

/// Go back to the system in the other slot; the capsule reboots
///
/// From a trial it goes back to the system before. From a kept system it tries the one in the other
/// slot, which is kept once all has been well there for a while; else the capsule comes back.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl -c nuc-1 update rollback")]
pub struct Rollback {
    /// How long all must be well in the other slot [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    auto_confirm: Option<Duration>,
}

/// List what was installed, and what became of it
#[derive(Args, Debug)]
#[command(visible_alias = "ls", after_help = "Examples:\n  fleetctl update list")]
pub struct List {}

impl Update {
    /// Runs it.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        match self {
            Self::Push(command) => command.run(session).await,
            Self::Status(_) => status(session).await,
            Self::Confirm(_) => confirm(session).await,
            Self::Rollback(command) => command.run(session).await,
            Self::List(_) => list(session).await,
            Self::Keys(command) => command.run(session).await,
        }
    }
}

async fn status(session: &Session) -> Result<Exit> {
    let layout = Layout::table(show::status_columns(), |status| vec![show::status_row(status)])
        .named(|status: &UpdateStatus| vec![status.version.clone()]);
    gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
        Ok(capsule.updates().get_status(GetUpdateStatusRequest {}).await?.into_inner())
    })
    .await
}

async fn confirm(session: &Session) -> Result<Exit> {
    let layout = Layout::lines(|status: &UpdateStatus, _| vec![format!("{} is kept", status.version)])
        .named(|status| vec![status.version.clone()]);
    gather(session, session.targets()?, session.timeout(PATIENT), layout, async |capsule| {
        Ok(capsule.updates().confirm(ConfirmUpdateRequest {}).await?.into_inner())
    })
    .await
}

impl Rollback {
    async fn run(self, session: &Session) -> Result<Exit> {
        let request = RollbackUpdateRequest { auto_confirm_seconds: update::seconds(self.auto_confirm) };
        let layout = Layout::lines(|status: &UpdateStatus, _| vec![show::returning(status)])
            .named(|status| vec![status.version.clone()]);
        gather(session, session.targets()?, session.timeout(PATIENT), layout, async |capsule| {
            Ok(capsule.updates().rollback(request).await?.into_inner())
        })
        .await
    }
}

async fn list(session: &Session) -> Result<Exit> {
    let layout =
        Layout::table(show::list_columns(), |updates: &Vec<_>| updates.iter().map(show::list_row).collect())
            .named(|updates| {
                updates.iter().map(|update: &capsule_proto::v1::Update| update.version.clone()).collect()
            });
    gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
        Ok(capsule.updates().list(ListUpdatesRequest {}).await?.into_inner().updates)
    })
    .await
}
