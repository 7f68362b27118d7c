//! The two UDP sockets, one of each family, on one port.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, bind, getsockname,
    setsockopt, socket, sockopt,
};

use super::Offloads;

/// What a burst of arriving or leaving datagrams may take; memory of the kernel, used only then.
const BUFFER_BYTES: usize = 4 << 20;
/// Tries to find a port that is free in both families.
const PORT_TRIES: usize = 16;

/// Bound sockets. IPv6 is missing where the kernel has none.
#[derive(Debug)]
pub struct Sockets {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
    port: u16,
}

impl Sockets {
    /// Binds `port`, any that is free where it is 0.
    pub fn bind(port: u16, fwmark: u32, offloads: Offloads) -> io::Result<Self> {
        let mut tries = if port == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match Self::bind_both(port, fwmark, offloads) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                bound => return bound,
            }
        }
    }

    fn bind_both(port: u16, fwmark: u32, offloads: Offloads) -> io::Result<Self> {
        let v4 = open(AddressFamily::Inet, offloads)?;
        bind(raw(&v4), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
        let port = getsockname::<SockaddrStorage>(raw(&v4))?.as_sockaddr_in().map_or(0, SockaddrIn::port);
        let v6 = match open(AddressFamily::Inet6, offloads) {
            Ok(v6) => {
                setsockopt(&v6, sockopt::Ipv6V6Only, &true)?;
                let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
                match bind(raw(&v6), &SockaddrIn6::from(any)) {
                    Ok(()) => Some(v6),
                    // Compiled in, but turned off.
                    Err(nix::Error::EADDRNOTAVAIL) => None,
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        let sockets = Self { v4, v6, port };
        if fwmark != 0 {
            sockets.set_fwmark(fwmark)?;
        }
        Ok(sockets)
    }

    /// Marks what is sent from now on, for routing rules.
    pub fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        for socket in self.all() {
            setsockopt(&socket, sockopt::Mark, &mark)?;
        }
        Ok(())
    }

    /// The port of both.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket that reaches `to`.
    pub fn towards(&self, to: SocketAddr) -> Option<BorrowedFd<'_>> {
        match to {
            SocketAddr::V4(_) => Some(self.v4.as_fd()),
            SocketAddr::V6(_) => self.v6.as_ref().map(OwnedFd::as_fd),
        }
    }

    /// Each of them.
    pub fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.v4.as_fd()).chain(self.v6.as_ref().map(OwnedFd::as_fd))
    }
}

fn open(family: AddressFamily, offloads: Offloads) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Datagram, flags, None)?;
    // Beyond the limit that the system sets for everybody, where we are allowed to; else up to it.
    if setsockopt(&fd, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
        let _ = setsockopt(&fd, sockopt::RcvBuf, &BUFFER_BYTES);
    }
    if setsockopt(&fd, sockopt::SndBufForce, &BUFFER_BYTES).is_err() {
        let _ = setsockopt(&fd, sockopt::SndBuf, &BUFFER_BYTES);
    }
    if offloads.udp_gro {
        // Refused by kernels before 5.0: then each datagram comes alone.
        let _ = setsockopt(&fd, sockopt::UdpGroSegment, &true);
    }
    // Which of our addresses a peer sent to, so that answers leave from it.
    match family {
        AddressFamily::Inet6 => setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?,
        _ => setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?,
    }
    Ok(fd)
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}
