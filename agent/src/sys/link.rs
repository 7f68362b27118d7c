//! Links, addresses, routes and neighbours, in this product's few shapes.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};

use super::netlink::Netlink;

/// A hardware address.
pub type Mac = [u8; 6];

/// A link, as far as it is needed here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, empty where it has none.
    pub mac: Vec<u8>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// A veth's other end, in whatever namespace that is.
    pub peer: Option<u32>,
    /// Whether it is a bridge.
    pub bridge: bool,
    /// Whether it is a WireGuard device of the kernel.
    pub wireguard: bool,
    /// Whether it leads to a guest of this host: a veth or a tap.
    pub guest: bool,
    /// The bridge, bond or the like that it is a port of.
    pub controller: Option<u32>,
    /// Whether it is set up.
    pub is_up: bool,
    /// Whether all who are on it hear a broadcast: not the loopback, not a tunnel.
    pub broadcasts: bool,
}

/// A prefix that the host has an address in or a route to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination; unspecified for the default route.
    pub destination: IpAddr,
    /// Bits of it that count.
    pub prefix: u8,
    /// The link that it leaves by.
    pub link: Option<u32>,
    /// Whether a router advertised it.
    pub advertised: bool,
}

fn existing(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn link(message: Message) -> Option<Link> {
    let Message::NewLink(message) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        is_up: flags.contains(LinkFlags::Up),
        broadcasts: flags.contains(LinkFlags::Broadcast | LinkFlags::Multicast)
            && !flags.intersects(LinkFlags::Loopback | LinkFlags::Pointopoint),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::Controller(controller) => link.controller = Some(controller),
            LinkAttribute::LinkInfo(infos) => {
                link.bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
                link.wireguard = infos.contains(&LinkInfo::Kind(InfoKind::Wireguard));
                let guests = [LinkInfo::Kind(InfoKind::Veth), LinkInfo::Kind(InfoKind::Tun)];
                link.guest = infos.iter().any(|info| guests.contains(info));
            }
            _ => {}
        }
    }
    Some(link)
}

/// Every link of the socket's namespace.
pub fn links(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let found = netlink.dump(Message::GetLink(LinkMessage::default()))?;
    Ok(found.into_iter().filter_map(link).collect())
}

/// The link of that name.
pub fn find(netlink: &mut Netlink, name: &str) -> io::Result<Option<Link>> {
    match netlink.get(Message::GetLink(named(name))) {
        Ok(found) => Ok(found.and_then(link)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes a link; none there is fine.
pub fn delete(netlink: &mut Netlink, name: &str) -> io::Result<()> {
    match netlink.request(Message::DelLink(named(name)), 0) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
        _ => Ok(()),
    }
}

/// Sets a link up.
pub fn set_up(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    netlink.request(Message::SetLink(up(existing(index))), 0)
}

/// Makes a bridge, without spanning tree or multicast snooping.
pub fn add_bridge(netlink: &mut Netlink, name: &str, mac: Mac, mtu: u32) -> io::Result<()> {
    let mut message = named(name);
    let data = InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]);
    message.attributes.extend([
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)]),
    ]);
    netlink.request(Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Makes a WireGuard device, where the kernel has such.
pub fn add_wireguard(netlink: &mut Netlink, name: &str) -> io::Result<()> {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]));
    netlink.request(Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Changes the largest packet of a link, in bytes.
pub fn set_mtu(netlink: &mut Netlink, index: u32, mtu: u32) -> io::Result<()> {
    let mut message = existing(index);
    message.attributes.push(LinkAttribute::Mtu(mtu));
    netlink.request(Message::SetLink(message), 0)
}

/// A veth pair to make.
pub struct NewVeth<'a> {
    /// Name of this end.
    pub name: &'a str,
    /// Bridge that this end is a port of.
    pub bridge: u32,
    /// Name of the other end.
    pub peer: &'a str,
    /// Namespace of the other end.
    pub namespace: &'a File,
    /// Hardware address of the other end.
    pub mac: Mac,
    /// Of both ends, in bytes.
    pub mtu: u32,
}

/// Makes a pair with its other end in place.
pub fn add_veth(netlink: &mut Netlink, new: &NewVeth<'_>) -> io::Result<()> {
    let mut peer = named(new.peer);
    peer.attributes.extend([
        LinkAttribute::NetNsFd(new.namespace.as_raw_fd()),
        LinkAttribute::Address(new.mac.to_vec()),
        LinkAttribute::Mtu(new.mtu),
    ]);
    let mut message = named(new.name);
    message.attributes.extend([
        LinkAttribute::Mtu(new.mtu),
        LinkAttribute::Controller(new.bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ]);
    netlink.request(Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Makes a bridge port deaf and mute to other ports: isolated, learning nothing, flooded with
/// nothing. Also sets it up.
pub fn isolate_port(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = up(existing(index));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::Isolated(true),
            InfoBridgePort::Learning(false),
            InfoBridgePort::UnicastFlood(false),
            InfoBridgePort::MulticastFlood(false),
            InfoBridgePort::BroadcastFlood(false),
        ])),
    ]));
    netlink.request(Message::NewLink(message), 0)
}

/// Gives a link an address; IPv6 without duplicate address detection.
pub fn add_address(netlink: &mut Netlink, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes.extend([AddressAttribute::Local(address), AddressAttribute::Address(address)]);
    if address.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    netlink.request(Message::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Every address of the socket's namespace, with the link that it is on.
pub fn addresses(netlink: &mut Netlink) -> io::Result<Vec<(u32, IpAddr)>> {
    let found = netlink.dump(Message::GetAddress(AddressMessage::default()))?;
    Ok(found.into_iter().filter_map(address).collect())
}

fn address(message: Message) -> Option<(u32, IpAddr)> {
    let Message::NewAddress(message) = message else { return None };
    let of = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some((0, *address)),
        AddressAttribute::Address(address) => Some((1, *address)),
        _ => None,
    };
    // The other end's of a point-to-point link is `Address`; IPv6 has that attribute alone.
    let (_, address) = message.attributes.iter().filter_map(of).min_by_key(|(order, _)| *order)?;
    Some((message.header.index, address))
}

/// Takes an address from a link; none there is fine.
pub fn delete_address(netlink: &mut Netlink, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address));
    match netlink.request(Message::DelAddress(message), 0) {
        Err(error) if error.raw_os_error() != Some(libc::EADDRNOTAVAIL) => Err(error),
        _ => Ok(()),
    }
}

/// A default route by a gateway that need not be in any of the link's prefixes.
pub fn add_default_route(netlink: &mut Netlink, index: u32, gateway: IpAddr) -> io::Result<()> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.flags = RouteFlags::Onlink;
    message.attributes.extend([RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(index)]);
    netlink.request(Message::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// A neighbour that is never asked for.
pub fn add_neighbour(netlink: &mut Netlink, index: u32, address: IpAddr, mac: Mac) -> io::Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes.extend([
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ]);
    netlink.request(Message::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// The bridge's own knowledge that `mac` is behind the port `index`.
pub fn add_forwarding(netlink: &mut Netlink, index: u32, mac: Mac) -> io::Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    netlink.request(Message::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Every prefix in the routing tables, local addresses included.
pub fn routes(netlink: &mut Netlink) -> io::Result<Vec<Route>> {
    let mut found = Vec::new();
    for (family, none) in [
        (AddressFamily::Inet, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        (AddressFamily::Inet6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    ] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let answers = netlink.dump(Message::GetRoute(message))?;
        found.extend(answers.into_iter().filter_map(|answer| route(answer, family, none)));
    }
    Ok(found)
}

fn route(message: Message, family: AddressFamily, none: IpAddr) -> Option<Route> {
    let Message::NewRoute(message) = message else { return None };
    let header = &message.header;
    if header.address_family != family {
        return None;
    }
    let advertised = header.protocol == RouteProtocol::Ra;
    let mut route =
        Route { destination: none, prefix: header.destination_prefix_length, link: None, advertised };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                route.destination = IpAddr::V4(*address);
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                route.destination = IpAddr::V6(*address);
            }
            RouteAttribute::Oif(index) => route.link = Some(*index),
            _ => {}
        }
    }
    Some(route)
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
