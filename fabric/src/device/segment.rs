//! Cutting what the TUN gives into packets of the path's size, with all checksums made.

use super::{
    packet::{self, IPV4_HEADER, IPV6_HEADER, TCP, TCP_CHECKSUM, TCP_HEADER, UDP, UDP_CHECKSUM, UDP_HEADER},
    vnet::{Checksum, Gso, Header, Kind},
};

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;
/// The flags' byte of a TCP header.
const TCP_FLAGS: usize = 13;

/// What the kernel gave cannot be what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Calls `each` with every packet that `packet` stands for. `scratch` holds one of them at a time.
pub fn split(
    header: Header,
    packet: &mut [u8],
    scratch: &mut [u8],
    mut each: impl FnMut(&[u8]),
) -> Result<(), Malformed> {
    if let Some(gso) = header.gso {
        return split_large(gso, header.checksum.ok_or(Malformed)?, packet, scratch, each);
    }
    if let Some(checksum) = header.checksum {
        complete(packet, checksum)?;
    }
    each(packet);
    Ok(())
}

/// Finishes a checksum that covers everything from its start and already holds the pseudo-header's.
fn complete(packet: &mut [u8], checksum: Checksum) -> Result<(), Malformed> {
    let (start, at) =
        (usize::from(checksum.start), usize::from(checksum.start) + usize::from(checksum.offset));
    if at + 2 > packet.len() {
        return Err(Malformed);
    }
    let sum = super::checksum::Sum::default().add(&packet[start..]).finish();
    // Zero would mean "none" to UDP; TCP does not mind.
    packet[at..at + 2].copy_from_slice(if sum == [0, 0] { &[0xff, 0xff] } else { &sum });
    Ok(())
}

fn split_large(
    gso: Gso,
    checksum: Checksum,
    packet: &[u8],
    scratch: &mut [u8],
    mut each: impl FnMut(&[u8]),
) -> Result<(), Malformed> {
    let network = usize::from(checksum.start);
    let header = header_bytes(gso.kind, network, packet).ok_or(Malformed)?;
    let size = usize::from(gso.size);
    if size == 0 || header + size > scratch.len() || header > packet.len() {
        return Err(Malformed);
    }
    let (headers, payload) = packet.split_at(header);
    let last = payload.len().div_ceil(size).saturating_sub(1);
    for (index, part) in payload.chunks(size).enumerate() {
        let out = &mut scratch[..header + part.len()];
        out[..header].copy_from_slice(headers);
        out[header..].copy_from_slice(part);
        if out[0] >> 4 == 4 {
            let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(index as u16);
            out[4..6].copy_from_slice(&id.to_be_bytes());
        }
        packet::set_length(out, network, header + part.len());
        if gso.kind == Kind::Udp {
            finish_udp(out, network);
        } else {
            finish_tcp(out, network, (index * size) as u32, index == 0, index == last);
        }
        each(out);
    }
    Ok(())
}

/// All headers together; `None` where the packet is not what it is said to be.
fn header_bytes(kind: Kind, network: usize, packet: &[u8]) -> Option<usize> {
    let version = packet.first()? >> 4;
    let transport = match kind {
        Kind::Tcp4 | Kind::Tcp6 => {
            let words = packet.get(network + 12)? >> 4;
            (usize::from(words) * 4).max(TCP_HEADER)
        }
        Kind::Udp => UDP_HEADER,
    };
    let fits = match kind {
        Kind::Tcp4 => version == 4 && network >= IPV4_HEADER,
        Kind::Tcp6 => version == 6 && network >= IPV6_HEADER,
        Kind::Udp => network >= if version == 4 { IPV4_HEADER } else { IPV6_HEADER },
    };
    (fits && matches!(version, 4 | 6)).then_some(network + transport)
}

fn finish_tcp(packet: &mut [u8], network: usize, skipped: u32, first: bool, last: bool) {
    let pseudo = packet::pseudo_sum(packet, TCP, packet.len() - network);
    let tcp = &mut packet[network..];
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(skipped);
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    if !first {
        tcp[TCP_FLAGS] &= !TCP_CWR;
    }
    if !last {
        tcp[TCP_FLAGS] &= !(TCP_FIN | TCP_PSH);
    }
    tcp[TCP_CHECKSUM..TCP_CHECKSUM + 2].fill(0);
    let sum = pseudo.add(tcp).finish();
    tcp[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&sum);
}

fn finish_udp(packet: &mut [u8], network: usize) {
    let length = packet.len() - network;
    let pseudo = packet::pseudo_sum(packet, UDP, length);
    let udp = &mut packet[network..];
    udp[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    udp[UDP_CHECKSUM..UDP_CHECKSUM + 2].fill(0);
    let sum = pseudo.add(udp).finish();
    udp[UDP_CHECKSUM..UDP_CHECKSUM + 2].copy_from_slice(if sum == [0, 0] { &[0xff, 0xff] } else { &sum });
}
