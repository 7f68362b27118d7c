//! The one thread: waits for the TUN, the sockets, the API and the clock, and serves whichever is
//! ready.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::Instant,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{
    from_tun::FromTun,
    inbound::Inbound,
    outbound::Outbound,
    state::State,
    timers::{self, TICK},
    tun::Tun,
    uapi::{Server, socket::Socket},
};

const STOP: u64 = 0;
const TUN: u64 = 1;
/// The sockets' tokens: this one and those after it.
const UDP: u64 = 2;
/// Tokens from here on are the API's.
const API: u64 = 16;
/// Events taken in one call.
const EVENTS: usize = 32;

/// Everything that runs.
pub struct Engine {
    epoll: Epoll,
    tun: Tun,
    state: State,
    server: Server,
    inbound: Inbound,
    outbound: Outbound,
    from_tun: FromTun,
    next_tick: Instant,
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Next,
    End,
}

impl Engine {
    /// Puts the parts together.
    pub fn new(tun: Tun, state: State, socket: Socket) -> io::Result<Self> {
        let offloads = tun.offloads();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(tun.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TUN))?;
        let server = Server::start(socket, &epoll, API)?;
        let engine = Self {
            epoll,
            tun,
            state,
            server,
            inbound: Inbound::new(offloads),
            outbound: Outbound::new(offloads.udp_gso),
            from_tun: FromTun::new(),
            next_tick: Instant::now() + TICK,
        };
        engine.watch_sockets()?;
        Ok(engine)
    }

    /// Runs until `stop` can be read, the API's socket is removed or the TUN is gone.
    pub fn run(mut self, stop: BorrowedFd<'_>) -> io::Result<()> {
        self.epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let wait = self.next_tick.saturating_duration_since(Instant::now());
            let wait = EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO);
            let count = match self.epoll.wait(&mut events, wait) {
                Err(nix::Error::EINTR) => 0,
                count => count?,
            };
            for event in &events[..count] {
                if self.serve(event.data())? == Turn::End {
                    return Ok(());
                }
            }
            if Instant::now() >= self.next_tick && self.tick() == Turn::End {
                return Ok(());
            }
        }
    }

    fn serve(&mut self, token: u64) -> io::Result<Turn> {
        let State { sockets, peers, .. } = &mut self.state;
        match token {
            STOP => return Ok(Turn::End),
            TUN => {
                let taken = self.from_tun.take((&self.tun, sockets), peers, &mut self.outbound);
                if let Err(error) = taken {
                    tracing::info!(%error, "the interface is gone");
                    return Ok(Turn::End);
                }
            }
            API.. => {
                let rebound = self.state.rebound;
                self.server.serve(token, &self.epoll, &mut self.state);
                if self.state.rebound != rebound {
                    self.watch_sockets()?;
                }
            }
            socket => {
                if let Some(socket) = sockets.all().nth((socket - UDP) as usize) {
                    self.inbound.take(socket, (sockets, &self.tun), peers, &mut self.outbound);
                }
            }
        }
        Ok(Turn::Next)
    }

    fn tick(&mut self) -> Turn {
        self.next_tick = Instant::now() + TICK;
        timers::tick(&mut self.state.peers, &self.state.sockets, &mut self.outbound);
        self.server.tick();
        if !self.server.is_reachable() {
            tracing::info!("the API's socket was removed, which tells a device to end");
            return Turn::End;
        }
        Turn::Next
    }

    /// Those before them left the set when they were closed.
    fn watch_sockets(&self) -> io::Result<()> {
        for (token, socket) in (UDP..).zip(self.state.sockets.all()) {
            self.epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        }
        Ok(())
    }
}
