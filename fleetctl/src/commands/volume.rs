//! `fleetctl volume`.

use std::collections::BTreeMap;

use anyhow::Result;
use capsule_proto::{
    Name, Size, check_volume_size,
    v1::{
        CreateVolumeRequest, DeleteVolumeRequest, GetVolumeRequest, ListVolumesRequest, ResizeVolumeRequest,
        Volume as Wire,
    },
};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use serde::Serialize;

use crate::{
    complete,
    exit::Exit,
    failure::usage,
    gather::{gather, gather_each},
    named,
    output::{
        Out,
        answer::Layout,
        human,
        style::Tone,
        table::{Cell, Column, column, wide},
    },
    session::{PATIENT, QUICK, Session},
};

/// `fleetctl volume …`.
#[derive(Debug, Subcommand)]
pub enum Volume {
    Create(Create),
    List(List),
    Get(Get),
    Resize(Resize),
    Delete(Delete),
}

/// Create a volume
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl volume create data 10G\n  fleetctl volume create data 500M --label app=shop"
)]
pub struct Create {
    name: Name,
    /// 500M, 2GiB; K, M, G and T are binary
    size: Size,
    /// Label of the volume; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
}

/// List volumes
#[derive(Args, Debug)]
#[command(visible_alias = "ls", after_help = "Examples:\n  fleetctl --all volume list")]
pub struct List {}

/// Show volumes
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl volume get data -o yaml")]
pub struct Get {
    #[arg(required = true, value_name = "VOLUME", add = ArgValueCompleter::new(complete::volumes))]
    names: Vec<Name>,
}

/// Grow a volume; it never shrinks
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl volume resize data 20G")]
pub struct Resize {
    #[arg(value_name = "VOLUME", add = ArgValueCompleter::new(complete::volumes))]
    name: Name,
    /// The new size
    size: Size,
}

/// Delete volumes with all that is in them
#[derive(Args, Debug)]
#[command(
    visible_alias = "rm",
    after_help = "Examples:\n  fleetctl volume delete data\n  fleetctl volume delete data --force"
)]
pub struct Delete {
    #[arg(required = true, value_name = "VOLUME", add = ArgValueCompleter::new(complete::volumes))]
    names: Vec<Name>,
    /// Also where a stopped workload's manifest names it
    #[arg(long)]
    force: bool,
}

/// What `-o json` shows of a deletion.
#[derive(Serialize)]
struct Deleted {
    deleted: String,
}

impl Volume {
    /// Runs it.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        match self {
            Self::Create(command) => command.run(session).await,
            Self::List(_) => list(session).await,
            Self::Get(command) => command.run(session).await,
            Self::Resize(command) => command.run(session).await,
            Self::Delete(command) => command.run(session).await,
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> Result<Exit> {
        check_volume_size(self.size).map_err(|error| usage(error.to_string()))?;
        let request = CreateVolumeRequest {
            name: self.name.to_string(),
            size_bytes: self.size.bytes(),
            labels: labels(&self.label)?,
        };
        let layout =
            said(|volume, _| format!("created {} ({})", volume.name, human::bytes(volume.size_bytes)));
        gather(session, session.targets()?, session.timeout(PATIENT), layout, async |capsule| {
            Ok(capsule.volumes().create(request.clone()).await?.into_inner())
        })
        .await
    }
}

impl Get {
    async fn run(self, session: &Session) -> Result<Exit> {
        let layout =
            Layout::table(columns(), |volume| vec![row(volume)]).named(|v: &Wire| vec![v.name.clone()]);
        gather_each(
            session,
            each(session, &self.names)?,
            session.timeout(QUICK),
            layout,
            async |capsule, name: String| {
                let answer = capsule.volumes().get(GetVolumeRequest { name: name.clone() }).await;
                Ok(named::volume(&capsule, &name, answer).await?.into_inner())
            },
        )
        .await
    }
}

impl Resize {
    async fn run(self, session: &Session) -> Result<Exit> {
        let layout = said(|volume, _| match volume.error.as_str() {
            "" => format!("{} is now {}", volume.name, human::bytes(volume.size_bytes)),
            later => format!("{} will be {}: {later}", volume.name, human::bytes(volume.size_bytes)),
        });
        gather(session, session.targets()?, session.timeout(PATIENT), layout, async |capsule| {
            let request = ResizeVolumeRequest { name: self.name.to_string(), size_bytes: self.size.bytes() };
            let answer = capsule.volumes().resize(request).await;
            Ok(named::volume(&capsule, self.name.as_str(), answer).await?.into_inner())
        })
        .await
    }
}

impl Delete {
    async fn run(self, session: &Session) -> Result<Exit> {
        let layout = Layout::lines(|done: &Deleted, _| vec![format!("deleted {}", done.deleted)])
            .named(|done| vec![done.deleted.clone()]);
        let work = each(session, &self.names)?;
        gather_each(session, work, session.timeout(PATIENT), layout, async |capsule, name: String| {
            let request = DeleteVolumeRequest { name: name.clone(), force: self.force };
            let answer = capsule.volumes().delete(request).await;
            named::volume(&capsule, &name, answer).await?;
            Ok(Deleted { deleted: name })
        })
        .await
    }
}

async fn list(session: &Session) -> Result<Exit> {
    let layout = Layout::table(columns(), |volumes: &Vec<Wire>| volumes.iter().map(row).collect())
        .named(|volumes| volumes.iter().map(|volume| volume.name.clone()).collect());
    gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
        Ok(capsule.volumes().list(ListVolumesRequest {}).await?.into_inner().volumes)
    })
    .await
}

fn said(line: fn(&Wire, &Out) -> String) -> Layout<Wire> {
    Layout::lines(move |volume, out| vec![line(volume, out)]).named(|volume: &Wire| vec![volume.name.clone()])
}

fn each(session: &Session, names: &[Name]) -> Result<Vec<(capsule_client::Target, Vec<String>)>> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    Ok(session.targets()?.into_iter().map(|target| (target, names.clone())).collect())
}

fn labels(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(usage(format!("{text:?} is not a label: write KEY=VALUE"))),
    };
    texts.iter().map(pair).collect()
}

fn columns() -> Vec<Column> {
    vec![
        column("NAME"),
        column("SIZE"),
        column("USED"),
        column("MOUNTED BY"),
        column("AGE"),
        wide("BACKEND"),
        wide("FILESYSTEM"),
        wide("LABELS"),
        column("ERROR"),
    ]
}

fn row(volume: &Wire) -> Vec<Cell> {
    let labels: Vec<String> = volume.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mounted = if volume.mounted_by.is_empty() { "-".to_owned() } else { volume.mounted_by.join(",") };
    vec![
        volume.name.as_str().into(),
        human::bytes(volume.size_bytes).into(),
        human::bytes(volume.used_bytes).into(),
        mounted.into(),
        human::age(volume.created_at.as_ref()).into(),
        volume.backend.as_str().into(),
        volume.filesystem.as_str().into(),
        labels.join(",").into(),
        Cell::new(&volume.error, Tone::Bad),
    ]
}
