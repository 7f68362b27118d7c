//! What the operator's configuration remembers of each capsule.

use std::collections::{BTreeMap, BTreeSet};

use capsule_proto::Fingerprint;
use serde::{Deserialize, Serialize};

use crate::Address;

/// Longest name of a context, in bytes.
const MAX_NAME_LEN: usize = 63;

/// One capsule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Where it listens.
    pub address: Address,
    /// UUID; every token is bound to it.
    pub capsule_id: String,
    /// SHA-256 of its certificate: nobody else is talked to.
    #[serde(with = "fingerprint_text")]
    pub fingerprint: Fingerprint,
    /// What `--group` selects.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
    /// What `-l` selects.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// All of them, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// Used where nothing else is selected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// Why contexts were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// No context of this name.
    #[error("there is no context {name:?}{}", hint(.suggestion.as_ref()))]
    Unknown {
        /// As asked for.
        name: String,
        /// The nearest that exists.
        suggestion: Option<String>,
    },
    /// The name is taken.
    #[error("there is a context {0:?} already; choose another name, or remove it first")]
    Taken(String),
    /// Not usable as a name.
    #[error("{0:?} cannot name a context: use 1 to 63 of letters, digits, '-', '_' and '.'")]
    Name(String),
}

pub(crate) fn hint(suggestion: Option<&String>) -> String {
    suggestion
        .map_or_else(|| "; see `fleetctl context list`".into(), |name| format!("; did you mean {name:?}?"))
}

impl Contexts {
    /// One of them.
    pub fn get(&self, name: &str) -> Result<&Context, ContextError> {
        self.contexts.get(name).ok_or_else(|| self.unknown(name))
    }

    /// Whether a context could have this name.
    pub fn check_free(&self, name: &str) -> Result<(), ContextError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=MAX_NAME_LEN).contains(&name.len()) || !name.chars().all(allowed) {
            return Err(ContextError::Name(name.into()));
        }
        if self.contexts.contains_key(name) {
            return Err(ContextError::Taken(name.into()));
        }
        Ok(())
    }

    /// Adds one; the first becomes current.
    pub fn insert(&mut self, name: &str, context: Context) -> Result<(), ContextError> {
        self.check_free(name)?;
        self.contexts.insert(name.into(), context);
        self.current.get_or_insert_with(|| name.into());
        Ok(())
    }

    /// Makes one current.
    pub fn select(&mut self, name: &str) -> Result<(), ContextError> {
        self.get(name)?;
        self.current = Some(name.into());
        Ok(())
    }

    /// Renames one; it stays current if it was.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<(), ContextError> {
        self.check_free(new)?;
        let context = self.contexts.remove(old).ok_or_else(|| self.unknown(old))?;
        self.contexts.insert(new.into(), context);
        if self.current.as_deref() == Some(old) {
            self.current = Some(new.into());
        }
        Ok(())
    }

    /// Forgets one. The capsule is not told.
    pub fn remove(&mut self, name: &str) -> Result<Context, ContextError> {
        let removed = self.contexts.remove(name).ok_or_else(|| self.unknown(name))?;
        if self.current.as_deref() == Some(name) {
            self.current = None;
        }
        Ok(removed)
    }

    /// Changes groups and labels of one.
    pub fn edit(&mut self, name: &str, change: impl FnOnce(&mut Context)) -> Result<(), ContextError> {
        let unknown = self.unknown(name);
        self.contexts.get_mut(name).map(change).ok_or(unknown)
    }

    /// The context of a capsule that was adopted before, wherever it listened then.
    pub fn of_capsule(&self, capsule_id: &str) -> Option<(&str, &Context)> {
        let mut all = self.contexts.iter();
        all.find(|(_, context)| context.capsule_id == capsule_id)
            .map(|(name, context)| (name.as_str(), context))
    }

    pub(crate) fn nearest(&self, name: &str) -> Option<String> {
        let near = |known: &&String| strsim::jaro_winkler(known, name);
        self.contexts
            .keys()
            .filter(|known| near(known) > 0.8)
            .max_by(|a, b| near(a).total_cmp(&near(b)))
            .cloned()
    }

    fn unknown(&self, name: &str) -> ContextError {
        ContextError::Unknown { name: name.into(), suggestion: self.nearest(name) }
    }
}

mod fingerprint_text {
    use capsule_proto::Fingerprint;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(fingerprint: &Fingerprint, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(fingerprint)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Fingerprint, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn context(address: &str, groups: &[&str], labels: &[(&str, &str)]) -> Context {
        Context {
            address: address.parse().unwrap(),
            capsule_id: format!("id-of-{address}"),
            fingerprint: Fingerprint::of(address.as_bytes()),
            groups: groups.iter().map(ToString::to_string).collect(),
            labels: labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        }
    }

    #[test]
    fn a_typo_names_the_nearest_context() {
        let mut contexts = Contexts::default();
        contexts.insert("kitchen", context("a", &[], &[])).unwrap();
        let error = contexts.get("kitchn").unwrap_err().to_string();
        assert!(error.contains("did you mean \"kitchen\"?"), "{error}");
    }

    #[test]
    fn renaming_keeps_what_is_current_and_never_overwrites() {
        let mut contexts = Contexts::default();
        contexts.insert("a", context("a", &[], &[])).unwrap();
        contexts.insert("b", context("b", &[], &[])).unwrap();
        assert_eq!(contexts.rename("a", "b"), Err(ContextError::Taken("b".into())));
        contexts.rename("a", "c").unwrap();
        assert_eq!(contexts.current.as_deref(), Some("c"));
        contexts.remove("c").unwrap();
        assert_eq!(contexts.current, None);
        assert!(matches!(contexts.rename("b", "x y"), Err(ContextError::Name(_))));
    }
}
