//! Routes that this product makes, told from others' by the protocol number that they carry.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};

use super::netlink::Netlink;

/// Of those that nobody has registered (rtnetlink(7)): "set by the administrator" ends at 254.
const PROTOCOL: u8 = 202;

/// A route by a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnRoute {
    /// Where to.
    pub destination: IpAddr,
    /// Bits of it that count.
    pub prefix: u8,
    /// The link that it leaves by.
    pub link: u32,
    /// Next hop, which need not be in any of the link's prefixes.
    pub gateway: Option<IpAddr>,
    /// The address that packets get which have none yet.
    pub source: Option<IpAddr>,
}

/// Makes a route, or makes the one to the same destination like this.
pub fn ensure(netlink: &mut Netlink, route: &OwnRoute) -> io::Result<()> {
    netlink.request(Message::NewRoute(message(route)), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Deletes a route; none there is fine.
pub fn delete(netlink: &mut Netlink, route: &OwnRoute) -> io::Result<()> {
    match netlink.request(Message::DelRoute(message(route)), 0) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}

/// Every route by this link that [`ensure`] made.
pub fn by(netlink: &mut Netlink, link: u32) -> io::Result<Vec<OwnRoute>> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let answers = netlink.dump(Message::GetRoute(message))?;
        found.extend(answers.into_iter().filter_map(|answer| own(answer, family)));
    }
    found.retain(|route| route.link == link);
    Ok(found)
}

/// How a packet goes on from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The link that it leaves by; `lo` of one that has arrived.
    pub link: u32,
    /// Next hop.
    pub gateway: Option<IpAddr>,
}

/// What the kernel does with a packet: of its own, or of `from` that came `by` a link. `None` where it
/// has no route for it.
pub fn next(
    netlink: &mut Netlink,
    to: IpAddr,
    from: Option<IpAddr>,
    by: Option<u32>,
) -> io::Result<Option<Next>> {
    let mut message = RouteMessage::default();
    let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
    message.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = bits(to);
    message.attributes.push(RouteAttribute::Destination(to.into()));
    if let Some(from) = from {
        message.header.source_prefix_length = bits(from);
        message.attributes.push(RouteAttribute::Source(from.into()));
    }
    message.attributes.extend(by.map(RouteAttribute::Iif));
    match netlink.get(Message::GetRoute(message)) {
        Ok(found) => Ok(found.and_then(forwarding)),
        Err(error) if is_nowhere(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_nowhere(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL))
}

fn forwarding(message: Message) -> Option<Next> {
    let Message::NewRoute(message) = message else { return None };
    let mut next = Next { link: 0, gateway: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => next.gateway = ip(address),
            RouteAttribute::Oif(index) => next.link = *index,
            _ => {}
        }
    }
    matches!(message.header.kind, RouteType::Local | RouteType::Unicast).then_some(next)
}

fn message(route: &OwnRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match route.destination {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.scope = match (route.gateway, route.destination) {
        (None, IpAddr::V4(_)) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = route.prefix;
    message
        .attributes
        .extend([RouteAttribute::Destination(route.destination.into()), RouteAttribute::Oif(route.link)]);
    if let Some(gateway) = route.gateway {
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    message
}

fn own(message: Message, family: AddressFamily) -> Option<OwnRoute> {
    let Message::NewRoute(message) = message else { return None };
    let header = &message.header;
    if header.address_family != family || header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let nowhere: IpAddr = match family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let prefix = header.destination_prefix_length;
    let mut route = OwnRoute { destination: nowhere, prefix, link: 0, gateway: None, source: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => route.destination = ip(address)?,
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Oif(index) => route.link = *index,
            _ => {}
        }
    }
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
