//! Bridge, veths and kernel parameters. Calls block; every one may be repeated.
//!
//! Workloads never talk to each other on the link: ports are isolated, each workload has its
//! address alone (/32, /128) with the bridge as its gateway, and both sides know each other as
//! permanent neighbours. So all traffic is routed by the host, and nobody can pose as another.

use std::{fs::File, io, net::IpAddr};

use super::{
    NetworkError,
    layout::{BRIDGE_PREFIX, Layout, Member},
};
use crate::sys::{
    has_ipv6,
    link::{self, Link, NewVeth, Route},
    netlink::{self, Netlink},
    sysctl,
};

/// Name of the link inside workloads.
pub(super) const INNER: &str = "eth0";
/// Where no uplink says otherwise; bytes.
const DEFAULT_MTU: u32 = 1500;
/// What IPv6 demands (RFC 8200, section 5); bytes.
const MIN_MTU: u32 = 1280;

/// The bridge as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bridge {
    pub(super) index: u32,
    pub(super) mtu: u32,
    /// Whether this kernel speaks IPv6.
    pub(super) ipv6: bool,
    /// Whether a workload reaches published ports at the host's own addresses.
    pub(super) hairpin: bool,
}

/// Prefixes of the host that are not behind `bridge`.
pub(super) fn taken(bridge: &str) -> io::Result<Vec<(IpAddr, u8)>> {
    let mut netlink = Netlink::open()?;
    let own = link::find(&mut netlink, bridge)?.map(|link| link.index);
    let routes = link::routes(&mut netlink)?.into_iter();
    let foreign = routes.filter(|route| own.is_none() || route.link != own);
    Ok(foreign.map(|route| (route.destination, route.prefix)).collect())
}

/// First four hex digits of the other capsules that have a bridge here.
pub(super) fn neighbours(bridge: &str) -> io::Result<Vec<String>> {
    let links = link::links(&mut Netlink::open()?)?.into_iter();
    let others = links.filter(|link| link.bridge && link.name != bridge);
    Ok(others.filter_map(|link| link.name.strip_prefix(BRIDGE_PREFIX).map(str::to_owned)).collect())
}

/// Makes the bridge and sets what the kernel must allow.
pub(super) fn ensure_bridge(layout: &Layout) -> Result<Bridge, NetworkError> {
    let name = &layout.bridge;
    let attempt = || NetworkError::kernel(format!("make the bridge {name}"));
    let mut netlink = Netlink::open().map_err(attempt())?;
    let routes = link::routes(&mut netlink).map_err(attempt())?;
    let found = match link::find(&mut netlink, name).map_err(attempt())? {
        Some(found) => found,
        None => create_bridge(&mut netlink, layout, &routes).map_err(attempt())?,
    };
    if found.mac != layout.mac {
        return Err(NetworkError::BridgeTaken(name.clone()));
    }
    let ipv6 = has_ipv6();
    set_parameters(name, ipv6, &mut netlink, &routes)
        .map_err(NetworkError::kernel("set the kernel's network parameters; is /proc/sys writable?"))?;
    address_bridge(&mut netlink, layout, found.index, ipv6).map_err(attempt())?;
    let hairpin = ensure_routed(&mut netlink).map_err(attempt())?;
    Ok(Bridge { index: found.index, mtu: found.mtu, ipv6, hairpin })
}

fn create_bridge(netlink: &mut Netlink, layout: &Layout, routes: &[Route]) -> io::Result<Link> {
    let links = link::links(netlink)?;
    let uplink =
        default_routes(routes).find_map(|route| links.iter().find(|link| Some(link.index) == route.link));
    let mtu = uplink.map_or(DEFAULT_MTU, |link| link.mtu.max(MIN_MTU));
    link::add_bridge(netlink, &layout.bridge, layout.mac, mtu)?;
    link::find(netlink, &layout.bridge)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

fn default_routes(routes: &[Route]) -> impl Iterator<Item = &Route> {
    routes
        .iter()
        .filter(|route| route.prefix == 0 && route.destination.is_unspecified() && route.link.is_some())
}

fn address_bridge(netlink: &mut Netlink, layout: &Layout, index: u32, ipv6: bool) -> io::Result<()> {
    let [four, six] = layout.gateways();
    link::add_address(netlink, index, four, layout.subnet4.prefix())?;
    if ipv6 {
        link::add_address(netlink, index, six, 64)?;
    }
    link::set_up(netlink, index)
}

fn set_parameters(bridge: &str, ipv6: bool, netlink: &mut Netlink, routes: &[Route]) -> io::Result<()> {
    sysctl::ensure("net/ipv4/ip_forward", "1")?;
    let four = |key: &str| format!("net/ipv4/conf/{bridge}/{key}");
    // 127.0.0.1:hostPort is rewritten to a workload's address and leaves by the bridge.
    sysctl::ensure(&four("route_localnet"), "1")?;
    // Workloads must not learn a way around the host, although it is on their own link. The kernel
    // also asks `all`, and has no such switch for IPv6: the firewall drops what it sends all the same.
    sysctl::ensure(&four("send_redirects"), "0")?;
    if ipv6 {
        let six = |key: &str| format!("net/ipv6/conf/{bridge}/{key}");
        sysctl::ensure(&six("disable_ipv6"), "0")?;
        sysctl::ensure(&six("accept_ra"), "0")?;
        keep_advertised_routes(netlink, routes)?;
        sysctl::ensure("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// With br_netfilter, a packet whose destination was rewritten to another workload is bridged at
/// once instead of routed, and isolation drops it. Its switches belong to the whole namespace: they
/// are turned off where no bridge of someone else may count on them. Returns whether they are off.
fn ensure_routed(netlink: &mut Netlink) -> io::Result<bool> {
    let switches = ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"];
    if switches.iter().all(|switch| !sysctl::get(switch).is_ok_and(|value| value == "1")) {
        return Ok(true);
    }
    let links = link::links(netlink)?;
    if links.iter().any(|link| link.bridge && !link.name.starts_with(BRIDGE_PREFIX)) {
        return Ok(false);
    }
    Ok(switches.iter().all(|switch| sysctl::ensure(switch, "0").is_ok()))
}

/// A host that forwards ignores router advertisements unless told otherwise (accept_ra = 2).
fn keep_advertised_routes(netlink: &mut Netlink, routes: &[Route]) -> io::Result<()> {
    let links = link::links(netlink)?;
    for route in routes.iter().filter(|route| route.advertised) {
        let Some(uplink) = links.iter().find(|link| Some(link.index) == route.link) else { continue };
        let key = format!("net/ipv6/conf/{}/accept_ra", uplink.name);
        if sysctl::get(&key).is_ok_and(|value| value == "1") {
            sysctl::ensure(&key, "2")?;
        }
    }
    Ok(())
}

/// Joins the namespace of process `pid` to the bridge.
pub(super) fn join(layout: &Layout, bridge: Bridge, member: &Member, pid: u32) -> io::Result<()> {
    let path = netlink::netns_of(pid);
    let namespace = File::open(&path)?;
    let mut host = Netlink::open()?;
    if let Some(old) = link::find(&mut host, &member.veth)?
        && !netlink::in_netns(&path, || is_peer(&old, member))?
    {
        link::delete(&mut host, &member.veth)?;
    }
    let outer = match link::find(&mut host, &member.veth)? {
        Some(link) => link,
        None => make_veth(&mut host, bridge, member, &namespace)?,
    };
    link::isolate_port(&mut host, outer.index)?;
    link::add_forwarding(&mut host, outer.index, member.mac())?;
    link::add_neighbour(&mut host, bridge.index, member.ipv4.into(), member.mac())?;
    if bridge.ipv6 {
        link::add_neighbour(&mut host, bridge.index, member.ipv6.into(), member.mac())?;
    }
    netlink::in_netns(&path, || configure_inside(layout, bridge, member))
}

/// Whether the calling thread's namespace holds the other end of `outer`.
fn is_peer(outer: &Link, member: &Member) -> io::Result<bool> {
    let inner = link::find(&mut Netlink::open()?, INNER)?;
    Ok(inner.is_some_and(|inner| Some(inner.index) == outer.peer && inner.mac == member.mac()))
}

fn make_veth(host: &mut Netlink, bridge: Bridge, member: &Member, namespace: &File) -> io::Result<Link> {
    let new = NewVeth {
        name: &member.veth,
        bridge: bridge.index,
        peer: INNER,
        namespace,
        mac: member.mac(),
        mtu: bridge.mtu,
    };
    link::add_veth(host, &new)?;
    let made = link::find(host, &member.veth)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    // The port needs no address of its own, nor the packets that getting one costs.
    if bridge.ipv6 {
        sysctl::ensure(&format!("net/ipv6/conf/{}/disable_ipv6", member.veth), "1")?;
    }
    Ok(made)
}

fn configure_inside(layout: &Layout, bridge: Bridge, member: &Member) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let find = |netlink: &mut Netlink, name: &str| {
        link::find(netlink, name)?.ok_or_else(|| io::Error::other(format!("{name} is not in the namespace")))
    };
    let lo = find(&mut netlink, "lo")?.index;
    let inner = find(&mut netlink, INNER)?.index;
    if bridge.ipv6 {
        // A redirect would send it past the gateway, to a neighbour that it cannot reach.
        let settings =
            [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_redirects", "0"), ("addr_gen_mode", "1")];
        for (key, value) in settings {
            sysctl::ensure(&format!("net/ipv6/conf/{INNER}/{key}"), value)?;
        }
    }
    link::set_up(&mut netlink, lo)?;
    link::set_up(&mut netlink, inner)?;
    let own = [(IpAddr::from(member.ipv4), 32), (IpAddr::from(member.ipv6), 128)];
    for ((address, prefix), gateway) in own.into_iter().zip(layout.gateways()) {
        if address.is_ipv6() && !bridge.ipv6 {
            continue;
        }
        link::add_address(&mut netlink, inner, address, prefix)?;
        link::add_neighbour(&mut netlink, inner, gateway, layout.mac)?;
        link::add_default_route(&mut netlink, inner, gateway)?;
    }
    Ok(())
}

/// Removes a workload's veth, both ends of it.
pub(super) fn leave(veth: &str) -> io::Result<()> {
    link::delete(&mut Netlink::open()?, veth)
}

/// Names of the links that are, by their names, this capsule's veths.
pub(super) fn veths(layout: &Layout) -> io::Result<Vec<String>> {
    let links = link::links(&mut Netlink::open()?)?.into_iter();
    Ok(links.map(|link| link.name).filter(|name| layout.host_of_veth(name).is_some()).collect())
}
