//! Pushes that are cut short, and how little of a bundle travels.

use std::{fs, time::Duration};

use capsule_client::update::{PushOptions, Seen, UpdateFile, push};
use capsule_proto::v1::{PushPhase, UpdateState};
use capsuled::boot::{Slot, link::Cause};
use tokio::sync::Notify;

use crate::rig::{Booted, Rig, noise};

/// Pushes until so much of what is wanted was sent, then goes away without a word.
async fn push_part(booted: &Booted, file: &UpdateFile, part: u64) {
    let enough = Notify::new();
    let options = PushOptions::default();
    let seen = |seen| {
        if let Seen::Sent { done_bytes, total_bytes, .. } = seen
            && done_bytes * 100 >= total_bytes * part
        {
            enough.notify_one();
        }
    };
    tokio::select! {
        ended = push(&booted.capsule, file, &options, seen) => panic!("it came to its end: {ended:?}"),
        () = enough.notified() => {}
    }
}

#[tokio::test]
async fn what_both_slots_have_is_not_sent() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    let bundle = rig.bundle("0.2.0");
    let pushed = booted.push(&bundle).await.unwrap();
    let own = 900_000 + 600_000;
    assert!(pushed.sent_bytes > own && pushed.sent_bytes < own + (2 << 20), "{}", pushed.sent_bytes);
    booted.agent.stop().await;
    let booted = rig.boot().await;
    booted.confirm().await;
    // All of it is in the other slot.
    let back = PushOptions { allow_downgrade: true, ..Default::default() };
    let pushed = booted.push_with(&rig.bundle("0.1.0"), back).await.unwrap();
    assert!(pushed.sent_bytes < 100_000, "{}", pushed.sent_bytes);
}

#[tokio::test]
async fn a_push_whose_connection_broke_goes_on_where_it_was() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    let system = [noise("kernel", 900_000), noise("nothing shared", 16 << 20)];
    let bundle = rig.bundle_of("0.2.0", system, &rig.key);
    let file = UpdateFile::open(&bundle, |_| ()).unwrap();
    push_part(&booted, &file, 60).await;
    assert_eq!(booted.state().await.0, UpdateState::Receiving);
    let before = fs::read(rig.partition(Slot::B)).unwrap();
    assert!(before.iter().all(|byte| *byte == 0), "the slot is touched only when all is there");
    // The agent may have noticed, or not; and it may have died meanwhile.
    push_part(&booted, &file, 10).await;
    let booted = rig.restart(booted, false).await;
    let pushed = booted.push(&bundle).await.unwrap();
    assert!(pushed.sent_bytes < file.bytes() * 45 / 100, "{} of {}", pushed.sent_bytes, file.bytes());
    assert_eq!(pushed.update.unwrap().id, 1, "it is the same update");
    rig.rebooted(1).await;
    assert!(!rig.path("state/update").exists(), "what was collected is removed");
    booted.agent.stop().await;
    assert_eq!(rig.boot().await.slot, Slot::B);
}

#[tokio::test]
async fn another_bundle_waits_while_one_arrives_and_takes_its_place_when_it_does_not() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    let system = [noise("kernel", 900_000), noise("nothing shared", 16 << 20)];
    let file = UpdateFile::open(&rig.bundle_of("0.2.0", system, &rig.key), |_| ()).unwrap();
    let other = rig.bundle("0.3.0");
    let begun = Notify::new();
    let refused = async {
        begun.notified().await;
        booted.refusal(&other).await
    };
    let options = PushOptions::default();
    let slow = push(&booted.capsule, &file, &options, |seen| {
        if matches!(seen, Seen::Sent { .. }) {
            begun.notify_one();
        }
    });
    tokio::select! {
        refusal = refused => assert!(refusal.contains("0.2.0 is being installed"), "{refusal}"),
        // A machine so fast that nothing is left to refuse.
        _ = slow => return,
    }
    let push_other = async {
        loop {
            match booted.push(&other).await {
                Err(error) if error.to_string().contains("is being installed") => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                ended => return ended,
            }
        }
    };
    push_other.await.unwrap();
    let updates = booted.capsule.updates().list(capsule_proto::v1::ListUpdatesRequest {}).await.unwrap();
    let states: Vec<_> =
        updates.into_inner().updates.iter().map(|u| (u.version.clone(), u.state())).collect();
    assert_eq!(states, [("0.3.0".into(), UpdateState::Armed), ("0.2.0".into(), UpdateState::Failed)]);
}

#[tokio::test]
async fn a_push_that_is_written_is_followed_only_by_one_that_wants_the_same_of_its_trial() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    let system = [noise("kernel", 900_000), noise("nothing shared", 16 << 20)];
    let bundle = rig.bundle_of("0.2.0", system, &rig.key);
    let file = UpdateFile::open(&bundle, |_| ()).unwrap();
    let options = PushOptions { auto_confirm: Some(Duration::from_secs(5)), ..PushOptions::default() };
    let written = Notify::new();
    let first = push(&booted.capsule, &file, &options, |seen| {
        if matches!(seen, Seen::Capsule(progress) if progress.phase() != PushPhase::Looking) {
            written.notify_one();
        }
    });
    let others = async {
        written.notified().await;
        let (otherwise, same) = tokio::join!(booted.refusal(&bundle), booted.push_with(&bundle, options));
        assert!(otherwise.contains("earlier push of version 0.2.0"), "{otherwise}");
        same.unwrap().update.unwrap().id
    };
    let (first, follower) = tokio::join!(async { first.await.unwrap().update.unwrap().id }, others);
    assert_eq!(first, follower);
    assert_eq!(rig.rebooted(1).await.0, Cause::Update);
}
