//! Asks peers over the fabric whether they are there: one datagram out, the same one back.
//!
//! It measures what a path is worth (round trip, loss) and tells within seconds that one is dead.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

/// UDP port of the members' own addresses.
const PORT: u16 = 50002;
/// Kind and number.
const DATAGRAM_BYTES: usize = 9;
const ASK: u8 = 1;
const ANSWER: u8 = 2;
/// Outcomes that loss is told of.
const WINDOW: usize = 30;
/// An answer that comes later counts as lost.
const LATE: Duration = Duration::from_secs(2);
/// Weight of a new round trip in their mean: 1/8, as TCP does (RFC 6298).
const SMOOTHING: f64 = 8.0;

/// What probes found of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Smoothed; absent before the first answer.
    pub rtt: Option<Duration>,
    /// Probes that loss is told of: the last ones, up to 30.
    pub asked: u32,
    /// How many of them got no answer.
    pub lost: u32,
}

/// A peer answered a probe that was sent at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) by: Ipv4Addr,
    pub(super) sent: Instant,
}

#[derive(Default)]
struct Peer {
    waiting: VecDeque<(u64, Instant)>,
    outcomes: VecDeque<bool>,
    rtt: Option<f64>,
}

impl Peer {
    fn note(&mut self, answered: bool) {
        if self.outcomes.len() >= WINDOW {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(answered);
    }

    fn expire(&mut self, now: Instant) {
        while self.waiting.front().is_some_and(|(_, sent)| now.duration_since(*sent) > LATE) {
            self.waiting.pop_front();
            self.note(false);
        }
    }

    fn answered(&mut self, number: u64, now: Instant) -> Option<Instant> {
        let at = self.waiting.iter().position(|(asked, _)| *asked == number)?;
        let (_, sent) = self.waiting.remove(at)?;
        self.note(true);
        let taken = now.duration_since(sent).as_secs_f64();
        self.rtt = Some(self.rtt.map_or(taken, |rtt| rtt + (taken - rtt) / SMOOTHING));
        Some(sent)
    }

    fn quality(&self) -> Quality {
        let lost = self.outcomes.iter().filter(|answered| !**answered).count();
        Quality {
            rtt: self.rtt.map(Duration::from_secs_f64),
            asked: self.outcomes.len() as u32,
            lost: lost as u32,
        }
    }
}

#[derive(Default)]
struct Books {
    next: u64,
    peers: HashMap<Ipv4Addr, Peer>,
}

/// Sends probes and answers those of others.
pub(super) struct Prober {
    socket: Arc<UdpSocket>,
    books: Arc<Mutex<Books>>,
}

impl Prober {
    /// Probes from the capsule's own fabric address; one of `tasks` hears the answers.
    pub(super) async fn start(
        own: Ipv4Addr,
        answered: mpsc::Sender<Answered>,
        tasks: &mut JoinSet<()>,
    ) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::bind((own, PORT)).await?);
        let books = Arc::new(Mutex::new(Books::default()));
        tasks.spawn(read(socket.clone(), books.clone(), answered));
        Ok(Self { socket, books })
    }

    /// Only these are asked and answered.
    pub(super) fn set_peers(&self, addresses: &[Ipv4Addr]) {
        let mut books = lock(&self.books);
        books.peers.retain(|address, _| addresses.contains(address));
        for address in addresses {
            books.peers.entry(*address).or_default();
        }
    }

    /// Sends one probe; a datagram that cannot be sent is one that gets no answer.
    pub(super) async fn ask(&self, peer: Ipv4Addr) {
        let datagram = {
            let mut books = lock(&self.books);
            books.next += 1;
            let (number, now) = (books.next, Instant::now());
            let Some(known) = books.peers.get_mut(&peer) else { return };
            known.expire(now);
            known.waiting.push_back((number, now));
            datagram(ASK, number)
        };
        let _ = self.socket.send_to(&datagram, (peer, PORT)).await;
    }

    /// What is known of a peer.
    pub(super) fn quality(&self, peer: Ipv4Addr) -> Quality {
        lock(&self.books).peers.get(&peer).map(Peer::quality).unwrap_or_default()
    }
}

fn lock(books: &Mutex<Books>) -> std::sync::MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

fn datagram(kind: u8, number: u64) -> [u8; DATAGRAM_BYTES] {
    let mut datagram = [kind; DATAGRAM_BYTES];
    datagram[1..].copy_from_slice(&number.to_be_bytes());
    datagram
}

async fn read(socket: Arc<UdpSocket>, books: Arc<Mutex<Books>>, answered: mpsc::Sender<Answered>) {
    let mut buffer = [0; 64];
    loop {
        // An ICMP error to an earlier probe; the next datagram is read all the same.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let SocketAddr::V4(from) = from else { continue };
        let Some((kind, number)) = parse(&buffer[..length]) else { continue };
        let now = Instant::now();
        let sent = match lock(&books).peers.get_mut(from.ip()) {
            Some(_) if kind == ASK => None,
            Some(peer) => peer.answered(number, now),
            None => continue,
        };
        match sent {
            Some(sent) => drop(answered.try_send(Answered { by: *from.ip(), sent })),
            None if kind == ASK => drop(
                socket.send_to(&datagram(ANSWER, number), SocketAddrV4::new(*from.ip(), from.port())).await,
            ),
            None => {}
        }
    }
}

fn parse(datagram: &[u8]) -> Option<(u8, u64)> {
    let (kind, number) = datagram.split_first()?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    (*kind == ASK || *kind == ANSWER).then_some((*kind, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_smoothed_and_late_answers_are_losses() {
        let (mut peer, start) = (Peer::default(), Instant::now());
        let ms = Duration::from_millis;
        for number in 0..4 {
            peer.waiting.push_back((number, start));
        }
        assert_eq!(peer.answered(0, start + ms(8)), Some(start));
        assert_eq!(peer.answered(0, start + ms(9)), None, "an answer counts once");
        peer.answered(1, start + ms(16));
        assert_eq!(peer.quality().rtt.unwrap().as_millis(), 9);
        peer.expire(start + LATE + ms(1));
        assert_eq!((peer.quality().asked, peer.quality().lost), (4, 2));
        for _ in 0..WINDOW {
            peer.note(true);
        }
        assert_eq!((peer.quality().asked, peer.quality().lost), (WINDOW as u32, 0));
    }

    #[tokio::test]
    async fn peers_answer_each_other_and_nobody_else() {
        let (one, two, three) = ([127, 50, 0, 1].into(), [127, 50, 0, 2].into(), [127, 50, 0, 3].into());
        let (heard, mut answers) = mpsc::channel(8);
        let (deaf, _none) = mpsc::channel(8);
        let mut tasks = JoinSet::new();
        let asker = Prober::start(one, heard, &mut tasks).await.unwrap();
        let answerer = Prober::start(two, deaf.clone(), &mut tasks).await.unwrap();
        let stranger = Prober::start(three, deaf, &mut tasks).await.unwrap();
        asker.set_peers(&[two, three]);
        answerer.set_peers(&[one]);
        stranger.set_peers(&[two]);
        asker.ask(three).await;
        asker.ask(two).await;
        assert_eq!(answers.recv().await.unwrap().by, two);
        assert!(asker.quality(two).rtt.is_some() && asker.quality(three).rtt.is_none());
    }
}
