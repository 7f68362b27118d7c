use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    port::{Binding, Wanted},
    reserve::{lowest_free, settle},
    table::Held,
    *,
};

fn layout() -> Layout {
    let subnets = ("10.88.0.0/24".parse().unwrap(), "fd12:3456:789a::/64".parse().unwrap());
    Layout::new("a3f2c0de-0000-4000-8000-000000000000", subnets.0, subnets.1)
}

fn port(container_port: u32, host_port: u32, protocol: v1::Protocol, host_ip: &str) -> v1::Port {
    v1::Port {
        container_port,
        host_port: Some(host_port),
        protocol: protocol as i32,
        host_ip: host_ip.into(),
    }
}

#[test]
fn the_tables_of_two_workloads_are_these() {
    let layout = layout();
    let ports = vec![
        port(80, 8080, v1::Protocol::Tcp, ""),
        port(53, 5353, v1::Protocol::Udp, "127.0.0.1"),
        port(81, 8081, v1::Protocol::Tcp, "fd00::9"),
        port(82, 8082, v1::Protocol::Tcp, "0.0.0.0"),
    ];
    let members = [("db", 3, vec![]), ("web", 2, ports)].map(|(name, host, ports)| {
        (name.parse().unwrap(), Member::new(&layout, &layout.reservation(host, ports), None))
    });
    let script = ruleset::render(&layout, &BTreeMap::from(members), None, ruleset::Old::Remove);
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/network/two-workloads.nft");
    assert_eq!(script, std::fs::read_to_string(golden).unwrap(), "\n{script}");
}

#[test]
fn a_veth_s_name_fits_and_leads_back_to_its_workload() {
    let layout = layout();
    for host in [2, 254, 0x00ff_fffe] {
        let veth = layout.veth(host);
        assert!(veth.len() <= 15, "{veth}");
        assert_eq!(layout.host_of_veth(&veth), Some(host));
    }
    assert_eq!(layout.host_of_veth("cvffff00000002"), None);
    assert!(layout.bridge.len() <= 15);
}

#[test]
fn the_lowest_subnet_that_overlaps_nothing_is_chosen() {
    let taken = |text: &str| {
        let (address, prefix) = text.split_once('/').unwrap();
        (address.parse().unwrap(), prefix.parse().unwrap())
    };
    let choose = |prefixes: &[&str]| {
        let taken: Vec<_> = prefixes.iter().map(|text| taken(text)).collect();
        Subnet4::choose(&taken).map(|subnet| subnet.to_string())
    };
    assert_eq!(choose(&["0.0.0.0/0", "192.168.0.0/16"]).unwrap(), "10.88.0.0/24");
    assert_eq!(choose(&["10.88.0.7/32", "10.88.1.128/25"]).unwrap(), "10.88.2.0/24");
    assert_eq!(choose(&["10.88.0.0/14"]).unwrap(), "10.92.0.0/24");
    assert_eq!(choose(&["10.0.0.0/8"]), None);
}

#[test]
fn a_subnet_is_read_as_written_or_refused() {
    for good in ["10.88.0.0/24", "172.16.0.0/12", "192.168.1.8/29"] {
        assert_eq!(good.parse::<Subnet4>().unwrap().to_string(), good);
    }
    for bad in ["", "10.88.0.0", "10.88.0.1/24", "10.88.0.0/30", "0.0.0.0/0", "fd00::/64"] {
        assert!(bad.parse::<Subnet4>().is_err(), "{bad}");
    }
}

fn bindings() -> impl Strategy<Value = Binding> {
    let addresses = prop::sample::select(vec![
        None,
        Some("0.0.0.0"),
        Some("127.0.0.1"),
        Some("192.0.2.1"),
        Some("::"),
        Some("fd00::1"),
    ]);
    (any::<bool>(), addresses, 1..4u16).prop_map(|(udp, address, port)| Binding {
        protocol: if udp { v1::Protocol::Udp } else { v1::Protocol::Tcp },
        address: address.map(|address| address.parse().unwrap()),
        port,
    })
}

/// The naive model: the concrete addresses of a host that a binding would answer on.
fn listens_on(binding: &Binding) -> BTreeSet<&'static str> {
    let all = ["127.0.0.1", "192.0.2.1", "192.0.2.2", "fd00::1", "fd00::2"];
    let fits = |text: &&str| {
        let one: IpAddr = text.parse().unwrap();
        binding.address.is_none_or(|address| {
            address == one || (address.is_unspecified() && address.is_ipv4() == one.is_ipv4())
        })
    };
    all.into_iter().filter(fits).collect()
}

proptest! {
    #[test]
    fn bindings_overlap_where_some_address_would_answer_for_both(one in bindings(), two in bindings()) {
        let common = listens_on(&one).intersection(&listens_on(&two)).count() > 0;
        let same = one.protocol == two.protocol && one.port == two.port;
        prop_assert_eq!(one.overlaps(&two), same && common);
        prop_assert_eq!(one.overlaps(&two), two.overlaps(&one));
    }

    #[test]
    fn the_lowest_free_number_is_the_one_a_plain_search_finds(
        taken in prop::collection::btree_set(0..40u32, 0..40),
        end in 2..40u32,
    ) {
        let expected = (2..end).find(|host| !taken.contains(host));
        prop_assert_eq!(lowest_free(2..end, taken), expected);
    }

    #[test]
    fn settled_ports_overlap_nothing_and_are_settled_the_same_again(
        held in prop::collection::vec((bindings(), 0..3usize), 0..12),
        wanted in prop::collection::vec((bindings(), any::<bool>(), 1..3u16), 0..6),
    ) {
        let workloads = ["a", "b", "c"];
        let mut others: Vec<Held> = Vec::new();
        for (binding, owner) in held {
            if !others.iter().any(|other| other.wanted.binding.overlaps(&binding)) {
                let wanted = Wanted { container_port: 80, binding };
                others.push(Held { workload: workloads[owner].into(), wanted, picked: false });
            }
        }
        let wanted: Vec<_> = wanted
            .into_iter()
            .map(|(binding, pick, container_port)| {
                let port = if pick { 0 } else { binding.port };
                Wanted { container_port, binding: Binding { port, ..binding } }
            })
            .collect();
        let name = "web".parse().unwrap();
        if let Ok(first) = settle(&name, &wanted, &[], &others, |_| true) {
            prop_assert_eq!(first.len(), wanted.len());
            for (at, one) in first.iter().enumerate() {
                let rest = first[at + 1..].iter().chain(&others);
                prop_assert!(rest.into_iter().all(|two| !one.wanted.binding.overlaps(&two.wanted.binding)));
            }
            let again = settle(&name, &wanted, &first, &others, |_| false).unwrap();
            prop_assert_eq!(again, first);
        }
    }
}
