//! Pulls from a real registry.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{fixture::noise, *};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn root_an_image_is_pulled_by_tag_and_by_digest_and_then_is_local() {
    let (registry, capsule) = (Registry::start().await, Capsule::start().await);
    let fixture = Fixture::new(MIB).await;
    let name = registry.push("org/app:v1", &fixture).await;
    assert!(capsule.images.get(&name).await.unwrap().is_none());

    let info = capsule.images.ensure(&name, None).await.unwrap();
    assert_eq!((info.reference.as_str(), info.digest), (name.as_str(), fixture.digest()));
    assert_eq!(info.config.config().as_ref().unwrap().cmd().as_ref().unwrap()[0], "/bin/busybox");
    assert!(capsule.images.engine.has_snapshot(&info.chain_id).await.unwrap());

    let by_digest = registry.name(&format!("org/app@{}", fixture.digest()));
    drop(registry);
    for reference in [&name, &by_digest] {
        assert_eq!(capsule.images.ensure(reference, None).await.unwrap().digest, fixture.digest());
    }
    capsule.images.engine.collect().await.unwrap();
    assert!(capsule.images.engine.has_snapshot(&info.chain_id).await.unwrap(), "kept by the record");
    assert!(capsule.images.pull(&name, None, None).await.unwrap_err().is_retryable());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_of_an_index_the_platform_of_this_machine_is_pulled() {
    let (registry, capsule) = (Registry::start().await, Capsule::start().await);
    let ours = Fixture::new(1000).await;
    let other = Fixture::of(vec![noise(2000)], "s390x").await;
    registry.push("org/multi:ours", &ours).await;
    registry.push("org/multi:other", &other).await;
    let entry = |fixture: &Fixture, architecture: &str| {
        let mut entry = fixture.descriptor();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let media_type = "application/vnd.oci.image.index.v1+json";
    let this = oci_spec::image::Arch::default().to_string();
    let index = json!({"schemaVersion": 2, "mediaType": media_type,
        "manifests": [entry(&other, "s390x"), entry(&ours, &this)]});
    let name = registry.name("org/multi:latest");
    registry.push_manifest(&name, index.to_string().as_bytes(), media_type).await;

    let info = capsule.images.ensure(&name, None).await.unwrap();
    assert_eq!(info.digest, ours.digest());
    assert_eq!(capsule.images.get(&name).await.unwrap().unwrap().digest, ours.digest());

    let foreign = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [entry(&other, "s390x")]});
    let name = registry.name("org/multi:foreign");
    registry.push_manifest(&name, foreign.to_string().as_bytes(), media_type).await;
    let error = text(&capsule.images.ensure(&name, None).await.unwrap_err());
    assert!(error.contains("it has linux/s390x"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_refusal_names_registry_repository_and_tag() {
    let (registry, capsule) = (Registry::start().await, Capsule::start().await);
    let name = registry.name("org/app:nope");
    let error = capsule.images.ensure(&name, None).await.unwrap_err();
    let message = text(&error);
    assert!(!error.is_retryable(), "{message}");
    for word in ["no such tag", "\"nope\"", "org/app", &registry.address.to_string()] {
        assert!(message.contains(word), "{message}");
    }
    let nobody = services::free_port().await;
    let error = capsule.images.ensure(&format!("{nobody}/a:b"), None).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(text(&error).contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_credentials_come_with_the_call_or_from_the_file_and_are_asked_for() {
    use std::os::unix::fs::PermissionsExt as _;
    let registry = Registry::private().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(CREDENTIALS_FILE);
    let capsule =
        Capsule::with(RegistryConfig { credentials_file: Some(file.clone()), ..Default::default() }).await;
    let name = registry.push("org/secret:v1", &Fixture::small("secret").await).await;

    let error = capsule.images.ensure(&name, None).await.unwrap_err();
    assert!(!error.is_retryable());
    assert!(text(&error).contains("needs credentials"), "{error}");
    let auth = |password: &str| Some(v1::RegistryAuth { username: "me".into(), password: password.into() });
    let error = capsule.images.pull(&name, auth("wrong"), None).await.unwrap_err();
    assert!(text(&error).contains("asked as user \"me\""), "{error}");
    capsule.images.pull(&name, auth("secret"), None).await.unwrap();

    let other = registry.push("org/secret:v2", &Fixture::small("two").await).await;
    let auths = json!({"auths": {registry.address.to_string(): {"username": "me", "password": "secret"}}});
    std::fs::write(&file, auths.to_string()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    capsule.images.ensure(&other, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_mirror_is_asked_first_and_the_registry_where_it_has_nothing() {
    let (mirror, origin) = (Registry::start().await, Registry::start().await);
    let config = RegistryConfig {
        mirrors: vec![format!("{}=http://{}", origin.address, mirror.address).parse().unwrap()],
        ..Default::default()
    };
    let capsule = Capsule::with(config).await;
    let (here, there) = (Fixture::small("mirror").await, Fixture::small("origin").await);
    mirror.push("org/app:v1", &here).await;
    let both = origin.push("org/app:v1", &there).await;
    assert_eq!(capsule.images.ensure(&both, None).await.unwrap().digest, here.digest());
    let only = origin.push("org/app:v2", &there).await;
    assert_eq!(capsule.images.ensure(&only, None).await.unwrap().digest, there.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_blob_that_was_cut_off_goes_on_where_it_stopped() {
    let (registry, capsule) = (Registry::start().await, Capsule::start().await);
    let fixture = Fixture::new(8 * MIB).await;
    registry.push("org/big:v1", &fixture).await;
    let proxy = Proxy::start(registry.address, Duration::ZERO).await;
    proxy.cut_after.store(3 * MIB as u64, SeqCst);
    capsule.images.ensure(&proxy.name("org/big:v1"), None).await.unwrap();
    assert_little_was_sent_twice(&fixture, &proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_pull_goes_on_after_the_agent_and_containerd_were_killed() {
    let (registry, mut capsule) = (Registry::start().await, Capsule::start().await);
    let fixture = Fixture::new(12 * MIB).await;
    registry.push("org/big:v1", &fixture).await;
    let proxy = Proxy::start(registry.address, Duration::from_millis(10)).await;
    let name = proxy.name("org/big:v1");
    let half = async {
        while proxy.passed.load(SeqCst) < 7 * MIB as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        pulled = capsule.images.ensure(&name, None) => panic!("too fast: {pulled:?}"),
        () = half => {}
    }
    capsule.containerd.crash().await;
    capsule.restart_agent();
    capsule.images.engine.collect().await.unwrap();
    capsule.images.ensure(&name, None).await.unwrap();
    assert_little_was_sent_twice(&fixture, &proxy);
}

/// What was in buffers when a connection broke is sent again.
fn assert_little_was_sent_twice(fixture: &Fixture, proxy: &Proxy) {
    let size: usize = fixture.layers.iter().map(Vec::len).sum();
    let passed = proxy.passed.load(SeqCst) as usize;
    assert!(passed > size && passed < size + 5 * MIB, "{passed} bytes came for {size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_those_who_ask_at_the_same_time_share_one_download_with_its_progress() {
    let (registry, capsule) = (Registry::start().await, Capsule::start().await);
    let fixture = Fixture::new(4 * MIB).await;
    registry.push("org/app:v1", &fixture).await;
    let proxy = Proxy::start(registry.address, Duration::from_millis(5)).await;
    let name = proxy.name("org/app:v1");
    let (sender, receiver) = tokio::sync::watch::channel(v1::ImageProgress::default());
    // The first leaves early; the others get their image all the same.
    let leaves = tokio::time::timeout(Duration::from_millis(100), capsule.images.ensure(&name, None));
    let stay = (0..8).map(|_| capsule.images.ensure(&name, Some(&sender)));
    let (left, stayed) = tokio::join!(leaves, futures_util::future::join_all(stay));
    assert!(left.is_err());
    for info in stayed {
        assert_eq!(info.unwrap().digest, fixture.digest());
    }
    let size: usize = fixture.layers.iter().map(Vec::len).sum();
    let passed = proxy.passed.load(SeqCst) as usize;
    assert!(passed < size + MIB / 2, "{passed} bytes came for {size}");
    let layers = receiver.borrow().layers.clone();
    assert_eq!(layers.len(), 2);
    assert!(layers.iter().all(|layer| layer.state == i32::from(v1::LayerState::Done)), "{layers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_pull_stops_when_nobody_waits_for_it() {
    let (registry, capsule) = (Registry::start().await, Capsule::start().await);
    registry.push("org/app:v1", &Fixture::new(8 * MIB).await).await;
    let proxy = Proxy::start(registry.address, Duration::from_millis(20)).await;
    let name = proxy.name("org/app:v1");
    let left = tokio::time::timeout(Duration::from_millis(300), capsule.images.ensure(&name, None)).await;
    assert!(left.is_err());
    assert!(capsule.images.pulls.running().is_empty());
    let began = Instant::now();
    let mut passed = proxy.passed.load(SeqCst);
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = proxy.passed.load(SeqCst);
        if now == passed {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "bytes still come");
        passed = now;
    }
    assert!(capsule.images.get(&name).await.unwrap().is_none());
}
