//! Which capsules an operator means.

use capsule_proto::{Fingerprint, Selector};

use crate::{Address, AddressError, Context, Contexts, context::hint};

/// Environment variable that names capsules where no flag does.
pub const ENVIRONMENT: &str = "FLEETCTL_CAPSULE";

/// What an operator's flags say. Names and groups add up; a selector narrows them (or, alone,
/// all contexts); `all` goes with neither names nor groups. With nothing given, `environment` counts, and then the current context.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// `-c a,b`: names of contexts or `host:port`.
    pub names: Vec<String>,
    /// `--group g`.
    pub groups: Vec<String>,
    /// `-l key=value`.
    pub selector: Selector,
    /// `--all`.
    pub all: bool,
    /// The value of [`ENVIRONMENT`]: names, joined by commas.
    pub environment: Option<String>,
}

/// One capsule that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Of its context, or the address as written.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// UUID.
    pub capsule_id: String,
    /// Of its certificate.
    pub fingerprint: Fingerprint,
}

/// Why nothing can be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither a context nor an address.
    #[error("there is no capsule {name:?}{}", hint(.suggestion.as_ref()))]
    Unknown {
        /// As written.
        name: String,
        /// The nearest that exists.
        suggestion: Option<String>,
    },
    /// An address that no context has.
    #[error(
        "{0} is none of your capsules; run `fleetctl adopt {0}` first, or, where an admin has added your key, \
            `fleetctl context add {0}`"
    )]
    NotAdopted(Address),
    /// Looks like an address and is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The selection takes none.
    #[error("no capsule is {0}; see `fleetctl context list`")]
    Empty(String),
    /// All, and only some.
    #[error("--all means every capsule, and {0} only some; leave out one of them (-l narrows either)")]
    Contradiction(&'static str),
    /// Nothing was selected and nothing is current.
    #[error(
        "no capsule was named and none is current; use -c NAME, --group, -l, --all or `fleetctl context use NAME`"
    )]
    Nothing,
    /// No capsule was adopted yet.
    #[error(
        "there are no capsules yet; `fleetctl adopt HOST` adopts the first, and `fleetctl context add HOST` adds one \
            on which an admin has enrolled your key"
    )]
    NoContexts,
}

impl Contexts {
    /// The capsules that `selection` means: each once, in the order of the names given, then
    /// alphabetically.
    pub fn resolve(&self, selection: &Selection) -> Result<Vec<Target>, TargetError> {
        let mut targets: Vec<Target> = Vec::new();
        for target in self.candidates(selection)? {
            if !targets.iter().any(|known| known.capsule_id == target.capsule_id) {
                targets.push(target);
            }
        }
        if targets.is_empty() {
            return Err(self.nothing_of(selection));
        }
        Ok(targets)
    }

    fn candidates(&self, selection: &Selection) -> Result<Vec<Target>, TargetError> {
        let Selection { names, groups, selector, all, environment } = selection;
        match (names.is_empty(), groups.is_empty()) {
            _ if !*all => {}
            (false, _) => return Err(TargetError::Contradiction("-c")),
            (_, false) => return Err(TargetError::Contradiction("--group")),
            _ => {}
        }
        if *all || (names.is_empty() && groups.is_empty() && !selector.is_empty()) {
            return Ok(self.filter(|context| selector.matches(&context.labels)));
        }
        if names.is_empty() && groups.is_empty() {
            let named = environment.as_deref().filter(|text| !text.is_empty()).or(self.current.as_deref());
            let named = named.ok_or(if self.contexts.is_empty() {
                TargetError::NoContexts
            } else {
                TargetError::Nothing
            })?;
            return named.split(',').map(|name| self.named(name.trim()).map(|(target, _)| target)).collect();
        }
        let mut found = Vec::new();
        for name in names.iter().flat_map(|names| names.split(',')) {
            let (target, context) = self.named(name.trim())?;
            if selector.matches(&context.labels) {
                found.push(target);
            }
        }
        let in_group = |context: &Context| groups.iter().any(|group| context.groups.contains(group));
        found.extend(self.filter(|context| in_group(context) && selector.matches(&context.labels)));
        Ok(found)
    }

    fn filter(&self, wanted: impl Fn(&Context) -> bool) -> Vec<Target> {
        self.contexts.iter().filter(|(_, context)| wanted(context)).map(|(n, c)| target(n, c)).collect()
    }

    fn named(&self, name: &str) -> Result<(Target, &Context), TargetError> {
        if let Some(context) = self.contexts.get(name) {
            return Ok((target(name, context), context));
        }
        if !name.contains([':', '.']) {
            return Err(TargetError::Unknown { name: name.into(), suggestion: self.nearest(name) });
        }
        let address: Address = name.parse()?;
        let known = self.contexts.iter().find(|(_, context)| context.address == address);
        let (name, context) = known.ok_or(TargetError::NotAdopted(address))?;
        Ok((target(name, context), context))
    }

    fn nothing_of(&self, selection: &Selection) -> TargetError {
        if self.contexts.is_empty() {
            return TargetError::NoContexts;
        }
        let mut wanted = Vec::new();
        if !selection.groups.is_empty() {
            wanted.push(format!("in group {}", selection.groups.join(" or ")));
        }
        if !selection.selector.is_empty() {
            wanted.push(format!("labelled {}", selection.selector));
        }
        TargetError::Empty(wanted.join(" and "))
    }
}

fn target(name: &str, context: &Context) -> Target {
    Target {
        name: name.into(),
        address: context.address.clone(),
        capsule_id: context.capsule_id.clone(),
        fingerprint: context.fingerprint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::context;

    fn contexts() -> Contexts {
        let mut contexts = Contexts::default();
        contexts.insert("a", context("10.0.0.1:7", &["edge"], &[("zone", "x")])).unwrap();
        contexts.insert("b", context("10.0.0.2", &["edge"], &[("zone", "y")])).unwrap();
        contexts.insert("c", context("10.0.0.3", &[], &[("zone", "x")])).unwrap();
        contexts
    }

    fn names(selection: Selection) -> Result<Vec<String>, TargetError> {
        contexts().resolve(&selection).map(|targets| targets.into_iter().map(|t| t.name).collect())
    }

    #[test]
    fn names_and_groups_add_up_and_a_selector_narrows() {
        let base = Selection::default;
        let with = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(Selection { names: with(&["c,a"]), ..base() }).unwrap(), ["c", "a"]);
        assert_eq!(names(Selection { groups: with(&["edge"]), ..base() }).unwrap(), ["a", "b"]);
        assert_eq!(
            names(Selection { names: with(&["b"]), groups: with(&["edge"]), ..base() }).unwrap(),
            ["b", "a"]
        );
        let selector: Selector = "zone=x".parse().unwrap();
        assert_eq!(names(Selection { selector: selector.clone(), ..base() }).unwrap(), ["a", "c"]);
        assert_eq!(names(Selection { selector, groups: with(&["edge"]), ..base() }).unwrap(), ["a"]);
        assert_eq!(names(Selection { all: true, ..base() }).unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn without_flags_the_environment_counts_and_then_the_current_context() {
        assert_eq!(names(Selection::default()).unwrap(), ["a"]);
        let environment = Some("b,c".into());
        assert_eq!(names(Selection { environment, ..Selection::default() }).unwrap(), ["b", "c"]);
    }

    #[test]
    fn an_address_stands_for_its_context_and_others_are_to_be_adopted_first() {
        let one = |name: &str| names(Selection { names: vec![name.into()], ..Selection::default() });
        assert_eq!(one("10.0.0.1:7").unwrap(), ["a"]);
        assert!(matches!(one("10.9.9.9"), Err(TargetError::NotAdopted(_))));
        assert!(matches!(one("d"), Err(TargetError::Unknown { .. })));
    }

    #[test]
    fn all_and_only_some_is_a_contradiction() {
        for (named, grouped, flag) in
            [(vec!["a".to_owned()], vec![], "-c"), (vec![], vec!["edge".to_owned()], "--group")]
        {
            let selection = Selection { names: named, groups: grouped, all: true, ..Selection::default() };
            assert_eq!(names(selection).unwrap_err(), TargetError::Contradiction(flag));
        }
        let selector: Selector = "zone=x".parse().unwrap();
        assert_eq!(names(Selection { selector, all: true, ..Selection::default() }).unwrap(), ["a", "c"]);
    }

    #[test]
    fn a_selection_that_takes_none_says_what_it_asked_for() {
        let groups = vec!["dark".into()];
        let error = names(Selection { groups, ..Selection::default() }).unwrap_err().to_string();
        assert!(error.contains("in group dark"), "{error}");
    }
}
