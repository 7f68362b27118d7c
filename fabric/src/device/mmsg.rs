//! Many datagrams in one system call, each of which may be many of equal size: recvmmsg with
//! `UDP_GRO`, sendmmsg with `UDP_SEGMENT` (udp(7)).

#![allow(unsafe_code)]

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

/// Datagrams taken in one call.
pub const RECEIVE_BATCH: usize = 8;
/// Bytes that one of them may have; what the kernel puts together never exceeds it.
pub const RECEIVE_BYTES: usize = 1 << 16;
/// Datagrams sent in one call.
const SEND_BATCH: usize = 16;
/// Room for a segment size and an address of either family.
const CONTROL_BYTES: usize = 128;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

/// Where datagrams are received into; used again for each call.
pub struct Incoming {
    bytes: Box<[u8]>,
    names: Box<[libc::sockaddr_storage; RECEIVE_BATCH]>,
    /// Boxed, because `headers` points to it from a call on.
    controls: Box<[Control; RECEIVE_BATCH]>,
    headers: [libc::mmsghdr; RECEIVE_BATCH],
}

/// Datagrams of one sender, of `segment` bytes each, the last of which may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Who sent them.
    pub from: SocketAddr,
    /// To which address of ours.
    pub to: Option<IpAddr>,
    /// Size of each.
    pub segment: usize,
    /// All of them.
    pub bytes: &'a [u8],
}

/// Datagrams to one receiver, of `segment` bytes each, the last of which may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Who receives them.
    pub to: SocketAddr,
    /// From which address of ours; the route's choice where there is none.
    pub from: Option<IpAddr>,
    /// Size of each.
    pub segment: usize,
    /// All of them.
    pub bytes: &'a [u8],
}

impl Incoming {
    /// Memory for one batch.
    pub fn new() -> Self {
        // SAFETY: these are plain C structures of integers and pointers; all zeros is a value of each.
        let (names, headers) = unsafe { (Box::new(mem::zeroed()), mem::zeroed()) };
        Self {
            bytes: vec![0; RECEIVE_BATCH * RECEIVE_BYTES].into_boxed_slice(),
            names,
            controls: Box::new([Control([0; CONTROL_BYTES]); RECEIVE_BATCH]),
            headers,
        }
    }

    /// Takes what has arrived; how many entries [`Incoming::get`] has. Zero where nothing has.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; RECEIVE_BATCH];
        for (at, chunk) in self.bytes.chunks_exact_mut(RECEIVE_BYTES).enumerate() {
            vectors[at] = libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() };
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = (&raw mut self.names[at]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[at];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[at].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES;
            header.msg_flags = 0;
        }
        // SAFETY: each header points to a name, a vector and a control buffer of the sizes it
        // gives, all of which outlive the call; nothing else borrows them.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                RECEIVE_BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        if received >= 0 {
            return Ok(received as usize);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            error => Err(error),
        }
    }

    /// One entry of the batch received last; `None` where it is not usable.
    pub fn get(&self, at: usize) -> Option<Received<'_>> {
        let header = &self.headers[at];
        let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
        let from = address(&self.names[at]).filter(|_| whole)?;
        let start = at * RECEIVE_BYTES;
        let bytes = &self.bytes[start..start + header.msg_len as usize];
        let (segment, to) = control_of(&header.msg_hdr);
        Some(Received { from, to, segment: segment.unwrap_or(bytes.len()).max(1), bytes })
    }
}

/// Sends what one call takes; how many entries went. An error is that of the first entry.
pub fn send(socket: BorrowedFd<'_>, entries: &[Outgoing<'_>]) -> io::Result<usize> {
    let count = entries.len().min(SEND_BATCH);
    // SAFETY: as in `Incoming::new`.
    let mut headers: [libc::mmsghdr; SEND_BATCH] = unsafe { mem::zeroed() };
    let mut names: [libc::sockaddr_storage; SEND_BATCH] = unsafe { mem::zeroed() };
    let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; SEND_BATCH];
    let mut controls = [Control([0; CONTROL_BYTES]); SEND_BATCH];
    for (at, entry) in entries[..count].iter().enumerate() {
        // The kernel only reads through this pointer.
        vectors[at] =
            libc::iovec { iov_base: entry.bytes.as_ptr().cast_mut().cast(), iov_len: entry.bytes.len() };
        let header = &mut headers[at].msg_hdr;
        header.msg_name = (&raw mut names[at]).cast();
        header.msg_namelen = put_address(entry.to, &mut names[at]);
        header.msg_iov = &raw mut vectors[at];
        header.msg_iovlen = 1;
        header.msg_control = controls[at].0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES;
        header.msg_controllen = put_control(entry, header);
    }
    // SAFETY: each header points to a name, a vector and a control buffer of the sizes it gives,
    // all of which outlive the call.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Segment size and local address, as far as the kernel told.
fn control_of(header: &libc::msghdr) -> (Option<usize>, Option<IpAddr>) {
    let (mut segment, mut to) = (None, None);
    // SAFETY: the kernel filled the control buffer and set its length; the macros stay within it,
    // and each payload is read, unaligned, with the type that its level and type stand for.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    segment = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    to = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    (segment, to)
}

/// Fills the control buffer; how much of it is used.
fn put_control(entry: &Outgoing<'_>, header: &libc::msghdr) -> usize {
    let mut used = 0;
    // SAFETY: the buffer is aligned for cmsghdr, zeroed and larger than both messages together, so
    // the macros stay within it; payloads are written unaligned.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        let mut put = |level, kind, size: usize, write: &dyn Fn(*mut u8)| {
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = libc::CMSG_LEN(size as libc::c_uint) as usize;
            write(libc::CMSG_DATA(message));
            used += libc::CMSG_SPACE(size as libc::c_uint) as usize;
            message = libc::CMSG_NXTHDR(header, message);
        };
        if entry.segment < entry.bytes.len() {
            let size = entry.segment as u16;
            put(libc::SOL_UDP, libc::UDP_SEGMENT, size_of::<u16>(), &|to| {
                to.cast::<u16>().write_unaligned(size);
            });
        }
        match entry.from {
            Some(IpAddr::V4(address)) => {
                let mut info: libc::in_pktinfo = mem::zeroed();
                info.ipi_spec_dst.s_addr = u32::from(address).to_be();
                put(libc::IPPROTO_IP, libc::IP_PKTINFO, size_of_val(&info), &|to| {
                    to.cast::<libc::in_pktinfo>().write_unaligned(info);
                });
            }
            Some(IpAddr::V6(address)) => {
                let mut info: libc::in6_pktinfo = mem::zeroed();
                info.ipi6_addr.s6_addr = address.octets();
                put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of_val(&info), &|to| {
                    to.cast::<libc::in6_pktinfo>().write_unaligned(info);
                });
            }
            None => {}
        }
    }
    used
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what the storage holds, and it is large and aligned enough.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(name.sin6_port), 0, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn put_address(address: SocketAddr, name: &mut libc::sockaddr_storage) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: the storage is zeroed and large and aligned enough for every family.
            let name = unsafe { &mut *ptr::from_mut(name).cast::<libc::sockaddr_in>() };
            name.sin_family = libc::AF_INET as libc::sa_family_t;
            name.sin_port = address.port().to_be();
            name.sin_addr.s_addr = u32::from(*address.ip()).to_be();
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            // SAFETY: as above.
            let name = unsafe { &mut *ptr::from_mut(name).cast::<libc::sockaddr_in6>() };
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = address.port().to_be();
            name.sin6_addr.s6_addr = address.ip().octets();
            name.sin6_scope_id = address.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}
