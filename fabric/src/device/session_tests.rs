//! Two ends that pass datagrams by hand: sessions, new keys, replays, roaming, keep-alives.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use boringtun::{
    noise::TunnResult,
    x25519::{PublicKey, StaticSecret},
};

use super::{
    Offloads,
    from_tun::seal_one,
    inbound::Messages,
    mmsg::Received,
    outbound::{Endpoint, Outbound},
    peers::{PeerId, Peers},
    timers,
    to_tun::ToTun,
};

/// More than an index has room for: they are used again.
const MANY_HANDSHAKES: usize = 300;

struct End {
    peers: Peers,
    outbound: Outbound,
    opened: ToTun,
    address: SocketAddr,
    other: PeerId,
    inside: u8,
}

fn pair() -> (End, End) {
    let secret = || StaticSecret::from(rand::random::<[u8; 32]>());
    let (a, b) = (secret(), secret());
    let keys = (PublicKey::from(&a), PublicKey::from(&b));
    (End::new(1, a, keys.1), End::new(2, b, keys.0))
}

impl End {
    fn new(number: u8, secret: StaticSecret, other: PublicKey) -> Self {
        let mut peers = Peers::new();
        peers.set_identity(Some(secret));
        let id = peers.add(other).unwrap();
        peers.allowed.insert(format!("10.0.0.{}/32", 3 - number).parse().unwrap(), id);
        peers.get_mut(id).unwrap().endpoint = Some(at(3 - number));
        Self {
            peers,
            outbound: Outbound::new(true),
            opened: ToTun::new(1 << 18, Offloads::ALL),
            address: at(number).to,
            other: id,
            inside: number,
        }
    }

    /// Seals a packet that carries `mark` for the other end; the datagrams that leave.
    fn say(&mut self, mark: u32) -> Vec<Vec<u8>> {
        let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0x40, 0, 64, 200, 0, 0, 10, 0, 0, self.inside, 10, 0, 0];
        packet.push(3 - self.inside);
        packet.extend(mark.to_be_bytes());
        seal_one(self.other, &packet, &mut self.peers, &mut self.outbound, Instant::now());
        self.outbound.drain()
    }

    /// Takes datagrams from an address; what it answers.
    fn hear(&mut self, from: SocketAddr, datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
        for bytes in datagrams {
            Messages {
                endpoint: Endpoint { to: from, from: None },
                opened: &mut self.opened,
                last: &mut None,
                now: Instant::now(),
                peers: &mut self.peers,
                outbound: &mut self.outbound,
            }
            .take(Received { from, to: None, segment: bytes.len(), bytes });
        }
        self.outbound.drain()
    }

    /// The marks that have come out since the last look.
    fn heard(&mut self) -> Vec<u32> {
        let mut marks = Vec::new();
        self.opened.finish_all(|parts| {
            let packet: Vec<u8> = parts[1..].iter().flat_map(|part| part.to_vec()).collect();
            marks.push(u32::from_be_bytes(packet[20..24].try_into().unwrap()));
            Ok(())
        });
        marks
    }

    fn initiate(&mut self) -> Vec<Vec<u8>> {
        let peer = self.peers.get_mut(self.other).unwrap();
        let tunnel = peer.tunnel.as_mut().unwrap();
        let TunnResult::WriteToNetwork(message) =
            tunnel.format_handshake_initiation(self.outbound.room(), true)
        else {
            panic!("no initiation");
        };
        let bytes = message.len();
        self.outbound.push(self.other, peer, bytes);
        self.outbound.drain()
    }

    /// Lets the clock of its sessions go on.
    fn tick(&mut self) {
        let peer = self.peers.get_mut(self.other).unwrap();
        assert_eq!(timers::due(peer, self.outbound.room(), Instant::now()), None);
    }

    fn endpoint(&mut self) -> SocketAddr {
        self.peers.get_mut(self.other).unwrap().endpoint.unwrap().to
    }
}

fn at(number: u8) -> Endpoint {
    Endpoint { to: SocketAddr::new(IpAddr::from([192, 0, 2, number]), 51_820), from: None }
}

/// Passes datagrams on until nobody has more to say.
fn settle(a: &mut End, b: &mut End, first: Vec<Vec<u8>>) {
    let mut to_b = first;
    while !to_b.is_empty() {
        let to_a = b.hear(a.address, &to_b);
        to_b = a.hear(b.address, &to_a);
    }
}

#[test]
fn what_waited_for_a_session_arrives_once_there_is_one() {
    let (mut a, mut b) = pair();
    let initiation = a.say(1);
    assert!(a.say(2).is_empty(), "one handshake is under way already");
    settle(&mut a, &mut b, initiation);
    assert_eq!(b.heard(), [1, 2]);
    let answer = b.say(3);
    settle(&mut b, &mut a, answer);
    assert_eq!(a.heard(), [3]);
    for end in [&mut a, &mut b] {
        let other = end.other;
        let peer = end.peers.get_mut(other).unwrap();
        assert!(peer.last_handshake.is_some() && peer.received_bytes > 0 && peer.sent_bytes > 0);
    }
}

#[test]
fn new_keys_lose_nothing_that_is_under_way() {
    let (mut a, mut b) = pair();
    let first = a.say(0);
    settle(&mut a, &mut b, first);
    assert_eq!(b.heard(), [0]);
    for mark in 1..MANY_HANDSHAKES as u32 {
        // Sealed with the old keys, opened after the new ones are in use; begun by each in turn.
        let (late, late_back) = (a.say(mark), b.say(mark));
        for end in [&mut a, &mut b] {
            end.tick();
        }
        let (one, other) = if mark % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        let initiation = one.initiate();
        settle(one, other, initiation);
        let (now, now_back) = (a.say(mark + 10_000), b.say(mark + 10_000));
        b.hear(at(1).to, &[now, late].concat());
        a.hear(at(2).to, &[now_back, late_back].concat());
        assert_eq!(b.heard(), [mark + 10_000, mark]);
        assert_eq!(a.heard(), [mark + 10_000, mark]);
    }
}

#[test]
fn each_datagram_counts_once_in_whatever_order() {
    let (mut a, mut b) = pair();
    let first = a.say(0);
    settle(&mut a, &mut b, first);
    b.heard();
    let mut datagrams: Vec<Vec<u8>> = (0..500).flat_map(|mark| a.say(mark)).collect();
    datagrams.reverse();
    b.hear(at(1).to, &datagrams);
    b.hear(at(1).to, &datagrams);
    assert_eq!(b.heard(), (0..500).rev().collect::<Vec<u32>>());
}

#[test]
fn only_what_is_authentic_moves_a_peer() {
    let (mut a, mut b) = pair();
    let initiation = a.say(0);
    settle(&mut a, &mut b, initiation.clone());
    let elsewhere: SocketAddr = "[2001:db8::9]:7".parse().unwrap();
    let good = a.say(1);
    let mut forged = a.say(2);
    *forged[0].last_mut().unwrap() ^= 1;
    for bad in [initiation, forged, vec![vec![4; 64]], vec![vec![1; 148]]] {
        b.hear(elsewhere, &bad);
        assert_eq!(b.endpoint(), at(1).to);
    }
    b.hear(elsewhere, &good);
    assert_eq!(b.endpoint(), elsewhere);
    b.hear(at(1).to, &good);
    assert_eq!(b.endpoint(), elsewhere, "a replay moves nobody back");
}

#[test]
fn a_silent_peer_is_kept_alive_and_a_lost_one_is_looked_for() {
    let (mut a, mut b) = pair();
    let due = |end: &mut End, silent_for: u64| {
        let id = end.other;
        let peer = end.peers.get_mut(id).unwrap();
        peer.keepalive_seconds = 5;
        peer.last_traffic = Instant::now().checked_sub(Duration::from_secs(silent_for)).unwrap();
        let bytes = timers::due(peer, end.outbound.room(), Instant::now())?;
        end.outbound.push(id, peer, bytes);
        end.outbound.drain().pop()
    };
    assert_eq!(due(&mut a, 4), None);
    let search = due(&mut a, 5).expect("it is due");
    assert_eq!((search[0], search.len()), (1, 148), "an initiation");
    settle(&mut a, &mut b, vec![search]);
    assert_eq!(due(&mut a, 4), None);
    let alive = due(&mut a, 6).expect("it is due");
    assert_eq!((alive[0], alive.len()), (4, 32), "an empty packet");
    b.hear(at(1).to, &[alive]);
    assert!(b.heard().is_empty());
}
