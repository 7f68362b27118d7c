//! `fleetctl key`: who may operate capsules.

mod rotate;

use std::{fs, io::Read as _, path::Path};

use anyhow::Result;
use capsule_client::{KeyError, Target};
use capsule_proto::{
    KeyId,
    v1::{AddKeyRequest, ListKeysRequest, OperatorKey, RemoveKeyRequest, Role},
};
use clap::{Args, Subcommand, ValueEnum};
use clap_complete::ArgValueCompleter;
use serde::Serialize;

use crate::{
    complete,
    exit::Exit,
    failure::usage,
    gather::{gather, gather_each},
    output::{
        Format,
        answer::Layout,
        human,
        style::Tone,
        table::{Cell, column, wide},
    },
    public_key::PublicKey,
    session::{QUICK, Session},
};

/// `fleetctl key …`.
#[derive(Debug, Subcommand)]
pub enum Key {
    Show(Show),
    List(List),
    Add(Add),
    Remove(Remove),
    Rotate(rotate::Rotate),
}

/// Print your public key, for an admin's `fleetctl key add`; makes your key where there is none
#[derive(Args, Debug)]
#[command(visible_alias = "create", after_help = "Examples:\n  fleetctl key show > my.pub")]
pub struct Show {}

/// List the keys that capsules have enrolled
#[derive(Args, Debug)]
#[command(visible_alias = "ls", after_help = "Examples:\n  fleetctl --all key list")]
pub struct List {}

/// Enroll a key
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl --all key add colleague.pub --role operator\n  \
                        fleetctl key add 'capsule-ed25519 AAAA… ci' --role viewer")]
pub struct Add {
    /// What `fleetctl key show` printed: the line itself, a file with it, or - for stdin
    #[arg(value_name = "KEY|FILE|-")]
    key: String,
    /// What the key may do
    #[arg(long, value_enum, value_name = "viewer|operator|admin")]
    role: KeyRole,
    /// Name in key lists; the one that the key brings where not given
    #[arg(long)]
    name: Option<String>,
}

/// Remove keys; the last admin stays
#[derive(Args, Debug)]
#[command(visible_alias = "rm", after_help = "Examples:\n  fleetctl --all key remove 5f3c0a1b2c3d4e5f")]
pub struct Remove {
    #[arg(required = true, value_name = "KEY-ID", add = ArgValueCompleter::new(complete::keys))]
    key_ids: Vec<String>,
}

/// Roles, least first.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyRole {
    /// Sees everything but secrets, changes nothing
    Viewer,
    /// Runs workloads
    Operator,
    /// Also manages keys and the capsule itself
    Admin,
}

/// What `-o json` shows of a removal.
#[derive(Serialize)]
struct Removed {
    removed: String,
}

impl From<KeyRole> for Role {
    fn from(role: KeyRole) -> Self {
        match role {
            KeyRole::Viewer => Self::Viewer,
            KeyRole::Operator => Self::Operator,
            KeyRole::Admin => Self::Admin,
        }
    }
}

impl Key {
    /// Runs it.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        match self {
            Self::Show(_) => show(session),
            Self::List(_) => list(session).await,
            Self::Add(command) => command.run(session).await,
            Self::Remove(command) => command.run(session).await,
            Self::Rotate(command) => command.run(session).await,
        }
    }
}

fn show(session: &Session) -> Result<Exit> {
    let home = session.fleet.home();
    let is_new = matches!(session.fleet.key(), Err(KeyError::Missing(_)));
    let key = home.ensure_key()?;
    if is_new {
        session
            .out
            .note(&format!("made your key in {}; keep the directory to yourself", home.dir().display()));
    }
    if session.out.format == Format::Name {
        session.out.line(key.key_id().as_str());
    } else {
        let public = PublicKey { bytes: key.public_key().to_vec(), name: crate::commands::adopt::key_name() };
        session.out.line(&public.to_string());
        session.out.note(&format!("key id {}", key.key_id()));
    }
    Ok(Exit::ALL)
}

async fn list(session: &Session) -> Result<Exit> {
    let own = session.fleet.key().map(|key| key.key_id().to_string()).unwrap_or_default();
    let columns = vec![column("KEY"), column("NAME"), column("ROLE"), column("LAST USED"), wide("ENROLLED")];
    let layout = Layout::table(columns, move |keys: &Vec<OperatorKey>| {
        keys.iter().map(|key| row(key, key.key_id == own)).collect()
    })
    .named(|keys| keys.iter().map(|key| key.key_id.clone()).collect());
    gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
        Ok(capsule.identity().list_keys(ListKeysRequest {}).await?.into_inner().keys)
    })
    .await
}

fn row(key: &OperatorKey, is_own: bool) -> Vec<Cell> {
    let tone = if is_own { Tone::Good } else { Tone::Plain };
    vec![
        Cell::new(&key.key_id, tone),
        key.name.as_str().into(),
        key.role().to_string().into(),
        human::age(key.last_used_at.as_ref()).into(),
        human::age(key.enrolled_at.as_ref()).into(),
    ]
}

impl Add {
    async fn run(self, session: &Session) -> Result<Exit> {
        let key: PublicKey = self.text()?.trim().parse().map_err(usage)?;
        let request = AddKeyRequest {
            name: self.name.unwrap_or(key.name),
            public_key: key.bytes,
            role: Role::from(self.role).into(),
        };
        let layout = Layout::lines(|key: &OperatorKey, _| {
            vec![format!("enrolled {} as {} ({})", key.name, key.role(), key.key_id)]
        })
        .named(|key| vec![key.key_id.clone()]);
        let targets = session.targets()?;
        let next = next_step(&targets);
        let exit = gather(session, targets, session.timeout(QUICK), layout, async |capsule| {
            Ok(capsule.identity().add_key(request.clone()).await?.into_inner())
        })
        .await?;
        if exit != Exit::NONE {
            session.out.note(&next);
        }
        Ok(exit)
    }

    fn text(&self) -> Result<String> {
        if self.key.starts_with(PublicKey::KIND) {
            return Ok(self.key.clone());
        }
        if self.key == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            return Ok(text);
        }
        fs::read_to_string(Path::new(&self.key))
            .map_err(|error| {
                usage(format!(
                    "cannot read a public key from {:?}: {error}; give the line that `fleetctl key show` prints for its \
                     owner, a file with that line, or - for stdin",
                    self.key
                ))
            })
    }
}

/// What the owner of a new key does with it.
fn next_step(targets: &[Target]) -> String {
    match targets {
        [Target { address, fingerprint, .. }] => {
            format!("its owner goes on with `fleetctl context add {address} --fingerprint {fingerprint}`")
        }
        _ => "its owner goes on with `fleetctl context add HOST --fingerprint SHA256` for each capsule; `fleetctl context \
              list -o wide` shows both"
            .to_owned(),
    }
}

impl Remove {
    async fn run(self, session: &Session) -> Result<Exit> {
        let own: Option<KeyId> = session.fleet.key().ok().map(|key| key.key_id().clone());
        if let Some(own) = own.filter(|own| self.key_ids.iter().any(|id| id == own.as_str())) {
            session.out.note(&format!("{own} is your own key: you lose access where it is removed"));
        }
        let work = session.targets()?.into_iter().map(|target| (target, self.key_ids.clone())).collect();
        let layout = Layout::lines(|done: &Removed, _| vec![format!("removed {}", done.removed)])
            .named(|done| vec![done.removed.clone()]);
        gather_each(session, work, session.timeout(QUICK), layout, async |capsule, key_id: String| {
            capsule.identity().remove_key(RemoveKeyRequest { key_id: key_id.clone() }).await?;
            Ok(Removed { removed: key_id })
        })
        .await
    }
}
