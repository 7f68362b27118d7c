//! `fleetctl context`: what this operator remembers of each capsule.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use capsule_client::{ConfigError, ContextError};
use capsule_proto::Selector;
use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use serde_json::json;

use super::adopt::{Meeting, Right};
use crate::{
    complete,
    exit::Exit,
    failure::usage,
    output::{
        Format, Out,
        style::Tone,
        table::{Cell, Row, Table, column, wide},
        yaml,
    },
    session::Session,
};

/// `fleetctl context …`.
#[derive(Debug, Subcommand)]
pub enum Context {
    Add(Add),
    List(List),
    Use(Use),
    Rename(Rename),
    Remove(Remove),
    Label(Label),
    Group(Group),
}

/// Add a capsule on which an admin has enrolled your key
///
/// Send the line that `fleetctl key show` prints to one of the capsule's admins; once they have run
/// `fleetctl key add`, this remembers the capsule. It never adopts one.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl context add nuc-1.lan --name nuc-1 --fingerprint 5f3c…")]
pub struct Add {
    #[command(flatten)]
    meeting: Meeting,
}

/// List contexts; `*` marks the current one
#[derive(Args, Debug)]
#[command(
    visible_alias = "ls",
    after_help = "Examples:\n  fleetctl context list\n  fleetctl context list -o name"
)]
pub struct List {}

/// Make a context current: commands without targets mean it
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl context use nuc-1")]
pub struct Use {
    #[arg(add = ArgValueCompleter::new(complete::capsules))]
    name: String,
}

/// Give a context another name
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl context rename capsule-a3f2 nuc-1")]
pub struct Rename {
    #[arg(add = ArgValueCompleter::new(complete::capsules))]
    old: String,
    new: String,
}

/// Forget capsules; your key stays enrolled on them
#[derive(Args, Debug)]
#[command(visible_alias = "rm", after_help = "Examples:\n  fleetctl context remove nuc-1")]
pub struct Remove {
    #[arg(required = true, add = ArgValueCompleter::new(complete::capsules))]
    names: Vec<String>,
}

/// Set labels that `-l` selects by: KEY=VALUE sets, KEY- removes
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl context label nuc-1 zone=attic arch=arm64\n  \
                        fleetctl context label nuc-1,nuc-2 zone-")]
pub struct Label {
    /// Contexts, joined by commas
    #[arg(value_name = "NAME,…", add = ArgValueCompleter::new(complete::capsules))]
    names: String,
    #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
    changes: Vec<String>,
}

/// Set groups that `--group` selects: GROUP joins, GROUP- leaves
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl context group nuc-1,nuc-2 edge\n  fleetctl context group nuc-1 edge-"
)]
pub struct Group {
    /// Contexts, joined by commas
    #[arg(value_name = "NAME,…", add = ArgValueCompleter::new(complete::capsules))]
    names: String,
    #[arg(required = true, value_name = "GROUP|GROUP-")]
    changes: Vec<String>,
}

impl Context {
    /// Runs it.
    pub async fn run(self, session: &mut Session) -> Result<Exit> {
        let out = session.out;
        match self {
            Self::Add(Add { meeting }) => return meeting.hold(session, Right::Enrolled).await,
            Self::List(_) => list(session),
            Self::Use(Use { name }) => {
                change(session, |contexts| contexts.select(&name))?;
                out.note(&format!("{name} is now the current context"));
            }
            Self::Rename(Rename { old, new }) => {
                change(session, |contexts| contexts.rename(&old, &new))?;
                out.note(&format!("{old} is now called {new}"));
            }
            Self::Remove(Remove { names }) => {
                change(session, |contexts| {
                    names.iter().try_for_each(|name| contexts.remove(name).map(drop))
                })?;
                out.note(&format!("forgot {}; your key is still enrolled there", names.join(", ")));
            }
            Self::Label(Label { names, changes }) => {
                let changes: Vec<_> = changes.iter().map(|text| label_change(text)).collect::<Result<_>>()?;
                edit(session, &names, |context| set_labels(&mut context.labels, &changes))?;
                tell(session, &names, "labels", |context| {
                    context.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
                });
            }
            Self::Group(Group { names, changes }) => {
                edit(session, &names, |context| set_groups(&mut context.groups, &changes))?;
                tell(session, &names, "groups", |context| context.groups.iter().cloned().collect());
            }
        }
        Ok(Exit::ALL)
    }
}

fn change(
    session: &mut Session,
    change: impl FnOnce(&mut capsule_client::Contexts) -> Result<(), ContextError>,
) -> Result<()> {
    session.fleet.update(|contexts| change(contexts).map_err(ConfigError::from)).map_err(
        |error| match error {
            ConfigError::Context(error) => usage(error.to_string()),
            other => other.into(),
        },
    )
}

/// The same change to each of these contexts, or to none.
fn edit(session: &mut Session, names: &str, edit: impl Fn(&mut capsule_client::Context)) -> Result<()> {
    change(session, |contexts| names.split(',').try_for_each(|name| contexts.edit(name.trim(), &edit)))
}

/// Says what each of these contexts has now: `labels of nuc-1: zone=attic`.
fn tell(session: &Session, names: &str, what: &str, of: impl Fn(&capsule_client::Context) -> Vec<String>) {
    for name in names.split(',').map(str::trim) {
        let has = session.fleet.contexts().contexts.get(name).map(&of).unwrap_or_default();
        let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
        session.out.note(&format!("{what} of {name}: {has}"));
    }
}

/// `KEY=VALUE` sets, `KEY-` removes. What no selector can express is refused.
fn label_change(text: &str) -> Result<(String, Option<String>)> {
    let is_selectable = text.parse::<Selector>().is_ok_and(|selector| selector.to_string() == text);
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((key, _)), _) if !key.is_empty() && !is_selectable => Err(usage(format!(
            "{text:?} could not be selected by -l: a label has no comma in it and no blank around it"
        ))),
        (Some((key, value)), _) if !key.is_empty() => Ok((key.to_owned(), Some(value.to_owned()))),
        (None, Some(key)) if !key.is_empty() => Ok((key.to_owned(), None)),
        _ => Err(usage(format!("{text:?} changes no label: write KEY=VALUE to set one, KEY- to remove one"))),
    }
}

fn set_labels(labels: &mut BTreeMap<String, String>, changes: &[(String, Option<String>)]) {
    for (key, value) in changes {
        match value {
            Some(value) => labels.insert(key.clone(), value.clone()),
            None => labels.remove(key),
        };
    }
}

fn set_groups(groups: &mut BTreeSet<String>, changes: &[String]) {
    for change in changes {
        match change.strip_suffix('-') {
            Some(group) => groups.remove(group),
            None => groups.insert(change.clone()),
        };
    }
}

fn list(session: &Session) {
    let (out, contexts) = (session.out, session.fleet.contexts());
    let is_current = |name: &str| contexts.current.as_deref() == Some(name);
    match out.format {
        Format::Name => contexts.contexts.keys().for_each(|name| out.line(name)),
        Format::Json | Format::Yaml => {
            for (name, context) in &contexts.contexts {
                let result = json!({ "current": is_current(name), "context": context });
                let object = json!({ "capsule": name, "ok": true, "result": result });
                print_object(&out, &object);
            }
        }
        Format::Table | Format::Wide => print_table(&out, contexts),
    }
}

fn print_object(out: &Out, object: &serde_json::Value) {
    match out.format {
        Format::Yaml => out.text(&format!("---\n{}", yaml::document(object))),
        _ => out.line(&object.to_string()),
    }
}

fn print_table(out: &Out, contexts: &capsule_client::Contexts) {
    let is_wide = out.format == Format::Wide;
    let columns = [
        column(""),
        column("NAME"),
        column("ADDRESS"),
        column("GROUPS"),
        column("LABELS"),
        wide("CAPSULE-ID"),
        wide("FINGERPRINT"),
    ];
    let columns = columns.into_iter().filter(|column| is_wide || !column.wide).collect();
    let rows = contexts.contexts.iter().map(|(name, context)| {
        let is_current = contexts.current.as_ref() == Some(name);
        let groups: Vec<&str> = context.groups.iter().map(String::as_str).collect();
        let labels: Vec<String> =
            context.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Row::Cells(vec![
            Cell::new(if is_current { "*" } else { "" }, Tone::Good),
            name.as_str().into(),
            context.address.to_string().into(),
            groups.join(",").into(),
            labels.join(",").into(),
            context.capsule_id.as_str().into(),
            context.fingerprint.to_string().into(),
        ])
    });
    let rows: Vec<Row> = rows.collect();
    out.text(&Table::new(columns, out.colour, out.table_limit()).render(&rows));
    if rows.is_empty() {
        out.note(
            "there is no context yet; `fleetctl adopt HOST` adopts a capsule, and `fleetctl context add HOST` adds one on \
             which an admin has enrolled your key",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_groups_are_set_and_removed() {
        let mut labels = BTreeMap::from([("old".to_owned(), "x".to_owned())]);
        let changes = ["zone=attic", "old-", "note=a-b-"].map(|text| label_change(text).unwrap());
        set_labels(&mut labels, &changes);
        let expected = [("note", "a-b-"), ("zone", "attic")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(labels, BTreeMap::from(expected));
        assert!(label_change("zone").unwrap_err().to_string().contains("KEY=VALUE"));
        assert!(label_change("zone=a,b").unwrap_err().to_string().contains("no comma"));
        assert!(label_change("zone=a ").is_err() && label_change("zone=a=b").is_ok());

        let mut groups = BTreeSet::from(["edge".to_owned()]);
        set_groups(&mut groups, &["core".into(), "edge-".into()]);
        assert_eq!(groups, BTreeSet::from(["core".to_owned()]));
    }
}
