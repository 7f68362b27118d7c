//! A packet as a part of a flow: may it stand behind another one, as if both had been one?

use super::{
    checksum::Sum,
    packet::{
        IPV4_HEADER, IPV6_HEADER, TCP, TCP_CHECKSUM, TCP_HEADER, UDP, UDP_CHECKSUM, UDP_HEADER, array,
        pseudo_sum,
    },
    vnet::Kind,
};

const TCP_PSH: u8 = 0x08;
const TCP_ACK: u8 = 0x10;
const TCP_ECE: u8 = 0x40;
/// The flags' byte of a TCP header.
const TCP_FLAGS: usize = 13;
/// "Don't fragment", of IPv4's flags and offset.
const DONT_FRAGMENT: u16 = 0x4000;

/// Where a TCP or UDP packet without oddities has its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What a large packet of this flow is.
    pub kind: Kind,
    /// Bytes of IP's header.
    pub network: usize,
    /// Bytes of all headers.
    pub header: usize,
    /// Bytes after them.
    pub payload: usize,
    /// Whether others of its flow may be joined to it.
    pub joins: bool,
    /// Whether nothing may come behind it.
    pub ends: bool,
}

impl Shape {
    /// Of a packet; `None` where it is neither TCP nor UDP, or a fragment, or has IP options.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let (network, protocol, whole) = match packet.first()? {
            0x45 => {
                let fragment = u16::from_be_bytes(array(packet, 6)?);
                // Without DF the numbers of its fragments would have to go on, too.
                (IPV4_HEADER, *packet.get(9)?, fragment == DONT_FRAGMENT)
            }
            first if first >> 4 == 6 => (IPV6_HEADER, *packet.get(6)?, true),
            _ => return None,
        };
        let transport = packet.get(network..)?;
        match protocol {
            TCP => Self::of_tcp(network, transport, packet[0] >> 4 == 4, whole),
            UDP => Self::of_udp(network, transport, whole),
            _ => None,
        }
    }

    fn of_tcp(network: usize, tcp: &[u8], is_v4: bool, whole: bool) -> Option<Self> {
        let flags = *tcp.get(TCP_FLAGS)?;
        let header = usize::from(tcp[12] >> 4) * 4;
        let payload = tcp.len().checked_sub(header).filter(|_| header >= TCP_HEADER)?;
        let plain = flags & TCP_ACK != 0 && flags & !(TCP_ACK | TCP_PSH | TCP_ECE) == 0;
        Some(Self {
            kind: if is_v4 { Kind::Tcp4 } else { Kind::Tcp6 },
            network,
            header: network + header,
            payload,
            joins: whole && plain && payload > 0,
            ends: flags & TCP_PSH != 0,
        })
    }

    fn of_udp(network: usize, udp: &[u8], whole: bool) -> Option<Self> {
        let payload = udp.len().checked_sub(UDP_HEADER)?;
        let length = usize::from(u16::from_be_bytes(array(udp, 4)?));
        let has_checksum = array::<2>(udp, UDP_CHECKSUM)? != [0, 0];
        let joins = whole && has_checksum && length == udp.len() && payload > 0;
        Some(Self { kind: Kind::Udp, network, header: network + UDP_HEADER, payload, joins, ends: false })
    }
}

/// Whether two packets are of one flow: addresses, protocol, ports.
pub fn is_same(a: (&[u8], Shape), b: (&[u8], Shape)) -> bool {
    let addresses = if a.1.network == IPV4_HEADER { 12..IPV4_HEADER } else { 8..IPV6_HEADER };
    let ports = a.1.network..a.1.network + 4;
    a.1.kind == b.1.kind
        && a.1.network == b.1.network
        && a.0[ports.clone()] == b.0[ports]
        && a.0[addresses.clone()] == b.0[addresses]
}

/// Whether `next` goes on where `first` and all joined to it, `payload` bytes, end, and nothing but
/// the place in the stream tells their headers apart.
pub fn continues(first: (&[u8], Shape), payload: usize, next: (&[u8], Shape)) -> bool {
    let ((a, shape), (b, next)) = (first, next);
    let network_alike = if shape.network == IPV4_HEADER {
        a[1] == b[1] && a[6..9] == b[6..9]
    } else {
        a[..4] == b[..4] && a[7] == b[7]
    };
    network_alike
        && shape.header == next.header
        && next.payload <= shape.payload
        && (shape.kind == Kind::Udp
            || tcp_continues(&a[shape.network..shape.header], payload, &b[shape.network..next.header]))
}

fn tcp_continues(a: &[u8], payload: usize, b: &[u8]) -> bool {
    let sequence = |tcp: &[u8]| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    sequence(a).wrapping_add(payload as u32) == sequence(b)
        // Acknowledgement, length of the header, window, options.
        && a[8..TCP_FLAGS] == b[8..TCP_FLAGS]
        && (a[TCP_FLAGS] ^ b[TCP_FLAGS]) & !TCP_PSH == 0
        && a[14..16] == b[14..16]
        && a[TCP_HEADER..] == b[TCP_HEADER..]
}

/// Whether all checksums are right. Whoever joins packets vouches for them.
pub fn is_intact(packet: &[u8], shape: Shape) -> bool {
    let protocol = if shape.kind == Kind::Udp { UDP } else { TCP };
    let network_right =
        shape.network == IPV6_HEADER || Sum::default().add(&packet[..shape.network]).finish() == [0, 0];
    let transport = &packet[shape.network..];
    network_right && pseudo_sum(packet, protocol, transport.len()).add(transport).finish() == [0, 0]
}

/// Where the checksum of its transport is, after IP's header.
pub fn checksum_offset(kind: Kind) -> usize {
    if kind == Kind::Udp { UDP_CHECKSUM } else { TCP_CHECKSUM }
}

/// Writes what the headers of a large packet say beside its length: lengths of the transport, the
/// beginning of its checksum, and TCP's PSH where its last part had it.
pub fn finish_header(packet: &mut [u8], shape: Shape, bytes: usize, ends: bool) {
    let transport = bytes - shape.network;
    let protocol = if shape.kind == Kind::Udp { UDP } else { TCP };
    let sum = pseudo_sum(packet, protocol, transport).begun();
    let header = &mut packet[shape.network..];
    if shape.kind == Kind::Udp {
        header[4..6].copy_from_slice(&(transport as u16).to_be_bytes());
    } else if ends {
        header[TCP_FLAGS] |= TCP_PSH;
    }
    let at = checksum_offset(shape.kind);
    header[at..at + 2].copy_from_slice(&sum);
}
