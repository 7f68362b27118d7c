//! Values that shells complete: contexts from the configuration, workloads and the like from the
//! capsules that the command line means so far.
//!
//! A completion must never hang a shell: everything together has [`LIMIT`], and every failure
//! completes nothing.

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    time::Duration,
};

use capsule_client::{Capsule, ENVIRONMENT, FanOut, Fleet, Selection, Target, fan_out};
use capsule_proto::v1::{ListDebugShellsRequest, ListImagesRequest, ListKeysRequest, ListReleaseKeysRequest};
use clap::builder::StyledStr;
use clap_complete::{CompletionCandidate, PathCompleter, engine::ValueCompleter as _};
use futures_util::StreamExt as _;

use crate::named;

/// How long a shell waits for live names.
const LIMIT: Duration = Duration::from_millis(700);

/// Contexts; after a comma, those that are not named yet.
pub fn capsules(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(fleet) = Fleet::open().ok() else { return Vec::new() };
    let Some(current) = current.to_str() else { return Vec::new() };
    let named = listed(env::args_os());
    let known = fleet.contexts().contexts.iter();
    let fitting = known.filter(|(name, _)| name.starts_with(current) && !named.contains(*name));
    fitting
        .map(|(name, context)| {
            let help = StyledStr::from(context.address.to_string());
            CompletionCandidate::new(name).help(Some(help))
        })
        .collect()
}

/// What stands before a comma in any word: of `-c a,b,c` the names `a` and `b`. A completer sees
/// what is behind the last comma alone.
fn listed(words: impl Iterator<Item = OsString>) -> BTreeSet<String> {
    let mut listed = BTreeSet::new();
    for word in words.filter_map(|word| word.into_string().ok()) {
        let list = word.rsplit_once('=').map_or(word.as_str(), |(_, list)| list);
        if let Some((before, _)) = list.rsplit_once(',') {
            listed.extend(before.split(',').map(str::to_owned));
        }
    }
    listed
}

/// Groups of contexts.
pub fn groups(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(fleet) = Fleet::open().ok() else { return Vec::new() };
    let groups = fleet.contexts().contexts.values().flat_map(|context| context.groups.iter().cloned());
    candidates(groups.collect(), current)
}

/// Members of the fabric, by the map that was seen last.
pub fn members(current: &OsStr) -> Vec<CompletionCandidate> {
    let map = Fleet::open().ok().and_then(|fleet| fleet.home().fabric_map().ok().flatten());
    let map = map.and_then(|map| capsule_fabric::map::SignedMap::try_from(map).ok());
    let members = map.iter().flat_map(|signed| signed.map().members());
    candidates(members.map(|member| member.name.to_string()).collect(), current)
}

/// Workloads.
pub fn workloads(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(live(async |capsule| named::workload_names(&capsule).await), current)
}

/// Ends of flows in the fabric: `web@nuc-1`, whichever capsules the command line means.
pub fn ends(current: &OsStr) -> Vec<CompletionCandidate> {
    let everyone = Selection { all: true, ..Selection::default() };
    let everyone = Fleet::open().ok().and_then(|fleet| fleet.resolve(&everyone).ok());
    let list = async |capsule: Capsule| {
        let names = named::workload_names(&capsule).await;
        names.into_iter().map(|name| format!("{name}@{}", capsule.target().name)).collect()
    };
    candidates(answered(everyone, list), current)
}

/// Volumes.
pub fn volumes(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(live(async |capsule| named::volume_names(&capsule).await), current)
}

/// Images.
pub fn images(current: &OsStr) -> Vec<CompletionCandidate> {
    let list = async |capsule: Capsule| {
        let listed = capsule.images().list(ListImagesRequest {}).await;
        let images = listed.map(|answer| answer.into_inner().images).unwrap_or_default();
        images.into_iter().map(|image| image.reference).collect()
    };
    candidates(live(list), current)
}

/// Enrolled keys.
pub fn keys(current: &OsStr) -> Vec<CompletionCandidate> {
    let list = async |capsule: Capsule| {
        let listed = capsule.identity().list_keys(ListKeysRequest {}).await;
        let keys = listed.map(|answer| answer.into_inner().keys).unwrap_or_default();
        keys.into_iter().map(|key| key.key_id).collect()
    };
    candidates(live(list), current)
}

/// Release keys.
pub fn release_keys(current: &OsStr) -> Vec<CompletionCandidate> {
    let list = async |capsule: Capsule| {
        let listed = capsule.updates().list_keys(ListReleaseKeysRequest {}).await;
        let keys = listed.map(|answer| answer.into_inner().keys).unwrap_or_default();
        keys.into_iter().map(|key| key.number).collect()
    };
    candidates(live(list), current)
}

/// Debug shells.
pub fn debug_shells(current: &OsStr) -> Vec<CompletionCandidate> {
    let list = async |capsule: Capsule| {
        let listed = capsule.debug().list(ListDebugShellsRequest {}).await;
        let shells = listed.map(|answer| answer.into_inner().shells).unwrap_or_default();
        shells.into_iter().map(|shell| shell.name).collect()
    };
    candidates(live(list), current)
}

/// Arguments of `cp`: workloads with their colon; local paths are the shell's own matter.
pub fn places(current: &OsStr) -> Vec<CompletionCandidate> {
    if current.to_str().is_none_or(|text| text.contains(['/', ':', '.'])) {
        return PathCompleter::any().complete(current);
    }
    let names = live(async |capsule| named::workload_names(&capsule).await);
    let places = names.into_iter().map(|name| format!("{name}:")).collect();
    let mut found = candidates(places, current);
    found.extend(PathCompleter::any().complete(current));
    found
}

fn candidates(names: BTreeSet<String>, current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    // A name with control characters would reach the operator's shell.
    let harmless = names.into_iter().filter(|name| !name.chars().any(char::is_control));
    harmless.filter(|name| name.starts_with(current)).map(CompletionCandidate::new).collect()
}

/// What the meant capsules answer in time.
fn live<F, Fut>(ask: F) -> BTreeSet<String>
where
    F: Fn(Capsule) -> Fut,
    Fut: Future<Output = Vec<String>>,
{
    answered(meant(), ask)
}

/// What these answer in time.
fn answered<F, Fut>(targets: Option<Vec<Target>>, ask: F) -> BTreeSet<String>
where
    F: Fn(Capsule) -> Fut,
    Fut: Future<Output = Vec<String>>,
{
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return BTreeSet::new();
    };
    let found = runtime.block_on(async {
        let mut found = BTreeSet::new();
        let (Some(targets), Some(connector)) = (targets, connector()) else { return found };
        let options = FanOut { timeout: Some(LIMIT), ..FanOut::default() };
        let mut answers = fan_out(&connector, targets, options, |capsule| {
            let asked = ask(capsule);
            async move { Ok(asked.await) }
        });
        while let Some((_, names)) = answers.next().await {
            found.extend(names.unwrap_or_default());
        }
        found
    });
    runtime.shutdown_background();
    found
}

fn connector() -> Option<capsule_client::Connector> {
    Some(Fleet::open().ok()?.connector().ok()?.with_timeout(LIMIT))
}

/// The capsules that the unfinished command line means.
fn meant() -> Option<Vec<Target>> {
    let fleet = Fleet::open().ok()?;
    fleet.resolve(&selection(env::args_os())).ok()
}

/// Targets among words that may not form a whole command line yet.
fn selection(words: impl Iterator<Item = OsString>) -> Selection {
    let mut selection = Selection { environment: env::var(ENVIRONMENT).ok(), ..Selection::default() };
    let words: Vec<String> = words.filter_map(|word| word.into_string().ok()).collect();
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value)),
            _ => (word, None),
        };
        let mut value = || value.or_else(|| words.next()).unwrap_or_default().to_owned();
        match flag {
            "--all" => selection.all = true,
            "-c" | "--capsule" => selection.names.push(value()),
            "--group" => selection.groups.push(value()),
            "-l" | "--selector" => selection.selector = value().parse().unwrap_or_default(),
            _ => {}
        }
    }
    selection
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_in_an_unfinished_line() {
        let words = ["fleetctl", "-c", "a,b", "--group=edge", "logs", "-l", "zone=x", "--all", "-c"];
        let selection = selection(words.iter().map(OsString::from));
        assert_eq!(selection.names, ["a,b", ""]);
        assert_eq!(selection.groups, ["edge"]);
        assert_eq!(selection.selector.to_string(), "zone=x");
        assert!(selection.all);
    }

    #[test]
    fn names_before_a_comma_are_not_offered_again() {
        let words = ["fleetctl", "-c", "a,b,", "--capsule=c,d", "logs", "web"];
        assert_eq!(listed(words.iter().map(OsString::from)), ["a", "b", "c"].map(str::to_owned).into());
    }

    #[test]
    fn only_harmless_names_that_fit_are_offered() {
        let names = ["web", "wide", "w\x1b[2J", "db"].map(str::to_owned);
        let offered = candidates(names.into(), OsStr::new("w"));
        let offered: Vec<_> = offered.iter().map(CompletionCandidate::get_value).collect();
        assert_eq!(offered, ["web", "wide"]);
    }
}
