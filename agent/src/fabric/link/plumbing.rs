//! MTU, addresses and routes of the link. Calls block; every one may be repeated.

use std::{io, net::IpAddr};

use capsule_fabric::map::Prefix;
use capsule_proto::v1::WireguardKind;

use super::Wanted;
use crate::{
    fabric::FabricError,
    sys::{
        has_ipv6, link,
        netlink::Netlink,
        route::{self, OwnRoute},
    },
};

/// What WireGuard adds to a packet in the worst case: IPv6, UDP, its own header and tag; bytes.
const OVERHEAD: u32 = 80;
/// Where no uplink says otherwise; bytes.
const DEFAULT_UNDERLAY: u32 = 1500;
/// What IPv6 demands (RFC 8200, section 5); bytes.
const MIN_MTU: u32 = 1280;

/// What the link of this name is, where there is one.
pub(super) fn kind(name: &str) -> Result<Option<WireguardKind>, FabricError> {
    let find = || link::find(&mut Netlink::open()?, name);
    let found = find().map_err(FabricError::kernel(format!("look for the link {name}")))?;
    let kind = |is_kernel| if is_kernel { WireguardKind::Kernel } else { WireguardKind::Userspace };
    Ok(found.map(|found| kind(found.wireguard)))
}

/// Bytes of a packet on it.
pub(super) fn mtu(name: &str) -> Result<Option<u32>, FabricError> {
    let find = || link::find(&mut Netlink::open()?, name);
    Ok(find().map_err(FabricError::kernel(format!("look for the link {name}")))?.map(|found| found.mtu))
}

/// Whether the kernel made it.
pub(super) fn make_in_kernel(name: &str) -> Result<bool, FabricError> {
    let make = || link::add_wireguard(&mut Netlink::open()?, name);
    match make() {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(FabricError::kernel(format!("make the WireGuard link {name}"))(error)),
    }
}

/// Removes it; none there is fine.
pub(super) fn remove(name: &str) -> Result<(), FabricError> {
    let remove = || link::delete(&mut Netlink::open()?, name);
    remove().map_err(FabricError::kernel(format!("remove the link {name}")))
}

/// Gives the link its MTU, the capsule's own addresses and the routes to all members.
pub(super) fn ensure(name: &str, wanted: &Wanted) -> Result<(), FabricError> {
    let attempt = format!("give the link {name} its addresses and routes");
    ensure_all(name, wanted).map_err(FabricError::kernel(attempt))
}

fn ensure_all(name: &str, wanted: &Wanted) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let found = link::find(&mut netlink, name)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let mtu = underlay(&mut netlink, found.index)?.saturating_sub(OVERHEAD).max(MIN_MTU);
    if found.mtu != mtu {
        link::set_mtu(&mut netlink, found.index, mtu)?;
    }
    let has_ipv6 = has_ipv6();
    let own = [IpAddr::from(wanted.addresses.ipv4), IpAddr::from(wanted.addresses.ipv6)];
    let own: Vec<Prefix> =
        own.into_iter().filter(|address| address.is_ipv4() || has_ipv6).map(Prefix::host).collect();
    let present = link::addresses(&mut netlink)?.into_iter().filter(|on| on.0 == found.index).map(|on| on.1);
    let present: Vec<IpAddr> = present.filter(|address| !is_link_local(*address)).collect();
    for prefix in own.iter().filter(|prefix| !present.contains(&prefix.address())) {
        link::add_address(&mut netlink, found.index, prefix.address(), prefix.length())?;
    }
    for old in present.iter().filter(|address| !own.contains(&Prefix::host(**address))) {
        link::delete_address(&mut netlink, found.index, *old, Prefix::host(*old).length())?;
    }
    link::set_up(&mut netlink, found.index)?;
    for range in wanted.ranges.iter().filter(|range| range.address().is_ipv4() || has_ipv6) {
        let route = OwnRoute {
            destination: range.address(),
            prefix: range.length(),
            link: found.index,
            gateway: None,
            source: None,
        };
        route::ensure(&mut netlink, &route)?;
    }
    Ok(())
}

/// MTU of the link that the default route leaves by.
fn underlay(netlink: &mut Netlink, own: u32) -> io::Result<u32> {
    let routes = link::routes(netlink)?;
    let links = link::links(netlink)?;
    let defaults =
        routes.iter().filter(|route| route.prefix == 0 && route.link.is_some_and(|link| link != own));
    let uplinks = defaults.filter_map(|route| links.iter().find(|link| Some(link.index) == route.link));
    // The loopback's, which unreachable routes name, is no path to anybody.
    Ok(uplinks.map(|link| link.mtu).filter(|mtu| *mtu < 65536).min().unwrap_or(DEFAULT_UNDERLAY))
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(six) if six.is_unicast_link_local())
}
