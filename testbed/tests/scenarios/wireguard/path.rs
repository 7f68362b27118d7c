//! A bad path: datagrams are lost, doubled and overtaken.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use testbed::wireguard::Node;

/// One in so many is lost, …
const LOSE: u32 = 67;
/// … comes twice, …
const DOUBLE: u32 = 41;
/// … or waits until the next has passed.
const SWAP: u32 = 13;
/// After which a waiting one goes on without a next.
const PATIENCE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Harm {
    lost: AtomicU32,
    swapped: AtomicU32,
    doubled: AtomicU32,
}

/// Forwards between whoever sends to it and one target.
pub struct Path {
    address: SocketAddr,
    harm: Arc<Harm>,
    ended: Arc<AtomicBool>,
}

impl Path {
    /// Starts it beside the target.
    pub fn start(beside: &Node, target: SocketAddr) -> Result<Self> {
        let bind = move || UdpSocket::bind((target.ip(), 0));
        let (near, far) = (beside.within(bind)??, beside.within(bind)??);
        let (harm, ended) = (Arc::<Harm>::default(), Arc::<AtomicBool>::default());
        let address = near.local_addr()?;
        far.connect(target).context("the target cannot be reached")?;
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        let first = Arc::new(std::sync::OnceLock::new());
        let ways = [(near.try_clone()?, far.try_clone()?, true), (far, near, false)];
        for (from, to, outward) in ways {
            let (harm, ended, first) = (harm.clone(), ended.clone(), first.clone());
            thread::spawn(move || {
                let send = |datagram: &[u8]| {
                    let _ = match first.get() {
                        Some(client) if !outward => to.send_to(datagram, client),
                        _ if outward => to.send(datagram),
                        _ => Ok(0),
                    };
                };
                forward(&from, &harm, &ended, send, |client| {
                    if outward {
                        let _ = first.set(client);
                    }
                });
            });
        }
        Ok(Self { address, harm, ended })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many it has lost, swapped and doubled.
    pub fn harm(&self) -> (u32, u32, u32) {
        let of = |count: &AtomicU32| count.load(Ordering::Relaxed);
        (of(&self.harm.lost), of(&self.harm.swapped), of(&self.harm.doubled))
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn forward(
    from: &UdpSocket,
    harm: &Harm,
    ended: &AtomicBool,
    send: impl Fn(&[u8]),
    seen: impl Fn(SocketAddr),
) {
    let (mut room, mut waiting, mut count) = (vec![0; 65_536], None::<Vec<u8>>, 0_u32);
    let done = |counter: &AtomicU32| counter.fetch_add(1, Ordering::Relaxed);
    while !ended.load(Ordering::Relaxed) {
        let Ok((bytes, client)) = from.recv_from(&mut room) else {
            waiting.take().inspect(|datagram| send(datagram));
            continue;
        };
        seen(client);
        count += 1;
        let datagram = &room[..bytes];
        if count % LOSE == 0 {
            done(&harm.lost);
            continue;
        }
        if count % SWAP == 0 && waiting.is_none() {
            waiting = Some(datagram.to_vec());
            continue;
        }
        send(datagram);
        if count % DOUBLE == 0 {
            done(&harm.doubled);
            send(datagram);
        }
        if let Some(datagram) = waiting.take() {
            done(&harm.swapped);
            send(&datagram);
        }
    }
}
