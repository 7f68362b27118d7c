use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use capsule_fabric::map::{AddressPlan, Change, NewMember};
use capsule_proto::{KeyId, v1::identity_server};
use tonic::Request;

use super::*;
use crate::identity::{Caller, Purpose};

/// A capsule's fabric on a state directory, with its operators; nothing of it is real but the store.
struct Bench {
    dir: tempfile::TempDir,
    fabric: Fabric,
}

async fn fabric_in(dir: &std::path::Path) -> Fabric {
    let store = Store::open(dir).unwrap();
    let events = Events::start(store.clone());
    let window = Duration::from_mins(1);
    let identity =
        Identity::start(dir, "host".into(), (Purpose::Serve, window), store.clone(), events.clone())
            .await
            .unwrap();
    let config = FabricConfig { state_dir: dir.into(), port: 51820, link: None };
    Fabric::start(config, identity, store, events).await.unwrap()
}

fn operator(seed: u8) -> (Ed25519KeyPair, KeyId) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let id = KeyId::of(pair.public_key().as_ref());
    (pair, id)
}

fn sign(map: &MemberMap, seed: u8) -> v1::SignedMap {
    let (pair, id) = operator(seed);
    SignedMap::new(map.clone(), &id, |message| pair.sign(message).as_ref().to_vec()).wire().clone()
}

const ADMIN: u8 = 1;
const OPERATOR: u8 = 2;
const VIEWER: u8 = 3;
const STRANGER: u8 = 4;

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fabric = fabric_in(dir.path()).await;
        for (seed, role) in [(ADMIN, Role::Admin), (OPERATOR, Role::Operator), (VIEWER, Role::Viewer)] {
            let public_key = operator(seed).0.public_key().as_ref().to_vec();
            let request = v1::AddKeyRequest { name: format!("op-{seed}"), public_key, role: role.into() };
            let mut request = Request::new(request);
            let caller = Caller { key_id: operator(ADMIN).1, role: Role::Admin, name: "test".into() };
            request.extensions_mut().insert(caller);
            identity_server::Identity::add_key(&fabric.0.identity, request).await.unwrap();
        }
        Self { dir, fabric }
    }

    /// A map with this capsule and another one in it.
    async fn map(&self) -> MemberMap {
        let own = self.fabric.ensure_key(false).await.unwrap();
        let plan =
            AddressPlan::new("198.18.0.0/16".parse().unwrap(), 24, AddressPlan::random_ipv6()).unwrap();
        let other = "00000000-0000-4000-8000-000000000002".parse().unwrap();
        let members = [member("own", self.fabric.capsule(), own), member("other", other, key(7))];
        MemberMap::found(plan).with(&members).unwrap().unwrap()
    }

    async fn put(&self, map: &MemberMap, by: u8) -> Result<Generation, FabricError> {
        self.fabric.put(sign(map, by), "a test").await
    }

    /// The messages of this many events of one reason.
    async fn told(&self, reason: &str, count: usize) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let kept = self.fabric.0.events.kept(v1::ListEventsRequest::default()).await.unwrap();
            let told = kept.into_iter().filter(|event| event.reason == reason).map(|event| event.message);
            let told: Vec<String> = told.collect();
            if told.len() == count {
                return told;
            }
            assert!(Instant::now() < end, "not {count} events {reason}: {told:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn generation(&self) -> Option<u64> {
        self.fabric.map().borrow().as_ref().map(|map| map.generation().0)
    }
}

fn key(n: u8) -> PublicKey {
    PublicKey::try_from([n; 32].as_slice()).unwrap()
}

fn member(name: &str, capsule: CapsuleId, public_key: PublicKey) -> Change {
    let name = name.parse().unwrap();
    Change::Enroll(NewMember { name, capsule, public_key, slot: None, endpoints: Vec::new(), keepalive: 25 })
}

#[tokio::test]
async fn a_map_of_an_enrolled_operator_is_taken_and_outlives_the_agent() {
    let bench = Bench::new().await;
    let map = bench.map().await;
    assert_eq!(bench.put(&map, OPERATOR).await.unwrap(), map.generation());
    assert_eq!(bench.put(&map, OPERATOR).await.unwrap(), map.generation());
    let next = map.with(&[Change::SetRelay("other".parse().unwrap(), true)]).unwrap().unwrap();
    bench.put(&next, ADMIN).await.unwrap();
    let Bench { dir, fabric } = bench;
    drop(fabric);
    let again = fabric_in(dir.path()).await;
    assert_eq!(*again.map().borrow().as_deref().unwrap(), next);
    assert_eq!(again.signed().await, Some(sign(&next, ADMIN)));
}

#[tokio::test]
async fn maps_that_nobody_may_sign_or_that_are_not_the_next_change_nothing() {
    let bench = Bench::new().await;
    let map = bench.map().await;
    for (by, part) in [(STRANGER, "not enrolled"), (VIEWER, "may only look")] {
        let error = bench.put(&map, by).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    bench.put(&map, ADMIN).await.unwrap();
    let next = map.with(&[Change::SetRelay("other".parse().unwrap(), true)]).unwrap().unwrap();
    let mut forged = sign(&next, ADMIN);
    forged.signature[0] ^= 1;
    let error = bench.fabric.put(forged, "a test").await.unwrap_err();
    assert!(matches!(error, FabricError::Signature { .. }), "{error}");
    // A signature of something else by the right key.
    let bytes = next.encode();
    let (pair, id) = operator(ADMIN);
    let signature = pair.sign(&bytes).as_ref().to_vec();
    let bare = v1::SignedMap { map: bytes, key_id: id.to_string(), signature };
    assert!(matches!(bench.fabric.put(bare, "a test").await, Err(FabricError::Signature { .. })));
    assert_eq!(bench.generation(), Some(map.generation().0));
    bench.put(&next, ADMIN).await.unwrap();
    let error = bench.put(&map, ADMIN).await.unwrap_err().to_string();
    assert!(error.contains("fetch the newest"), "{error}");
    let rival = map.with(&[Change::Remove("other".parse().unwrap())]).unwrap().unwrap();
    let error = bench.put(&rival, OPERATOR).await.unwrap_err().to_string();
    assert!(error.contains(operator(OPERATOR).1.as_str()), "{error}");
    assert_eq!(bench.generation(), Some(next.generation().0));
    let refused = bench.told("MapRefused", 6).await;
    assert!(
        refused.iter().all(|text| text.contains("signed by") && text.contains("brought by a test")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_removed_capsule_leaves_and_stays_out_until_a_later_map_has_it() {
    let bench = Bench::new().await;
    let map = bench.map().await;
    bench.put(&map, ADMIN).await.unwrap();
    let without = map.with(&[Change::Remove("own".parse().unwrap())]).unwrap().unwrap();
    bench.put(&without, ADMIN).await.unwrap();
    assert_eq!(bench.generation(), None);
    assert!(bench.put(&map, ADMIN).await.unwrap_err().to_string().contains("generation"));
    let again = fabric_in(bench.dir.path()).await;
    assert!(again.put(sign(&map, ADMIN), "a test").await.is_err());
    let own = again.ensure_key(false).await.unwrap();
    let back = without.with(&[member("own", again.capsule(), own)]).unwrap().unwrap();
    again.put(sign(&back, ADMIN), "a test").await.unwrap();
    assert_eq!(*again.map().borrow().as_deref().unwrap(), back);
}

#[tokio::test]
async fn the_next_key_becomes_the_present_one_with_the_map_that_names_it() {
    let bench = Bench::new().await;
    let map = bench.map().await;
    bench.put(&map, ADMIN).await.unwrap();
    let next = bench.fabric.ensure_key(true).await.unwrap();
    let rotated = map.with(&[Change::SetKey("own".parse().unwrap(), next)]).unwrap().unwrap();
    bench.put(&rotated, ADMIN).await.unwrap();
    assert_eq!(bench.fabric.ensure_key(false).await.unwrap(), next);
    let strange = rotated.with(&[Change::SetKey("own".parse().unwrap(), key(9))]).unwrap().unwrap();
    let error = bench.put(&strange, ADMIN).await.unwrap_err().to_string();
    assert!(error.contains("another key"), "{error}");
}

#[tokio::test]
async fn who_leaves_forgets_its_key_and_may_join_another_fabric() {
    let bench = Bench::new().await;
    let map = bench.map().await;
    bench.put(&map, ADMIN).await.unwrap();
    let elsewhere = bench.map().await;
    let error = bench.put(&elsewhere, ADMIN).await.unwrap_err().to_string();
    assert!(error.contains("fabric reset"), "{error}");
    let before = bench.fabric.ensure_key(false).await.unwrap();
    bench.fabric.leave().await.unwrap();
    assert_eq!((bench.generation(), bench.fabric.signed().await), (None, None));
    assert_ne!(bench.fabric.ensure_key(false).await.unwrap(), before);
    bench.put(&bench.map().await, ADMIN).await.unwrap();
}

#[tokio::test]
async fn a_range_that_the_host_has_already_is_refused() {
    let bench = Bench::new().await;
    let own = bench.fabric.ensure_key(false).await.unwrap();
    let taken = taken::prefixes(String::new()).await.unwrap();
    let Some(four) = taken.iter().find(|prefix| prefix.address().is_ipv4()) else { return };
    let range = capsule_fabric::map::Prefix::around(four.address(), four.length().clamp(8, 22));
    let plan = AddressPlan::new(range, 24, AddressPlan::random_ipv6()).unwrap();
    let map = MemberMap::found(plan).with(&[member("own", bench.fabric.capsule(), own)]).unwrap().unwrap();
    let error = bench.put(&map, ADMIN).await.unwrap_err().to_string();
    assert!(error.contains("overlaps") && error.contains(&range.to_string()), "{error}");
}
