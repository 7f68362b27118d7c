//! Slots, trials and updates in words.

use capsule_proto::v1::{Slot, SlotState, Update, UpdateState, UpdateStatus};

use crate::output::{
    clean, human,
    style::Tone,
    table::{Cell, Column, column, wide},
};

pub(super) fn status_columns() -> Vec<Column> {
    vec![
        column("VERSION"),
        column("SLOT"),
        column("OTHER SLOT"),
        column("TRIAL"),
        column("LAST UPDATE"),
        wide("REASON"),
        wide("ROOTHASH"),
    ]
}

pub(super) fn status_row(status: &UpdateStatus) -> Vec<Cell> {
    let active = status.slots.iter().find(|slot| slot.is_active).cloned().unwrap_or_default();
    let other = status.slots.iter().find(|slot| !slot.is_active).cloned().unwrap_or_default();
    let update = status.update.clone().unwrap_or_default();
    let last = match update.state() {
        UpdateState::Unspecified => "-".to_owned(),
        state => format!("{} {state} {} ago", update.version, human::age(update.changed_at.as_ref())),
    };
    vec![
        status.version.as_str().into(),
        Cell::new(&active.slot, if status.is_tentative { Tone::Warn } else { Tone::Good }),
        Cell::new(&content(&other), tone(&other)),
        trial(status),
        Cell::new(&last, update_tone(update.state())),
        update.reason.as_str().into(),
        active.roothash.as_str().into(),
    ]
}

/// `b: 0.2.0 (bad)`.
fn content(slot: &Slot) -> String {
    match slot.state() {
        SlotState::Empty | SlotState::Unspecified => format!("{}: empty", slot.slot),
        state => format!("{}: {} ({state})", slot.slot, slot.version),
    }
}

fn tone(slot: &Slot) -> Tone {
    match slot.state() {
        SlotState::Bad => Tone::Bad,
        SlotState::Tentative => Tone::Warn,
        _ => Tone::Plain,
    }
}

/// `-`, or what a trial waits for.
fn trial(status: &UpdateStatus) -> Cell {
    if !status.is_tentative {
        return "-".into();
    }
    Cell::new(&waits_for(status), Tone::Warn)
}

/// What it waits for, and how long: `network: no carrier (9m left)`.
pub(super) fn waits_for(status: &UpdateStatus) -> String {
    let left = status.confirm_before.as_ref().map(|end| format!(" ({} left)", human::left(end)));
    purpose(status) + &left.unwrap_or_default()
}

/// `well for 12 of 60 s`, `network: no carrier`, `waits for update confirm`.
fn purpose(status: &UpdateStatus) -> String {
    let problems: Vec<String> = status
        .vitals
        .iter()
        .filter(|vital| !vital.is_well)
        .map(|vital| format!("{}: {}", vital.name, clean::one_line(&vital.detail)))
        .collect();
    match (&problems[..], status.auto_confirm_seconds) {
        ([], 0) => "waits for `update confirm`".to_owned(),
        ([], soak) => format!("well for {} of {soak} s", status.well_seconds),
        (problems, _) => problems.join("; "),
    }
}

/// What a roll-back leads to.
pub(super) fn returning(status: &UpdateStatus) -> String {
    let other = status.slots.iter().find(|slot| !slot.is_active).cloned().unwrap_or_default();
    format!("leaves {} and reboots into {} in slot {}", status.version, other.version, other.slot)
}

pub(super) fn list_columns() -> Vec<Column> {
    vec![
        wide("ID"),
        column("VERSION"),
        column("FROM"),
        column("SLOT"),
        column("STATE"),
        column("AGE"),
        column("REASON"),
    ]
}

pub(super) fn list_row(update: &Update) -> Vec<Cell> {
    vec![
        update.id.to_string().into(),
        update.version.as_str().into(),
        update.from_version.as_str().into(),
        update.slot.as_str().into(),
        Cell::new(&update.state().to_string(), update_tone(update.state())),
        human::age(update.changed_at.as_ref()).into(),
        update.reason.as_str().into(),
    ]
}

fn update_tone(state: UpdateState) -> Tone {
    match state {
        UpdateState::Confirmed => Tone::Good,
        UpdateState::RolledBack | UpdateState::Failed => Tone::Bad,
        UpdateState::Armed | UpdateState::Tentative => Tone::Warn,
        _ => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use capsule_proto::v1::Vital;

    use super::*;

    #[test]
    fn a_trial_tells_what_it_waits_for() {
        let mut status = UpdateStatus { is_tentative: true, ..Default::default() };
        assert_eq!(waits_for(&status), "waits for `update confirm`");
        status.auto_confirm_seconds = 60;
        status.well_seconds = 12;
        assert_eq!(waits_for(&status), "well for 12 of 60 s");
        status.vitals.push(Vital { name: "network".into(), is_well: false, detail: "no carrier".into() });
        assert_eq!(waits_for(&status), "network: no carrier");
        let end = SystemTime::now() + Duration::from_secs(570);
        status.confirm_before = Some(capsule_proto::timestamp(end));
        assert_eq!(waits_for(&status), "network: no carrier (9m left)");
    }

    #[test]
    fn a_slot_tells_what_is_in_it() {
        let slot = Slot { slot: "b".into(), version: "0.2.0".into(), ..Default::default() };
        assert_eq!(content(&slot), "b: empty");
        let bad = Slot { state: SlotState::Bad.into(), ..slot };
        assert_eq!(content(&bad), "b: 0.2.0 (bad)");
    }
}
