//! Echoes of a certain size to another member's own address: its kernel answers, whatever its agent does.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use crate::sys::icmp::{self, ECHO_BYTES, IP_HEADER_BYTES};

/// How often one is repeated before it counts as unanswered, and how long each is waited for.
const TRIES: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(500);
/// How exactly the largest packet is told, in bytes.
const GRAIN: u32 = 4;
/// Every path takes as much (RFC 791), in bytes.
const LEAST: u32 = 68;

/// Asks one member.
pub(super) struct Echo {
    socket: UdpSocket,
    peer: Ipv4Addr,
}

impl Echo {
    /// From the capsule's own address in the fabric.
    pub(super) fn to(own: Ipv4Addr, peer: Ipv4Addr) -> io::Result<Self> {
        let socket = icmp::open(own)?;
        icmp::never_fragment(&socket)?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, peer })
    }

    /// Whether a packet of so many bytes, its IP header included, is answered by one of as many; how
    /// long that took.
    pub(super) async fn ask(&self, bytes: u32) -> Option<Duration> {
        for _ in 0..TRIES {
            if let Some(taken) = self.once(bytes).await {
                return Some(taken);
            }
        }
        None
    }

    /// The largest packet below `unanswered` that is answered.
    pub(super) async fn largest(&self, unanswered: u32) -> u32 {
        let (mut passes, mut fails) = (LEAST, unanswered);
        while fails - passes > GRAIN {
            let middle = passes.midpoint(fails);
            match self.ask(middle).await {
                Some(_) => passes = middle,
                None => fails = middle,
            }
        }
        passes
    }

    async fn once(&self, bytes: u32) -> Option<Duration> {
        let (number, sent) = (rand::random(), Instant::now());
        let length = (bytes as usize).saturating_sub(IP_HEADER_BYTES).max(ECHO_BYTES);
        let to = SocketAddr::V4(SocketAddrV4::new(self.peer, 0));
        let work = async {
            self.socket.send_to(&icmp::echo(number, length), to).await.ok()?;
            let mut buffer = vec![0; IP_HEADER_BYTES + ECHO_BYTES];
            loop {
                let (length, from) = self.socket.recv_from(&mut buffer).await.ok()?;
                if from.ip() == self.peer && icmp::number_of(&buffer[..length]) == Some(number) {
                    return Some(sent.elapsed());
                }
            }
        };
        timeout_at(sent + PATIENCE, work).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{ip, story};

    #[test]
    fn root_the_largest_packet_that_is_answered_is_found() {
        story(async || {
            ip("link set lo mtu 1300");
            let echo = Echo::to([127, 50, 0, 1].into(), [127, 50, 0, 2].into()).unwrap();
            assert!(echo.ask(1300).await.is_some());
            assert!(echo.ask(1301).await.is_none());
            assert!((1300 - GRAIN..=1300).contains(&echo.largest(1420).await));
        });
    }
}
