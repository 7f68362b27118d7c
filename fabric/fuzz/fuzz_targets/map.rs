//! Whatever the bytes: the parser of member maps returns; what it accepts survives being written and
//! read, and gives every address to one member alone.
#![no_main]

use std::net::IpAddr;

use capsule_fabric::map::{Endpoint, MemberMap, Prefix};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        words(text);
    }
    let Ok(map) = MemberMap::decode(data) else { return };
    assert_eq!(MemberMap::decode(&map.encode()).as_ref(), Ok(&map));
    let plan = map.plan();
    for member in map.members() {
        let own = plan.own(member.slot);
        for address in [IpAddr::from(own.ipv4), IpAddr::from(own.ipv6)] {
            assert_eq!(map.holder(address).map(|holder| &holder.name), Some(&member.name));
        }
        for allowed in map.allowed_ips(member) {
            assert!([plan.range(), plan.ipv6()].iter().any(|range| range.overlaps(&allowed)));
        }
    }
    for moved in map.overrides() {
        let addresses = [IpAddr::from(moved.addresses.ipv4), IpAddr::from(moved.addresses.ipv6)];
        for address in addresses {
            assert_eq!(map.holder(address).map(|holder| &holder.name), Some(&moved.member));
        }
    }
    let slices: Vec<Prefix> = map.members().iter().map(|member| plan.slice(member.slot)).collect();
    for (at, slice) in slices.iter().enumerate() {
        assert!(slices[..at].iter().all(|other| !other.overlaps(slice)));
    }
});

/// What a map is made of, as people write it.
fn words(text: &str) {
    if let Ok(prefix) = text.parse::<Prefix>() {
        assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
    }
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
    }
}
