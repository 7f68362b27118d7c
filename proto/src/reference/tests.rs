use proptest::{option, prelude::*};

use super::*;

#[track_caller]
fn written(text: &str) -> String {
    text.parse::<Reference>().unwrap_or_else(|error| panic!("{error}")).to_string()
}

/// Where a text is wrong and the whole message.
#[track_caller]
fn wrong(text: &str) -> (usize, String) {
    let error = text.parse::<Reference>().expect_err("it is wrong");
    (error.at(), error.to_string())
}

#[test]
fn what_people_write_is_read_and_written_with_its_protocol() {
    assert_eq!(written("db@storage:5432"), "db@storage:5432/tcp");
    assert_eq!(written("*@build:8080-8080"), "*@build:8080/tcp");
    for text in [
        "db@storage:5432/tcp",
        "*@build:8080-8090/tcp",
        "web@*:53/udp",
        "*@*:1-65535/udp",
        "web@nuc-1/icmp",
        "cidr:100.64.16.0/24:9000/tcp",
        "cidr:100.64.16.0/24/icmp",
        "cidr:0.0.0.0/0:1-2/udp",
        "cidr:[fd00::/48]:9000/tcp",
        "cidr:[fd00::1/128]/icmp",
        "host@edge",
        "host@*:9100/tcp",
        "operator@edge",
        "operator@edge/icmp",
    ] {
        assert_eq!(written(text), text);
    }
}

#[test]
fn a_wrong_reference_says_where_and_why() {
    for (text, at, reason) in [
        ("", 1, "named with its capsule"),
        ("db", 3, "named with its capsule"),
        ("db:5432", 3, "named with its capsule"),
        ("Db@storage:1", 1, "\"Db\" is not a name"),
        ("@storage:1", 1, "it is empty"),
        ("db@:1", 4, "or * for each"),
        ("db@stor age:1", 4, "not allowed"),
        ("db@storage", 11, "it has no port"),
        ("db@storage:", 12, "not a port"),
        ("db@storage:0", 12, "not a port"),
        ("db@storage:65536", 12, "not a port"),
        ("db@storage:+1", 12, "not a port"),
        ("db@storage:80-65536/tcp", 15, "not a port"),
        ("db@storage:90-80", 12, "write 80-90"),
        ("db@storage:80/sctp", 15, "\"sctp\" is not a protocol"),
        ("db@storage:80/TCP", 15, "write tcp, udp or icmp"),
        ("db@storage:80/icmp", 11, "icmp has no ports"),
        ("db@storage/tcp", 11, "needs a port"),
        ("db@storage/x", 12, "not a protocol"),
        ("dé@storage:1", 1, "not allowed"),
        ("cidr:100.64.16.0/24", 20, "it has no port"),
        ("cidr:100.64.16.0:80", 6, "it has no length"),
        ("cidr:100.64.16.1/24:80", 6, "write 100.64.16.0/24"),
        ("cidr:100.64.16.0/33:80", 6, "not an IPv4 or IPv6 address with a length"),
        ("cidr:100.64.16.0/+8:80", 6, "not an IPv4 or IPv6 address with a length"),
        ("cidr:fd00::/48:80", 6, "not an IPv4 or IPv6 address with a length"),
        ("cidr:fd00::/48", 6, "brackets"),
        ("cidr:[fd00::/48:80", 6, "not closed"),
        ("cidr:[100.64.0.0/24]:80", 7, "brackets"),
        ("cidr:[fd00::/48]80", 17, "a port is expected"),
    ] {
        let (column, message) = wrong(text);
        assert!(message.contains(reason) && column == at, "{text}: {message}");
    }
}

#[test]
fn a_prefix_knows_its_first_and_its_last_address() {
    let last = |text: &str| text.parse::<Cidr>().unwrap().last().to_string();
    assert_eq!(last("100.64.16.0/24"), "100.64.16.255");
    assert_eq!(last("0.0.0.0/0"), "255.255.255.255");
    assert_eq!(last("100.64.16.1/32"), "100.64.16.1");
    assert_eq!(last("::/0"), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    assert_eq!(last("fd00::1/128"), "fd00::1");
}

fn pick() -> impl Strategy<Value = Pick> {
    option::of("[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?").prop_filter_map(
        "a capsule's own words",
        |name| match name {
            None => Some(Pick::Any),
            Some(name) if [HOST, OPERATOR].contains(&name.as_str()) => None,
            Some(name) => name.parse().ok().map(Pick::Named),
        },
    )
}

fn cidr() -> impl Strategy<Value = Cidr> {
    let text = prop_oneof![
        (any::<u32>(), 0..=32u8).prop_map(|(bits, prefix)| {
            let kept = bits & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            format!("{}/{prefix}", std::net::Ipv4Addr::from_bits(kept))
        }),
        (any::<u128>(), 0..=128u8).prop_map(|(bits, prefix)| {
            let kept = bits & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            format!("{}/{prefix}", std::net::Ipv6Addr::from_bits(kept))
        }),
    ];
    text.prop_map(|text| text.parse().unwrap())
}

fn reference() -> impl Strategy<Value = Reference> {
    let peer = prop_oneof![
        (pick(), pick()).prop_map(|(workload, capsule)| Peer::Workload(workload, capsule)),
        pick().prop_map(Peer::Host),
        pick().prop_map(Peer::Operator),
        cidr().prop_map(Peer::Cidr),
    ];
    let ports = (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| Ports::new(a.min(b), a.max(b)).unwrap());
    let service = prop_oneof![
        ports.clone().prop_map(Service::Tcp),
        ports.prop_map(Service::Udp),
        Just(Service::Icmp),
        Just(Service::Any),
    ];
    (peer, service).prop_map(|(peer, service)| {
        let may_be_any = matches!(peer, Peer::Host(_) | Peer::Operator(_));
        let service = if service == Service::Any && !may_be_any { Service::Icmp } else { service };
        Reference { peer, service }
    })
}

proptest! {
    #[test]
    fn a_reference_reads_back_what_it_writes(reference in reference()) {
        prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
    }

    #[test]
    fn no_text_makes_it_panic(text in ".*") {
        let _ = text.parse::<Reference>();
    }

    #[test]
    fn no_damaged_reference_makes_it_panic(reference in reference(), at: usize, with in ".{0,3}") {
        let text = reference.to_string();
        let (before, after) = text.split_at(at % text.len());
        let _ = format!("{before}{with}{}", &after[1..]).parse::<Reference>();
    }
}
