//! A slot that nobody has confirmed yet: what ends it, unless somebody does.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{facts::Slot, supervise::Observed};
use crate::sys::file::{ensure_dir, remove_all_if_exists, write_atomic};

/// Where an agent that arms a slot leaves what it expects.
const FILE: &str = "tentative.json";
/// For a slot that was armed by hand.
const DEFAULT_DEADLINE: Duration = Duration::from_mins(10);
/// Ends of the agent after which it is taken to end again and again.
const ENDS_MAX: u32 = 5;
/// A network takes this long to be there, at most.
const NETWORK_LIMIT: Duration = Duration::from_mins(3);

/// What is expected of a slot that was armed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// Which slot.
    pub slot: Slot,
    /// Of the system in it.
    pub version: String,
    /// From its boot to its confirmation, at most.
    pub deadline_seconds: u64,
    /// Health confirms it after so long without a fault; an operator does where absent.
    pub auto_confirm_seconds: Option<u64>,
    /// Workloads that ran when it was armed.
    pub workloads: Vec<String>,
}

impl Expectation {
    /// Writes it down, before the slot is armed.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        ensure_dir(dir, 0o700)?;
        write_atomic(&file(dir), &serde_json::to_vec_pretty(self)?, 0o600)
    }

    /// What is written down; nothing where it is damaged.
    pub fn kept(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file(dir)).ok()?).ok()
    }

    /// Forgets it: nothing is armed, or on trial.
    pub fn remove(dir: &Path) -> io::Result<()> {
        remove_all_if_exists(&file(dir))
    }

    /// What is expected of the boot of a slot.
    pub fn read(dir: &Path, slot: Slot, version: &str) -> Self {
        Self::kept(dir).filter(|kept| kept.slot == slot).unwrap_or_else(|| Self {
            slot,
            version: version.to_owned(),
            deadline_seconds: DEFAULT_DEADLINE.as_secs(),
            auto_confirm_seconds: None,
            workloads: Vec::new(),
        })
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// What init sees, so long after it started.
#[derive(Clone, Debug)]
pub struct Signs<'a> {
    /// Since init started.
    pub elapsed: Duration,
    /// The agent.
    pub agent: &'a Observed,
    /// Whether this machine has an address.
    pub has_network: bool,
    /// Why there is no `/perm`, where there is none.
    pub perm: Option<&'a str>,
}

/// Why the slot must be left now, where it must.
pub fn verdict(expected: &Expectation, signs: &Signs<'_>) -> Option<String> {
    let Signs { elapsed, agent, has_network, perm } = signs;
    if let Some(why) = perm {
        return Some(format!("no storage: {why}"));
    }
    if agent.ends >= ENDS_MAX {
        return Some(format!("the agent ended {} times, last with {}", agent.ends, agent.last_end));
    }
    if *elapsed > NETWORK_LIMIT && !has_network {
        return Some(format!("no network for {} s", NETWORK_LIMIT.as_secs()));
    }
    let deadline = expected.deadline_seconds;
    (elapsed.as_secs() >= deadline).then(|| format!("nobody confirmed it within {deadline} s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expectation {
        Expectation {
            slot: Slot::B,
            version: "2".into(),
            deadline_seconds: 600,
            auto_confirm_seconds: Some(60),
            workloads: vec!["web".into()],
        }
    }

    fn judge(seconds: u64, ends: u32, has_network: bool, perm: Option<&str>) -> Option<String> {
        let agent = Observed { ends, last_end: "exit status: 1".into(), ..Observed::new() };
        let signs = Signs { elapsed: Duration::from_secs(seconds), agent: &agent, has_network, perm };
        verdict(&expected(), &signs)
    }

    #[tokio::test]
    async fn a_slot_is_left_for_the_first_thing_that_is_wrong_with_it() {
        assert_eq!(judge(599, 4, true, None), None);
        assert_eq!(judge(100, 0, false, None), None);
        assert_eq!(judge(600, 0, true, None).unwrap(), "nobody confirmed it within 600 s");
        assert_eq!(judge(200, 0, false, None).unwrap(), "no network for 180 s");
        assert_eq!(judge(20, 5, true, None).unwrap(), "the agent ended 5 times, last with exit status: 1");
        assert_eq!(judge(1, 0, true, Some("gone")).unwrap(), "no storage: gone");
    }

    #[test]
    fn what_is_expected_of_another_slot_is_not_expected_of_this_one() {
        let dir = tempfile::tempdir().unwrap();
        expected().write(dir.path()).unwrap();
        assert_eq!(Expectation::read(dir.path(), Slot::B, "2"), expected());
        assert_eq!(Expectation::read(dir.path(), Slot::A, "1").auto_confirm_seconds, None);
        fs::write(file(dir.path()), "{").unwrap();
        assert_eq!(Expectation::kept(dir.path()), None);
        Expectation::remove(dir.path()).unwrap();
        Expectation::remove(dir.path()).unwrap();
    }
}
