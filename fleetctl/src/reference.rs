//! How a command line names a workload: `NAME`, or `NAME@CAPSULE` for one on a certain capsule.

use std::{fmt, str::FromStr};

use capsule_proto::Name;

/// A workload, with its capsule where the operator named one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadRef {
    /// The workload.
    pub name: Name,
    /// A context's name or `host:port`, instead of the targets of the flags.
    pub capsule: Option<String>,
}

impl FromStr for WorkloadRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, capsule) = match text.split_once('@') {
            Some((_, "")) => return Err(format!("{text:?} names no capsule after '@'")),
            Some((name, capsule)) => (name, Some(capsule.to_owned())),
            None => (text, None),
        };
        Ok(Self { name: name.parse().map_err(|error| format!("{error}"))?, capsule })
    }
}

impl fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.capsule {
            Some(capsule) => write!(f, "{}@{capsule}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_may_name_its_capsule() {
        let plain: WorkloadRef = "web".parse().unwrap();
        assert_eq!((plain.name.as_str(), plain.capsule), ("web", None));
        let full: WorkloadRef = "web@[fd00::1]:50000".parse().unwrap();
        assert_eq!(full.capsule.as_deref(), Some("[fd00::1]:50000"));
        assert_eq!(full.to_string(), "web@[fd00::1]:50000");
        assert!("Web".parse::<WorkloadRef>().is_err() && "web@".parse::<WorkloadRef>().is_err());
    }
}
