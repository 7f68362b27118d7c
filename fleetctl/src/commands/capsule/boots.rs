//! `fleetctl capsule boots`.

use anyhow::Result;
use capsule_proto::v1::{Boot, BootEnd, ListBootsRequest};
use clap::Args;

use crate::{
    exit::Exit,
    gather::gather,
    output::{
        answer::Layout,
        human,
        style::Tone,
        table::{Cell, Column, column, wide},
    },
    session::{QUICK, Session},
};

/// Show the last boots of appliances, and why each ended
///
/// The last 20 are kept, the newest last. What ended by power loss could not say so itself: nobody had
/// recorded anything else.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl -c attic capsule boots\n  fleetctl --all capsule boots -o wide"
)]
pub struct Boots {}

impl Boots {
    /// Asks every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let layout = Layout::table(columns(), |boots: &Vec<Boot>| boots.iter().map(row).collect())
            .named(|boots| boots.iter().map(|boot| boot.boot_id.clone()).collect());
        gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
            Ok(capsule.node().list_boots(ListBootsRequest {}).await?.into_inner().boots)
        })
        .await
    }
}

fn columns() -> Vec<Column> {
    vec![
        column("STARTED"),
        column("SLOT"),
        column("VERSION"),
        column("CONFIRMED"),
        column("ENDED"),
        column("DETAIL"),
        wide("BOOT ID"),
    ]
}

fn row(boot: &Boot) -> Vec<Cell> {
    let (end, tone) = match boot.end() {
        BootEnd::Unspecified => ("runs", Tone::Plain),
        BootEnd::Operator => ("operator", Tone::Plain),
        BootEnd::Update => ("update", Tone::Plain),
        BootEnd::Rollback => ("rollback", Tone::Warn),
        BootEnd::Panic => ("panic", Tone::Bad),
        BootEnd::Watchdog => ("watchdog", Tone::Bad),
        BootEnd::PowerLoss => ("power loss", Tone::Warn),
    };
    // A panic has many lines; all of them are in the JSON.
    let detail = boot.end_detail.lines().next().unwrap_or_default();
    vec![
        format!("{} ago", human::age(boot.started_at.as_ref())).into(),
        boot.slot.as_str().into(),
        boot.version.as_str().into(),
        if boot.tentative { "no" } else { "yes" }.into(),
        Cell::new(end, tone),
        detail.into(),
        boot.boot_id.as_str().into(),
    ]
}
