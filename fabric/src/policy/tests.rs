//! The compiled sets against a straight reading of the rules.

use std::net::IpAddr;

use capsule_proto::{
    reference::{Peer, Pick, Ports, Request, Service},
    v1,
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::map::{AddressPlan, CapsuleId, Change, NewMember, PublicKey, Slot};

const MEMBERS: [&str; 3] = ["a", "b", "c"];
const WORKLOADS: [&str; 3] = ["web", "db", "api"];

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn plan() -> AddressPlan {
    AddressPlan::new("10.200.0.0/19".parse().unwrap(), 24, "fd12:3456:789a::/48".parse().unwrap()).unwrap()
}

fn workload(slot: u16, offset: u32) -> Addresses {
    plan().workload(Slot(slot), offset).unwrap()
}

/// `a`, `b` and `c` have the slots 0, 1 and 2.
fn map() -> MemberMap {
    let new = |n: u8| {
        Change::Enroll(NewMember {
            name: name(MEMBERS[usize::from(n)]),
            capsule: format!("00000000-0000-4000-8000-0000000000{n:02x}").parse::<CapsuleId>().unwrap(),
            public_key: PublicKey::try_from([n + 1; 32].as_slice()).unwrap(),
            slot: Some(Slot(n.into())),
            endpoints: Vec::new(),
            keepalive: 0,
        })
    };
    MemberMap::found(plan()).with(&[new(0), new(1), new(2)]).unwrap().unwrap()
}

/// Everybody with an address: who, where, and whether it is the capsule itself.
#[derive(Clone, Debug)]
struct Somebody {
    workload: Option<&'static str>,
    member: &'static str,
    addresses: Addresses,
}

/// Every member has `web` and `db`; `api` of `b` got its addresses on `c`.
fn everybody() -> (MemberMap, Directory, Vec<Somebody>) {
    let moved = workload(2, 9);
    let mut wire = v1::MemberMap::from(&map());
    wire.overrides.push(v1::AddressOverride {
        workload: "api".into(),
        ipv4: moved.ipv4.to_string(),
        ipv6: moved.ipv6.to_string(),
        member: "b".into(),
    });
    let map = MemberMap::try_from(wire).unwrap();
    let (mut directory, mut all) = (Directory::new(), Vec::new());
    for (slot, member) in (0..).zip(MEMBERS) {
        all.push(Somebody { workload: None, member, addresses: plan().own(Slot(slot)) });
        for (offset, workload_name) in (2..).zip(&WORKLOADS[..2]) {
            let addresses = workload(slot, offset);
            all.push(Somebody { workload: Some(workload_name), member, addresses });
            directory.entry(name(member)).or_default().insert(name(workload_name), addresses);
        }
    }
    all.push(Somebody { workload: Some("api"), member: "b", addresses: workload(2, 9) });
    (map, directory, all)
}

/// Whether a reference means somebody, read word by word.
fn means(reference: &Reference, somebody: &Somebody, address: IpAddr, flow: Flow) -> bool {
    let is_peer = match (&reference.peer, somebody.workload) {
        (Peer::Workload(workload, member), Some(name)) => {
            workload.takes(name) && member.takes(somebody.member)
        }
        (Peer::Host(member) | Peer::Operator(member), None) => member.takes(somebody.member),
        (Peer::Cidr(cidr), Some(_)) => {
            cidr.address().is_ipv4() == address.is_ipv4() && (cidr.address()..=cidr.last()).contains(&address)
        }
        _ => false,
    };
    let is_in = |ports: Ports| (ports.first()..=ports.last()).contains(&flow.port);
    is_peer
        && match reference.service {
            Service::Any => true,
            Service::Tcp(ports) => flow.protocol == Protocol::TCP && is_in(ports),
            Service::Udp(ports) => flow.protocol == Protocol::UDP && is_in(ports),
            Service::Icmp => ![Protocol::TCP, Protocol::UDP].contains(&flow.protocol),
        }
}

/// Whether the packet filter lets it pass: what the rules of `chains.rs` do.
fn passes(filter: &Filter, direction: Direction, flow: Flow) -> bool {
    let singular = filter.known[&(filter::Who::Singular, flow.family())].contains(&flow.peer(direction));
    filter.sets.iter().filter(|(set, _)| set.direction == direction).any(|(set, elements)| {
        let element = flow.element(set);
        (!singular || set.is_for_singular()) && element.is_some_and(|element| elements.contains(&element))
    })
}

fn frame() -> Frame {
    Frame {
        table: "t".into(),
        link: "cw-0000".into(),
        bridge: "cap-0000".into(),
        ranges: [plan().range(), plan().ipv6()],
        open_ports: vec![50002],
    }
}

fn filter(
    policies: &[(usize, Vec<Reference>, Vec<Reference>)],
    me: &'static str,
) -> (Filter, Vec<(Subject, usize)>) {
    let (map, directory, all) = everybody();
    let own: Vec<(Subject, usize)> = policies
        .iter()
        .zip(all.iter().enumerate().filter(|(_, who)| who.member == me && who.workload.is_some()))
        .map(|((_, to, from), (at, who))| {
            let subject = Subject {
                name: name(who.workload.unwrap()),
                addresses: who.addresses,
                allow_to: to.clone(),
                allow_from: from.clone(),
            };
            (subject, at)
        })
        .collect();
    let subjects: Vec<Subject> = own.iter().map(|(subject, _)| subject.clone()).collect();
    let me = name(me);
    let world = World { map: &map, me: &me, directory: &directory };
    let compiled = compile(&world, &subjects);
    (Filter::new(frame(), &world, &subjects, compiled), own)
}

fn pick(names: &'static [&'static str]) -> impl Strategy<Value = Pick> {
    prop_oneof![Just(Pick::Any), select(names).prop_map(|text| Pick::Named(name(text)))]
}

fn reference() -> impl Strategy<Value = Reference> {
    let member = || pick(&["a", "b", "c", "nobody"]);
    let cidr = select(
        &[
            "0.0.0.0/0",
            "10.200.0.0/19",
            "10.200.1.0/24",
            "10.200.0.0/23",
            "10.200.2.9/32",
            "10.200.1.2/31",
            "10.200.1.1/32",
            "192.0.2.0/24",
            "::/0",
            "fd12:3456:789a:1::/64",
            "fd12:3456:789a:1::2/127",
            "fd12:3456:789a:2::9/128",
        ][..],
    );
    let peer = prop_oneof![
        3 => (pick(&["web", "db", "api", "none"]), member()).prop_map(|(workload, member)| Peer::Workload(workload, member)),
        1 => member().prop_map(Peer::Host),
        1 => member().prop_map(Peer::Operator),
        2 => cidr.prop_map(|text| Peer::Cidr(text.parse().unwrap())),
    ];
    let ports = prop_oneof![
        Just((80, 80)),
        Just((1, 65535)),
        (70..100u16, 70..100u16),
        (1..=u16::MAX, 1..=u16::MAX),
    ]
    .prop_map(|(a, b): (u16, u16)| Ports::new(a.min(b), a.max(b)).unwrap());
    let service = prop_oneof![
        3 => ports.clone().prop_map(Service::Tcp),
        2 => ports.prop_map(Service::Udp),
        1 => Just(Service::Icmp),
        1 => Just(Service::Any),
    ];
    (peer, service).prop_map(|(peer, service)| Reference { peer, service })
}

proptest! {
    #[test]
    fn the_sets_allow_what_the_rules_say_and_nothing_else(
        policies in vec((Just(0usize), vec(reference(), 0..6), vec(reference(), 0..6)), 3),
        me in select(&MEMBERS[..]),
        ports in vec(prop_oneof![60..110u16, 1..=u16::MAX], 4),
    ) {
        let (filter, own) = filter(&policies, me);
        let (map, directory, all) = everybody();
        let me = name(me);
        let world = World { map: &map, me: &me, directory: &directory };
        for (subject, _) in &own {
            for peer in &all {
                for family in [Family::V4, Family::V6] {
                    let of = |addresses: &Addresses| -> IpAddr {
                        if family == Family::V4 { addresses.ipv4.into() } else { addresses.ipv6.into() }
                    };
                    let (here, there) = (of(&subject.addresses), of(&peer.addresses));
                    let others = ports.iter().flat_map(|port| [Request::Tcp(*port), Request::Udp(*port)]);
                    for request in std::iter::once(Request::Icmp).chain(others) {
                        for (direction, rules, source, destination) in [
                            (Direction::Out, &subject.allow_to, here, there),
                            (Direction::In, &subject.allow_from, there, here),
                        ] {
                            let flow = Flow::new(source, destination, request).unwrap();
                            let said = rules.iter().find(|rule| means(rule, peer, there, flow));
                            let done = passes(&filter, direction, flow);
                            prop_assert_eq!(
                                said.is_some(), done, "{:?} {:?} {:?} {:?}", direction, subject, peer, flow
                            );
                            let named = allowing(&world, subject, direction, &flow);
                            prop_assert_eq!(said, named, "{:?} {:?} {:?}", direction, peer, flow);
                        }
                    }
                }
            }
        }
    }
}

fn references(texts: &[&str]) -> Vec<Reference> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn what_is_not_there_is_waited_for_and_says_why() {
    let (map, directory, _) = everybody();
    let me = name("a");
    let subject = Subject {
        name: name("web"),
        addresses: workload(0, 2),
        allow_to: references(&[
            "db@b:1",
            "x@b:1",
            "x@*:1",
            "db@z:1",
            "cidr:192.0.2.0/24:1",
            "cidr:10.200.1.1/32:1",
        ]),
        allow_from: references(&["host@z", "*@c:1"]),
    };
    let compiled = compile(&World { map: &map, me: &me, directory: &directory }, &[subject]);
    let waiting: Vec<String> = compiled.waiting[&name("web")]
        .iter()
        .map(|(reference, wait)| format!("{reference}: {wait}"))
        .collect();
    assert_eq!(
        waiting,
        [
            "x@b:1/tcp: b has no workload x in the fabric",
            "x@*:1/tcp: no member has a workload x in the fabric",
            "db@z:1/tcp: the fabric has no member z",
            "cidr:192.0.2.0/24:1/tcp: it is outside the fabric's addresses",
            "cidr:10.200.1.1/32:1/tcp: it is the address of b itself; write host@b",
            "host@z: the fabric has no member z",
        ]
    );
}

#[test]
fn a_member_speaks_only_for_addresses_of_its_own() {
    let (map, mut directory, _) = everybody();
    for (at, stolen) in [workload(2, 2), plan().own(Slot(1)), plan().own(Slot(2))].into_iter().enumerate() {
        directory.get_mut(&name("b")).unwrap().insert(name(&format!("thief{at}")), stolen);
    }
    let me = name("a");
    let subject = Subject {
        name: name("web"),
        addresses: workload(0, 2),
        allow_to: references(&["thief0@b:1", "thief1@b:1", "thief2@b:1"]),
        allow_from: Vec::new(),
    };
    let compiled = compile(&World { map: &map, me: &me, directory: &directory }, &[subject]);
    assert!(compiled.sets.is_empty(), "{compiled:?}");
    assert_eq!(compiled.waiting[&name("web")].len(), 3);
}

#[test]
fn a_set_is_known_by_its_name_and_other_names_are_none() {
    let (filter, _) = filter(&[(0, references(&["db@b:5432", "*@c:80-95", "db@b/icmp"]), Vec::new())], "a");
    for set in filter.sets.keys() {
        assert_eq!(set.to_string().parse(), Ok(*set));
    }
    for other in ["singular4", "refused_out4", "out4", "out5_32_16", "out4_33_16", "in6_128_17", "out4_1_1_1"]
    {
        assert!(other.parse::<Set>().is_err(), "{other}");
    }
}

#[test]
fn a_change_touches_only_what_is_different() {
    let with = |to: &[&str]| filter(&[(0, references(to), Vec::new())], "a").0;
    let old = with(&["db@b:5432", "web@b:80"]);
    assert_eq!(old.since(&old).unwrap(), "");
    let script = with(&["db@b:5432", "web@c:80"]).since(&old).unwrap();
    assert!(
        script.contains("delete element inet t out4_32_16 { 10.200.0.2 . 10.200.1.2 . 6 . 80 }\n"),
        "{script}"
    );
    assert!(
        script.contains("add element inet t out4_32_16 { 10.200.0.2 . 10.200.2.2 . 6 . 80 }\n"),
        "{script}"
    );
    assert!(!script.contains("5432") && !script.contains("chain"), "{script}");
    let script = with(&["db@b:5432", "*@b:80"]).since(&old).unwrap();
    assert!(script.starts_with("flush table inet t\n") && script.contains("out4_24_16"), "{script}");
    let other = Filter { frame: Frame { link: "cw-1111".into(), ..frame() }, ..old.clone() };
    assert_eq!(other.since(&old), None);
}
