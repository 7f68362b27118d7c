//! Peers of the kernel's WireGuard, changed in place.
//!
//! defguard_wireguard_rs replaces what a peer is allowed with every change: for a moment it is allowed
//! nothing, and a packet of that moment is refused.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::netlink::Netlink;

/// What becomes of a peer; the rest of it stays.
#[derive(Clone, Debug)]
pub struct Change {
    /// Raw.
    pub public_key: [u8; 32],
    /// Where it is from now on.
    pub endpoint: Option<SocketAddr>,
    /// Seconds; 0 for never.
    pub keepalive: u16,
    /// Prefixes that it is allowed beside those that it is allowed already.
    pub allowed: Vec<(IpAddr, u8)>,
}

/// Changes a peer that is there.
pub fn change_peer(link: &str, change: Change) -> io::Result<()> {
    let mut attributes = vec![
        WireguardPeerAttribute::PublicKey(change.public_key),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly),
        WireguardPeerAttribute::PersistentKeepalive(change.keepalive),
    ];
    attributes.extend(change.endpoint.map(WireguardPeerAttribute::Endpoint));
    let allowed: Vec<_> = change.allowed.into_iter().map(allowed).collect();
    if !allowed.is_empty() {
        attributes.push(WireguardPeerAttribute::AllowedIps(allowed));
    }
    let mut message = GenlMessage::from_payload(WireguardMessage {
        cmd: WireguardCmd::SetDevice,
        attributes: vec![
            WireguardAttribute::IfName(link.to_owned()),
            WireguardAttribute::Peers(vec![WireguardPeer(attributes)]),
        ],
    });
    message.set_resolved_family_id(family()?);
    Netlink::open_for(NETLINK_GENERIC)?.request(message, 0)
}

fn allowed((address, length): (IpAddr, u8)) -> WireguardAllowedIp {
    let family = if address.is_ipv4() { WireguardAddressFamily::Ipv4 } else { WireguardAddressFamily::Ipv6 };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(address),
        WireguardAllowedIpAttr::Cidr(length),
    ])
}

/// The number under which this kernel knows WireGuard's messages.
fn family() -> io::Result<u16> {
    let question = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("wireguard".to_owned())],
    });
    let answer = Netlink::open_for(NETLINK_GENERIC)?.get(question)?;
    let family = |attribute: &GenlCtrlAttrs| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    };
    let found = answer.and_then(|answer| answer.payload.nlas.iter().find_map(family));
    found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}
