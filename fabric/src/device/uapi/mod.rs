//! The standard userspace API: a socket that `wg` and every WireGuard library know.
//!
//! - [`socket`]: whose name it is; one device per name;
//! - [`connection`]: one client; [`request`]: what it may ask;
//! - [`Server`]: all clients, bounded, served by the engine's thread.

pub mod connection;
pub mod request;
pub mod socket;
#[cfg(test)]
mod tests;

use std::{io, os::fd::AsFd as _, time::Duration};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use zeroize::Zeroizing;

use self::{
    connection::{Connection, Next},
    request::Change,
    socket::Socket,
};

/// Clients at a time; another one takes the place of the one that was idle longest.
const CLIENTS: usize = 16;
/// A client that says nothing for this long is not waited for.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// A number of errno(3), positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// All went well.
    pub const NONE: Self = Self(0);
    /// Not as the interface is described.
    pub const INVALID: Self = Self(libc::EINVAL);
    /// More than anybody needs.
    pub const TOO_MUCH: Self = Self(libc::E2BIG);
    /// A version of the protocol that is not ours.
    pub const PROTOCOL: Self = Self(libc::EPROTONOSUPPORT);
}

/// What is configured.
pub trait Target {
    /// All of it, as the answer to `get` says it, without the errno.
    fn show(&self) -> Zeroizing<Vec<u8>>;
    /// Does all of a change, or nothing.
    fn change(&mut self, change: Change) -> Result<(), Errno>;
}

/// The socket and its clients.
pub struct Server {
    socket: Socket,
    clients: [Option<Connection>; CLIENTS],
    token: u64,
}

impl Server {
    /// Serves `socket`; its events carry tokens from `token` on.
    pub fn start(socket: Socket, epoll: &Epoll, token: u64) -> io::Result<Self> {
        epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        Ok(Self { socket, clients: Default::default(), token })
    }

    /// Whether people can still find it: a socket that was removed tells the device to end.
    pub fn is_reachable(&self) -> bool {
        self.socket.is_in_place()
    }

    /// Handles an event of one of its tokens.
    pub fn serve(&mut self, token: u64, epoll: &Epoll, target: &mut impl Target) {
        match (token - self.token).checked_sub(1) {
            None => self.accept(epoll),
            Some(at) => self.proceed(at as usize, epoll, target),
        }
    }

    /// Closes clients that went silent.
    pub fn tick(&mut self) {
        for client in &mut self.clients {
            if client.as_ref().is_some_and(|client| client.active.elapsed() > IDLE_LIMIT) {
                *client = None;
            }
        }
    }

    fn accept(&mut self, epoll: &Epoll) {
        let Some(client) = self.socket.accept().and_then(|stream| Connection::new(stream).ok()) else {
            return;
        };
        // An empty place comes before every other.
        let idle = |at: &usize| self.clients[*at].as_ref().map(|client| client.active);
        let at = (0..CLIENTS).min_by_key(idle).unwrap_or_default();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.token + 1 + at as u64);
        if epoll.add(client.as_fd(), event).is_ok() {
            self.clients[at] = Some(client);
        }
    }

    fn proceed(&mut self, at: usize, epoll: &Epoll, target: &mut impl Target) {
        let Some(slot) = self.clients.get_mut(at) else { return };
        let Some(client) = slot else { return };
        let wait = match client.proceed(target) {
            Next::Close => {
                *slot = None;
                return;
            }
            Next::Read => EpollFlags::EPOLLIN,
            Next::Write => EpollFlags::EPOLLOUT,
        };
        let mut event = EpollEvent::new(wait, self.token + 1 + at as u64);
        if epoll.modify(client.as_fd(), &mut event).is_err() {
            *slot = None;
        }
    }
}
