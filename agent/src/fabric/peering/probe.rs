//! Asks peers over the fabric whether they are there: ICMP echo to their own addresses.
//!
//! It measures what a path is worth (round trip, loss) and tells within seconds that one is dead. The
//! peer's kernel answers, not its agent: while an agent is away its paths are as good as before, and
//! nobody may leave them.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

use crate::sys::icmp;

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

struct Books {
    /// The first is random: answers to another prober of this host are none to this one.
    next: u64,
    peers: HashMap<Ipv4Addr, Peer>,
}

/// Sends probes and hears the answers.
pub(super) struct Prober {
    /// A raw one for ICMP, whose calls are those of a datagram socket.
    socket: Arc<UdpSocket>,
    books: Arc<Mutex<Books>>,
}

impl Prober {
    /// Probes from the capsule's own fabric address; one of `tasks` hears the answers.
    pub(super) fn start(
        own: Ipv4Addr,
        answered: mpsc::Sender<Answered>,
        tasks: &mut JoinSet<()>,
    ) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::from_std(icmp::open(own)?)?);
        let books = Arc::new(Mutex::new(Books { next: rand::random(), peers: HashMap::new() }));
        tasks.spawn(read(socket.clone(), books.clone(), answered));
        Ok(Self { socket, books })
    }

    /// Only these are asked and heard.
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
            books.next = books.next.wrapping_add(1);
            let (number, now) = (books.next, Instant::now());
            let Some(known) = books.peers.get_mut(&peer) else { return };
            known.expire(now);
            known.waiting.push_back((number, now));
            icmp::echo(number, icmp::ECHO_BYTES)
        };
        let _ = self.socket.send_to(&datagram, (peer, 0)).await;
    }

    /// What is known of a peer.
    pub(super) fn quality(&self, peer: Ipv4Addr) -> Quality {
        lock(&self.books).peers.get(&peer).map(Peer::quality).unwrap_or_default()
    }
}

fn lock(books: &Mutex<Books>) -> std::sync::MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(socket: Arc<UdpSocket>, books: Arc<Mutex<Books>>, answered: mpsc::Sender<Answered>) {
    let mut buffer = [0; 128];
    loop {
        // An error that an earlier probe met; the next answer is read all the same.
        let Ok((length, SocketAddr::V4(from))) = socket.recv_from(&mut buffer).await else { continue };
        let Some(number) = icmp::number_of(&buffer[..length]) else { continue };
        let now = Instant::now();
        let peer = |books: &mut Books| books.peers.get_mut(from.ip())?.answered(number, now);
        if let Some(sent) = peer(&mut lock(&books)) {
            // Who hears nothing for a while asks again.
            let _ = answered.try_send(Answered { by: *from.ip(), sent });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::story;

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

    #[test]
    fn root_who_is_there_answers_and_nobody_else() {
        story(async || {
            let (own, there, away) = ([127, 50, 0, 1].into(), [127, 50, 0, 2].into(), [192, 0, 2, 1].into());
            let mut tasks = JoinSet::new();
            let (heard, mut answers) = mpsc::channel(8);
            let asker = Prober::start(own, heard, &mut tasks).unwrap();
            asker.set_peers(&[there, away]);
            asker.ask(away).await;
            asker.ask(there).await;
            assert_eq!(answers.recv().await.unwrap().by, there);
            assert!(asker.quality(there).rtt.is_some() && asker.quality(away).rtt.is_none());
        });
    }
}
