//! The TUN interface. It lives as long as its descriptor: nobody makes it persistent.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

use super::{DeviceError, InterfaceName, Offloads, vnet::HEADER_BYTES};

const CLONE_DEVICE: &str = "/dev/net/tun";

/// An open TUN, and what its kernel agreed to.
#[derive(Debug)]
pub struct Tun {
    file: File,
    offloads: Offloads,
}

impl Tun {
    /// Makes the interface in the network namespace of the calling thread. What of `wanted` the
    /// kernel refuses is left off; [`Tun::offloads`] says what remains.
    pub fn create(name: &InterfaceName, mtu: u16, wanted: Offloads) -> Result<Self, DeviceError> {
        let failed = |what: &'static str| {
            move |source| DeviceError::Tun { name: name.clone(), attempt: what, hint: hint(&source), source }
        };
        let (file, vnet_header) = attach(name, wanted.vnet_header).map_err(failed("make"))?;
        let mut offloads = if vnet_header { wanted } else { wanted.without_vnet_header() };
        if vnet_header {
            (offloads.tso, offloads.uso) = ioctl::set_offloads(&file, wanted.tso, wanted.uso);
        }
        ioctl::set_mtu(name.as_c_str(), mtu).map_err(failed("set the MTU of"))?;
        Ok(Self { file, offloads })
    }

    /// What the kernel agreed to.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Reads a packet behind its header; `None` where there is none now. Without vnet headers the
    /// header is all zeros.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let skip = if self.offloads.vnet_header { 0 } else { HEADER_BYTES };
        buffer[..skip].fill(0);
        match (&self.file).read(&mut buffer[skip..]) {
            Ok(read) => Ok(Some(skip + read)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one packet given in parts, the first of which is the header.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let skip = usize::from(!self.offloads.vnet_header);
        (&self.file).write_vectored(&parts[skip..]).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// With vnet headers where that is wanted and possible.
fn attach(name: &InterfaceName, vnet_header: bool) -> io::Result<(File, bool)> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(CLONE_DEVICE)
    };
    if vnet_header {
        let file = open()?;
        match ioctl::attach(&file, name.as_c_str(), true) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            attached => return attached.map(|()| (file, true)),
        }
    }
    let file = open()?;
    ioctl::attach(&file, name.as_c_str(), false)?;
    Ok((file, false))
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; that takes root (CAP_NET_ADMIN)",
        Some(libc::EBUSY) => "; the name is taken, by another program or another link: see `ip link`",
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => "; this kernel has no TUN: load the module `tun`",
        _ => "",
    }
}

/// The requests of tun(4) and netdevice(7).
#[allow(unsafe_code)]
mod ioctl {
    use std::{ffi::CStr, fs::File, io, os::fd::AsRawFd as _};

    // linux/if_tun.h, which the C library's bindings do not carry whole.
    const TUN_F_CSUM: libc::c_ulong = 0x01;
    const TUN_F_TSO4: libc::c_ulong = 0x02;
    const TUN_F_TSO6: libc::c_ulong = 0x04;
    const TUN_F_USO4: libc::c_ulong = 0x20;
    const TUN_F_USO6: libc::c_ulong = 0x40;

    fn request(name: &CStr) -> libc::ifreq {
        // SAFETY: ifreq is plain integers and arrays; all zeros is a value of it.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
            *to = *from as libc::c_char;
        }
        request
    }

    fn checked(result: libc::c_int) -> io::Result<()> {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(super) fn attach(tun: &File, name: &CStr, vnet_header: bool) -> io::Result<()> {
        let mut request = request(name);
        let header = if vnet_header { libc::IFF_VNET_HDR } else { 0 };
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | header | libc::IFF_TUN_EXCL;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which lives across the call.
        checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
    }

    /// As much of it as the kernel takes.
    pub(super) fn set_offloads(tun: &File, tso: bool, uso: bool) -> (bool, bool) {
        let segments = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        let datagrams = TUN_F_USO4 | TUN_F_USO6;
        let try_flags = |flags: libc::c_ulong| {
            // SAFETY: TUNSETOFFLOAD takes an integer and touches no memory of ours.
            checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, flags) }).is_ok()
        };
        // USO exists only on top of TSO.
        if tso && uso && try_flags(segments | datagrams) {
            (true, true)
        } else if tso && try_flags(segments) {
            (true, false)
        } else {
            try_flags(0);
            (false, false)
        }
    }

    pub(super) fn set_mtu(name: &CStr, mtu: u16) -> io::Result<()> {
        let socket =
            std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("[::1]:0"));
        let socket = match socket {
            Ok(socket) => std::os::fd::OwnedFd::from(socket),
            // A namespace whose loopback is down has no address to bind to; any socket will do.
            Err(_) => std::os::unix::net::UnixDatagram::unbound()?.into(),
        };
        let mut request = request(name);
        request.ifr_ifru.ifru_mtu = mtu.into();
        // SAFETY: SIOCSIFMTU reads one ifreq, which lives across the call.
        checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &raw mut request) })
    }
}
