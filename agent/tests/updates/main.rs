//! Updates from a push to a slot that is kept or left: whole agents over real TLS, on a machine whose
//! disk is a directory.

#![allow(clippy::unwrap_used)]

#[path = "../access/idle.rs"]
mod idle;
mod killed;
mod refusals;
mod resume;
mod rig;

use std::time::Duration;

use capsule_client::update::PushOptions;
use capsule_proto::v1::{self, SlotState, UpdateState};
use capsuled::boot::{Slot, link::Cause};

use rig::Rig;

#[tokio::test]
async fn a_pushed_system_is_tried_once_and_kept_when_an_operator_says_so() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    assert_eq!(booted.slot_states().await, [SlotState::Good, SlotState::Empty]);
    let pushed = booted.push(&rig.bundle("0.2.0")).await.unwrap();
    let update = pushed.update.unwrap();
    assert_eq!((update.state(), update.slot.as_str()), (UpdateState::Armed, "b"));
    assert_eq!(rig.rebooted(1).await, (Cause::Update, "to 0.2.0 in slot b".into()));
    assert_eq!(booted.slot_states().await, [SlotState::Good, SlotState::Tentative]);
    booted.agent.stop().await;

    let booted = rig.boot().await;
    assert_eq!(booted.slot, Slot::B);
    let status = booted.status().await;
    assert!(status.is_tentative && status.confirm_before.is_some());
    assert_eq!((status.version.as_str(), booted.state().await.0), ("0.2.0", UpdateState::Tentative));
    let status = booted.confirm().await;
    assert!(!status.is_tentative);
    assert_eq!(status.update.unwrap().state(), UpdateState::Confirmed);
    assert_eq!(*rig.power.confirmations.lock().unwrap(), 1);
    booted.confirm().await;
    assert_eq!(*rig.power.confirmations.lock().unwrap(), 1, "once is enough");
    // Init still says that this boot began as a trial.
    let booted = rig.restart(booted, true).await;
    assert!(!booted.status().await.is_tentative);
    assert_eq!(*rig.power.confirmations.lock().unwrap(), 2, "it is told again");
    booted.agent.stop().await;
    assert_eq!(rig.boot().await.slot, Slot::B);
}

#[tokio::test]
async fn a_system_that_does_not_come_up_is_left_and_not_installed_again() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    let bundle = rig.bundle("0.2.0");
    booted.push(&bundle).await.unwrap();
    booted.agent.stop().await;
    // Its agent never runs.
    rig.boot().await.agent.stop().await;
    *rig.power.ended.lock().unwrap() = Some("its kernel panicked".into());
    let booted = rig.boot().await;
    assert_eq!(booted.slot, Slot::A);
    assert_eq!(booted.state().await, (UpdateState::RolledBack, "its kernel panicked".into()));
    assert_eq!(booted.slot_states().await, [SlotState::Good, SlotState::Bad]);
    let refusal = booted.refusal(&bundle).await;
    assert!(refusal.contains("its kernel panicked") && refusal.contains("--force"), "{refusal}");
    let events = booted.capsule.events();
    let request = v1::ListEventsRequest { subject_kind: "update".into(), ..Default::default() };
    let mut kept = events.clone().list(request).await.unwrap().into_inner();
    let mut reasons = Vec::new();
    while let Some(event) = kept.message().await.unwrap() {
        reasons.push(event.reason);
    }
    assert!(
        reasons.contains(&"UpdateArmed".into()) && reasons.contains(&"UpdateRolledBack".into()),
        "{reasons:?}"
    );
    booted.push_with(&bundle, PushOptions { force: true, ..Default::default() }).await.unwrap();
    booted.agent.stop().await;
    assert_eq!(rig.boot().await.slot, Slot::B);
}

#[tokio::test]
async fn health_keeps_a_system_once_all_has_been_well_for_the_whole_time() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    let soak = PushOptions { auto_confirm: Some(Duration::from_secs(2)), ..Default::default() };
    booted.push_with(&rig.bundle("0.2.0"), soak).await.unwrap();
    booted.agent.stop().await;
    *rig.health.0.lock().unwrap() = Some("no carrier".into());
    let booted = rig.boot().await;
    let ill = async {
        loop {
            let status = booted.status().await;
            if let [vital] = &status.vitals[..] {
                assert_eq!((vital.is_well, vital.detail.as_str()), (false, "no carrier"));
                assert_eq!((status.auto_confirm_seconds, status.well_seconds), (2, 0));
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ill).await.unwrap();
    assert!(booted.status().await.is_tentative);
    *rig.health.0.lock().unwrap() = None;
    booted.wait_for(UpdateState::Confirmed).await;
    assert_eq!(rig.entries().iter().filter(|entry| entry.name.to_string() == "capsule-b.conf").count(), 1);
}

#[tokio::test]
async fn an_operator_leaves_a_trial_for_the_system_before() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    booted.push(&rig.bundle("0.2.0")).await.unwrap();
    booted.agent.stop().await;
    let booted = rig.boot().await;
    booted.rollback().await.unwrap();
    let (cause, detail) = rig.rebooted(2).await;
    assert_eq!((cause, detail.as_str()), (Cause::Rollback, "from 0.2.0 to 0.1.0 in slot a, by op@test"));
    *rig.power.ended.lock().unwrap() = Some(detail);
    booted.agent.stop().await;
    let booted = rig.boot().await;
    assert_eq!(booted.slot, Slot::A);
    let (state, reason) = booted.state().await;
    assert!(state == UpdateState::RolledBack && reason.contains("by op@test"), "{reason}");
}

#[tokio::test]
async fn a_kept_system_is_left_for_the_one_before_which_is_on_trial_then() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    let refusal = booted.rollback().await.unwrap_err();
    assert!(refusal.message().contains("slot b holds no good system"), "{refusal}");
    booted.push(&rig.bundle("0.2.0")).await.unwrap();
    booted.agent.stop().await;
    let booted = rig.boot().await;
    booted.confirm().await;
    booted.rollback().await.unwrap();
    rig.rebooted(2).await;
    booted.agent.stop().await;
    let booted = rig.boot().await;
    assert_eq!((booted.slot, booted.status().await.version.as_str()), (Slot::A, "0.1.0"));
    booted.wait_for(UpdateState::Confirmed).await;
    assert_eq!(booted.slot_states().await, [SlotState::Good, SlotState::Good]);
    booted.agent.stop().await;
    assert_eq!(rig.boot().await.slot, Slot::A, "it is preferred from now on");
}

#[tokio::test]
async fn the_slot_that_had_to_stand_in_for_a_damaged_one_is_preferred_from_then_on() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    booted.push(&rig.bundle("0.2.0")).await.unwrap();
    booted.agent.stop().await;
    let booted = rig.boot().await;
    booted.confirm().await;
    booted.agent.stop().await;
    assert_eq!(rig.load().slot, Slot::B);

    let booted = rig.start(&rig.fall_back()).await;
    assert_eq!((booted.slot, booted.status().await.version.as_str()), (Slot::A, "0.1.0"));
    assert_eq!(rig.load().slot, Slot::A, "the next boot would fail once more");
    let request = v1::ListEventsRequest { subject_kind: "update".into(), ..Default::default() };
    let mut kept = booted.capsule.events().list(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(event) = kept.message().await.unwrap() {
        told.extend((event.reason == "UpdateSlotFailed").then_some(event.message));
    }
    assert!(told.len() == 1 && told[0].contains("0.2.0 in slot b"), "{told:?}");
    let booted = rig.restart(booted, false).await;
    booted.push(&rig.bundle("0.3.0")).await.unwrap();
    booted.agent.stop().await;
    assert_eq!(rig.boot().await.slot, Slot::B, "a damaged slot is written anew");
}

#[tokio::test]
async fn release_keys_come_with_the_image_and_are_admins_to_change() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    let mut updates = booted.capsule.updates();
    let number = rig.key.public().number().to_string();
    let keys = updates.list_keys(v1::ListReleaseKeysRequest {}).await.unwrap().into_inner().keys;
    assert_eq!((keys.len(), &keys[0].number, keys[0].added_by.as_str()), (1, &number, ""));
    let remove = |number: &str, force| v1::RemoveReleaseKeyRequest { number: number.into(), force };
    let refusal = updates.remove_key(remove(&number, false)).await.unwrap_err();
    assert!(refusal.message().contains("last release key"), "{refusal}");
    let other = capsule_bundle::write::SigningKey::generate("another").unwrap();
    let add = v1::AddReleaseKeyRequest { key: other.public_text() };
    let added = updates.add_key(add.clone()).await.unwrap().into_inner();
    assert_eq!((added.comment.as_str(), added.added_by.as_str()), ("another", "op@test"));
    assert_eq!(updates.add_key(add).await.unwrap().into_inner(), added, "adding it again changes nothing");
    let refusal = updates.add_key(v1::AddReleaseKeyRequest { key: "x".into() }).await.unwrap_err();
    assert!(refusal.message().contains("no release key"), "{refusal}");
    updates.remove_key(remove(&number, false)).await.unwrap();
    assert_eq!(updates.remove_key(remove(&number, false)).await.unwrap_err().code(), tonic::Code::NotFound);
    let booted = rig.restart(booted, false).await;
    let keys =
        booted.capsule.updates().list_keys(v1::ListReleaseKeysRequest {}).await.unwrap().into_inner().keys;
    assert_eq!(keys.len(), 1, "the image's key does not come back");
    let refusal = booted.refusal(&rig.bundle("0.2.0")).await;
    assert!(refusal.contains(&number), "{refusal}");
    booted.push(&rig.bundle_of("0.2.0", rig::system("0.2.0"), &other)).await.unwrap();
}
