//! Whether a bundle may be installed here: pure.

use capsule_bundle::{Manifest, Version};

use super::UpdateError;

/// What the operator allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// A version before the one that runs.
    pub downgrade: bool,
    /// One that was rolled back, or that runs already.
    pub again: bool,
}

/// The capsule, as far as it matters.
#[derive(Clone, Debug)]
pub struct Situation {
    /// What runs.
    pub running: Version,
    /// Whether it is on trial.
    pub is_tentative: bool,
    /// As `uname -m` has it.
    pub architecture: &'static str,
    /// Of the slot that does not run.
    pub slot_bytes: u64,
    /// Why the version of the bundle was rolled back, if it was.
    pub rolled_back: Option<String>,
}

/// What becomes of a bundle that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is installed.
    Install,
    /// It runs, so nothing is to be done.
    RunsAlready,
}

/// Decides over a bundle whose signature is good.
pub fn admit(offered: &Manifest, here: &Situation, allowed: Allowed) -> Result<Verdict, UpdateError> {
    if offered.architecture != here.architecture {
        return Err(UpdateError::Architecture {
            ours: here.architecture,
            theirs: offered.architecture.clone(),
        });
    }
    let (running, version) = (here.running.clone(), offered.version.clone());
    if version == running && !allowed.again {
        return Ok(Verdict::RunsAlready);
    }
    if here.is_tentative {
        return Err(UpdateError::OnTrial(running));
    }
    if offered.root.bytes > here.slot_bytes {
        return Err(UpdateError::Oversized { bytes: offered.root.bytes, slot_bytes: here.slot_bytes });
    }
    if version < running && !allowed.downgrade {
        return Err(UpdateError::Downgrade { running, offered: version });
    }
    if running < offered.minimum_version {
        let minimum = offered.minimum_version.clone();
        return Err(UpdateError::TooFar { running, offered: version, minimum });
    }
    match &here.rolled_back {
        Some(reason) if !allowed.again => Err(UpdateError::TriedBefore { version, reason: reason.clone() }),
        _ => Ok(Verdict::Install),
    }
}

#[cfg(test)]
mod tests {
    use capsule_bundle::{Digest, FORMAT, Kernel, Root};
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn manifest(of: &str) -> Manifest {
        let sha256 = Digest::of(b"");
        Manifest {
            format: FORMAT,
            version: version(of),
            minimum_version: version("0.2.0"),
            architecture: "x86_64".into(),
            kernel: Kernel { bytes: 1, sha256 },
            root: Root { bytes: 8192, sha256, roothash: sha256, data_bytes: 4096 },
        }
    }

    fn here(running: &str) -> Situation {
        let running = version(running);
        Situation {
            running,
            is_tentative: false,
            architecture: "x86_64",
            slot_bytes: 8192,
            rolled_back: None,
        }
    }

    fn refusal(offered: &Manifest, here: &Situation) -> String {
        admit(offered, here, Allowed::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_newer_version_is_installed_and_the_running_one_is_left_alone() {
        let allowed = Allowed::default();
        assert_eq!(admit(&manifest("0.3.1"), &here("0.3.0"), allowed).unwrap(), Verdict::Install);
        assert_eq!(admit(&manifest("0.3.0"), &here("0.3.0"), allowed).unwrap(), Verdict::RunsAlready);
        let again = Allowed { again: true, ..allowed };
        assert_eq!(admit(&manifest("0.3.0"), &here("0.3.0"), again).unwrap(), Verdict::Install);
    }

    #[test]
    fn what_is_refused_is_refused_with_what_would_help() {
        assert!(refusal(&manifest("0.2.9"), &here("0.3.0")).contains("--allow-downgrade"));
        assert!(refusal(&manifest("0.3.0+1"), &here("0.3.0+2")).contains("--allow-downgrade"));
        assert!(refusal(&manifest("0.3.0"), &here("0.1.0")).contains("update to 0.2.0 first"));
        let tried = Situation { rolled_back: Some("it panicked".into()), ..here("0.3.0") };
        let told = refusal(&manifest("0.4.0"), &tried);
        assert!(told.contains("it panicked") && told.contains("--force"), "{told}");
        let trial = Situation { is_tentative: true, ..here("0.3.0") };
        assert!(refusal(&manifest("0.4.0"), &trial).contains("update confirm"));
        let small = Situation { slot_bytes: 4096, ..here("0.3.0") };
        assert!(refusal(&manifest("0.4.0"), &small).contains("oversized"));
        let other = Manifest { architecture: "aarch64".into(), ..manifest("0.4.0") };
        assert!(refusal(&other, &here("0.3.0")).contains("aarch64"));
    }

    proptest! {
        #[test]
        fn no_permission_lets_a_trial_be_overwritten(downgrade: bool, again: bool, minor in 0_u64..6) {
            let trial = Situation { is_tentative: true, ..here("0.3.0") };
            let mut offered = manifest("0.3.0");
            offered.version.minor = minor;
            let verdict = admit(&offered, &trial, Allowed { downgrade, again });
            prop_assert!(!matches!(verdict, Ok(Verdict::Install)));
        }
    }
}
