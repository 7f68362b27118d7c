//! A workload's addresses in the fabric, on its link beside the local ones. Calls block; every one
//! may be repeated.

use std::{collections::BTreeSet, io, net::IpAddr, path::Path};

use capsule_fabric::map::{Addresses, Prefix};

use crate::{
    network::{
        layout::{Layout, Member},
        plumbing::{Bridge, INNER},
    },
    sys::{
        link,
        netlink::{self, Netlink},
        route::{self, OwnRoute},
    },
};

/// Where a workload is in the fabric, and which addresses it reaches by way of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) addresses: Addresses,
    pub(super) ranges: [Prefix; 2],
}

/// How far the host's packets get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// To the fabric's workloads here, from the capsule's own address.
    Whole,
    /// There too, but the host has that address not yet.
    Nameless,
}

fn both(addresses: &Addresses) -> [IpAddr; 2] {
    [addresses.ipv4.into(), addresses.ipv6.into()]
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Leads the host's packets for these workloads to the bridge, and those for no others. `own` is what
/// the host's packets come from, once the host has it.
pub(super) fn lead(bridge: Bridge, members: &[Member], own: Option<Addresses>) -> io::Result<Reach> {
    let mut netlink = Netlink::open()?;
    let has: BTreeSet<IpAddr> =
        link::addresses(&mut netlink)?.into_iter().map(|(_, address)| address).collect();
    let source = |address: IpAddr| {
        let own = own?;
        let own = if address.is_ipv4() { own.ipv4.into() } else { own.ipv6.into() };
        has.contains(&own).then_some(own)
    };
    let mut wanted = BTreeSet::new();
    for member in members {
        for address in member.fabric.iter().flat_map(both).filter(|address| bridge.ipv6 || address.is_ipv4())
        {
            link::add_neighbour(&mut netlink, bridge.index, address, member.mac())?;
            let (destination, prefix) = (address, bits(address));
            wanted.insert(OwnRoute {
                destination,
                prefix,
                link: bridge.index,
                gateway: None,
                source: source(address),
            });
        }
    }
    let present: BTreeSet<OwnRoute> = route::by(&mut netlink, bridge.index)?.into_iter().collect();
    present.difference(&wanted).try_for_each(|gone| route::delete(&mut netlink, gone))?;
    wanted.difference(&present).try_for_each(|new| route::ensure(&mut netlink, new))?;
    let is_whole = wanted.iter().all(|route| route.source.is_some());
    Ok(if is_whole { Reach::Whole } else { Reach::Nameless })
}

/// Gives the workload in `namespace` this place in the fabric, or none.
pub(super) fn place(
    layout: &Layout,
    bridge: Bridge,
    namespace: &Path,
    member: &Member,
    place: Option<&Place>,
) -> io::Result<()> {
    netlink::in_netns(namespace, || place_inside(layout, bridge, member, place))
}

fn place_inside(layout: &Layout, bridge: Bridge, member: &Member, place: Option<&Place>) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let inner =
        link::find(&mut netlink, INNER)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?.index;
    let is_possible = |address: &IpAddr| bridge.ipv6 || address.is_ipv4();
    let addresses: Vec<IpAddr> =
        place.iter().flat_map(|place| both(&place.addresses)).filter(is_possible).collect();
    let routes: BTreeSet<OwnRoute> = place
        .iter()
        .flat_map(|place| place.ranges.iter().zip(both(&place.addresses)).zip(layout.gateways()))
        .filter(|((_, address), _)| is_possible(address))
        .map(|((range, address), gateway)| OwnRoute {
            destination: range.address(),
            prefix: range.length(),
            link: inner,
            gateway: Some(gateway),
            source: Some(address),
        })
        .collect();
    for address in &addresses {
        link::add_address(&mut netlink, inner, *address, bits(*address))?;
    }
    let present: BTreeSet<OwnRoute> = route::by(&mut netlink, inner)?.into_iter().collect();
    present.difference(&routes).try_for_each(|gone| route::delete(&mut netlink, gone))?;
    routes.difference(&present).try_for_each(|new| route::ensure(&mut netlink, new))?;
    let local = [IpAddr::from(member.ipv4), IpAddr::from(member.ipv6)];
    for (index, address) in link::addresses(&mut netlink)? {
        let is_of_link = matches!(address, IpAddr::V6(six) if six.is_unicast_link_local());
        if index == inner && !is_of_link && !local.contains(&address) && !addresses.contains(&address) {
            link::delete_address(&mut netlink, inner, address, bits(address))?;
        }
    }
    Ok(())
}
