//! The header before each packet of a TUN with `IFF_VNET_HDR`: `virtio_net_hdr` of the virtio
//! specification, 5.1.6, in the byte order of the host.

/// Its size on the wire between us and the kernel.
pub const HEADER_BYTES: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
/// Said beside the kind where a segment carries ECN's CWR.
const GSO_ECN: u8 = 0x80;

/// What a large packet is to be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP segments over IPv4.
    Tcp4,
    /// TCP segments over IPv6.
    Tcp6,
    /// UDP datagrams.
    Udp,
}

/// Where a checksum is still to be made: over all from `start`, into `start + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// First byte that it covers.
    pub start: u16,
    /// Its own place after that.
    pub offset: u16,
}

/// How a large packet is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Into what.
    pub kind: Kind,
    /// Bytes of all headers, IP's and the transport's.
    pub header: u16,
    /// Bytes of payload of each part, the last excepted.
    pub size: u16,
}

/// A header, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// A checksum that is only begun.
    pub checksum: Option<Checksum>,
    /// More than one packet's worth.
    pub gso: Option<Gso>,
}

impl Header {
    /// Reads it; `None` for a kind that nobody asked the kernel for.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = |kind| Some(Gso { kind, header: word(2), size: word(4) });
        let gso = match bytes[1] & !GSO_ECN {
            0 => None,
            GSO_TCP4 => gso(Kind::Tcp4),
            GSO_TCP6 => gso(Kind::Tcp6),
            GSO_UDP => gso(Kind::Udp),
            _ => return None,
        };
        let begun = bytes[0] & NEEDS_CHECKSUM != 0;
        let checksum = begun.then(|| Checksum { start: word(6), offset: word(8) });
        Some(Self { checksum, gso })
    }

    /// Writes it.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut word = |at: usize, value: u16| bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        if let Some(checksum) = self.checksum {
            word(6, checksum.start);
            word(8, checksum.offset);
        }
        if let Some(gso) = self.gso {
            word(2, gso.header);
            word(4, gso.size);
        }
        bytes[0] = if self.checksum.is_some() { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = match self.gso.map(|gso| gso.kind) {
            None => 0,
            Some(Kind::Tcp4) => GSO_TCP4,
            Some(Kind::Tcp6) => GSO_TCP6,
            Some(Kind::Udp) => GSO_UDP,
        };
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for kind in [Kind::Tcp4, Kind::Tcp6, Kind::Udp] {
            let gso = Some(Gso { kind, header: 52, size: 1368 });
            let header = Header { checksum: Some(Checksum { start: 20, offset: 16 }), gso };
            assert_eq!(Header::parse(&header.to_bytes()), Some(header));
        }
        assert_eq!(Header::parse(&[0; HEADER_BYTES]), Some(Header::default()));
        assert_eq!(Header::parse(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), None, "UFO was not asked for");
    }
}
