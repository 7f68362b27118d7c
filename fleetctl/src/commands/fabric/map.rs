//! `fleetctl fabric map`.

use std::{fs, io::Read as _};

use anyhow::{Context as _, Result};
use capsule_fabric::map::SignedMap;
use capsule_proto::v1;
use clap::{Args, Subcommand};
use serde_json::json;

use super::known::Known;
use crate::{
    exit::Exit,
    failure::usage,
    output::{
        Format,
        style::Tone,
        table::{Cell, Row, Table, column, wide},
        yaml,
    },
    session::Session,
};

/// `fleetctl fabric map …`.
#[derive(Debug, Subcommand)]
pub enum Map {
    Show(Show),
    Export(Export),
    Import(Import),
}

/// Show the newest member map
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl fabric map show\n  fleetctl fabric map show -o yaml")]
pub struct Show {}

/// Print the newest member map with its signature, for `fleetctl fabric map import`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl fabric map export > fabric.json")]
pub struct Export {}

/// Take a member map from a file, and bring it to the members that do not have it
///
/// It must be signed by your own key, or by one that most of your capsules have enrolled, and be newer
/// than what is known. Members check the same for themselves.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl fabric map import fabric.json")]
pub struct Import {
    /// What `fleetctl fabric map export` printed; - for stdin
    #[arg(value_name = "FILE|-")]
    file: String,
    /// Forget the fabric known so far, of which no capsule that answers is a member
    #[arg(long)]
    forget: bool,
}

impl Map {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        match self {
            Self::Show(_) => {
                let known = Known::ask(session).await?;
                print(session, known.signed()?);
                Ok(Exit::ALL)
            }
            Self::Export(_) => {
                let known = Known::ask(session).await?;
                session.out.line(&serde_json::to_string_pretty(known.signed()?.wire())?);
                Ok(Exit::ALL)
            }
            Self::Import(command) => command.run(session).await,
        }
    }
}

impl Import {
    async fn run(self, session: &Session) -> Result<Exit> {
        let wire: v1::SignedMap = serde_json::from_str(&self.text()?)
            .map_err(|error| usage(format!("{} holds no signed member map: {error}", self.file)))?;
        let signed = SignedMap::try_from(wire).map_err(|error| {
            usage(format!(
                "the member map in {} cannot be used: {}",
                self.file,
                crate::failure::causes(&error)
            ))
        })?;
        let known = Known::import(session, signed, self.forget).await?;
        known.publish(session, None, &[], &format!("map import {}", self.file)).await
    }

    fn text(&self) -> Result<String> {
        if self.file == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            return Ok(text);
        }
        fs::read_to_string(&self.file).with_context(|| format!("cannot read {}", self.file))
    }
}

/// Shows a map in the format that is asked for.
pub(super) fn print(session: &Session, signed: &SignedMap) {
    let out = session.out;
    let map = signed.map();
    let value = json!({ "signer": signed.signer(), "map": v1::MemberMap::from(map) });
    match out.format {
        Format::Json => out.line(&value.to_string()),
        Format::Yaml => out.text(&format!("---\n{}", yaml::document(&value))),
        Format::Name => map.members().iter().for_each(|member| out.line(member.name.as_str())),
        Format::Table | Format::Wide => {
            out.note(&format!(
                "fabric {}, generation {} signed by {}: {} and {}",
                map.fabric(),
                map.generation(),
                signed.signer(),
                map.plan().range(),
                map.plan().ipv6()
            ));
            let columns = [
                column("MEMBER"),
                column("SLOT"),
                column("IPV4"),
                wide("IPV6"),
                column("RELAY"),
                column("ENDPOINTS"),
                column("KEY"),
            ];
            let shown = columns.iter().filter(|column| !column.wide || out.format == Format::Wide);
            let mut table = Table::new(shown.copied().collect(), out.colour, out.table_limit());
            let rows: Vec<Row> = map
                .members()
                .iter()
                .map(|member| {
                    let own = map.plan().own(member.slot);
                    let endpoints =
                        member.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                    let mut cells: Vec<Cell> = vec![
                        member.name.as_str().into(),
                        member.slot.to_string().into(),
                        own.ipv4.to_string().into(),
                    ];
                    if out.format == Format::Wide {
                        cells.push(own.ipv6.to_string().into());
                    }
                    cells.push(if member.relay { Cell::new("yes", Tone::Good) } else { "-".into() });
                    cells.push(endpoints.into());
                    cells.push(member.public_key.to_string().into());
                    Row::Cells(cells)
                })
                .collect();
            out.text(&table.render(&rows));
        }
    }
}
