//! ICMP echo (RFC 792): what is sent, and what is read of answers.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
};

use nix::{
    setsockopt_impl, sockopt_impl,
    sys::socket::{
        AddressFamily, SetSockOpt as _, SockFlag, SockProtocol, SockType, SockaddrIn, bind, socket,
    },
};

/// Types of ICMP.
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// Type, code, checksum, identifier, sequence number; then our own number.
pub const ECHO_BYTES: usize = 16;
/// Of IPv4, without options.
pub const IP_HEADER_BYTES: usize = 20;

sockopt_impl!(
    /// What becomes of packets that are larger than the path.
    MtuDiscover,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);

/// A raw socket for ICMP, whose calls are those of a datagram socket. It hears what is sent to this
/// address alone, and does not block.
pub fn open(own: Ipv4Addr) -> io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(own, 0)))?;
    Ok(socket.into())
}

/// Has packets sent whole or not at all, whatever was learnt of the path (ip(7)).
pub fn never_fragment(socket: &UdpSocket) -> io::Result<()> {
    Ok(MtuDiscover.set(socket, &libc::IP_PMTUDISC_PROBE)?)
}

/// An echo request of `length` bytes, no fewer than [`ECHO_BYTES`], that carries this number.
pub fn echo(number: u64, length: usize) -> Vec<u8> {
    let mut echo = vec![0; length.max(ECHO_BYTES)];
    echo[0] = ECHO;
    // Identifier and sequence number are for people who look at packets.
    echo[4..8].copy_from_slice(&(number as u32).to_be_bytes());
    echo[8..ECHO_BYTES].copy_from_slice(&number.to_be_bytes());
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    echo
}

/// The Internet's (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The number of an answer, which comes with its IPv4 header (raw(7)).
pub fn number_of(packet: &[u8]) -> Option<u64> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let echo = packet.get(header..)?.first_chunk::<ECHO_BYTES>()?;
    let number = u64::from_be_bytes(*echo.last_chunk()?);
    (echo[..2] == [ECHO_REPLY, 0]).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_one_that_every_kernel_takes_and_only_its_answer_is_read() {
        for length in [0, 17, 1400] {
            let echo = echo(7, length);
            assert_eq!(checksum(&echo), 0, "a sum over all of it, its own included");
            assert_eq!(echo.len(), length.max(ECHO_BYTES));
            let mut packet = vec![0x45; IP_HEADER_BYTES];
            packet.extend_from_slice(&echo);
            assert_eq!(number_of(&packet), None, "a question");
            packet[IP_HEADER_BYTES] = ECHO_REPLY;
            assert_eq!(number_of(&packet), Some(7));
            assert_eq!(number_of(&packet[..35]), None);
        }
        assert_eq!(number_of(&[]), None);
    }
}
