//! `fleetctl fabric drops`.

use anyhow::Result;
use capsule_proto::v1::{FabricDrop, FabricSide, ListDropsRequest};
use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::{
    complete,
    exit::Exit,
    gather::gather,
    output::{
        answer::Layout,
        human,
        table::{Cell, Column, column, wide},
    },
    session::{QUICK, Session},
};

/// Show what policies refused of late, and what would allow it
///
/// Every capsule tells what its own workloads' policies refused: a sender's allowTo, or a receiver's
/// allowFrom. A refusal is remembered for an hour after it was last seen.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl fabric drops\n  fleetctl fabric drops nuc-1 -o json")]
pub struct Drops {
    /// Capsules by context; or use -c, --group, -l; all where none is named
    #[arg(value_name = "CAPSULE", add = ArgValueCompleter::new(complete::capsules))]
    names: Vec<String>,
}

impl Drops {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let targets = match session.named(&self.names)? {
            Some(targets) => targets,
            None => session.everyone()?,
        };
        let layout = Layout::table(columns(), |drops: &Vec<FabricDrop>| drops.iter().map(row).collect())
            .named(|drops| {
                drops.iter().map(|drop| who(&drop.source_name, &drop.source).to_owned()).collect()
            });
        gather(session, targets, session.timeout(QUICK), layout, async |capsule| {
            Ok(capsule.fabric().list_drops(ListDropsRequest {}).await?.into_inner().drops)
        })
        .await
    }
}

fn columns() -> Vec<Column> {
    vec![
        column("FROM"),
        column("TO"),
        column("PORT"),
        column("REFUSED BY"),
        column("PACKETS"),
        column("LAST"),
        column("TO ALLOW IT, ADD TO"),
        wide("SOURCE"),
        wide("DESTINATION"),
    ]
}

fn row(drop: &FabricDrop) -> Vec<Cell> {
    let port =
        if drop.port == 0 { drop.protocol.clone() } else { format!("{}/{}", drop.port, drop.protocol) };
    let side = match drop.side() {
        FabricSide::Sender => "sender",
        FabricSide::Receiver => "receiver",
        FabricSide::Unspecified => "-",
    };
    vec![
        who(&drop.source_name, &drop.source).into(),
        who(&drop.destination_name, &drop.destination).into(),
        port.into(),
        side.into(),
        drop.packets.to_string().into(),
        human::age(drop.last.as_ref()).into(),
        drop.remedy.as_str().into(),
        drop.source.as_str().into(),
        drop.destination.as_str().into(),
    ]
}

/// A name, or the address of somebody unknown.
fn who<'a>(name: &'a str, address: &'a str) -> &'a str {
    if name.is_empty() { address } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_who_is_known_and_gives_the_address_of_who_is_not() {
        let drop = FabricDrop {
            side: FabricSide::Receiver as i32,
            source: "100.64.4.9".into(),
            destination: "100.64.0.2".into(),
            destination_name: "db@a".into(),
            protocol: "icmp".into(),
            ..FabricDrop::default()
        };
        let cells = row(&drop);
        assert_eq!(cells.len(), columns().len());
        let cell = |text: &str| Cell::from(text);
        assert_eq!(cells[..4], [cell("100.64.4.9"), cell("db@a"), cell("icmp"), cell("receiver")]);
    }
}
