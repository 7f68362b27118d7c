//! `fleetctl update keys`: whose bundles capsules install.

use std::{fs, io::Read as _, path::Path};

use anyhow::Result;
use capsule_bundle::{KeyNumber, ReleaseKey};
use capsule_proto::v1::{
    AddReleaseKeyRequest, ListReleaseKeysRequest, ReleaseKey as Wire, RemoveReleaseKeyRequest,
};
use clap::{Args, Subcommand, ValueHint};
use clap_complete::ArgValueCompleter;
use serde::Serialize;

use crate::{
    complete,
    exit::Exit,
    failure::usage,
    gather::{gather, gather_each},
    output::{
        answer::Layout,
        human,
        table::{Cell, column, wide},
    },
    session::{QUICK, Session},
};

/// `fleetctl update keys …`.
#[derive(Debug, Subcommand)]
pub enum Keys {
    List(List),
    Add(Add),
    Remove(Remove),
}

/// List the release keys that capsules trust
#[derive(Args, Debug)]
#[command(visible_alias = "ls", after_help = "Examples:\n  fleetctl --all update keys list")]
pub struct List {}

/// Trust a release key
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl --all update keys add release.pub")]
pub struct Add {
    /// A minisign public key: its file, its base64 line, or - for stdin
    #[arg(value_name = "KEY|FILE|-", value_hint = ValueHint::FilePath)]
    key: String,
}

/// Trust release keys no more
#[derive(Args, Debug)]
#[command(
    visible_alias = "rm",
    after_help = "Examples:\n  fleetctl --all update keys remove E7620F1842B4E81F"
)]
pub struct Remove {
    #[arg(required = true, value_name = "NUMBER", add = ArgValueCompleter::new(complete::release_keys))]
    numbers: Vec<KeyNumber>,
    /// Also the last one: no bundle is installed any more then
    #[arg(long)]
    force: bool,
}

/// What `-o json` shows of a removal.
#[derive(Serialize)]
struct Removed {
    removed: String,
}

impl Keys {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        match self {
            Self::List(_) => list(session).await,
            Self::Add(command) => command.run(session).await,
            Self::Remove(command) => command.run(session).await,
        }
    }
}

async fn list(session: &Session) -> Result<Exit> {
    let columns = vec![column("NUMBER"), column("COMMENT"), column("ADDED BY"), column("AGE"), wide("KEY")];
    let layout = Layout::table(columns, |keys: &Vec<Wire>| keys.iter().map(row).collect())
        .named(|keys| keys.iter().map(|key| key.number.clone()).collect());
    gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
        Ok(capsule.updates().list_keys(ListReleaseKeysRequest {}).await?.into_inner().keys)
    })
    .await
}

fn row(key: &Wire) -> Vec<Cell> {
    let by = if key.added_by.is_empty() { "the image" } else { &key.added_by };
    vec![
        key.number.as_str().into(),
        key.comment.as_str().into(),
        by.into(),
        human::age(key.added_at.as_ref()).into(),
        key.key.as_str().into(),
    ]
}

impl Add {
    async fn run(self, session: &Session) -> Result<Exit> {
        let text = self.text()?;
        text.parse::<ReleaseKey>().map_err(|error| usage(error.to_string()))?;
        let request = AddReleaseKeyRequest { key: text };
        let layout = Layout::lines(|key: &Wire, _| vec![format!("trusts release key {}", key.number)])
            .named(|key| vec![key.number.clone()]);
        gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
            Ok(capsule.updates().add_key(request.clone()).await?.into_inner())
        })
        .await
    }

    fn text(&self) -> Result<String> {
        if self.key == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            return Ok(text);
        }
        if self.key.parse::<ReleaseKey>().is_ok() {
            return Ok(self.key.clone());
        }
        fs::read_to_string(Path::new(&self.key)).map_err(|error| {
            usage(format!(
                "cannot read a release key from {:?}: {error}; give the .pub file of a minisign key, its base64 \
                 line, or - for stdin",
                self.key
            ))
        })
    }
}

impl Remove {
    async fn run(self, session: &Session) -> Result<Exit> {
        let numbers: Vec<String> = self.numbers.iter().map(KeyNumber::to_string).collect();
        let work = session.targets()?.into_iter().map(|target| (target, numbers.clone())).collect();
        let layout = Layout::lines(|done: &Removed, _| vec![format!("removed {}", done.removed)])
            .named(|done| vec![done.removed.clone()]);
        let force = self.force;
        gather_each(session, work, session.timeout(QUICK), layout, async |capsule, number: String| {
            let request = RemoveReleaseKeyRequest { number: number.clone(), force };
            capsule.updates().remove_key(request).await?;
            Ok(Removed { removed: number })
        })
        .await
    }
}
