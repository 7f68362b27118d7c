use std::collections::BTreeSet;

use capsule_proto::{KeyId, v1};
use proptest::prelude::*;

use super::*;

fn plan() -> AddressPlan {
    // Eight slots.
    AddressPlan::new("10.200.0.0/19".parse().unwrap(), 22, "fd12:3456:789a::/48".parse().unwrap()).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn key(n: u8) -> PublicKey {
    PublicKey::try_from([n; 32].as_slice()).unwrap()
}

fn capsule(n: u8) -> CapsuleId {
    format!("00000000-0000-4000-8000-0000000000{n:02x}").parse().unwrap()
}

fn new(n: u8, slot: Option<u16>) -> Change {
    Change::Enroll(NewMember {
        name: name(&format!("c{n}")),
        capsule: capsule(n),
        public_key: key(n),
        slot: slot.map(Slot),
        endpoints: vec![format!("10.0.0.{n}:51820").parse().unwrap()],
        keepalive: 25,
    })
}

fn three() -> MemberMap {
    MemberMap::found(plan()).with(&[new(1, None), new(2, None), new(3, None)]).unwrap().unwrap()
}

fn signed(map: &MemberMap, by: &str) -> SignedMap {
    let wire = v1::SignedMap { map: map.encode(), key_id: by.into(), signature: Vec::new() };
    SignedMap::try_from(wire).unwrap()
}

fn held(map: &SignedMap) -> Held<'_> {
    Held { fabric: map.map().fabric(), generation: map.map().generation(), map: Some(map) }
}

/// The same map with something wrong in it.
fn broken(breaking: impl FnOnce(&mut v1::MemberMap)) -> String {
    let mut map = three();
    map.overrides.push(Override {
        workload: name("web"),
        addresses: map.plan.workload(Slot(0), 7).unwrap(),
        member: name("c2"),
    });
    let mut wire = v1::MemberMap::from(&map);
    MemberMap::try_from(wire.clone()).unwrap();
    breaking(&mut wire);
    let error = MemberMap::try_from(wire).unwrap_err();
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_entry_that_does_not() {
    for (part, error) in [
        ("fabric id", broken(|map| map.fabric_id = "x".into())),
        ("generation is 0", broken(|map| map.generation = 0)),
        ("beyond any", broken(|map| map.generation = u64::MAX)),
        ("not a prefix", broken(|map| map.ipv4_range = "10.0.0.0".into())),
        ("do not fit", broken(|map| map.slice_prefix = 40)),
        ("unique local", broken(|map| map.ipv6_prefix = "2001:db8::/48".into())),
        ("\"C1\"", broken(|map| map.members[0].name = "C1".into())),
        ("another one has its name", broken(|map| map.members[1].name = "c1".into())),
        ("another one has its key", broken(|map| map.members[1].public_key = vec![1; 32])),
        (
            "another one has its capsule id",
            broken(|map| map.members[1].capsule_id = map.members[0].capsule_id.clone()),
        ),
        ("does not come after", broken(|map| map.members[1].slot = 0)),
        ("there is no slot 8", broken(|map| map.members[2].slot = 8)),
        ("32 bytes", broken(|map| map.members[0].public_key.truncate(31))),
        ("not an endpoint", broken(|map| map.members[0].endpoints = vec!["x".into()])),
        ("more than 16", broken(|map| map.members[0].endpoints = vec!["x:1".into(); 17])),
        ("keep-alive", broken(|map| map.members[0].keepalive_seconds = 70_000)),
        ("no member \"c9\"", broken(|map| map.overrides[0].member = "c9".into())),
        ("same slot and offset", broken(|map| map.overrides[0].ipv6 = "fd12:3456:789a::8".into())),
        ("no workload's address", broken(|map| map.overrides[0].ipv4 = "10.200.0.1".into())),
        ("no workload's address", broken(|map| map.overrides[0].ipv4 = "8.8.8.8".into())),
        ("name on that member", broken(|map| map.overrides.push(map.overrides[0].clone()))),
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(matches!(MemberMap::decode(&[0xff]), Err(MapError::Encoding(_))));
    assert!(matches!(MemberMap::decode(&vec![0; (4 << 20) + 1]), Err(MapError::Size(_))));
}

#[test]
fn members_get_the_lowest_free_slot_and_free_it_when_they_are_removed() {
    let map = three();
    let slots =
        |map: &MemberMap| map.members().iter().map(|m| (m.name.to_string(), m.slot.0)).collect::<Vec<_>>();
    assert_eq!(slots(&map), [("c1".into(), 0), ("c2".into(), 1), ("c3".into(), 2)]);
    let map = map.with(&[Change::Remove(name("c2"))]).unwrap().unwrap();
    let map = map.with(&[new(4, Some(7)), new(5, None)]).unwrap().unwrap();
    assert_eq!(slots(&map), [("c1".into(), 0), ("c5".into(), 1), ("c3".into(), 2), ("c4".into(), 7)]);
    assert_eq!(map.generation(), Generation(4));
}

#[test]
fn a_slot_is_not_dealt_again_while_a_workload_keeps_an_address_of_it() {
    let mut map = three();
    let addresses = map.plan.workload(Slot(0), 9).unwrap();
    map.overrides.push(Override { workload: name("web"), addresses, member: name("c2") });
    assert_eq!(map.holder(addresses.ipv4.into()).unwrap().name, name("c2"));
    let c2 = map.member("c2").unwrap();
    assert!(map.allowed_ips(c2).contains(&Prefix::host(addresses.ipv6)));
    let error = map.with(&[Change::Remove(name("c2"))]).unwrap_err();
    assert!(matches!(error, ChangeError::HasMoved { .. }), "{error}");
    let map = map.with(&[Change::Remove(name("c1"))]).unwrap().unwrap();
    assert_eq!(map.lowest_free_slot(), Some(Slot(3)));
    let error = map.with(&[new(9, Some(0))]).unwrap_err().to_string();
    assert!(error.contains("workload that moved away"), "{error}");
}

#[test]
fn a_repeated_change_makes_no_new_generation() {
    let map = three();
    let changes = [
        new(2, None),
        Change::SetRelay(name("c1"), false),
        Change::SetKey(name("c1"), key(1)),
        Change::SetEndpoints(name("c3"), vec!["10.0.0.3:51820".parse().unwrap()]),
    ];
    assert_eq!(map.with(&changes), Ok(None));
}

#[test]
fn changes_that_cannot_be_are_refused_and_say_why() {
    let map = three();
    let refused = |change: Change| map.with(&[change]).unwrap_err().to_string();
    let renamed = |n, called: &str| match new(n, None) {
        Change::Enroll(member) => Change::Enroll(NewMember { name: name(called), ..member }),
        other => other,
    };
    assert!(refused(Change::Remove(name("x"))).contains("no member x "));
    assert!(refused(renamed(9, "c1")).contains("another capsule is called c1 "));
    assert!(refused(new(9, Some(8))).contains("there is no slot 8"));
    assert!(refused(new(9, Some(1))).contains("c2 has it"));
    assert!(refused(new(1, Some(5))).contains("c1 has slot 0"));
    assert!(refused(Change::SetKey(name("c1"), key(2))).contains("same key as c2"));
    let full = map.with(&(4..=8).map(|n| new(n, None)).collect::<Vec<_>>()).unwrap().unwrap();
    assert!(full.with(&[new(9, None)]).unwrap_err().to_string().contains("no free slot"));
}

#[test]
fn only_the_next_map_of_the_same_fabric_is_taken() {
    let map = three();
    let next = map.with(&[new(4, None)]).unwrap().unwrap();
    let rival = map.with(&[new(5, None)]).unwrap().unwrap();
    let (first, second, other) = (signed(&map, "ann"), signed(&next, "ann"), signed(&rival, "bob"));
    let ask = |offered: &SignedMap, holding: Option<Held<'_>>| judge(offered, holding, capsule(1), &[key(1)]);
    assert_eq!(ask(&first, None), Ok(Verdict::Take));
    assert_eq!(ask(&second, Some(held(&first))), Ok(Verdict::Take));
    assert_eq!(ask(&second, Some(held(&second))), Ok(Verdict::Present));
    assert!(matches!(ask(&first, Some(held(&second))), Err(Refusal::Older { .. })));
    let fork = ask(&other, Some(held(&second))).unwrap_err().to_string();
    assert!(fork.contains("ann") && fork.contains("bob"), "{fork}");
    let foreign = signed(&MemberMap { fabric: FabricId::random(), ..next.clone() }, "ann");
    assert!(matches!(ask(&foreign, Some(held(&first))), Err(Refusal::OtherFabric { .. })));
    assert!(matches!(judge(&first, None, capsule(1), &[key(9)]), Err(Refusal::OtherKey { .. })));
    assert!(matches!(judge(&first, None, capsule(9), &[key(9)]), Err(Refusal::NotMember)));
}

#[test]
fn who_was_removed_leaves_and_no_older_map_brings_it_back() {
    let map = three();
    let without = map.with(&[Change::Remove(name("c1"))]).unwrap().unwrap();
    let (first, second) = (signed(&map, "ann"), signed(&without, "ann"));
    assert_eq!(judge(&second, Some(held(&first)), capsule(1), &[key(1)]), Ok(Verdict::Leave));
    let removed = Held { map: None, ..held(&second) };
    assert!(matches!(judge(&first, Some(removed), capsule(1), &[key(1)]), Err(Refusal::Older { .. })));
    assert!(matches!(judge(&second, Some(removed), capsule(1), &[key(1)]), Err(Refusal::Older { .. })));
    let back = signed(&without.with(&[new(1, None)]).unwrap().unwrap(), "ann");
    assert_eq!(judge(&back, Some(removed), capsule(1), &[key(1)]), Ok(Verdict::Take));
    let elsewhere = signed(&MemberMap { fabric: FabricId::random(), ..map }, "ann");
    assert_eq!(judge(&elsewhere, Some(removed), capsule(1), &[key(1)]), Ok(Verdict::Take));
}

#[test]
fn a_diff_names_who_is_different_and_nobody_else() {
    let map = three();
    let changes = [Change::Remove(name("c3")), new(4, None), Change::SetKey(name("c2"), key(22))];
    let next = map.with(&changes).unwrap().unwrap();
    let seen = diff(Some(&map), &next, capsule(1));
    let names = |members: &[Member]| members.iter().map(|m| m.name.to_string()).collect::<Vec<_>>();
    assert_eq!((names(&seen.added), names(&seen.removed)), (vec!["c4".into()], vec!["c3".into()]));
    assert_eq!(seen.changed.iter().map(|(_, is)| is.public_key).collect::<Vec<_>>(), [key(22)]);
    assert!(diff(Some(&map), &map.after(Generation(1)), capsule(1)).is_empty());
    assert_eq!(names(&diff(None, &map, capsule(1)).added), ["c2", "c3"]);
    // A workload that moves changes whose address it is, on both sides.
    let mut moved = map.clone();
    let addresses = map.plan.workload(Slot(0), 9).unwrap();
    moved.overrides.push(Override { workload: name("web"), addresses, member: name("c2") });
    let seen = diff(Some(&map), &moved, capsule(3));
    assert_eq!(seen.changed.iter().map(|(_, is)| is.name.to_string()).collect::<Vec<_>>(), ["c2"]);
}

#[test]
fn a_signature_covers_the_map_and_nothing_that_only_looks_like_one() {
    let key_id = KeyId::of(b"key");
    let sign = |message: &[u8]| message.iter().rev().copied().collect::<Vec<u8>>();
    let made = SignedMap::new(three(), &key_id, sign);
    assert!(made.verify(|message, signature| sign(message) == signature));
    assert!(made.wire().signature.ends_with(&sign(b"capsule fabric map v1\0")));
    assert_eq!(SignedMap::try_from(made.wire().clone()), Ok(made));
}

fn change() -> impl Strategy<Value = Change> {
    let n = 1..12u8;
    prop_oneof![
        4 => (n.clone(), proptest::option::of(0..10u16)).prop_map(|(n, slot)| new(n, slot)),
        2 => n.clone().prop_map(|n| Change::Remove(name(&format!("c{n}")))),
        1 => (n.clone(), any::<bool>()).prop_map(|(n, relay)| Change::SetRelay(name(&format!("c{n}")), relay)),
        1 => (n.clone(), 1..60u8).prop_map(|(n, with)| Change::SetKey(name(&format!("c{n}")), key(with))),
        1 => (n, 1..9u16).prop_map(|(n, port)| {
            Change::SetEndpoints(name(&format!("c{n}")), vec![Endpoint::new("h", port).unwrap()])
        }),
    ]
}

proptest! {
    #[test]
    fn whatever_is_changed_the_map_makes_sense_and_no_two_slices_overlap(
        changes in prop::collection::vec(change(), 1..60)
    ) {
        let mut map = MemberMap::found(plan());
        for change in changes {
            if let Ok(Some(next)) = map.with(std::slice::from_ref(&change)) {
                prop_assert_eq!(next.generation(), map.generation().next());
                map = next;
            }
            prop_assert_eq!(MemberMap::decode(&map.encode()), Ok(map.clone()));
            let slices: Vec<Prefix> = map.members().iter().flat_map(|m| map.allowed_ips(m)).collect();
            for (at, slice) in slices.iter().enumerate() {
                prop_assert!(slices[..at].iter().all(|other| !other.overlaps(slice)));
            }
            let own: BTreeSet<_> = map.members().iter().map(|m| map.plan().own(m.slot)).collect();
            prop_assert_eq!(own.len(), map.members().len());
            for member in map.members() {
                let own = map.plan().own(member.slot);
                prop_assert_eq!(map.holder(own.ipv4.into()), Some(member));
                prop_assert_eq!(map.holder(own.ipv6.into()), Some(member));
            }
        }
    }

    #[test]
    fn whatever_the_bytes_a_map_that_is_read_is_written_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(map) = MemberMap::decode(&bytes) {
            prop_assert_eq!(MemberMap::decode(&map.encode()), Ok(map));
        }
    }
}

#[test]
fn what_the_fuzzer_begins_with_are_maps() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|seed| seed.unwrap().path()).collect();
    assert_eq!(seeds.len(), 3);
    for seed in seeds {
        MemberMap::decode(&std::fs::read(seed).unwrap()).unwrap();
    }
}
