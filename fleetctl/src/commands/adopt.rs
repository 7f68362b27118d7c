//! `fleetctl adopt`: the first meeting with a capsule.

use std::{
    env,
    io::{self, BufRead as _, IsTerminal as _},
};

use anyhow::{Context as _, Result, bail};
use capsule_client::{
    Address, ConfigError, Connector, Context, ContextError, Contexts,
    adopt::{Adopted, Probe, adopt, join, probe},
};
use capsule_proto::{Fingerprint, discovery::is_short_id};
use clap::Args;
use serde_json::json;

use super::discover::Listening;
use crate::{
    exit::Exit,
    failure::{Failure, usage},
    output::{Format, yaml},
    session::Session,
};

/// Adopt a capsule: compare its fingerprint, enroll your key, remember it
///
/// A capsule that nobody has adopted yet takes the first key that it is offered, for 30 minutes
/// after its agent's start. Compare the fingerprint shown with the one on the capsule's banner or
/// in its log: from then on the context is pinned to it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl adopt 192.168.1.20 --name nuc-1 --label zone=attic\n  \
                        fleetctl adopt nuc-1.lan:50000 --fingerprint 5f3c…\n  fleetctl adopt capsule-a3f2")]
pub struct Adopt {
    #[command(flatten)]
    meeting: Meeting,
}

/// A first meeting with a capsule, and how to remember it.
#[derive(Args, Debug)]
pub struct Meeting {
    /// HOST, HOST:PORT or [IPV6]:PORT, with port 50000 where none is given; or the short id of a capsule
    /// that `fleetctl discover` finds
    #[arg(value_name = "HOST[:PORT]")]
    pub address: Address,
    /// Name of the context; the capsule's host name where not given
    #[arg(long)]
    pub name: Option<String>,
    /// The fingerprint that the capsule must show, instead of your comparing it
    #[arg(long, value_name = "SHA256")]
    fingerprint: Option<Fingerprint>,
    /// Ask nothing; without --fingerprint, trust the one seen, whatever it is
    #[arg(long, short)]
    pub yes: bool,
    /// Label of the context, for -l; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Group of the context, for --group; may be repeated
    #[arg(long = "into-group", value_name = "GROUP")]
    into_group: Vec<String>,
    #[command(flatten)]
    listening: Listening,
    /// Whether a context of the name that was asked for gives way.
    #[arg(skip)]
    pub replaces: bool,
}

/// By what right an operator is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Nobody else was: the capsule is to be adopted.
    Claim,
    /// An admin has enrolled the key.
    Enrolled,
}

/// A context as it was kept, and why it is not called as one might expect.
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Why.
    pub remark: Option<String>,
}

impl Adopt {
    /// Adopts one capsule.
    pub async fn run(self, session: &mut Session) -> Result<Exit> {
        self.meeting.hold(session, Right::Claim).await
    }
}

impl Meeting {
    /// With whoever answers there.
    pub fn with(address: Address, name: Option<String>, listening: Listening) -> Self {
        let (label, into_group) = (Vec::new(), Vec::new());
        let (fingerprint, yes, replaces) = (None, false, false);
        Self { address, name, fingerprint, yes, label, into_group, listening, replaces }
    }

    /// Meets the capsule and remembers it. What cannot work is refused before the capsule is asked
    /// for anything.
    pub async fn hold(mut self, session: &mut Session, right: Right) -> Result<Exit> {
        let (connector, seen) = self.begin(session).await?;
        let adopted = match right {
            Right::Claim => adopt(&connector, &seen, &key_name()).await,
            Right::Enrolled => join(&connector, &seen).await,
        }
        .map_err(Failure::from)?;
        let kept = self.remember(session, &adopted)?;
        report(session, &kept, &adopted, right);
        Ok(Exit::ALL)
    }

    /// Finds the capsule and has its fingerprint compared; nothing was sent to it then.
    pub async fn begin(&mut self, session: &Session) -> Result<(Connector, Probe)> {
        self.labels()?;
        self.check_name(session.fleet.contexts(), None)?;
        if let Some(heard) = self.listening.look_up(session, &self.address).await? {
            self.address = heard;
        }
        let key = session.fleet.home().ensure_key().context("cannot make your operator key")?;
        let connector = Connector::new(key)?.with_timeout(session.connect_timeout());
        let seen = probe(&connector, &self.address).await.map_err(|error| self.unmet(error.into()))?;
        self.check_name(session.fleet.contexts(), Some(&seen))?;
        self.confirm(&seen)?;
        Ok((connector, seen))
    }

    fn labels(&self) -> Result<Vec<(String, String)>> {
        self.label.iter().map(|text| label(text)).collect()
    }

    fn unmet(&self, failure: Failure) -> Failure {
        if !is_short_id(self.address.host()) {
            return failure;
        }
        failure.and("No capsule of this short id announces itself here, either; see `fleetctl discover`")
    }

    /// Whether the name that was asked for can be had. A context of this very capsule may have it
    /// already, which shows once the capsule was `seen`.
    fn check_name(&self, contexts: &Contexts, seen: Option<&Probe>) -> Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        let is_same = |context: &Context| match seen {
            Some(seen) => context.capsule_id == seen.capsule_id,
            None => context.address == self.address,
        };
        match contexts.check_free(name) {
            Err(ContextError::Taken(_)) if self.replaces || contexts.get(name).is_ok_and(is_same) => Ok(()),
            other => other.map_err(|error| usage(error.to_string())),
        }
    }

    fn confirm(&self, seen: &Probe) -> Result<()> {
        match self.fingerprint {
            Some(expected) if expected == seen.fingerprint => return Ok(()),
            Some(expected) => bail!(
                "{} is not the capsule you mean: it shows fingerprint {}, and {expected} was expected. Nothing was \
                 sent to it. Check the address and the banner",
                self.address,
                seen.fingerprint
            ),
            None if self.yes => return Ok(()),
            None => {}
        }
        if !io::stdin().is_terminal() {
            return Err(usage(format!(
                "{} shows fingerprint {}, and nobody is here to compare it; give --fingerprint with the expected \
                 one, or --yes to trust what is seen",
                self.address, seen.fingerprint
            )));
        }
        eprintln!("{} is capsule {} with the fingerprint", self.address, seen.capsule_id);
        eprintln!("  {}", seen.fingerprint);
        eprint!("Is it the same on the capsule's banner? [y/N] ");
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        bail!("not confirmed: nothing was sent to {}, and nothing is remembered", self.address)
    }

    /// A capsule that is known already keeps its name, and moves to its new address.
    pub fn remember(&self, session: &mut Session, adopted: &Adopted) -> Result<Kept> {
        let wanted = self.name.clone().unwrap_or_else(|| adopted.hostname.clone());
        let mut adopted = adopted.clone();
        adopted.context.labels.extend(self.labels()?);
        adopted.context.groups.extend(self.into_group.clone());
        let remembered = session.fleet.update(|contexts| {
            self.give_way(contexts, &mut adopted.context);
            if let Some((known, _)) = contexts.of_capsule(&adopted.context.capsule_id) {
                let known = known.to_owned();
                contexts.edit(&known, |context| {
                    context.address = adopted.context.address.clone();
                    context.fingerprint = adopted.context.fingerprint;
                    context.labels.extend(adopted.context.labels.clone());
                    context.groups.extend(adopted.context.groups.clone());
                })?;
                if self.name.as_ref().is_some_and(|name| *name != known) {
                    contexts.rename(&known, &wanted)?;
                    let remark = Some(format!("the context of this capsule was called {known} before"));
                    return Ok(Kept { name: wanted, remark });
                }
                return Ok(Kept { name: known, remark: None });
            }
            insert(contexts, &wanted, self.name.is_some(), &adopted)
        });
        remembered.map_err(|error: ConfigError| {
            anyhow::Error::from(error).context(format!(
                "your key is enrolled on {}, but its context was not kept; run the same command again",
                self.address
            ))
        })
    }
}

impl Meeting {
    /// Another capsule's context of the wanted name goes; its groups and labels stay.
    fn give_way(&self, contexts: &mut Contexts, new: &mut Context) {
        let Some(name) = self.name.as_ref().filter(|_| self.replaces) else { return };
        let is_another = contexts.get(name).is_ok_and(|known| known.capsule_id != new.capsule_id);
        if is_another && let Ok(old) = contexts.remove(name) {
            new.groups.extend(old.groups);
            let told = std::mem::replace(&mut new.labels, old.labels);
            new.labels.extend(told);
        }
    }
}

/// Without a name of the operator's choice, one that is taken or unusable gives way to the short id.
fn insert(
    contexts: &mut Contexts,
    wanted: &str,
    is_chosen: bool,
    adopted: &Adopted,
) -> Result<Kept, ConfigError> {
    match contexts.insert(wanted, adopted.context.clone()) {
        Ok(()) => Ok(Kept { name: wanted.to_owned(), remark: None }),
        Err(error) if is_chosen => Err(error.into()),
        Err(error) => {
            let name = adopted.short_id.clone();
            contexts.insert(&name, adopted.context.clone())?;
            let why = match error {
                ContextError::Taken(_) => format!("there is a context {wanted} already"),
                _ => format!("{wanted:?}, the host's name, cannot name one"),
            };
            let remark = format!(
                "the context is called {name}, because {why}; `fleetctl context rename {name} NAME` gives it another name"
            );
            Ok(Kept { name, remark: Some(remark) })
        }
    }
}

fn label(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(usage(format!("{text:?} is not a label: write KEY=VALUE"))),
    }
}

/// What key lists show: `user@host`.
pub(super) fn key_name() -> String {
    let user = env::var("USER").or_else(|_| env::var("LOGNAME")).unwrap_or_else(|_| "operator".into());
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    format!("{user}@{}", host.unwrap_or_else(|| "localhost".into()))
}

fn report(session: &Session, kept: &Kept, adopted: &Adopted, right: Right) {
    let name = &kept.name;
    let out = session.out;
    let context = &adopted.context;
    let object = json!({ "capsule": name, "ok": true, "result": {
        "context": context, "shortId": adopted.short_id, "hostname": adopted.hostname,
        "keyId": adopted.key_id.as_str(), "wasEnrolled": adopted.was_enrolled,
    }});
    match out.format {
        Format::Json => out.line(&object.to_string()),
        Format::Yaml => out.text(&format!("---\n{}", yaml::document(&object))),
        Format::Name => out.line(name),
        Format::Table | Format::Wide => {
            let how = match right {
                Right::Enrolled => "added",
                Right::Claim if adopted.was_enrolled => "knew your key already",
                Right::Claim => "adopted",
            };
            out.line(&format!("{name}: {how} ({}, {})", adopted.short_id, context.address));
            out.note(&format!("fingerprint {}", context.fingerprint));
        }
    }
    if let Some(remark) = &kept.remark {
        out.note(remark);
    }
}
