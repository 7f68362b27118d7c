//! A peer made of nothing but the protocol, which says whatever a test wants it to.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use boringtun::{
    noise::{Tunn, TunnResult},
    x25519::{PublicKey, StaticSecret},
};
use testbed::wireguard::{Node, PORT};

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// First bytes of messages.
pub const RESPONSE: u8 = 2;
pub const COOKIE: u8 = 3;

/// One end of a tunnel, by hand.
pub struct Client {
    tunnel: Tunn,
    socket: UdpSocket,
    public: PublicKey,
}

impl Client {
    /// A client in the namespace of `home` that speaks to `server`.
    pub fn new(home: &Node, server: &Node) -> Result<Self> {
        let secret = StaticSecret::from(rand::random::<[u8; 32]>());
        let key: [u8; 32] = BASE64_STANDARD.decode(&server.public_key)?.try_into().ok().context("a key")?;
        let public = PublicKey::from(&secret);
        let tunnel = Tunn::new(secret, key.into(), None, None, rand::random::<u32>() >> 8, None);
        let here = home.outside[0];
        let socket = home.within(move || UdpSocket::bind((here, 0)))??;
        socket.connect(SocketAddr::new(server.outside[0], PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { tunnel, socket, public })
    }

    /// As `wg` takes it.
    pub fn public_key(&self) -> String {
        BASE64_STANDARD.encode(self.public.as_bytes())
    }

    /// A handshake's first message, another each time.
    pub fn initiation(&mut self) -> Result<Vec<u8>> {
        let mut room = [0; 256];
        match self.tunnel.format_handshake_initiation(&mut room, true) {
            TunnResult::WriteToNetwork(message) => Ok(message.to_vec()),
            other => bail!("no initiation: {other:?}"),
        }
    }

    /// Sends bytes as they are.
    pub fn send(&self, message: &[u8]) -> Result<()> {
        self.socket.send(message).map(drop).context("cannot send")
    }

    /// Sends a handshake's first message and waits for what answers it, a response or a cookie; what
    /// answers others is passed over.
    pub fn ask(&mut self) -> Result<Vec<u8>> {
        let initiation = self.initiation()?;
        self.send(&initiation)?;
        let end = Instant::now() + PATIENCE;
        let mut room = vec![0; 65_536];
        while Instant::now() < end {
            let bytes = self.socket.recv(&mut room).context("no answer to a handshake")?;
            let index = match room[0] {
                RESPONSE => 8..12,
                COOKIE => 4..8,
                _ => continue,
            };
            if room[index] == initiation[4..8] {
                return Ok(room[..bytes].to_vec());
            }
        }
        bail!("no answer to a handshake")
    }

    /// Takes a message in, and sends what follows from it.
    pub fn take(&mut self, message: &[u8]) -> Result<()> {
        let mut room = [0; 2048];
        match self.tunnel.decapsulate(None, message, &mut room) {
            TunnResult::WriteToNetwork(answer) => self.socket.send(answer).map(drop).context("cannot answer"),
            TunnResult::Done => Ok(()),
            other => bail!("the message was not taken: {other:?}"),
        }
    }

    /// Makes a session.
    pub fn shake_hands(&mut self) -> Result<()> {
        let response = self.ask()?;
        self.take(&response)
    }

    /// Sends a UDP datagram through the session, from whatever address inside.
    pub fn send_inside(&mut self, from: Ipv4Addr, to: SocketAddr, payload: &[u8]) -> Result<()> {
        let IpAddr::V4(ip) = to.ip() else { bail!("only IPv4 here") };
        let length = 28 + payload.len();
        let mut packet = vec![0x45, 0, 0, length as u8, 0, 0, 0x40, 0, 64, 17, 0, 0];
        packet.extend(from.octets());
        packet.extend(ip.octets());
        let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(40_000_u16.to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        // Without a checksum of its own, as UDP over IPv4 may be.
        packet.extend([0, (8 + payload.len()) as u8, 0, 0]);
        packet.extend(payload);
        let mut room = [0; 2048];
        match self.tunnel.encapsulate(&packet, &mut room) {
            TunnResult::WriteToNetwork(message) => {
                ensure!(message.first() == Some(&4), "there is no session");
                self.socket.send(message).map(drop).context("cannot send")
            }
            other => bail!("not sealed: {other:?}"),
        }
    }
}
