//! What is refused, with the reason, and nothing changed.

use std::{fs, net::SocketAddr};

use capsule_bundle::{Digest, write::SigningKey};
use capsule_client::update::PushOptions;
use capsule_proto::v1::{
    self, BeginUpdate, ChunkData, ChunkList, ChunkRef, PushUpdateRequest, push_update_request::Step,
};
use capsuled::{agent::Agent, boot::Slot, config::Config};
use tonic::{Code, Status};

use crate::{
    idle,
    rig::{Booted, Rig, noise, system},
};

/// All that a refused push must leave as it was.
fn fingerprint(rig: &Rig) -> (Digest, Vec<String>) {
    let mut names: Vec<String> = rig.entries().iter().map(|entry| entry.name.to_string()).collect();
    names.sort();
    (Digest::of(&fs::read(rig.partition(Slot::B)).unwrap()), names)
}

/// Sends messages as they are; what the capsule says at last.
async fn say(booted: &Booted, steps: Vec<Step>) -> Result<(), Status> {
    let requests = steps.into_iter().map(|step| PushUpdateRequest { step: Some(step) });
    let stream = futures_util::stream::iter(requests.collect::<Vec<_>>());
    let mut answers = booted.capsule.updates().push(stream).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

fn begin(rig: &Rig, version: &str) -> BeginUpdate {
    let bundle = fs::File::open(rig.bundle(version)).unwrap();
    let signed = capsule_bundle::Bundle::open(bundle).unwrap().signed().clone();
    BeginUpdate { manifest: signed.manifest, signature: signed.signature, ..Default::default() }
}

#[tokio::test]
async fn bundles_that_nobody_trusted_signed_are_refused_and_nothing_changes() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    let before = fingerprint(&rig);
    let stranger = SigningKey::generate("a stranger").unwrap();
    let refusal = booted.refusal(&rig.bundle_of("0.2.0", system("0.2.0"), &stranger)).await;
    assert!(refusal.contains(&stranger.public().number().to_string()), "{refusal}");
    let good = begin(&rig, "0.2.0");
    let unsigned = BeginUpdate { signature: String::new(), ..good.clone() };
    let refusal = say(&booted, vec![Step::Begin(unsigned)]).await.unwrap_err();
    assert!(refusal.code() == Code::InvalidArgument && refusal.message().contains("unsigned"), "{refusal}");
    let other = String::from_utf8(good.manifest.clone()).unwrap().replace("0.2.0", "0.3.0");
    let forged = BeginUpdate { manifest: other.into_bytes(), ..good.clone() };
    let refusal = say(&booted, vec![Step::Begin(forged)]).await.unwrap_err();
    assert!(refusal.message().contains("does not fit its manifest"), "{refusal}");
    let long = BeginUpdate { manifest: vec![b' '; 1 << 20], ..good };
    assert!(say(&booted, vec![Step::Begin(long)]).await.unwrap_err().message().contains("too long"));
    assert_eq!(fingerprint(&rig), before);
    assert!(booted.status().await.update.is_none(), "not even begun");
}

#[tokio::test]
async fn versions_that_do_not_fit_are_refused_with_what_would_help() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    let before = fingerprint(&rig);
    let refusal = booted.refusal(&rig.bundle("0.0.9")).await;
    assert!(refusal.contains("0.1.0") && refusal.contains("--allow-downgrade"), "{refusal}");
    assert!(booted.push(&rig.bundle("0.1.0")).await.unwrap().update.is_none(), "it runs already");
    let foreign = rig.path("bundles/foreign.update");
    rig.write("0.2.0", "riscv64", &rig.key, &foreign);
    let refusal = booted.refusal(&foreign).await;
    assert!(refusal.contains("riscv64"), "{refusal}");
    let large = [noise("kernel", 5000), noise("large", 25 << 20)];
    let refusal = booted.refusal(&rig.bundle_of("0.3.0", large, &rig.key)).await;
    assert!(refusal.contains("oversized"), "{refusal}");
    assert_eq!(fingerprint(&rig), before);
    let allowed = PushOptions { allow_downgrade: true, ..Default::default() };
    booted.push_with(&rig.bundle("0.0.9"), allowed).await.unwrap();
    let refusal = booted.refusal(&rig.bundle("0.4.0")).await;
    assert!(refusal.contains("is armed"), "{refusal}");
}

#[tokio::test]
async fn the_slot_that_a_trial_would_fall_back_to_is_never_written() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    booted.push(&rig.bundle("0.2.0")).await.unwrap();
    booted.agent.stop().await;
    let booted = rig.boot().await;
    let before = fs::read(rig.partition(Slot::A)).unwrap();
    let force = PushOptions { allow_downgrade: true, force: true, ..Default::default() };
    let refusal = booted.push_with(&rig.bundle("0.3.0"), force).await.unwrap_err().to_string();
    assert!(refusal.contains("runs on trial"), "{refusal}");
    assert!(fs::read(rig.partition(Slot::A)).unwrap() == before);
}

#[tokio::test]
async fn callers_that_do_not_keep_to_the_protocol_change_nothing() {
    let rig = Rig::new();
    let booted = rig.boot().await;
    let before = fingerprint(&rig);
    let good = Step::Begin(begin(&rig, "0.2.0"));
    let whole = |id: u8, bytes: u32| ChunkRef { id: vec![id; 32], bytes };
    let list = |chunks: Vec<ChunkRef>| Step::Chunks(ChunkList { chunks });
    let data = |index| Step::Data(ChunkData { index, data: vec![1, 2, 3] });
    for (steps, told) in [
        (vec![], "ended early"),
        (vec![data(0)], "does not begin with a manifest"),
        (vec![good.clone(), data(0)], "not complete"),
        (vec![good.clone(), list(vec![whole(1, 64 << 20)])], "beyond the end"),
        (vec![good.clone(), list(vec![whole(1, 1)])], "has 1 bytes"),
        (vec![good.clone(), list(vec![ChunkRef { id: vec![1; 3], bytes: 100_000 }])], "SHA-256"),
        (vec![good.clone()], "ended early"),
    ] {
        let refusal = say(&booted, steps).await.unwrap_err();
        assert!(refusal.message().contains(told), "{told}: {refusal}");
    }
    // Chunks that are named otherwise than they are.
    let file = capsule_client::update::UpdateFile::open(&rig.bundle("0.2.0"), |_| ()).unwrap();
    let content = file.manifest().content_bytes();
    let kernel = file.manifest().kernel.bytes;
    let mut chunks = Vec::new();
    for part in [kernel, content - kernel] {
        let rest = (0..part.div_ceil(200_000)).map(|at| (part - at * 200_000).min(200_000) as u32);
        chunks.extend(rest.map(|bytes| whole(7, bytes)));
    }
    let refusal = say(&booted, vec![good, list(chunks), data(0)]).await.unwrap_err();
    assert!(refusal.code() == Code::DataLoss && refusal.message().contains("damaged"), "{refusal}");
    assert_eq!(fingerprint(&rig), before);
    booted.push(&rig.bundle("0.2.0")).await.unwrap();
}

#[tokio::test]
async fn a_capsule_on_somebody_elses_system_says_who_updates_that() {
    let dir = tempfile::tempdir().unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config { listen, ..Config::new(dir.path()) };
    let agent = Agent::builder(config).runtime(idle::runtime()).start().await.unwrap();
    let operator = capsule_client::Connector::new(capsule_client::OperatorKey::generate().unwrap()).unwrap();
    let address = agent.address().to_string().parse().unwrap();
    let probe = capsule_client::adopt::probe(&operator, &address).await.unwrap();
    let adopted = capsule_client::adopt::adopt(&operator, &probe, "op@test").await.unwrap();
    let target = capsule_client::Target {
        name: "a".into(),
        address,
        capsule_id: adopted.context.capsule_id.clone(),
        fingerprint: adopted.context.fingerprint,
    };
    let mut updates = operator.connect(&target).await.unwrap().updates();
    let refusals = [
        updates.get_status(v1::GetUpdateStatusRequest {}).await.unwrap_err(),
        updates.confirm(v1::ConfirmUpdateRequest {}).await.unwrap_err(),
        updates.rollback(v1::RollbackUpdateRequest::default()).await.unwrap_err(),
        updates.list(v1::ListUpdatesRequest {}).await.unwrap_err(),
        updates.list_keys(v1::ListReleaseKeysRequest {}).await.unwrap_err(),
        updates.push(futures_util::stream::empty()).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.code(), Code::FailedPrecondition);
        assert!(refusal.message().contains("no appliance"), "{refusal}");
    }
}
