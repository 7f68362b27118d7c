use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::message::{Message, Recipient};

/// Pairs at a time; the one that was quiet for longest makes room.
pub const MAX_PAIRS: usize = 1024;
/// A pair that says nothing for so long is closed: WireGuard forgets a session after 180 s.
const IDLE: Duration = Duration::from_mins(5);
/// Indices remembered of one pair: a session has one on each side, and three may overlap.
const MAX_INDICES: usize = 32;

/// Two members by their public keys, in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair([[u8; 32]; 2]);

impl Pair {
    /// `None` for a member and itself.
    pub fn new(one: [u8; 32], other: [u8; 32]) -> Option<Self> {
        (one != other).then(|| Self([one.min(other), one.max(other)]))
    }
}

/// One side of a pair.
struct Leg {
    recipient: Recipient,
    /// Where the fabric knows this member to be: what claims to be from it must come from there.
    expected: IpAddr,
    /// From where it was heard last.
    at: Option<SocketAddr>,
}

struct Open {
    legs: [Leg; 2],
    /// Whose index this is: 0 or 1; the newest last.
    indices: VecDeque<(u32, usize)>,
    used: Instant,
}

/// The open pairs of a relay. Knows no socket: it says where a datagram goes.
#[derive(Default)]
pub struct Switch {
    pairs: HashMap<Pair, Open>,
    /// Pairs in which an address has spoken, and on which side.
    speakers: HashMap<SocketAddr, Vec<(Pair, usize)>>,
}

impl Switch {
    /// Lets the two talk; `expected` tells where each may speak from, in the order of the arguments.
    /// Repeating it keeps what was learnt of a side that has not moved.
    pub fn open(&mut self, one: ([u8; 32], IpAddr), other: ([u8; 32], IpAddr), now: Instant) {
        let Some(pair) = Pair::new(one.0, other.0) else { return };
        self.close_idle(now);
        if !self.pairs.contains_key(&pair) && self.pairs.len() >= MAX_PAIRS {
            let oldest = self.pairs.iter().min_by_key(|(_, open)| open.used).map(|(pair, _)| *pair);
            oldest.into_iter().for_each(|oldest| self.close(oldest));
        }
        let [one, other] = if pair.0[0] == one.0 { [one, other] } else { [other, one] };
        let leg = |(key, expected): ([u8; 32], IpAddr)| Leg {
            recipient: Recipient::new(&key),
            expected: expected.to_canonical(),
            at: None,
        };
        let open = self.pairs.entry(pair).or_insert_with(|| Open {
            legs: [leg(one), leg(other)],
            indices: VecDeque::new(),
            used: now,
        });
        open.used = now;
        for (leg, (_, expected)) in open.legs.iter_mut().zip([one, other]) {
            leg.expected = expected.to_canonical();
        }
    }

    /// Ends what the two have.
    pub fn close(&mut self, pair: Pair) {
        self.pairs.remove(&pair);
        self.speakers.retain(|_, spoken| {
            spoken.retain(|(of, _)| *of != pair);
            !spoken.is_empty()
        });
    }

    /// Closes the pairs in which somebody else than these speaks.
    pub fn retain(&mut self, members: &HashSet<[u8; 32]>) {
        let gone = self.pairs.keys().filter(|pair| !pair.0.iter().all(|member| members.contains(member)));
        let gone: Vec<Pair> = gone.copied().collect();
        gone.into_iter().for_each(|pair| self.close(pair));
    }

    /// How many pairs are open.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether nobody is relayed.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Where a datagram goes; `None` drops it.
    pub fn forward(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Option<SocketAddr> {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let (pair, side) = match Message::read(datagram)? {
            Message::Initiation { sender } => {
                let (pair, side) = self.caller(from, datagram)?;
                self.learn(pair, side, from, sender);
                (pair, side)
            }
            Message::Response { sender, receiver } => {
                let (pair, side) = self.speaker(from, receiver)?;
                self.learn(pair, side, from, sender);
                (pair, side)
            }
            Message::Cookie { receiver } | Message::Transport { receiver } => self.speaker(from, receiver)?,
        };
        let open = self.pairs.get_mut(&pair)?;
        open.used = now;
        open.legs[1 - side].at
    }

    /// Who calls: the pair whose other side this initiation is for, and that expects it from here.
    fn caller(&self, from: SocketAddr, initiation: &[u8]) -> Option<(Pair, usize)> {
        self.pairs.iter().find_map(|(pair, open)| {
            let calls = |side: &usize| {
                open.legs[*side].expected == from.ip() && open.legs[1 - side].recipient.is_of(initiation)
            };
            [0, 1].into_iter().find(calls).map(|side| (*pair, side))
        })
    }

    /// Who speaks from there to whom this index belongs.
    fn speaker(&self, from: SocketAddr, receiver: u32) -> Option<(Pair, usize)> {
        let spoken = self.speakers.get(&from)?.iter().copied();
        spoken.into_iter().find(|(pair, side)| {
            let indices = self.pairs.get(pair).map(|open| &open.indices);
            indices.is_some_and(|indices| indices.contains(&(receiver, 1 - side)))
        })
    }

    fn learn(&mut self, pair: Pair, side: usize, from: SocketAddr, index: u32) {
        let Some(open) = self.pairs.get_mut(&pair) else { return };
        if let Some(old) = open.legs[side].at.replace(from).filter(|old| *old != from)
            && let Some(spoken) = self.speakers.get_mut(&old)
        {
            spoken.retain(|known| *known != (pair, side));
        }
        if !open.indices.contains(&(index, side)) {
            if open.indices.len() >= MAX_INDICES {
                open.indices.pop_front();
            }
            open.indices.push_back((index, side));
        }
        let spoken = self.speakers.entry(from).or_default();
        if !spoken.contains(&(pair, side)) {
            spoken.push((pair, side));
        }
    }

    fn close_idle(&mut self, now: Instant) {
        let idle = self.pairs.iter().filter(|(_, open)| now.duration_since(open.used) > IDLE);
        let idle: Vec<Pair> = idle.map(|(pair, _)| *pair).collect();
        idle.into_iter().for_each(|pair| self.close(pair));
    }
}

#[cfg(test)]
mod tests {
    use boringtun::{
        noise::{Tunn, TunnResult},
        x25519::{PublicKey, StaticSecret},
    };

    use super::*;

    struct Member {
        secret: StaticSecret,
        at: SocketAddr,
    }

    impl Member {
        fn new(number: u8) -> Self {
            let at = SocketAddr::from(([192, 0, 2, number], 1000 + u16::from(number)));
            Self { secret: StaticSecret::from([number; 32]), at }
        }

        fn key(&self) -> [u8; 32] {
            *PublicKey::from(&self.secret).as_bytes()
        }

        fn tunnel_to(&self, other: &Self, index: u32) -> Tunn {
            Tunn::new(self.secret.clone(), PublicKey::from(&other.secret), None, None, index, None)
        }

        fn leg(&self) -> ([u8; 32], IpAddr) {
            (self.key(), self.at.ip())
        }
    }

    fn sent(result: TunnResult<'_>) -> Vec<u8> {
        match result {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("nothing to send: {other:?}"),
        }
    }

    fn initiation(tunnel: &mut Tunn) -> Vec<u8> {
        sent(tunnel.format_handshake_initiation(&mut [0; 256], true))
    }

    fn received(tunnel: &mut Tunn, datagram: &[u8]) -> Vec<u8> {
        sent(tunnel.decapsulate(None, datagram, &mut [0; 2048]))
    }

    #[test]
    fn two_members_shake_hands_and_talk_through_it() {
        let (a, b, now) = (Member::new(1), Member::new(2), Instant::now());
        let (mut to_b, mut to_a) = (a.tunnel_to(&b, 1), b.tunnel_to(&a, 2));
        let mut switch = Switch::default();
        let first = initiation(&mut to_b);
        assert_eq!(switch.forward(a.at, &first, now), None, "nobody asked for the pair");
        switch.open(a.leg(), b.leg(), now);
        assert_eq!(switch.forward(a.at, &first, now), None, "b has not been heard");
        let call = initiation(&mut to_a);
        assert_eq!(switch.forward(b.at, &call, now), Some(a.at));
        let response = received(&mut to_b, &call);
        assert_eq!(switch.forward(a.at, &response, now), Some(b.at));
        let confirmation = received(&mut to_a, &response);
        assert_eq!(switch.forward(b.at, &confirmation, now), Some(a.at));
        let mut packet = [0; 20];
        (packet[0], packet[3]) = (0x45, 20);
        let data = sent(to_a.encapsulate(&packet, &mut [0; 256]));
        assert_eq!(switch.forward(b.at, &data, now), Some(a.at));
        let stranger = SocketAddr::from(([192, 0, 2, 9], 9));
        assert_eq!(switch.forward(stranger, &data, now), None, "from where nobody of the pair is");
    }

    #[test]
    fn an_initiation_for_somebody_else_or_from_elsewhere_goes_nowhere() {
        let (a, b, c, now) = (Member::new(1), Member::new(2), Member::new(3), Instant::now());
        let mut switch = Switch::default();
        switch.open(a.leg(), b.leg(), now);
        assert_eq!(switch.forward(b.at, &initiation(&mut b.tunnel_to(&a, 1)), now), None);
        let for_c = initiation(&mut a.tunnel_to(&c, 2));
        assert_eq!(switch.forward(a.at, &for_c, now), None);
        let for_b = initiation(&mut a.tunnel_to(&b, 3));
        assert_eq!(switch.forward(c.at, &for_b, now), None);
        assert_eq!(switch.forward(a.at, &for_b, now), Some(b.at));
    }

    #[test]
    fn a_member_that_moved_is_heard_where_it_is_now() {
        let (a, b, now) = (Member::new(1), Member::new(2), Instant::now());
        let mut switch = Switch::default();
        switch.open(a.leg(), b.leg(), now);
        switch.forward(a.at, &initiation(&mut a.tunnel_to(&b, 1)), now);
        let moved = SocketAddr::from(([198, 51, 100, 7], 7));
        assert_eq!(switch.forward(moved, &initiation(&mut a.tunnel_to(&b, 2)), now), None);
        switch.open((a.key(), moved.ip()), b.leg(), now);
        switch.forward(moved, &initiation(&mut a.tunnel_to(&b, 3)), now);
        assert_eq!(switch.forward(b.at, &initiation(&mut b.tunnel_to(&a, 4)), now), Some(moved));
        assert!(!switch.speakers.contains_key(&a.at) || switch.speakers[&a.at].is_empty());
    }

    #[test]
    fn quiet_pairs_are_closed_and_their_number_is_bounded() {
        let now = Instant::now();
        let mut switch = Switch::default();
        let key = |number: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_le_bytes());
            (key, IpAddr::from([192, 0, 2, 1]))
        };
        for number in 0..=MAX_PAIRS as u32 {
            switch.open(key(number), key(u32::MAX), now);
        }
        assert_eq!(switch.len(), MAX_PAIRS);
        switch.open(key(1), key(2), now + IDLE + Duration::from_secs(1));
        assert_eq!(switch.len(), 1);
        switch.open(key(1), key(3), now + IDLE + Duration::from_secs(1));
        switch.retain(&HashSet::from([key(1).0, key(2).0]));
        assert_eq!(switch.len(), 1, "whose member is gone");
        let (one, two) = (key(1).0, key(2).0);
        switch.close(Pair::new(two, one).unwrap());
        assert!(switch.is_empty() && Pair::new(one, one).is_none());
    }
}
