//! What leaves over UDP: datagrams in one buffer, those of equal size to one peer behind each
//! other, so that the kernel takes them as one and cuts them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, poll};

use super::{
    mmsg::{self, Outgoing},
    peers::{Peer, PeerId, Peers},
    udp::Sockets,
};

/// A whole super-packet, sealed, and one more.
const BUFFER_BYTES: usize = 192 << 10;
/// What a message may add to a packet, and the least that the protocol wants as room.
const MESSAGE_ROOM: usize = 160;
/// The kernel's bounds of what is cut: the number of parts …
const RUN_PARTS: usize = 64;
/// … and all of their bytes, with either family's headers.
const RUN_BYTES: usize = 65_487;
/// How long a full send buffer is waited for before what does not fit is dropped, milliseconds.
const FULL_WAIT: Duration = Duration::from_millis(5);

/// Where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub to: SocketAddr,
    /// Which of ours it sends to.
    pub from: Option<IpAddr>,
}

/// Datagrams of equal size, the last excepted, to one place.
struct Run {
    endpoint: Endpoint,
    peer: Option<PeerId>,
    start: usize,
    bytes: usize,
    segment: usize,
    /// Its last one was shorter, or no other may follow.
    closed: bool,
}

/// The buffer, filled and flushed over and over.
pub struct Outbound {
    buffer: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
    segments: bool,
}

impl Outbound {
    /// An empty one, which leaves the cutting to the kernel or does not.
    pub fn new(segments: bool) -> Self {
        Self { buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), used: 0, runs: Vec::new(), segments }
    }

    /// Whether a message of a packet of `bytes` still fits.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.buffer.len() - self.used >= bytes + MESSAGE_ROOM
    }

    /// Bytes that wait for [`Outbound::flush`].
    pub fn waiting(&self) -> usize {
        self.used
    }

    /// Where the next message is written, before [`Outbound::push`].
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..]
    }

    /// Takes the message of `bytes` that was just written to [`Outbound::room`], for a peer. It is
    /// dropped where nobody knows its address.
    pub fn push(&mut self, id: PeerId, peer: &mut Peer, bytes: usize) {
        let Some(endpoint) = peer.endpoint else { return };
        peer.sent_bytes += bytes as u64;
        self.push_to(endpoint, Some(id), bytes, self.segments && peer.takes_segments);
    }

    /// The same for somebody who is no peer.
    pub fn push_stranger(&mut self, endpoint: Endpoint, bytes: usize) {
        self.push_to(endpoint, None, bytes, false);
    }

    /// What waits, each datagram alone.
    #[cfg(test)]
    pub fn drain(&mut self) -> Vec<Vec<u8>> {
        let whole = |run: &Run| self.buffer[run.start..run.start + run.bytes].chunks(run.segment);
        let datagrams = self.runs.iter().flat_map(whole).map(<[u8]>::to_vec).collect();
        self.runs.clear();
        self.used = 0;
        datagrams
    }

    fn push_to(&mut self, endpoint: Endpoint, peer: Option<PeerId>, bytes: usize, segments: bool) {
        let start = self.used;
        self.used += bytes;
        if let Some(run) = self.runs.last_mut().filter(|run| {
            !run.closed
                && run.endpoint == endpoint
                && bytes <= run.segment
                && run.bytes + bytes <= RUN_BYTES
                && run.bytes / run.segment < RUN_PARTS
        }) {
            run.bytes += bytes;
            run.closed = bytes < run.segment;
            return;
        }
        self.runs.push(Run { endpoint, peer, start, bytes, segment: bytes, closed: !segments });
    }

    /// Sends all of it. What the network does not take is dropped, as a network may.
    pub fn flush(&mut self, sockets: &Sockets, peers: &mut Peers) {
        let mut rest = &self.runs[..];
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|run| run.endpoint.to.is_ipv4() == first.endpoint.to.is_ipv4());
            let count = same.count();
            if let Some(socket) = sockets.towards(first.endpoint.to) {
                send_runs(socket, &self.buffer, &rest[..count], peers);
            }
            rest = &rest[count..];
        }
        self.runs.clear();
        self.used = 0;
    }
}

fn send_runs(socket: BorrowedFd<'_>, buffer: &[u8], runs: &[Run], peers: &mut Peers) {
    let entries: Vec<Outgoing<'_>> = runs.iter().map(|run| run.outgoing(buffer)).collect();
    let mut at = 0;
    while at < entries.len() {
        match send(socket, &entries[at..]) {
            Ok(sent) => at += sent.max(1),
            Err(error) => {
                send_differently(socket, &entries[at], &runs[at], error, peers);
                at += 1;
            }
        }
    }
}

/// Sends, waiting a little where the socket is full.
fn send(socket: BorrowedFd<'_>, entries: &[Outgoing<'_>]) -> io::Result<usize> {
    match mmsg::send(socket, entries) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let mut wait = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            let _ = poll(&mut wait, FULL_WAIT.as_millis() as u16);
            mmsg::send(socket, entries)
        }
        sent => sent,
    }
}

/// After an error that may lie in how we sent, not in the way: from any address where the one
/// before is gone, and one by one where the kernel does not cut for this path.
fn send_differently(
    socket: BorrowedFd<'_>,
    entry: &Outgoing<'_>,
    run: &Run,
    mut error: io::Error,
    peers: &mut Peers,
) {
    let mut peer = run.peer.and_then(|peer| peers.get_mut(peer));
    if entry.from.is_some() {
        if let Some(endpoint) = peer.as_mut().and_then(|peer| peer.endpoint.as_mut()) {
            endpoint.from = None;
        }
        match send(socket, &[Outgoing { from: None, ..*entry }]) {
            Ok(_) => return,
            Err(again) => error = again,
        }
    }
    let uncut = matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE));
    if !uncut || entry.segment >= entry.bytes.len() {
        tracing::trace!(%error, to = %entry.to, "not sent");
        return;
    }
    if let Some(peer) = peer {
        tracing::debug!(%error, to = %entry.to, "datagrams are sent one by one from now on");
        peer.takes_segments = false;
    }
    for datagram in entry.bytes.chunks(entry.segment) {
        let single = Outgoing { from: None, segment: datagram.len(), bytes: datagram, ..*entry };
        if let Err(error) = send(socket, &[single]) {
            tracing::trace!(%error, to = %entry.to, "not sent");
        }
    }
}

impl Run {
    fn outgoing<'a>(&self, buffer: &'a [u8]) -> Outgoing<'a> {
        let Endpoint { to, from } = self.endpoint;
        Outgoing { to, from, segment: self.segment, bytes: &buffer[self.start..self.start + self.bytes] }
    }
}
