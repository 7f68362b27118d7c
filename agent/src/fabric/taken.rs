//! What the host has of addresses: its own, and those that it has routes to.

use std::{collections::BTreeSet, net::IpAddr};

use capsule_fabric::map::Prefix;

use super::{FabricError, blocking, link::LINK_PREFIX};
use crate::{
    network::BRIDGE_PREFIX,
    sys::{
        link::{self, Link, Route},
        netlink::Netlink,
    },
};

/// Prefixes that a fabric must not overlap. Those of the fabric's own link do not count, nor single
/// addresses on a bridge: workloads have them, and those in a fabric that was just left go a moment
/// later than its link.
pub(super) async fn prefixes(own_link: String) -> Result<Vec<Prefix>, FabricError> {
    let look = || {
        let mut netlink = Netlink::open()?;
        Ok((link::links(&mut netlink)?, link::routes(&mut netlink)?))
    };
    let look = move || look().map_err(FabricError::kernel("list the host's routes"));
    let (links, routes) = blocking(look).await?;
    let own = links.iter().find(|link| link.name == own_link).map(|link| link.index);
    let bridges = links.iter().filter(|link| link.name.starts_with(BRIDGE_PREFIX)).map(|link| link.index);
    Ok(taken(own, &bridges.collect(), &routes))
}

/// Addresses at which others may find this host, IPv4 first.
pub(super) async fn addresses() -> Result<Vec<IpAddr>, FabricError> {
    let look = || {
        let mut netlink = Netlink::open()?;
        Ok((link::links(&mut netlink)?, link::addresses(&mut netlink)?))
    };
    let look = move || look().map_err(FabricError::kernel("list the host's addresses"));
    let (links, addresses) = blocking(look).await?;
    Ok(reachable(&links, &addresses))
}

fn taken(own: Option<u32>, bridges: &BTreeSet<u32>, routes: &[Route]) -> Vec<Prefix> {
    let foreign = routes.iter().filter(|route| own.is_none() || route.link != own);
    let is_workloads = |route: &Route| {
        let whole = if route.destination.is_ipv4() { 32 } else { 128 };
        route.prefix == whole && route.link.is_some_and(|link| bridges.contains(&link))
    };
    let routes = foreign.filter(|route| !is_workloads(route));
    let routes = routes.filter(|route| route.prefix > 0 && is_global(route.destination));
    let all: BTreeSet<Prefix> = routes.map(|route| Prefix::around(route.destination, route.prefix)).collect();
    let is_within = |inner: &Prefix, outer: &Prefix| outer.length() < inner.length() && outer.overlaps(inner);
    all.iter().filter(|prefix| !all.iter().any(|outer| is_within(prefix, outer))).copied().collect()
}

fn reachable(links: &[Link], addresses: &[(u32, IpAddr)]) -> Vec<IpAddr> {
    let is_own = |name: &str| name.starts_with(BRIDGE_PREFIX) || name.starts_with(LINK_PREFIX);
    let outer = links.iter().filter(|link| !is_own(&link.name)).map(|link| link.index);
    let outer: BTreeSet<u32> = outer.collect();
    let found = addresses.iter().filter(|(link, address)| outer.contains(link) && is_global(*address));
    let mut found: Vec<IpAddr> = found.map(|(_, address)| *address).collect();
    found.sort_by_key(|address| !address.is_ipv4());
    found
}

/// Whether the address means the same on more than one link.
fn is_global(address: IpAddr) -> bool {
    let is_special = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    let is_local = match address {
        IpAddr::V4(four) => four.is_link_local() || four.is_broadcast(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    };
    !is_special && !is_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        let prefix: Prefix = text.parse().unwrap();
        Route { destination: prefix.address(), prefix: prefix.length(), link: Some(2), advertised: false }
    }

    #[test]
    fn only_prefixes_that_mean_something_elsewhere_are_taken_and_the_widest_stand_for_all() {
        let routes = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.2.3/32",
            "127.0.0.0/8",
            "fe80::/64",
            "ff00::/8",
            "fd00::/64",
            "192.168.1.0/24",
            "192.168.1.7/32",
        ];
        let found = taken(None, &BTreeSet::new(), &routes.map(route));
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.0/8", "192.168.1.0/24", "fd00::/64"]
        );
        assert_eq!(taken(Some(2), &BTreeSet::new(), &routes.map(route)), []);
    }

    #[test]
    fn addresses_of_workloads_are_not_taken_but_their_bridge_s_subnet_is() {
        let routes = ["172.20.0.0/24", "172.20.0.7/32", "100.64.0.2/32", "fd12::2/128"].map(route);
        let found = taken(None, &BTreeSet::from([2]), &routes);
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["172.20.0.0/24"]);
        assert_eq!(taken(None, &BTreeSet::new(), &routes).len(), 3, "elsewhere they are somebody's");
    }
}
