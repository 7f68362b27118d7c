//! Labels and their selectors.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// Labels that something must carry: `key=value[,key=value…]`; the empty selector takes all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(BTreeMap<String, String>);

impl Selector {
    /// Whether `labels` carry every pair of this selector.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether it takes everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why a text is not a [`Selector`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part:?} is not a label: write key=value, several joined by commas")]
pub struct SelectorError {
    part: String,
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts
            .map(|part| match part.split_once('=') {
                Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
                _ => Err(SelectorError { part: part.to_owned() }),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_takes_what_carries_all_its_labels() {
        let selector: Selector = "tier=web, zone=a".parse().unwrap();
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        assert!(selector.matches(&labels(&[("tier", "web"), ("zone", "a"), ("x", "y")])));
        assert!(!selector.matches(&labels(&[("tier", "web")])));
        assert!(Selector::default().matches(&labels(&[])));
        assert_eq!(selector.to_string(), "tier=web,zone=a");
    }

    #[test]
    fn a_label_without_a_key_is_refused() {
        assert!("=x".parse::<Selector>().is_err());
        assert!("web".parse::<Selector>().is_err());
    }
}
