//! Which links lead to other machines: neither those of workloads nor those of other engines' guests,
//! nor tunnels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::IpAddr,
};

use super::answers;
use crate::sys::{
    link::{self, Link},
    netlink::Netlink,
};

/// Links by their number, with their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Uplinks(BTreeMap<u32, Uplink>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Uplink {
    name: String,
    addresses: BTreeSet<IpAddr>,
}

/// As they are now.
pub(super) fn read() -> io::Result<Uplinks> {
    let mut netlink = Netlink::open()?;
    let links = link::links(&mut netlink)?;
    Ok(Uplinks::of(&links, &link::addresses(&mut netlink)?))
}

impl Uplinks {
    /// Those of `links` that have an address which a client can write down.
    fn of(links: &[Link], addresses: &[(u32, IpAddr)]) -> Self {
        let of_link =
            |index| addresses.iter().filter(move |(at, _)| *at == index).map(|(_, address)| *address);
        let uplink = |link: &Link| Uplink {
            name: link.name.clone(),
            addresses: of_link(link.index).filter(|address| !is_link_local(*address)).collect(),
        };
        let uplinks =
            links.iter().filter(|link| is_uplink(link, links)).map(|link| (link.index, uplink(link)));
        Self(uplinks.filter(|(_, uplink)| !uplink.addresses.is_empty()).collect())
    }

    /// What is left of them where the API listens on this address.
    pub(super) fn reachable_at(mut self, listener: IpAddr) -> Self {
        for uplink in self.0.values_mut() {
            uplink.addresses.retain(|address| answers(listener, *address));
        }
        self.0.retain(|_, uplink| !uplink.addresses.is_empty());
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their numbers.
    pub(super) fn indexes(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    /// All their addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.values().flat_map(|uplink| uplink.addresses.iter().copied())
    }
}

impl fmt::Display for Uplinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.values().map(|uplink| uplink.name.as_str()).collect();
        f.write_str(&names.join(", "))
    }
}

/// A bridge is one where it has a port that leads out of the machine; a port is its bridge's affair.
fn is_uplink(link: &Link, links: &[Link]) -> bool {
    let leads_out = |port: &Link| port.controller == Some(link.index) && !port.guest;
    link.is_up
        && link.broadcasts
        && link.controller.is_none()
        && (!link.bridge || links.iter().any(leads_out))
}

/// Good on one link alone, which an address in a configuration cannot name.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), is_up: true, broadcasts: true, ..Link::default() }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn workloads_guests_and_tunnels_are_no_uplinks_and_a_bridged_card_is_one_by_its_bridge() {
        let links = [
            Link { broadcasts: false, ..link(1, "lo") },
            link(2, "eth0"),
            Link { is_up: false, ..link(3, "eth1") },
            Link { bridge: true, ..link(4, "cba3f2") },
            Link { controller: Some(4), guest: true, ..link(5, "cva3f200000005") },
            Link { broadcasts: false, wireguard: true, ..link(6, "cwa3f2") },
            Link { bridge: true, ..link(7, "br0") },
            Link { controller: Some(7), ..link(8, "eth2") },
            Link { bridge: true, ..link(9, "empty0") },
        ];
        let each = (1..=9).map(|index| (index, address(&format!("10.0.0.{index}"))));
        let uplinks = Uplinks::of(&links, &each.collect::<Vec<_>>());
        assert_eq!(uplinks.to_string(), "eth0, br0");
        assert_eq!(uplinks.addresses().collect::<Vec<_>>(), [address("10.0.0.2"), address("10.0.0.7")]);
    }

    #[test]
    fn only_addresses_where_the_api_answers_are_told() {
        let found = [(2, "10.0.0.2"), (2, "fd00::2"), (2, "fe80::2"), (3, "fe80::3")];
        let found = found.map(|(index, text)| (index, address(text)));
        let uplinks = Uplinks::of(&[link(2, "eth0"), link(3, "eth1")], &found);
        assert_eq!(uplinks.indexes().collect::<Vec<_>>(), [2]);
        let at = |listener: &str| {
            uplinks
                .clone()
                .reachable_at(address(listener))
                .addresses()
                .map(|a| a.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(at("::"), ["10.0.0.2", "fd00::2"]);
        assert_eq!(at("0.0.0.0"), ["10.0.0.2"]);
        assert_eq!(at("fd00::2"), ["fd00::2"]);
        assert!(uplinks.clone().reachable_at(address("127.0.0.1")).is_empty());
    }
}
