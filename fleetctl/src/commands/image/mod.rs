//! `fleetctl image`.

mod pull;
mod push;
mod show;

use anyhow::Result;
use capsule_proto::v1::{
    Image as Wire, ListImagesRequest, PruneImagesRequest, PruneImagesResponse, RemoveImageRequest,
};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use serde::Serialize;

use crate::{
    complete,
    exit::Exit,
    gather::{gather, gather_each},
    output::{
        answer::Layout,
        clean, human,
        table::{Cell, column, wide},
    },
    session::{PATIENT, QUICK, Session},
};

/// `fleetctl image …`.
#[derive(Debug, Subcommand)]
pub enum Image {
    Pull(pull::Pull),
    Push(push::Push),
    List(List),
    Remove(Remove),
    Prune(Prune),
}

/// List images
#[derive(Args, Debug)]
#[command(visible_alias = "ls", after_help = "Examples:\n  fleetctl --all image list")]
pub struct List {}

/// Remove images by reference
#[derive(Args, Debug)]
#[command(visible_alias = "rm", after_help = "Examples:\n  fleetctl image remove nginx:1.27")]
pub struct Remove {
    #[arg(required = true, value_name = "REFERENCE", add = ArgValueCompleter::new(complete::images))]
    references: Vec<String>,
}

/// Remove images that no workload uses, and content that no image uses
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl --all image prune")]
pub struct Prune {}

/// What `-o json` shows of a removal.
#[derive(Serialize)]
struct Removed {
    removed: String,
}

impl Image {
    /// Runs it.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        match self {
            Self::Pull(command) => command.run(session).await,
            Self::Push(command) => command.run(session).await,
            Self::List(_) => list(session).await,
            Self::Remove(command) => command.run(session).await,
            Self::Prune(_) => prune(session).await,
        }
    }
}

impl Remove {
    async fn run(self, session: &Session) -> Result<Exit> {
        let layout = Layout::lines(|done: &Removed, _| vec![format!("removed {}", done.removed)])
            .named(|done| vec![done.removed.clone()]);
        let targets = session.targets()?;
        let work = targets.into_iter().map(|target| (target, self.references.clone())).collect();
        gather_each(session, work, session.timeout(PATIENT), layout, async |capsule, reference: String| {
            capsule.images().remove(RemoveImageRequest { reference: reference.clone() }).await?;
            Ok(Removed { removed: reference })
        })
        .await
    }
}

async fn list(session: &Session) -> Result<Exit> {
    let columns = vec![
        column("REFERENCE"),
        column("SIZE"),
        column("AGE"),
        column("USED BY"),
        column("ID"),
        wide("DIGEST"),
    ];
    let layout = Layout::table(columns, |images: &Vec<Wire>| images.iter().map(row).collect())
        .named(|images| images.iter().map(|image| image.reference.clone()).collect());
    gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
        Ok(capsule.images().list(ListImagesRequest {}).await?.into_inner().images)
    })
    .await
}

async fn prune(session: &Session) -> Result<Exit> {
    let layout = Layout::lines(|answer: &PruneImagesResponse, _| {
        let removed =
            answer.removed.iter().map(|reference| format!("removed {}", clean::one_line(reference)));
        removed.chain([format!("freed {}", human::bytes(answer.freed_bytes))]).collect()
    })
    .named(|answer| answer.removed.clone());
    gather(session, session.targets()?, session.timeout(PATIENT), layout, async |capsule| {
        Ok(capsule.images().prune(PruneImagesRequest {}).await?.into_inner())
    })
    .await
}

fn row(image: &Wire) -> Vec<Cell> {
    let used = if image.used_by.is_empty() { "-".to_owned() } else { image.used_by.join(",") };
    vec![
        image.reference.as_str().into(),
        human::bytes(image.size_bytes).into(),
        human::age(image.created_at.as_ref()).into(),
        used.into(),
        short(&image.digest).into(),
        image.digest.as_str().into(),
    ]
}

/// The first 12 hex digits of a digest, as docker shows it.
pub(super) fn short(digest: &str) -> String {
    digest.split_once(':').map_or(digest, |(_, hex)| hex).chars().take(12).collect()
}
