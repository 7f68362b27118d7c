//! What an agent that starts does about the newest update: pure.

use capsule_proto::v1::UpdateState;

use super::loader::Tries;

/// What is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// By the row.
    pub state: UpdateState,
    /// Whether the update's slot is the one that runs.
    pub runs: bool,
    /// Whether what runs is on trial.
    pub is_tentative: bool,
    /// Of the update's slot, where that is the other one and has an entry.
    pub tries: Option<Tries>,
    /// Whether it was armed in this very boot.
    pub is_same_boot: bool,
    /// Whether a trial of the slot is recorded.
    pub has_trial: bool,
    /// Whether chunks are kept of it; a return to the slot before has none.
    pub has_bundle: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The row is right.
    Nothing,
    /// The row is brought to this state.
    Become(UpdateState),
    /// The slot was armed, and the machine is still to be started anew.
    Reboot,
    /// The slot was tried, and left.
    RolledBack,
    /// It will not be booted: the row says so, with this reason.
    Fail(&'static str),
    /// The same, and its entry is removed.
    Disarm(&'static str),
}

/// Decides.
pub fn plan(found: &Found) -> Step {
    use UpdateState::{Armed, Confirmed, Receiving, Tentative, Writing};
    if !matches!(found.state, Writing | Armed | Tentative) {
        return Step::Nothing;
    }
    if found.runs {
        return Step::Become(if found.is_tentative { Tentative } else { Confirmed });
    }
    // The trial is recorded before the entry is written, and forgotten before the slot is touched.
    let was_armed = found.state != Writing || found.has_trial;
    match found.tries {
        Some(Tries::Counted { left: 0, .. }) if was_armed => Step::RolledBack,
        Some(Tries::Counted { left: 1.., .. }) if found.is_same_boot || found.state == Writing => {
            Step::Reboot
        }
        Some(Tries::Counted { left: 1.., .. }) => Step::Disarm("the boot loader did not try it"),
        _ if found.state == Writing && found.has_bundle => Step::Become(Receiving),
        _ => Step::Fail("the capsule stopped while it was armed"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FOUND: Found = Found {
        state: UpdateState::Armed,
        runs: false,
        is_tentative: false,
        tries: Some(Tries::ONE),
        is_same_boot: true,
        has_trial: true,
        has_bundle: true,
    };
    const TRIED: Option<Tries> = Some(Tries::Counted { left: 0, done: 1 });

    #[test]
    fn a_slot_that_was_armed_is_booted_tried_and_kept_or_left() {
        assert_eq!(plan(&FOUND), Step::Reboot);
        let booted = Found { runs: true, is_tentative: true, tries: None, ..FOUND };
        assert_eq!(plan(&booted), Step::Become(UpdateState::Tentative));
        let kept = Found { is_tentative: false, state: UpdateState::Tentative, ..booted };
        assert_eq!(plan(&kept), Step::Become(UpdateState::Confirmed));
        let left = Found { tries: TRIED, is_same_boot: false, ..FOUND };
        assert_eq!(plan(&left), Step::RolledBack);
        assert_eq!(plan(&Found { state: UpdateState::Tentative, ..left }), Step::RolledBack);
    }

    #[test]
    fn one_that_was_being_written_goes_on_where_it_was() {
        let writing = Found { state: UpdateState::Writing, has_trial: false, is_same_boot: false, ..FOUND };
        assert_eq!(plan(&Found { tries: None, ..writing }), Step::Become(UpdateState::Receiving));
        // Of an earlier update that was left.
        assert_eq!(plan(&Found { tries: TRIED, ..writing }), Step::Become(UpdateState::Receiving));
        let recorded = Found { has_trial: true, ..writing };
        assert_eq!(plan(&recorded), Step::Reboot, "its entry is written last");
        assert_eq!(plan(&Found { tries: TRIED, ..recorded }), Step::RolledBack, "it was even tried");
        let a_return = Found { has_bundle: false, tries: Some(Tries::Unlimited), ..writing };
        assert!(matches!(plan(&a_return), Step::Fail(_)), "a good system keeps its entry");
    }

    #[test]
    fn a_loader_that_does_not_try_a_slot_is_not_asked_for_ever() {
        assert!(matches!(plan(&Found { is_same_boot: false, ..FOUND }), Step::Disarm(_)));
    }

    proptest! {
        #[test]
        fn what_has_ended_stays(runs: bool, is_tentative: bool, is_same_boot: bool, has_trial: bool, has_bundle: bool) {
            for state in [UpdateState::Confirmed, UpdateState::RolledBack, UpdateState::Failed] {
                let found = Found { state, runs, is_tentative, tries: None, is_same_boot, has_trial, has_bundle };
                prop_assert_eq!(plan(&found), Step::Nothing);
            }
        }
    }
}
