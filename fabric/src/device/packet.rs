//! IP packets as bytes: who from, who to, and the parts that cutting and merging change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Sum;

/// Fixed header of IPv4.
pub const IPV4_HEADER: usize = 20;
/// Fixed header of IPv6.
pub const IPV6_HEADER: usize = 40;
/// Fixed header of TCP.
pub const TCP_HEADER: usize = 20;
/// Header of UDP.
pub const UDP_HEADER: usize = 8;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// Place of the checksum in a TCP header.
pub const TCP_CHECKSUM: usize = 16;
/// Place of the checksum in a UDP header.
pub const UDP_CHECKSUM: usize = 6;

/// The destination of a packet of either version; `None` where it is neither.
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(array::<4>(packet, 16)?).into()),
        6 => Some(Ipv6Addr::from(array::<16>(packet, 24)?).into()),
        _ => None,
    }
}

/// The sum of the pseudo-header for a transport of `bytes`.
pub fn pseudo_sum(packet: &[u8], protocol: u8, bytes: usize) -> Sum {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..IPV4_HEADER] } else { &packet[8..IPV6_HEADER] };
    Sum::default().add(addresses).add_word(protocol.into()).add_word(bytes as u16)
}

/// Writes the length of the whole packet, and IPv4's checksum.
pub fn set_length(packet: &mut [u8], header: usize, bytes: usize) {
    if packet[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&(bytes as u16).to_be_bytes());
        packet[10..12].fill(0);
        let sum = Sum::default().add(&packet[..header]).finish();
        packet[10..12].copy_from_slice(&sum);
    } else {
        packet[4..6].copy_from_slice(&((bytes - IPV6_HEADER) as u16).to_be_bytes());
    }
}

/// Bytes of a fixed number, where they are there.
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
