//! What WireGuard's datagrams show to everyone (the protocol's white paper, section 5.4).

use blake2::{
    Blake2s256, Blake2sMac, Digest as _,
    digest::{Mac as _, consts::U16},
};

const INITIATION_BYTES: usize = 148;
const RESPONSE_BYTES: usize = 92;
const COOKIE_BYTES: usize = 64;
/// Header and tag of an empty one.
const TRANSPORT_MIN_BYTES: usize = 32;
/// `mac1` and `mac2` close the messages of a handshake.
const MAC_BYTES: usize = 16;
const LABEL_MAC1: &[u8] = b"mac1----";

/// One datagram by its type. Indices are chosen at random by who is to receive what bears them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Initiation { sender: u32 },
    Response { sender: u32, receiver: u32 },
    Cookie { receiver: u32 },
    Transport { receiver: u32 },
}

impl Message {
    /// `None` for what WireGuard does not send.
    pub(super) fn read(datagram: &[u8]) -> Option<Self> {
        let index = |at: usize| {
            let bytes = datagram.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        match (datagram.get(..4)?, datagram.len()) {
            ([1, 0, 0, 0], INITIATION_BYTES) => Some(Self::Initiation { sender: index(4)? }),
            ([2, 0, 0, 0], RESPONSE_BYTES) => Some(Self::Response { sender: index(4)?, receiver: index(8)? }),
            ([3, 0, 0, 0], COOKIE_BYTES) => Some(Self::Cookie { receiver: index(4)? }),
            ([4, 0, 0, 0], TRANSPORT_MIN_BYTES..) => Some(Self::Transport { receiver: index(4)? }),
            _ => None,
        }
    }
}

/// Recognises messages of handshakes that are meant for one member.
#[derive(Clone)]
pub(super) struct Recipient([u8; 32]);

impl Recipient {
    pub(super) fn new(public_key: &[u8; 32]) -> Self {
        let hash = Blake2s256::new().chain_update(LABEL_MAC1).chain_update(public_key);
        Self(hash.finalize().into())
    }

    /// Whether whoever sent this initiation or response knew the member's public key.
    pub(super) fn is_of(&self, handshake: &[u8]) -> bool {
        let Some(at) = handshake.len().checked_sub(2 * MAC_BYTES) else { return false };
        let (body, macs) = handshake.split_at(at);
        let Ok(mac) = Blake2sMac::<U16>::new_from_slice(&self.0) else { return false };
        mac.chain_update(body).verify_slice(&macs[..MAC_BYTES]).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_wireguard_sends_is_read() {
        let mut datagram = vec![0; INITIATION_BYTES];
        datagram[0] = 1;
        datagram[4..8].copy_from_slice(&7u32.to_le_bytes());
        assert_eq!(Message::read(&datagram), Some(Message::Initiation { sender: 7 }));
        assert_eq!(Message::read(&datagram[..147]), None);
        datagram[1] = 1;
        assert_eq!(Message::read(&datagram), None);
        assert_eq!(Message::read(&[4, 0, 0, 0]), None);
        assert_eq!(Message::read(&[]), None);
        let mut empty = vec![0; TRANSPORT_MIN_BYTES];
        empty[..8].copy_from_slice(&[4, 0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(Message::read(&empty), Some(Message::Transport { receiver: 0x0201 }));
    }
}
