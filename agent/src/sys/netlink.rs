//! A blocking netlink socket: one request, one answer.
//!
//! It belongs to the network namespace of the thread that opened it, wherever it is used later.

use std::{
    fs::File,
    io,
    marker::PhantomData,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sched::{CloneFlags, setns};

/// Netlink messages are aligned to this many bytes.
const ALIGNMENT: usize = 4;

/// An open socket for messages of one type: rtnetlink's, unless another is named.
pub struct Netlink<M = RouteNetlinkMessage> {
    socket: Socket,
    sequence: u32,
    messages: PhantomData<M>,
}

impl Netlink {
    /// rtnetlink, in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Self::open_for(NETLINK_ROUTE)
    }
}

impl<M> Netlink<M>
where
    M: NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<M>: From<M>,
{
    /// For a protocol whose messages these are.
    pub fn open_for(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, messages: PhantomData })
    }

    /// Asks for a change and waits for the kernel's acknowledgement. `flags` beyond REQUEST and ACK.
    pub fn request(&mut self, message: M, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.collect().map(drop)
    }

    /// Asks for one object.
    pub fn get(&mut self, message: M) -> io::Result<Option<M>> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        Ok(self.collect()?.pop())
    }

    /// Asks for every object of a kind.
    pub fn dump(&mut self, message: M) -> io::Result<Vec<M>> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        self.collect()
    }

    fn send(&mut self, message: M, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        self.socket.send(&buffer, 0).map(drop)
    }

    /// Reads up to the end of the answer: an acknowledgement, an error or the end of a dump.
    fn collect(&self) -> io::Result<Vec<M>> {
        let mut found = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
                let length = (message.header.length as usize).next_multiple_of(ALIGNMENT).min(rest.len());
                rest = &rest[length.max(1)..];
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(found),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    _ => {}
                }
            }
        }
    }
}

/// The file that stands for the network namespace of a process.
pub fn netns_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// Runs `work` on a thread of its own inside a network namespace. No other thread ever leaves its
/// namespace.
pub fn in_netns<T: Send>(namespace: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let file = File::open(namespace)?;
    let enter = move || {
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, enter)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}
